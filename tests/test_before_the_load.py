"""A run of several processes that has not begun: where it listens, and how it is stopped."""

from __future__ import annotations

import json
import re
import time

import pytest

from headroom import series
from headroom.running import Played
from tests.commands import deployment, start, told
from tests.servers import Server

STOPPED = "stopped by the file STOP before the load began; nothing was sent"


@pytest.mark.long
def test_a_master_listens_at_a_free_port_and_says_which_and_the_file_stop_ends_it_with_105_and_no_folder(tmp_path):
    with Server(deployment) as server:
        master = start(tmp_path, "run", "--target", server.url, "--master", "--bind", "127.0.0.1:0", "--out", "run")
        try:
            said = master.stderr.readline()
            assert re.search(r"headroom worker --connect HOST:[1-9]\d{3,4}", said), said
            (tmp_path / "run" / "STOP").touch()
            began = time.monotonic()
            _, rest = master.communicate(timeout=20)
        finally:
            master.kill()
    assert (master.returncode, rest) == (
        105,
        f"headroom: {STOPPED}\n",
    )
    assert time.monotonic() - began < 5
    assert not (tmp_path / "run").exists()
    assert server.calls == []


def ends_before_its_load(*_, **__):
    played = Played()
    played.exit_code, played.last_words = 105, STOPPED
    return played


@pytest.mark.parametrize(
    ("command", "record"),
    [
        pytest.param(["run", "--repeat", "2"], "set.json", id="repeat"),
        pytest.param(["sweep"], "sweep.json", id="sweep"),
    ],
)
def test_a_set_whose_first_run_is_stopped_before_its_load_ends_as_one_that_is_stopped_later(
    tmp_path, monkeypatch, command, record
):
    monkeypatch.setattr(series, "play", ends_before_its_load)
    with Server(deployment) as server:
        done = told(tmp_path, *command, "--target", server.url, "--kind", "managed", "--out", "set", "--quiet")
    assert (done.returncode, done.stdout) == (105, "set\n"), done.stderr
    written = json.loads((tmp_path / "set" / record).read_text())
    assert (written["state"], written["reason"]) == ("interrupted", STOPPED)


def played_so_far(folder):
    return json.loads((folder / "set.json").read_text())["runs"] if (folder / "set.json").exists() else []


@pytest.mark.long
def test_what_a_set_had_played_is_judged_where_the_file_stop_comes_before_the_next_load(tmp_path):
    load = ["--kind", "managed", "--rate", "20/s", "--duration", "3s", "--warmup", "0s", "--processes", "2"]
    folder, deadline = tmp_path / "set", time.monotonic() + 60
    with Server(deployment) as server:
        process = start(
            tmp_path, "run", "--target", server.url, *load, "--repeat", "2", "--out", "set", "--json", "gate.json"
        )
        try:
            while not played_so_far(folder) and time.monotonic() < deadline:
                time.sleep(0.005)
            (first,) = played_so_far(folder)  # the machine may have spoiled some before it
            second = folder / f"{int(first) + 1:02d}"
            while not (second / "manifest.json").exists() and time.monotonic() < deadline:
                time.sleep(0.005)
            (second / "STOP").touch()
            began = time.monotonic()
            stdout, stderr = process.communicate(timeout=60)
            ended_s = time.monotonic() - began
        finally:
            process.kill()
    assert process.returncode == 105, stderr
    assert STOPPED in stderr and "Traceback" not in stderr
    assert "runs     set" in stdout
    subjects = [judged["subject"] for judged in json.loads((tmp_path / "gate.json").read_text())["judgements"]]
    assert subjects == [f"set/{first}", "set"]
    assert played_so_far(folder) == [first] and not second.exists()
    assert ended_s < 15  # each process that had not called yet was waited for 15 s
