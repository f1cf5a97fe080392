"""Thresholds: how they are written, what they measure, and when a verdict says that it cannot tell."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headroom.targets import prices_of
from loadgen.config import RunConfig
from loadgen.errors import ConfigError
from loadgen.samples import Outcome, Phase, Run, Sample
from loadgen.slo import KNOWN, Threshold
from planner.measured import Figure, _mean, share_of
from planner.thresholds import check_of, ends_run, judge, overall, settled
from tests.commands import told
from tests.runs import answered, dropped, make_run, refused

LOAD = {"rate": 10.0, "duration": 60.0, "warmup": 0.0}
MIX = {"streaming": 1, "vision": 1}


def run_of(tmp_path: Path, samples: list[Sample], **config: Any) -> Run:
    for sample in samples:
        sample.phase = Phase.STEADY
    sections = {"load": LOAD, "scenarios": {**MIX, "chat": 1}, **config}
    return make_run(tmp_path, samples, config=RunConfig.model_validate(sections))


def streams(n: int, ttft_s: float, first: int = 0, **fields: Any) -> list[Sample]:
    return [answered(seq, 60 * seq / 1_000, ttft_s=ttft_s, **fields) for seq in range(first, first + n)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        pytest.param("ttft.p95<800ms", ("ttft", "p95", "<", 800.0, None, None), id="a latency, in ms"),
        pytest.param(
            "ttft{scenario=a b, target = c}.p50 < 1 s",
            ("ttft", "p50", "<", 1000.0, "a b", "c"),
            id="a name with a blank",
        ),
        pytest.param("failed<100%", ("failed", None, "<", 1.0, None, None), id="not all, as it is said"),
        pytest.param("itl.p99.9 <= 1.5s", ("itl", "p99.9", "<=", 1500.0, None, None), id="a fine percentile, spaced"),
        pytest.param("ttft{scenario=vision}.p95<2s", ("ttft", "p95", "<", 2000.0, "vision", None), id="of a scenario"),
        pytest.param(
            "ttft{ scenario = a.py:B , target=http://x:1 }.max<2s",
            ("ttft", "max", "<", 2000.0, "a.py:B", "http://x:1"),
            id="of a scenario at a target, as they are named",
        ),
        pytest.param("goodput>0.95", ("goodput", None, ">", 0.95, None, None), id="a share"),
        pytest.param("throttled<1%", ("throttled", None, "<", 0.01, None, None), id="a share in percent"),
        pytest.param("failed <= 0", ("failed", None, "<=", 0.0, None, None), id="none at all"),
        pytest.param("requests_per_s>=300/min", ("requests_per_s", None, ">=", 5.0, None, None), id="a rate a minute"),
        pytest.param("requests>1000", ("requests", None, ">", 1000.0, None, None), id="a count"),
        pytest.param("cost_per_1k_requests<0.40usd", ("cost_per_1k_requests", None, "<", 0.4, None, None), id="money"),
        pytest.param("cost_per_1k_requests<$0.40", ("cost_per_1k_requests", None, "<", 0.4, None, None), id="dollars"),
    ],
)
def test_a_threshold_has_its_parts(text: str, parts: tuple[Any, ...]) -> None:
    found = Threshold.parse(text)
    read = (found.metric, found.statistic, found.relation, found.limit, found.scenario, found.target)
    assert read == (*parts[:3], pytest.approx(parts[3]), *parts[4:])
    again = Threshold.parse(found.text)
    assert again == found, "its text is what was read"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param(
            "tftt.p95<1s", "no metric of Headroom's; did you mean 'ttft'", id="a metric that is not, but near"
        ),
        pytest.param("zzz.p95<1s", "known are ttft, .*goodput, .*cost_per_1k_requests", id="a metric that is not"),
        pytest.param("ttft.p95<1parsec", "not a duration", id="a unit that is not"),
        pytest.param("failed<1ms", "no limit of failed; write it like 1% or 0.01", id="a share in ms"),
        pytest.param("failed<1", "is 1% meant", id="all of them may fail"),
        pytest.param("throttled<=1.0", "is 1.0% meant", id="all of them may be refused"),
        pytest.param("failed<=100%", "is always kept; is < meant", id="nothing is asked"),
        pytest.param("goodput>=0", "is always kept; is > meant", id="nothing is asked of goodput"),
        pytest.param("failed<0.0000000001", "takes more attempts than a run has", id="a share that no run shows"),
        pytest.param("goodput>99.9999999%", "takes more attempts than a run has", id="nor this one"),
        pytest.param("ttft.p95<800", "800 has no unit; is 800ms or 800s meant", id="a latency without a unit"),
        pytest.param("ttft.p95<0ms", "0ms is no limit of a latency; it lies between 1us and 24h", id="no time at all"),
        pytest.param("ttft.p95<0.1us", "0.1us is no limit of a latency", id="hardly any"),
        pytest.param("ttft.p95<99999h", "99999h is no limit of a latency", id="eleven years"),
        pytest.param("ttft.p99.99999999999999999<1s", "is no statistic of ttft", id="a percentile next to all"),
        pytest.param("requests>=1" + "0" * 400, "is no limit of requests", id="more requests than a number holds"),
        pytest.param("ttft.p95<1" + "0" * 400 + "s", "is not a duration", id="longer than a number holds"),
        pytest.param("requests>=10.5", "'10.5' is no whole number", id="half a request"),
        pytest.param("failed<$1", "no limit of failed", id="a share in dollars"),
        pytest.param("failed<5", "a share lies between 0 and 1; is 5% meant", id="a share above all"),
        pytest.param("cost_per_1k_requests<1eur", "write it like 0.40usd", id="another currency"),
        pytest.param("ttft.p100<1s", "'p100' is no statistic of ttft; known are p50", id="a percentile above all"),
        pytest.param("ttft.p0<1s", "'p0' is no statistic", id="a percentile below all"),
        pytest.param("ttft.median<1s", "'median' is no statistic", id="a statistic that is not"),
        pytest.param("ttft<1s", "names no statistic, like ttft.p95", id="no statistic"),
        pytest.param("failed.p95<1%", "failed is one figure and has no p95", id="a percentile of a share"),
        pytest.param("ttft.p95>1s", "a latency has an upper limit", id="a latency that must be high"),
        pytest.param("failed<0", "can never be kept; write <=", id="less than none"),
        pytest.param("goodput>100%", "can never be kept; write >=", id="more than all"),
        pytest.param(
            "ttft{model=x}.p95<1s", "'model=x' is no filter; write {scenario=NAME}", id="a filter that is not"
        ),
        pytest.param("ttft{scenario=}.p95<1s", "is no filter", id="a filter by nothing"),
        pytest.param("ttft.p95", "not an objective or threshold", id="no limit"),
        pytest.param("", "not an objective or threshold", id="nothing"),
    ],
)
def test_what_is_not_known_is_named_before_anything_is_sent(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Threshold.parse(text)
    with pytest.raises(ValueError, match=complaint):
        RunConfig.model_validate({"slo": [text]})


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        pytest.param(
            {"slo": ["ttft{scenario=visoin}.p95<1s"], "scenarios": MIX},
            "scenario 'visoin' is not part of this run; there are streaming, vision",
            id="a scenario that the mix has not",
        ),
        pytest.param(
            {"slo": ["ttft{target=east}.p95<1s"]}, "the only one has no name", id="a target, where the one has no name"
        ),
        pytest.param(
            {"slo": ["goodput>0.9", "failed<1%"]}, "needs an objective that says which answers are good", id="goodness"
        ),
        pytest.param(
            {"slo": ["cost_per_1k_requests<1usd"], "target": {"kind": "managed"}},
            "a managed deployment is paid by the hour",
            id="a price per token of what has none",
        ),
        pytest.param(
            {"threshold": {"expr": "requests>10", "abort_on_fail": True}}, "any run begins with too few", id="too few"
        ),
        pytest.param({"threshold": {"expr": "ttft.p95<1s", "delay": "soon"}}, "'soon' is not a duration", id="a delay"),
        pytest.param(
            {"threshold": {"expr": "ttft.p95<1s", "delay": "5s"}}, "says nothing without abort_on_fail", id="of nothing"
        ),
        pytest.param(
            {"slo": ["ttft.p95<1s"], "threshold": {"expr": "ttft.p95 < 1s"}}, "'ttft.p95<1s' is given twice", id="twice"
        ),
    ],
)
def test_a_threshold_must_be_about_this_run(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        RunConfig.model_validate(config)


def test_tables_and_texts_are_thresholds_alike_and_only_latencies_decide_goodput() -> None:
    config = RunConfig.model_validate(
        {
            "slo": ["ttft.p95<1s", "failed<1%", "ttft.min<1s"],
            "threshold": [{"expr": "itl.p99<60ms", "abort_on_fail": True, "delay": "30s"}],
        }
    )
    assert [each.text for each in config.thresholds] == ["ttft.p95<1s", "failed<1%", "ttft.min<1s", "itl.p99<60ms"]
    assert [slo.text for slo in config.slos] == ["ttft.p95<1s", "itl.p99<60ms"]
    assert (config.thresholds[3].abort_on_fail, config.thresholds[3].delay_s) == (True, 30.0)


def mixed(tmp_path: Path) -> Run:
    """1,000 arrivals in a minute: 950 streams of 100 ms to the first token, 30 of vision with 1.5 s, 10 refused, 6
    failed, 4 dropped."""
    samples = streams(950, 0.1) + streams(30, 1.5, first=950, scenario="vision", service_s=2.0)
    samples += [refused(seq, 58.0) for seq in range(980, 990)]
    samples += [answered(seq, 59.0, outcome=Outcome.SERVER_ERROR, status=500) for seq in range(990, 996)]
    samples += [dropped(seq, 59.5) for seq in range(996, 1000)]
    return run_of(tmp_path, samples, slo=["ttft.p95<1s"])


@pytest.mark.parametrize(
    ("text", "measured", "n", "verdict"),
    [
        pytest.param("ttft.p95<1s", 100.0, 980, "pass", id="19 of 20 first tokens came in time"),
        pytest.param("ttft.p95<100ms", 100.0, 980, "fail", id="100 ms are not less than 100 ms"),
        pytest.param("ttft.p95<=100ms", 100.0, 980, "pass", id="and are no more"),
        pytest.param("ttft.max<1s", 1500.0, 980, "fail", id="the longest wait"),
        pytest.param("ttft.min<1s", 100.0, 980, "pass", id="the shortest wait"),
        pytest.param("ttft.mean<200ms", (950 * 100 + 30 * 1500) / 980, 980, "pass", id="the mean wait"),
        pytest.param("ttft{scenario=vision}.p50<1s", 1500.0, 30, "fail", id="of one scenario"),
        pytest.param("ttft{scenario=vision}.p95<1s", None, 30, "inconclusive", id="a p95 of 30 says nothing"),
        pytest.param("ttft{scenario=streaming}.p95<1s", 100.0, 950, "pass", id="of the other"),
        pytest.param("goodput>0.94", 0.95, 1000, "pass", id="all that was due counts for goodput"),
        pytest.param("goodput>0.95", 0.95, 1000, "fail", id="95 % are not above 95 %"),
        pytest.param("goodput{scenario=vision}<=0", 0.0, 30, "pass", id="goodput of a scenario that was slow"),
        pytest.param("throttled<2%", 10 / 996, 996, "pass", id="429s, of the attempts"),
        pytest.param("failed<0.5%", 6 / 996, 996, "fail", id="failures, of the attempts"),
        pytest.param("errors<5%", 16 / 996, 996, "pass", id="both together"),
        pytest.param("dropped<1%", 4 / 1000, 1000, "pass", id="what was never sent, of the arrivals"),
        pytest.param("requests>=996", 996.0, 996, "pass", id="attempts"),
        pytest.param("requests_per_s>10/s", 967 / 60, 967, "pass", id="answers a second: 13 came after its end"),
        pytest.param("output_tokens_per_s>1000", 967 * 50 / 60, 967, "fail", id="tokens a second"),
    ],
)
def test_a_figure_is_what_its_name_says(tmp_path: Path, text: str, measured: float, n: int, verdict: str) -> None:
    run = mixed(tmp_path)
    (check,) = judge(run, settled(run, [text]))
    assert (check.n, check.verdict) == (n, verdict), check.message
    assert check.measured == (None if measured is None else pytest.approx(measured, rel=2e-3))
    if check.low is not None and check.high is not None:
        assert check.low <= (check.measured or 0) <= check.high
    assert f"n {n:,}" in check.message


def test_a_thousand_requests_cost_what_their_tokens_do(tmp_path: Path) -> None:
    """100 prompt and 50 completion tokens each, at the target's own price."""
    target = {"usd_per_1k_prompt": 0.5, "usd_per_1k_completion": 2.0}
    run = run_of(tmp_path, streams(200, 0.1), target=target)
    (check,) = judge(run, settled(run, ["cost_per_1k_requests<0.40usd"]))
    assert check.measured == pytest.approx(1_000 * (0.1 * 0.5 + 0.05 * 2.0))
    assert check.verdict == "fail" and "$150" in check.message


def test_a_model_without_a_price_costs_nobody_knows_what(tmp_path: Path) -> None:
    run = run_of(tmp_path, streams(200, 0.1), target={"model": "nobody-sells-this"})
    (check,) = judge(run, settled(run, ["cost_per_1k_requests<0.40usd"]))
    assert check.verdict == "inconclusive" and "no price" in check.message


@pytest.mark.parametrize(
    ("hits", "n", "text", "verdict"),
    [
        pytest.param(0, 367, "failed<1%", "inconclusive", id="367 good ones do not show less than 1 %"),
        pytest.param(0, 368, "failed<1%", "pass", id="368 do: the whole interval is below"),
        pytest.param(1, 17, "failed<1%", "inconclusive", id="1 of 17 may be chance"),
        pytest.param(4, 458, "failed<1%", "inconclusive", id="4 of 458 do not"),
        pytest.param(4, 459, "failed<1%", "pass", id="from 459 on, as for a p99, what was measured decides"),
        pytest.param(5, 459, "failed<1%", "fail", id="one way or the other"),
        pytest.param(1, 20, "failed<1%", "inconclusive", id="1 of 20 may be chance"),
        pytest.param(10, 20, "failed<1%", "fail", id="10 of 20 are none"),
        pytest.param(0, 10, "failed<=0", "pass", id="none of ten is none"),
        pytest.param(1, 10, "failed<=0", "fail", id="one is one"),
        pytest.param(0, 0, "failed<1%", "inconclusive", id="nothing was sent"),
        pytest.param(71, 71, "goodput>0.95", "inconclusive", id="71 say nothing of 95 %"),
        pytest.param(72, 72, "goodput>0.95", "pass", id="72 do"),
        pytest.param(10, 89, "goodput>0.95", "fail", id="hardly any is clear however few"),
    ],
)
def test_a_share_takes_as_many_as_the_percentile_that_says_the_same(hits: int, n: int, text: str, verdict: str) -> None:
    rule, every = Threshold.parse(text), n // hits if hits else n + 1
    evenly = np.array([place % every == 0 and place // every < hits for place in range(n)], dtype=bool)
    assert evenly.sum() == hits
    assert check_of(rule, share_of(rule, evenly)).verdict == verdict


def test_a_verdict_says_where_the_interval_spans_the_limit() -> None:
    rule = Threshold.parse("ttft.mean<100ms")
    assert "spans the limit" in check_of(rule, Figure(value=99.0, low=90.0, high=108.0, n=500)).message
    assert "spans" not in check_of(rule, Figure(value=80.0, low=75.0, high=85.0, n=500)).message
    unbounded = check_of(rule, Figure(value=80.0, low=75.0, n=500))
    assert "80 ms (from 75 ms), n 500" in unbounded.message and "spans the limit" in unbounded.message
    assert check_of(rule, Figure(value=80.0, low=75.0, n=500), strict=True).verdict == "inconclusive"
    assert "spans" not in check_of(rule, Figure(value=80.0, n=500)).message


def test_a_miss_beats_what_is_unclear_and_that_what_was_kept() -> None:
    checks = {
        verdict: replace(check_of(Threshold.parse("ttft.max<1s"), Figure(value=1.0, n=1)), verdict=verdict)
        for verdict in ("pass", "inconclusive", "fail", "skipped")
    }
    assert overall([checks["pass"], checks["inconclusive"], checks["fail"]]) == "fail"
    assert overall([checks["pass"], checks["inconclusive"]]) == "inconclusive"
    assert overall([checks["pass"]]) == overall([]) == "pass"
    assert overall([checks["skipped"]]) == "skipped"


@pytest.mark.parametrize(
    ("text", "figure", "ends"),
    [
        ("failed<5%", Figure(value=0.07, low=0.04, high=0.11, n=200), False),
        ("failed<5%", Figure(value=0.09, low=0.06, high=0.13, n=200), True),
        ("failed<5%", Figure(value=None, n=0), False),
        ("failed<5%", Figure(value=0.5, low=0.06, high=0.9, n=89, needs_n=90), False),
        ("goodput>0.9", Figure(value=0.5, low=0.4, high=0.6, n=90), True),
        ("goodput>0.9", Figure(value=0.89, low=0.8, high=0.95, n=90), False),
        ("ttft.p95<1s", Figure(value=None, n=80, needs_n=90), False),
        ("ttft.max<1s", Figure(value=1001.0, n=1), True),
        ("requests<100", Figure(value=100.0, n=100), True),
    ],
)
def test_a_run_is_ended_by_what_is_beyond_doubt_and_no_less(text: str, figure: Figure, ends: bool) -> None:
    assert ends_run(Threshold.parse(text), figure) is ends


@pytest.mark.parametrize("correlated", [False, True])
def test_the_interval_of_a_mean_holds_for_values_that_follow_each_other(correlated: bool) -> None:
    """93 to 97 of 100 intervals hold the true mean: batch means, where the plain formula would hold it in 60."""
    dice = np.random.default_rng(7)
    runs, n, memory = 400, 1_000, 0.6 if correlated else 0.0
    values = dice.normal(size=(n, runs))
    values[0] /= math.sqrt(1 - memory**2)
    for place in range(1, n):
        values[place] += memory * values[place - 1]
    figures = [_mean(values[:, run] + 5.0, np.ones(n)) for run in range(runs)]
    hits = sum(figure.low <= 5.0 <= figure.high for figure in figures)  # type: ignore[operator]
    assert 0.92 <= hits / runs <= 0.975


def test_goodput_alone_is_of_the_runs_own_objectives(tmp_path: Path) -> None:
    run = run_of(tmp_path, streams(100, 0.5) + streams(100, 2.0, first=100), slo=["ttft.p95<1s"])
    (check,) = judge(run, settled(run, ["goodput>0.4"]))
    assert check.measured == 0.5
    with pytest.raises(ConfigError, match="scenario 'x' is not part of this run"):
        settled(run, ["ttft{scenario=x}.p95<1s"])
    assert judge(run, settled(run, ["goodput>0.4"])) == (check,)


def test_every_metric_is_in_the_readme() -> None:
    text = (Path(__file__).parent.parent / "README.md").read_text()
    assert [name for name in KNOWN if not re.search(rf"`{name}\b", text)] == []


@pytest.mark.parametrize(
    ("slo", "complaint"),
    [
        pytest.param("failed<1%", "is a threshold of a whole run, and no objective", id="a share"),
        pytest.param("ttft{scenario=chat}.p95<1s", "a step is judged by all its requests", id="one scenario"),
    ],
)
def test_a_sweep_counts_requests_that_keep_a_latency(tmp_path: Path, slo: str, complaint: str) -> None:
    done = told(tmp_path, "sweep", "--kind", "managed", "--slo", slo)
    assert done.returncode == 2 and complaint in done.stderr, done.stderr


@pytest.mark.parametrize("where", ['slo = ["ttft.p95<1s", "failed<1%"]', '[[threshold]]\nexpr = "failed<1%"'])
def test_a_sweep_leaves_what_a_file_asks_of_single_runs_and_says_so(tmp_path: Path, where: str) -> None:
    (tmp_path / "loadtest.toml").write_text(where + "\n[target]\nkind = 'managed'\n")
    done = told(tmp_path, "sweep", "loadtest.toml", "--check")
    assert done.returncode == 0 and "No step is judged by failed<1%" in done.stderr, done.stderr
    config = json.loads(done.stdout)
    assert (config["slo"][0], config["threshold"]) == ("ttft.p95<1s", [])
    assert "failed<1%" not in config["slo"]


@pytest.mark.parametrize(
    ("text", "figure"),
    [
        pytest.param("ttft.mean<1s", _mean(np.array([900.0] * 39), np.ones(39)), id="39 values have no interval"),
        pytest.param("ttft.mean<1s", _mean(np.array([900.0]), np.ones(1)), id="nor has one"),
        pytest.param("cost_per_1k_requests<1usd", _mean(np.array([0.1]), np.ones(1)), id="nor the cost of one request"),
    ],
)
def test_a_mean_of_few_requests_is_unclear(text: str, figure: Figure) -> None:
    check = check_of(Threshold.parse(text), figure)
    assert (check.verdict, check.measured) == ("inconclusive", None) and "it takes 40 requests" in check.message


def test_a_price_that_is_not_known_is_told_before_the_run() -> None:
    config = RunConfig.model_validate({"slo": ["cost_per_1k_requests<1usd"], "target": {"url": "http://127.0.0.1:9"}})
    with pytest.raises(ConfigError, match="no serverless price for mine, so cost_per_1k_requests<1usd cannot be kept"):
        prices_of(config, [{"model_name": "mine"}])
    assert prices_of(config, [{"model_name": "Phi-3-mini-4k-instruct"}])
    assert prices_of(RunConfig(), [{"model_name": "mine"}]) == {}
