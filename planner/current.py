"""What a run is like now: rates and latencies of its last seconds, and what fails most, for whoever watches it.

These are for looking at. A report's figures come from the whole record (`planner.metrics`).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from planner.growing import Rows
from planner.quantiles import nearest_rank
from planner.rows import OK, in_ms
from planner.traffic import CODE

COLUMNS = ("outcome", "status", "error", "sent_ns", "first_token_ns")
LAST_S = 10.0  # of the record, which a latency of now is taken from
MOST_OF_A_LOOK = 5_000  # latencies; of more every so manieth
MOST_CODES = 100  # that are told apart: a server may answer each request with an error of its own
SHOWN_CODES = 5
LONGEST_CODE = 60
OTHERS = "others"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """None: nothing that says it has come lately."""

    requests_per_s: float | None  # sent since the last look
    ttft_p50_ms: float | None
    ttft_p95_ms: float | None
    itl_p50_ms: float | None
    errors: dict[str, int]  # since the start, by code: the most common


class Current:
    """One for a run; it is shown the rows as they come."""

    def __init__(self) -> None:
        self._ttft_ms: deque[tuple[float, list[float]]] = deque()  # when it was looked, and what there was
        self._itl_ms: deque[tuple[float, list[float]]] = deque()
        self._errors: Counter[str] = Counter()
        self._sent: tuple[float, int] | None = None

    def look(self, rows: Rows, *, t_s: float, sent: int) -> Figures:
        """`t_s`: seconds since the run's start; `sent`: requests that left until then."""
        samples = rows.samples
        tokens = samples.filter(pl.col("first_token_ns").is_not_null() & pl.col("sent_ns").is_not_null())
        ttft_ms = tokens.select(in_ms(pl.col("first_token_ns") - pl.col("sent_ns"))).to_series()
        _remember(self._ttft_ms, t_s, ttft_ms)
        _remember(self._itl_ms, t_s, rows.chunks["gap_us"] / 1e3)
        for code, n in _codes(samples):
            self._errors[code if code in self._errors or len(self._errors) < MOST_CODES else OTHERS] += n
        ttft = _sorted(self._ttft_ms)
        return Figures(
            requests_per_s=self._rate(t_s, sent),
            ttft_p50_ms=_percentile(ttft, 0.5),
            ttft_p95_ms=_percentile(ttft, 0.95),
            itl_p50_ms=_percentile(_sorted(self._itl_ms), 0.5),
            errors=dict(self._errors.most_common(SHOWN_CODES)),
        )

    def _rate(self, t_s: float, sent: int) -> float | None:
        before, self._sent = self._sent, (t_s, sent)
        if before is None or t_s <= before[0]:
            return None
        return round(max(0, sent - before[1]) / (t_s - before[0]), 3)


def _remember(looks: deque[tuple[float, list[float]]], t_s: float, values: pl.Series) -> None:
    if len(values):
        looks.append((t_s, values.gather_every(1 + len(values) // MOST_OF_A_LOOK).to_list()))
    while looks and looks[0][0] < t_s - LAST_S:
        looks.popleft()


def _sorted(looks: deque[tuple[float, list[float]]]) -> list[float]:
    return sorted(value for _, values in looks for value in values)


def _percentile(values: Sequence[float], q: float) -> float | None:
    return round(values[nearest_rank(len(values), q) - 1], 3) if values else None


def _codes(samples: pl.DataFrame) -> list[tuple[str, int]]:
    """How often each error came, as `429 token_limit` or `connect_timeout`."""
    status = pl.col("status").cast(pl.String)
    failed = samples.filter(~OK)
    if failed.is_empty():
        return []
    named = pl.col("error").str.extract(CODE, 1)  # what the server says beside it may hold a prompt
    error = pl.coalesce(named, pl.col("outcome").cast(pl.String)).str.slice(0, LONGEST_CODE)
    said = status.is_null() | (pl.col("status") < 400) | (error == status)  # by the error itself
    code = pl.when(said).then(error).otherwise(pl.concat_str(status, error, separator=" "))
    counted = failed.group_by(code.alias("code")).agg(pl.len()).sort("len", "code", descending=[True, False])
    return list(counted.iter_rows())
