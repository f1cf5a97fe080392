"""Who looks on while a real run lasts: by lines of JSON, by the live page's feed, and by an OpenTelemetry collector."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest.mock import patch

import httpx
import polars as pl
import pytest
from httpx_sse import connect_sse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from headroom.audience import NOBODY, Audience, tell_json
from headroom.commands.app import INVALID
from headroom.progress_feed import Feed
from headroom.telemetry import Names, Telemetry, _exporter
from loadgen.config import RunConfig
from loadgen.samples import Recorder, Run, row_of
from planner.client_metrics import DURATION, SECONDS, TOKENS, Series
from tests.commands import LAST, TOKEN, environment, told
from tests.runs import answered, synthetic_run
from tests.servers import Server, response, stream

PLAIN = response(
    json.dumps(
        {
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 20, "completion_tokens": 2, "total_tokens": 22},
        }
    ).encode()
)
LOAD = [
    *("--scenario", "chat=1", "--scenario", "streaming=2", "--rate", "30/s", "--duration", "3s", "--warmup", "0s"),
    *("--throttle", "off", "--max-tokens", "5", "--seed", "3", "--budget-requests", "500", "--no-report", "--quiet"),
]


TOLD = {
    **dict.fromkeys(("sent", "in_flight", "waiting", "ok", "failed", "throttled", "dropped", "tokens"), 3),
    **{"duration_s": 60.0, "tokens_per_minute": 5, "requests_per_minute": 5, "ttft_p50_ms": None},
}


async def deployment(call, writer):
    """Answers after a while; every fifth request is refused."""
    if call.number % 5 == 4:
        writer.write(response(b'{"error":{"code":"429","message":"no"}}', "429 Too Many Requests"))
        return
    await asyncio.sleep(0.03)
    if b'"stream":true' in call.body:
        await stream(TOKEN, TOKEN, TOKEN, LAST, b"[DONE]", gap_s=0.015)(call, writer)
    else:
        writer.write(PLAIN)


class Collector:
    """An OTLP/HTTP receiver."""

    def __init__(self, status=200, delay_s=0.0):
        self.status, self.delay_s = status, delay_s
        self.asked, self.got, self.keys = [], [], []

    def __enter__(self):
        collector = self

        class Post(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.asked.append((self.path, self.headers["content-type"]))
                collector.keys.append(self.headers["x-key"])
                collector.got.append(ExportMetricsServiceRequest.FromString(body))
                time.sleep(collector.delay_s)
                self.send_response(collector.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()


class Seen:
    """What was heard of one run, by all ways."""

    def __init__(self, folder):
        self.folder, self.events, self.feed, self.other = folder, [], [], []
        self.there = self.listener = None

    def read(self, lines):
        for line in lines:
            if not line.startswith('{"event": '):
                self.other.append(line)
                continue
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == "live":
                self.listener = threading.Thread(target=self.listen, args=(event["url"],))
                self.listener.start()
            elif event["event"] == "started":
                self.there = (self.folder / "manifest.json").exists()

    def listen(self, url):
        with httpx.Client(timeout=30, verify=False) as client, connect_sse(client, "GET", f"{url}events") as source:
            for sse in source.iter_sse():
                self.feed.append({"event": sse.event, **json.loads(sse.data)})


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("watched")
    seen = Seen(cwd / "run")
    with Server(deployment) as server, Collector() as collector:
        flags = [*LOAD, "--target", server.url, "--out", "run", "--progress", "json", "--live", "--otlp", collector.url]
        process = subprocess.Popen(
            [sys.executable, "-m", "headroom", "run", *flags],
            cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        seen.read(process.stderr)
        seen.stdout = process.communicate(timeout=30)[0]
        seen.code = process.returncode
        seen.listener.join(5)
        seen.collector, seen.port = collector, server.port
    seen.run = Run.open(seen.folder)
    seen.samples = seen.run.samples.collect()
    return seen


def test_a_program_reads_where_the_record_is_how_far_it_is_and_that_it_has_ended(seen):
    assert seen.code in {0, INVALID} and seen.stdout == "run\n"  # whether it had a core to itself is not asked here
    assert [line for line in seen.other if not line.startswith("Invalid run")] == []
    names = [event["event"] for event in seen.events]
    assert names[:2] == ["live", "started"] and names[-1] == "ended"
    assert set(names[2:-1]) == {"progress"} and len(names) >= 5
    assert seen.there  # before the first request, and with its manifest
    assert seen.events[1]["folder"] == "run" and seen.events[1]["requests_per_minute"] == 1_000
    assert seen.events[-1] == {"event": "ended", "folder": "run", "reason": None}


def test_what_is_told_while_it_lasts_is_what_the_record_holds(seen):
    last = seen.events[-2]
    outcomes = Counter(seen.samples["outcome"])
    assert (last["sent"], last["ok"], last["throttled"]) == (seen.samples.height, outcomes["ok"], outcomes["throttled"])
    assert last["errors"] == {"429": outcomes["throttled"]} and outcomes["throttled"] > 10
    assert last["budget"]["requests"] == {"used": seen.samples.height, "limit": 500}
    ttft_ms = (seen.samples["first_token_ns"] - seen.samples["sent_ns"]).drop_nulls().sort() / 1e6  # all within 10 s
    assert last["ttft_p50_ms"] == pytest.approx(ttft_ms[(len(ttft_ms) + 1) // 2 - 1], abs=0.001)
    assert ttft_ms[0] <= last["ttft_p50_ms"] <= last["ttft_p95_ms"] <= ttft_ms[-1]
    assert last["itl_p50_ms"] == pytest.approx(15, abs=5)
    rates = [event["requests_per_s"] for event in seen.events if event.get("requests_per_s")]
    assert max(rates) == pytest.approx(30, rel=0.5)


def test_the_page_is_fed_the_same_numbers_from_the_start_to_the_end(seen):
    assert seen.feed == [*seen.events[1:], {"event": "closed"}]


# What the collector got.


def points(request):
    """Count, sum, buckets, bounds of each series, by metric and attributes that tell them apart."""
    found = {}
    (resource,) = request.resource_metrics
    for metric in resource.scope_metrics[0].metrics:
        assert metric.histogram.aggregation_temporality == 2  # cumulative
        for point in metric.histogram.data_points:
            about = {each.key: each.value.string_value or each.value.int_value for each in point.attributes}
            key = metric.name.rpartition(".")[2] if "token.usage" not in metric.name else about["gen_ai.token.type"]
            found[key, about["headroom.scenario"], about.get("error.type")] = metric, point, about
    return found


def test_a_collector_gets_the_sums_of_the_record(seen):
    assert set(seen.collector.asked) == {("/v1/metrics", "application/x-protobuf")}
    found = points(seen.collector.got[-1])
    rows, gaps = seen.samples, seen.run.chunks.collect()
    ok, streams = pl.col("outcome") == "ok", pl.col("scenario") == "streaming"
    expected = {}
    for name, unit, which, values in (
        ("duration", 1e9, pl.lit(True), pl.col("done_ns") - pl.col("sent_ns")),
        ("time_to_first_chunk", 1e9, streams & ok, pl.col("first_token_ns") - pl.col("sent_ns")),
        ("input", 1, ok, pl.col("prompt_tokens")),
        ("output", 1, ok, pl.col("completion_tokens")),
    ):
        for scenario in ("chat", "streaming"):
            for error, outcome in ((None, ok), ("429", ~ok)):
                kept = rows.filter(which & outcome & (pl.col("scenario") == scenario)).select(values).to_series()
                if len(kept):
                    expected[name, scenario, error] = [value / unit for value in kept]
    expected["time_per_output_chunk", "streaming", None] = [gap / 1e6 for gap in gaps["gap_us"]]
    assert set(found) == set(expected)
    for key, values in expected.items():
        _, point, _ = found[key]
        bounds = TOKENS if key[0] in ("input", "output") else SECONDS
        counts = Counter(bisect_left(bounds, value) for value in values)
        assert point.count == len(values) and point.sum == pytest.approx(sum(values)), key
        assert list(point.bucket_counts) == [counts[place] for place in range(len(bounds) + 1)], key
        assert tuple(point.explicit_bounds) == bounds and (point.min, point.max) == (min(values), max(values))


def test_names_units_and_attributes_are_those_of_the_conventions(seen):
    found = points(seen.collector.got[-1])
    units = {metric.name: metric.unit for metric, _, _ in found.values()}
    assert units == {
        "gen_ai.client.operation.duration": "s",
        "gen_ai.client.operation.time_to_first_chunk": "s",
        "gen_ai.client.operation.time_per_output_chunk": "s",
        "gen_ai.client.token.usage": "{token}",
    }
    assert found["duration", "streaming", "429"][2] == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "azure.ai.inference",
        "gen_ai.request.model": seen.run.manifest.deployment["model_name"],
        "server.address": "localhost",
        "server.port": seen.port,
        "headroom.scenario": "streaming",
        "error.type": "429",
    }
    resource = seen.collector.got[-1].resource_metrics[0].resource
    assert {each.key: each.value.string_value for each in resource.attributes}["service.name"] == "headroom"
    assert b"Bearer" not in seen.collector.got[-1].SerializeToString()


# Where it cannot be.


def test_a_collector_that_fails_is_noted_once_and_one_that_hangs_is_left_behind(capsys):
    for status, delay_s, said in ((400, 0.0, "400"), (200, 3.0, "too long")):
        with Collector(status, delay_s) as collector, patch("headroom.telemetry.PATIENCE_S", 0.3):
            telemetry = Telemetry(_exporter(collector.url))
            began = time.monotonic()
            for number in range(3):
                telemetry._offer(data(), number == 2)
            telemetry.close()
            assert time.monotonic() - began < 2.5
        err = capsys.readouterr().err
        assert err.count("headroom: telemetry: ") == 1 and err.endswith("; the run goes on, and is recorded\n"), said


def test_the_standard_variables_say_where_to_and_with_which_headers(capsys):
    with Collector() as collector:
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_EXPORTER_OTLP_HEADERS": "x-key=s3cret"}
        with patch.dict(os.environ, variables):
            assert _exporter("env")(data()) is None
    assert collector.asked == [("/v1/metrics", "application/x-protobuf")] and collector.keys == ["s3cret"]
    with patch.dict(os.environ, {**variables, "OTEL_EXPORTER_OTLP_HEADERS": "no header s3cret"}):
        assert "s3cret" not in (_exporter("env")(data()) or "nothing")  # nobody listens there any more
    assert capsys.readouterr().err == ""


def test_an_exporter_that_raises_is_noted_and_the_next_figures_go_out(capsys):
    sent = []

    def export(each):
        sent.append(each)
        raise RuntimeError("no")

    telemetry = Telemetry(export)
    for _ in range(3):
        telemetry._offer(data(), True)
    telemetry.close()
    assert len(sent) == 3 and capsys.readouterr().err.count("RuntimeError: no") == 1


def test_of_several_targets_each_has_its_own_names(begun):
    targets = [
        {"name": "one", "url": "https://a.example/models", "model": "m-1"},
        {"name": "two", "url": "http://b.example:8080", "dialect": "openai"},
    ]
    config = RunConfig.model_validate({"target": targets})
    names = Names.of(begun.manifest, config)
    one, two = (
        names.attributes(Series(instrument=DURATION, scenario=s, target=t, error=None))
        for s, t in (("completions", "one"), ("mine.py:Mine", "two"))
    )
    assert (one["server.address"], one["server.port"], one["gen_ai.request.model"]) == ("a.example", 443, "m-1")
    assert (two["server.address"], two["server.port"], two["gen_ai.provider.name"]) == ("b.example", 8080, "openai")
    assert (one["gen_ai.operation.name"], two["gen_ai.operation.name"]) == ("text_completion", "chat")


def data():
    from opentelemetry.sdk.metrics.export import MetricsData

    return MetricsData([])


REFUSED = {  # --otlp -> what is said, before anything is sent
    "127.0.0.1:4318": "--otlp: must be http://HOST:PORT of an OTLP/HTTP collector, or `env`",
    "grpc://127.0.0.1:4317": "must be http://HOST:PORT",
    "http://user:secret@127.0.0.1:4318": "put it into OTEL_EXPORTER_OTLP_HEADERS",
    "http://127.0.0.1:4318/?api-key=secret": "put it into OTEL_EXPORTER_OTLP_HEADERS",
}


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_none_or_holds_a_secret_is_refused(tmp_path, address):
    done = told(tmp_path, "run", "--otlp", address)
    assert (
        done.returncode == 2
        and REFUSED[address] in done.stderr
        and "secret" not in done.stderr.replace("a secret,", "")
    )


def test_without_the_extra_nothing_is_sent_and_the_remedy_is_named(tmp_path):
    with patch.dict(sys.modules, {"opentelemetry.exporter.otlp.proto.http.metric_exporter": None}):
        done = told(tmp_path, "run", "--otlp", "env", "--out", "run")
    assert done.returncode == 2 and ".venv/bin/pip install -e '.[otel]'" in done.stderr
    assert not (tmp_path / "run").exists()


def test_progress_is_json_or_for_people(tmp_path):
    done = told(tmp_path, "run", "--progress", "xml", "--out", "run")
    assert done.returncode == 2 and "--progress xml: there is json" in done.stderr


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "asleep"])
def test_a_reader_that_is_gone_or_asleep_holds_up_nothing(gone):
    reader, writer = os.pipe()
    if gone:
        os.close(reader)
    with os.fdopen(writer, "w") as stderr, patch.object(sys, "stderr", stderr):
        tell_json("started", {})
        for number in range(3_000):
            tell_json("progress", {"n": number, "text": "x" * 100})
    if not gone:
        with os.fdopen(reader) as told_:
            lines = [json.loads(line) for line in told_]
        assert [line.get("n") for line in lines] == [None, *range(len(lines) - 1)] and len(lines) > 100


def test_a_reader_that_is_asleep_holds_up_the_start_and_the_end_for_a_second_alone():
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as stderr, patch.object(sys, "stderr", stderr):
        for _ in range(3_000):
            tell_json("progress", {"text": "x" * 100})
        with patch("headroom.audience.WAITED_S", 0.05):
            tell_json("ended", {"text": "x" * 10_000})


# Who is told what.


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run whose load has not ended yet."""
    run = synthetic_run(tmp_path_factory.mktemp("begun"), n=50)
    shutil.rmtree(run.folder / "parts", ignore_errors=True)
    (run.folder / "parts").mkdir()
    recorder = Recorder(run.folder, 0)
    recorder.add([row_of(answered(seq, 1.0, ttft_s=0.2)) for seq in range(20)], [])
    recorder.publish()
    return run


AUDIENCES = {  # a sentence -> audience, what a log gets of two seconds
    "a person gets a line": (Audience(panel=True), ["1 of 60 s"]),
    "of a series none but for each run that has ended": (Audience(panel=True).of_series(), []),
    "a program gets all of it": (Audience(panel=True, as_json=True), ["started", "progress", "progress", "ended"]),
    "a program that is quiet, too": (Audience(as_json=True), ["started", "progress", "progress", "ended"]),
    "and of a series": (Audience(as_json=True).of_series(), ["started", "progress", "progress", "ended"]),
    "nobody gets nothing": (NOBODY, []),
}


@pytest.mark.parametrize("case", AUDIENCES)
def test_each_audience_is_told_in_its_own_way(begun, case, capfd):
    audience, told_ = AUDIENCES[case]
    with audience.watching(begun.folder, begun.manifest) as watched:
        for t_s in (1.0, 2.0):
            watched.show({**TOLD, "t_s": t_s})
        watched.reason = "the budget of 9 requests is used up"
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == len(told_) and all(word in line for word, line in zip(told_, lines, strict=True))
    if "ended" in told_:
        assert json.loads(lines[1])["ttft_p50_ms"] == 200.0 and json.loads(lines[-1])["reason"] == watched.reason


def test_a_page_and_a_collector_get_what_nobody_shows(begun):
    feed, sent = Feed(), []
    with patch("headroom.telemetry.EVERY_S", 0.0):
        telemetry = Telemetry(sent.append)
        with Audience(feed=feed, telemetry=telemetry).watching(begun.folder, begun.manifest) as watched:
            watched.show({**TOLD, "t_s": 1.0})
        telemetry.close()
    counts = [
        {m.name: sum(p.count for p in m.data.data_points) for m in data.resource_metrics[0].scope_metrics[0].metrics}
        for data in sent
    ]
    assert counts[-1]["gen_ai.client.operation.duration"] == 20 and counts[-1]["gen_ai.client.token.usage"] == 40
    assert feed._history[0][1].startswith(b"id: ") and b'"ttft_p50_ms": 200.0' in feed._history[0][1]
