"""Limits ahead: which a demand reaches as it grows, at how many times of what it is, and in which month."""

from __future__ import annotations

from dataclasses import dataclass

from planner.costs.growth import LimitReached
from planner.plan import Plan
from planner.room import Room


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitAhead:
    limit: str  # in words
    factor: float | None  # times the load that is there now; None: there is none
    months: int | None  # from the run's start; 0: it is reached already; None: never, or no growth is planned with
    month: str | None  # 2027-03


def reached_by_growth(plan: Plan) -> tuple[LimitReached, ...]:
    """Without the break-even, beyond which there is a choice and no limit."""
    costs = None if plan.ahead is None else plan.ahead.costs
    return () if costs is None else tuple(each for each in costs.growth if not each.break_even)


def limits_ahead(plan: Plan) -> tuple[LimitAhead, ...]:
    """Those that the planned growth a month leads to, else those of the quota or of the instances.

    The first to be reached stands first.
    """
    growth = reached_by_growth(plan)
    if growth:
        return tuple(
            LimitAhead(
                limit=each.limit,
                factor=each.at / each.now if each.now else None,
                months=each.months,
                month=None if each.months is None else _later(plan.started_utc, each.months),
            )
            for each in growth
        )
    quota, room = plan.quota, None if plan.ahead is None else plan.ahead.room
    if quota is None:
        return () if room is None else (_of_instances(room),)
    shares = {"tokens per minute": quota.tokens_share, "requests per minute": quota.requests_share}
    if plan.targets:
        whose = "" if quota.target is None else f" of {quota.target}"
        return (LimitAhead(limit=f"{quota.binds} per minute{whose}", factor=quota.headroom, months=None, month=None),)
    rows = [
        LimitAhead(limit=name, factor=1 / share, months=None, month=None) for name, share in shares.items() if share
    ]
    return tuple(sorted(rows, key=lambda row: row.factor or 0.0))


def _of_instances(room: Room) -> LimitAhead:
    name = f"requests/s of {room.instances} instance{'' if room.instances == 1 else 's'}"
    return LimitAhead(limit=name, factor=room.factor, months=None, month=None)


def _later(started_utc: str, months: int) -> str | None:
    """The month so many later; None of a start that is no date."""
    try:
        since_year_0 = int(started_utc[:4]) * 12 + int(started_utc[5:7]) - 1 + months
    except ValueError:
        return None
    return f"{since_year_0 // 12:04d}-{since_year_0 % 12 + 1:02d}"
