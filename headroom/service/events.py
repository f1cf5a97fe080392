"""A job's progress as server-sent events, read from what its process has said: no reader disturbs it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from headroom.service.desk import Desk
from headroom.service.refusals import Refusal
from headroom.service.security import Locks

LOOK_EVERY_S, KEEP_ALIVE_S = 0.5, 15.0
MOST_READERS = 50


class Followed(StreamingResponse):
    """Counts who reads, however the reading ends."""

    def __init__(self, state: Any, events: AsyncIterator[bytes]) -> None:
        super().__init__(events, media_type="text/event-stream")
        self._state = state
        state.readers += 1  # now, since many may come before the first of them is read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._state.readers -= 1


async def of(request: Request, desk: Desk) -> Followed:
    """Raises Refusal: 404, or 503 where so many follow already."""
    job_id = request.path_params["id"]
    await run_in_threadpool(desk.jobs.get, job_id)
    state = request.app.state
    if state.readers >= MOST_READERS:
        raise Refusal(503, f"{MOST_READERS} readers follow jobs already: ask again later")
    locks: Locks = state.locks

    def allowed() -> bool:
        """A session that was signed out, or is over, follows no longer."""
        return not state.stopping() and locks.let_in(request.headers, request.cookies)

    return Followed(state, _events(desk, job_id, allowed))


async def _events(desk: Desk, job_id: str, allowed: Callable[[], bool]) -> AsyncIterator[bytes]:
    last: dict[str, Any] = {}
    said_s = time.monotonic()
    while allowed():
        now = await run_in_threadpool(_look, desk, job_id)
        for name, value in now.items():
            if value is not None and last.get(name) != value:
                yield _event(name, value)
                said_s = time.monotonic()
        last = now
        if now["job"]["ended_utc"] is not None:
            yield _event("end", now["job"])
            return
        if time.monotonic() - said_s > KEEP_ALIVE_S:
            yield b": still here\n\n"
            said_s = time.monotonic()
        await asyncio.sleep(LOOK_EVERY_S)


def _look(desk: Desk, job_id: str) -> dict[str, Any]:
    job = desk.jobs.get(job_id)
    return {"job": desk.told(job), "about": desk.about(job_id), "progress": desk.progress(job_id)}


def _event(name: str, value: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
