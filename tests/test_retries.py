"""--retries: off by default; when on, every attempt is a row, and the ledger adds up."""

import signal
import time

import polars as pl
import pytest

from loadgen.samples import Run, check_ledger
from tests.commands import INTO_RUN, PLENTY, deployment, headroom, side_by_side, start, wait_for_rows
from tests.servers import Server, always, response

REFUSAL = always(response(b'{"error":{"code":"429"}}', "429 Too Many Requests", retry_after_ms=200))


def failing(first, times):
    """Answers the first attempts of every arrival as `first` does, and later ones well."""
    seen = {}

    async def script(call, writer):
        arrival = call.header("x-ms-client-request-id").rpartition("-")[0]
        seen[arrival] = seen.get(arrival, 0) + 1
        await (first if seen[arrival] <= times else deployment)(call, writer)

    return script


async def hang_up(call, writer):
    writer.write(b"HTTP/1.1 20")  # so it is no idle connection that was closed
    writer.close()


def rows_of(tmp_path, script, *flags):
    with Server(script) as server:
        arguments = ["--target", server.url, "--scenario", "chat", "--rate", "15/s", "--arrivals", "constant"]
        times = ["--duration", "2s", "--warmup", "0s", *INTO_RUN, "--quiet", *PLENTY]
        done = headroom(tmp_path, "run", *arguments, *times, *flags)
    assert done.returncode in (0, 4), done.stderr
    run = Run.open(tmp_path / "run")
    return run.samples.collect(), run.manifest.totals


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Rows and totals of the runs whose waits have no upper bound: they are played side by side."""
    tight = tmp_path_factory.mktemp("config") / "load.toml"
    tight.write_text("[load]\ndrain = 1\n")
    runs = {
        "by default": (failing(REFUSAL, 1),),
        "twice refused": (failing(REFUSAL, 2), "--retries", "3"),
        "refused for 30 s": (always(response(b"{}", "429 Later", retry_after="30")), tight, "--retries", "5"),
    }
    places = {name: tmp_path_factory.mktemp("run") for name in runs}  # here: pytest makes them for one thread
    found = side_by_side(lambda name: rows_of(places[name], *runs[name]), runs)
    return dict(zip(runs, found, strict=True))


def test_by_default_nothing_is_tried_again(played):
    rows, totals = played["by default"]
    assert set(rows["attempt"]) == {0}
    assert set(rows["outcome"]) == {"throttled"}
    assert totals["planned"] == totals["attempts"] == rows.height > 25


def test_every_attempt_is_a_row_and_waits_as_long_as_the_server_asks(played):
    rows, totals = played["twice refused"]
    n = totals["planned"]
    assert (totals["sent"], totals["attempts"], totals["throttled"], totals["ok"]) == (n, 3 * n, 2 * n, n)
    by_arrival = rows.sort("seq", "attempt").group_by("seq", maintain_order=True)
    for _, attempts in by_arrival:
        assert attempts["attempt"].to_list() == [0, 1, 2]
        assert attempts["outcome"].to_list() == ["throttled", "throttled", "ok"]
        assert attempts["due_ns"].n_unique() == 1
        waited_ns = attempts["admitted_ns"].shift(-1) - attempts["done_ns"]
        assert (waited_ns.drop_nulls() >= 200_000_000).all()
        assert attempts["done_ns"][2] - attempts["due_ns"][2] > 400_000_000


FIRSTS = [  # how a first attempt ends, and whether a second may end otherwise
    (always(response(b"{}", "503 Busy")), "server_error", True),
    (always(response(b"{}", "408 Slow")), "rejected", True),
    (hang_up, "network", True),
    (always(response(b"{}", "400 Bad")), "rejected", False),
    (always(response(b"{}", "401 Who")), "rejected", False),
    (always(response(b"{}", "429 Later", retry_after="3600")), "throttled", False),
    (always(response(b"{}", "500 Oops", retry_after_ms=10)), "server_error", True),
    (always(response(b"no answer")), "broken_stream", False),
]


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(tmp_path):
    async def in_turn(call, writer):
        _, seq, attempt = call.header("x-ms-client-request-id").split("-")
        await (deployment if attempt == "1" else FIRSTS[int(seq) % len(FIRSTS)][0])(call, writer)

    rows, totals = rows_of(tmp_path, in_turn, "--retries", "1", "--rate", "75/s", "--no-auto-stop")
    assert totals["planned"] == totals["sent"] > 140
    for number, (_, outcome, tried) in enumerate(FIRSTS):
        of_kind = rows.filter(pl.col("seq") % len(FIRSTS) == number)
        firsts, seconds = of_kind.filter(pl.col("attempt") == 0), of_kind.filter(pl.col("attempt") == 1)
        assert set(firsts["outcome"]) == {outcome}
        assert set(seconds["outcome"]) == ({"ok"} if tried else set())
        assert seconds.height == (firsts.height if tried else 0)
    told = rows.filter(pl.col("seq") % len(FIRSTS) == 6)
    waits_ns = told.filter(pl.col("attempt") == 1)["admitted_ns"] - told.filter(pl.col("attempt") == 0)["done_ns"]
    assert waits_ns.median() < 100_000_000, "a 500 that says when to come back is heeded too"
    busy = rows.filter(pl.col("seq") % len(FIRSTS) == 0)  # nothing says how long to wait
    pauses_ns = busy.filter(pl.col("attempt") == 1)["admitted_ns"] - busy.filter(pl.col("attempt") == 0)["done_ns"]
    assert pauses_ns.is_between(370_000_000, 560_000_000).all()
    assert pauses_ns.n_unique() > 15


def test_after_ctrl_c_no_attempt_is_made_again(tmp_path):
    with Server(always(response(b"{}", "503 Busy", retry_after_ms=300))) as server:
        flags = ["--target", server.url, "--scenario", "chat", "--rate", "20/s", "--duration", "30s", "--warmup", "0s"]
        process = start(tmp_path, "run", *flags, "--retries", "20", *INTO_RUN, *PLENTY)
        wait_for_rows(tmp_path / "run", 60)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        sent, began = len(server.calls), time.monotonic()
        process.communicate(timeout=60)
        assert process.returncode == 105
        assert len(server.calls) <= sent + 5
    run = Run.open(tmp_path / "run")
    check_ledger(run.manifest.totals)
    assert run.manifest.totals["attempts"] == len(server.calls)
    assert time.monotonic() - began < 20


def test_a_run_that_ends_while_retries_wait_keeps_its_ledger(played):
    rows, totals = played["refused for 30 s"]
    assert totals["planned"] == totals["sent"] == totals["throttled"] == rows.height > 25
