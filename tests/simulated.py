"""Simulated deployments, several started at once: each a process of its own on loopback."""

import json
import os
import subprocess
import sys
from contextlib import contextmanager

import httpx

KEY = "0123456789abcdef0123456789abcdef"
FAST = {
    "ttft_base_ms": 0, "ttft_per_prompt_token_ms": 0, "ttft_per_running_ms": 0, "itl_base_ms": 0, "itl_per_running_ms": 0,
}  # fmt: skip
PATIENCE_S = 10


class Started:
    """A process that is about to say where it listens."""

    def __init__(self, process):
        self._process = process

    @contextmanager
    def announced(self):
        """A client for it, as soon as it listens."""
        url = json.loads(self._process.stdout.readline())["url"]
        with httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE_S) as client:
            yield client


@contextmanager
def started(*flags, serving=FAST, key=None):
    """A deployment with these flags; --key-env SIMULATOR_KEY makes it ask for `key`."""
    parameters = [word for name, value in serving.items() for word in ("--serving", f"{name}={value}")]
    command = [sys.executable, "-m", "loadgen.simulator", "--port", "0", "--until-eof", *flags, *parameters]
    environment = os.environ | ({"SIMULATOR_KEY": key} if key else {})
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        try:
            yield Started(process)
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()
