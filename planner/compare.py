"""The comparison of new runs with a base: failures first, then how long answers are, then how fast."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from planner.checks import Check
from planner.checks import Verdict as CheckVerdict
from planner.comparing.comparable import check_comparable
from planner.comparing.compared_metric import (
    LENGTH_BOUND,
    Evidence,
    compare_metric,
    evidence_of,
    finite,
)
from planner.comparing.comparison import ComparedRuns, Comparison, LengthComparison, MetricComparison, OutcomeComparison
from planner.comparing.doubts import LEAST_SHARE, LENGTHS_DIFFER, doubts_of
from planner.comparing.figures import Test
from planner.comparing.outcomes import compare_outcomes, fewer_answered, outcome_chances
from planner.comparing.run_facts import RunFacts, Sides
from planner.comparing.shifts import holm, welch
from planner.comparing.tolerance import DEFAULT, PLAIN, PLAIN_BESIDE, Tolerance
from planner.comparing.verdict import ALPHA, Verdict

FORMAT = 1
WORST_FIRST = tuple(Verdict)


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
    lengths = _lengths(sides)
    between = _by_length(lengths)
    evidence = [evidence_of(sides, each, between, test=test, pairs=pairs, asked=bool(tolerances)) for each in named]
    outcomes, rows = _judged(sides, named, evidence, test=test, pairs=pairs)
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
        doubts=doubts_of(sides, named, evidence, lengths, test=test, pairs=pairs),
    )


def _judged(
    sides: Sides, tolerances: Sequence[Tolerance], evidence: Sequence[Evidence], *, test: Test, pairs: bool
) -> tuple[OutcomeComparison, list[MetricComparison]]:
    """Each by chances that are corrected for all of them together."""
    worse, better = outcome_chances(sides)
    slower = holm([worse, *(each.chances[0] for each in evidence)])
    faster = holm([better, *(each.chances[1] for each in evidence)])
    rows = [
        compare_metric(sides, tolerance, shown, p_slower=p, p_faster=q, compared=len(slower), test=test, pairs=pairs)
        for tolerance, shown, p, q in zip(tolerances, evidence, slower[1:], faster[1:], strict=True)
    ]
    return compare_outcomes(sides, p_worse=slower[0], p_better=faster[0]), rows


def chosen(sides: Sides) -> tuple[Tolerance, ...]:
    """What is compared where nothing is named: TTFT and TPOT of streams, and the response time of what does not stream.

    What some run has is asked of all: one that lacks it cannot be like the others.
    """
    runs = [run for side in sides for run in side]
    streams = tuple(each for each in DEFAULT if any(run.quantile(each.metric, each.percentile) for run in runs))
    if not streams:
        return PLAIN
    return streams + (PLAIN_BESIDE if any(run.plain_share >= LEAST_SHARE for run in runs) else ())


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


def _by_length(lengths: LengthComparison | None) -> tuple[float, float]:
    """How much shorter, and how much longer, answers may have become, as logarithms."""
    if lengths is None or not lengths.differ:
        return 0.0, 0.0
    return min(0.0, math.log(lengths.low or lengths.ratio)), max(0.0, math.log(lengths.high or lengths.ratio))


def _qualified(row: MetricComparison, sides: Sides, lengths: LengthComparison | None) -> MetricComparison:
    """What longer or fewer answers bring about is neither a regression nor an improvement of speed."""
    if row.verdict is Verdict.IMPROVED and fewer_answered(sides):
        fewer = f"{row.reason}; but fewer were answered, and these are those that were"
        return replace(row, verdict=Verdict.INCONCLUSIVE, reason=fewer)
    bound = row.name.partition(".")[0].partition("{")[0] in LENGTH_BOUND
    if lengths is not None and lengths.differ and bound and row.ratio is not None:
        longer = f"{abs(lengths.ratio - 1) * 100:.0f} % {'longer' if lengths.ratio > 1 else 'shorter'}"
        if row.verdict is Verdict.INCONCLUSIVE:
            has_tokens = any(run.count("tpot") for side in sides for run in side)
            what = "tpot tells how fast each token came" if has_tokens else "how much of it is speed cannot be told"
            return replace(row, reason=f"{row.reason}; but answers were {longer}: {what}")
        return replace(row, reason=f"{row.reason}; answers that were {longer} do not account for it")
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


def checks_of(comparison: Comparison) -> tuple[Check, ...]:
    """For the outputs of CI: unanswered in points of a hundred, latencies as slowdown in per cent.

    The limit is what was applied: of a regression the floor that it is above.
    """
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
                limit=(row.floor_share if row.verdict is Verdict.REGRESSED else row.tolerance_share) * 100,
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
