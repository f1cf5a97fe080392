"""Replays a workload that Headroom exported, with plain Locust: `locust --headless` in this folder.

It needs Locust and the standard library. `workload.jsonl` beside it holds what to send (first line: the settings, then
a request a line). Requests come at the exported rate, whatever the answers do, as far as there are users: each has a
clock of its own, and what it sends late counts from when it was due. In Locust's statistics

    NAME        is a request of that scenario, from when it was due to the end of its answer,
    NAME_ttft   the time from sending a streamed one to its first token,
    NAME_429    the requests that were refused for their number, apart from those that were answered.

The key is read from the environment variable that the settings name, and is written nowhere.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import ssl
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from locust import LoadTestShape, User, events, task

HERE = Path(__file__).resolve().parent
WORKLOAD = next(path for path in (HERE / "workload.jsonl", Path("workload.jsonl")) if path.exists())
FIRST, *REQUESTS = [json.loads(line) for line in WORKLOAD.read_text("utf-8").splitlines()]
SETTINGS = FIRST["settings"]
POOLS = {name: [each for each in REQUESTS if each["scenario"] == name] for name in SETTINGS["weights"]}
NUMBERS = itertools.count()
ENDED = threading.Event()


class TooManyRequests(Exception):  # noqa: N818 - no error of ours
    """Answered 429."""

    def __init__(self, answer):
        super().__init__("HTTP 429")
        self.pause_s = pause_s(answer)


@events.init.add_listener
def let_answers_come(environment, **_):
    """At the end what was asked is still answered."""
    environment.stop_timeout = SETTINGS["drain_s"]


@events.test_start.add_listener
def begin(**_):
    ENDED.clear()


@events.test_stopping.add_listener
def end(**_):
    """Locust ends a user that waits some time after it decides to: woken in between, it would be cut in a request."""
    ENDED.set()


class Shape(LoadTestShape):
    """So many users until so many seconds, stage by stage; then the end."""

    def tick(self):
        run_time_s = self.get_run_time()
        for until_s, users in SETTINGS["stages"]:
            if run_time_s < until_s:
                return users, SETTINGS["spawn_rate"] or max(1, users)
        return None


class Caller(User):
    """Sends requests of the mix: at instants of its own, or one after the other where the settings have no pace."""

    host = SETTINGS["url"]

    def __init__(self, environment):
        super().__init__(environment)
        worker = getattr(environment.runner, "worker_index", 0)
        self.random = random.Random(f"{SETTINGS['seed']}/{worker}/{next(NUMBERS)}")
        self.due_s = None
        self.connection = None

    def wait_time(self):
        """Until the next request is due; none where one is overdue."""
        pace_s = SETTINGS["pace_s"]
        if pace_s is None:
            self.due_s = time.monotonic()
            return 0
        if self.due_s is None:
            first = self.random.random() if SETTINGS["arrivals"] != "poisson" else None
            self.due_s = time.monotonic() + (self.gap_s(pace_s) if first is None else first * pace_s)
        else:
            self.due_s += self.gap_s(pace_s)
        return max(0, self.due_s - time.monotonic())

    def gap_s(self, pace_s):
        if SETTINGS["arrivals"] == "constant":
            return pace_s
        if SETTINGS["arrivals"] == "gamma":
            shape = SETTINGS["gamma_shape"]
            return self.random.gammavariate(shape, pace_s / shape)
        return self.random.expovariate(1 / pace_s)

    @task
    def turn(self):
        if self.due_s is None or ENDED.is_set():
            return  # nothing is due before the first wait
        weights = SETTINGS["weights"]
        name = self.random.choices(list(weights), list(weights.values()))[0]
        request = self.random.choice(POOLS[name])
        try:
            size, first_token_s, exception = *self.ask(request), None
        except TooManyRequests as refusal:
            self.report("POST", f"{name}_429", self.due_s, 0, refusal)
            if SETTINGS["pace_s"] is None:  # nothing else holds back users that only wait for answers
                time.sleep(refusal.pause_s)
            return
        except (OSError, http.client.HTTPException, ValueError) as failure:
            self.hang_up()
            size, first_token_s, exception = 0, None, failure
        self.report("POST", name, self.due_s, size, exception)
        if first_token_s is not None:
            self.fire("TTFT", f"{name}_ttft", first_token_s * 1e3, 0, None)

    def report(self, kind, name, since_s, size, exception):
        self.fire(kind, name, (time.monotonic() - since_s) * 1e3, size, exception)

    def fire(self, kind, name, took_ms, size, exception):
        self.environment.events.request.fire(
            request_type=kind, name=name, response_time=took_ms, response_length=size, exception=exception, context={}
        )

    def ask(self, request):
        """Bytes of the answer, and seconds to the first token of a stream. Raises what went wrong."""
        sent_s = time.monotonic()
        answer = self.send(request)
        if answer.status == 429:
            answer.read()
            raise TooManyRequests(answer)
        if answer.status != 200:
            raise ValueError(f"HTTP {answer.status}")
        if not request["stream"]:
            body = answer.read()
            if "error" in json.loads(body):
                raise ValueError("an error in the answer")
            return len(body), None
        return read_stream(answer, sent_s)

    def send(self, request):
        """A kept connection may have been closed by the server meanwhile: then once more, on a new one."""
        kept = self.connection is not None
        for again in (kept, False):
            if self.connection is None:
                self.connection = connect(self.environment.host or self.host)
            try:
                self.connection.request("POST", request["path"], request["body"].encode(), headers())
                return self.connection.getresponse()
            except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
                self.hang_up()
                if not again:
                    raise
        raise AssertionError("unreachable")

    def hang_up(self):
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def on_stop(self):
        self.hang_up()


def connect(url):
    parts = urlsplit(url)
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=SETTINGS["timeout_s"], context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=SETTINGS["timeout_s"])


def pause_s(answer):
    """As long as a refusal asks for, a minute at most; a second where it does not say."""
    for name, unit_s in (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1)):
        try:
            return min(60, max(0, float(answer.headers[name]) * unit_s))
        except (TypeError, ValueError):
            continue
    return 1


def headers():
    sent = {"Content-Type": "application/json"}
    key = os.environ.get(SETTINGS["key_variable"], "")
    if key:
        sent["Authorization"] = f"Bearer {key}"
        if SETTINGS["dialect"] == "azure":
            sent["api-key"] = key
    return sent


def read_stream(answer, sent_s):
    """Reads what has come as it comes; a stream must end with a finish reason or [DONE]."""
    size, first_token_s, ended, rest = 0, None, False, b""
    while piece := answer.read1(65536):
        now_s = time.monotonic()
        size += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                ended = True
                continue
            event = json.loads(data)
            if "error" in event:
                raise ValueError("an error in the stream")
            for choice in event.get("choices") or ():
                delta = choice.get("delta") or {"content": choice.get("text")}
                if first_token_s is None and any(
                    delta.get(key) for key in ("content", "reasoning_content", "tool_calls")
                ):
                    first_token_s = now_s - sent_s
                ended = ended or bool(choice.get("finish_reason"))
    if not ended:
        raise ValueError("the stream was cut")
    return size, first_token_s
