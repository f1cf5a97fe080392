"""Every number that a figure shows, recomputed by other means from the raw rows; nothing of the planner but its plan."""

from __future__ import annotations

import json
import math
import shutil
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import polars as pl
import pytest

import planner.load_curve
from dashboards import figures_curve, summaries, sweep_report
from dashboards.drawings import bin_width_s, draw, draw_curve
from loadgen.config import RunConfig
from loadgen.samples import Run, Sample
from loadgen.slo import Slo
from planner import pictured, swept
from planner.assemble import plan_run
from planner.capacity import fit
from planner.cost_curve import cost_by_rate, cost_curve
from planner.instance_rate import InstanceRate
from planner.load_curve import curve_of_step, curve_of_sweep, load_curve
from planner.plan import QuotaUse
from planner.steps import step_of
from planner.sweep import Search
from tests.plans import example_plan
from tests.runs import answered, make_run, synthetic_run
from tests.test_capacity_steps import itl_s, run_at
from tests.test_figures import MINUTE, MS, Figures, S, busiest_minute, failures

pytestmark = pytest.mark.aside

REFUSED, FAILED = {"throttled"}, {"filtered", "rejected", "server_error", "timeout", "network", "broken_stream"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run in which much fails, its plan with growth, what is drawn of them, and the oracle of its rows."""
    cwd = tmp_path_factory.mktemp("drawn")
    base = synthetic_run(cwd, seed=14, name="base", plan={"growth_per_month": 0.05})
    samples, gaps = [Sample(**row) for row in base.samples.collect().rows(named=True)], {}
    for seq, attempt, gap_us in base.chunks.collect().rows():
        gaps.setdefault((seq, attempt), []).append(gap_us)
    config = RunConfig.model_validate(base.manifest.config)
    streams = [(*attempt, stream) for attempt, stream in gaps.items()]
    waited = [answered(2_000 + i, 31.0 + i / 4, wait_s=0.02 * i) for i in range(12)]
    run = make_run(cwd, samples + failures(samples) + waited, streams, config=config, name="failing")
    plan = plan_run(run)
    return run, plan, draw(run, plan), Figures(run.folder)


@pytest.fixture(autouse=True)
def few_rates(monkeypatch):
    """Of a model's line, that each test asks for few."""
    monkeypatch.setattr(planner.load_curve, "RATES", 12)


def traces(drawings, name):
    """Of one figure, by the name in its legend; as the page gets them."""
    (drawing,) = {each.name: each for section in drawings.values() for each in section if each.name == name}.values()
    data = json.loads(drawing.figure.to_json(engine="json"))["data"]
    return {(trace.get("name"), place): trace for place, trace in enumerate(data)}


def named(drawings, figure, name):
    return [trace for (each, _), trace in traces(drawings, figure).items() if each == name]


def test_every_section_is_there_and_every_figure_says_what_it_shows(drawn):
    run, plan, drawings, _ = drawn
    empty = {name for name, section in drawings.items() if not section}
    assert empty == {"curve", "targets", "load"}  # of one target, in no sweep, with a quota
    for each in (each for section in drawings.values() for each in section):
        assert any(unit in each.title for unit in ("ms", "share", "per ", "in flight", "tokens", "dollars")), each.title
        assert each.summary.endswith(".") and any(char.isdigit() for char in each.summary), each.name
    names = [each.name for section in drawings.values() for each in section]
    assert len(set(names)) == len(names)
    managed = draw(run, replace(plan, quota=None))
    assert [each.name for each in managed["load"]] == ["load-tokens_per_minute", "load-requests_per_minute"]
    assert [each.name for each in managed["quota"]] == ["quota-refused", "quota-wait"] and managed["headroom"][1:] == []


def test_the_headroom_is_the_demand_of_the_minute_before_over_each_limit(drawn):
    run, plan, _, oracle = drawn
    arrivals, span = oracle.measured
    at = [float(instant) for instant, _ in arrivals]
    quota = plan.quota
    for of, column, limit in (
        (lambda cost: cost, "tokens_share", quota.tokens_per_minute),
        (lambda cost: 1, "requests_share", quota.requests_per_minute),
    ):
        sums = [0]
        for _, cost in arrivals:
            sums.append(sums[-1] + of(cost))
        frame = frame_of_headroom(run, plan)
        for at_s, share, whole in frame.select("at_s", column, "whole").rows():
            instant = at_s * S - oracle.start
            within = sums[bisect_right(at, instant + 1)] - sums[bisect_right(at, instant + 1 - MINUTE)]
            assert share == pytest.approx(within / limit, rel=1e-6), at_s
            assert whole == (instant >= MINUTE)
        assert frame.filter("whole")[column].max() == pytest.approx(busiest_minute((arrivals, span), of) / limit)
    most = max(quota.tokens_share, quota.requests_share)
    assert most == pytest.approx(frame.filter("whole").select("tokens_share", "requests_share").to_numpy().max())
    assert f"at {1 / most:.3f} times this load" in summaries.headroom(quota)


def frame_of_headroom(run, plan):
    from planner.demand import demand_of_run
    from planner.rows import steady_stretch

    stretch = steady_stretch(run)
    return pictured.demand_over_time(demand_of_run(run, stretch), stretch, plan, run)


def test_the_lines_of_the_headroom_are_that_frame(drawn):
    run, plan, drawings, _ = drawn
    frame = frame_of_headroom(run, plan)
    for name, column in (("tokens", "tokens_share"), ("requests", "requests_share")):
        pale, solid = named(drawings, "headroom", name)
        assert [*pale["y"], *solid["y"]] == frame[column].to_list()
    (limit,) = named(drawings, "headroom", "limit")
    assert limit["y"] == [1, 1]


@pytest.mark.parametrize(
    ("tokens_share", "washed"), [(0.25, (0.5, 1)), (0.75, (0.75, 1)), (1.25, None)], ids=["half free", "less", "none"]
)
def test_what_is_free_below_the_limit_is_washed_and_named(tokens_share, washed):
    from dashboards.figures_load import demand_against_limits

    quota = QuotaUse(
        tokens_per_minute=10, requests_per_minute=10, tokens_share=tokens_share, requests_share=0.5, binds="tokens",
        headroom=1 / max(tokens_share, 0.5), throttled_share=0.0, mean_throttle_wait_ms=None,
    )  # fmt: skip
    frame = pl.DataFrame({"at_s": [0.0, 60.0], "tokens_share": [0.1, tokens_share], "requests_share": [0.1, 0.5],
                          "whole": [False, True]})  # fmt: skip
    layout = demand_against_limits(frame, quota).layout
    assert [(each.y0, each.y1) for each in layout.shapes] == ([] if washed is None else [washed])
    assert [each.text.split()[0] for each in layout.annotations] == ([] if washed is None else [f"{1 / washed[0]:.2f}"])


UNCLAIMED = [
    ("of several targets the fullest binds", {"target": "east"}, {}),
    ("an invalid run shows nothing to be free", {}, {"sound": False}),
]


@pytest.mark.parametrize(("case", "of_quota", "told"), UNCLAIMED)
def test_no_part_is_called_free_that_may_not_be(drawn, case, of_quota, told):
    from dashboards.figures_load import demand_against_limits

    run, plan, _, _ = drawn
    quota = replace(plan.quota, tokens_share=0.5, requests_share=0.5, **of_quota)
    layout = demand_against_limits(frame_of_headroom(run, plan), quota, **told).layout
    assert not layout.shapes and not [each for each in layout.annotations if "fits" in each.text], case


def test_growth_reaches_each_limit_in_the_first_month_that_is_beyond_it(drawn):
    _, plan, drawings, oracle = drawn
    deployments = plan.ahead.need.deployments
    tokens = busiest_minute(oracle.measured, lambda cost: cost)
    requests = busiest_minute(oracle.measured, lambda cost: 1)
    limits = oracle.limits
    expected = {
        "tokens per minute": (tokens, limits["tokens_per_minute"] * deployments),
        "requests per minute": (requests, limits["requests_per_minute"] * deployments),
    }
    frame = pictured.growth_by_month(plan)
    for name, (now, limit) in expected.items():
        rows = frame.filter(pl.col("limit").str.starts_with(name))
        months = next(month for month in range(1_000) if now * 1.05**month >= limit)
        assert set(rows["months"]) == {months}
        assert rows["share"].to_list() == pytest.approx([now / limit * 1.05**month for month in rows["month"]])
        (line,) = [
            line
            for (each, _), line in traces(drawings, "headroom-growth").items()
            if each and each.startswith(f"month {months}: {name}")
        ]
        assert line["y"] == rows["share"].to_list()


def test_percentiles_over_time_are_of_the_answers_due_in_each_bin(drawn):
    _, plan, drawings, oracle = drawn
    every = round(bin_width_s(plan.traffic.steady_s) * S)
    for metric in ("ttft", "itl", "service_time", "response_time"):
        found = {}
        for row in oracle.answers:
            found.setdefault(row["due_ns"] // every * every / S, []).extend(oracle.of_row(metric, row))
        found = {at: sorted(values) for at, values in found.items() if values}
        lines = {name: named(drawings, f"over-time-{metric}", name)[0] for name in ("p50", "p95")}
        assert lines["p50"]["x"] == sorted(found)
        for name, q in (("p50", Fraction(1, 2)), ("p95", Fraction(19, 20))):
            ranked = [values[math.ceil(q * len(values)) - 1] / MS for _, values in sorted(found.items())]
            enough = [len(values) >= (20 if name == "p95" else 1) for _, values in sorted(found.items())]
            assert lines[name]["y"] == pytest.approx([v if e else None for v, e in zip(ranked, enough, strict=True)])


def test_a_mark_stands_above_each_bin_in_which_something_went_wrong(drawn):
    _, plan, drawings, oracle = drawn
    every = round(bin_width_s(plan.traffic.steady_s) * S)
    of = {**dict.fromkeys(REFUSED, "refused"), **dict.fromkeys(FAILED, "failed"), "dropped": "dropped"}
    counted = Counter()
    for row in oracle.rows:
        ended = next(row[at] for at in ("done_ns", "sent_ns", "due_ns") if row[at] is not None)
        if row["outcome"] in of:
            counted[of[row["outcome"]], ended // every * every / S] += 1
    for name in ("refused", "failed", "dropped"):
        (marks,) = named(drawings, "over-time-ttft", name)
        assert dict(zip(marks["x"], marks["customdata"], strict=True)) == {
            at: n for (trouble, at), n in counted.items() if trouble == name
        }


def test_refusals_are_of_all_attempts_sent_in_the_same_bin(drawn):
    _, plan, drawings, oracle = drawn
    every = round(bin_width_s(plan.traffic.steady_s) * S)
    sent = Counter(row["sent_ns"] // every * every / S for row in oracle.rows if row["sent_ns"] is not None)
    refused = Counter(row["sent_ns"] // every * every / S for row in oracle.rows if row["outcome"] == "throttled")
    ((_, bars),) = traces(drawings, "quota-refused").items()
    assert dict(zip(bars["x"], bars["y"], strict=True)) == {at: refused[at] for at in sent}
    assert dict(zip(bars["x"], bars["customdata"], strict=True)) == sent


def test_waits_are_of_first_attempts(drawn):
    _, plan, drawings, oracle = drawn
    every = round(bin_width_s(plan.traffic.steady_s) * S)
    found = {}
    for row in oracle.rows:
        if row["sent_ns"] is not None and row["attempt"] == 0:
            found.setdefault(row["due_ns"] // every * every / S, []).append(row["admitted_ns"] - row["due_ns"])
    (longest,), (middle,) = (named(drawings, "quota-wait", name) for name in ("longest", "p50"))
    assert dict(zip(longest["x"], longest["y"], strict=True)) == {at: max(each) / MS for at, each in found.items()}
    assert middle["y"] == [sorted(found[at])[(len(found[at]) - 1) // 2] / MS for at in middle["x"]]


def test_a_point_of_a_distribution_is_a_value_and_how_many_are_no_larger(drawn):
    _, _, drawings, oracle = drawn
    for metric in ("ttft", "itl", "tpot", "service_time", "response_time"):
        for scenario in ("all", "streaming"):
            values = oracle.values(metric, scenario)
            (line,) = named(drawings, f"distribution-{metric}", scenario)
            assert line["x"][0] == pytest.approx(values[0] / MS)
            assert line["x"][-1] == pytest.approx(values[-1] / MS)
            for value_ms, share, place in zip(line["x"], line["customdata"], line["y"], strict=True):
                rank = round(share * len(values))
                assert values[rank - 1] / MS == pytest.approx(value_ms)
                beyond = min((rank - 0.5), len(values) - rank + 0.5) / len(values)
                assert abs(place) == pytest.approx(math.log10(0.5 / beyond), abs=1e-9)
                assert (place >= 0) == (rank - 0.5 >= len(values) / 2)


def test_requests_in_flight_are_those_sent_and_not_done(drawn):
    _, plan, drawings, oracle = drawn
    ((_, line),) = traces(drawings, "load-in_flight").items()
    sent = sorted(row["sent_ns"] for row in oracle.rows if row["sent_ns"] is not None)
    done = sorted(row["done_ns"] for row in oracle.rows if row["sent_ns"] is not None and row["done_ns"] is not None)
    counted = [bisect_right(sent, round(at * S)) - bisect_right(done, round(at * S)) for at in line["x"]]
    assert line["y"] == counted
    assert max(counted) >= plan.traffic.peak_in_flight
    assert len(line["x"]) == len({*sent, *done})  # a short run is drawn whole


def test_a_cell_counts_the_answers_of_such_lengths(drawn):
    run, _, drawings, oracle = drawn
    answers = [row for row in oracle.answers if row["phase"] == "steady"]
    frame = pictured.lengths(run)
    assert frame["n"].sum() == len(answers)
    for cell in frame.rows(named=True):
        inside = [
            row["done_ns"] - row["sent_ns"]
            for row in answers
            if cell["prompt_low"] <= row["prompt"] < cell["prompt_high"]
            and cell["completion_low"] <= row["completion"] < cell["completion_high"]
        ]
        assert cell["n"] == len(inside)
        middle = sorted(inside)[(len(inside) - 1) // 2] / MS if len(inside) >= 7 else None
        assert cell["service_p50_ms"] == (None if middle is None else pytest.approx(middle))
    ((_, heat),) = traces(drawings, "heat").items()
    assert sum(n for row in heat["z"] for n in row if n is not None) == len(answers)
    assert [int(low.replace(",", "")) for low in heat["x"]] == [
        edge for edge in pictured.EDGES if frame["prompt_low"].min() <= edge <= frame["prompt_low"].max()
    ]


def test_bins_of_lengths_halve_each_octave_and_leave_nothing_out():
    assert pictured.EDGES[:10] == (0, 1, 2, 3, 4, 6, 8, 12, 16, 24)
    assert pictured.EDGES[-1] > 10_000_000


def test_each_way_costs_what_its_tokens_or_its_hours_do(drawn):
    _, plan, drawings, oracle = drawn
    options = {each.name: each for each in plan.ahead.costs.options}
    of_rows = oracle.found["serverless"]
    assert options["serverless"].per_month_usd == pytest.approx(of_rows["per_month_usd"])
    managed = options["managed, around the clock"]
    assert managed.per_month_usd == pytest.approx(
        plan.ahead.instances * oracle.found["managed"][0]["usd_per_hour"] * 730
    )
    bars = [trace for trace in traces(drawings, "cost").values() if trace["type"] == "bar"]
    ranges = [trace for trace in traces(drawings, "cost").values() if trace["type"] == "scatter"]
    assert [bar["x"] for bar in bars] == [[each.per_month_usd] for each in plan.ahead.costs.options]
    known = [each for each in plan.ahead.costs.options if each.low_usd is not None]
    assert known == [options["serverless"]]  # what an instance serves is a guess, and has no range
    assert [each["x"] for each in ranges] == [[each.low_usd, each.high_usd] for each in known]
    # of prices within 10 %, each as likely, the middle 90 % lie within 9 %; a Poisson count of some 570 adds 4 %
    for each in known:
        assert 0.86 * each.per_month_usd < each.low_usd < 0.93 * each.per_month_usd
        assert 1.07 * each.per_month_usd < each.high_usd < 1.14 * each.per_month_usd


def test_the_break_even_is_where_the_line_meets_the_stairs(drawn):
    _, plan, drawings, oracle = drawn
    curve = cost_curve(plan)
    each_usd, hour_usd = oracle.found["serverless"]["per_request_usd"], oracle.found["managed"][0]["usd_per_hour"]
    per_s = plan.instances.concurrency_per_instance / oracle.found["instances"]["time_in_system_s"]
    assert curve.served_per_s == pytest.approx(per_s)
    assert curve.assumed
    assert curve.demand_per_s == pytest.approx(len(oracle.measured[0]) / float(oracle.span / S))
    frame = cost_by_rate(curve)
    serverless = frame.filter(pl.col("way") == "serverless")
    assert serverless["usd_per_month"].to_list() == pytest.approx(
        [r * each_usd * 2_628_000 for r in serverless["rate_per_s"]]
    )
    for rate, instances, usd in (
        frame.filter(pl.col("way") == "managed").select("rate_per_s", "instances", "usd_per_month").rows()
    ):
        assert instances == (round(rate / per_s) + 1 if rate < curve.highest_per_s else math.ceil(rate / per_s))
        assert usd == pytest.approx(instances * hour_usd * 730)
    even = hour_usd / 3_600 / each_usd
    assert plan.ahead.costs.break_even.requests_per_s == pytest.approx(even)
    assert curve.break_even_per_s == (pytest.approx(even) if even <= per_s else None)
    (demand,) = [t for (name, _), t in traces(drawings, "break-even").items() if name.startswith("this demand")]
    assert demand["x"] == [curve.demand_per_s] * 2
    measured = InstanceRate(rate_per_s=5.0, low=4.0, high=6.0, binds="capacity", grade="interpolated", horizon=1.0,
                            form="linear", steps_used=5, concurrency_cap=None, cap_source="unknown")  # fmt: skip
    cautious = cost_curve(replace(plan, ahead=replace(plan.ahead, capacity=measured)))
    assert (cautious.served_per_s, cautious.assumed) == (4.0, False)


def test_a_break_even_within_what_an_instance_serves_is_marked():
    from dashboards.figures_cost import break_even
    from planner.cost_curve import CostCurve

    curve = CostCurve(demand_per_s=3.0, usd_per_request=0.001, instance_usd=5_256.0, served_per_s=4.0, assumed=False,
                      break_even_per_s=2.0)  # fmt: skip
    (mark,) = [trace for trace in break_even(cost_by_rate(curve), curve).data if trace.mode == "markers"]
    assert (mark.x, mark.y) == ((2.0,), (5_256.0,))
    assert curve.serverless_usd(2.0) == pytest.approx(5_256.0)
    assert [curve.instances(rate) for rate in (0.0, 4.0, 4.1, 8.0)] == [1, 1, 2, 2]
    assert replace(curve, served_per_s=0.1).instances(3 * 0.1) == 3  # and what rounding adds takes no fourth


STEPS = [  # rate/s, in flight: ITL = 12 + 0.55 n^1.1 ms, TTFT = 80 + 3.6 ITL
    {"concurrency": n, "itl_mean_ms": (itl := 12 + 0.55 * n**1.1), "itl_p95_ms": 1.6 * itl,
     "ttft_p50_ms": (ttft := 80 + 3.6 * itl), "ttft_p95_ms": 2 * ttft,
     "e2e_mean_s": (e2e := (ttft + 99 * itl) / 1e3), "rate_per_s": n / e2e, "completed_per_s": n / e2e,
     "prompt_tokens": 250.0, "completion_tokens": 100.0, "requests": 500, "response_p95_ms": 1_500 * e2e,
     "saturated": False, "quota_limited": n == 6.5, "client_limited": False, "verdict": "met" if n < 20 else "missed"}
    for n in (1.2, 3.1, 6.5, 11.0, 17.5, 27.0)
]  # fmt: skip


def test_the_curve_holds_the_measured_points_and_what_the_model_says_at_each_rate():
    frame, slos = pl.DataFrame(STEPS), [Slo.parse("ttft.p95<500ms"), Slo.parse("itl.p95<60ms")]
    curve, model = load_curve(frame, slos, instances=1), fit(frame)
    points = curve.measured.filter(metric="ttft", statistic="p95").select("rate_per_s", "value_ms", "limited").rows()
    assert points == [(step["rate_per_s"], step["ttft_p95_ms"], step["quota_limited"]) for step in STEPS]
    for rate, value, low, high in (
        curve.modelled.filter(metric="ttft", statistic="p95")
        .select("rate_per_s", "value_ms", "low_ms", "high_ms")
        .rows()[::4]
    ):
        said = model.predict(rate).ttft_p95_ms
        assert (value, low, high) == (said.value, said.low, said.high)
    figures = {each.name: each for each in draw_curve(curve)}
    assert set(figures) == {f"versus-load-{name}" for name in ("ttft", "itl", "service_time", "response_time")}
    data = {trace.name: trace for trace in figures["versus-load-ttft"].figure.data}
    assert set(data["ttft.p95&lt;500ms"].y) == {500.0}
    marks = data["p95, measured"].marker.symbol
    assert marks == ("circle", "circle", "circle-open", "circle", "circle", "x")
    assert data["p95, measured"].mode == "markers" and data["p95, model with 90 % interval"].mode == "lines"


def test_of_several_instances_the_curve_is_over_the_rate_of_all_together():
    twice = pl.DataFrame(
        [step | {k: 2 * step[k] for k in ("rate_per_s", "completed_per_s", "concurrency")} for step in STEPS]
    )
    one, two = (load_curve(frame, [], instances=n).modelled for frame, n in ((pl.DataFrame(STEPS), 1), (twice, 2)))
    assert two["rate_per_s"].to_list() == pytest.approx([2 * rate for rate in one["rate_per_s"]])
    assert two["value_ms"].to_list() == pytest.approx(one["value_ms"].to_list())


def test_without_a_model_only_points_are_drawn_and_a_single_one_is_no_curve():
    frame = pl.DataFrame(STEPS[:2])
    curve = load_curve(frame, [], instances=None)
    assert curve.form is None and curve.modelled.is_empty() and "hide" in curve.unknown
    drawn = figures_curve.latency_versus_load(curve.measured, curve.modelled, ())
    assert {trace.mode for trace in drawn["itl"].data} == {"lines+markers"}  # joined, as no model does it
    assert load_curve(frame[:1], [], instances=1) is None


@pytest.fixture(scope="module")
def swept_folder(tmp_path_factory):
    """A sweep of four steps, each a run folder in steps/."""
    folder = tmp_path_factory.mktemp("curves") / "sweep"
    rates = (2, 5, 10, 15)
    runs = [run_at(folder / "steps", rate) for rate in rates]
    steps = [
        step_of(Run.open(run), (), number=number, folder=f"steps/{run.name}", rate_per_s=rate)
        for number, (run, rate) in enumerate(zip(runs, rates, strict=True), 1)
    ]
    sweep = swept.Sweep(
        format=swept.FORMAT, state="complete", reason=None, started_utc="2026-11-20T10:00:00Z", target="sim",
        model="Phi-3-mini-4k-Instruct", kind="managed", past_quota=False, step_s=20.0, assumptions=(),
        search=Search(from_per_s=2, to_per_s=15, steps=4, tolerance=0.1), objectives=("itl.p95<20ms",),
        config=Run.open(runs[0]).manifest.config, steps=tuple(steps),
    )  # fmt: skip
    swept.write(folder, sweep)
    return folder


def test_the_curve_of_a_sweep_is_on_its_page_and_on_that_of_each_step(swept_folder):
    curve = curve_of_sweep(swept.read(swept_folder))
    itl = curve.measured.filter(metric="itl", statistic="mean")
    assert itl["value_ms"].to_list() == pytest.approx([1e3 * itl_s(rate) for rate in (2, 5, 10, 15)], rel=0.01)
    assert set(curve.modelled["metric"]) == {"ttft", "itl", "service_time"}
    named = [each.name for each in sweep_report.draw(swept.read(swept_folder))]
    assert named[:3] == ["versus-load-ttft", "versus-load-itl", "versus-load-service_time"]
    assert named[3:] == ["versus-load-response_time", "versus-load-completed", "versus-load-in_flight"]
    page = sweep_report.render(swept.read(swept_folder))
    assert ">COMPLETE</span>" in page and '<a href="#steps">' in page
    of_step = curve_of_step(Run.open(swept_folder / "steps" / "at-5"))
    assert of_step.measured.equals(curve.measured) and of_step.modelled.equals(curve.modelled)


def test_a_run_beside_the_steps_of_a_sweep_is_none_of_them(swept_folder, tmp_path):
    copied = shutil.copytree(swept_folder / "steps" / "at-5", swept_folder / "steps" / "other")
    assert curve_of_step(Run.open(copied)) is None
    assert curve_of_step(Run.open(run_at(tmp_path, 2))) is None


def test_a_serverless_sweep_has_points_and_no_model(swept_folder):
    sweep = swept.read(swept_folder)
    config = json.loads(json.dumps(sweep.config).replace('"managed"', '"serverless"'))
    curve = curve_of_sweep(replace(sweep, config=config))
    assert curve.form is None and curve.modelled.is_empty() and not curve.measured.is_empty()


def test_a_plan_that_did_not_look_ahead_is_drawn_by_what_was_measured(tmp_path):
    run = synthetic_run(tmp_path, n=60)
    plan = example_plan()
    assert plan.ahead is None
    drawings = draw(run, plan)
    bars = [trace["x"] for trace in traces(drawings, "cost").values()]
    assert bars == [[plan.serverless.per_month_usd], *([each.per_month_usd] for each in plan.managed)]
    assert [each.name for each in drawings["headroom"]] == ["headroom"]


def test_a_run_without_rows_has_no_figure_that_would_say_something(tmp_path):
    run = make_run(tmp_path, [])
    drawings = draw(run, plan_run(run))
    said = {key for key, section in drawings.items() if section}
    assert said <= {"load", "quota", "in_flight", "outcomes", "distribution", "cost"}
