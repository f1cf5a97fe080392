"""What Headroom would send, byte for byte: the mix is played for a moment against a server here that writes it down."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import orjson

from headroom.running import close, manifest_of, play
from loadgen.config import BudgetConfig, Kind, LoadConfig, RunConfig, ThrottleMode
from loadgen.errors import HeadroomError
from loadgen.samples import Run, create
from loadgen.target import KEY_VARIABLES

RATE_PER_S = 300.0
_ID = re.compile(r"[^-]+-(\d+)-\d+")
_USAGE = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


@dataclass(frozen=True, slots=True)
class Captured:
    """One request."""

    seq: int
    path: str
    body: bytes

    @property
    def stream(self) -> bool:
        return bool(orjson.loads(self.body).get("stream"))


def captured(config: RunConfig, places: Mapping[str, str], each: int) -> dict[str, list[Captured]]:
    """Some `each` requests of every scenario, by its name, in the order of the schedule. Raises HeadroomError."""
    keyless = {name: value for name, value in os.environ.items() if name not in KEY_VARIABLES}
    with tempfile.TemporaryDirectory(prefix="headroom-export-") as temporary, _listening() as (port, heard):
        folder = Path(temporary) / "run"
        config = _played_here(config, port, each)
        create(folder, manifest := manifest_of(config, {"model_name": config.target.model}))
        played = play(folder, manifest, places, keyless)
        if played.interrupted:
            raise KeyboardInterrupt
        reason = close(folder, played)
        if reason is not None:
            raise HeadroomError(f"the requests could not be made: {played.last_words or reason}")
        of = dict(Run.open(folder).samples.select("seq", "scenario").collect().iter_rows())
    pools: dict[str, list[Captured]] = {name: [] for name in config.scenarios}
    for request in sorted(heard, key=lambda request: request.seq):
        if len(pools[of[request.seq]]) < each:
            pools[of[request.seq]].append(request)
    missing = [name for name, pool in pools.items() if not pool]
    if missing:
        raise HeadroomError(f"scenario {missing[0]} made no request")
    return pools


def _played_here(config: RunConfig, port: int, each: int) -> RunConfig:
    """The same requests to a loopback address, all scenarios as often, fast, without a quota."""
    path = urlsplit(config.target.url or "").path
    here = {"url": f"http://127.0.0.1:{port}{path}", "key": None, "kind": Kind.MANAGED, "ca_file": None}
    arrivals = 2 * each * len(config.scenarios)  # drawn at random: twice as many leave no scenario short
    load = LoadConfig(
        rate=RATE_PER_S,
        duration=arrivals / RATE_PER_S,
        warmup=0.0,
        throttle=ThrottleMode.OFF,
        max_tokens=config.load.max_tokens,
        seed=config.load.seed,
    )
    return config.model_copy(
        update={
            "targets": (config.target.model_copy(update=here),),
            "load": load,
            "scenarios": dict.fromkeys(config.scenarios, 1.0),
            "budget": BudgetConfig(),
        }
    )


@contextmanager
def _listening() -> Iterator[tuple[int, list[Captured]]]:
    """A server's port, and what it hears."""
    heard: list[Captured] = []

    class Listener(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            match = _ID.fullmatch(self.headers.get("x-ms-client-request-id", ""))
            if match:
                heard.append(Captured(int(match[1]), self.path, body))
            streamed, answer = _answer(orjson.loads(body), self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream" if streamed else "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], heard
    finally:
        server.shutdown()
        server.server_close()


def _answer(asked: dict[str, Any], path: str) -> tuple[bool, bytes]:
    """As short as an answer may be: what is asked next may depend on there being one."""
    if "/embeddings" in path:
        return False, orjson.dumps({"data": [{"index": 0, "embedding": [0.0]}], "usage": _USAGE})
    said = {"text": "Yes."} if "messages" not in asked else {"message": {"role": "assistant", "content": "Yes."}}
    if not asked.get("stream"):
        choice = {"index": 0, "finish_reason": "stop", **said}
        return False, orjson.dumps({"choices": [choice], "usage": _USAGE})
    piece = said if "text" in said else {"delta": said["message"]}
    event = {"choices": [{"index": 0, "finish_reason": "stop", **piece}], "usage": _USAGE}
    return True, b"data: " + orjson.dumps(event) + b"\n\ndata: [DONE]\n\n"
