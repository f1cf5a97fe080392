"""Traffic: what was asked of the deployment and what came back, and the tokens that are billed."""

from __future__ import annotations

import polars as pl

from loadgen.samples import Outcome, Run
from planner.counts import ENDED, Counts, ended_within
from planner.demand import REQUESTS, Demand, admission_tokens, attempts_with_tokens, peaks_per_minute
from planner.in_flight import in_flight_within
from planner.plan import Failure, Traffic
from planner.rows import OK, STEADY, Stretch, config_of

BY_SERVER = pl.col("usage_source") == "server"
# A refused request costs nothing. What content safety stopped, or a stream that broke, is billed as far as usage says.
BILLED = OK | (pl.col("outcome").is_in([Outcome.FILTERED.value, Outcome.BROKEN_STREAM.value]) & BY_SERVER)
MOST_FAILURES = 12
CUT_SHARE = 0.05  # of the answers: of more that max_tokens ended, it is said
CODE = r"^((?:(?:error_in_\w+|html_page): )?[^:]*)"  # of "CODE: what the server says"; of a page it is its title


def billed_attempts(run: Run) -> pl.LazyFrame:
    """The rows that cost money, of the whole run; their tokens estimated where the server sent no usage."""
    return attempts_with_tokens(run).filter(BILLED)


def peaks(run: Run, demand: Demand) -> tuple[float, float]:
    """Requests, and tokens as the quota counts them at the door, in the demand's busiest minutes."""
    requests, tokens = peaks_per_minute(demand, REQUESTS, admission_tokens(config_of(run).quota.admission))
    return requests, tokens


def traffic(run: Run, demand: Demand, counts: Counts, known: tuple[float, float] | None = None) -> Traffic:
    """The ledger and the billed tokens of the whole run; rates, means and peaks of its steady phase (`demand`).

    `known`: the demand's peaks, where they were looked for before.
    """
    totals, stretch = counts.totals, counts.stretch
    mean_in_flight, peak_in_flight = in_flight_within(run, stretch)
    answered, billed, completed = OK & STEADY, BILLED & STEADY, OK & ENDED
    peak_requests, peak_tokens = peaks(run, demand) if known is None else known
    return Traffic(
        planned=totals["planned"],
        sent=totals["sent"],
        dropped=totals["dropped"],
        attempts=totals["attempts"],
        outcomes={outcome.value: totals[outcome] for outcome in Outcome},
        steady_s=stretch.seconds,
        requests_per_s=demand.requests_per_s,
        completed_per_s=_per(counts.total("attempts", completed), stretch.seconds),
        prompt_tokens=counts.total("prompt_tokens", BILLED),
        completion_tokens=counts.total("completion_tokens", BILLED),
        billed_requests=counts.total("attempts", billed),
        billed_prompt_tokens=counts.mean("prompt_tokens", billed),
        billed_completion_tokens=counts.mean("completion_tokens", billed),
        estimated_usage_share=counts.total("attempts", OK & ~BY_SERVER) / max(1, totals[Outcome.OK]),
        mean_prompt_tokens=counts.mean("prompt_tokens", answered),
        mean_completion_tokens=counts.mean("completion_tokens", answered),
        output_tokens_per_s=_per(counts.total("completion_tokens", completed), stretch.seconds),
        peak_requests_per_minute=peak_requests,
        peak_tokens_per_minute=peak_tokens,
        mean_in_flight=mean_in_flight,
        peak_in_flight=peak_in_flight,
        failures=_failures(run),
    )


def _failures(run: Run) -> tuple[Failure, ...]:
    code = pl.col("error").fill_null("").str.extract(CODE, 1)
    failed = (
        run.samples.filter(~OK | pl.col("error").is_not_null())
        .group_by(pl.col("outcome").cast(pl.String), code)
        .agg(n=pl.len())
    )
    commonest = failed.sort("n", "outcome", "error", descending=[True, False, False]).head(MOST_FAILURES)
    return tuple(Failure(**row) for row in commonest.collect().iter_rows(named=True))


def cut_share(run: Run) -> float:
    """Of the steady phase's answers, those that max_tokens ended: asked for more, they would have been longer."""
    cut = run.samples.filter(OK & STEADY).select((pl.col("finish_reason").cast(pl.String) == "length").mean())
    return float(cut.collect(engine="streaming").item() or 0.0)


def _per(amount: int, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def completed_within(run: Run, stretch: Stretch) -> int:
    """Answers completed within the stretch, whenever they were due."""
    return int(run.samples.select((OK & ended_within(stretch)).sum()).collect(engine="streaming").item())
