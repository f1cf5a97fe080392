"""Plans and comparisons answered at once: each a `headroom` of its own, one at a time, behind what measures."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from headroom.service.jobs import MEANINGS
from headroom.service.launching import environment_for, make_way
from headroom.service.plan_request import CompareRequest, PlanRequest
from headroom.service.refusals import Refusal
from headroom.service.settings import Settings

PATIENCE_S, LONGEST_S = 60.0, 300.0
MOST_AT_ONCE = 8  # one at work, the others waiting
REFUSED = 2


class Errands:
    """May be called from any thread; who comes while one is at work and seven wait is turned away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._one_at_a_time, self._queue = threading.Lock(), threading.Semaphore(MOST_AT_ONCE)

    def run(self, asked: PlanRequest | CompareRequest) -> dict[str, Any]:
        """`{exit_code, meaning, messages, document}`. Raises Refusal: 422 with the command's own message, or 503."""
        with self._turn():
            code, document, messages = self._finish(asked.arguments())
        try:
            answer = json.loads(document)
        except ValueError:
            raise _failed(code, messages) from None
        meaning = MEANINGS.get(code, "ended unexpectedly")
        return {"exit_code": code, "meaning": meaning, "messages": messages, "document": answer}

    def draw(self, asked: CompareRequest) -> bytes:
        """The page of a comparison, as `headroom report BASE NEW` writes it. Raises Refusal likewise."""
        with self._turn(), tempfile.TemporaryDirectory() as folder:
            page = Path(folder) / "report.html"
            code, _, messages = self._finish(["report", f"--out={page}", "--", *asked.runs])
            if code or not page.is_file():
                raise _failed(code, messages)
            return page.read_bytes()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._queue.acquire(blocking=False):
            raise Refusal(503, "other plans and comparisons are being made: come again in a moment")
        try:
            if not self._one_at_a_time.acquire(timeout=PATIENCE_S):
                raise Refusal(503, "another plan or comparison takes long: come again in a moment")
            try:
                yield
            finally:
                self._one_at_a_time.release()
        finally:
            self._queue.release()

    def _finish(self, arguments: Sequence[str]) -> tuple[int, bytes, list[str]]:
        """The exit code of a `headroom`, what it printed, and what it said."""
        environment = environment_for(self._settings) | {"POLARS_MAX_THREADS": "1"}
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "headroom", *arguments],
                cwd=self._settings.runs, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
        except ValueError:
            raise Refusal(422, "a text holds a character that a command line cannot (a null, half of one)") from None
        make_way(process)
        try:
            document, words = process.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise Refusal(503, f"this took longer than {LONGEST_S:g} s: ask for it as a job") from None
        return process.returncode, document, _messages(words)


def _failed(code: int, messages: Sequence[str]) -> Refusal:
    return Refusal(422 if code == REFUSED else 500, "\n".join(messages) or "it failed")


def _messages(words: bytes) -> list[str]:
    lines = words.decode(errors="replace")[-4_000:].splitlines()
    return [line.removeprefix("headroom: ") for line in lines if line.strip()]
