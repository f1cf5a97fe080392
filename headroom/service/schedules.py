"""When a scheduled job is due: cron expressions of five fields, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

from cronsim import CronSim, CronSimError

from headroom.service.refusals import Refusal

FIELDS = 5
MOST = 100  # schedules of a service


def next_after(cron: str, at: datetime) -> datetime:
    """The first instant after `at` that the expression names. Raises Refusal (422)."""
    if not isinstance(cron, str) or len(cron) > 100 or len(cron.split()) != FIELDS:
        raise Refusal(
            422, "must be five fields, minute hour day month weekday, in UTC, like 0 2 * * 1-5", where="schedule"
        )
    try:
        return next(CronSim(cron, at.astimezone(UTC)))
    except CronSimError as error:
        raise Refusal(422, f"{str(error)[0].lower()}{str(error)[1:]} in {cron!r}", where="schedule") from None
    except StopIteration:
        raise Refusal(422, f"{cron!r} names no instant in the next 50 years", where="schedule") from None
