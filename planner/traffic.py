"""Traffic: what was asked of the deployment and what came back, the tokens that are billed, and requests in flight."""

from __future__ import annotations

import polars as pl

from loadgen.samples import Outcome, Run, count_totals
from planner.demand import REQUESTS, Demand, admission_tokens, attempts_with_tokens, peak_per_minute
from planner.plan import Failure, Traffic
from planner.rows import NS_PER_S, OK, SENT, STEADY, THROTTLED, Stretch, config_of

BY_SERVER = pl.col("usage_source") == "server"
# A refused request costs nothing. What content safety stopped, or a stream that broke, is billed as far as usage says.
BILLED = OK | (pl.col("outcome").is_in([Outcome.FILTERED.value, Outcome.BROKEN_STREAM.value]) & BY_SERVER)
MOST_FAILURES = 12
_CODE = r"^((?:error_in_\w+: )?[^:]*)"  # of "CODE: what the server says"


def billed_attempts(run: Run) -> pl.LazyFrame:
    """The rows that cost money, of the whole run; their tokens estimated where the server sent no usage."""
    return attempts_with_tokens(run).filter(BILLED)


def in_flight(run: Run) -> pl.LazyFrame:
    """Requests sent and not yet done, from each instant on at which that changed. Columns at_ns, in_flight.

    An attempt whose end is unknown stays in flight.
    """
    sent = run.samples.filter(SENT).select(at_ns="sent_ns", change=pl.lit(1, pl.Int64))
    done = run.samples.filter(SENT).select(at_ns="done_ns", change=pl.lit(-1, pl.Int64)).drop_nulls("at_ns")
    changes = pl.concat([sent, done]).group_by("at_ns").agg(pl.col("change").sum())
    return changes.sort("at_ns").select("at_ns", in_flight=pl.col("change").cum_sum())


def traffic(run: Run, demand: Demand, stretch: Stretch) -> Traffic:
    """The ledger and the billed tokens of the whole run; rates, means and peaks of its steady phase (`demand`)."""
    totals = count_totals(run.samples)
    prompt_tokens, completion_tokens, estimated_share = _billed_tokens(run)
    mean_prompt_tokens, mean_completion_tokens = _mean_tokens(run)
    completed, generated_tokens = completed_within(run, stretch)
    mean_in_flight, peak_in_flight = _flight(run, stretch)
    return Traffic(
        planned=totals["planned"],
        sent=totals["sent"],
        dropped=totals["dropped"],
        attempts=totals["attempts"],
        outcomes={outcome.value: totals[outcome] for outcome in Outcome},
        steady_s=stretch.seconds,
        requests_per_s=demand.requests_per_s,
        completed_per_s=_per(completed, stretch.seconds),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        estimated_usage_share=estimated_share,
        mean_prompt_tokens=mean_prompt_tokens,
        mean_completion_tokens=mean_completion_tokens,
        output_tokens_per_s=_per(generated_tokens, stretch.seconds),
        peak_requests_per_minute=peak_per_minute(demand, REQUESTS),
        peak_tokens_per_minute=peak_per_minute(demand, admission_tokens(config_of(run).quota.admission)),
        mean_in_flight=mean_in_flight,
        peak_in_flight=peak_in_flight,
        failures=_failures(run),
    )


def _failures(run: Run) -> tuple[Failure, ...]:
    code = pl.col("error").fill_null("").str.extract(_CODE, 1)
    failed = (
        run.samples.filter(~OK | pl.col("error").is_not_null())
        .group_by(pl.col("outcome").cast(pl.String), code)
        .agg(n=pl.len())
    )
    commonest = failed.sort("n", "outcome", "error", descending=[True, False, False]).head(MOST_FAILURES)
    return tuple(Failure(**row) for row in commonest.collect().iter_rows(named=True))


def _per(amount: int, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _billed_tokens(run: Run) -> tuple[int, int, float]:
    """Prompt and completion tokens that are billed, and the share of the answers (ok) without usage from the server."""
    tokens = ("prompt_tokens", "completion_tokens")
    unstated = (OK & ~BY_SERVER).sum().alias("unstated")
    row = billed_attempts(run).select(pl.col(*tokens).sum(), unstated, OK.sum().alias("ok")).collect().row(0)
    prompt_tokens, completion_tokens, without_usage, answers = row
    return prompt_tokens, completion_tokens, without_usage / answers if answers else 0.0


def _mean_tokens(run: Run) -> tuple[float | None, float | None]:
    """Of an answer in the steady phase."""
    answers = attempts_with_tokens(run).filter(STEADY & OK)
    prompt_tokens, completion_tokens = (
        answers.select(pl.col("prompt_tokens", "completion_tokens").mean()).collect().row(0)
    )
    return prompt_tokens, completion_tokens


def completed_within(run: Run, stretch: Stretch) -> tuple[int, int]:
    """Answers completed within the stretch, whenever they were due, and the tokens generated for them."""
    within = pl.col("done_ns").is_between(stretch.start_ns, stretch.end_ns, closed="left")
    done = attempts_with_tokens(run).filter(OK & within)
    completed, generated_tokens = done.select(pl.len(), pl.col("completion_tokens").sum()).collect().row(0)
    return completed, generated_tokens


def _flight(run: Run, stretch: Stretch) -> tuple[float, int]:
    """Mean and peak of the requests in flight within the stretch."""
    if stretch.seconds <= 0:
        return 0.0, 0
    start, end = pl.lit(stretch.start_ns), pl.lit(stretch.end_ns)
    before = in_flight(run).filter(pl.col("at_ns") <= start).select(pl.col("in_flight").last().alias("peak"))
    within = (
        in_flight(run)
        .filter((pl.col("at_ns") > start) & (pl.col("at_ns") < end))
        .select(peak=pl.col("in_flight").max())
    )
    peak = pl.concat([before, within]).select(pl.col("peak").max().fill_null(0)).collect().item()
    return mean_in_flight(run, stretch), peak


def mean_in_flight(run: Run, stretch: Stretch) -> float:
    """Requests in flight within the stretch, averaged over its time; an attempt whose end is unknown stays."""
    if stretch.seconds <= 0:
        return 0.0
    began = pl.max_horizontal("sent_ns", pl.lit(stretch.start_ns))
    ended = pl.min_horizontal(pl.col("done_ns").fill_null(stretch.end_ns), pl.lit(stretch.end_ns))
    area_ns: int = run.samples.filter(SENT).select((ended - began).clip(lower_bound=0).sum()).collect().item()
    return area_ns / (stretch.seconds * NS_PER_S)


def throttled_share(run: Run) -> float:
    """Attempts answered 429 over attempts sent, in the steady phase; zero where none was sent."""
    share = run.samples.filter(STEADY & SENT).select(THROTTLED.mean()).collect().item()
    return share or 0.0


def billed_requests(run: Run) -> int:
    """How many attempts of the steady phase are billed."""
    n: int = billed_attempts(run).filter(STEADY).select(pl.len()).collect().item()
    return n


def billed_request(run: Run) -> tuple[float, float] | None:
    """Mean prompt and completion tokens of an attempt that is billed, in the steady phase; None where none is."""
    prompt_tokens, completion_tokens = (
        billed_attempts(run).filter(STEADY).select(pl.col("prompt_tokens", "completion_tokens").mean()).collect().row(0)
    )
    return None if prompt_tokens is None else (prompt_tokens, completion_tokens)
