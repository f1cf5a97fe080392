"""What happens in a run, for any number of readers of server-sent events: who comes late gets what has been.

Publishing takes no time, whatever the readers do: each has a short queue, and who falls behind is let go. A browser
comes back by itself, says what it saw last, and gets the rest.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import Any

HISTORY = 900  # events that are kept: of a run's progress a quarter of an hour
MOST_READERS = 32
QUEUED = 32  # events that a reader may be behind
ALIVE_S = 10.0  # a comment each so often, so that it shows where nobody reads any more


class Feed:
    """Publishes from any thread, to readers in any event loop.

    `started` begins the history anew: a page shows one run. Numbers of events hold for this feed alone.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._name = secrets.token_hex(4)
        self._number = 0
        self._began: tuple[int, bytes] | None = None
        self._history: deque[tuple[int, bytes]] = deque(maxlen=HISTORY)
        self._readers: set[_Reader] = set()
        self._closed = False

    def publish(self, event: str, values: Mapping[str, Any]) -> None:
        """`values` must be JSON's: no NaN. Readers get them under `event`."""
        data = json.dumps(values, allow_nan=False)
        with self._lock:
            if self._closed:
                return
            self._number += 1
            frame = f"id: {self._name}.{self._number}\nevent: {event}\ndata: {data}\n\n".encode()
            if event == "started":
                self._began = self._number, frame
                self._history.clear()
            else:
                self._history.append((self._number, frame))
            self._send(frame)

    def close(self) -> None:
        """Nothing more comes: each reader ends with an event `closed`."""
        self.publish("closed", {})
        with self._lock:
            self._closed = True
            self._send(None)

    def _send(self, frame: bytes | None) -> None:
        for reader in list(self._readers):
            if reader.lags:
                self._readers.discard(reader)  # its place is another's, though its connection may hang for long
                continue
            try:
                reader.loop.call_soon_threadsafe(reader.offer, frame)
            except RuntimeError:  # its loop has ended
                self._readers.discard(reader)

    @property
    def crowded(self) -> bool:
        """Whether one more who comes gets nothing."""
        return len(self._readers) >= MOST_READERS

    async def events(self, last: str | None = None) -> AsyncIterator[bytes]:
        """From what a reader saw last (`Last-Event-ID`) on, or all that is kept; ends with the feed or when it lags."""
        reader = _Reader(asyncio.get_running_loop())
        with self._lock:
            if self.crowded:
                return
            backlog, closed = self._since(last), self._closed
            self._readers.add(reader)
        try:
            for frame in backlog:
                yield frame
            while not closed:
                try:
                    frame_or_end = await asyncio.wait_for(reader.queue.get(), ALIVE_S)
                except TimeoutError:
                    yield b": alive\n\n"
                    continue
                if frame_or_end is None:
                    return
                yield frame_or_end
        finally:
            with self._lock:
                self._readers.discard(reader)

    def _since(self, last: str | None) -> list[bytes]:
        name, _, text = (last or "").partition(".")
        seen = int(text) if name == self._name and text.isdecimal() and len(text) < 16 else 0
        kept = [*(() if self._began is None else (self._began,)), *self._history]
        return [frame for number, frame in kept if number > seen]


class _Reader:
    """One who reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUED)
        self.lags = False

    def offer(self, frame: bytes | None) -> None:
        """Where there is no place left it is all thrown away, and the reader ends."""
        if not self.queue.full():
            self.queue.put_nowait(frame)
            return
        self.lags = True
        with suppress(asyncio.QueueEmpty):
            while True:
                self.queue.get_nowait()
        self.queue.put_nowait(None)
