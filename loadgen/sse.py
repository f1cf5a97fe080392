"""Server-sent events from bytes: incremental, bounded, by the WHATWG rules."""

from __future__ import annotations

import re

LINE_LIMIT = 1 << 20
EVENT_LIMIT = 8 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"


class StreamTooLarge(Exception):  # noqa: N818 - data about the server, not an error of ours
    """A line or event above its bound; `args[0]` says which."""


class EventParser:
    """Turns the bytes of a stream into the data of its events, however the bytes are cut.

    Event names, ids and retry times are read over: no API here carries meaning in them.
    """

    __slots__ = ("_after_cr", "_data", "_size", "_start", "_tail")

    def __init__(self) -> None:
        self._tail = b""  # of a line whose end has not come yet
        self._data: list[bytes] = []  # of an event whose blank line has not come yet
        self._size = 0
        self._after_cr = False
        self._start = True

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that this piece completes. Raises StreamTooLarge."""
        if not piece:
            return []
        if self._start or self._after_cr or b"\r" in piece:
            lines = self._split_carefully(piece)
        else:
            lines = (self._tail + piece if self._tail else piece).split(b"\n")
            self._tail = lines.pop()
        if len(self._tail) > LINE_LIMIT:
            raise StreamTooLarge("line_too_long")
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data: "):
                self._add(line[6:])
            elif not line:
                if self._data:
                    events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                    self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                self._add(line[5:])
            elif line == b"data":
                self._add(b"")
        return events

    def _add(self, data: bytes) -> None:
        self._size += len(data) + 1
        if len(data) > LINE_LIMIT:
            raise StreamTooLarge("line_too_long")
        if self._size > EVENT_LIMIT:
            raise StreamTooLarge("event_too_long")
        self._data.append(data)

    def _split_carefully(self, piece: bytes) -> list[bytes]:
        """Lines may end in CR, LF or both, and a CR may end one piece and its LF begin the next."""
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        buffer = self._tail + piece
        if self._start:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                self._tail = buffer
                return []
            self._start = False
            buffer = buffer.removeprefix(_BOM)
        self._after_cr = buffer.endswith(b"\r")
        lines = _LINE_END.split(buffer)
        self._tail = lines.pop()
        return lines
