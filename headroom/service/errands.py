"""Plans and comparisons answered at once: each a `headroom` of its own, one at a time, behind what measures."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

from headroom.service.jobs import MEANINGS
from headroom.service.launching import environment_of_jobs, make_way
from headroom.service.plan_request import CompareRequest, PlanRequest
from headroom.service.refusals import Refusal
from headroom.service.settings import Settings

PATIENCE_S, LONGEST_S = 60.0, 300.0
REFUSED = 2


class Errands:
    """May be called from any thread; the third that comes while one is at work and one waits is turned away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._one_at_a_time, self._queue = threading.Lock(), threading.Semaphore(8)

    def run(self, asked: PlanRequest | CompareRequest) -> dict[str, Any]:
        """`{exit_code, meaning, messages, document}`. Raises Refusal: 422 with the command's own message, or 503."""
        if not self._queue.acquire(blocking=False):
            raise Refusal(503, "other plans and comparisons are being made: come again in a moment")
        try:
            if not self._one_at_a_time.acquire(timeout=PATIENCE_S):
                raise Refusal(503, "another plan or comparison takes long: come again in a moment")
            try:
                return self._run(asked)
            finally:
                self._one_at_a_time.release()
        finally:
            self._queue.release()

    def _run(self, asked: PlanRequest | CompareRequest) -> dict[str, Any]:
        environment = environment_of_jobs(self._settings) | {"POLARS_MAX_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "headroom", *asked.arguments()],
            cwd=self._settings.runs, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        make_way(process)
        try:
            document, words = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Refusal(503, f"this took longer than {LONGEST_S:g} s: ask for it as a job") from None
        code, messages = process.returncode, _messages(words)
        try:
            answer = json.loads(document)
        except ValueError:
            raise Refusal(422 if code == REFUSED else 500, "\n".join(messages) or "it failed") from None
        return {
            "exit_code": code,
            "meaning": MEANINGS.get(code, "ended unexpectedly"),
            "messages": messages,
            "document": answer,
        }


def _messages(words: bytes) -> list[str]:
    lines = words.decode(errors="replace")[-4_000:].splitlines()
    return [line.removeprefix("headroom: ") for line in lines if line.strip()]
