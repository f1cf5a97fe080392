"""Feeds Locust's own statistics, for its web page and its tables, out of the way of what is measured.

They round to two digits: no report is made from them.
"""

from __future__ import annotations

from collections import deque
from time import time
from typing import Any

import gevent
from locust.env import Environment

from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Sample

FEED_S = 0.25
AT_ONCE = 64  # requests; then the hub gets a turn


class Feed:
    """Takes each finished attempt, and tells Locust and whoever else listens a batch at a time."""

    def __init__(self, environment: Environment) -> None:
        self._request = environment.events.request
        self._waiting: deque[dict[str, Any]] = deque()
        environment.events.test_stop.add_listener(self._finish)  # type: ignore[no-untyped-call]
        gevent.spawn(self._run)

    def add(self, sample: Sample, spec: RequestSpec) -> None:
        what = " ".join(dict.fromkeys(map(str, filter(None, (sample.outcome, sample.status, sample.error)))))
        began_ns = sample.due_ns if sample.sent_ns is None else sample.sent_ns
        failed = sample.outcome not in (Outcome.OK, Outcome.DROPPED, Outcome.FILTERED)
        self._waiting.append({
            "request_type": "STREAM" if spec.stream else "POST",
            "name": spec.scenario,
            "response_time": ((sample.done_ns or began_ns) - began_ns) / 1e6,
            "response_length": sample.bytes_in,
            "exception": RuntimeError(what) if failed else None,
            "context": {},
            "start_time": time(),
        })  # fmt: skip

    def _run(self) -> None:
        while True:
            gevent.sleep(FEED_S)
            self._tell()

    def _tell(self) -> None:
        told = 0
        while self._waiting:
            self._request.fire(**self._waiting.popleft())  # type: ignore[no-untyped-call]
            told += 1
            if told % AT_ONCE == 0:
                gevent.sleep(0)

    def _finish(self, **_: Any) -> None:
        self._tell()
