"""Jobs and runs as the pages show them: plain values, one a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from headroom.service.jobs import Job, Kind, Schedule, State
from headroom.service.shelf import RunEntry
from loadgen.config import SIMULATED

ROWS_A_PAGE: Final = 50
NEWEST_FIRST: Final = "-started"
INTERRUPTED = 105
CARE_CODES = frozenset({3, 105, 108, 111})  # an end before the end, or without a verdict
WORDS = {  # of an exit code of what is done
    3: "inconclusive",
    4: "invalid",
    98: "regressed",
    99: "missed",
    108: "stopped",
    111: "budget used up",
}
TONES = {
    State.QUEUED: "",
    State.RUNNING: "live",
    State.DONE: "good",
    State.FAILED: "bad",
    State.CANCELLED: "",
    State.INTERRUPTED: "care",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """A job in a row of the queue."""

    id: str
    name: str
    state: str
    word: str  # the badge's: the state, or of what is done what it has come to
    tone: str  # the badge's: good | bad | care | live, or none
    meaning: str  # what its end means; empty before, and where it was fine
    told: str  # what it is, in a few words
    headline: str  # what its run showed; empty before
    tags: tuple[str, ...]
    submitted: str
    started: str
    ended: str
    run: str | None  # the run folder that it left
    report: bool
    open: bool  # it waits or runs, so it can be cancelled
    events: str  # where its progress is streamed


def job_view(job: Job, runs: Mapping[str, RunEntry], config: Mapping[str, Any]) -> JobView:
    """`config`: what it was asked to do, as it was admitted."""
    run = runs.get(job.id)
    return JobView(
        id=job.id,
        name=job.name or job.id,
        state=job.state,
        word=word_of(job),
        tone=_tone(job),
        meaning=meaning_of(job),
        headline="" if run is None or run.headline is None else run.headline,
        told=words_of(job.kind, config),
        tags=job.tags,
        submitted=clock(job.created_utc),
        started=clock(job.started_utc),
        ended=clock(job.ended_utc),
        run=None if run is None else run.id,
        report=run is not None and run.has_report,
        open=not job.ended,
        events=f"/api/jobs/{job.id}/events",
    )


def facts_of(job: Job) -> list[tuple[str, str]]:
    """What is known of a job, by name."""
    facts = [("id", job.id), ("submitted, UTC", clock(job.created_utc))]
    facts += [("started, UTC", clock(job.started_utc))] if job.started_utc else []
    facts += [("ended, UTC", clock(job.ended_utc))] if job.ended_utc else []
    if job.exit_code is not None:
        facts.append(("exit code", f"{job.exit_code}, {job.meaning}"))
    return facts + ([("by the schedule", job.schedule_id)] if job.schedule_id else [])


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleView:
    id: str
    name: str
    schedule: str
    next: str


def schedule_view(schedule: Schedule) -> ScheduleView:
    name, due = schedule.name or schedule.id, clock(schedule.next_utc)
    return ScheduleView(id=schedule.id, name=name, schedule=schedule.cron, next=due)


def words_of(kind: Kind, config: Mapping[str, Any]) -> str:
    """What a job does: of what is asked for, what is said first."""
    if kind is Kind.PLAN:
        return f"plan of {', '.join(map(str, config.get('runs', ())))}"
    load, targets = config.get("load") or {}, config.get("target") or {}
    several = targets if isinstance(targets, list) else [targets]
    words = ["load test of " + ", ".join(str(each.get("name") or _place_of(each)) for each in several)]
    for key, unit in (("rate", "/s"), ("users", " users"), ("duration", " s")):
        if (value := load.get(key)) is not None:
            words.append(value if isinstance(value, str) else f"{value}{unit}")
    return ", ".join(words)


def _place_of(target: Mapping[str, Any]) -> str:
    url = target.get("url") or SIMULATED
    return "the simulated deployment" if url == SIMULATED else str(url)


def word_of(job: Job) -> str:
    """A run that is invalid is no job well done."""
    return str(job.state if job.state is not State.DONE else WORDS.get(job.exit_code or 0, job.state))


def _tone(job: Job) -> str:
    if job.state is not State.DONE or not job.exit_code:
        return TONES[job.state]
    return "care" if job.exit_code in CARE_CODES else "bad"


def meaning_of(job: Job) -> str:
    """Of its end, where that was not as it should be."""
    if job.error:
        return job.error
    if job.cancel_asked and not job.ended:
        return "it is being cancelled"
    if job.state is State.CANCELLED:
        return "what it had recorded is kept" if job.exit_code == INTERRUPTED else ""
    return f"exit code {job.exit_code}: {job.meaning}" if job.exit_code and job.meaning else ""


def clock(utc: str | None) -> str:
    """To the second; of a time that is not yet, nothing."""
    return "" if utc is None else utc[:19].replace("T", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run in a row of the table."""

    id: str
    name: str
    label: str  # in a list to choose from
    model: str
    target: str
    tags: tuple[str, ...]
    started: str
    verdict: str  # valid | invalid | unfinished
    tone: str
    requests_per_s: float | None
    ttft_p95_ms: float | None
    unanswered_share: float | None
    headroom: float | None
    per_month_usd: float | None
    report: bool


def run_view(run: RunEntry, names: Mapping[str, str]) -> RunView:
    """`names`: of the jobs that made them."""
    verdict = {True: "valid", False: "invalid", None: "unfinished"}[run.valid]
    name, started = names.get(run.id) or run.id, clock(run.started_utc)
    return RunView(
        id=run.id,
        name=name,
        label=f"{name}, {started}" if verdict == "valid" else f"{name} ({verdict}), {started}",
        model=run.model,
        target=run.target,
        tags=run.tags,
        started=started,
        verdict=verdict,
        tone={"valid": "good", "invalid": "bad", "unfinished": "care"}[verdict],
        requests_per_s=run.requests_per_s,
        ttft_p95_ms=run.ttft_p95_ms,
        unanswered_share=None if run.ok_share is None else 1 - run.ok_share,
        headroom=run.headroom,
        per_month_usd=run.monthly_usd,
        report=run.has_report,
    )


SORTS: Mapping[str, tuple[str, bool]] = {  # the column's name, whether it holds numbers
    "name": ("Run", False),
    "started": ("Started, UTC", False),
    "verdict": ("Verdict", False),
    "requests_per_s": ("Requests/s", True),
    "ttft_p95_ms": ("TTFT p95, ms", True),
    "unanswered_share": ("Not answered", True),
    "headroom": ("Headroom", True),
    "per_month_usd": ("A month", True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What of the runs is asked for, as the address of the page says it. Unknown words ask for nothing."""

    q: str = ""
    tag: str = ""
    verdict: str = ""
    sort: str = NEWEST_FIRST  # a key of SORTS; falling with a "-"
    page: int = 1

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Search:
        sort = query.get("sort", NEWEST_FIRST)
        page = query.get("page", "1")
        return cls(
            q=query.get("q", "")[:200].strip(),
            tag=query.get("tag", "")[:200],
            verdict=query.get("verdict", "")[:20],
            sort=sort if sort.removeprefix("-") in SORTS else NEWEST_FIRST,
            page=int(page) if page.isascii() and page.isdigit() and 0 < len(page) < 6 and int(page) else 1,
        )

    def link(self, **changed: Any) -> str:
        values = {"q": self.q, "tag": self.tag, "verdict": self.verdict, "sort": self.sort, **changed}
        return f"/runs?{urlencode({name: value for name, value in values.items() if value})}"

    def matching(self, runs: Sequence[RunView]) -> list[RunView]:
        """Those asked for, in the order asked for; what has no figure comes last either way."""
        words = self.q.casefold().split()
        found = [run for run in runs if self._fits(run, words)]
        key, falling = self.sort.removeprefix("-"), self.sort.startswith("-")
        known = [run for run in found if getattr(run, key) is not None]
        known.sort(key=lambda run: getattr(run, key), reverse=falling)
        return known + [run for run in found if getattr(run, key) is None]

    def _fits(self, run: RunView, words: Sequence[str]) -> bool:
        if (self.tag and self.tag not in run.tags) or (self.verdict and self.verdict != run.verdict):
            return False
        text = " ".join((run.id, run.name, run.model, run.target, *run.tags)).casefold()
        return all(word in text for word in words)


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    label: str
    number: bool
    sorted: str | None  # ascending | descending
    link: str  # the same rows, sorted by this one; the other way round where they are already


def columns_of(search: Search) -> list[Column]:
    key, falling = search.sort.removeprefix("-"), search.sort.startswith("-")
    return [
        Column(
            label=label,
            number=number,
            sorted=None if name != key else "descending" if falling else "ascending",
            link=search.link(sort=name if name == key and falling else f"-{name}" if name == key or number else name),
        )
        for name, (label, number) in SORTS.items()
    ]


LEADING = ("ttft", "itl", "tpot", "service_time", "response_time")


def leading_rows(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The latencies of a summary that lead, by metric, over all scenarios."""
    rows = {row["metric"]: row for row in summary["latency"] if row["scenario"] == "all"}
    return {metric: rows[metric] for metric in LEADING if metric in rows}
