"""What ends a run before its schedule does: budgets (111), the auto-stop (108), the file STOP and Ctrl-C (105)."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from loadgen.samples import Run, check_ledger
from tests.commands import deployment, environment, headroom, side_by_side, start, told
from tests.servers import Server, always, response

PROMPT, COMPLETION = 200, 100  # tokens of each answer
ANSWER = response(
    json.dumps(
        {
            "id": "a",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": PROMPT, "completion_tokens": COMPLETION, "total_tokens": PROMPT + COMPLETION},
        }
    ).encode()
)
LOAD = [
    "--scenario",
    "chat",
    "--rate",
    "20/s",
    "--duration",
    "20s",
    "--warmup",
    "0s",
    "--no-report",
    "--throttle",
    "off",
]
DENIED = b'{"error":{"code":"Unauthorized"}}'


async def busy(call, writer):
    """Answers every other attempt of an arrival with 429."""
    again = not call.header("x-ms-client-request-id").endswith("-0")
    await (always(ANSWER) if again else always(response(b"{}", "429 Later", retry_after_ms=1)))(call, writer)


async def slow(call, writer):
    await asyncio.sleep(0.2)
    writer.write(ANSWER)


RUNS = {  # name -> script, flags
    "requests": (busy, ["--budget-requests", "31", "--retries", "3"]),
    "tokens": (slow, ["--budget-tokens", "6000"]),
    "usd": (always(ANSWER), ["--budget-usd", "0.0015"]),
    "wall": (slow, ["--budget-wall", "1500ms"]),
    "401": (always(response(DENIED, "401 Unauthorized")), []),
    "403": (always(response(DENIED, "403 Forbidden")), ["--users", "1"]),
    "unarmed": (always(response(DENIED, "401 Unauthorized")), ["--no-auto-stop", "--duration", "1s"]),
}


QUICK = ("requests", "usd", "401")
LONG = pytest.mark.long


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """By name: the command as it ended, its run, what the server was asked. The quick ones are played together."""
    cwd, done = tmp_path_factory.mktemp("ended"), {}

    def play(name):
        script, flags = RUNS[name]
        load = [word for word in LOAD if word not in ("--rate", "20/s")] if "--users" in flags else LOAD
        with Server(script) as server:
            key = {"AZURE_INFERENCE_CREDENTIAL": "k" * 32} if name in ("401", "403") else {}
            finished = headroom(cwd, "run", "--target", server.url, *load, *flags, "--out", name, **key)
            return finished, Run.open(cwd / name), server.calls

    def of(name):
        if name not in done:
            group = [each for each in RUNS if (each in QUICK) == (name in QUICK)]
            done.update(zip(group, side_by_side(play, group), strict=True))
        return done[name]

    return of


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("requests", "the budget of 31 requests is used up"),
        pytest.param("tokens", "the next request might have passed the budget of 6,000 tokens", marks=LONG),
        ("usd", "the next request might have passed the budget of $0.0015"),
        pytest.param("wall", "the budget of 1.5 s is used up", marks=LONG),
    ],
)
def test_a_budget_that_is_used_up_ends_the_run_with_111_and_a_whole_record(ended, name, reason):
    done, run, calls = ended(name)
    assert done.returncode == 111, done.stderr
    assert f"headroom: {reason}" in done.stderr
    assert (run.manifest.state, run.manifest.reason) == ("interrupted", reason)
    totals = run.manifest.totals
    check_ledger(totals, totals["planned"])
    assert totals["attempts"] == len(calls) == totals["ok"] + totals["throttled"]  # what was in flight was waited for
    assert set(run.samples.filter(pl.col("outcome") == "dropped").collect()["error"]) == {"budget"}
    summary = json.loads((run.folder / "summary.json").read_text())
    assert re.search(r"budget: .* used\n", done.stdout)
    (use,) = summary["budget"]
    assert use["used"] <= use["limit"]
    assert "; budget: " in done.stderr  # the lines of progress


def test_each_attempt_counts_against_the_requests_and_none_is_sent_above(ended):
    _, run, calls = ended("requests")
    assert len(calls) == 31
    assert run.manifest.budget == {"requests": {"used": 31, "limit": 31}}
    assert run.manifest.totals["throttled"] > 10  # each of them tried again, within the budget


@LONG
def test_tokens_in_flight_count_at_their_estimate_and_answers_at_their_usage(ended):
    _, run, calls = ended("tokens")
    estimated = run.samples.filter(pl.col("attempt") == 0).collect()["reserved_tokens"].max()
    assert run.manifest.budget["tokens"]["used"] == len(calls) * (PROMPT + COMPLETION)
    assert len(calls) > 6_000 // estimated  # what was settled was used again


def test_dollars_are_spent_at_the_price_of_the_book(ended):
    _, run, calls = ended("usd")
    ((_, price),) = run.manifest.prices.items()
    spent = len(calls) * (PROMPT * price["input_usd_per_1k"] + COMPLETION * price["output_usd_per_1k"]) / 1_000
    assert run.manifest.budget["usd"]["used"] == pytest.approx(spent)
    assert len(calls) > 5 and spent < 0.0015


@LONG
def test_after_the_wall_time_nothing_is_sent(ended):
    sent = ended("wall")[1].samples.select(pl.col("sent_ns").max()).collect().item()
    assert 1_300_000_000 < sent < 1_500_000_000


@pytest.mark.parametrize("name", ["401", pytest.param("403", marks=LONG)])
def test_the_first_answer_that_refuses_the_key_ends_the_run_with_108(ended, name):
    done, run, calls = ended(name)
    assert done.returncode == 108, done.stderr
    assert re.search(
        rf"headroom: auto-stop: http://localhost:\d+ answered {name}: the key from the environment variable AZURE_INF",
        done.stderr,
    )
    assert run.manifest.state == "interrupted" and run.manifest.reason.startswith("auto-stop: ")
    assert len(calls) == 1


@LONG
def test_without_the_auto_stop_a_refused_key_ends_nothing(ended):
    done, run, calls = ended("unarmed")
    assert done.returncode == 4 and run.manifest.state == "complete"
    assert len(calls) > 10


@LONG
@pytest.mark.parametrize("status", ["500 No", "404 No"])
def test_hardly_anything_but_errors_ends_the_run_with_108(tmp_path, status):
    with Server(always(response(b"{}", status))) as server:
        done = headroom(tmp_path, "run", "--target", server.url, *LOAD, "--duration", "40s", "--out", "run")
    assert done.returncode == 108, done.stderr
    assert re.search(r"headroom: auto-stop: (\d+) of \1 attempts of the last 1\d s failed", done.stderr)
    assert 190 < len(server.calls) < 280


@LONG
def test_429s_are_no_errors_to_the_auto_stop(tmp_path):
    with Server(always(response(b"{}", "429 Later"))) as server:
        done = headroom(tmp_path, "run", "--target", server.url, *LOAD, "--duration", "15s", "--out", "run")
    assert done.returncode == 4 and len(server.calls) > 250


@LONG
def test_a_server_that_asks_for_a_day_of_silence_is_not_obeyed_in_silence(tmp_path):
    (tmp_path / "load.toml").write_text("[load]\ndrain = 0.1\n")
    with Server(always(response(b"{}", "429 Later", retry_after=86_400))) as server:
        load = [*LOAD[:-1], "feedback", "--duration", "1s", "--out", "run"]
        done = headroom(tmp_path, "run", "load.toml", "--target", server.url, *load)
    assert len(server.calls) == 1
    text = re.sub(r"\s+", " ", done.stdout)
    assert f"http://localhost:{server.port} asked to wait 86,400 s after a 429; it was left alone for 60 s" in text


MISTAKES = [
    pytest.param(["--target", "https://example.com", "--yes-target", "example.com"], 112, "needs a budget: add --budget-requests N, --budget-tokens N or --budget-usd N", id="no budget"),
    pytest.param(["--model", "gpt-nobody-sells", "--budget-usd", "1"], 2, "no serverless price for gpt-nobody-sells, so --budget-usd cannot be kept: give --model", id="no price"),
    pytest.param(["--budget-tokens", "10"], 2, "estimated at .* more than the whole budget of 10 tokens", id="not one request"),
    pytest.param(["--budget-requests", "0"], 2, "--budget-requests: ", id="no requests"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "code", "complaint"), MISTAKES)
def test_a_budget_that_cannot_be_kept_is_an_error_before_anything_is_sent(tmp_path, flags, code, complaint):
    with Server(deployment) as server:
        target = [] if "--target" in flags else ["--target", server.url]
        command = headroom if "more than the whole budget" in complaint else told  # what the load process finds out
        done = command(tmp_path, "run", *target, *LOAD, *flags, "--out", "run")
    assert done.returncode == code, done.stderr
    assert re.search(complaint, done.stderr), done.stderr
    assert not server.calls and not (tmp_path / "run").exists()


@pytest.mark.parametrize("streams", [300])
def test_the_file_stop_silences_300_streams_within_a_second(tmp_path, streams):
    """The server itself says when the last byte of a request came, and when it could send the last of an answer."""
    last_s = [0.0]
    frame = b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n'

    async def endless(call, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"%x\r\n%b\r\n" % (len(frame), frame))
            await writer.drain()
            last_s[0] = time.monotonic()
            await asyncio.sleep(0.1)

    with Server(endless) as server:
        load = ["--users", streams, "--scenario", "streaming", "--duration", "60s", "--throttle", "off", "--no-report"]
        process = start(tmp_path, "run", "--target", server.url, *load, "--out", "run")
        deadline = time.monotonic() + 30
        while len(server.calls) < streams and time.monotonic() < deadline:
            time.sleep(0.02)
        (tmp_path / "run" / "STOP").touch()
        stopped_s = time.monotonic()
        _, stderr = process.communicate(timeout=30)
        time.sleep(0.2)
    assert process.returncode == 105 and "headroom: stopped by the file STOP" in stderr
    assert last_s[0] - stopped_s < 1
    assert len(server.calls) == streams
    totals = Run.open(tmp_path / "run").manifest.totals
    assert totals["planned"] == totals["cancelled"] == streams


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@LONG
def test_a_signal_drains_what_is_in_flight_within_ten_seconds(tmp_path, number):
    with Server(slow) as server:
        process = start(tmp_path, "run", "--target", server.url, *LOAD, "--out", "run")
        while len(server.calls) < 20:
            time.sleep(0.02)
        process.send_signal(number)
        began = time.monotonic()
        process.communicate(timeout=30)
    assert process.returncode == 105 and time.monotonic() - began < 10
    totals = Run.open(tmp_path / "run").manifest.totals
    assert totals["ok"] == totals["sent"] == len(server.calls) and totals["cancelled"] == 0


@pytest.mark.parametrize(
    "imported",
    ["typer", "headroom.running", *(pytest.param(name, marks=LONG) for name in ("headroom.commands.app", "polars"))],
)
def test_ctrl_c_at_the_very_start_ends_cleanly_and_leaves_nothing(tmp_path, imported):
    """As soon as something has been imported, which the interpreter says; before our first line nothing can be said."""
    command = [sys.executable, "-X", "importtime", "-m", "headroom", "run", "--duration", "30s"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            if line.rpartition("|")[2].strip() == imported:
                break
        process.send_signal(signal.SIGINT)
        stderr = process.stderr.read()
    assert process.returncode == 105 and "headroom: interrupted" in stderr and "Traceback" not in stderr, stderr[
        -2_000:
    ]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
