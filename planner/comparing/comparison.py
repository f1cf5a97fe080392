"""What a comparison of runs found: the layout of `headroom compare --json`.

Latencies are milliseconds; shares run from 0 to 1, and a ratio of 1.10 is 10 % more than the base. None means: the data
cannot say.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.comparing.verdict import Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricComparison:
    name: str  # ttft.p95
    verdict: Verdict
    reason: str
    tolerance_share: float  # the slowdown that must not be missed
    floor_share: float  # no smaller one is a regression, of these runs
    base_ms: float | None  # geometric mean over the runs
    new_ms: float | None
    ratio: float | None  # new to base
    low: float | None  # 95 % interval of the ratio
    high: float | None
    most: float | None  # the ratio's upper 95 % bound, one-sided: equivalent where it is within the tolerance
    p_slower: float | None  # corrected for how much is compared at once (Holm)
    p_faster: float | None
    spread_share: float | None  # between runs, as a standard deviation; None where one run a side cannot show it
    detectable_share: float | None  # the slowdown that so many runs find 95 times in 100; None: they can find none
    runs_needed: int | None  # a side, in turns, to settle what is inconclusive; None: it is not, or none do
    fewest_samples: int  # of any run


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeComparison:
    """What was not answered: no latency counts it, so it is compared first."""

    verdict: Verdict
    reason: str
    base_share: float
    new_share: float
    floor_share: float  # no fewer more are a regression
    p_worse: float  # corrected likewise
    base: dict[str, int]  # attempts by outcome
    new: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthComparison:
    """Mean tokens of an answer: longer ones take longer, which is no matter of speed."""

    base_tokens: float
    new_tokens: float
    ratio: float
    low: float | None  # 95 % interval over runs
    high: float | None
    differ: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRuns:
    base: tuple[str, ...]  # names
    new: tuple[str, ...]
    paired: bool
    test: str  # welch | ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    format: int
    verdict: Verdict
    headline: str  # one sentence
    reason: str  # of the verdict: what decided it
    metrics: tuple[MetricComparison, ...]
    outcomes: OutcomeComparison
    lengths: LengthComparison | None
    runs: ComparedRuns
    doubts: tuple[str, ...]
