"""What is to be replayed, checked: the arrivals' columns, a quota and the ways in which it may be enforced."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import SupportsIndex, TypeVar

import numpy as np
import polars as pl

from loadgen.errors import ConfigError
from loadgen.quota import NS_PER_S, UNSET_MAX_TOKENS, Admission, Quota, WindowKind
from planner.quotas.asked import Asked
from planner.quotas.replay import Door

LONGEST_S = 1e9  # 30 years
MOST_TOKENS = 1_000_000_000  # of one request
MOST_DEPLOYMENTS = 1_000_000
COUNTED = {  # the columns of arrivals that each admission counts
    Admission.USAGE: ("prompt_tokens", "completion_tokens"),
    Admission.PROMPT_AND_MAX: ("prompt_tokens", "max_tokens"),
    Admission.MAX: ("max_tokens",),
}
Known = TypeVar("Known")


def door_of(arrivals: pl.DataFrame | pl.LazyFrame, quota: Quota, *, phase_ns: int = 0) -> Door:
    """The arrivals before deployments with that quota. Raises ConfigError naming a column that cannot be used."""
    arrivals = frame_of(arrivals)
    at_s = _column(arrivals, "at_s", pl.Float64, nulls=False).to_numpy()
    if len(at_s) and not np.isfinite(at_s).all():
        raise ConfigError("arrivals: at_s must be finite in each row")
    if len(at_s) and np.ptp(at_s) >= LONGEST_S:
        raise ConfigError(f"arrivals: at_s spans more than {LONGEST_S:g} s; it is counted in seconds")
    at_ns = np.rint((at_s - at_s[:1]) * NS_PER_S).astype(np.int64)
    back = np.flatnonzero(np.diff(at_ns) < 0)
    if len(back):
        raise ConfigError(f"arrivals: at_s goes back in time in row {back[0] + 1}; sort the arrivals by it")
    tokens = admission_cost(arrivals, quota.admission).to_numpy()
    return Door(Asked(at_ns, tokens), quota, phase_ns)


def frame_of(arrivals: pl.DataFrame | pl.LazyFrame) -> pl.DataFrame:
    """Raises ConfigError of what is neither."""
    if isinstance(arrivals, pl.LazyFrame):
        return arrivals.collect()
    if not isinstance(arrivals, pl.DataFrame):
        raise ConfigError(f"arrivals must be a polars frame, not {type(arrivals).__name__}")
    return arrivals


def admission_cost(arrivals: pl.DataFrame, admission: Admission) -> pl.Series:
    """What each arrival costs at the door: Admission.cost, over columns."""
    parts = {name: _column(arrivals, name, pl.Int64, nulls=name != "prompt_tokens") for name in COUNTED[admission]}
    if "max_tokens" in parts:
        parts["max_tokens"] = parts["max_tokens"].fill_null(UNSET_MAX_TOKENS)
    elif parts["completion_tokens"].null_count():  # an unknown completion counts as the limit
        limits = _column(arrivals, "max_tokens", pl.Int64, nulls=True).fill_null(UNSET_MAX_TOKENS)
        parts["completion_tokens"] = parts["completion_tokens"].zip_with(
            parts["completion_tokens"].is_not_null(), limits
        )
    first, *others = parts.values()
    return sum(others, first)


def _column(arrivals: pl.DataFrame, name: str, dtype: type[pl.Int64 | pl.Float64], *, nulls: bool) -> pl.Series:
    if name not in arrivals.columns:
        raise ConfigError(f"arrivals: there is no column {name}; there are {', '.join(arrivals.columns) or 'none'}")
    column = arrivals[name]
    if not column.dtype.is_numeric() and not column.is_empty() and column.dtype != pl.Null:
        raise ConfigError(f"arrivals: {name} holds {column.dtype}, not numbers")
    if not nulls and column.null_count():
        raise ConfigError(f"arrivals: {name} has {column.null_count():,} nulls; each row needs one")
    if dtype is pl.Float64:
        return column.cast(pl.Float64)
    whole = column.cast(pl.Int64, strict=False)
    if whole.null_count() > column.null_count() or (column != whole).any():
        raise ConfigError(f"arrivals: {name} must be whole numbers")
    bad = whole.filter((whole < 0) | (whole >= MOST_TOKENS))
    if len(bad):
        raise ConfigError(f"arrivals: {name} must lie between 0 and {MOST_TOKENS:,}, not {bad[0]}")
    return whole


def numbers_of(deployments: SupportsIndex | Iterable[SupportsIndex]) -> list[int]:
    """One or several, of whatever type counts in whole numbers. Raises ConfigError."""
    return [_number(each) for each in (deployments if isinstance(deployments, Iterable) else [deployments])]


def _number(given: SupportsIndex) -> int:
    try:
        number = 0 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        number = 0
    if not 1 <= number <= MOST_DEPLOYMENTS:
        raise ConfigError(f"deployments must be whole numbers from 1 to {MOST_DEPLOYMENTS:,}, not {given!r}")
    return number


def enforced(quota: Quota, admission: Admission | str | None, window: WindowKind | str | None) -> Quota:
    """The quota with what is given in place of its own. Raises ConfigError."""
    if admission is not None:
        quota = replace(quota, admission=_named("admission", admission, {each.value: each for each in Admission}))
    if window is None:
        return quota
    ways = {kind.value: replace(quota, window=kind) for kind in WindowKind} | windows(quota)
    return _named("window", window, ways)


def _named(what: str, name: str, known: Mapping[str, Known]) -> Known:
    if name not in known:
        raise ConfigError(f"{what} {name!r} is not known; it is one of {', '.join(map(repr, known))}")
    return known[name]


def windows(quota: Quota) -> dict[str, Quota]:
    """The ways in which the limits may be enforced, by name: what Azure's serverless endpoints do is not documented."""
    return {
        "minute": replace(quota, window=WindowKind.MINUTE),
        "bucket 60 s": replace(quota, window=WindowKind.BUCKET, burst_s=60.0),
        "bucket 10 s": replace(quota, window=WindowKind.BUCKET, burst_s=10.0),
        "sliding": replace(quota, window=WindowKind.SLIDING),
    }


def window_name(quota: Quota) -> str:
    return f"bucket {quota.burst_s:g} s" if quota.window is WindowKind.BUCKET else quota.window.value
