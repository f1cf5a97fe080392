"""Demand: who asks for how many tokens when, from a run or from a trace, and its busiest minute."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from loadgen.config import RunConfig
from loadgen.errors import ConfigError
from loadgen.quota import Admission
from loadgen.samples import Run
from loadgen.schedule_file import FILE_NAME as SCHEDULE
from loadgen.traces import read_trace
from planner.rows import NS_PER_S, OK, PAST_BUDGET, STEADY, Stretch, config_of, in_seconds, steady_stretch

MINUTE_S = 60.0
HOUR_S = 3_600.0
DAY_MINUTES = 24 * 60
LEAST_DAYS = 7  # of a demand whose days are taken to be alike
AT_AN_EDGE = 1e-9  # of a bin, which the division may lose
MINUTE_NS = round(MINUTE_S * NS_PER_S)
MOST_COPIES = 1_000
TENTH_NS, TENTHS = 100_000_000, 600  # of a second; in a minute
MOST_TENTHS = 10_000_000
MANY = 100_000  # arrivals, for which it pays to look for the fullest minute twice
REQUESTS = pl.col("at_s").is_not_null().cast(pl.Int64)  # one each, to count with
ARRIVALS = ("at_s", "prompt_tokens", "max_tokens", "completion_tokens")
BLOCK = 100_000  # arrivals that are compared at once, in the processor's cache
Whole = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_TOKENS = dict.fromkeys(ARRIVALS[1:], pl.Int64)


@dataclass(frozen=True, slots=True)
class Demand:
    """Arrivals over a stretch of time.

    `arrivals` has the columns ARRIVALS, sorted by at_s (seconds from the start of the stretch) and without nulls;
    max_tokens is the limit asked for, completion_tokens what was or would be generated.
    """

    arrivals: pl.DataFrame
    span_s: float
    source: str  # in words
    speed: float = 1.0  # how many times faster than it was recorded

    @property
    def recorded_s(self) -> float:
        """How long it lasted when it was recorded."""
        return self.span_s * self.speed

    @property
    def requests_per_s(self) -> float:
        return self.arrivals.height / self.span_s if self.span_s else 0.0

    def mean_tokens(self, column: str) -> float:
        """Of the arrivals; zero where there are none."""
        mean = self.arrivals[column].mean()
        return float(mean) if isinstance(mean, int | float) else 0.0


def attempts_with_tokens(run: Run) -> pl.LazyFrame:
    """All rows of the run, with prompt_tokens, max_tokens and completion_tokens known in each.

    What the server did not say is estimated: a prompt as it was before it was sent, else by its scenario's mean; a
    completion by the chunks of its stream, else by its scenario's mean, else by the limit. The limit of a request is
    what it reserved beside its prompt; of one that reserved nothing, what its trace stated or load.max_tokens. A record
    of an earlier version does not say what its prompts were estimated at.
    """
    config = config_of(run)
    limit = pl.lit(config.load.max_tokens, pl.Int64)
    prompt, completion, reserved, chunks, estimated = (
        pl.col(name).cast(pl.Int64)
        for name in (
            *("prompt_tokens", "completion_tokens", "reserved_tokens", "chunks"),
            "estimated_prompt_tokens",
        )
    )
    prompt_mean, completion_mean = _scenario_means(run, prompt, completion)
    prompt_counted = _prompt_counted(config)
    asked = pl.when(estimated.is_not_null()).then(reserved - pl.when(prompt_counted).then(estimated).otherwise(0))
    reserved_both = prompt_counted & (config.load.trace is None)
    estimated_prompt = pl.coalesce(estimated, pl.when((reserved > limit) & reserved_both).then(reserved - limit))
    streamed = pl.when(OK & (chunks > 0)).then(chunks)
    completion = pl.coalesce(completion, streamed, completion_mean, asked, limit)
    samples, stated = _with_stated(run, completion, limit)
    return samples.with_columns(
        prompt_tokens=pl.coalesce(prompt, estimated_prompt, prompt_mean, pl.lit(0, pl.Int64)),
        completion_tokens=completion,
        max_tokens=pl.coalesce(asked, stated),
    )


def _with_stated(run: Run, completion: pl.Expr, limit: pl.Expr) -> tuple[pl.LazyFrame, pl.Expr]:
    """The run's rows, and the limit that each was to ask for; of a trace whose schedule is not kept, its completion."""
    if config_of(run).load.trace is None:
        return run.samples, limit
    schedule = run.folder / SCHEDULE
    if not schedule.exists():
        return run.samples, completion
    stated = pl.scan_parquet(schedule, glob=False).select("seq", _stated=pl.col("completion_tokens").cast(pl.Int64))
    return run.samples.join(stated, on="seq", how="left", maintain_order="left"), pl.coalesce("_stated", limit)


def _prompt_counted(config: RunConfig) -> pl.Expr:
    """Whether a row's prompt was part of its reservation: each target may have a rule of its own."""
    counting = [target.name for target in config.targets if config.quota_of(target).admission is not Admission.MAX]
    if len(counting) in (0, len(config.targets)):
        return pl.lit(bool(counting))
    return pl.col("target").is_in(counting)


def _scenario_means(run: Run, *tokens: pl.Expr) -> list[pl.Expr]:
    """The mean of each in the row's own scenario, where one of its rows lacks it; else null.

    A window over the scenario would hold the whole record in memory, and most records lack nothing.
    """
    whole = [{"mean": each.mean().round().cast(pl.Int64), "lacking": each.is_null().any()} for each in tokens]
    columns = {f"{name}{i}": value for i, each in enumerate(whole) for name, value in each.items()}
    rows = run.samples.group_by("scenario").agg(**columns).collect(engine="streaming").rows(named=True)
    return [
        pl.coalesce(
            pl.lit(None, pl.Int64),
            *(pl.when(pl.col("scenario") == row["scenario"]).then(pl.lit(row[f"mean{i}"], pl.Int64))
              for row in rows if row[f"lacking{i}"]),
        )
        for i in range(len(tokens))
    ]  # fmt: skip


def admission_tokens(admission: Admission) -> pl.Expr:
    """What each row of ARRIVALS costs at the door: Admission.cost, over columns."""
    match admission:
        case Admission.MAX:
            return pl.col("max_tokens")
        case Admission.USAGE:
            return pl.col("prompt_tokens") + pl.col("completion_tokens")
        case Admission.PROMPT_AND_MAX:
            return pl.col("prompt_tokens") + pl.col("max_tokens")


def demand_of_run(run: Run, stretch: Stretch | None = None, rows: pl.LazyFrame | None = None) -> Demand:
    """The steady phase's arrivals when they came due, whether they were then served, refused or dropped.

    Without those that came due when the budget was used up: nobody was to send them. `stretch`: the steady phase,
    and `rows`: its attempts_with_tokens, where they are known.
    """
    stretch, of_phase = stretch or steady_stretch(run), STEADY & ~PAST_BUDGET
    rows = (attempts_with_tokens(run) if rows is None else rows).filter(of_phase)
    superseded = _superseded(run.samples.filter(of_phase))
    if not superseded.is_empty():
        rows = rows.join(superseded.lazy(), on=["seq", "attempt"], how="anti", maintain_order="left")
    at_s = in_seconds(pl.col("due_ns") - stretch.start_ns).alias("at_s")
    arrivals = rows.select(at_s, *_TOKENS).collect(engine="streaming")
    if not arrivals["at_s"].is_sorted():  # users of a closed loop, or the parts of a run that has not ended
        arrivals = rows.sort("due_ns", "seq").select(at_s, *_TOKENS).collect()
    return Demand(arrivals, stretch.seconds, "the run's steady phase")


def _superseded(rows: pl.LazyFrame) -> pl.DataFrame:
    """All attempts of an arrival but the last that the server counted, else but the last. Columns seq, attempt."""
    seqs = rows.filter(pl.col("attempt") > 0).select(pl.col("seq").unique()).collect(engine="streaming")["seq"]
    several = rows.filter(pl.col("seq").is_in(seqs.implode())).select("seq", "attempt", "usage_source")
    attempts = several.collect(engine="streaming").sort(pl.col("usage_source") == "server", "attempt")
    return attempts.filter(pl.struct("seq", "attempt") != pl.struct("seq", "attempt").last().over("seq"))


def demand_from_trace(path: Path) -> Demand:
    """A trace file's arrivals, each asking for as many tokens as it records, or those of a run folder.

    Raises ConfigError like `read_trace`, and RunFolderError.
    """
    if path.is_dir():
        return demand_of_run(Run.open(path))
    rows = read_trace(path)
    arrivals = pl.DataFrame(
        {
            "at_s": [row.at_s for row in rows],
            "prompt_tokens": [row.prompt_tokens for row in rows],
            "max_tokens": [row.completion_tokens for row in rows],
            "completion_tokens": [row.completion_tokens for row in rows],
        },
        schema={"at_s": pl.Float64, **_TOKENS},
    )
    # The last arrival is followed by a gap too; the mean gap stands for it. A lone arrival is taken as one a minute.
    last_s = rows[-1].at_s
    span_s = last_s * len(rows) / (len(rows) - 1) if last_s else MINUTE_S
    return Demand(arrivals, span_s, path.name)


def bins_of(demand: Demand, about_s: float) -> tuple[Whole, float]:
    """With which arrival each bin begins, and where the last ends; the seconds of one: equal parts of the span."""
    span_s = demand.span_s if demand.span_s > 0 else about_s
    bins = max(1, round(span_s / about_s))
    bin_s = span_s / bins
    place = demand.arrivals["at_s"].to_numpy() / bin_s
    place += AT_AN_EDGE
    inner = np.searchsorted(place, np.arange(1.0, bins))
    return np.concatenate([[0], inner, [len(place)]]), bin_s


def peak_per_minute(demand: Demand, amount: pl.Expr) -> float:
    """The most of `amount` (REQUESTS, or an `admission_tokens`) that arrived within any 60 s.

    Scaled up to 60 s where the demand spans less.
    """
    return peaks_per_minute(demand, amount)[0]


def peaks_per_minute(demand: Demand, *amounts: pl.Expr) -> list[float]:
    """The peak of each amount, which need not be of the same minute."""
    if demand.arrivals.is_empty() or demand.span_s <= 0:
        return [0.0] * len(amounts)
    columns = (demand.arrivals.select(amount).to_series().to_numpy() for amount in amounts)
    if demand.span_s < MINUTE_S:
        return [float(column.sum()) * MINUTE_S / demand.span_s for column in columns]
    at_ns = demand.arrivals["at_s"].to_numpy() * NS_PER_S
    np.rint(at_ns, out=at_ns)  # whole numbers, exact for a hundred days
    return [
        float(column[0]) * _most_arrivals(at_ns) if column.min() == column.max() else _most_in_a_minute(at_ns, column)
        for column in columns
    ]


def _most_arrivals(at_ns: Floats) -> int:
    """The most within any minute: more than n where two that are n apart in order come within less than a minute."""
    most, n = len(at_ns), 1
    while n < most and _any_closer(at_ns, n):  # doubled first: the minute is a small part of most demands
        n *= 2
    return bisect_left(range(min(n, most)), True, lo=n // 2, key=lambda n: not _any_closer(at_ns, n))


def _any_closer(at_ns: Floats, n: int) -> bool:
    return any(
        bool(
            (
                at_ns[first + n : first + n + BLOCK] - at_ns[first : first + BLOCK][: len(at_ns) - n - first]
                < MINUTE_NS
            ).any()
        )
        for first in range(0, len(at_ns) - n, BLOCK)
    )


def _most_in_a_minute(at_ns: Floats, amount: Whole) -> float:
    """The most within any (t - 60 s, t]."""
    up_to = np.empty(len(amount) + 1, np.int64)
    up_to[0] = 0
    np.cumsum(amount, out=up_to[1:])
    last = _candidates(at_ns, up_to)
    past = np.searchsorted(at_ns, at_ns[last] - MINUTE_NS, side="right")
    return float((up_to[last + 1] - up_to[past]).max())


def _candidates(at_ns: Floats, up_to: Whole) -> Whole:
    """Arrivals with which the fullest minute may end: by the tenths of a second that such a minute lies in."""
    if len(at_ns) < MANY or at_ns[-1] >= MOST_TENTHS * TENTH_NS:
        return np.arange(len(at_ns))
    first = np.searchsorted(at_ns, np.arange(at_ns[-1] // TENTH_NS + 2) * TENTH_NS)  # of each tenth
    ends = np.arange(1, len(first))
    least = (up_to[first[1:]] - up_to[first[np.maximum(ends - TENTHS, 0)]]).max()
    may_be = up_to[first[1:]] - up_to[first[np.maximum(ends - TENTHS - 1, 0)]] >= least
    return np.flatnonzero(np.repeat(may_be, np.diff(first)))


def grown(demand: Demand, factor: float) -> Demand:
    """The same sequence played `factor` times faster: every rate is multiplied, the mix stays."""
    if factor == 1:
        return demand
    arrivals = demand.arrivals.with_columns(pl.col("at_s") / factor)
    source = f"{demand.source}, {factor:g} times faster"
    return Demand(arrivals, demand.span_s / factor, source, demand.speed * factor)


def asking_at_most(demand: Demand, max_tokens: int) -> Demand:
    """The same requests, none asking for more than that many tokens, nor getting more.

    Where that is more than any asks for, each asks for so many times as much, and gets what it got.
    """
    limits = demand.arrivals["max_tokens"]
    most = int(limits.to_numpy().max()) if len(limits) else 0
    if max_tokens >= most:
        raised = (pl.col("max_tokens") * max_tokens / max(1, most)).round().cast(pl.Int64)
        return replace(demand, arrivals=demand.arrivals.with_columns(max_tokens=raised))
    at_most = {
        name: pl.min_horizontal(name, pl.lit(max_tokens, pl.Int64)) for name in ("max_tokens", "completion_tokens")
    }
    return replace(demand, arrivals=demand.arrivals.with_columns(**at_most))


def as_recorded(demand: Demand) -> Demand:
    """The same arrivals at the times they were recorded at, whatever the growth."""
    return grown(demand, 1 / demand.speed)


def at_rate(demand: Demand, requests_per_s: float) -> Demand:
    """The same sequence at another mean rate. Raises ConfigError where there is no arrival to repeat."""
    if demand.requests_per_s == 0:
        raise ConfigError("the run holds no arrival of the steady phase, so no demand can be made from its mix")
    faster = grown(demand, requests_per_s / demand.requests_per_s)
    return replace(faster, source=f"{demand.source} at {requests_per_s:g} requests/s")


def repeated(demand: Demand, at_least_s: float) -> Demand:
    """The sequence again and again, until it spans `at_least_s`: a quota must be watched for longer than a minute.

    No more than MOST_COPIES times: of a run that was stopped after a millisecond nothing can be said.
    """
    if demand.span_s <= 0 or demand.span_s >= at_least_s:
        return demand
    times = min(MOST_COPIES, math.ceil(at_least_s / demand.span_s))
    copies_before = pl.int_range(pl.len()) // demand.arrivals.height
    at_s = (pl.col("at_s") + copies_before * demand.span_s).cum_max()  # the last bit of a sum may fall behind
    arrivals = pl.concat([demand.arrivals] * times).with_columns(at_s)
    return Demand(arrivals, demand.span_s * times, f"{demand.source}, repeated {times} times", demand.speed)


def busiest(demand: Demand, most: int) -> Demand:
    """The stretch in which `most` consecutive arrivals came fastest; all of it where there are no more."""
    if demand.arrivals.height <= most:
        return demand
    at_s = demand.arrivals["at_s"]
    took_s = at_s.slice(most) - at_s.slice(0, demand.arrivals.height - most)
    first = took_s.arg_min() or 0
    arrivals = demand.arrivals.slice(first, most).with_columns(pl.col("at_s") - at_s[first])
    source = f"the busiest {most:,} arrivals of {demand.source}"
    return Demand(arrivals, float(took_s[first]), source, demand.speed)


def block_minutes(minutes: int) -> int:
    """How long the stretches of a demand of so many minutes are that are drawn again together, wherever one is.

    A day of a week and more, as days are alike in their hours. Of a shorter one the third root of its minutes, after
    Hall, Horowitz and Jing (1995): what is alike in neighbouring minutes stays together.
    """
    return DAY_MINUTES if minutes >= LEAST_DAYS * DAY_MINUTES else max(1, math.ceil(round(minutes ** (1 / 3), 9)))
