"""What this machine's own error is, whether that may be believed, and how to say it in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from loadgen.samples import Outcome, Run, WorkerHealth
from planner.generator import BUSY_SHARE, DOUBTFUL_LAG_MS
from planner.headline import three_digits
from planner.metrics import ALL, latency_row, values_of
from planner.plan import LatencyRow, Quantile, Validity
from planner.rows import config_of, steady_stretch
from planner.truth import Log, gap_errors, token_errors, ttft_errors

MOST_WAITED = 0.02  # of the time, for a core; on a machine of few cores its own server alone makes it wait 5 % of it,
MOST_OF_OTHERS = 0.25  # of a core; so it is taken for the others' doing only where they use as much
NAMES = {"ttft_error": "TTFT error", "gap_error": "gap error", "lag": "lag"}
PARTS = {"streams": "streams", "open_loop": "open loop"}
SHARES = {"p99": "99 of 100", "p95": "95 of 100", "p90": "9 of 10", "p50": "half of the"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreUse:
    """Who had this machine's cores while it was measured, per second of that time. None where the system is silent."""

    ran: float | None  # the load process, core seconds
    waited: float | None  # the load process, ready and without a core, seconds
    others: float | None  # all that was not the calibration, core seconds


@dataclass(frozen=True, slots=True)
class Part:
    """One of the two loads that a calibration plays, and how many cores other programs used meanwhile."""

    run: Run
    others_cores: float | None

    @property
    def core_use(self) -> CoreUse:
        health = next(iter(self.run.manifest.workers), WorkerHealth())
        return CoreUse(ran=health.cpu_share, waited=health.without_core_share, others=self.others_cores)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The layout of `headroom calibrate --json`. Errors and lag are of the steady phases."""

    headline: str = ""
    for_report: str | None = None  # None where it is not valid
    validity: Validity
    ttft_error: LatencyRow  # our stamp of a first token minus the server's
    gap_error: LatencyRow  # of each gap between two tokens, whichever way it is off
    lag: LatencyRow  # of the open loop
    streams: int  # at once
    tokens_per_s: float  # of each stream
    requests_per_s: float  # of the open loop
    core_use: Mapping[str, CoreUse]  # by part
    calibrated_utc: str
    machine: Mapping[str, Any]
    versions: Mapping[str, str]

    @property
    def rows(self) -> tuple[LatencyRow, ...]:
        return self.ttft_error, self.gap_error, self.lag


def calibrated(streams: Part, open_loop: Part, log: Log, *, tokens_per_s: float) -> Calibration:
    """From a closed loop of streams and an open loop of plain requests. Raises RunFolderError where record and log do
    not belong together.
    """
    stretch, manifest = steady_stretch(streams.run), streams.run.manifest
    first_tokens = ttft_errors(streams.run, log, stretch)
    gaps = gap_errors(token_errors(streams.run, log), stretch)
    parts = {"streams": streams, "open_loop": open_loop}
    found = Calibration(
        validity=Validity(valid=True, reasons=(), doubts=()),
        ttft_error=latency_row("ttft_error", ALL, first_tokens),
        gap_error=latency_row("gap_error", ALL, gaps),
        lag=latency_row("lag", ALL, values_of(open_loop.run, "lag")),
        streams=config_of(streams.run).load.users or 0,
        tokens_per_s=tokens_per_s,
        requests_per_s=config_of(open_loop.run).load.rate_per_s,
        core_use={name: part.core_use for name, part in parts.items()},
        calibrated_utc=manifest.started_utc,
        machine=manifest.host,
        versions=manifest.versions,
    )
    reasons = (
        *_unanswered(parts),
        *_kept_waiting(found),
        *_before_it_was_sent(first_tokens),
        *_nothing_measured(found),
    )
    found = replace(found, validity=Validity(valid=not reasons, reasons=reasons, doubts=tuple(_doubts(found))))
    return replace(found, headline=_headline(found), for_report=None if reasons else _for_report(found))


def _unanswered(parts: Mapping[str, Part]) -> Iterator[str]:
    """The server answers everything: what it did not answer, or was dropped, is our own failure."""
    for name, part in parts.items():
        outcomes = part.run.samples.group_by("outcome").agg(n=pl.len()).sort("outcome").collect()
        failed = {outcome: n for outcome, n in outcomes.iter_rows() if outcome != Outcome.OK}
        if failed:
            kinds = ", ".join(f"{n:,} {outcome}" for outcome, n in failed.items())
            total = f"{sum(failed.values()):,} of {outcomes['n'].sum():,}"
            yield f"{total} requests of the {PARTS[name]} were not answered ({kinds})"


def _kept_waiting(found: Calibration) -> Iterator[str]:
    for name, use in found.core_use.items():
        if use.waited is not None and use.waited > MOST_WAITED and (use.others or 0.0) > MOST_OF_OTHERS:
            yield (
                f"during the {PARTS[name]} other programs used {use.others:.2g} cores, and the load process was kept "
                f"waiting for one {use.waited:.0%} of the time: stop what else runs here, and calibrate again"
            )


def _before_it_was_sent(errors_ns: pl.Series) -> Iterator[str]:
    early = int((errors_ns < 0).sum())
    if early:
        yield f"{early:,} first tokens were seen before they were sent: the two processes do not share a clock"


def _nothing_measured(found: Calibration) -> Iterator[str]:
    for row in found.rows:
        if not row.n:
            yield f"nothing was measured of the {NAMES[row.metric]}: calibrate for longer"


def _doubts(found: Calibration) -> Iterator[str]:
    for name, use in found.core_use.items():
        if use.waited is None or use.others is None:
            yield f"this system does not say whether other programs had the cores during the {PARTS[name]}"
        if (use.ran or 0.0) > BUSY_SHARE:
            yield f"the load process used {use.ran:.0%} of a core for the {PARTS[name]}: its limit is what was measured"
    few = [f"{NAMES[row.metric]} has {row.n:,}" for row in found.rows if row.p99.value_ms is None]
    if few:
        yield f"too few samples for a p99, which needs {found.lag.p99.needs_n}: {', '.join(few)}; calibrate for longer"
    for row in found.rows:
        name, best = _best_supported(row)
        if best is not None and (best.value_ms or 0.0) > DOUBTFUL_LAG_MS:
            fewer = "" if row.metric == "lag" else ", or measure with fewer streams at once"
            yield (
                f"the {name} of the {NAMES[row.metric]} is {_ms(best.value_ms)}, above {DOUBTFUL_LAG_MS:g} ms: "
                f"calibrate again, with nothing else running and more free cores if it stays so{fewer}"
            )


def _headline(found: Calibration) -> str:
    if not found.validity.valid:
        return f"This calibration cannot be trusted: {found.validity.reasons[0]}."
    name, best = _best_supported(found.ttft_error)
    if best is None:
        return "Too few streams were measured to say how right Headroom's TTFT is: calibrate for longer."
    return (
        f"On this machine Headroom's TTFT is right to within {_ms(best.value_ms)} for {SHARES[name]} requests at "
        f"{found.streams:,} streams."
    )


def _best_supported(row: LatencyRow) -> tuple[str, Quantile | None]:
    """The highest percentile that the samples support."""
    for name, quantile in (("p99", row.p99), ("p95", row.p95), ("p90", row.p90), ("p50", row.p50)):
        if quantile.value_ms is not None:
            return name, quantile
    return "", None


def _for_report(found: Calibration) -> str:
    """One paragraph with all that a reader needs to judge the figures."""
    host = found.machine
    parts = (
        f"at {found.streams:,} streams of {found.tokens_per_s:g}/s TTFT is {_percentiles(found.ttft_error)} late",
        f"gaps between tokens are off by {_percentiles(found.gap_error)}",
        f"requests of an open loop at {found.requests_per_s:,g}/s leave {_percentiles(found.lag)} late",
    )
    return (
        f"Headroom {found.versions.get('headroom', '')}'s own error on the machine that made the load "
        f"({host.get('cpu')}, {host.get('cores')} cores), calibrated on {found.calibrated_utc[:10]} over loopback "
        f"against a server that logs when it sends: {'; '.join(parts)}. Intervals are 95 %."
    )


def _percentiles(row: LatencyRow) -> str:
    """`0.033 ms (p50) and 0.31 ms (p99, 0.28 to 0.4; n 735)`; the median alone where n supports no more."""
    if row.p50.value_ms is None:
        return f"an unknown time (n {row.n:,})"
    median = f"{_ms(row.p50.value_ms)} (p50"
    name, best = _best_supported(row)
    if best is None or name == "p50":
        return f"{median}; n {row.n:,})"
    within = "" if best.low_ms is None or best.high_ms is None else f", {_ms(best.low_ms)} to {_ms(best.high_ms)}"
    return f"{median}) and {_ms(best.value_ms)} ({name}{within}; n {row.n:,})"


def _ms(value_ms: float | None) -> str:
    """To the microsecond: 0.016 ms, 5.92 ms."""
    value_ms = value_ms or 0.0
    return f"{three_digits(value_ms) if value_ms >= 1 else f'{value_ms:.3f}'.rstrip('0').rstrip('.')} ms"
