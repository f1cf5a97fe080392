"""Whether a run kept its thresholds: n, a 95 % interval, and a verdict that says where n is too few."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadgen.errors import ConfigError
from loadgen.samples import Run
from loadgen.slo import COST, COUNT, LATENCIES, RATES, SHARES, Slo, Threshold, check_once, check_thresholds
from planner.checks import Check, Verdict
from planner.headline import three_digits
from planner.measured import Figure, cost_figure, count_figure, latency_figure, rate_figure, share_figure
from planner.plan import Plan
from planner.quantiles import CONFIDENCE
from planner.rows import config_of

FORMAT = 1
SURE_OF_MISS = 0.999  # the confidence that ends a run: of a hundred that keep their limits well, at most one
Ruling = Verdict | Literal["invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What a gate says of one subject: a run, or one side against another."""

    subject: str
    verdict: Ruling
    exit_code: int
    headline: str
    reasons: tuple[str, ...]  # why nothing was judged
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What `--json` writes. Its verdict is the worst of its judgements."""

    format: int
    verdict: Ruling
    exit_code: int
    judgements: tuple[Judgement, ...]


def settled(run: Run, texts: Sequence[str] | None) -> tuple[Threshold, ...]:
    """The run's own thresholds, or those of `texts`, whose goodput is of the run's objectives if they have none.

    Raises ConfigError for one that cannot be read, or is about what the run has not.
    """
    config = config_of(run)
    if texts is None:
        return config.thresholds
    given = tuple(Threshold.parse(text) for text in texts)
    check_once(given)
    has_objectives = any(each.slo is not None for each in given)
    known = given if has_objectives else (*given, *config.thresholds)
    check_thresholds(known, config.scenarios, [target.name for target in config.targets if target.name is not None])
    return given


def judge(run: Run, thresholds: Sequence[Threshold], *, strict: bool = False) -> tuple[Check, ...]:
    """One check for each threshold, over the steady phase. Raises ConfigError and RunFolderError."""
    slos = [threshold.slo for threshold in thresholds if threshold.slo is not None] or list(config_of(run).slos)
    return tuple(check_of(threshold, measured(run, threshold, slos), strict=strict) for threshold in thresholds)


def not_judged(thresholds: Sequence[Threshold], why: str) -> tuple[Check, ...]:
    """Of a run that says nothing."""
    return tuple(
        Check(
            name=threshold.text,
            verdict="skipped",
            message=f"not judged: {why}",
            measured=None,
            limit=threshold.limit,
            n=None,
            low=None,
            high=None,
        )
        for threshold in thresholds
    )


def measured(run: Run, threshold: Threshold, slos: Sequence[Slo], confidence: float = CONFIDENCE) -> Figure:
    """The figure that a threshold names. Latencies are ms, shares 0 to 1, rates per second, cost US dollars."""
    if threshold.metric in LATENCIES:
        return latency_figure(run, threshold, confidence)
    if threshold.metric in SHARES:
        return share_figure(run, threshold, slos, confidence)
    if threshold.metric in RATES:
        return rate_figure(run, threshold, confidence)
    if threshold.metric == COUNT:
        return count_figure(run, threshold)
    if threshold.metric == COST:
        return cost_figure(run, threshold, confidence)
    raise ConfigError(f"{threshold.text!r} is not judged")


def check_of(threshold: Threshold, figure: Figure, *, strict: bool = False) -> Check:
    """The verdict: the measured value decides, once n supports it.

    Of a share with fewer trials only an interval that lies wholly on one side of the limit decides; if `strict`, so it
    is of every figure.
    """
    few = figure.n < figure.needs_n
    if figure.value is None:
        verdict: Verdict = "inconclusive"
    elif (few or strict) and _spans(threshold, figure):
        verdict = "inconclusive"
    else:
        verdict = "pass" if threshold.keeps(figure.value) else "fail"
    return Check(
        name=threshold.text,
        verdict=verdict,
        message=_message(threshold, figure, few=few),
        measured=figure.value,
        limit=threshold.limit,
        n=figure.n,
        low=figure.low,
        high=figure.high,
    )


def surely_missed(threshold: Threshold, figure: Figure) -> bool:
    """Whether no value of the interval keeps the limit."""
    nearest = figure.low if threshold.upper else figure.high
    return nearest is not None and not threshold.keeps(nearest)


def ends_run(threshold: Threshold, figure: Figure) -> bool:
    """Whether a run that still goes on has missed it for good, or beyond reasonable doubt.

    `figure`: with an interval of SURE_OF_MISS, since it is looked at again and again.
    """
    if figure.value is None:
        return False
    if threshold.upper and (threshold.statistic == "max" or threshold.metric == COUNT):
        return not threshold.keeps(figure.value)  # they only grow
    return figure.n >= figure.needs_n and surely_missed(threshold, figure)


def _message(threshold: Threshold, figure: Figure, *, few: bool) -> str:
    limit = f"limit {threshold.relation} {_written(threshold, threshold.limit)}"
    n = f"n {figure.n:,}"
    if figure.value is None:
        why = figure.why or f"it takes {figure.needs_n:,}"
        return f"the data cannot say: {n}, {why}; {limit}"
    said = [f"{_written(threshold, figure.value)}{_interval(threshold, figure)}, {n}", limit]
    if _spans(threshold, figure):
        said.append("the interval spans the limit" + (f", and n is below {figure.needs_n:,}" if few else ""))
    return "; ".join(said)


def _interval(threshold: Threshold, figure: Figure) -> str:
    low, high = (None if end is None else _written(threshold, end) for end in (figure.low, figure.high))
    if low is None or high is None:
        return f" (from {low})" if low else f" (up to {high})" if high else ""
    return f" ({low} to {high})"


def _spans(threshold: Threshold, figure: Figure) -> bool:
    """An end that is not known is beyond all limits; a figure like the longest wait has no interval."""
    if figure.low is None and figure.high is None:
        return False
    low = -math.inf if figure.low is None else figure.low
    high = math.inf if figure.high is None else figure.high
    return threshold.keeps(low) != threshold.keeps(high)


def _written(threshold: Threshold, value: float) -> str:
    if threshold.metric in LATENCIES:
        return f"{three_digits(value)} ms"
    if threshold.metric in SHARES:
        return f"{value * 100:.3g} %"
    if threshold.metric == COST:
        return f"${value:.3g}"
    return f"{three_digits(value)}/s" if threshold.metric in RATES else f"{value:,.0f}"


def overall(checks: Sequence[Check]) -> Verdict:
    """A miss beats what is unclear, and that beats what was kept."""
    verdicts = {check.verdict for check in checks}
    ranked: tuple[Verdict, ...] = ("fail", "inconclusive", "pass")
    return next((verdict for verdict in ranked if verdict in verdicts), "skipped" if checks else "pass")


def headline_of(plan: Plan, checks: Sequence[Check]) -> str:
    """What came of the thresholds, in a sentence."""
    if not plan.validity.valid:
        return "the run is INVALID, and nothing is judged by it"
    counts = [
        f"{n} {word}"
        for word, verdict in (("missed", "fail"), ("unclear", "inconclusive"), ("kept", "pass"))
        if (n := sum(check.verdict == verdict for check in checks))
    ]
    return f"{len(checks)} threshold{'' if len(checks) == 1 else 's'}: {', '.join(counts)}"
