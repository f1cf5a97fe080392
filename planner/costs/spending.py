"""What a run has cost, by scenario, and what of it bought nothing."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from planner.cost import Tokens, tokens_usd
from planner.counts import Counts
from planner.prices import TokenPrice
from planner.rows import OK, STEADY
from planner.traffic import BILLED


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioCost:
    """Of the attempts of the steady phase that are billed."""

    scenario: str  # a scenario's name, or "all"
    attempts: int
    usd: float
    per_request_usd: float
    per_1m_tokens_usd: float | None  # None: of no token


@dataclass(frozen=True, slots=True, kw_only=True)
class Wasted:
    """Attempts of the whole run that are billed and gave no answer to use."""

    outcome: str  # filtered or broken_stream
    attempts: int
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    usd: float  # of the whole run, warm-up and cool-down included
    scenarios: tuple[ScenarioCost, ...]  # all together, then each by name; empty where nothing is billed
    failed_but_billed: tuple[Wasted, ...]
    failed_share: float  # of the run's dollars


def spending(counts: Counts, price: TokenPrice) -> Spending:
    """Refused requests cost nothing; what content safety stopped, or a stream that broke, as far as usage says."""
    billed = counts.kinds.filter(BILLED)
    failed = tuple(
        Wasted(outcome=str(name[0]), attempts=_sum(part, "attempts"), usd=_usd(part, price))
        for name, part in billed.filter(~OK).group_by("outcome", maintain_order=True)
    )
    usd = _usd(billed, price)
    return Spending(
        usd=usd,
        scenarios=_by_scenario(billed.filter(STEADY), price),
        failed_but_billed=failed,
        failed_share=sum(each.usd for each in failed) / usd if usd else 0.0,
    )


def _by_scenario(steady: pl.DataFrame, price: TokenPrice) -> tuple[ScenarioCost, ...]:
    if steady.is_empty():
        return ()
    each = [(str(name[0]), part) for name, part in steady.group_by("scenario", maintain_order=True)]
    return tuple(_cost_of(name, part, price) for name, part in [("all", steady), *each])


def _cost_of(name: str, part: pl.DataFrame, price: TokenPrice) -> ScenarioCost:
    attempts, usd = _sum(part, "attempts"), _usd(part, price)
    tokens = _sum(part, "prompt_tokens") + _sum(part, "completion_tokens")
    return ScenarioCost(
        scenario=name,
        attempts=attempts,
        usd=usd,
        per_request_usd=usd / attempts,
        per_1m_tokens_usd=usd / tokens * 1e6 if tokens else None,
    )


def _usd(part: pl.DataFrame, price: TokenPrice) -> float:
    return tokens_usd(Tokens(_sum(part, "prompt_tokens"), _sum(part, "completion_tokens")), price)


def _sum(part: pl.DataFrame, column: str) -> int:
    return int(part[column].sum())
