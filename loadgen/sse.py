"""Server-sent events from bytes: incremental, bounded, by the WHATWG rules."""

from __future__ import annotations

LINE_LIMIT = 1 << 20
EVENT_LIMIT = 1 << 20  # of data; parsing a JSON text takes up to 36 times its length
LINE_COST = 64  # what Python keeps for each line of an unfinished event, beside its bytes
PIECE_LIMIT = LINE_LIMIT // 2  # longer ones are taken in parts; a receive is far shorter
COPIED_TAIL = 4 << 10
_BOM = b"\xef\xbb\xbf"


class StreamTooLarge(Exception):  # noqa: N818 - data about the server, not an error of ours
    """A line or event above its bound: `code` says which; `events` were complete before it. The parser is spent."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
        self.events: list[bytes] = []


class NamedEvent(bytes):
    """The data of an event that an `event:` line gave a name."""

    name = b""


class EventParser:
    """Turns the bytes of a stream into the data of its events, however the bytes are cut.

    Ids and retry times are read over: nobody reconnects here.
    """

    __slots__ = ("_after_cr", "_data", "_more", "_name", "_size", "_sized", "_start", "_tail")

    def __init__(self) -> None:
        self._tail = b""  # of a line whose end has not come yet
        self._more = bytearray()  # what came of it after it had become long
        self._data: list[bytes] = []  # lines of an event whose blank line has not come yet
        self._name = b""
        self._size = self._sized = 0  # bytes of that event that earlier pieces brought, in so many lines
        self._after_cr = False
        self._start = True

    def feed(self, piece: bytes) -> list[bytes]:
        """The data of each event that this piece completes; a NamedEvent where it has a name. Raises StreamTooLarge."""
        if len(piece) > PIECE_LIMIT:
            return self._feed_in_parts(piece)
        if self._start or self._after_cr or b"\r" in piece:
            piece = self._normalised(piece)
        tail = self._tail
        if len(tail) <= COPIED_TAIL:
            lines = (tail + piece if tail else piece).split(b"\n")
            self._tail = lines.pop()
        else:
            lines = self._continue_long_line(piece)
        events: list[bytes] = []
        data = self._data
        for line in lines:
            if line.startswith(b"data: "):
                data.append(line[6:])
            elif not line:
                if self._name or len(data) > 1:
                    self._dispatch_with_care(events)
                elif data:
                    events.append(data.pop())
            elif line.startswith((b"data", b"event")):
                self._read_field(line)
        if data:
            self._check_size(events)
        return events

    def _feed_in_parts(self, piece: bytes) -> list[bytes]:
        """Cut up, a long piece meets the same bounds as any other."""
        events: list[bytes] = []
        for start in range(0, len(piece), PIECE_LIMIT):
            try:
                events += self.feed(piece[start : start + PIECE_LIMIT])
            except StreamTooLarge as too_large:
                too_large.events = events + too_large.events
                raise
        return events

    def _normalised(self, piece: bytes) -> bytes:
        """Without the BOM that may begin a stream, and with LF for CR and CRLF, also where a piece ends within one."""
        if not piece:
            return piece
        if self._start:
            piece, self._tail = self._tail + piece, b""
            if len(piece) < len(_BOM) and _BOM.startswith(piece):
                self._tail = piece
                return b""
            self._start = False
            piece = piece.removeprefix(_BOM)
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _continue_long_line(self, piece: bytes) -> list[bytes]:
        """The lines that this piece completes. One that comes in a thousand pieces is not copied a thousand times."""
        end = piece.find(b"\n")
        if len(self._tail) + len(self._more) + (len(piece) if end < 0 else end) > LINE_LIMIT:
            raise StreamTooLarge("line_too_long")
        if end < 0:
            self._more += piece
            return []
        lines = b"".join((self._tail, self._more, piece)).split(b"\n")
        self._tail = lines.pop()
        self._more.clear()
        return lines

    def _read_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value

    def _dispatch_with_care(self, events: list[bytes]) -> None:
        """The end of an event that has a name, several lines, or neither line nor meaning."""
        self._check_size(events)
        if self._data:
            event = b"\n".join(self._data)
            if self._name:
                named = NamedEvent(event)
                named.name = self._name
                event = named
            events.append(event)
        self._data.clear()
        self._name = b""
        self._size = self._sized = 0

    def _check_size(self, events: list[bytes]) -> None:
        """One line has its own bound; of more, the sum counts."""
        if len(self._data) == 1:
            return
        self._size += sum(len(line) + LINE_COST for line in self._data[self._sized :])
        self._sized = len(self._data)
        if self._size > EVENT_LIMIT:
            too_large = StreamTooLarge("event_too_long")
            too_large.events = events
            raise too_large
