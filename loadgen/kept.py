"""A response that is not only timed: what it says is kept, for the scenarios that check it or go on from it."""

from __future__ import annotations

from collections.abc import Callable

from loadgen.answers import KEPT_BYTES, Answer, answer_of_body, answer_of_events
from loadgen.refusals import CODE_LENGTH, printable
from loadgen.requests import RequestSpec, Route
from loadgen.wire import ResponseReader


class KeepingReader(ResponseReader):
    """A reader that keeps the events of a stream, up to KEPT_BYTES; what it costs, others do not pay."""

    __slots__ = ("_kept", "_kept_bytes")

    def __init__(self, *, stream: bool, route: Route = Route.CHAT) -> None:
        super().__init__(stream=stream, route=route)
        self._kept: list[bytes] = []
        self._kept_bytes = 0

    def _read_event(self, event: bytes) -> None:
        self._kept_bytes += len(event)
        if self._kept_bytes <= KEPT_BYTES:
            self._kept.append(event)
        super()._read_event(event)

    def answer(self) -> Answer:
        """What was said, once the response is complete."""
        if self.stream:
            return answer_of_events(self._kept, self.finish_reason)
        return answer_of_body(self._body, self.finish_reason)


def reader_for(spec: RequestSpec) -> ResponseReader:
    if spec.keep_answer or spec.check is not None:
        return KeepingReader(stream=spec.stream, route=spec.route)
    return ResponseReader(stream=spec.stream, route=spec.route)


def fault_of(check: Callable[[Answer], str | None], reader: ResponseReader) -> str | None:
    """What a spec's check has against an answer. A check that fails itself says so: the row must not be lost."""
    if not isinstance(reader, KeepingReader):
        return None
    try:
        fault = check(reader.answer())
    except Exception as error:
        return f"check_raised_{type(error).__name__}"
    return None if fault is None else printable(str(fault))[:CODE_LENGTH]
