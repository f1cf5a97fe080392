"""The queue, the form that submits, and a job while it waits, runs and has ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from headroom.service import submission
from headroom.service.answers import SIGNED_IN, answer, first_of, go_on, told
from headroom.service.desk import Desk
from headroom.service.jobs import Job, Schedule, State
from headroom.service.once import GONE, KEY, SpentKey, fresh_key
from headroom.service.refusals import Refusal
from headroom.service.security import StaleForm, form_of
from headroom.service.toml import to_toml
from headroom.service.views import facts_of, job_view, schedule_view
from loadgen.config import SIMULATED

SHOWN_JOBS = 50
NOT_RUNNING = [state for state in State if state is not State.RUNNING]
LOG_LINES = 60


class JobPages:
    """Of one desk. What is not async runs in a thread."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def queue(self, request: Request) -> Response:
        desk = self._desk
        entries = {entry.id: entry for entry in desk.runs()}
        running = desk.jobs.all(states=[State.RUNNING])
        number = request.query_params.get("before", "")
        before = int(number) if number.isascii() and number.isdecimal() and len(number) < 16 else None
        others = desk.jobs.all(states=NOT_RUNNING, limit=SHOWN_JOBS, before=before)
        older = others and desk.jobs.all(states=NOT_RUNNING, limit=1, before=others[-1].number)
        counts, following = desk.jobs.counts(), None if running else desk.jobs.next_queued()
        return answer(
            request,
            "queue",
            title="Queue",
            here="/",
            running=[job_view(job, entries, desk.jobs.config_of(job.id)) for job in running],
            jobs=[job_view(job, entries, desk.jobs.config_of(job.id)) for job in others],
            counted={"running": counts[State.RUNNING], "queued": counts[State.QUEUED], "all": sum(counts.values())},
            following=None if following is None else following.id,  # the page moves on when it begins
            parallel=desk.settings.parallel,
            newest=before is None,
            older=f"/?before={others[-1].number}" if older else None,
            schedules=[schedule_view(each) for each in desk.jobs.schedules()],
        )

    def new(self, request: Request) -> Response:
        return self._form(request, submission.BLANK)

    def again(self, request: Request, fields: Mapping[str, Sequence[str]]) -> Response:
        """The form of who had to sign in to send it."""
        sent = first_of(fields)
        return self._form(request, submission.filled(sent), SIGNED_IN, once=sent.get("once"))

    def _form(
        self,
        request: Request,
        form: Mapping[str, str],
        notice: Mapping[str, str] | None = None,
        status: int = 200,
        *,
        once: str | None = None,
    ) -> Response:
        targets = [SIMULATED, *(each.address.origin + each.address.path for each in self._desk.settings.targets)]
        return answer(
            request,
            "submit",
            status,
            title="Submit a load test",
            here="/",
            form=form,
            once=once if once and KEY.fullmatch(once) else fresh_key(),
            error=notice,
            targets=targets,
        )

    async def submit(self, request: Request) -> Response:
        """What is refused comes back as it was filled in, with why. However often it is sent, it makes one job."""
        sent: Mapping[str, str] = submission.BLANK
        try:
            sent = first_of(await form_of(request))
            made = await run_in_threadpool(self._submitted, sent)
        except SpentKey as spent:
            return await self._refused(request, {**sent, "once": ""}, Refusal(spent.status, _why(spent)))
        except StaleForm as stale:
            return await self._refused(request, first_of(stale.fields), stale)
        except Refusal as refusal:
            return await self._refused(request, sent, refusal)
        return go_on(f"/jobs/{made.id}" if isinstance(made, Job) else "/")

    def _submitted(self, sent: Mapping[str, str]) -> Job | Schedule:
        job = submission.job_of(submission.filled(sent))
        return self._desk.submit(job, [sent["once"]] if "once" in sent else [])

    async def _refused(self, request: Request, sent: Mapping[str, str], refusal: Refusal) -> Response:
        """Under the same key, since what was sent before may have been taken, and its answer lost."""
        form, once = submission.filled(sent), sent.get("once")
        return await run_in_threadpool(self._form, request, form, told(refusal), refusal.status, once=once)

    def show(self, request: Request) -> Response:
        desk = self._desk
        job = desk.jobs.get(request.path_params["id"])
        config = desk.jobs.config_of(job.id)
        entries = {entry.id: entry for entry in desk.runs() if entry.id == job.id}
        return answer(
            request,
            "job",
            title=job.name or job.id,
            here="/",
            job=job_view(job, entries, config),
            facts=facts_of(job),
            config=_as_file(config),
            log="\n".join(desk.log(job.id).splitlines()[-LOG_LINES:]),
            plan=self._plan(job),
        )

    def _plan(self, job: Job) -> dict[str, Any] | None:
        """Of a job that is a plan and has made it."""
        try:
            plan: dict[str, Any] = json.loads(self._desk.result(job.id))
        except Refusal:
            return None
        return plan

    async def cancel(self, request: Request) -> Response:
        await form_of(request)
        await run_in_threadpool(self._desk.cancel, request.path_params["id"])
        return go_on(f"/jobs/{request.path_params['id']}")

    async def end_schedule(self, request: Request) -> Response:
        await form_of(request)
        await run_in_threadpool(self._desk.jobs.drop_schedule, request.path_params["id"])
        return go_on("/")


def _why(spent: SpentKey) -> str:
    """Its message, as one who fills in a form sees it, which comes back with another key."""
    if spent.status == GONE:
        return f"what this form has submitted, {spent.made}, is no more: send it again for another"
    return f"this form has submitted {spent.made} already: look at it, and send it again for another"


def _as_file(config: Mapping[str, Any]) -> str:
    """As a person would write it: sections under their names, what has none before them."""
    sections = {name: values for name, values in config.items() if isinstance(values, dict)}
    parts = [to_toml({name: value for name, value in config.items() if name not in sections})]
    parts += [f"[{name}]\n{to_toml(values)}" for name, values in sections.items()]
    return re.sub(r'(?m)^"([A-Za-z0-9_-]+)" = ', r"\1 = ", "\n".join(part for part in parts if part))
