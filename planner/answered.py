"""What the answers say of a run: how many failed, were refused or filtered, and when."""

from __future__ import annotations

import polars as pl

from loadgen.config import Kind, TargetConfig
from loadgen.quota import Quota
from loadgen.samples import Outcome
from planner.evidence import Evidence
from planner.plan import Traffic
from planner.rows import STEADY, WARMUP

TOO_MANY_FAILED_SHARE = 0.1
MOST_FAILED_SHARE = 0.01
MOST_REFUSED_SHARE = 0.5  # of more, latencies are of the lesser part
FAILURES = (
    Outcome.REJECTED,
    Outcome.SERVER_ERROR,
    Outcome.TIMEOUT,
    Outcome.NETWORK,
    Outcome.BROKEN_STREAM,
)
SERVED = {Outcome.OK, Outcome.FILTERED}  # what the filter stops may be meant to be
UNTOLD = (Outcome.DROPPED, Outcome.CANCELLED)  # never sent, or in flight when the run was stopped
FEWEST_UNSERVED = 10  # attempts of the steady phase: of fewer, all may fail by chance
FAILED = pl.col("outcome").is_in(FAILURES)


def unanswered(evidence: Evidence) -> list[str]:
    """Latencies of the few that were answered are no one's; refused users of a closed loop hold back."""
    traffic = evidence.traffic
    failed = sum(traffic.outcomes[outcome] for outcome in FAILURES)
    reasons = []
    if failed > TOO_MANY_FAILED_SHARE * traffic.attempts:
        reasons.append(
            f"{failed / traffic.attempts:.1%} of the attempts failed, so the rest is no fair sample: see the failures "
            "under Traffic, and mend what they name"
        )
    refused = traffic.outcomes[Outcome.THROTTLED]
    if not evidence.config.load.open_loop and refused > TOO_MANY_FAILED_SHARE * traffic.attempts:
        reasons.append(
            f"{refused / traffic.attempts:.1%} of the attempts were refused (429), and users of a closed loop hold "
            "back then: the rate is that of the refusals; use --rate, or --throttle pace"
        )
    return reasons


def refusals(evidence: Evidence) -> list[str]:
    traffics = [target.traffic for target in evidence.targets] or [evidence.traffic]
    doubts = []
    for target, traffic in zip(evidence.config.targets, traffics, strict=True):
        where = f" by {target.name}" if evidence.targets else ""
        doubts += _refusals_of(target, traffic, evidence.config.quota_of(target), where)
    return doubts


def _refusals_of(target: TargetConfig, traffic: Traffic, quota: Quota, where: str) -> list[str]:
    refused, managed = traffic.outcomes[Outcome.THROTTLED], target.kind is Kind.MANAGED
    if not refused:
        return []
    limit = "what the endpoint lets in at once" if managed else "the quota"
    share = refused / traffic.attempts
    remedy = "offer less" if managed else "offer less, or give --throttle pace and the quota that it has"
    most = (
        f"; with {share:.1%} refused, latencies are of the lesser part that it let through: for those of the model "
        f"{remedy}"
    )
    doubts = [
        f"{refused:,} of {traffic.attempts:,} attempts were answered 429{where}: throughput was limited by {limit}, "
        f"not by the model{most if share > MOST_REFUSED_SHARE else ''}"
    ]
    tokens_share = traffic.peak_tokens_per_minute / quota.tokens_per_minute
    fullest = max(tokens_share, traffic.peak_requests_per_minute / quota.requests_per_minute)
    if not managed and fullest < 1:
        doubts.append(
            f"429 came{where} although the busiest minute took {fullest:.0%} of the configured quota: the deployment "
            "has less, shares it, or enforces it in shorter windows"
        )
    return doubts


def failures(evidence: Evidence) -> list[str]:
    traffic = evidence.traffic
    failed = {outcome.value: traffic.outcomes[outcome] for outcome in FAILURES if traffic.outcomes[outcome]}
    total = sum(failed.values())
    if not MOST_FAILED_SHARE < total / max(1, traffic.attempts) <= TOO_MANY_FAILED_SHARE:
        return []
    kinds = ", ".join(f"{n:,} {outcome}" for outcome, n in failed.items())
    return [
        f"{total / traffic.attempts:.1%} of the attempts failed ({kinds}): latencies are of the answers that came, and "
        "leave out the worst"
    ]


def failures_of_the_warmup(evidence: Evidence) -> list[str]:
    """Figures are of the steady phase, and would not show what went wrong before it."""
    phases = (WARMUP, ~WARMUP)
    sent = [evidence.counts.total("sent", phase) for phase in phases]
    failed = [evidence.counts.total("sent", phase & FAILED) for phase in phases]
    before, after = (n / of if of else 0.0 for n, of in zip(failed, sent, strict=True))
    if before <= MOST_FAILED_SHARE or before <= 2 * after:
        return []
    return [
        f"{failed[0]:,} of the {sent[0]:,} attempts of the warm-up failed, and {failed[1]:,} of {sent[1]:,} after it: "
        "no latency, rate or cost counts the warm-up (--warmup says how long it is)"
    ]


def filtered(evidence: Evidence) -> list[str]:
    """The filter at work is no failure; but who did not mean to wake it should know."""
    traffic = evidence.traffic
    filtered = traffic.outcomes[Outcome.FILTERED]
    if filtered <= MOST_FAILED_SHARE * traffic.attempts:
        return []
    return [f"content safety filtered {filtered / traffic.attempts:.1%} of the attempts: no latency counts them"]


def unserved(evidence: Evidence) -> list[str]:
    """Scenarios of the mix that were never served, whose load the run's figures lack: the first of its doubts."""
    others = "all latencies and answers are of the other scenarios: mend it, or leave it out of the mix (--scenario)"
    steady = evidence.counts.kinds.filter(STEADY & ~pl.col("outcome").is_in(UNTOLD))
    of_kinds = steady.group_by("scenario", "outcome").agg(n=pl.col("attempts").sum()).sort("scenario", "outcome")
    refused = all_refused(evidence)
    found = [f"{each}; {others}" for each in refused.values()]
    for (scenario,), rows in of_kinds.group_by("scenario", maintain_order=True):
        attempts, outcomes = rows["n"].sum(), set(rows["outcome"])
        if scenario in refused or attempts < FEWEST_UNSERVED or outcomes & SERVED:
            continue
        kinds = ", ".join(f"{n:,} {outcome}" for outcome, n in rows.select("outcome", "n").iter_rows())
        found.append(f"no request of the scenario {scenario} was answered ({kinds}); {others}")
    return found


def all_refused(evidence: Evidence) -> dict[str, str]:
    """A scenario none of whose requests is taken has something wrong in it, and the server says what; by scenario."""
    if not evidence.traffic.outcomes[Outcome.REJECTED]:
        return {}
    told = evidence.run.samples.filter(~pl.col("outcome").is_in(UNTOLD)).group_by("scenario")
    rows = told.agg(
        pl.len(),
        (pl.col("outcome") == Outcome.REJECTED).all().alias("all"),
        pl.col("error", "status").drop_nulls().first(),
    )
    return {
        scenario: f"every request of the scenario {scenario} was rejected ({n:,}), with {status}: "
        f"{error or 'no reason given'}"
        for scenario, n, everything, error, status in rows.sort("scenario").collect().iter_rows()
        if everything
    }
