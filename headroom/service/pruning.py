"""What the service keeps of jobs that have ended, and for how long. Runs are never deleted."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import datetime, timedelta

from headroom.service import launching
from headroom.service.jobs import Jobs
from headroom.service.settings import Settings

EVERY = timedelta(minutes=1)
MOST_AT_ONCE = 100  # jobs, so that a look takes a fraction of a second


class Pruner:
    """Drops old jobs a few at a time, where the service was started with --keep, and old keys of submissions."""

    def __init__(self, settings: Settings, jobs: Jobs, clock: Callable[[], datetime]) -> None:
        self._settings, self._jobs, self._clock = settings, jobs, clock
        self._next: datetime | None = None
        self._kept: set[str] = set()  # whose files could not be deleted: however many, they hold up no others

    def look(self) -> None:
        """At most once in EVERY. What cannot be deleted is told once, and tried again at the next start."""
        now = self._clock()
        if self._next is not None and self._next - EVERY <= now < self._next:
            return
        self._next = now + EVERY
        self._jobs.forget_keys()
        if self._settings.keep is None:
            return
        limit = MOST_AT_ONCE + len(self._kept)
        old = [
            each for each in self._jobs.ended_before(now - self._settings.keep, limit=limit) if each not in self._kept
        ]
        faults = {each: fault for each in old[:MOST_AT_ONCE] if (fault := self._drop(each)) is not None}
        self._kept |= faults.keys()
        if faults:
            first = next(iter(faults.values()))
            sys.stderr.write(f"headroom: files of {len(faults)} old jobs cannot be deleted before a restart: {first}\n")

    def _drop(self, job_id: str) -> OSError | None:
        """The files first: a service that is killed in between finds the job, and drops it again."""
        try:
            shutil.rmtree(launching.job_folder(self._settings, job_id))
        except FileNotFoundError:
            pass
        except OSError as error:
            return error
        self._jobs.drop(job_id, run=(self._settings.runs / job_id).is_dir())
        return None
