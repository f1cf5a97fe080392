"""The definition of every latency, and the frames that are drawn of a run.

Latencies are of attempts with outcome ok in the steady phase; lag and throttle_wait of all attempts sent in it. Each is
computed from the raw rows, for all scenarios together and for each alone. Percentiles are exact (see quantiles).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from loadgen.samples import Run
from planner.ascending import Ascending, Counted, ascending
from planner.demand import admission_tokens, attempts_with_tokens
from planner.plan import LatencyRow, Quantile
from planner.quantiles import as_fraction, interval_ranks, nearest_rank, needed_samples
from planner.reduced import reduced, tail_place, tail_ranks
from planner.rows import NS_PER_MS, NS_PER_S, OK, SENT, STEADY, PartOfRun, config_of, in_ms, in_seconds

NS_PER_US = 1_000
ALL = "all"  # scenarios
DRAWN = ("ttft", "itl", "tpot", "service_time", "response_time")

_due, _admitted, _sent = pl.col("due_ns"), pl.col("admitted_ns"), pl.col("sent_ns")
_first_token, _last_token, _done = pl.col("first_token_ns"), pl.col("last_token_ns"), pl.col("done_ns")
_opened = pl.coalesce("secured_ns", "connected_ns")
# A request that is due while its connection is being opened waits for the server, not for us.
_opening = (_opened - pl.max_horizontal("connect_ns", _admitted)).clip(lower_bound=0).fill_null(0)
_GAP_NS = pl.col("gap_us").cast(pl.Int64) * NS_PER_US
_STREAMED = (pl.col("chunks") > 0) | _first_token.is_not_null()  # others have no gaps to be looked for
_tokens_after_first = pl.col("completion_tokens").cast(pl.Int64) - 1

METRICS: dict[str, pl.Expr | None] = {  # in ns, null where a row has none
    "ttft": _first_token - _sent,  # streams: the recorder leaves first_token_ns null for plain answers
    "ttft_from_due": _first_token - _due,
    "ttfb": pl.col("first_byte_ns") - _sent,
    "itl": None,  # of chunks.parquet: every gap between neighbouring content chunks
    "tpot": pl.when(_tokens_after_first > 0).then((_last_token - _first_token) / _tokens_after_first),
    "service_time": _done - _sent,
    "response_time": _done - _due,  # what the user waited: free of coordinated omission where the loop is open
    "throttle_wait": pl.when(pl.col("attempt") == 0).then(_admitted - _due),  # a retry waits for other reasons
    "lag": _sent - _admitted - _opening,  # our own lateness
    "connect": pl.col("connected_ns") - pl.col("connect_ns"),  # of attempts that were the first on their connection
    "tls": pl.col("secured_ns") - pl.col("connected_ns"),
}
OF_STREAMS = ("ttft", "ttft_from_due", "itl", "tpot")  # plain answers have none
OF_OPENING = ("connect", "tls")
OF_ALL_SENT = ("throttle_wait", "lag", *OF_OPENING)
TOGETHER = (  # metrics of the same rows
    (("ttfb", "service_time", "response_time", "throttle_wait", "lag"), SENT),
    (("ttft", "ttft_from_due", "tpot"), OK & _first_token.is_not_null()),
    (OF_OPENING, SENT & pl.col("connect_ns").is_not_null()),
)
_SCENARIO = pl.col("scenario").cast(pl.Categorical)


def values(run: Run, metric: str, of: pl.Expr = STEADY) -> pl.LazyFrame:
    """Each value of a metric. Columns: seq, attempt, scenario, due_ns, value_ns; nulls left out."""
    rows = run.samples.filter(of & (SENT if metric in OF_ALL_SENT else OK))
    definition = METRICS[metric]
    measured = with_gaps(run, rows) if definition is None else rows.with_columns(value_ns=definition)
    return measured.select("seq", "attempt", "scenario", "due_ns", "value_ns").drop_nulls("value_ns")


def with_gaps(run: Run, rows: pl.LazyFrame) -> pl.LazyFrame:
    """Attempts, once for each gap of their streams, in value_ns."""
    return rows.filter(_STREAMED).join(run.chunks, on=["seq", "attempt"]).with_columns(value_ns=_GAP_NS)


def values_of(run: Run, metric: str, of: pl.Expr = STEADY) -> Ascending:
    """All values of a metric, in ns."""
    found = values(run, metric, of)
    return (
        ascending(found.select("value_ns").collect(engine="streaming")["value_ns"])
        if METRICS[metric] is not None
        else _counted(found.group_by("value_ns").agg(n=pl.len()).collect(engine="streaming"))
    )


def values_by_scenario(run: Run, *metrics: str) -> Iterator[tuple[str, str, Ascending]]:
    """Metric, scenario and its values in ns: for each metric ALL of them, then those of each scenario that has any.

    The values stand until the next are asked for. Metrics of the same rows are read together: a record may have ten
    million.
    """
    for names, rows in TOGETHER:
        definitions = {name: _of_its_rows(name) for name in names if name in metrics}
        if definitions:
            yield from _values_of_rows(run.samples.filter(STEADY & rows), definitions)
    for name in metrics:
        if METRICS[name] is None:
            yield from _values_of_gaps(run, name)


def _of_its_rows(metric: str) -> pl.Expr | None:
    """Its definition, null in attempts that it is not of."""
    definition = METRICS[metric]
    return definition if metric in OF_ALL_SENT else pl.when(OK).then(definition)


def _values_of_rows(rows: pl.LazyFrame, definitions: Mapping[str, Any]) -> Iterator[tuple[str, str, Ascending]]:
    frame = rows.select(_SCENARIO, **definitions).collect(engine="streaming")
    present = sorted(frame["scenario"].unique().cast(pl.String))
    belongs = [(scenario, frame["scenario"] == scenario) for scenario in present] if len(present) > 1 else []
    room = np.empty(frame.height, np.int64)
    for name in definitions:
        column = frame[name]
        of_all = ascending(column.drop_nulls(), room)
        yield name, ALL, of_all
        parts = ((scenario, ascending(column.filter(own).drop_nulls(), room)) for scenario, own in belongs)
        for scenario, part in parts if belongs else ((scenario, of_all) for scenario in present):
            if len(part):
                yield name, scenario, part


def _values_of_gaps(run: Run, metric: str) -> Iterator[tuple[str, str, Ascending]]:
    rows = run.samples.filter(STEADY & OK).with_columns(_SCENARIO)  # a string would be cast anew for each of its gaps
    counted = with_gaps(run, rows).group_by("scenario", "gap_us").agg(n=pl.len())
    counts = counted.with_columns(value_ns=_GAP_NS).collect(engine="streaming")
    yield metric, ALL, _counted(counts.group_by("value_ns").agg(pl.col("n").sum()))
    parts = counts.partition_by("scenario", as_dict=True)
    yield from ((metric, name, _counted(part)) for name, part in sorted((str(key[0]), p) for key, p in parts.items()))


def _counted(counts: pl.DataFrame) -> Counted:
    by_value = counts.sort("value_ns")
    return Counted(by_value["value_ns"].to_numpy(), by_value["n"].to_numpy())


def latency_rows(run: Run) -> tuple[LatencyRow, ...]:
    """Every metric: first of all scenarios together, then of each that has values, by name."""
    found: dict[str, list[LatencyRow]] = {metric: [] for metric in METRICS}
    for metric, scenario, values_ns in values_by_scenario(run, *METRICS):
        found[metric].append(latency_row(metric, scenario, values_ns))
    return tuple(row for rows in found.values() for row in rows if row.n or row.metric not in OF_OPENING)


def latency_row(metric: str, scenario: str, values_ns: Ascending) -> LatencyRow:
    return LatencyRow(
        metric=metric,
        scenario=scenario,
        n=len(values_ns),
        mean_ms=mean_ms(values_ns),
        max_ms=max_ms(values_ns),
        p50=quantile(values_ns, 0.50),
        p90=quantile(values_ns, 0.90),
        p95=quantile(values_ns, 0.95),
        p99=quantile(values_ns, 0.99),
    )


def quantile(ascending: Ascending, q: float) -> Quantile:
    """The percentile of sorted values in ns, with its interval; all None where too few values support it."""
    n, needs_n = len(ascending), needed_samples(q)
    if n < needs_n:
        return Quantile(value_ms=None, low_ms=None, high_ms=None, needs_n=needs_n)
    low, high = interval_ranks(n, q)
    return Quantile(
        value_ms=_at_rank(ascending, nearest_rank(n, q)),
        low_ms=None if low is None else _at_rank(ascending, low),
        high_ms=None if high is None else _at_rank(ascending, high),
        needs_n=needs_n,
    )


def mean_ms(values_ns: Ascending) -> float | None:
    mean = values_ns.mean()
    return float(mean) / NS_PER_MS if isinstance(mean, int | float) else None


def max_ms(ascending: Ascending) -> float | None:
    return None if not len(ascending) else _at_rank(ascending, len(ascending))


def _at_rank(ascending: Ascending, rank: int) -> float:
    return float(ascending[rank - 1]) / NS_PER_MS


def _nearest_rank(ascending: pl.Expr, q: float) -> pl.Expr:
    """Of lists: what `quantiles.nearest_rank` says, in whole numbers."""
    part = as_fraction(q)
    return ascending.list.get((ascending.list.len().cast(pl.Int64) * part.numerator - 1) // part.denominator)


def latency_over_time(run: Run, every_s: float) -> pl.DataFrame:
    """Of answers in all phases, by the instant they were due. Columns at_s, metric, p50_ms, p95_ms, n.

    at_s is the start of the bin. For a drawing, not for a claim: p95 is null only below 20 values, where it would be
    the largest of them.
    """
    every_ns = max(1, round(every_s * NS_PER_S))
    everything = pl.lit(value=True)
    lines = [
        values(run, name, everything).with_columns(pl.col("value_ns").cast(pl.Float64), metric=pl.lit(name))
        for name in DRAWN
    ]
    return (
        pl.concat(lines)
        .group_by(pl.col("metric"), at_s=in_seconds(pl.col("due_ns") // every_ns * every_ns))
        .agg(pl.col("value_ns").sort(), n=pl.len())
        .with_columns(
            p50_ms=in_ms(_nearest_rank(pl.col("value_ns"), 0.5)),
            p95_ms=pl.when(pl.col("n") >= 20).then(in_ms(_nearest_rank(pl.col("value_ns"), 0.95))),
        )
        .sort("metric", "at_s")
        .select("at_s", "metric", "p50_ms", "p95_ms", "n")
        .collect()
    )


def latency_distribution(run: Run) -> pl.DataFrame:
    """The empirical CDF of each latency. Columns metric, scenario, value_ms, share (of values up to this one), place.

    Of few values each is a point; of more the ranks by which a figure with logarithmic tails is drawn, the smallest and
    the largest value among them. `place` is where the point stands on such an axis (`reduced.tail_place`), by the
    plotting position (rank - 1/2) / n (Hazen 1914), which has a place for the largest value too.
    """
    return pl.concat(
        _distribution_line(metric, scenario, found) for metric, scenario, found in values_by_scenario(run, *DRAWN)
    )


def latency_by_target(run: Run) -> pl.DataFrame:
    """The same of all targets together and of each, named by `scenario`."""
    parts = [(str(target.name), PartOfRun(run, target)) for target in config_of(run).targets]
    return pl.concat(
        _distribution_line(metric, name, values_of(part, metric))
        for metric in DRAWN
        for name, part in ((ALL, run), *parts)
    )


def latency_of_sides(sides: Mapping[str, Sequence[Run]]) -> pl.DataFrame:
    """The same of the runs of each side together, named by `scenario`; without the sides that have none."""
    return pl.concat(
        _distribution_line(metric, side, _of_several(runs, metric))
        for metric in DRAWN
        for side, runs in sides.items()
        if runs
    )


def _of_several(runs: Sequence[Run], metric: str) -> Ascending:
    found = pl.concat([values(run, metric).select(pl.col("value_ns").cast(pl.Int64)) for run in runs])
    return ascending(found.collect(engine="streaming")["value_ns"])


def _distribution_line(metric: str, scenario: str, ascending: Ascending) -> pl.DataFrame:
    n = len(ascending)
    ranks = tail_ranks(n)
    chosen = pl.Series([ascending[rank - 1] for rank in ranks], dtype=pl.Float64)
    shares = pl.Series([rank / n for rank in ranks], dtype=pl.Float64)
    places = pl.Series([tail_place((rank - 0.5) / n) for rank in ranks], dtype=pl.Float64)
    return pl.DataFrame({"value_ns": chosen, "share": shares, "place": places}).select(
        metric=pl.lit(metric),
        scenario=pl.lit(scenario),
        value_ms=in_ms(pl.col("value_ns")),
        share="share",
        place="place",
    )


def load_over_time(run: Run) -> pl.DataFrame:
    """What was sent in the minute before each second. Columns at_s, requests_per_minute, tokens_per_minute.

    Tokens are counted as the quota counts them at the door. In the first minute what was sent so far is scaled up to a
    minute; in its first 10 s both are null, because so little scaled so far says nothing.
    Of a long run the seconds that a figure shows, the fullest and the emptiest among them.
    """
    sent = _sent_so_far(run)
    last_ns = run.samples.select(pl.max_horizontal("due_ns", "done_ns").max()).collect().item() or 0
    instants = pl.LazyFrame({"at_ns": pl.int_range(0, last_ns + NS_PER_S, NS_PER_S, eager=True)})
    at_s = in_seconds(pl.col("at_ns"))
    per_minute = pl.when(at_s >= 10).then(60 / at_s.clip(upper_bound=60))
    since = {name: pl.col(name).fill_null(0) - pl.col(f"{name}_before").fill_null(0) for name in ("requests", "tokens")}
    frame = (
        instants.with_columns(minute_ago_ns=pl.col("at_ns") - 60 * NS_PER_S)
        .join_asof(sent, on="at_ns")
        .join_asof(sent, left_on="minute_ago_ns", right_on="at_ns", suffix="_before")
        .select(
            at_s=at_s,
            requests_per_minute=since["requests"] * per_minute,
            tokens_per_minute=since["tokens"] * per_minute,
        )
        .collect()
    )
    return reduced(frame, "at_s", "requests_per_minute", "tokens_per_minute")


def load_by_target(run: Run) -> pl.DataFrame:
    """What was sent to each in the minute before each second. Columns target, and those of `load_over_time`."""
    frames = [
        load_over_time(PartOfRun(run, target)).with_columns(target=pl.lit(target.name))
        for target in config_of(run).targets
    ]
    return pl.concat(frames)


def _sent_so_far(run: Run) -> pl.LazyFrame:
    """Attempts and admission tokens sent up to each instant. Columns at_ns, requests, tokens."""
    tokens = admission_tokens(config_of(run).quota.admission)
    sent = attempts_with_tokens(run).filter(SENT).select(at_ns="sent_ns", tokens=tokens).sort("at_ns")
    return sent.select("at_ns", requests=pl.int_range(1, pl.len() + 1), tokens=pl.col("tokens").cum_sum())


def outcomes_over_time(run: Run, every_s: float) -> pl.DataFrame:
    """How attempts ended, by when they did (a dropped arrival by when it was due). Columns at_s, outcome, n.

    at_s is the start of the bin.
    """
    every_ns = max(1, round(every_s * NS_PER_S))
    ended_ns = pl.coalesce("done_ns", "sent_ns", "due_ns")
    return (
        run.samples.group_by("outcome", at_s=in_seconds(ended_ns // every_ns * every_ns))
        .agg(n=pl.len())
        .sort("at_s", "outcome")
        .select("at_s", pl.col("outcome").cast(pl.String), "n")
        .collect()
    )
