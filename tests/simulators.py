"""A running simulated deployment, and what tests say to it."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from types import SimpleNamespace
from unittest.mock import patch

import httpx
from PIL import Image

from loadgen.simulator.__main__ import main

KEY = "0123456789abcdef0123456789abcdef"
CHAT, OPENAI = "/chat/completions", "/v1/chat/completions"
# Without jitter and load a request of P prompt tokens and n completion tokens takes exactly TTFT + (n - 1) x ITL.
EXACT = {"ttft_sigma": 0, "itl_sigma": 0, "ttft_per_prompt_token_ms": 0, "ttft_per_running_ms": 0}
FAST = {"ttft_base_ms": 2, "itl_base_ms": 0.2, "itl_per_running_ms": 0}
FAST_BATCHES = {"iteration_base_ms": 0.2, "iteration_per_sequence_ms": 0, "prefill_per_token_ms": 0}
PATIENCE_S = 10


@contextmanager
def simulated(*flags, serving=None, key=None):
    """A running simulator: its url, pid, process and an HTTP client. It is fast unless `serving` says otherwise."""
    if serving is None:
        serving = FAST_BATCHES if "managed" in flags else FAST
    parameters = [word for name, value in serving.items() for word in ("--serving", f"{name}={value}")]
    command = [sys.executable, "-m", "loadgen.simulator", "--port", "0", "--until-eof", *flags, *parameters]
    if key is not None:
        command += ["--key-env", "SIMULATOR_KEY"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | ({"SIMULATOR_KEY": key} if key else {}),
    )
    with process:
        try:
            announced = json.loads(process.stdout.readline())
            with httpx.Client(base_url=announced["url"], trust_env=False, timeout=PATIENCE_S) as client:
                yield SimpleNamespace(process=process, client=client, **announced)
        finally:
            process.stdin.close()
            process.kill()  # its own end takes a fifth of a second, and has tests of its own


def ask(text="hello", **fields):
    return {"messages": [{"role": "user", "content": text}]} | fields


def pinned(tokens):
    return {"x-headroom-completion-tokens": str(tokens)}


def events(raw):
    """The JSON of each event; checks the framing on the way."""
    assert b"\r" not in raw
    *frames, rest = raw.split(b"\n\n")
    assert rest == b""
    assert frames.pop() == b"data: [DONE]"
    assert all(frame.startswith(b"data: {") and b"\n" not in frame for frame in frames)
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def streamed(server, route=CHAT, *, headers=None, **fields):
    answer = server.client.post(route, json=ask(stream=True, **fields), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    return events(answer.content)


def eventually(claim):
    """True as soon as the claim holds; False if it never does."""
    for _ in range(200):
        if claim():
            return True
        time.sleep(PATIENCE_S / 200)
    return False


def data_url(width_px, height_px, kind="JPEG", mime="image/jpeg"):
    file = io.BytesIO()
    Image.new("RGB", (width_px, height_px), "navy").save(file, kind)
    return f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(url, text="what is this?"):
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]


def complaint(*flags):
    """What a simulator says that refuses its flags, before it begins to serve."""
    said, stdout = io.StringIO(), io.StringIO()
    with redirect_stderr(said), redirect_stdout(stdout), patch("loadgen.simulator.__main__.serve") as serve:
        try:
            code = main(flags)
        except SystemExit as ended:  # of argparse
            code = ended.code
    assert not serve.called, f"{flags} were accepted"
    assert (code, stdout.getvalue()) == (2, "")
    return said.getvalue()


def failed_start(*flags):
    """What a simulator says that cannot begin to serve."""
    command = [sys.executable, "-m", "loadgen.simulator", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr
