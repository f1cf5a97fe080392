"""The ways to serve a demand, each as what it costs a month in any of the worlds that may turn out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from planner.cost import HOURS_PER_MONTH, S_PER_HOUR
from planner.costs.cost_case import Case
from planner.costs.demand_path import HOURS_PER_WEEK, Floats
from planner.costs.following import Reservation
from planner.costs.uncertainty import Figure, Worlds

SERVERLESS = "serverless"
HYBRID = "hybrid"
AROUND_THE_CLOCK = "managed, around the clock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to serve the demand."""

    name: str
    per_month_usd: Figure
    instances: float  # billed, on average
    what_must_be_true: tuple[str, ...]


def ways(case: Case) -> Iterator[Way]:
    """Those that what is known allows for, serverless first."""
    if case.price is not None:
        yield _serverless(case)
    if case.usd_per_hour is None or not case.instances:
        return
    yield _static(case, case.usd_per_hour, case.instances)
    yield from _in_hours(case, case.usd_per_hour, case.instances)
    mean = float(case.share_of_hours.sum())
    if mean < case.instances - 1e-9:
        yield _following(case, case.usd_per_hour, mean)
    for reservation in case.reservations:
        if reservation.instances:
            yield _reserved(case, case.usd_per_hour, reservation)
    if case.base:
        yield _hybrid(case, case.usd_per_hour)


def _serverless(case: Case) -> Way:
    rules = case.rules
    per_month_usd = case.path.mean(case.usd_per_s) * S_PER_HOUR * HOURS_PER_MONTH
    must = [f"prices per token stay within {rules.price_range_share:.0%}"]
    if rules.deployments is not None:
        must.insert(0, f"{rules.deployments} deployment{' is' if rules.deployments == 1 else 's are'} granted")
    return Way(
        name=SERVERLESS,
        per_month_usd=lambda worlds: per_month_usd * worlds.demand * worlds.token_price,
        instances=0.0,
        what_must_be_true=tuple(must),
    )


def _static(case: Case, usd_per_hour: float, instances: int) -> Way:
    per_month_usd = usd_per_hour * HOURS_PER_MONTH
    return Way(
        name=AROUND_THE_CLOCK,
        per_month_usd=lambda worlds: case.instances_in(worlds) * per_month_usd * worlds.instance_price,
        instances=float(instances),
        what_must_be_true=_capacity_holds(case, instances),
    )


def _capacity_holds(case: Case, instances: int) -> tuple[str, ...]:
    if case.counted_per_s is None:
        suffice = "1 instance suffices" if instances == 1 else f"{instances} instances suffice"
        return (f"{suffice}: what one serves is not known",)
    served = max(1, instances - case.rules.spare_instances) * case.counted_per_s
    return (
        f"an instance serves {case.counted_per_s:.3g} requests/s within the objectives",
        f"no minute brings more than {served:.3g} requests/s",
    )


def _in_hours(case: Case, usd_per_hour: float, instances: int) -> Iterator[Way]:
    """Shut down in the hours off, when serverless takes what comes."""
    path, rules = case.path, case.rules
    off_usd = path.mean(np.where(path.on, 0.0, case.usd_per_s)) * S_PER_HOUR * HOURS_PER_MONTH
    off_load = path.mean(np.where(path.on, 0.0, path.requests_per_s))
    if path.on_share == 1 or (off_load > 0 and case.price is None):
        return
    boots_h = rules.starts_per_week * HOURS_PER_MONTH / HOURS_PER_WEEK * rules.boot_minutes / 60
    hours = HOURS_PER_MONTH * path.on_share + boots_h
    elsewhere = "serverless serves what comes then" if off_load else "nobody asks then"
    yield Way(
        name="managed, off outside the hours on",
        per_month_usd=lambda worlds: (
            case.instances_in(worlds) * hours * usd_per_hour * worlds.instance_price
            + off_usd * worlds.demand * worlds.token_price
        ),
        instances=instances * hours / HOURS_PER_MONTH,
        what_must_be_true=(
            *_capacity_holds(case, instances),
            f"instances run {rules.hours_on_per_week:g} h a week, are started {rules.starts_per_week} times and "
            f"deleted as often, and {elsewhere}",
        ),
    )


def _following(case: Case, usd_per_hour: float, mean: float) -> Way:
    per_month_usd = usd_per_hour * HOURS_PER_MONTH
    return Way(
        name="managed, autoscaled",
        per_month_usd=lambda worlds: _mean_in(case, worlds, mean) * per_month_usd * worlds.instance_price,
        instances=mean,
        what_must_be_true=(
            *_capacity_holds(case, case.instances or 0),
            f"each rise is known {case.rules.boot_minutes:g} minutes ahead, the time of a boot",
        ),
    )


def _mean_in(case: Case, worlds: Worlds, mean: float) -> Floats:
    """Instances that follow the demand follow it there too, down to their minimum."""
    least = min(float(case.rules.min_instances), mean)
    followed: Floats = np.maximum(mean * worlds.demand, least)
    return followed


def _reserved(case: Case, usd_per_hour: float, reservation: Reservation) -> Way:
    shares, reserved = case.share_of_hours, reservation.instances
    covered = float(shares[:reserved].sum())

    def per_month_usd(worlds: Worlds) -> Floats:
        rest = np.maximum(_mean_in(case, worlds, float(shares.sum())) - covered, 0.0)
        per_hour_usd: Floats = (reserved * reservation.usd_per_hour + rest * usd_per_hour) * worlds.instance_price
        return per_hour_usd * HOURS_PER_MONTH

    return Way(
        name=f"managed, {reserved} reserved for {reservation.term.lower()}",
        per_month_usd=per_month_usd,
        instances=float(shares.sum()),
        what_must_be_true=(
            *_capacity_holds(case, case.instances or 0),
            f"the demand lasts {reservation.term.lower()}: ${reservation.committed_usd:,.0f} are committed",
        ),
    )


def _hybrid(case: Case, usd_per_hour: float) -> Way:
    base, served_per_s = case.base, case.base * (case.served_per_s or 0.0)
    elsewhere = 1 - case.served_by_base
    share = f"{elsewhere:.1%} of the requests" if elsewhere >= 0.0005 else "none of this demand"

    def per_month_usd(worlds: Worlds) -> Floats:
        beyond = case.curve.excess(served_per_s * worlds.capacity / np.maximum(worlds.demand, 1e-9))
        rest = beyond * S_PER_HOUR * worlds.demand * worlds.token_price
        per_hour_usd: Floats = rest + base * usd_per_hour * worlds.instance_price
        return per_hour_usd * HOURS_PER_MONTH

    return Way(
        name=f"{HYBRID}: {base} managed, serverless beyond",
        per_month_usd=per_month_usd,
        instances=float(base),
        what_must_be_true=(
            f"an instance serves {case.served_per_s or 0:.3g} requests/s within the objectives",
            f"clients send what is beyond {served_per_s:.3g} requests/s elsewhere, {share}",
        ),
    )
