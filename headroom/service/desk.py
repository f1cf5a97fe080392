"""All that the API and the pages ask of the service, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from headroom.service import admission, launching, schedules
from headroom.service.errands import Errands
from headroom.service.jobs import Job, Jobs, Kind, Schedule
from headroom.service.once import once_of
from headroom.service.plan_request import CompareRequest, comparison_of, plan_of
from headroom.service.refusals import Refusal
from headroom.service.runner import Runner
from headroom.service.settings import Settings
from headroom.service.shelf import RunEntry, Shelf
from headroom.service.views import words_of


class Desk:
    """Its methods block for milliseconds, but `plan` and `compare`, which take seconds: call them in a thread."""

    def __init__(self, settings: Settings) -> None:
        settings.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.settings = settings
        self.jobs = Jobs(settings.state / "jobs.sqlite")
        self.shelf = Shelf(settings.runs)
        self.runner = Runner(settings, self.jobs)
        self._errands = Errands(settings)

    def submit(self, job: Mapping[str, Any], keys: Sequence[str] = ()) -> Job | Schedule:
        """Of `{kind, name, tags, config, schedule}`; under a key that was there before, what that has made.

        Raises Refusal: 422 that names the field, 429; and of the key 400, 409 (what it made is no more) and 422.
        """
        once = once_of(keys, job)
        if once is not None and (made := self.jobs.made_by(once)) is not None:
            return made  # whatever this service offers now
        asked, cron = admission.admit(job, self.settings, self.shelf.folder), job.get("schedule")
        if cron is not None:
            due = schedules.next_after(cron, datetime.now(UTC))
            return self.jobs.add_schedule(asked, " ".join(cron.split()), due, most=schedules.MOST, once=once)
        queued = self.jobs.add(asked, most_queued=self.settings.caps.queued, once=once)
        self.runner.wake.set()
        return queued

    def cancel(self, job_id: str) -> Job:
        """At once where it waits; what runs ends within ten seconds. Raises Refusal: 404, or 409 after its end."""
        job = self.jobs.ask_cancel(job_id)
        self.runner.wake.set()
        return job

    def progress(self, job_id: str) -> dict[str, Any] | None:
        """The newest dashboards.live_panel.Progress of a load test; None where there is none yet."""
        return launching.progress_of(self.settings, self.jobs.get(job_id).id)

    def about(self, job_id: str) -> dict[str, Any] | None:
        """What a load test is: its title, and the limits that gauges end at, as the live page has them."""
        return launching.about(self.settings, self.jobs.get(job_id).id)

    def log(self, job_id: str) -> str:
        """The last lines that a job's process has said, as it said them: show them as text only."""
        return launching.words_of(self.settings, self.jobs.get(job_id).id)

    def result(self, job_id: str) -> bytes:
        """The plan (JSON) of a job of kind plan. Raises Refusal (404) where there is none, or none yet."""
        job = self.jobs.get(job_id)
        if job.kind is not Kind.PLAN or not job.ended or job.exit_code is None:
            raise Refusal(404, "this job has no plan: it is none, or has not ended", where="id")
        try:
            document = (launching.job_folder(self.settings, job.id) / "out").read_bytes()
        except OSError:
            raise Refusal(404, "the plan is gone: its files were removed", where="id") from None
        if not document.startswith(b"{"):
            raise Refusal(404, f"there is no plan: {job.error or 'it failed'}", where="id")
        return document

    def run_of(self, job: Job) -> str | None:
        """The name of a load test's run, where its folder is there."""
        found = job.kind is Kind.LOADTEST and (self.settings.runs / job.id / "manifest.json").is_file()
        return job.id if found else None

    def runs(self) -> list[RunEntry]:
        """The newest first."""
        return self.shelf.entries(self.jobs.tags_of_runs())

    def run(self, run_id: str) -> RunEntry:
        """Raises Refusal (404)."""
        return self.shelf.entry(run_id, self.jobs.tags_of_runs())

    def tag(self, run_id: str, tags: object) -> RunEntry:
        """Raises Refusal: 404, or 422."""
        self.shelf.folder(run_id)
        self.jobs.tag_run(run_id, admission.tags_of(tags))
        return self.run(run_id)

    def plan(self, asked: object) -> dict[str, Any]:
        """Of a PlanRequest: `{exit_code, meaning, messages, plan}`, as `headroom plan --json` has it.

        Raises Refusal: 422 with the command's own message, 404 for a run that is not there, 503 where many ask.
        """
        request = plan_of(asked)
        for run in request.runs:
            self.shelf.folder(run)
        answer = self._errands.run(request)
        return {"plan": answer.pop("document"), **answer}

    def compare(self, asked: object) -> dict[str, Any]:
        """Of a CompareRequest: `{exit_code, meaning, messages, comparison}`, as `headroom compare --json` has it."""
        answer = self._errands.run(self._compared(asked))
        return {"comparison": answer.pop("document"), **answer}

    def draw(self, asked: object) -> bytes:
        """The report of a comparison, an HTML page. Raises Refusal as `plan` does."""
        return self._errands.draw(self._compared(asked))

    def _compared(self, asked: object) -> CompareRequest:
        request = comparison_of(asked)
        for run in request.runs:
            self.shelf.folder(run)
        return request

    def file(self, run_id: str, name: str) -> Path:
        """`summary`, `report` or `samples` of a run. Raises Refusal (404)."""
        return self.shelf.file(run_id, name)

    def told(self, job: Job) -> dict[str, Any]:
        """A job as the API tells it."""
        what = words_of(job.kind, self.jobs.config_of(job.id))
        return asdict(job) | {"meaning": job.meaning, "run": self.run_of(job), "what": what}
