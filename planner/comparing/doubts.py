"""What to bear in mind of a comparison, whatever its verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

from planner.comparing.comparable import circumstances
from planner.comparing.compared_metric import SIDES, Evidence, runs_for_ranks
from planner.comparing.comparison import LengthComparison
from planner.comparing.exact import least_chance
from planner.comparing.figures import FEWEST_SESSIONS_DF, SESSION_SPREAD, Test
from planner.comparing.outcomes import mix_doubts
from planner.comparing.run_facts import Sides
from planner.comparing.sessions import in_turns, sessions_of
from planner.comparing.tolerance import NO_STREAM, Tolerance
from planner.comparing.verdict import ALPHA
from planner.metrics import OF_STREAMS

LENGTHS_DIFFER = 0.02
LEAST_SHARE = 0.02  # of the answers: fewer are not judged
MAD_OF_NORMAL = 1.4826  # the standard deviation of a normal distribution, in its median absolute deviations
# How many of those so many normal values stay within 99.4 times in 100: by default there are eight sets of them.
APART = {5: 24.2, 6: 12.9, 7: 12.9, 8: 9.5, 9: 9.5}
APART_OF_MORE = 7.8


def doubts_of(
    sides: Sides,
    tolerances: Sequence[Tolerance],
    evidence: Sequence[Evidence],
    lengths: LengthComparison | None,
    *,
    test: Test,
    pairs: bool,
) -> tuple[str, ...]:
    doubts = [*circumstances(*sides), *mix_doubts(sides)]
    if min(map(len, sides)) < 2:
        doubts.append(
            "one run on a side: how much runs differ among themselves cannot be known from it, and a run that started "
            "cold looks like a regression; --repeat 10 shows it"
        )
    elif not pairs and not in_turns(*sides):
        doubts.append(_at_another_time(sides))
    doubts += _unjudged(sides, tolerances)
    if lengths is not None and lengths.differ:
        doubts.append(f"answers have {lengths.new_tokens:,.4g} tokens on average, and had {lengths.base_tokens:,.4g}")
    prompts = [[run.prompt_tokens for run in side if run.prompt_tokens] for side in sides]
    if all(prompts) and abs(math.log(fmean(prompts[1]) / fmean(prompts[0]))) > LENGTHS_DIFFER:
        doubts.append(f"prompts have {fmean(prompts[1]):,.4g} tokens on average, and had {fmean(prompts[0]):,.4g}")
    runs, compared = [len(side) for side in sides], len(tolerances) + 1
    for_ranks = runs_for_ranks(compared, pairs=pairs)
    if test is Test.WELCH:
        return (*doubts, *_outliers(sides, tolerances, evidence, for_ranks))
    if least_chance(runs[0], runs[1], pairs=pairs) * compared >= ALPHA:
        doubts.append(
            f"--test ranks of {runs[1]} runs against {runs[0]} could not tell a regression whatever they had measured: "
            f"it takes {for_ranks} a side"
        )
    return tuple(doubts)


def _at_another_time(sides: Sides) -> str:
    """Where each side was made in a time of its own."""
    sessions = [len({*sessions_of(side)}) for side in sides]
    spread = f"{SESSION_SPREAD * 100:g} % between sessions are assumed"
    if sum(sessions) - 2 >= FEWEST_SESSIONS_DF:
        spread = f"the {sessions[0]} sessions of the base and {sessions[1]} new ones show how sessions differ"
    return f"made at another time than the base: {spread}; only ab, which plays in turns, has the stated error rates"


def _unjudged(sides: Sides, tolerances: Sequence[Tolerance]) -> list[str]:
    """Answers that no figure is of."""
    runs = [run for side in sides for run in side]
    of_streams = any(each.metric in OF_STREAMS and not each.of for each in tolerances)
    of_all = any(each.metric not in OF_STREAMS and not each.of for each in tolerances)
    of_plain = any(each.of == NO_STREAM for each in tolerances)
    plain = max(run.plain_share for run in runs)
    if of_all or {each.of for each in tolerances} >= {f"scenario={name}" for name in _scenarios(sides)}:
        return []
    left = [
        f"up to {share * 100:.0f} % of the answers {what}, and nothing here judges how fast they came"
        for judged, share, what in (
            (of_plain, plain, "did not stream"),
            (of_streams, max(1 - run.plain_share for run in runs), "streamed"),
        )
        if not judged and share > 0 and round(share * 100)
    ]
    partly = [each.of for each in tolerances if each.of.startswith("scenario=")]
    return [f"only {', '.join(dict.fromkeys(partly))} is judged of the answers"] if partly and len(left) == 2 else left


def _scenarios(sides: Sides) -> set[str]:
    keys = {key for side in sides for run in side for key in run.settings if key.startswith("scenarios.")}
    return {key.removeprefix("scenarios.") for key in keys}


def _outliers(sides: Sides, tolerances: Sequence[Tolerance], evidence: Sequence[Evidence], for_ranks: int) -> list[str]:
    """The first runs that stand apart, by the first figure in which any does."""
    advice = ": --test ranks gives such runs no weight of their own" if min(map(len, sides)) >= for_ranks else ""
    for tolerance, each in zip(tolerances, evidence, strict=True):
        of_sides = () if each.figures is None else (each.figures.base, each.figures.new)
        for side, name, logs in zip(sides, SIDES, of_sides, strict=False):
            far = [run.name for run, is_apart in zip(side, apart(logs), strict=True) if is_apart]
            if far:
                return [f"{', '.join(far)} of {name} stands apart from the other runs in {tolerance.name}{advice}"]
    return []


def apart(logs: Sequence[float]) -> list[bool]:
    """Whether each lies further from the others than such as are alike do."""
    middle = median(logs)
    typical = MAD_OF_NORMAL * median(abs(each - middle) for each in logs)
    bound = APART.get(len(logs), APART_OF_MORE) * typical
    return [len(logs) >= min(APART) and typical > 0 and abs(each - middle) > bound for each in logs]
