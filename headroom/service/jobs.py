"""The queue: jobs and schedules in SQLite, so that a killed service loses none. It knows nothing of HTTP."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from headroom.service.database import Connection, Database
from headroom.service.once import KEPT, Once, forget, gone, made_by, remember
from headroom.service.refusals import Refusal

MEANINGS = {
    0: "fine",
    1: "our fault",
    2: "usage or configuration",
    3: "inconclusive",
    4: "run invalid",
    98: "regression",
    99: "threshold missed",
    105: "interrupted; partial results are complete",
    108: "stopped by the auto-stop",
    111: "budget used up",
    112: "target refused by the safety rails; nothing was sent",
}


class State(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"  # it came to its end, and the exit code says to which
    FAILED = "failed"  # nothing was measured
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"  # its process was killed; what it had recorded was recovered


ENDED = (State.DONE, State.FAILED, State.CANCELLED, State.INTERRUPTED)


class Kind(StrEnum):
    LOADTEST = "loadtest"
    PLAN = "plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A row of the queue. The run folder of a load test has the job's id as its name."""

    number: int
    id: str
    kind: Kind
    name: str
    tags: tuple[str, ...]
    state: State
    created_utc: str
    started_utc: str | None
    ended_utc: str | None
    exit_code: int | None  # as of `headroom run`; None before the end, and of a process that was killed
    error: str | None  # its last words, where it failed
    launch: int  # how often a start was written down; all but the last are proven not to have happened
    cancel_asked: bool
    schedule_id: str | None

    @property
    def meaning(self) -> str | None:
        """What the exit code says."""
        return None if self.exit_code is None else MEANINGS.get(self.exit_code, "ended unexpectedly")

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a job is to do, as it was admitted."""

    kind: Kind
    name: str
    tags: tuple[str, ...]
    config: Mapping[str, Any]  # of a loadtest: the values of loadtest.toml; of a plan: its options


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    id: str
    cron: str  # five fields, in UTC
    kind: Kind
    name: str
    tags: tuple[str, ...]
    created_utc: str
    next_utc: str


JOB_COLUMNS = (
    "number, id, kind, name, tags, state, created_utc, started_utc, ended_utc, exit_code, error, launch, cancel_asked, "
    "schedule_id"
)
SCHEDULE_COLUMNS = "id, cron, kind, name, tags, created_utc, next_utc"
JOB = f"SELECT {JOB_COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608 - our own columns
SCHEDULE = f"SELECT {SCHEDULE_COLUMNS} FROM schedules WHERE id = ?"  # noqa: S608


def stamp(at: datetime) -> str:
    """In UTC, so that texts sort as instants do."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def fresh_id(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


class Jobs:
    """The queue. Each method is a transaction of its own, and may be called from any thread."""

    def __init__(self, path: Path, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Raises RunFolderError for a queue that cannot be opened, or is of another version of Headroom."""
        self._clock, self.database = clock, Database(path)
        self._writing, self._rows = self.database.writing, self.database.rows

    def close(self) -> None:
        self.database.close()

    def made_by(self, once: Once) -> Job | Schedule | None:
        """What was submitted under this key before; None of a new key. Raises SpentKey (409, 422)."""
        with self._writing() as database:
            made = made_by(database, once)
            found = None if made is None else _job_in(database, made) or _schedule_in(database, made)
        if made is not None and found is None:
            raise gone(made)
        return found

    def add(self, asked: Asked, *, most_queued: int, once: Once | None = None) -> Job:
        """Queue a job, unless its key has: then that one. Raises Refusal (429) where so many wait, and SpentKey."""
        with self._writing() as database:
            made = made_by(database, once)
            if made is None:
                waiting = database.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0]
                if waiting >= most_queued:
                    raise Refusal(
                        429, f"{waiting} jobs wait already, and no more may: cancel some, or come again later"
                    )
                made = _insert(database, asked, self._clock(), None)
                remember(database, once, made, stamp(self._clock()))
            job = _job_in(database, made)
            if job is None:
                raise gone(made)
            return job

    def get(self, job_id: str) -> Job:
        """Raises Refusal (404)."""
        rows = self._rows(JOB, [job_id])
        if not rows:
            raise Refusal(404, f"there is no job {job_id[:100]!r}", where="id")
        return _job(rows[0])

    def knows(self, job_id: str) -> bool:
        return bool(self._rows(JOB, [job_id]))

    def config_of(self, job_id: str) -> dict[str, Any]:
        """Raises Refusal (404)."""
        rows = self._rows("SELECT config FROM jobs WHERE id = ?", [job_id])
        if not rows:
            raise Refusal(404, f"there is no job {job_id[:100]!r}", where="id")
        config: dict[str, Any] = json.loads(rows[0][0])
        return config

    def all(self, *, states: Sequence[State] = (), limit: int = 200, before: int | None = None) -> list[Job]:
        """The newest first, of these states where some are given; `before`: older than the job of that number."""
        wanted = [str(state) for state in states or State]
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT {JOB_COLUMNS} FROM jobs WHERE state IN ({marks}) AND number < ? ORDER BY number DESC LIMIT ?"  # noqa: S608
        return [_job(row) for row in self._rows(query, [*wanted, 2**62 if before is None else before, limit])]

    def counts(self) -> dict[State, int]:
        """Of every state, how many jobs are in it."""
        found = dict(self._rows("SELECT state, count(*) FROM jobs GROUP BY state"))
        return {state: found.get(str(state), 0) for state in State}

    def next_queued(self) -> Job | None:
        query = f"SELECT {JOB_COLUMNS} FROM jobs WHERE state = 'queued' ORDER BY number LIMIT 1"  # noqa: S608
        rows = self._rows(query)
        return _job(rows[0]) if rows else None

    def start(self, job_id: str) -> Job | None:
        """Write down that the job is about to start, before it does; None where it waits no more."""
        with self._writing() as database:
            changed = database.execute(
                "UPDATE jobs SET state = 'running', launch = launch + 1, started_utc = ? "
                "WHERE id = ? AND state = 'queued'",
                [stamp(self._clock()), job_id],
            ).rowcount
        return self.get(job_id) if changed else None

    def requeue(self, job_id: str, launch: int) -> None:
        """Back to its place in the queue, or cancelled: that launch is proven never to have begun."""
        with self._writing() as database:
            database.execute(
                "UPDATE jobs SET state = iif(cancel_asked, 'cancelled', 'queued'), started_utc = NULL, "
                "ended_utc = iif(cancel_asked, ?, NULL) WHERE id = ? AND state = 'running' AND launch = ?",
                [stamp(self._clock()), job_id, launch],
            )

    def end(self, job_id: str, state: State, *, exit_code: int | None, error: str | None) -> None:
        """How a running job ended; of one that has ended already nothing changes."""
        with self._writing() as database:
            database.execute(
                "UPDATE jobs SET state = ?, exit_code = ?, error = ?, ended_utc = ? WHERE id = ? AND state = 'running'",
                [state, exit_code, error, stamp(self._clock()), job_id],
            )

    def ask_cancel(self, job_id: str) -> Job:
        """A job that waits is cancelled at once, one that runs is marked. Raises Refusal: 404, or 409 after its end."""
        with self._writing() as database:
            database.execute(
                "UPDATE jobs SET state = 'cancelled', cancel_asked = 1, ended_utc = ? "
                "WHERE id = ? AND state = 'queued'",
                [stamp(self._clock()), job_id],
            )
            database.execute("UPDATE jobs SET cancel_asked = 1 WHERE id = ? AND state = 'running'", [job_id])
        job = self.get(job_id)
        if job.ended and not job.cancel_asked:
            raise Refusal(409, f"the job has ended already: it is {job.state}")
        return job

    def add_schedule(
        self, asked: Asked, cron: str, next_at: datetime, *, most: int, once: Once | None = None
    ) -> Schedule:
        """Unless its key has added one: then that. Raises Refusal (429) where there are so many, and SpentKey."""
        at = self._clock()
        with self._writing() as database:
            made = made_by(database, once)
            if made is None:
                if database.execute("SELECT count(*) FROM schedules").fetchone()[0] >= most:
                    raise Refusal(429, f"there are {most} schedules already, and no more may be: delete some")
                made = fresh_id(at)
                kept = (made, cron, asked.kind, asked.name, json.dumps(asked.tags), json.dumps(asked.config))
                query = "INSERT INTO schedules VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
                database.execute(query, [*kept, stamp(at), stamp(next_at)])
                remember(database, once, made, stamp(at))
            schedule = _schedule_in(database, made)
            if schedule is None:
                raise gone(made)
            return schedule

    def schedules(self) -> list[Schedule]:
        """By when they are due next."""
        query = f"SELECT {SCHEDULE_COLUMNS} FROM schedules ORDER BY next_utc, id"  # noqa: S608
        return [_schedule(row) for row in self._rows(query)]

    def drop_schedule(self, schedule_id: str) -> None:
        """Raises Refusal (404)."""
        with self._writing() as database:
            if not database.execute("DELETE FROM schedules WHERE id = ?", [schedule_id]).rowcount:
                raise Refusal(404, "there is no such schedule", where="id")

    def queue_due(self, schedule: Schedule, next_at: datetime) -> Job | None:
        """Queue the job of a schedule that is due, and say when it is next, at once.

        None where it was deleted meanwhile, or its last job still waits: jobs do not pile up behind a long one.
        """
        with self._writing() as database:
            due = database.execute(
                "UPDATE schedules SET next_utc = ? WHERE id = ? AND next_utc = ? RETURNING config",
                [stamp(next_at), schedule.id, schedule.next_utc],
            ).fetchone()
            waits = database.execute(
                "SELECT count(*) FROM jobs WHERE schedule_id = ? AND state = 'queued'", [schedule.id]
            ).fetchone()[0]
            if due is None or waits:
                return None
            asked = Asked(kind=schedule.kind, name=schedule.name, tags=schedule.tags, config=json.loads(due[0]))
            return _job_in(database, _insert(database, asked, self._clock(), schedule.id))

    def pass_over(self, schedule: Schedule, next_at: datetime) -> None:
        """Say when it is next, and queue nothing."""
        with self._writing() as database:
            database.execute(
                "UPDATE schedules SET next_utc = ? WHERE id = ? AND next_utc = ?",
                [stamp(next_at), schedule.id, schedule.next_utc],
            )

    def tag_run(self, run: str, tags: Sequence[str]) -> None:
        with self._writing() as database:
            database.execute("INSERT OR REPLACE INTO run_tags VALUES (?, ?)", [run, json.dumps(list(tags))])

    def tags_of_runs(self) -> dict[str, tuple[str, ...]]:
        """Of each run that has some: what it was tagged with, else what its job was."""
        found = {run: tuple(json.loads(tags)) for run, tags in self._rows("SELECT id, tags FROM jobs")}
        return found | {run: tuple(json.loads(tags)) for run, tags in self._rows("SELECT run, tags FROM run_tags")}

    def names_of_runs(self) -> dict[str, str]:
        """What the jobs that made them were called, those that are kept no more included."""
        return dict(self._rows("SELECT id, name FROM jobs UNION ALL SELECT run, name FROM run_names"))

    def ended_before(self, instant: datetime, *, limit: int) -> list[str]:
        """The oldest first."""
        query = "SELECT id FROM jobs WHERE ended_utc < ? ORDER BY ended_utc LIMIT ?"
        return [job_id for (job_id,) in self._rows(query, [stamp(instant), limit])]

    def drop(self, job_id: str, *, run: bool) -> None:
        """Of a job that has ended nothing stays, but where it left a run that one's name and tags."""
        with self._writing() as database:
            if run:
                database.execute("INSERT OR IGNORE INTO run_tags SELECT id, tags FROM jobs WHERE id = ?", [job_id])
                database.execute("INSERT OR IGNORE INTO run_names SELECT id, name FROM jobs WHERE id = ?", [job_id])
            database.execute("DELETE FROM jobs WHERE id = ? AND ended_utc IS NOT NULL", [job_id])

    def forget_keys(self) -> None:
        """Of submissions that nobody asks for again."""
        with self._writing() as database:
            forget(database, stamp(self._clock() - KEPT))


def _insert(database: Connection, asked: Asked, at: datetime, schedule_id: str | None) -> str:
    job_id = fresh_id(at)
    database.execute(
        "INSERT INTO jobs (id, kind, name, tags, config, state, created_utc, schedule_id) "
        "VALUES (?, ?, ?, ?, ?, 'queued', ?, ?)",
        [
            *(job_id, asked.kind, asked.name, json.dumps(asked.tags), json.dumps(dict(asked.config))),
            *(stamp(at), schedule_id),
        ],
    )
    return job_id


def _job_in(database: Connection, job_id: str) -> Job | None:
    row = database.execute(JOB, [job_id]).fetchone()
    return None if row is None else _job(row)


def _schedule_in(database: Connection, schedule_id: str) -> Schedule | None:
    row = database.execute(SCHEDULE, [schedule_id]).fetchone()
    return None if row is None else _schedule(row)


def _job(row: Sequence[Any]) -> Job:
    values = _typed(dict(zip(JOB_COLUMNS.split(", "), row, strict=True)))
    return Job(**values | {"state": State(values["state"]), "cancel_asked": bool(values["cancel_asked"])})


def _schedule(row: Sequence[Any]) -> Schedule:
    return Schedule(**_typed(dict(zip(SCHEDULE_COLUMNS.split(", "), row, strict=True))))


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"kind": Kind(values["kind"]), "tags": tuple(json.loads(values["tags"]))}
