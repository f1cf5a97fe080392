"""Runs of two seconds, each for a claim of its own: what they send, what they record, what they say and how they end.

Their claims hold whatever else the machine does, so they are played side by side.
"""

import asyncio
import json
import time
from types import SimpleNamespace

import polars as pl
import pytest

from loadgen.samples import Run
from tests.commands import INTO_RUN, PLENTY, SHORT, deployment, headroom, side_by_side
from tests.servers import Server, always, response

TRACE = [(0, 100, 5), (0.5, 40, 7), (1.25, 900, 3), (2, 4_000, 2)]
FILES = {
    "trace.csv": "\n".join(["at_s,prompt_tokens,completion_tokens", *(",".join(map(str, row)) for row in TRACE)]),
    "brief.toml": "[load]\ndrain = 1\n",
    "narrow.toml": "[load]\nmax_in_flight = 1\n",
    "burst.toml": "[quota]\nburst_s = 5\n[load]\ndrain = 1\n",
    "tight.toml": "[quota]\nrequests_per_minute = 60\nburst_s = 1\n[load]\ndrain = 1\n",
    "mine.py": """
from loadgen.requests import chat
from loadgen.users import DeploymentUser

class Mine(DeploymentUser):
    def request(self, arrival):
        print("hello", arrival.seq, flush=True)
        if arrival.seq > 64 and arrival.seq % 2:
            raise KeyError("mine")
        return chat(self.scenario, [{"role": "user", "content": "hello"}], max_tokens=5)
""",
}


async def half_dead(call, writer):
    await (deployment if call.number % 2 else always(response(b"{}", "500 Oops")))(call, writer)


async def silent_at_times(call, writer):
    if call.number % 5 == 4:
        await asyncio.sleep(60)
    await deployment(call, writer)


async def mostly_refusing(call, writer):
    if call.number > 5:
        await asyncio.sleep(0.02)
        await always(response(b"{}", "429 Too Many", retry_after="60"))(call, writer)
    else:
        await deployment(call, writer)


async def noting_when(call, writer):
    call.at_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    await deployment(call, writer)


FAST = ["--rate", "20/s", *PLENTY]
STREAMS = ["--scenario", "streaming"]
REFUSED = ["burst.toml", *STREAMS, "--rate", "16/s", "--rpm", 60, "--tpm", 60_000]
RUNS = {  # what answers (None: the simulated deployment), and the flags
    "a trace": (None, ["--trace", "trace.csv", "--duration", "3s", "--throttle", "off", "--dialect", "openai"]),
    "closed loop": (mostly_refusing, [*STREAMS, "--users", 4, "--throttle", "off", *PLENTY]),
    "half dead": (half_dead, [*FAST, "--seed", 5, "--slo", "ttft.p50<5s", "--quiet"]),
    "silent at times": (silent_at_times, ["brief.toml", *FAST, "--seed", 5]),
    "a scenario of one's own": (deployment, ["--scenario", "mine.py:Mine", "--rate", "60/s", *PLENTY]),
    "managed": (noting_when, ["tight.toml", "--kind", "managed", "--rate", "20/s", "--seed", 6]),
    "too few connections": (None, ["narrow.toml", *STREAMS, "--rate", "20/s", *PLENTY]),
    "off": (None, [*REFUSED, "--throttle", "off"]),
    "pace": (None, [*REFUSED, "--throttle", "pace"]),
    "feedback": (None, [*REFUSED, "--throttle", "feedback"]),
}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """By name of RUNS: what the command said, its folder, its run, its rows, and the requests as they arrived."""
    places = {name: tmp_path_factory.mktemp("short") for name in RUNS}  # here: pytest makes them for one thread

    def play(name):
        script, flags = RUNS[name]
        cwd = places[name]
        for file, text in FILES.items():
            (cwd / file).write_text(text)
        with Server(deployment if script is None else script) as server:
            target = [] if script is None else ["--target", server.url]
            done = headroom(cwd, "run", *target, *SHORT, *flags, *INTO_RUN)
        assert done.returncode in (0, 4), done.stderr
        run = Run.open(cwd / "run")
        rows = run.samples.collect()
        return SimpleNamespace(done=done, folder=cwd / "run", run=run, rows=rows, calls=server.calls)

    return dict(zip(RUNS, side_by_side(play, RUNS), strict=True))


def test_the_same_seed_sends_the_same_bytes_whatever_is_answered_and_another_does_not(played):
    def bodies_of(name):
        return {call.header("x-ms-client-request-id").partition("-")[2]: call.body for call in played[name].calls}

    bodies = bodies_of("half dead")
    assert len(bodies) > 20
    assert bodies == bodies_of("silent at times")
    assert bodies != bodies_of("managed")


def test_rows_join_with_a_servers_log_by_id_and_clock(played):
    run, rows = played["managed"].run, played["managed"].rows
    received = {call.header("x-ms-client-request-id"): call.at_ns for call in played["managed"].calls}
    assert rows.height == len(received) > 20
    for row in rows.iter_rows(named=True):
        at_ns = received[f"{run.manifest.run_id[:8]}-{row['seq']}-{row['attempt']}"] - run.manifest.monotonic_start_ns
        assert row["sent_ns"] < at_ns < row["done_ns"]


def test_a_trace_is_replayed_at_its_instants_with_its_token_counts(played):
    rows = played["a trace"].rows
    assert rows["due_ns"].to_list() == [round(at_s * 1e9) for at_s, _, _ in TRACE]
    assert rows["prompt_tokens"].to_list() == [prompt for _, prompt, _ in TRACE]
    assert rows["completion_tokens"].to_list() == [completion for _, _, completion in TRACE]
    assert (rows["reserved_tokens"] == rows["prompt_tokens"] + rows["completion_tokens"]).all()


def test_the_openai_dialect_runs_against_the_simulated_deployment_too(played):
    rows = played["a trace"].rows
    assert played["a trace"].run.manifest.config["target"]["dialect"] == "openai"
    assert set(rows["outcome"]) == {"ok"} and set(rows["usage_source"]) == {"server"}


def test_a_closed_loop_is_labelled_and_waits_for_answers(played):
    assert "closed loop" in played["closed loop"].done.stdout
    rows = played["closed loop"].rows
    starts, ends = rows["sent_ns"].to_list(), rows["done_ns"].to_list()
    most = max(sum(begin <= at < end for begin, end in zip(starts, ends, strict=True)) for at in starts)
    assert most == 4


def test_a_closed_loop_that_was_refused_is_no_measure_of_demand(played):
    done = played["closed loop"].done
    assert done.returncode == 4
    assert "hold back then: the rate is that of the refusals" in " ".join(done.stdout.split())


def test_a_run_that_half_failed_is_invalid_whatever_its_objectives(played):
    done, folder = played["half dead"].done, played["half dead"].folder
    assert done.returncode == 4
    assert "of the attempts failed, so the rest is no fair sample" in (folder / "summary.json").read_text()
    assert "Invalid" in done.stderr


def test_requests_that_are_never_answered_are_failures_and_not_forgotten(played):
    assert played["silent at times"].done.returncode == 4
    unanswered = played["silent at times"].rows.filter(pl.col("error") == "drain_timeout")
    assert unanswered.height >= 5 and set(unanswered["outcome"]) == {"timeout"}


def test_a_scenario_of_the_users_own_runs_and_its_mistakes_are_counted(played):
    done, run, rows = (getattr(played["a scenario of one's own"], name) for name in ("done", "run", "rows"))
    assert done.returncode == 4
    failed = rows.filter(pl.col("error") == "scenario_failed")
    assert failed.height > 20 and set(failed["outcome"]) == {"dropped"}
    assert rows.height == rows["seq"].max() + 1
    assert "the scenario raised an error for them" in done.stdout
    assert "scenario mine.py:Mine raised KeyError: 'mine' (mine.py, line 9)" in {note["text"] for note in run.notes}


def test_a_scenario_that_prints_disturbs_nothing(played):
    assert "hello 1" in played["a scenario of one's own"].done.stderr


def test_a_managed_deployment_has_no_quota_and_is_planned_by_the_hour(played):
    plan = json.loads((played["managed"].folder / "summary.json").read_bytes())
    assert plan["quota"] is None and plan["managed"]
    assert plan["traffic"]["outcomes"]["ok"] == plan["traffic"]["planned"] > 30


def test_a_run_that_could_not_send_all_that_was_due_is_invalid(played):
    done, rows = played["too few connections"].done, played["too few connections"].rows
    assert done.returncode == 4 and "INVALID" in done.stdout, done.stdout
    dropped = rows.filter(pl.col("outcome") == "dropped")
    assert dropped.height > 5 and set(dropped["error"]) == {"max_in_flight"} and dropped["sent_ns"].is_null().all()


def test_without_a_throttle_the_endpoint_refuses_and_with_one_it_does_not(played):
    modes = ("off", "pace", "feedback")
    outcomes = {mode: dict(played[mode].rows.group_by("outcome").len().iter_rows()) for mode in modes}
    refused = played["off"].rows.filter(pl.col("outcome") == "throttled")
    assert (refused["retry_after_ms"] > 0).all() and (refused["status"] == 429).all()
    assert outcomes["off"]["throttled"] > 10
    assert "throttled" not in outcomes["pace"] and "throttled" not in outcomes["feedback"]
    assert outcomes["pace"]["dropped"] > 5  # still waiting when the patience ended: never sent, and recorded
