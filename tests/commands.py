"""The command line as tests use it: real processes in a folder of their own, and a deployment that answers."""

import io
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir, redirect_stderr, redirect_stdout
from unittest.mock import patch

from headroom import running
from headroom.cli import main
from headroom.planning import INVALID
from loadgen.samples import Manifest, Run
from tests.servers import always, response, stream

LAST = {
    "choices": [{"delta": {"content": ""}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}
TOKEN = {"choices": [{"delta": {"content": "x"}}]}
SHORT = ["--duration", "2s", "--warmup", "0s", "--max-tokens", "20"]  # whose answers take a quarter of a second
PLENTY = ["--tpm", "10000000", "--rpm", "100000"]  # a quota that refuses nothing, and is planned for in no time
INTO_RUN = ["--out", "run", "--no-report"]
LATE = re.compile(r"^ +why +(the load generator|load worker)", re.MULTILINE)


def environment(**extra):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "HEADROOM"))}
    return {**kept, "COLUMNS": "100", **extra}


def headroom(cwd, *arguments, **extra):
    command = [sys.executable, "-m", "headroom", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(**extra), capture_output=True, text=True, timeout=120)


def undisturbed(play, times=4):
    """What `play` returned for a folder's name: played again while its run says that its load generator was late.

    A machine that others use makes a run INVALID now and then; a generator that is late by its own fault always is.
    """
    for number in range(times):
        done, rest = play(f"run-{number}")
        if done.returncode != INVALID or not LATE.search(done.stdout):
            break
    return done, rest


def told(cwd, *arguments, **extra):
    """What `headroom` does with these arguments, in this process: for all that ends before a load begins."""
    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    began = AssertionError("a load began")
    with (
        chdir(cwd),
        patch.dict(os.environ, environment(**extra), clear=True),
        patch.object(sys, "argv", ["headroom", *map(str, arguments)]),
        patch.object(running, "play", side_effect=began),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        try:
            code = main()
        except SystemExit as ended:  # as typer ends
            code = ended.code
    said = []
    for each in (stdout, stderr):
        each.flush()
        said.append(each.buffer.getvalue().decode())
    return subprocess.CompletedProcess(arguments, code or 0, *said)


def side_by_side(run, inputs):
    """The results of `run` on each input, four at a time: a run mostly waits, and its start uses a core."""
    with ThreadPoolExecutor(4) as together:
        return list(together.map(run, inputs))


def start(cwd, *arguments):
    command = [sys.executable, "-m", "headroom", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_rows(folder, rows, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / "manifest.json").exists() and Run.open(folder).samples.collect().height >= rows:
            return
        time.sleep(0.1)
    raise AssertionError(f"{folder} never held {rows} rows")


def start_of(folder, seconds=30):
    """When the load began, ns of CLOCK_MONOTONIC; waits until it has."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (folder / "manifest.json").exists() and (start_ns := Manifest.read(folder).monotonic_start_ns) is not None:
            return start_ns
        time.sleep(0.01)
    raise AssertionError(f"the load of {folder} never began")


async def deployment(call, writer):
    await (stream(TOKEN, LAST, b"[DONE]") if b'"stream":true' in call.body else always(response()))(call, writer)
