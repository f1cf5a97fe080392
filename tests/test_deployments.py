"""How many deployments a demand needs: its interval, what binds it, what trimming wins, and clients that try again."""

import json
import math
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from dashboards.quota_told import print_quota_plan
from headroom import planning
from loadgen.errors import ConfigError
from loadgen.lengths import parse_lengths
from loadgen.quota import Admission, Quota, WindowKind
from planner.demand import Demand, demand_from_trace
from planner.quota import what_if
from planner.quotas.clients import CLIENTS, Client, retried
from planner.quotas.deployments import Blocks, Search, quota_need
from planner.quotas.doors import windows
from planner.quotas.quota_plan import quota_plan
from planner.quotas.search import smallest
from planner.quotas.synthetic import synthetic_demand

CONVERSATIONS = Path(__file__).parents[2] / "shared" / "data" / "AzureLLMInferenceTrace_conv.csv"
QUOTA = Quota(tokens_per_minute=6_000, requests_per_minute=600, admission=Admission.USAGE)


def demand_of_minutes(tokens, *, per_minute=60, max_tokens=None):
    """So many tokens in each minute, in requests of equal size that come evenly."""
    count = len(tokens) * per_minute
    costs = np.repeat(np.array(tokens) // per_minute, per_minute)
    frame = {"at_s": np.arange(count) * 60 / per_minute, "prompt_tokens": 0 * costs, "completion_tokens": costs}
    limits = costs if max_tokens is None else np.full(count, max_tokens)
    return Demand(pl.DataFrame(frame | {"max_tokens": limits}), 60.0 * len(tokens), "minutes")


def test_a_steady_demand_needs_what_it_fills_and_nothing_else():
    need = quota_need(demand_of_minutes([17_400] * 30), QUOTA)
    assert (need.deployments, need.low, need.high) == (3, 3, 3)
    assert (need.bootstrap_blocks, need.block_minutes, need.phases) == (8, 4, 20)  # 30 ** (1/3) is above 3
    assert need.binds == "tokens" and need.binds_when.mean_load == pytest.approx(2.9)
    assert [policy.window for policy in need.by_policy[:4]] == ["minute", "bucket 60 s", "bucket 10 s", "sliding"]


def test_a_demand_with_a_rare_burst_may_need_more_or_less_than_it_did():
    """Eight minutes of 240 in a row hold 2 % of the requests, of which fewer deployments refuse half and more."""
    tokens = [5_400] * 240
    tokens[100:108] = [17_400] * 8
    need = quota_need(demand_of_minutes(tokens, per_minute=20), QUOTA)
    assert need.low < need.deployments <= need.high
    assert need.low == 1  # where none of these minutes is drawn
    when = need.binds_when
    assert (when.busiest_minute_s, round(when.busiest_minute_load, 1), when.busiest_hour_s <= 6_000) == (
        6_000,
        2.9,
        True,
    )
    assert quota_need(demand_of_minutes(tokens, per_minute=20), QUOTA) == need  # the seed decides
    assert quota_need(demand_of_minutes(tokens, per_minute=20), QUOTA, target_share=0.5).deployments == 1


def test_a_demand_of_less_than_ten_minutes_has_no_interval():
    need = quota_need(demand_of_minutes([17_400] * 9), QUOTA)
    assert (need.deployments, need.low, need.high, need.bootstrap_blocks) == (3, None, None, None)
    assert quota_need(Demand(pl.DataFrame(schema={"at_s": pl.Float64}), 0.0, "none"), QUOTA) is None


def test_days_are_drawn_whole_where_there_is_a_week_of_them():
    week = Demand(pl.DataFrame(), 7 * 86_400.0, "a week")
    blocks = Blocks.of(week, 1)
    assert (blocks.minutes, blocks.count) == (1_440, 7)
    assert Blocks.of(replace(week, span_s=6 * 86_400.0), 1).minutes == math.ceil(8_640 ** (1 / 3))


def test_blocks_keep_minutes_together_and_lose_none():
    blocks = Blocks.of(Demand(pl.DataFrame(), 600.0, "ten minutes"), 1)
    assert set(blocks.sums(np.ones(10)).tolist()) == {blocks.count * blocks.minutes}
    first = blocks.sums(np.arange(10.0) == 0)  # the first minute follows the last
    assert first.mean() == pytest.approx(blocks.count * blocks.minutes / 10, rel=0.05)


def test_a_stretch_may_be_fuller_than_the_fullest_that_was_seen_in_a_demand_that_varies():
    """Ten minutes of which none fills three deployments do not show that two more will not be needed."""
    blocks = Blocks.of(Demand(pl.DataFrame(), 600.0, "ten minutes"), 1)
    steady, varied = np.full(10, 2.0), np.array([0.5, 1.0, 2.0, 0.7, 1.5, 2.0, 0.6, 0.9, 1.8, 2.0])
    assert not any(more.any() for more in blocks.swollen(np.ones(10), steady, 3))
    more_offered, more_lost = blocks.swollen(np.ones(10), varied, 3)
    assert more_offered.min() < 0 < more_offered.max() and 0 == np.median(more_lost) < more_lost.max()
    assert not any(more.any() for more in replace(blocks, of_minutes=1_441).swollen(np.ones(10), varied, 3))


def test_the_requests_bind_where_they_are_small():
    quota = replace(QUOTA, tokens_per_minute=200_000, requests_per_minute=25)
    need = quota_need(demand_of_minutes([600] * 30), quota)
    assert (need.binds, need.binds_when.tokens_nearer_share, need.deployments) == ("requests", 0, 3)


def test_the_spread_holds_each_admission_that_counts_otherwise_and_each_slice():
    quota = replace(QUOTA, admission=Admission.PROMPT_AND_MAX)
    policies = quota_need(demand_of_minutes([3_000] * 20, max_tokens=200), quota).by_policy
    found = {(policy.admission, policy.request_slice_s): policy.deployments for policy in policies}
    assert list(found) == [
        ("prompt+max_tokens", 60),
        ("prompt+max_tokens", 10),
        ("prompt+max_tokens", 1),
        ("usage", 60),
    ]
    assert found["prompt+max_tokens", 60] == 2 and found["usage", 60] == 1  # 60 x 200 against 60 x 50 tokens


def test_a_lower_max_tokens_wins_deployments_and_says_whose_answers_it_cuts():
    demand = demand_of_minutes([3_000] * 20, max_tokens=200)  # answers of 50 tokens,
    longer = pl.when(pl.int_range(pl.len()) % 33 == 0).then(150).otherwise("completion_tokens")  # and a few of 150
    demand = replace(demand, arrivals=demand.arrivals.with_columns(completion_tokens=longer))
    quota = replace(QUOTA, admission=Admission.PROMPT_AND_MAX, tokens_per_minute=3_100)
    trims = quota_need(demand, quota).max_tokens_trim
    assert [(trim.percentile, trim.max_tokens, trim.deployments) for trim in trims] == [(0.99, 150, 3), (0.95, 50, 1)]
    assert [trim.cut_short_share for trim in trims] == [0, pytest.approx(1 / 33, abs=0.001)]
    assert quota_need(demand, replace(quota, admission=Admission.USAGE)).max_tokens_trim == ()


@pytest.mark.parametrize("answer", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("start", [1, 2, 50, 100])
def test_the_smallest_number_is_found_from_wherever_the_search_begins(start, answer):
    assert smallest(lambda number: number >= answer, start, 100) == answer


@pytest.fixture(scope="module")
def conversations():
    if not CONVERSATIONS.exists():
        pytest.skip(f"{CONVERSATIONS.name} (Azure/AzurePublicDataset) is not here")
    return demand_from_trace(CONVERSATIONS)


def test_the_conversation_trace_needs_four_deployments_three_to_five(conversations):
    need = quota_need(conversations, Quota())
    assert (need.deployments, need.low, need.high, need.binds) == (4, 3, 5, "tokens")
    assert [policy.deployments for policy in need.by_policy[:4]] == [4, 3, 4, 4]
    assert need.max_tokens_trim == ()  # a trace asks for as much as it got


# --- clients that try again ---

FULL = pl.DataFrame({"at_s": [0.0, 1.0, 2.0], "prompt_tokens": 600, "completion_tokens": 0, "max_tokens": 0})
ONE_A_MINUTE = Quota(tokens_per_minute=600, requests_per_minute=60, window=WindowKind.MINUTE)


@pytest.mark.parametrize(
    ("client", "attempts", "refused_after", "delay_max_s"),
    [
        pytest.param(Client(name="once", tries=1), 3, [2], 0, id="two of three are refused"),
        pytest.param(
            Client(name="told", tries=3, honours_retry_after=True), 6, [2, 1, 0], 118, id="59 and 58 s, then 60 more"
        ),
        pytest.param(
            Client(name="backs off", tries=7, first_wait_s=1, longest_wait_s=60),
            1 + 7 + 7, [2, 2, 2, 2, 2, 2, 1], 63, id="1 + 2 + 4 + ... s: 63 s after the first try one comes in"
        ),
        pytest.param(Client(name="hammers", tries=9, first_wait_s=0.1, growth=1), 19, [2] * 9, 0, id="in vain"),
    ],
)  # fmt: skip
def test_clients_try_again_as_they_do_until_they_give_up(client, attempts, refused_after, delay_max_s):
    found = retried(FULL, ONE_A_MINUTE, 1, client)
    assert (found.attempts, found.requests, found.delay_max_s) == (attempts, 3, delay_max_s)
    assert found.refused_after_share == pytest.approx([share / 3 for share in refused_after])
    assert found.refused_share == found.refused_after_share[-1]


def test_a_client_that_gives_up_at_once_is_refused_as_the_replay_says(conversations):
    for window in ("minute", "bucket 10 s", "sliding"):
        once = retried(conversations.arrivals, Quota(), 2, CLIENTS[0], window=window)
        replayed = what_if(conversations.arrivals, Quota(), 2, window=window).row(0, named=True)
        assert once.refused_share == replayed["refused_requests_share"]


def test_waits_are_drawn_from_the_seed_and_bounded():
    client = Client(name="backs off", tries=5, jitter_share=0.5)
    assert retried(FULL, ONE_A_MINUTE, 1, client, seed=3) == retried(FULL, ONE_A_MINUTE, 1, client, seed=3)
    assert retried(FULL, ONE_A_MINUTE, 1, client).attempts == 11
    for wrong in ({"tries": 0}, {"tries": 1_001}, {"jitter_share": 2}, {"first_wait_s": 0}, {"growth": 0.5}):
        with pytest.raises(ConfigError, match="client x"):
            Client(**({"name": "x", "tries": 2} | wrong))


# --- demands that nobody recorded, and the page ---


def test_a_drawn_demand_has_the_rate_and_the_lengths_that_were_asked_for():
    lengths = parse_lengths("lognormal:900,0.8"), parse_lengths("uniform:50..400")
    demand = synthetic_demand(20, *lengths, 300, duration_s=600)
    assert demand.arrivals.height == pytest.approx(12_000, rel=0.03)
    assert demand.arrivals["prompt_tokens"].median() == pytest.approx(900, rel=0.03)
    assert demand.arrivals["completion_tokens"].max() == 300 and demand.span_s == 600
    assert demand.arrivals.equals(synthetic_demand(20, *lengths, 300, duration_s=600).arrivals)
    assert not demand.arrivals.equals(synthetic_demand(20, *lengths, 300, duration_s=600, seed=2).arrivals)
    with pytest.raises(ConfigError, match="more than 5,000,000 requests"):
        synthetic_demand(20_000, *lengths, 300, duration_s=3_600)
    with pytest.raises(ConfigError, match="no demand"):
        synthetic_demand(0, *lengths, 300)


def test_the_page_of_a_quota_fits_80_columns_and_says_what_was_found():
    tokens = [5_400] * 60
    tokens[30:34] = [17_400] * 4
    plan = quota_plan(
        demand_of_minutes(tokens, per_minute=12, max_tokens=1_600), replace(QUOTA, admission=Admission.PROMPT_AND_MAX)
    )
    console = Console(file=StringIO(), width=80)
    print_quota_plan(plan, console)
    text = console.file.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80 and "…" not in text
    for words in (
        f"{plan.need.deployments} deployments refuse at most 1 %",
        "95 % confidence",
        "The tokens bind",
        "720 requests are larger than a bucket 10 s ever admits",
        "hammers",
    ):
        assert words in " ".join(text.split())


def test_the_plan_of_a_trace_is_printed_as_json(tmp_path, capfdbinary):
    trace = tmp_path / "trace.csv"
    trace.write_text("at_s,prompt_tokens,completion_tokens\n" + "".join(f"{second},100,20\n" for second in range(900)))
    planning.plan_from_trace(str(trace), replace(QUOTA, tokens_per_minute=4_000), growth=None, as_json=True)
    plan = json.loads(capfdbinary.readouterr().out)
    assert (plan["need"]["deployments"], plan["need"]["low"], plan["rows"][-1]["deployments"]) == (2, 2, 2)
    assert {each["client"] for each in plan["clients"]} == {client.name for client in CLIENTS}


# --- whether the interval holds ---


def varying(minutes, lasting, seed, rate_per_s=2.5):
    """Poisson arrivals at a rate whose logarithm is autoregressive from minute to minute, with deviation 0.4."""
    draw = np.random.default_rng(seed)
    level = np.zeros(minutes + 2)
    for minute in range(1, len(level)):
        level[minute] = lasting * level[minute - 1] + draw.normal(0, 0.4 * math.sqrt(1 - lasting**2))
    areas = np.concatenate(([0.0], np.cumsum(np.exp(level)))) * 60
    area = np.cumsum(draw.exponential(1 / rate_per_s, int(rate_per_s * 60 * minutes)))
    at_s = np.interp(area[area < areas[-1]], areas, np.arange(len(areas)) * 60.0)
    prompts = np.rint(draw.lognormal(6.5, 0.9, len(at_s))).astype(np.int64) + 1
    frame = {"at_s": at_s, "prompt_tokens": prompts, "completion_tokens": 150, "max_tokens": 1_000}
    return Demand(pl.DataFrame(frame), 60.0 * minutes, "drawn")


@pytest.mark.long
@pytest.mark.parametrize(
    ("minutes", "lasting", "least"), [(60, 0.5, 36), (60, 0.8, 30), (240, 0.5, 36), (240, 0.8, 36)]
)
def test_the_interval_of_an_hour_holds_what_the_long_run_needs(minutes, lasting, least):
    way = windows(Quota())["minute"]
    long = varying(1_300, lasting, 999)
    truth = Search(long, long, 0.01, (0,), None).tried(way).deployments
    found = []
    for seed in range(40):
        demand = varying(minutes, lasting, seed)
        found.append(
            Search(demand, demand, 0.01, (0, 17 * 10**9, 40 * 10**9), Blocks.of(demand, 1)).need(way, "minute")
        )
    assert sum(need.low <= truth <= need.high for need in found) >= least
