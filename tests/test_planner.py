"""The planner from demand to headline, on runs small enough to work out by hand."""

import json
from dataclasses import asdict, fields
from datetime import date

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.config import RunConfig
from loadgen.errors import ConfigError, RunFolderError
from loadgen.quota import Admission, Quota, WindowKind
from loadgen.samples import Outcome, Phase, Run
from loadgen.slo import Slo
from planner import scope
from planner.assemble import plan_run, to_json
from planner.cost import (
    Tokens,
    break_even_output_share,
    cores_of_quota,
    managed_costs,
    serverless_cost,
    tokens_usd,
)
from planner.demand import (
    REQUESTS,
    Demand,
    admission_tokens,
    at_rate,
    busiest,
    demand_from_trace,
    demand_of_run,
    grown,
    peak_per_minute,
    repeated,
)
from planner.instances import ASSUMED_CONCURRENCY, concurrency_of_instance, instance_estimate
from planner.plan import Plan
from planner.prices import plain_name, read_prices
from planner.quota import deployments_needed, replayed, what_if, what_if_table
from planner.scope import watched_part
from tests.runs import PHI_3_MINI, answered, dropped, make_run, refused, synthetic_run

BOOK = read_prices()
PRICE = BOOK.token_price("Phi-3-mini-4k-Instruct")


def arrivals(*rows):
    """(at_s, prompt_tokens, max_tokens, completion_tokens)"""
    tokens = dict.fromkeys(("prompt_tokens", "max_tokens", "completion_tokens"), pl.Int64)
    return pl.DataFrame(rows, schema={"at_s": pl.Float64, **tokens}, orient="row")


def config(**sections):
    load = {"rate": 10, "duration": 65, "warmup": 5, **sections.pop("load", {})}
    return RunConfig.model_validate({"load": load, **sections})


def steady_run(tmp_path, n=600, **changes):
    """Ten requests a second for a minute, each 100 + 50 tokens in 500 ms."""
    sample = changes.pop("sample", lambda seq, due_s: answered(seq, due_s, ttft_s=0.2))
    samples = [sample(i, 5 + i / 10) for i in range(n)]
    return make_run(tmp_path, samples, config=changes.pop("config", config()), **changes)


# --- demand ---


def test_the_demand_of_a_run_is_each_steady_arrival_once_when_it_came_due_whatever_became_of_it(tmp_path):
    samples = [
        answered(0, 1.0, phase=Phase.WARMUP),
        refused(1, 6.0),
        answered(1, 6.0, attempt=1, wait_s=9.0, prompt_tokens=90, completion_tokens=40),
        dropped(2, 7.0, reserved_tokens=0),
        answered(3, 8.0, prompt_tokens=110, completion_tokens=61),
    ]
    demand = demand_of_run(make_run(tmp_path, samples))
    assert demand.arrivals.rows() == [
        (1.0, 90, 128, 40),
        (2.0, 100, 128, 50),  # the means of its scenario: 100, 90 and 110; 50, 40 and 61
        (3.0, 110, 128, 61),
    ]
    assert (demand.span_s, demand.requests_per_s) == (55.0, 3 / 55)


@given(st.tuples(st.integers(0, 9_999), st.integers(0, 9_999), st.integers(0, 9_999)))
def test_admission_over_columns_is_the_rule_of_the_quota(row):
    prompt, limit, completion = row
    for admission in Admission:
        (found,) = arrivals((0.0, *row)).select(admission_tokens(admission)).to_series()
        assert found == admission.cost(prompt_tokens=prompt, max_tokens=limit, completion_tokens=completion)


@pytest.mark.parametrize(
    ("instants", "span_s", "peak"),
    [
        pytest.param([0, 30, 59], 120, 3, id="three within a minute"),
        pytest.param([0, 30, 60], 120, 2, id="the first has left when the third comes, a minute later"),
        pytest.param([0, 61, 62, 63, 130], 200, 3, id="the busiest minute may begin anywhere"),
        pytest.param([1, 2, 3], 30, 6, id="half a minute is scaled up"),
        pytest.param([], 0, 0, id="no arrivals"),
    ],
)
def test_peaks_are_of_the_busiest_sliding_minute(instants, span_s, peak):
    demand = Demand(arrivals(*((float(t), 10, 5, 2) for t in instants)), span_s, "here")
    assert peak_per_minute(demand, REQUESTS) == peak
    assert peak_per_minute(demand, admission_tokens(Admission.PROMPT_AND_MAX)) == 15 * peak


def test_demand_grows_repeats_and_is_cut_to_its_busiest_part():
    demand = Demand(arrivals((1.0, 1, 1, 1), (2.0, 2, 2, 2), (5.0, 3, 3, 3), (6.0, 4, 4, 4)), 10.0, "here")
    assert grown(demand, 2).arrivals["at_s"].to_list() == [0.5, 1.0, 2.5, 3.0]
    assert (grown(demand, 2).span_s, grown(demand, 2).requests_per_s) == (5.0, 0.8)
    assert at_rate(demand, 4).requests_per_s == 4
    assert repeated(demand, 15).arrivals["at_s"].to_list() == [1, 2, 5, 6, 11, 12, 15, 16]
    assert repeated(demand, 15).span_s == 20
    assert repeated(demand, 10) is demand
    assert busiest(demand, 4) is demand
    two = busiest(Demand(arrivals(*((t, int(t), 0, 0) for t in (1.0, 2.0, 5.0, 6.0, 7.0, 12.0))), 20.0, "here"), 2)
    assert (two.arrivals["prompt_tokens"].to_list(), two.arrivals["at_s"].to_list()) == ([5, 6], [0, 1])
    assert two.span_s == 2  # until the next one came


def test_a_rate_cannot_be_made_from_the_mix_of_nothing():
    with pytest.raises(ConfigError, match="no arrival of the steady phase"):
        at_rate(Demand(arrivals(), 0.0, "here"), 5)


def test_a_trace_asks_for_as_many_tokens_as_it_records(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("at_s,prompt_tokens,completion_tokens\n10,5,7\n12,6,8\n14.5,1,2\n")
    demand = demand_from_trace(path)
    assert demand.arrivals.rows() == [(0.0, 5, 7, 7), (2.0, 6, 8, 8), (4.5, 1, 2, 2)]
    assert demand.span_s == 6.75  # the last is followed by a mean gap, too
    path.write_text("at_s,prompt_tokens,completion_tokens\n10,5,7\n")
    assert demand_from_trace(path).span_s == 60


# --- quota ---

TINY = Quota(tokens_per_minute=600, requests_per_minute=60, admission=Admission.USAGE, window=WindowKind.MINUTE)


@pytest.mark.parametrize(
    ("deployments", "rejected", "rejected_tokens", "delays_s"),
    [
        pytest.param(
            1, 2 / 4, 500 / 900, [0, 0, 50, 40], id="one deployment: 100 fits beside 300, 200 and 300 must wait"
        ),
        pytest.param(2, 0, 0, [0, 0, 0, 0], id="two, dealt in turn: 300 + 200 and 100 + 300"),
    ],
)
def test_a_replay_deals_arrivals_in_turn_and_refuses_or_delays_what_does_not_fit(
    deployments, rejected, rejected_tokens, delays_s
):
    # 700 tokens can never fit and are counted apart; they take a turn all the same, and so the deal is 1, 2, (1), 2, 1.
    rows = [(300, 0.0), (100, 5.0), (200, 10.0), (300, 20.0)]
    if deployments == 1:
        rows.insert(2, (700, 7.0))
    demand = arrivals(*((at_s + 100, 0, 0, tokens) for tokens, at_s in rows))
    quota = Quota(**{**asdict(TINY), "tokens_per_minute": 500 if deployments == 1 else 600})
    refusing = what_if(demand, quota, deployments).row(0, named=True)
    assert (refusing["refused_requests_share"], refusing["refused_tokens_share"]) == (rejected, rejected_tokens)
    assert refusing["never_fit"] == (1 if deployments == 1 else 0)
    assert what_if(demand, quota, deployments, mode="queue")["refused_requests"].item() == 0
    queueing = replayed(demand, quota, deployments, mode="queue")
    assert queueing["delay_s"].drop_nulls().to_list() == delays_s


def test_a_queue_is_never_overtaken_and_its_delays_are_nearest_ranks():
    quota = Quota(tokens_per_minute=600, requests_per_minute=60, admission=Admission.USAGE, window=WindowKind.BUCKET)
    demand = arrivals((0.0, 600, 0, 0), (0.0, 300, 0, 0), (0.0, 10, 0, 0))
    assert replayed(demand, quota, 1, mode="queue")["delay_s"].to_list() == [0, 30, 31]  # ten tokens a second come back
    table = what_if(demand, quota, 1, mode="queue")
    assert (table["delay_p50_s"].item(), table["delay_p99_s"].item()) == (30, 31)


def test_the_table_goes_on_until_every_way_of_enforcing_refuses_at_most_one_percent():
    demand = Demand(arrivals(*((i / 10, 100, 0, 50) for i in range(6_000))), 600.0, "ten a second")  # 90,000 a minute
    quota = Quota(tokens_per_minute=50_000, requests_per_minute=1_000, admission=Admission.USAGE)
    table = what_if_table(demand, quota)
    assert [(row.deployments, row.window) for row in table] == [
        (n, window) for n in (1, 2) for window in ("minute", "bucket 60 s", "bucket 10 s", "sliding")
    ]
    one = {row.window: row.rejected_requests_share for row in table if row.deployments == 1}
    assert one["minute"] == pytest.approx(1 - 333 / 600)  # 333 requests of 150 tokens fit 50,000
    assert one["bucket 60 s"] == pytest.approx(1 - 11 / 18, abs=0.001)  # ten minutes' refill and a full bucket
    assert {row.rejected_requests_share for row in table if row.deployments == 2} == {0.0}
    assert deployments_needed(table) == 2
    assert deployments_needed(table[:4]) is None
    assert what_if_table(Demand(arrivals(), 0.0, "none"), quota) == ()


def test_a_table_for_many_deployments_starts_near_their_number():
    demand = Demand(arrivals(*((i / 10, 100, 0, 50) for i in range(1_800))), 180.0, "ten a second")
    table = what_if_table(demand, Quota(tokens_per_minute=3_000, requests_per_minute=1_000, admission=Admission.USAGE))
    assert table[0].deployments == 29  # 90,000 tokens a minute fill 30
    assert deployments_needed(table) == 30


@pytest.mark.parametrize(
    ("rate", "span_s", "watched_s", "n"),
    [
        pytest.param(1, 60, 600, 600, id="a minute is repeated for ten"),
        pytest.param(100, 60, 300, 30_000, id="fewer where that is more than 30,000 arrivals"),
        pytest.param(1_000, 60, 180, 180_000, id="but never less than three"),
        pytest.param(2, 20_000, 15_000, 30_000, id="a long demand is cut to the busiest 30,000"),
    ],
)
def test_a_quota_is_watched_long_enough_to_fill_its_windows_and_no_longer(rate, span_s, watched_s, n):
    at_s = pl.int_range(0, rate * span_s, eager=True) / rate
    tokens = {name: pl.lit(1, pl.Int64) for name in ("prompt_tokens", "max_tokens", "completion_tokens")}
    watched = watched_part(Demand(at_s.to_frame("at_s").with_columns(**tokens), float(span_s), "here"))
    assert (watched.arrivals.height, watched.span_s) == (n, pytest.approx(watched_s))


# --- prices ---


@pytest.mark.parametrize(
    "name", ["Phi-3-mini-4k-Instruct", "phi-3-mini-4k", "azure_ai/Phi_3_mini_4k_instruct", " PHI-3 mini-4K-INSTRUCT "]
)
def test_a_model_is_found_whatever_the_spelling_of_its_name(name):
    assert BOOK.token_price(name) is PRICE
    assert [sku.name for sku in BOOK.skus_for(name)][:2] == ["Standard_NC24ads_A100_v4", "Standard_NC48ads_A100_v4"]


def test_the_book_has_no_price_it_does_not_know():
    assert plain_name("Meta-Llama-3.1-8B-Instruct") == "llama-3.1-8b"
    assert BOOK.token_price("Llama-3.1-8B").input_usd_per_1k == 0.0003
    assert BOOK.token_price("Phi-3-vision-128k-Instruct") is None  # managed only
    assert BOOK.token_price("") is None
    assert BOOK.skus_for("Phi-3-vision-128k-Instruct")[0].gpus == 2
    assert BOOK.skus_for("gpt-99") == ()


MINIMAL = """
currency = "USD"
[serverless]
source = "a contract"
dated = 2026-01-02
[serverless.models]
mine = { input_usd_per_1k = 1, output_usd_per_1k = 2.5 }
[managed]
source = "a quote"
dated = 2026-01-03
[managed.skus.big]
cores = 4
gpus = 1
exempt_from_reservation = true
usd_per_hour = { here = 2.0 }
[managed.models]
mine = ["big"]
"""


def test_a_user_may_bring_their_own_book(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(MINIMAL)
    book = read_prices(path)
    assert (book.token_price("MINE").output_usd_per_1k, book.token_price("mine").dated) == (2.5, date(2026, 1, 2))
    assert book.skus_for("Mine")[0].usd_per_hour == {"here": 2.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("= 2.5", "= 0"), r'serverless.models."mine".output_usd_per_1k must be a price above zero, not 0'),
        (("= 2.5", "= -1.0"), r"must be a price above zero, not -1.0"),
        (("= 2.5", "= nan"), r"must be a price above zero, not nan"),
        (("= 2.5", "= true"), r"must be a price above zero, not True"),
        (("here = 2.0", "here = 0.0"), r"managed.skus.big.usd_per_hour.here must be a price above zero"),
        (('"USD"', '"EUR"'), r'currency must be "USD", not \'EUR\''),
        (('"a contract"', '""'), r"serverless.source must say where"),
        (("2026-01-02", '"yesterday"'), r"serverless.dated must be the day"),
        (("cores = 4", "cores = 0"), r"managed.skus.big.cores must be a whole number above zero, not 0"),
        (("= true", '= "no"'), r"exempt_from_reservation must be true or false, not 'no'"),
        (('["big"]', '["huge"]'), r'managed.models."mine" names \'huge\''),
        (('["big"]', "[[]]"), r"names \[\]"),
        (("[managed.models]", '[managed.models]\nMINE = ["big"]'), r"is there twice, in another spelling"),
        (("[serverless.models]", "[serverless.models"), r"is not TOML"),
    ],
)
def test_a_book_that_cannot_be_used_is_refused_naming_the_place(tmp_path, change, message):
    path = tmp_path / "prices.toml"
    path.write_text(MINIMAL.replace(*change))
    with pytest.raises(ConfigError, match=message) as caught:
        read_prices(path)
    assert str(path) in str(caught.value)
    with pytest.raises(ConfigError, match="does not exist"):
        read_prices(tmp_path / "none.toml")


# --- capacity and cost ---


@pytest.mark.parametrize(
    ("known", "concurrency", "source"),
    [
        pytest.param({"configured": 3}, 3, "configured", id="what the config says"),
        pytest.param(
            {"managed": True, "objectives_met": True, "held": 9.2}, 10, "held in this run", id="what was held"
        ),
        pytest.param({"objectives_met": True, "held": 9.2}, ASSUMED_CONCURRENCY, "assumption", id="not by serverless"),
        pytest.param(
            {"managed": True, "held": 9.2}, ASSUMED_CONCURRENCY, "assumption", id="nor with objectives missed"
        ),
    ],
)
def test_the_concurrency_of_an_instance_is_configured_or_measured_or_assumed_in_words(known, concurrency, source):
    unknown = {"configured": None, "managed": False, "objectives_met": False, "held": 0.0}
    found, words = concurrency_of_instance(**{**unknown, **known})
    assert found == concurrency
    assert source in words


@pytest.mark.parametrize(
    ("peak", "time_s", "concurrency", "instances"),
    [
        pytest.param(10.0, 2.0, 8, 3, id="20 in the system by 8"),
        pytest.param(4.0, 2.0, 8, 1, id="just full"),
        pytest.param(0.01, 0.1, 8, 1, id="never none"),
    ],
)
def test_instances_are_what_is_in_the_system_over_what_one_holds(peak, time_s, concurrency, instances):
    found = instance_estimate(
        peak_requests_per_s=peak, time_in_system_s=time_s, concurrency=concurrency, concurrency_source="here"
    )
    assert found.instances == instances


def test_nothing_is_estimated_from_nothing():
    known = {"concurrency": 8, "concurrency_source": "here"}
    assert instance_estimate(peak_requests_per_s=1.0, time_in_system_s=None, **known) is None
    assert instance_estimate(peak_requests_per_s=0.0, time_in_system_s=1.0, **known) is None


@pytest.mark.parametrize(
    ("instances", "cores", "exempt", "quota"),
    [
        pytest.param(10, 4, False, 48, id="the documented ten of four cores"),
        pytest.param(1, 6, False, 12, id="one more instance at least"),
        pytest.param(5, 24, False, 144, id="a fifth of five is one"),
        pytest.param(5, 24, True, 120, id="an exempt SKU"),
    ],
)
def test_core_quota_holds_twenty_percent_more_instances_unless_exempt(instances, cores, exempt, quota):
    assert cores_of_quota(instances, cores, exempt=exempt) == quota


def test_serverless_cost_by_hand():
    cost = serverless_cost(
        PRICE, so_far=Tokens(1_000_000, 100_000), of_a_request=Tokens(1_000, 100), requests_per_s=2.0, deployments=3
    )
    assert cost.so_far_usd == pytest.approx(0.13 + 0.052)
    assert cost.per_request_usd == pytest.approx(0.000182)
    assert cost.per_hour_usd == pytest.approx(0.000182 * 7_200)
    assert cost.per_month_usd == pytest.approx(0.000182 * 7_200 * 730)
    assert (cost.deployments, cost.dated) == (3, "2026-11-20")


def test_managed_cost_by_hand_cheapest_first():
    skus = BOOK.skus_for("Phi-3-mini-4k", retired=True)
    rows = managed_costs(reversed(skus), region="westus", instances=2, usd_per_request=0.0001)
    assert [row.sku for row in rows][:2] == ["Standard_NC6s_v3", "Standard_NC24ads_A100_v4"]
    assert (rows[1].per_hour_usd, rows[1].per_month_usd) == (2 * 4.775, 2 * 4.775 * 730)
    assert (rows[0].cores_of_quota, rows[1].cores_of_quota) == (18, 48)  # 20 % of two is one more, unless exempt
    assert rows[1].break_even_requests_per_s == pytest.approx(9.55 / 0.36)
    few = managed_costs(skus, region="westus", instances=2, usd_per_request=0.0001, most_requests_per_s=20)
    assert few[1].break_even_requests_per_s is None
    assert {row.region for row in managed_costs(skus, region="mars", instances=1, usd_per_request=None)} == {"eastus"}
    assert managed_costs(skus, region="eastus", instances=1, usd_per_request=None)[0].break_even_requests_per_s is None


def test_tokens_of_one_price_have_no_break_even_mix():
    assert break_even_output_share(3.0, 1e6, BOOK.token_price("Mistral-Nemo")) is None
    assert tokens_usd(Tokens(1_000, 1_000), BOOK.token_price("Mistral-Nemo")) == pytest.approx(0.0003)


# --- validity ---


@pytest.fixture
def brief(monkeypatch):
    """Quotas are watched for a minute instead of ten: the tests that do not look at the replay need not wait for it."""
    monkeypatch.setattr(scope, "WATCHED_S", 60.0)


def doubts_of(tmp_path, **changes):
    return plan_run(steady_run(tmp_path, **changes)).validity


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        pytest.param({"state": "running"}, "never finished", id="a killed run"),
        pytest.param({"n": 0}, "no request of the steady phase was sent", id="an empty run"),
        pytest.param(
            {"sample": lambda i, t: dropped(i, t) if i < 7 else answered(i, t)},
            "1.2% of the arrivals (7) were due and never sent",
            id="more than one in a hundred dropped",
        ),
        pytest.param(
            {"sample": lambda i, t: answered(i, t, lag_s=0.06 if i < 10 else 0)},
            "p99 of its lag is 60 ms, above 50 ms",
            id="a late generator",
        ),
        pytest.param(
            {"sample": lambda i, t: answered(i, t, ttft_s=0.1, lag_s=0.012 if i < 10 else 0)},
            "p99 of its lag is 12 ms, above a tenth of the median time to the first token, 100 ms",
            id="a generator that is late for what it measures",
        ),
        pytest.param(
            {"sample": lambda i, t: answered(i, t, outcome=Outcome.SERVER_ERROR)},
            "none of the 600 attempts of the steady phase was answered",
            id="nothing but failures",
        ),
    ],
)
def test_a_run_is_invalid_if(brief, tmp_path, changes, reason):
    found = doubts_of(tmp_path, **changes)
    assert not found.valid
    assert any(reason in text for text in found.reasons), found.reasons


def test_a_lost_row_makes_a_run_invalid(tmp_path):
    run = steady_run(tmp_path)
    manifest = run.manifest.model_copy(update={"totals": {**run.manifest.totals, "planned": 601}})
    (reason,) = plan_run(Run(run.folder, manifest)).validity.reasons
    assert "601 arrivals came due, the record holds 600" in reason


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="a minute of answers"),
        pytest.param(
            {"sample": lambda i, t: dropped(i, t) if i < 6 else answered(i, t)}, id="one in a hundred dropped"
        ),
        pytest.param({"sample": lambda i, t: answered(i, t, lag_s=0.06 if i < 6 else 0)}, id="one in a hundred late"),
        pytest.param({"sample": lambda i, t: answered(i, t, ttft_s=0.01, lag_s=0.004)}, id="5 ms are never too late"),
        pytest.param({"state": "interrupted"}, id="an interrupted run, as far as it went"),
        pytest.param({"n": 30}, id="a short one"),
    ],
)
def test_a_run_is_valid_with(brief, tmp_path, changes):
    assert doubts_of(tmp_path, **changes).reasons == ()


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"sample": lambda i, t: answered(i, t, lag_s=0.006)}, "p99 of the load generator's lag is 6 ms, above 5 ms"),
        (
            {"state": "interrupted", "reason": "SIGINT", "n": 300},
            "interrupted (SIGINT): 29.9 s of the steady phase's 60 s",
        ),
        (
            {"sample": lambda i, t: answered(i, t, usage_source="estimated" if i < 60 else "server")},
            "10.0% of the answers",
        ),
        ({"n": 590, "config": config(load={"duration": 64})}, "the steady phase lasted 59 s"),
        ({"config": config(load={"rate": None, "users": 5})}, "closed loop of 5 users"),
        (
            {"config": config(load={"rate": None, "users": 5})},
            "vision had no user, as the mix deals out 5, and sent nothing: 20 users give each scenario one",
        ),
        ({"n": 300}, "too few samples for a p99, which needs 459: ttft has 300, tpot has 300, service_time has 300"),
        ({"sample": lambda i, t: refused(i, t) if i < 3 else answered(i, t)}, "3 of 600 attempts were answered 429"),
        ({"sample": lambda i, t: refused(i, t) if i < 3 else answered(i, t)}, "the busiest minute took 68% of the"),
        (
            {"sample": lambda i, t: answered(i, t, outcome=Outcome.TIMEOUT if i < 7 else Outcome.OK)},
            "1.2% of the attempts failed (7 timeout)",
        ),
        ({"sample": lambda i, t: answered(i, t, wait_s=0.6)}, "waiting for the quota dominates: 600 ms on average"),
        ({"config": config(plan={"growth": 2})}, "the plan is for 2 times the measured load"),
        ({"deployment": {**PHI_3_MINI, "simulated": True}}, "the deployment was simulated"),
        ({"deployment": {**PHI_3_MINI, "simulated": True, "simulated_kind": "managed"}}, "is managed, and the run took it for serverless"),
        ({"deployment": {**PHI_3_MINI, "simulated": True, "time_scale": 60.0}}, "ran 60 times as fast"),
        ({"config": config(target={"kind": "managed"}), "sample": lambda i, t: refused(i, t) if i < 3 else answered(i, t)}, "limited by what the endpoint lets in at once"),
    ],
)  # fmt: skip
def test_a_doubt_is_printed_with_its_number(brief, tmp_path, changes, doubt):
    found = doubts_of(tmp_path, **changes)
    assert any(doubt in text for text in found.doubts), found.doubts


def test_a_minute_without_fault_leaves_no_doubt(brief, tmp_path):
    assert doubts_of(tmp_path).doubts == ()


def test_notes_are_told_once_a_kind_with_how_often(brief, tmp_path):
    cpu, late = {"at_s": 1.0, "kind": "cpu", "text": "91 % of a core"}, {"at_s": 2.0, "kind": "late", "text": "3 late"}
    notes = [cpu, late, {**cpu, "text": "92 %"}, "not a note", {"kind": "bare"}]
    assert doubts_of(tmp_path, notes=notes).doubts == ("91 % of a core (noted 2 times)", "3 late", "bare")


@pytest.mark.parametrize(("today", "old"), [(date(2027, 2, 18), False), (date(2027, 2, 19), True)])
def test_prices_of_more_than_90_days_ago_are_doubtful(brief, tmp_path, today, old):
    doubts = plan_run(steady_run(tmp_path), today=today).validity.doubts
    assert doubts == (("the prices are of 2026-11-20, 91 days old",) if old else ())


# --- the plan ---


def test_the_plan_of_a_minute_worked_out_by_hand(tmp_path):
    plan = plan_run(steady_run(tmp_path), slos=[Slo.parse("ttft.p95<1s")])
    assert (plan.traffic.requests_per_s, plan.traffic.completed_per_s) == (10.0, pytest.approx(9.92, abs=0.01))
    assert plan.traffic.peak_tokens_per_minute == 600 * 228  # prompt 100, limit 128
    assert (plan.quota.tokens_share, plan.quota.requests_share, plan.quota.binds) == (0.684, 0.6, "tokens")
    assert plan.quota.headroom == pytest.approx(1 / 0.684)
    assert plan.instances.time_in_system_s == pytest.approx(0.5)
    assert plan.instances.instances == 1  # 10/s x 0.5 s are 5 in the system
    request_usd = 0.1 * 0.00013 + 0.05 * 0.00052
    assert plan.serverless.per_request_usd == pytest.approx(request_usd)
    assert plan.serverless.per_month_usd == pytest.approx(request_usd * 10 * 3600 * 730)
    assert plan.serverless.deployments == 1
    assert (plan.managed[0].sku, plan.managed[0].per_hour_usd) == ("Standard_NC24ads_A100_v4", 3.673)
    assert (
        3.673 / request_usd / 3600 > 8 / 0.5
    )  # a break-even of 26.2/s is more than one instance serves: it never comes
    assert plan.managed[0].break_even_requests_per_s is None
    assert plan.goodput.share == 1.0
    assert plan.headline == (
        "1.46 times this load of 10 requests/s fits into one deployment's tokens per minute; ttft.p95<1s was met. "
        f"{plan.ahead.recommendation}"
    )
    assert plan.ahead.recommendation.startswith("Serverless with 1 deployment: $1,025 (")


def test_growth_multiplies_what_is_planned_and_leaves_what_was_measured(tmp_path):
    run = steady_run(tmp_path)
    once, thrice = plan_run(run), plan_run(run, growth=3)
    assert thrice.traffic == once.traffic
    assert thrice.quota == once.quota
    assert thrice.serverless.per_hour_usd == pytest.approx(3 * once.serverless.per_hour_usd)
    assert thrice.serverless.so_far_usd == once.serverless.so_far_usd
    assert thrice.instances.peak_requests_per_s == pytest.approx(30)
    assert thrice.instances.instances == 2  # 15 in the system by 8
    assert thrice.serverless.deployments == 3  # 1,800 requests a minute need two, 410,400 tokens three
    assert "3 deployments would serve the planned 30 requests/s" in thrice.headline


def test_a_demand_may_be_given_instead_of_the_run_s_own(tmp_path):
    demand = Demand(arrivals(*((float(i), 1_000, 200, 100) for i in range(120))), 120.0, "tomorrow")
    plan = plan_run(steady_run(tmp_path), demand=demand)
    assert plan.traffic.requests_per_s == 10
    assert plan.instances.peak_requests_per_s == 1
    assert plan.serverless.per_hour_usd == pytest.approx((0.13 + 0.052) / 1_000 * 3_600)
    assert "tomorrow" in plan.assumptions[0]


def test_a_managed_run_that_met_its_objectives_says_what_an_instance_holds(tmp_path):
    run = steady_run(tmp_path, config=config(target={"kind": "managed"}, slo=["ttft.p95<1s"]))
    plan = plan_run(run)
    assert plan.quota is None
    assert plan.instances.concurrency_per_instance == 5  # 10/s x 0.5 s
    assert plan.instances.instances == 1
    assert plan_run(run, growth=2.1).instances.instances == 3
    assert plan_run(run, slos=[Slo.parse("ttft.p95<1ms")]).instances.concurrency_per_instance == ASSUMED_CONCURRENCY


def test_a_model_without_prices_is_planned_without_them_and_that_is_said(tmp_path):
    plan = plan_run(steady_run(tmp_path, deployment={"model_name": "Jais"}))
    assert (plan.model, plan.serverless, plan.managed) == ("Jais", None, ())
    unpriced = "The price book has no price per token for Jais: serverless cost is left out. To have it, plan with --prices FILE"
    assert any(text.startswith(unpriced) for text in plan.assumptions)
    assert "plan with --prices FILE, a price book that has it under [serverless" in plan.ahead.recommendation
    assert "The price book names no instance type for Jais: managed cost is left out." in plan.assumptions
    assert plan.what_if  # the quota is a quota whatever it costs


def test_prices_of_another_region_stand_in_where_the_book_has_none_and_that_is_said(tmp_path):
    plan = plan_run(steady_run(tmp_path), region="norwayeast")
    assert plan.managed[0].region == "eastus"
    assert "The price book has no price for norwayeast: those of eastus stand in." in plan.assumptions


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        pytest.param({"state": "running"}, "Invalid run, do not plan from it: the run never finished", id="invalid"),
        pytest.param(
            {"config": config(slo=["ttft.p95<100ms"])}, "ttft.p95<100ms was missed (200 ms) at 10", id="missed"
        ),
        pytest.param(
            {"n": 300, "config": config(slo=["ttft.p99<1s"])}, "; too few samples to judge ttft.p99<1s", id="few"
        ),
        pytest.param({}, "1.46 times this load of 10 requests/s fits", id="no objective"),
        pytest.param({"config": config(slo=["ttft.p50<1s", "ttfb.max<1s"])}, "; both objectives were met", id="both"),
        pytest.param(
            {"config": config(quota={"tokens_per_minute": 100_000})},
            "the busiest minute asked for 1.37 times one deployment's tokens per minute; 2 deployments would serve",
            id="over the quota",
        ),
        pytest.param(
            {"config": config(quota={"requests_per_minute": 610})},
            "1.02 times this load of 10 requests/s fits into one deployment's requests per minute",
            id="just within it",
        ),
        pytest.param(
            {"sample": lambda i, t: answered(i, t, completion_tokens=900)},
            "whether managed compute is cheaper is not known: what an instance serves is a guess, 8 requests at once",
            id="managed might be cheaper",
        ),
    ],
)
def test_the_headline_says_what_a_manager_asks(tmp_path, changes, headline):
    assert headline in plan_run(steady_run(tmp_path, **changes)).headline


@pytest.mark.parametrize("state", ["running", "interrupted", "complete"])
@pytest.mark.parametrize(
    "samples",
    [
        pytest.param([], id="nothing"),
        pytest.param([dropped(0, 6.0)], id="one drop"),
        pytest.param([refused(0, 6.0)], id="one refusal"),
        pytest.param([answered(0, 1.0, phase=Phase.WARMUP)], id="a warm-up"),
        pytest.param([answered(0, 5.0)], id="one answer at the first instant"),
        pytest.param([answered(0, 6.0, outcome=Outcome.CANCELLED, done_ns=None)], id="one that never ended"),
    ],
)
def test_a_run_with_next_to_nothing_gives_a_plan_and_json(tmp_path, state, samples):
    plan = plan_run(make_run(tmp_path, samples, state=state, reason="SIGTERM"), slos=[Slo.parse("ttft.p95<1s")])
    read = json.loads(to_json(plan))
    assert set(read) == {field.name for field in fields(Plan)}
    assert read["validity"]["valid"] is (
        state == "complete" and plan.traffic.outcomes["ok"] > 0 and plan.goodput is not None
    )
    assert all(slo["met"] is None for slo in read["slos"])


def test_the_json_of_a_plan_holds_every_figure_as_it_is(tmp_path):
    plan = plan_run(synthetic_run(tmp_path))
    read = json.loads(to_json(plan))
    assert read == json.loads(json.dumps(asdict(plan)))
    assert "NaN" not in to_json(plan).decode()
    assert to_json(plan).endswith(b"}\n")


def test_a_run_folder_of_unreadable_config_is_refused_by_name(tmp_path):
    run = steady_run(tmp_path)
    manifest = run.manifest.model_copy(update={"config": {"load": {"rate": -1}}})
    with pytest.raises(RunFolderError, match=r"manifest.json: its config cannot be understood"):
        plan_run(Run(run.folder, manifest))


def test_a_demand_of_thousands_a_second_is_planned_in_seconds_with_all_of_its_deployments():
    rate_per_s, cost = 5_000, 300
    arrivals = pl.DataFrame(
        {
            "at_s": [number / rate_per_s for number in range(rate_per_s * 180)],
            "prompt_tokens": 200,
            "completion_tokens": 100,
            "max_tokens": 100,
        }
    )
    table = what_if_table(Demand(arrivals, 180.0, "test"), Quota())
    mean_load = rate_per_s * 60 * cost / 200_000
    assert mean_load - 1 <= deployments_needed(table) <= mean_load + 12
