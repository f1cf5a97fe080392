"""All that the API and the pages ask of the service, without HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headroom.service import admission
from headroom.service.jobs import Job, Jobs, Schedule
from headroom.service.settings import Settings
from headroom.service.shelf import RunEntry, Shelf


class Desk:
    """Its methods block for milliseconds, but `plan` and `compare`, which take seconds: call them in a thread."""

    def __init__(self, settings: Settings) -> None:
        settings.state.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.jobs = Jobs(settings.state / "jobs.sqlite")
        self.shelf = Shelf(settings.runs)

    def submit(self, job: Mapping[str, Any]) -> Job | Schedule:
        """Of `{kind, name, tags, config, schedule}`. Raises Refusal (422) that names the field, or 429."""
        asked = admission.admit(job, self.settings, self.shelf.folder)
        return self.jobs.add(asked, most_queued=self.settings.caps.queued)

    def cancel(self, job_id: str) -> Job:
        """At once where it waits; what runs ends within ten seconds. Raises Refusal: 404, or 409 after its end."""
        return self.jobs.ask_cancel(job_id)

    def progress(self, job_id: str) -> dict[str, Any] | None:
        """The newest dashboards.live.Progress of a load test that runs; None where there is none yet."""
        del job_id
        return None

    def log(self, job_id: str) -> str:
        """The last lines that a job's process has said, as it said them: show them as text only."""
        del job_id
        return ""

    def result(self, job_id: str) -> bytes | None:
        """The plan (JSON) of a job of kind plan that has ended."""
        del job_id
        return None

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

        Raises Refusal: 422 with the command's own message, 404 for a run that is not there.
        """
        raise NotImplementedError

    def compare(self, asked: object) -> dict[str, Any]:
        """Of a CompareRequest: `{exit_code, meaning, messages, comparison}`, as `headroom compare --json` has it."""
        raise NotImplementedError

    def file(self, run_id: str, name: str) -> Path:
        """`summary`, `report` or `samples` of a run. Raises Refusal (404)."""
        return self.shelf.file(run_id, name)
