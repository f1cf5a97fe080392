"""The comparison of new runs with a base: failures first, then how long answers are, then how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from planner.checks import Check
from planner.checks import Verdict as CheckVerdict
from planner.comparing.comparable import check_comparable, circumstances
from planner.comparing.compared_metric import compare_metric, figures_of, finite
from planner.comparing.comparison import ComparedRuns, Comparison, LengthComparison, MetricComparison, OutcomeComparison
from planner.comparing.outcomes import compare_outcomes, fewer_answered, mix_doubts, outcome_chances
from planner.comparing.run_facts import RunFacts
from planner.comparing.shifts import holm, welch
from planner.comparing.tolerance import DEFAULT, PLAIN, Tolerance
from planner.comparing.verdict import ALPHA, Figures, Test, Verdict, shift_of

FORMAT = 1
LENGTH_BOUND = ("service_time", "response_time")  # they grow with the answer, however fast it comes
LENGTHS_DIFFER = 0.02
OUTLYING = 5.0  # median absolute deviations
WORST_FIRST = tuple(Verdict)
Sides = tuple[Sequence[RunFacts], Sequence[RunFacts]]


def compare(
    base: Sequence[RunFacts],
    new: Sequence[RunFacts],
    *,
    tolerances: Sequence[Tolerance] = (),
    test: Test = Test.WELCH,
    pairs: bool = False,
) -> Comparison:
    """Hold the new runs against the base's. Without tolerances those of `chosen` are taken.

    With `pairs` the n-th run of each side is one of a pair. Raises InvalidRun, RunFolderError where the runs are not
    comparable, and ConfigError for a tolerance that they say nothing of.
    """
    check_comparable(base, new)
    sides: Sides = (base, new)
    pairs = pairs and len(base) == len(new) > 1
    named = tuple(tolerances) or chosen(sides)
    figures = [figures_of(sides, tolerance) for tolerance in named]
    lengths = _lengths(sides)
    outcomes, rows = _judged(sides, named, figures, test=test, pairs=pairs)
    metrics = tuple(_qualified(row, sides, lengths) for row in rows)
    verdict = _worst([outcomes.verdict, *(row.verdict for row in metrics)])
    reason = _reason(verdict, outcomes, metrics)
    names = [tuple(run.name for run in side) for side in sides]
    return Comparison(
        format=FORMAT,
        verdict=verdict,
        headline=f"{verdict.value.upper()}: {reason}",
        reason=reason,
        metrics=metrics,
        outcomes=outcomes,
        lengths=lengths,
        runs=ComparedRuns(base=names[0], new=names[1], paired=pairs, test=test.value),
        doubts=_doubts(sides, figures, named, lengths, test),
    )


def _judged(
    sides: Sides, tolerances: Sequence[Tolerance], figures: Sequence[Figures | None], *, test: Test, pairs: bool
) -> tuple[OutcomeComparison, list[MetricComparison]]:
    """Each by chances that are corrected for all of them together."""
    shifts = [None if each is None else shift_of(each, test=test, pairs=pairs) for each in figures]
    worse, better = outcome_chances(sides)
    slower = holm([worse, *(1.0 if shift is None else shift.p_slower for shift in shifts)])
    faster = holm([better, *(1.0 if shift is None else shift.p_faster for shift in shifts)])
    rows = [
        compare_metric(sides, tolerance, of_runs, shift, p_slower=p, p_faster=q, compared=len(slower), pairs=pairs)
        for tolerance, of_runs, shift, p, q in zip(tolerances, figures, shifts, slower[1:], faster[1:], strict=True)
    ]
    return compare_outcomes(sides, p_worse=slower[0], p_better=faster[0]), rows


def chosen(sides: Sides) -> tuple[Tolerance, ...]:
    """What is compared where nothing is named: TTFT and TPOT of streams, and where nothing streamed response time."""
    streams = tuple(each for each in DEFAULT if _is_in_all(sides, each))
    return streams or PLAIN


def _is_in_all(sides: Sides, tolerance: Tolerance) -> bool:
    return all(run.quantile(tolerance.metric, tolerance.percentile) is not None for side in sides for run in side)


def _lengths(sides: Sides) -> LengthComparison | None:
    means = [[run.completion_tokens for run in side if run.completion_tokens] for side in sides]
    if any(len(known) < len(side) for known, side in zip(means, sides, strict=True)):
        return None
    base, new = ([math.log(each) for each in known if each] for known in means)
    ratio = math.exp(fmean(new) - fmean(base))
    shift = welch(base, new) if min(len(base), len(new)) > 1 else None
    sure = shift is None or min(shift.p_slower, shift.p_faster) < ALPHA / 2
    return LengthComparison(
        base_tokens=math.exp(fmean(base)),
        new_tokens=math.exp(fmean(new)),
        ratio=ratio,
        low=None if shift is None else finite(shift.low),
        high=None if shift is None else finite(shift.high),
        differ=sure and abs(math.log(ratio)) > LENGTHS_DIFFER,
    )


def _qualified(row: MetricComparison, sides: Sides, lengths: LengthComparison | None) -> MetricComparison:
    """What longer or fewer answers bring about is neither a regression nor an improvement of speed."""
    if row.verdict is Verdict.INCONCLUSIVE:
        return row
    inconclusive = replace(row, verdict=Verdict.INCONCLUSIVE)
    if lengths is not None and lengths.differ and row.name.partition(".")[0] in LENGTH_BOUND:
        longer = f"answers were {abs(lengths.ratio - 1) * 100:.0f} % {'longer' if lengths.ratio > 1 else 'shorter'}"
        return replace(inconclusive, reason=f"{row.reason}; but {longer}: tpot tells how fast each token came")
    if row.verdict is Verdict.IMPROVED and fewer_answered(sides):
        return replace(inconclusive, reason=f"{row.reason}; but fewer were answered, and these are those that were")
    return row


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    """Something improved and nothing got worse: improved."""
    worst = min(verdicts, key=WORST_FIRST.index)
    return Verdict.IMPROVED if worst is Verdict.EQUIVALENT and Verdict.IMPROVED in verdicts else worst


def _reason(verdict: Verdict, outcomes: OutcomeComparison, metrics: Sequence[MetricComparison]) -> str:
    """What decided it."""
    if verdict is Verdict.EQUIVALENT:
        names = ", ".join(row.name for row in metrics)
        return f"no slowdown beyond its tolerance in {names}, nor more requests unanswered"
    judged = [(outcomes.verdict, outcomes.reason), *((row.verdict, row.reason) for row in metrics)]
    first, *others = (reason for each, reason in judged if each is verdict)
    return f"{first} (and {len(others)} more)" if others else first


def _doubts(
    sides: Sides,
    figures: Sequence[Figures | None],
    tolerances: Sequence[Tolerance],
    lengths: LengthComparison | None,
    test: Test,
) -> tuple[str, ...]:
    doubts = [*circumstances(*sides), *mix_doubts(sides)]
    if min(map(len, sides)) < 2:
        doubts.append(
            "one run on a side: how much runs differ among themselves cannot be known from it, and a run that started "
            "cold looks like a regression; --repeat 10 shows it"
        )
    if lengths is not None and lengths.differ:
        doubts.append(f"answers have {lengths.new_tokens:,.4g} tokens on average, and had {lengths.base_tokens:,.4g}")
    prompts = [[run.prompt_tokens for run in side if run.prompt_tokens] for side in sides]
    if all(prompts) and abs(math.log(fmean(prompts[1]) / fmean(prompts[0]))) > LENGTHS_DIFFER:
        doubts.append(f"prompts have {fmean(prompts[1]):,.4g} tokens on average, and had {fmean(prompts[0]):,.4g}")
    if test is Test.WELCH:
        doubts += _outliers(sides, figures, tolerances)
    return tuple(doubts)


def _outliers(sides: Sides, figures: Sequence[Figures | None], tolerances: Sequence[Tolerance]) -> list[str]:
    """The first run that stands apart, by the first figure in which one does."""
    for tolerance, of_runs in zip(tolerances, figures, strict=True):
        for side, logs in zip(sides, () if of_runs is None else (of_runs.base, of_runs.new), strict=False):
            middle = sorted(logs)[len(logs) // 2]
            typical = sorted(abs(each - middle) for each in logs)[len(logs) // 2]
            far = [run.name for run, each in zip(side, logs, strict=True) if abs(each - middle) > OUTLYING * typical]
            if len(logs) >= 5 and typical and far:
                return [
                    f"{', '.join(far)} stands apart from the other runs in {tolerance.name}: --test ranks gives such "
                    "runs no weight of their own"
                ]
    return []


def checks_of(comparison: Comparison) -> tuple[Check, ...]:
    """For the outputs of CI: unanswered in points of a hundred, latencies as slowdown in per cent."""
    outcomes = comparison.outcomes
    runs = min(len(comparison.runs.base), len(comparison.runs.new))
    checks = [
        Check(
            name="unanswered",
            verdict=_CHECKED[outcomes.verdict],
            message=outcomes.reason,
            measured=(outcomes.new_share - outcomes.base_share) * 100,
            limit=outcomes.floor_share * 100,
            n=runs,
            low=None,
            high=None,
        )
    ]
    for row in comparison.metrics:
        ratio, low, high = (None if each is None else (each - 1) * 100 for each in (row.ratio, row.low, row.high))
        checks.append(
            Check(
                name=row.name,
                verdict=_CHECKED[row.verdict],
                message=row.reason,
                measured=ratio,
                limit=row.tolerance_share * 100,
                n=runs,
                low=low,
                high=high,
            )
        )
    return tuple(checks)


_CHECKED: dict[Verdict, CheckVerdict] = {
    Verdict.REGRESSED: "fail",
    Verdict.INCONCLUSIVE: "inconclusive",
    Verdict.EQUIVALENT: "pass",
    Verdict.IMPROVED: "pass",
}
