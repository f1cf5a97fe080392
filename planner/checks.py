"""One judgement: what was asked, what was measured, and the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "fail", "inconclusive", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What a gate found; None: the data cannot say. The values are in the unit that the name and the message say."""

    name: str
    verdict: Verdict
    message: str
    measured: float | None
    limit: float | None
    n: int | None
    low: float | None  # 95 % interval
    high: float | None
