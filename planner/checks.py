"""What a gate says of one thing: the same for a threshold and for a comparison, whatever it is written into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "fail", "inconclusive", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Figures are in the unit that the message names; None means: the data cannot say."""

    name: str
    verdict: Verdict
    message: str  # one sentence, with the figures
    measured: float | None
    limit: float | None
    n: int  # what the verdict rests on: requests, or runs
    low: float | None  # 95 % interval of what was measured
    high: float | None
