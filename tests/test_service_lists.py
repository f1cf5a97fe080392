"""What the queue's page says of a job that has ended, and that it leads on to the older ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from headroom.service.jobs import Asked, Kind, State
from headroom.service.views import job_view
from tests.services import app_on

pytestmark = pytest.mark.aside


def _asked(name: str) -> Asked:
    return Asked(kind=Kind.LOADTEST, name=name, tags=(), config={})


@pytest.mark.parametrize(
    ("state", "code", "word", "meaning"),
    [
        (State.DONE, 0, "done", ""),
        (State.DONE, 4, "invalid", "exit code 4: run invalid"),
        (State.DONE, 99, "missed", "exit code 99: threshold missed"),
        (State.CANCELLED, 105, "cancelled", "what it had recorded is kept"),
        (State.CANCELLED, None, "cancelled", ""),
        (State.FAILED, 2, "failed", "exit code 2: usage or configuration"),
    ],
)
def test_a_badge_says_what_a_job_has_come_to(
    tmp_path: Path, state: State, code: int | None, word: str, meaning: str
) -> None:
    jobs = app_on(tmp_path / "runs").app.state.desk.jobs
    job = jobs.add(_asked("a job"), most_queued=9)
    jobs.start(job.id)
    jobs.end(job.id, state, exit_code=code, error=None)
    shown = job_view(jobs.get(job.id), {}, {})
    assert (shown.word, shown.meaning) == (word, meaning)
    assert shown.told == "load test of the simulated deployment"


def test_older_jobs_are_on_further_pages(tmp_path: Path) -> None:
    client = app_on(tmp_path / "runs")
    names = [f"job {number}" for number in range(60)]
    for name in names:
        client.app.state.desk.jobs.add(_asked(name), most_queued=100)
    first = client.get("/").text
    second = client.get(re.findall(r'href="(/\?before=\d+)"', first)[0]).text
    found = [re.findall(r'<th scope="row"><a href="/jobs/[^"]*">([^<]*)</a>', page) for page in (first, second)]
    assert found == [names[:9:-1], names[9::-1]] and "Older jobs" not in second
