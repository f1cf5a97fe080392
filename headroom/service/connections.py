"""Connections that say nothing are closed, so that they take no place from those that ask."""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

LONGEST_HEAD_S = 15.0


class PatientConnection(H11Protocol):
    """Waits LONGEST_HEAD_S for the head of a request; uvicorn waits for ever for the first, and for the rest of one."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()

    def _wait(self) -> None:
        self._stop_waiting()
        self._waiting = self.loop.call_later(LONGEST_HEAD_S, self._end_if_silent)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()

    def _end_if_silent(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else a head has come, and is being answered
            self.transport.close()
