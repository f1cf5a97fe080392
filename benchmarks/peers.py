"""Other clients on the work of wire.py: each sends the same requests and does what it takes to time tokens.

`python benchmarks/peers.py PEER plain|stream URL USERS WARMUP_S SECONDS` prints, as a line of JSON, the requests or
tokens of the measured seconds, the CPU seconds they took, and when the first token of each stream was seen (ns on
CLOCK_MONOTONIC, by x-ms-client-request-id).
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import count
from time import monotonic_ns
from typing import Any

import orjson

PATH = "/chat/completions?api-version=2024-05-01-preview"


@dataclass
class Work:
    """What to do, and what has come of it so far."""

    kind: str  # plain or stream
    url: str
    users: int
    warmup_s: float
    seconds: float
    done: int = 0  # requests, or content-bearing events
    first_token_ns: dict[str, int] = field(default_factory=dict)
    numbers: count[int] = field(default_factory=count)

    def __post_init__(self) -> None:
        self.body = body_of(self.kind)

    @property
    def stream(self) -> bool:
        return self.kind == "stream"

    def headers(self) -> dict[str, str]:
        """Of the next request, its id last."""
        return {"Content-Type": "application/json", "x-ms-client-request-id": f"{os.getpid()}-{next(self.numbers)}"}

    def take_answer(self, body: bytes) -> None:
        assert orjson.loads(body)["usage"]["completion_tokens"]
        self.done += 1

    def take_line(self, line: bytes | str, headers: dict[str, str]) -> None:
        now_ns = monotonic_ns()
        data = line[6:]
        if data[:1] in (b"{", "{") and orjson.loads(data)["choices"][0]["delta"].get("content"):
            self.done += 1
            self.first_token_ns.setdefault(headers["x-ms-client-request-id"], now_ns)

    def mark(self) -> tuple[int, float, int]:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return self.done, used.ru_utime + used.ru_stime, monotonic_ns()

    def result(self, before: tuple[int, float, int], after: tuple[int, float, int]) -> dict[str, Any]:
        names = ("done", "cpu_s", "wall_ns")
        return {
            **{name: later - earlier for name, earlier, later in zip(names, before, after, strict=True)},
            "first_token_ns": {id_: at for id_, at in self.first_token_ns.items() if before[2] < at <= after[2]},
        }


def body_of(kind: str) -> bytes:
    """The request's body, as the scenarios of fixed.py send it."""
    question = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "How many languages are in the world?"},
    ]
    return orjson.dumps({"messages": question, "max_tokens": 100, **({"stream": True} if kind == "stream" else {})})


def fasthttpuser(work: Work) -> dict[str, Any]:
    """Locust's own fast client; `iter_lines` is its way to read a stream."""
    from locust import FastHttpUser, constant, task  # first: it patches the process for gevent

    class Client(FastHttpUser):
        host = work.url
        wait_time = constant(0)

        @task
        def turn(self) -> None:
            headers = work.headers()
            if not work.stream:
                work.take_answer(self.client.post(PATH, data=work.body, headers=headers).content)
                return
            for line in self.client.iter_lines(PATH, "POST", data=work.body, headers=headers):
                work.take_line(line, headers)

    return _by_locust(work, Client)


def geventhttpclient(work: Work) -> dict[str, Any]:
    """The library below it, used directly, reading a line at a time."""
    from geventhttpclient import HTTPClient
    from locust import User, constant, task  # first: it patches the process for gevent

    class Client(User):
        wait_time = constant(0)

        def on_start(self) -> None:
            self.client = HTTPClient.from_url(work.url, concurrency=1, network_timeout=60)

        @task
        def turn(self) -> None:
            headers = work.headers()
            response = self.client.post(PATH, body=work.body, headers=headers)
            if not work.stream:
                work.take_answer(bytes(response.read()))
                return
            while line := response.readline(b"\n"):
                work.take_line(line, headers)

    return _by_locust(work, Client)


def _by_locust(work: Work, client: type[Any]) -> dict[str, Any]:
    import gevent
    from locust.env import Environment

    runner = Environment(user_classes=[client]).create_local_runner()
    runner.start(work.users, spawn_rate=work.users)
    gevent.sleep(work.warmup_s)
    before = work.mark()
    gevent.sleep(work.seconds)
    return work.result(before, work.mark())


def aiohttp(work: Work) -> dict[str, Any]:
    """On uvloop."""
    import aiohttp
    import uvloop

    async def play() -> dict[str, Any]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(None)) as session:

            async def turn() -> None:
                headers = work.headers()
                async with session.post(work.url + PATH, data=work.body, headers=headers) as response:
                    if not work.stream:
                        work.take_answer(await response.read())
                        return
                    async for line in response.content:
                        work.take_line(line, headers)

            return await _by_asyncio(work, turn)

    return uvloop.run(play())


def httpx(work: Work) -> dict[str, Any]:
    """Its asynchronous client, on asyncio."""
    import httpx

    async def play() -> dict[str, Any]:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=None) as client:

            async def turn() -> None:
                headers = work.headers()
                if not work.stream:
                    work.take_answer((await client.post(work.url + PATH, content=work.body, headers=headers)).content)
                    return
                async with client.stream("POST", work.url + PATH, content=work.body, headers=headers) as response:
                    async for line in response.aiter_lines():
                        work.take_line(line, headers)

            return await _by_asyncio(work, turn)

    return asyncio.run(play())


async def _by_asyncio(work: Work, turn: Callable[[], Awaitable[None]]) -> dict[str, Any]:
    async def use() -> None:
        while True:
            await turn()

    users = [asyncio.create_task(use()) for _ in range(work.users)]
    await asyncio.sleep(work.warmup_s)
    before = work.mark()
    await asyncio.sleep(work.seconds)
    result = work.result(before, work.mark())
    for user in users:
        if user.done():
            user.result()  # what it failed of
        user.cancel()
    await asyncio.gather(*users, return_exceptions=True)
    return result


PEERS = {"FastHttpUser": fasthttpuser, "geventhttpclient": geventhttpclient, "aiohttp": aiohttp, "httpx": httpx}


def main(arguments: list[str]) -> int:
    if len(arguments) != 6:
        print(__doc__)
        return 0
    peer, kind, url, users, warmup_s, seconds = arguments
    work = Work(kind, url, int(users), float(warmup_s), float(seconds))
    print(json.dumps(PEERS[peer](work)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
