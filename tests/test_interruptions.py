"""A run that is stopped or killed keeps what it had recorded, and says so."""

import asyncio
import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from headroom import running, scheduling
from loadgen.config import RunConfig
from loadgen.errors import Interrupted
from loadgen.guards import STOP_FILE
from loadgen.samples import Run, create
from loadgen.schedule import Arrival
from loadgen.schedule_file import WRITTEN_AT_ONCE
from tests.commands import INTO_RUN, PLENTY, deployment, start, told, wait_for_rows
from tests.servers import Server

LONG = ["--duration", "60s", "--warmup", "0s", "--rate", "10/s", "--max-tokens", "20", *PLENTY]


class Silent(Server):
    async def _serve(self, reader, writer):
        self.connections += 1
        await asyncio.sleep(30)


async def never(call, writer):
    await asyncio.sleep(60)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Runs that would last a minute, started together: by name, the process, its folder and its server, if any."""
    runs = {
        "stopped": (None, [*LONG, "--out", "run"]),
        "load killed": (None, [*LONG, *INTO_RUN]),
        "command killed": (None, [*LONG, *INTO_RUN]),
        "stopped twice": (Server(never), [*LONG, *INTO_RUN]),
        "stopped early": (Silent(deployment), []),
    }
    started = {}
    with ExitStack() as servers:
        for name, (server, flags) in runs.items():
            cwd = tmp_path_factory.mktemp("begun")
            where = [] if server is None else ["--target", servers.enter_context(server).url]
            started[name] = start(cwd, "run", *where, *flags), cwd, server
        try:
            yield started
        finally:
            for process, *_ in started.values():
                process.kill()
                process.communicate()


def test_ctrl_c_before_anything_was_sent_leaves_nothing(begun):
    process, cwd, server = begun["stopped early"]
    deadline = time.monotonic() + 20
    while not server.connections and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 105 and "interrupted" in stderr and "Traceback" not in stderr
    assert not list(cwd.iterdir())


def test_ctrl_c_completes_the_partial_results(begun):
    process, cwd, _ = begun["stopped"]
    wait_for_rows(cwd / "run", 10)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 105, stderr
    run = Run.open(cwd / "run")
    assert (run.manifest.state, run.manifest.reason) == ("interrupted", "stopped by hand")
    assert run.manifest.totals["planned"] == run.manifest.totals["sent"] + run.manifest.totals["dropped"] >= 10
    assert (cwd / "run" / "report.html").exists()
    assert "interrupted" in stdout and "stopped by hand" in stdout


def test_ctrl_c_twice_does_not_wait_for_answers(begun):
    process, cwd, server = begun["stopped twice"]
    deadline = time.monotonic() + 20
    while len(server.calls) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    again = time.monotonic()
    process.communicate(timeout=30)
    assert process.returncode == 105
    assert time.monotonic() - again < 4
    assert Run.open(cwd / "run").samples.collect()["outcome"].unique().to_list() == ["cancelled"]


def children_of(pid):
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            status, line = (path / "status").read_text(), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if f"PPid:\t{pid}\n" in status:
            found[int(path.name)] = line
    return found


def test_a_killed_load_process_leaves_what_it_had_sent_and_says_so(begun):
    process, cwd, _ = begun["load killed"]
    wait_for_rows(cwd / "run", 10)
    load = next(pid for pid, line in children_of(process.pid).items() if "-m loadgen " in line)
    os.kill(load, signal.SIGKILL)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "the load process ended with -9; what was recorded until then is in run" in stderr
    run = Run.open(cwd / "run")
    assert run.manifest.state == "interrupted" and run.manifest.totals["planned"] >= 10


def test_a_killed_command_takes_its_processes_with_it_and_the_folder_opens(begun):
    process, cwd, _ = begun["command killed"]
    wait_for_rows(cwd / "run", 10)
    children = list(children_of(process.pid))
    assert len(children) == 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 15
    while any(Path(f"/proc/{pid}").exists() for pid in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)
    run = Run.open(cwd / "run")
    assert run.manifest.state == "running"
    rows = run.samples.collect()
    assert rows.height >= 10
    assert set(rows["outcome"]) <= {"ok", "cancelled"}, "the end of the simulated deployment is no answer"
    done = told(cwd, "plan", "run")
    assert done.returncode == 4 and "INVALID" in done.stdout


def test_ctrl_c_while_the_schedule_is_made_ends_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    folder, before = tmp_path / "run", signal.getsignal(signal.SIGINT)
    config = RunConfig.model_validate({"load": {"rate": 1, "duration": 10, "warmup": 0}})
    manifest = running.manifest_of(config, {})
    create(folder, manifest)

    def take_long(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(30)

    monkeypatch.setattr(running, "store_schedule", take_long)
    asked_s = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        running.play(folder, manifest, {}, {})
    assert time.monotonic() - asked_s < 10
    assert not folder.exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_file_stop_while_the_schedule_is_made_ends_at_once_and_leaves_nothing(tmp_path, monkeypatch):
    folder, made = tmp_path / "run", []
    config = RunConfig.model_validate({"load": {"rate": 1, "duration": 10, "warmup": 0}})
    manifest = running.manifest_of(config, {})
    create(folder, manifest)

    def arrivals(*_, **__):
        """More than anybody waits for; the file comes with the first."""
        (folder / STOP_FILE).touch()
        for seq in range(4 * WRITTEN_AT_ONCE):
            made.append(seq)
            yield Arrival(seq, seq, "chat")

    monkeypatch.setattr(scheduling, "shaped", arrivals)
    with pytest.raises(Interrupted, match="stopped by the file STOP"):
        running.play(folder, manifest, {}, {})
    assert len(made) == WRITTEN_AT_ONCE
    assert not folder.exists()
