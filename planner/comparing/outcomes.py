"""What was not answered, on either side: compared before any latency, since latencies are of the answered alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from planner.comparing.comparison import OutcomeComparison
from planner.comparing.exact import clopper_pearson, fisher_above
from planner.comparing.run_facts import RunFacts, Sides
from planner.comparing.shifts import welch
from planner.comparing.verdict import ALPHA, Verdict
from planner.intervals import BLOCKS

FLOOR_SHARE, FLOOR_OF_ONE_RUN = 0.01, 0.05  # of the arrivals: fewer more are no regression
LOOKS_WORSE = 0.05


def outcome_chances(sides: Sides) -> tuple[float, float]:
    """How likely so many more, and so many fewer, unanswered are if nothing changed.

    The larger chance of two: of arrivals (Fisher), and of runs (Welch), since failures come in bursts and arrivals of
    one burst are no trials of their own. Of one run a side its blocks in time take the place of runs; where an older
    baseline has none, nothing is sure.
    """
    (bad, n), (bad_new, n_new) = (_unanswered(side) for side in sides)
    worse, better = fisher_above(bad, n, bad_new, n_new), fisher_above(bad_new, n_new, bad, n)
    trials = [_trials(side, of_blocks=min(map(len, sides)) < 2) for side in sides]
    if min(map(len, trials)) < 2:
        return 1.0, 1.0
    base, new = ([math.asin(math.sqrt(min(1.0, share))) for share in shares] for shares in trials)
    shift = welch(base, new)
    return max(worse, shift.p_slower), max(better, shift.p_faster)


def _trials(side: Sequence[RunFacts], *, of_blocks: bool) -> list[float]:
    """Shares of arrivals that were not answered: of each run, or of each block."""
    if not of_blocks:
        return [run.unanswered / max(1, run.arrivals) for run in side]
    return [bad * BLOCKS / max(1, run.arrivals) for run in side for bad in run.unanswered_blocks]


def compare_outcomes(sides: Sides, *, p_worse: float, p_better: float) -> OutcomeComparison:
    """The chances are those of `outcome_chances`, corrected for all that is compared."""
    (bad, n), (bad_new, n_new) = (_unanswered(side) for side in sides)
    base, new = bad / max(1, n), bad_new / max(1, n_new)
    floor = FLOOR_SHARE if min(map(len, sides)) > 1 else FLOOR_OF_ONE_RUN
    verdict = Verdict.INCONCLUSIVE
    if p_worse < ALPHA and new - base > floor:
        verdict = Verdict.REGRESSED
    elif p_better < ALPHA and base - new > floor:
        verdict = Verdict.IMPROVED
    elif (n_new and not bad_new) or _most_worse(bad, n, bad_new, n_new) < floor:
        verdict = Verdict.EQUIVALENT  # where all were answered, the latencies are of all
    shares = f"{new:.2%} of the requests were not answered, against {base:.2%}".replace("%", " %")
    unsure = f": too few requests to tell whether {floor:.0%} more were not".replace("%", " %")
    return OutcomeComparison(
        verdict=verdict,
        reason=shares + (unsure if verdict is Verdict.INCONCLUSIVE else ""),
        base_share=base,
        new_share=new,
        floor_share=floor,
        p_worse=p_worse,
        base=_counts(sides[0]),
        new=_counts(sides[1]),
    )


def _unanswered(side: Sequence[RunFacts]) -> tuple[int, int]:
    return sum(run.unanswered for run in side), sum(run.arrivals for run in side)


def _most_worse(bad: int, n: int, bad_new: int, n_new: int) -> float:
    """The upper end of the 95 % interval of the difference of two shares: as Newcombe's tenth method (1998) joins the
    intervals of both, from exact ones (Clopper and Pearson), since shares near 0 are what is compared.
    """
    if not n or not n_new:
        return math.inf
    low, high = clopper_pearson(bad, n)[0], clopper_pearson(bad_new, n_new)[1]
    base, new = bad / n, bad_new / n_new
    return new - base + math.hypot(high - new, base - low)


def fewer_answered(sides: Sides) -> bool:
    """Whether it looks so, without proof: enough to call no latency improved."""
    (bad, n), (bad_new, n_new) = (_unanswered(side) for side in sides)
    return fisher_above(bad, n, bad_new, n_new) < LOOKS_WORSE


def _counts(side: Sequence[RunFacts]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for run in side:
        total.update(run.outcomes)
    return dict(total)


def mix_doubts(sides: Sides) -> list[str]:
    """Outcomes that come clearly more or less often than they did."""
    base, new = (_counts(side) for side in sides)
    n_base, n_new = sum(base.values()), sum(new.values())
    doubts = []
    for outcome in {**base, **new}:
        was, now = base.get(outcome, 0), new.get(outcome, 0)
        chance = 2 * min(fisher_above(was, n_base, now, n_new), fisher_above(now, n_new, was, n_base))
        if outcome != "ok" and chance < ALPHA:
            shares = f"{now / n_new:.2%} of the attempts, and was {was / n_base:.2%}".replace("%", " %")
            doubts.append(f"{outcome} is {shares}")
    return doubts


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeShare:
    """How many attempts ended so on each side, and which share of that side's they are."""

    outcome: str
    base: int
    new: int
    base_share: float
    new_share: float


def outcome_mix(compared: OutcomeComparison) -> tuple[OutcomeShare, ...]:
    """Of every outcome of either side, the commonest first."""
    n_base, n_new = (max(1, sum(side.values())) for side in (compared.base, compared.new))
    rows = [
        OutcomeShare(
            outcome=outcome,
            base=compared.base.get(outcome, 0),
            new=compared.new.get(outcome, 0),
            base_share=compared.base.get(outcome, 0) / n_base,
            new_share=compared.new.get(outcome, 0) / n_new,
        )
        for outcome in {**compared.base, **compared.new}
    ]
    return tuple(sorted((row for row in rows if row.base or row.new), key=lambda row: -row.base - row.new))
