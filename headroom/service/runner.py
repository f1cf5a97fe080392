"""Starts jobs, follows them to their end, and queues what a schedule asks for.

A start is written down before it happens, the process proves it by its claim, and its end by its exit code, so a
service that is killed at any moment finds out what each job has come to:

    the launch is written down, no claim        revoked, which no process can undo: back to its place in the queue
    a claim that is held                        it runs: its end is waited for
    a claim that is free, and an exit code      it has ended
    a claim that is free, and none              it was killed: the record is recovered, the job is interrupted
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headroom.service import claims, launching
from headroom.service.admission import admit_again
from headroom.service.job_process import claim_path, exit_code_of, told_path
from headroom.service.jobs import Job, Jobs, Kind, Schedule, State
from headroom.service.pruning import Pruner
from headroom.service.refusals import Refusal
from headroom.service.schedules import next_after
from headroom.service.settings import Settings
from loadgen.errors import HeadroomError

LOOK_EVERY_S = 0.25
CUT_AFTER_S = 3.0  # a load test that is cancelled waits so long for answers
KILL_AFTER_S = 30.0  # for what does not end although it was told to; its record is recovered
LATE = timedelta(seconds=60)  # a schedule that was due longer ago than this as a service starts is passed over
NOTHING_MEASURED = (1, 2, 112)  # exit codes


@contextmanager
def _collecting(faults: list[Exception]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        faults.append(error)


class Runner:
    """Runs in a thread of its own; `step` is one look at everything."""

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.wake, self._stopping = threading.Event(), threading.Event()
        self._settings, self._jobs, self._clock = settings, jobs, clock
        self._pruner = Pruner(settings, jobs, clock)
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # of this service; those of an earlier one are adopted
        self._mending: dict[str, subprocess.Popen[bytes]] = {}
        self.looked_s: float | None = None  # when the last look went well, by time.monotonic; None before the start
        self._told_s: dict[str, float] = {}  # when a job that is cancelled was told to end
        self._thread = threading.Thread(target=self._run, name="runner", daemon=True)

    def start(self) -> None:
        self._pass_over_missed()
        self.looked_s = time.monotonic()
        self._thread.start()

    def _pass_over_missed(self) -> None:
        """Times that passed while no service ran are not made up for."""
        now = self._clock()
        for schedule in self._jobs.schedules():
            if datetime.fromisoformat(schedule.next_utc) < now - LATE:
                with suppress(Refusal):  # it names no later instant, and stays due
                    self._jobs.pass_over(schedule, next_after(schedule.cron, now))

    def stop(self) -> None:
        """Start nothing more. What runs is left to end by itself; the next service finds it."""
        self._stopping.set()
        self.wake.set()
        self._thread.join(timeout=10)

    def still_running(self) -> list[Job]:
        """Jobs whose processes live, the oldest first."""
        return [job for job in reversed(self._jobs.all(states=[State.RUNNING])) if claims.lives(self._claim(job))]

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.step()
                self.looked_s = time.monotonic()
            except Exception as error:  # a full disk, say: the next look may fare better
                sys.stderr.write(f"headroom: the queue stands still: {type(error).__name__}: {error}\n")
                self._stopping.wait(5)
            self.wake.wait(LOOK_EVERY_S)
            self.wake.clear()

    def step(self) -> None:
        """What is wrong with one job or schedule keeps no other from its turn; the first such error is raised after."""
        faults: list[Exception] = []
        for schedule in self._jobs.schedules():
            with _collecting(faults):
                self._queue_due(schedule)
        for job in self._jobs.all(states=[State.RUNNING]):
            with _collecting(faults):
                self._follow(job)
        with _collecting(faults):
            self._start_waiting()
        with _collecting(faults):
            self._pruner.look()
        if faults:
            raise faults[0]

    def _queue_due(self, schedule: Schedule) -> None:
        if datetime.fromisoformat(schedule.next_utc) <= self._clock():
            self._jobs.queue_due(schedule, next_after(schedule.cron, self._clock()))

    def _start_waiting(self) -> None:
        while self._jobs.counts()[State.RUNNING] < self._settings.parallel and not self._stopping.is_set():
            waiting = self._jobs.next_queued()
            started = None if waiting is None else self._jobs.start(waiting.id)
            if started is None:
                break
            self._launch(started)

    def _launch(self, job: Job) -> None:
        """Held once more to what this service offers: the job may have waited since another one."""
        try:
            config = admit_again(job.kind, self._jobs.config_of(job.id), self._settings)
            self._children[job.id] = launching.launch(self._settings, job, config)
        except Exception as error:  # whatever it was, it is this job's, and the next one has its turn
            code = error.exit_code if isinstance(error, HeadroomError) else 2 if isinstance(error, Refusal) else 1
            self._jobs.end(job.id, State.FAILED, exit_code=code, error=f"the job's process did not start: {error}")

    def _claim(self, job: Job) -> Path:
        return claim_path(launching.job_folder(self._settings, job.id), job.launch)

    def _follow(self, job: Job) -> None:
        child = self._children.get(job.id)
        ended = child is None or child.poll() is not None
        claim = self._claim(job)
        if claims.lives(claim):
            if job.cancel_asked:
                self._tell_to_end(job)
        elif claims.read(claim) is not None:
            self._conclude(job)
        elif child is not None and ended:  # before it could claim anything
            self._end(job, State.CANCELLED if job.cancel_asked else State.FAILED, 1)
        elif child is None:
            claim.parent.mkdir(parents=True, exist_ok=True)
            if claims.revoke(claim) or claims.read(claim) is None:
                self._jobs.requeue(job.id, job.launch)

    def _tell_to_end(self, job: Job) -> None:
        now, claim = time.monotonic(), self._claim(job)
        if job.id not in self._told_s:
            self._told_s[job.id] = now
            told = told_path(claim.parent, job.launch)
            if not told.exists():
                claims.tell(claim, signal.SIGINT)
                with suppress(OSError):  # of a full disk: it has been told
                    told.touch()
        waited_s = now - self._told_s[job.id]
        if waited_s > KILL_AFTER_S:
            claims.kill_holders(claim)
        elif waited_s > CUT_AFTER_S:
            launching.cut(self._settings, job)

    def _conclude(self, job: Job) -> None:
        """Of a job whose process has ended after it began."""
        if job.kind is Kind.LOADTEST and not self._is_whole(job):
            return
        code = exit_code_of(launching.job_folder(self._settings, job.id), job.launch)
        if code is None or code == 105:
            self._end(job, State.CANCELLED if job.cancel_asked else State.INTERRUPTED, code)
        else:
            self._end(job, State.FAILED if code in NOTHING_MEASURED else State.DONE, code)

    def _is_whole(self, job: Job) -> bool:
        """Whether the run is closed and told, or cannot be: until then it is recovered."""
        mending = self._mending.get(job.id)
        if mending is None and launching.is_cut_short(self._settings, job):
            self._mending[job.id] = launching.recovering(self._settings, job.id)
            return False
        return mending is None or mending.poll() is not None

    def _end(self, job: Job, state: State, code: int | None) -> None:
        error = None
        if state in (State.FAILED, State.INTERRUPTED):
            words = launching.words_of(self._settings, job.id)
            error = words or ("its process was killed; what it had recorded was recovered" if code is None else None)
        self._jobs.end(job.id, state, exit_code=code, error=error)
        self._children.pop(job.id, None)
        self._mending.pop(job.id, None)
        self._told_s.pop(job.id, None)
