"""Whether a run may be believed, and what to bear in mind although it may."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from loadgen.closed_loop import shares
from loadgen.config import SIMULATED, Kind, LoadConfig, RunConfig, TargetConfig
from loadgen.errors import RunFolderError
from loadgen.samples import Outcome, check_ledger
from planner.answered import (
    FAILED,
    all_refused,
    failures,
    failures_of_the_warmup,
    filtered,
    refusals,
    unanswered,
    unserved,
)
from planner.evidence import Evidence
from planner.generator import generator_doubts, generator_reasons
from planner.metrics import DRAWN
from planner.plan import Validity
from planner.rows import OK, PAST_BUDGET, STEADY, THROTTLED, WARMUP

MOST_DROPPED_SHARE = 0.01
FAITHFUL_SHARE = 0.99  # of what was due in the steady phase must have been sent in it
LEAST_STEADY_S = 1.0  # of a run that was stopped,
FEWEST_ANSWERED = 10  # and answers in it: of less no rate and no cost can be told
FEWEST_JUDGED = 100  # arrivals; of fewer, one more or less at the edge is above a hundredth
QUOTA_WINDOW_S = 60.0
DOMINANT_WAIT_SHARE = 0.5  # of the mean response time
PRICES_AGE = timedelta(days=90)

REMEDIES = {  # by the error of a dropped arrival
    "stopped_while_throttled": "the quota held them back until the end; offer less, raise --tpm, or see what the "
    "endpoint refuses with --throttle off",
    "max_in_flight": "too many were unanswered; raise load.max_in_flight, or offer less",
    "never_fits_quota": "they are larger than the quota can ever admit; lower --max-tokens or raise --tpm",
    "scenario_failed": "the scenario raised an error for them",
    "worker_lost": "a worker that held them was lost, and whether it sent them nobody knows",
    "lease_ended": "a worker had lost touch with its master, and sends nothing then",
}


def validity(evidence: Evidence) -> Validity:
    failed, dropped = [*_too_little(evidence), *unanswered(evidence)], _dropped(evidence)
    reasons = [
        *_unfinished(evidence),
        *dropped,
        *failed,
        *generator_reasons(evidence.run, evidence.latency),
    ]
    if reasons:  # the cause comes before what it brought about
        reasons = [*_auto_stopped(evidence), *(all_refused(evidence).values() if failed else ()), *reasons]
    doubts = (
        *(() if failed else unserved(evidence)),
        *_interrupted(evidence),
        *evidence.run.manifest.degraded,
        *_few_dropped(evidence),
        *_simulated(evidence),
        *generator_doubts(evidence.run, evidence.latency),
        *_loop(evidence),
        *(() if dropped else _held_back(evidence)),
        *refusals(evidence),
        *failures(evidence),
        *failures_of_the_warmup(evidence),
        *filtered(evidence),
        *(() if reasons else _several(evidence)),
        *_too_few(evidence),
        *_usage(evidence),
        *_beyond_measured(evidence),
        *_old_prices(evidence),
    )
    return Validity(valid=not reasons, reasons=tuple(reasons), doubts=doubts)


def _unfinished(evidence: Evidence) -> list[str]:
    """Nothing may be missing: the run ended by itself or was stopped, and its ledger adds up."""
    reasons = []
    manifest = evidence.run.manifest
    if manifest.state == "running":
        reasons.append(
            "the run never finished: it is still going on, or was killed and its last second is missing; wait, or "
            f"finish its record with `headroom recover {evidence.run.folder}`"
        )
    try:
        check_ledger(evidence.counts.totals, manifest.totals.get("planned"))
    except RunFolderError as error:
        reasons.append(str(error))
    return reasons


def _auto_stopped(evidence: Evidence) -> list[str]:
    reason = evidence.run.manifest.reason or ""
    return [reason] if reason.startswith("auto-stop: ") else []


def _dropped(evidence: Evidence) -> list[str]:
    planned, dropped = _due_before_the_end(evidence)
    if not evidence.config.load.open_loop or dropped <= MOST_DROPPED_SHARE * planned:
        return []
    share = dropped / planned
    return [
        f"{share:.1%} of the arrivals ({dropped:,}) were due and never sent, so the load was not the one asked "
        f"for{_remedy_of_dropped(evidence)}"
    ]


def _few_dropped(evidence: Evidence) -> list[str]:
    planned, dropped = _due_before_the_end(evidence)
    if not 0 < dropped <= MOST_DROPPED_SHARE * planned:
        return []
    arrivals = "one arrival was" if dropped == 1 else f"{dropped:,} arrivals were"
    return [f"{arrivals} due and never sent{_remedy_of_dropped(evidence)}"]


def _due_before_the_end(evidence: Evidence) -> tuple[int, int]:
    """Arrivals, and how many were dropped; without those that came when the budget was used up: there the run ended."""
    if not evidence.traffic.dropped:
        return evidence.traffic.planned, 0
    ended: int = evidence.run.samples.filter(PAST_BUDGET).select(pl.len()).collect().item()
    return evidence.traffic.planned - ended, evidence.traffic.dropped - ended


def _remedy_of_dropped(evidence: Evidence) -> str:
    dropped = evidence.run.samples.filter((pl.col("outcome") == Outcome.DROPPED) & ~PAST_BUDGET)
    cause = dropped.select(pl.col("error").value_counts(sort=True)).collect().to_series().to_list()[0]["error"]
    if cause == "stopped_while_throttled" and evidence.run.manifest.state == "interrupted":
        return ": they waited for the quota when the run was stopped"
    return f": {REMEDIES[cause]}" if cause in REMEDIES else ""


def _too_little(evidence: Evidence) -> list[str]:
    """Nothing was measured, or so little that a plan would be made of a remnant."""
    sent, answered = evidence.counts.total("sent", STEADY), evidence.counts.total("attempts", STEADY & OK)
    if not sent:
        return [f"no request of the steady phase was sent{_all_before(evidence)}"]
    if not answered:
        return [f"none of the {sent:,} attempts of the steady phase was answered"]
    steady_s, stopped = evidence.traffic.steady_s, evidence.run.manifest.state == "interrupted"
    if stopped and (steady_s < LEAST_STEADY_S or answered < FEWEST_ANSWERED):
        return [
            f"the run was stopped {steady_s:.3g} s into its steady phase, of which {answered:,} "
            f"{'was' if answered == 1 else 'were'} answered: a plan takes {LEAST_STEADY_S:g} s and {FEWEST_ANSWERED} "
            "answers"
        ]
    if steady_s == 0:
        return ["all that was due in the steady phase was due at one instant, so no rate can be told"]
    return []


def _all_before(evidence: Evidence) -> str:
    """What a warm-up that lasted as long as the load had taken."""
    warmup, sent = evidence.config.load.warmup, evidence.counts.total("sent", WARMUP)
    if not sent:
        return ""
    throttled, failed = (evidence.counts.total("sent", WARMUP & kind) for kind in (THROTTLED, FAILED))
    refused = f", {throttled:,} of them were throttled (429)" if throttled else ""
    remedy = "offer less, and give" if throttled > sent / 2 else "give"
    return (
        f": all {sent:,} left in the warm-up of {warmup:g} s{refused}, and {failed:,} of them failed; {remedy} a "
        "shorter --warmup"
    )


def _simulated(evidence: Evidence) -> list[str]:
    manifest, config = evidence.run.manifest, evidence.config
    simulated = [each for each in config.targets if manifest.deployment_of(each.name).get("simulated") is True]
    if not simulated:
        return []
    own = any(target.url == SIMULATED for target in simulated)
    lenient = ", and it answered prompts of any length" if own and config.load.trace is not None else ""
    several = len(config.targets) > 1
    which = f"{len(simulated)} of the {len(config.targets)} targets were simulated: their latencies"
    subject = which if several else "the deployment was simulated: its latencies"
    doubts = [f"{subject} are those of the simulator, not of Azure{lenient}"]
    for target in simulated:
        where = f" {target.name}" if several else ""
        doubts += _misread(target, manifest.deployment_of(target.name), f"the simulated deployment{where}")
    return doubts


def _misread(target: TargetConfig, deployment: Mapping[str, Any], name: str) -> list[str]:
    """What a simulated deployment is and the run did not take it for."""
    kind, scale = deployment.get("simulated_kind", target.kind), deployment.get("time_scale", 1.0)
    doubts = []
    if kind != target.kind:
        doubts.append(f"{name} is {kind}, and the run took it for {target.kind}: give --kind {kind}")
    if scale != 1:
        doubts.append(f"{name}'s time ran {scale:g} times as fast: no latency, rate or cost is a real one")
    return doubts


def _interrupted(evidence: Evidence) -> list[str]:
    manifest, load = evidence.run.manifest, evidence.config.load
    if manifest.state != "interrupted":
        return []
    asked_s = load.duration - load.warmup - load.cooldown
    why = f" ({manifest.reason})" if manifest.reason else ""
    return [f"interrupted{why}: {evidence.traffic.steady_s:.3g} s of the steady phase's {asked_s:g} s are here"]


def _loop(evidence: Evidence) -> list[str]:
    doubts = []
    if not evidence.config.load.open_loop:
        doubts.append(
            f"closed loop of {evidence.config.load.users} users: slow answers held back the load, so response times "
            "are not those of arrivals that do not wait for each other"
        )
        doubts += _joining(evidence.config.load)
        doubts += _without_users(evidence.config)
    doubts += _mostly_warmup(evidence)
    limited = any(target.kind is Kind.SERVERLESS for target in evidence.config.targets)
    if limited and 0 < evidence.traffic.steady_s < QUOTA_WINDOW_S:
        doubts.append(
            f"the steady phase lasted {evidence.traffic.steady_s:.3g} s, less than a minute of quota: the busiest "
            "minute is scaled up from it"
        )
    wait_ms = evidence.latency["throttle_wait"].mean_ms
    response_ms = evidence.latency["response_time"].mean_ms
    if wait_ms is not None and response_ms is not None and wait_ms > DOMINANT_WAIT_SHARE * response_ms:
        doubts.append(
            f"waiting for the quota dominates: {wait_ms:,.0f} ms on average, of a mean response time of "
            f"{response_ms:,.0f} ms; it is the quota that was measured"
        )
    return doubts


def _mostly_warmup(evidence: Evidence) -> list[str]:
    warmup, steady_s = evidence.config.load.warmup, evidence.traffic.steady_s
    if evidence.run.manifest.state == "interrupted" or not 0 < steady_s < warmup:
        return []
    return [
        f"the warm-up took {warmup:g} s and left a steady phase of {steady_s:.3g} s, of which all figures are: give a "
        "shorter --warmup or a longer --duration"
    ]


def _joining(load: LoadConfig) -> list[str]:
    joined_s = 0.0 if load.spawn_rate is None else ((load.users or 1) - 1) / load.spawn_rate
    if joined_s <= load.warmup:
        return []
    return [
        f"users were still joining {joined_s:.3g} s after the start, and the warm-up ended after {load.warmup:g} s: "
        "give a longer --warmup"
    ]


def _without_users(config: RunConfig) -> list[str]:
    """Users are dealt out whole, so few of them leave a small share of the mix without any."""
    mix, users = config.scenarios, config.load.users or 1
    idle = [name for name, dealt in shares(mix, users).items() if not dealt]
    if not idle:
        return []
    enough = math.ceil(sum(mix.values()) / min(mix.values()))
    return [
        f"{' and '.join(idle)} had no user, as the mix deals out {users}, and sent nothing: {enough:,} users give each "
        "scenario one"
    ]


def _held_back(evidence: Evidence) -> list[str]:
    """The load was to be so much a second; what was sent in the steady phase must be that."""
    load = evidence.config.load
    if not load.open_loop:
        return []
    end_ns = round((load.duration - load.cooldown) * 1e9)
    due = evidence.run.samples.filter(STEADY & (pl.col("attempt") == 0) & ~PAST_BUDGET)
    planned, sent = due.select(pl.len(), (pl.col("sent_ns") < end_ns).sum()).collect(engine="streaming").row(0)
    if planned < FEWEST_JUDGED or sent >= FAITHFUL_SHARE * planned:
        return []
    return [f"only {sent / planned:.1%} of what was due in the steady phase was sent in it: the load was not as steep"]


def _several(evidence: Evidence) -> list[str]:
    """Why `ahead` is null, which says what to run and what each way to serve it costs."""
    if len(evidence.config.targets) == 1:
        return []
    return [
        "what to run, how many deployments and instances, and what each way costs (`ahead`) is planned of one "
        f"deployment, and these are {len(evidence.config.targets)}: plan from a run of one of them for it"
    ]


def _too_few(evidence: Evidence) -> list[str]:
    """One sentence for all percentiles that some latency has too few samples for."""
    rows = [evidence.latency[metric] for metric in DRAWN if evidence.latency[metric].n]
    clauses, told = [], set()
    for name in ("p50", "p90", "p95", "p99"):
        short = [row for row in rows if getattr(row, name).value_ms is None]
        if short:
            counts = [f"{row.metric} has {row.n:,}" for row in short if row.metric not in told]
            told |= {row.metric for row in short}
            needs_n = getattr(short[0], name).needs_n
            clauses.append(f"for a {name}, which needs {needs_n}{': ' if counts else ''}{', '.join(counts)}")
    return [f"too few samples {'; '.join(clauses)}; run for longer"] if clauses else []


def _usage(evidence: Evidence) -> list[str]:
    share = evidence.traffic.estimated_usage_share
    if share == 1:
        return [
            "no answer came with usage (100.0% of the answers came without usage: their tokens are estimated), so what "
            "the tokens take of the quota and cost is an estimate: have the server report usage, or compare its bill"
        ]
    return [f"{share:.1%} of the answers came without usage: their tokens are estimated"] if share else []


def _beyond_measured(evidence: Evidence) -> list[str]:
    times = round(evidence.times_measured, 2)
    if times <= 1:
        return []
    return [f"the plan is for {times:g} times the measured load; latency at that load was not measured"]


def _old_prices(evidence: Evidence) -> list[str]:
    today = evidence.today
    if today is None or not evidence.prices_dated or today - min(evidence.prices_dated) <= PRICES_AGE:
        return []
    oldest = min(evidence.prices_dated)
    return [f"the prices are of {oldest.isoformat()}, {(today - oldest).days} days old"]
