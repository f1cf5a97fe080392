"""The table of runs, one run, its report, two runs compared, and the plan of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from headroom.service.answers import SIGNED_IN, answer, first_of, go_on, status_of, told
from headroom.service.desk import Desk
from headroom.service.plan_form import BLANK, body_of, command_of
from headroom.service.refusals import Refusal
from headroom.service.security import REPORT_POLICY, StaleForm, form_of
from headroom.service.views import (
    ROWS_A_PAGE,
    RunView,
    Search,
    columns_of,
    leading_rows,
    run_view,
)

VERDICT_TONES = {"regressed": "bad", "inconclusive": "care", "equivalent": "good", "improved": "good"}


class RunPages:
    """Of one desk. What is not async runs in a thread."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def _runs(self) -> list[RunView]:
        names = self._desk.jobs.names_of_runs()
        return [run_view(entry, names) for entry in self._desk.runs()]

    def table(self, request: Request) -> Response:
        search, every = Search.of(request.query_params), self._runs()
        found = search.matching(every)
        first = (search.page - 1) * ROWS_A_PAGE
        return answer(
            request,
            "runs",
            title="Runs",
            here="/runs",
            asked=search,
            found=len(found),
            all=len(every),
            known_tags=sorted({tag for run in every for tag in run.tags}),
            runs=found[first : first + ROWS_A_PAGE],
            columns=columns_of(search),
            previous=search.link(page=search.page - 1) if search.page > 1 else None,
            following=search.link(page=search.page + 1) if len(found) > first + ROWS_A_PAGE else None,
        )

    def show(self, request: Request) -> Response:
        return self._run(request, request.path_params["id"])

    def again(self, request: Request, run: str, fields: Mapping[str, Sequence[str]]) -> Response:
        """With the tags that who had to sign in had typed."""
        return self._run(request, run, SIGNED_IN, typed=first_of(fields).get("tags"))

    def _run(
        self,
        request: Request,
        known_id: str,
        notice: Mapping[str, str] | None = None,
        status: int = 200,
        *,
        typed: str | None = None,
    ) -> Response:
        """`typed`: the tags of a form that was not taken."""
        every = {run.id: run for run in self._runs()}
        run_id = self._desk.run(known_id).id
        return answer(
            request,
            "run",
            status,
            title=every[run_id].name,
            here="/runs",
            run=every[run_id],
            tags_typed=", ".join(every[run_id].tags) if typed is None else typed,
            shown=self._summary(run_id),
            others=[run for run in every.values() if run.id != run_id],
            job=run_id if self._desk.jobs.knows(run_id) else None,
            error=notice,
        )

    def _summary(self, run_id: str) -> dict[str, Any] | None:
        try:
            summary = self._desk.shelf.summary(run_id)
        except Refusal:
            return None
        return summary | {"latency": leading_rows(summary)}

    async def tag(self, request: Request) -> Response:
        tags, run = "", request.path_params["id"]
        try:
            tags = first_of(await form_of(request)).get("tags", "")
            await run_in_threadpool(self._desk.tag, run, tags)
        except Refusal as refusal:
            if refusal.status == 404:
                raise
            typed = first_of(refusal.fields).get("tags", "") if isinstance(refusal, StaleForm) else tags
            return await run_in_threadpool(self._run, request, run, told(refusal), refusal.status, typed=typed)
        return go_on(f"/runs/{run}")

    def compare(self, request: Request) -> Response:
        runs = self._runs()
        query = request.query_params
        base, new = query.get("base", ""), query.get("new", "")
        found, error = None, None
        try:
            if picked := query.getlist("run"):
                base, new = _in_order(picked, runs)
            if base and new:
                found = _judged(self._desk.compare({"base": base, "new": new}))
        except Refusal as refusal:
            error = refusal
        return answer(
            request,
            "compare",
            status_of(error),
            title="Compare",
            here="/compare",
            runs=runs,
            base=base,
            new=new,
            found=found,
            outcomes=[] if found is None else list(found["outcomes"]["base"] | found["outcomes"]["new"]),
            tones=VERDICT_TONES,
            error=told(error),
        )

    def draw(self, request: Request) -> Response:
        """The report of two runs. It has scripts of its own, so it gets no more rights than that of one run."""
        query = request.query_params
        page = self._desk.draw({"base": query.get("base", ""), "new": query.get("new", "")})
        return Response(page, media_type="text/html", headers={"content-security-policy": REPORT_POLICY})

    def plan(self, request: Request) -> Response:
        asked = {name: request.query_params.get(name, "").strip() for name in BLANK}
        found, error = None, None
        try:
            if asked["run"]:
                found = self._desk.plan(body_of(asked))
        except Refusal as refusal:
            error = refusal
        return answer(
            request,
            "plan",
            status_of(error),
            title="Plan",
            here="/plan",
            runs=self._runs(),
            asked=asked,
            plan=None if found is None else found["plan"],
            messages=[] if found is None else found["messages"],
            command=command_of(asked),
            error=told(error),
        )


def _in_order(picked: Sequence[str], runs: Sequence[RunView]) -> tuple[str, str]:
    """The older one is the base. Raises Refusal (422) unless there are two."""
    if len(picked) != 2:
        raise Refusal(422, f"pick two runs: {len(picked)} {'was' if len(picked) == 1 else 'were'} picked")
    started = {run.id: run.started for run in runs}
    base, new = sorted(picked, key=lambda each: started.get(each, ""))
    return base, new


def _judged(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The comparison. Raises Refusal (422) where a run is invalid, or they were asked other things."""
    comparison: dict[str, Any] = answer["comparison"]
    if comparison["verdict"] == "invalid":
        raise Refusal(422, comparison["reason"])
    return comparison
