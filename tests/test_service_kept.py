"""What a service keeps and leaves: old jobs where it was told to forget them, runs always, and nothing where it fails."""

import asyncio
import os
import socket
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from headroom.commands.service import _read as read_job
from headroom.commands.service import serve
from headroom.service import launching, pruning, serving
from headroom.service.bounds import counted
from headroom.service.jobs import Asked, Jobs, Kind, State
from headroom.service.pruning import EVERY, Pruner
from headroom.service.runner import Runner
from headroom.service.settings import Settings
from loadgen.errors import ConfigError, HeadroomError, RunFolderError
from tests.runs import synthetic_run
from tests.services import app_on

pytestmark = pytest.mark.aside

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ASKED = Asked(kind=Kind.LOADTEST, name="nightly", tags=("east",), config={"load": {"rate": 5}})
DAYS = timedelta(days=7)


class Shop:
    """A queue whose clock is set by hand, and what forgets its jobs."""

    def __init__(self, runs, keep):
        runs.mkdir(exist_ok=True)
        self.now, self.settings = NOON, Settings(runs=runs, keep=keep)
        self.settings.state.mkdir(exist_ok=True)
        self.jobs = Jobs(self.settings.state / "jobs.sqlite", clock=lambda: self.now)
        self.pruner = Pruner(self.settings, self.jobs, lambda: self.now)

    def ended(self, state=State.DONE):
        """A job with its files, that is in this state now."""
        job = self.jobs.add(ASKED, most_queued=10_000)
        folder = launching.job_folder(self.settings, job.id)
        folder.mkdir(parents=True)
        (folder / "log").write_text("what it said\n")
        if state is not State.QUEUED:
            self.jobs.start(job.id)
        if state not in (State.QUEUED, State.RUNNING):
            self.jobs.end(job.id, state, exit_code=0, error=None)
        return job.id

    def left(self):
        folders = {path.name for path in (self.settings.state / "jobs").iterdir()}
        assert folders == {job.id for job in self.jobs.all(limit=10_000)}
        return folders


@pytest.fixture
def shop(tmp_path):
    made = Shop(tmp_path / "runs", DAYS)
    yield made
    made.jobs.close()


def test_a_job_is_forgotten_with_its_files_so_long_after_its_end_and_not_before(shop):
    old = shop.ended()
    shop.now += timedelta(hours=1)
    younger = shop.ended(State.FAILED)
    shop.now = NOON + DAYS
    shop.pruner.look()
    assert shop.left() == {old, younger}
    shop.now += EVERY
    shop.pruner.look()
    assert shop.left() == {younger}


@pytest.mark.parametrize("state", [State.QUEUED, State.RUNNING])
def test_what_has_not_ended_is_never_forgotten(shop, state):
    job = shop.ended(state)
    shop.now += 100 * DAYS
    shop.pruner.look()
    assert shop.left() == {job}


def test_without_keep_all_are_kept(tmp_path):
    shop = Shop(tmp_path / "runs", None)
    job = shop.ended()
    shop.now += 10_000 * DAYS
    shop.pruner.look()
    assert shop.left() == {job}
    shop.jobs.close()


def test_a_run_stays_with_its_name_and_tags_when_its_job_is_forgotten(shop):
    job, tagged, runless = shop.ended(), shop.ended(), shop.ended()
    for name in (job, tagged):
        synthetic_run(shop.settings.runs, 20, name=name)
    shop.jobs.tag_run(tagged, ["by hand"])
    shop.now += 2 * DAYS
    shop.pruner.look()
    assert shop.left() == set()
    assert shop.jobs.names_of_runs() == {job: "nightly", tagged: "nightly"} and runless not in shop.jobs.tags_of_runs()
    assert shop.jobs.tags_of_runs() == {job: ("east",), tagged: ("by hand",)}
    client = app_on(shop.settings.runs)
    assert "nightly" in client.get(f"/runs/{job}").text and "the job</a>" not in client.get(f"/runs/{job}").text
    assert client.get("/api/runs", params={"tag": "east"}).json()["runs"][0]["id"] == job
    assert client.get(f"/api/jobs/{job}").status_code == 404


def test_a_service_that_is_killed_between_files_and_row_forgets_the_job_the_next_time(shop, monkeypatch):
    job = shop.ended()
    shop.now += 2 * DAYS
    monkeypatch.setattr(Jobs, "drop", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        shop.pruner.look()
    assert not launching.job_folder(shop.settings, job).exists() and shop.jobs.get(job).ended
    monkeypatch.undo()
    Pruner(shop.settings, shop.jobs, lambda: shop.now).look()
    assert shop.left() == set()


def test_so_many_are_forgotten_at_once_and_the_others_a_minute_later(shop, monkeypatch):
    monkeypatch.setattr(pruning, "MOST_AT_ONCE", 2)
    for _ in range(5):
        shop.ended()
    shop.now += 2 * DAYS
    for left, later in ((3, timedelta(seconds=1)), (3, EVERY), (1, EVERY), (0, EVERY)):
        shop.pruner.look()
        assert len(shop.left()) == left
        shop.now += later


def test_files_that_cannot_be_deleted_are_told_once_and_keep_their_job(shop, monkeypatch, capsys):
    jobs = {shop.ended(), shop.ended()}
    shop.now += 2 * DAYS
    monkeypatch.setattr(pruning.shutil, "rmtree", lambda path: (_ for _ in ()).throw(PermissionError(13, "no", path)))
    shop.pruner.look()
    assert shop.left() == jobs
    assert "files of 2 old jobs cannot be deleted" in capsys.readouterr().err


def test_those_that_cannot_be_deleted_hold_up_no_others_and_each_is_told_once(shop, monkeypatch, capsys):
    monkeypatch.setattr(pruning, "MOST_AT_ONCE", 2)
    stuck, real = {shop.ended() for _ in range(3)}, pruning.shutil.rmtree
    shop.now += timedelta(hours=1)
    others = {shop.ended() for _ in range(3)}

    def remove(path):
        if path.name in stuck:
            raise PermissionError(13, "no", path)
        real(path)

    monkeypatch.setattr(pruning.shutil, "rmtree", remove)
    shop.now += 2 * DAYS
    for left, told in ((6, "files of 2 old"), (5, "files of 1 old"), (3, ""), (3, "")):
        shop.pruner.look()
        said = capsys.readouterr().err
        assert len(shop.left()) == left and (told in said if told else said == "")
        shop.now += EVERY
    assert shop.left() == stuck and not others & stuck
    monkeypatch.undo()
    Pruner(shop.settings, shop.jobs, lambda: shop.now).look()
    assert shop.left() == set()


def test_a_link_in_place_of_a_jobs_files_leads_nowhere(shop, tmp_path):
    job = shop.ended()
    folder, precious = launching.job_folder(shop.settings, job), tmp_path / "precious"
    precious.mkdir()
    (precious / "data").write_text("x")
    (folder / "log").unlink()
    folder.rmdir()
    folder.symlink_to(precious)
    shop.now += 2 * DAYS
    shop.pruner.look()
    assert (precious / "data").exists()


def test_a_queue_of_before_has_its_jobs_and_gets_the_new_tables(tmp_path):
    """As a service of before --keep has made it."""
    path = tmp_path / "jobs.sqlite"
    jobs = Jobs(path)
    job = jobs.add(ASKED, most_queued=9)
    jobs.close()
    with closing(sqlite3.connect(path)) as database:
        database.executescript("DROP TABLE submissions; DROP TABLE run_names; DROP TABLE ended_sessions")
    jobs = Jobs(path)
    assert jobs.get(job.id) == job and jobs.names_of_runs() == {job.id: "nightly"}
    jobs.close()


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (10_000_000, "10,000,000"),
        (10_000_000.0, "10,000,000"),
        (10**13, "10,000,000,000,000"),
        (600.5, "600.5"),
        (0, "0"),
        (0.0, "0"),
        (0.0004, "0.0004"),
        (1e300, "more than 1,000,000,000,000,000"),
        (float("inf"), "more than 1,000,000,000,000,000"),
    ],
)
def test_amounts_are_told_as_people_write_them(number, told):
    assert counted(number) == told


def failing(settings):
    with pytest.raises(HeadroomError) as failed:
        serving.serve(settings)
    return str(failed.value)


def test_a_service_that_fails_at_its_start_leaves_nothing(tmp_path, monkeypatch):
    before = (tmp_path / "a") / "b" / "runs"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "is in use" in failing(Settings(runs=before, port=taken.getsockname()[1]))
    assert "cannot be had" in failing(Settings(runs=before, host="no.such.host.invalid", token="x" * 16))
    for fault in (ConfigError("x"), RunFolderError("y")):
        monkeypatch.setattr(serving, "create_app", lambda _, fault=fault: (_ for _ in ()).throw(fault))
        assert failing(Settings(runs=before, port=0)) == str(fault)
    assert list(tmp_path.iterdir()) == []


def test_a_service_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "runs" / ".service").mkdir(parents=True)
    (tmp_path / "runs" / "run").mkdir()
    monkeypatch.setattr(serving, "create_app", lambda _: (_ for _ in ()).throw(ConfigError("x")))
    failing(Settings(runs=tmp_path / "runs", port=0))
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".service", "run"]


@pytest.mark.parametrize("what", ["runs", ".service"])
def test_a_file_in_the_place_of_a_folder_is_told(tmp_path, what):
    place = tmp_path / "runs" if what == "runs" else tmp_path / "runs" / what
    place.parent.mkdir(exist_ok=True)
    place.write_text("")
    assert str(tmp_path / "runs") in failing(Settings(runs=tmp_path / "runs", port=0))
    assert place.read_text() == ""


def test_a_lock_whose_file_was_deleted_meanwhile_is_none(tmp_path, monkeypatch):
    """The service that failed removes the folder as another one begins, which would work on files that nobody finds."""
    real = os.open

    def opened(path, *rest, **more):
        found = real(path, *rest, **more)
        if str(path).endswith("lock"):
            path.unlink()
        return found

    monkeypatch.setattr(os, "open", opened)
    assert "another service" in failing(Settings(runs=tmp_path / "runs", port=0))


def test_a_second_service_on_the_same_runs_takes_nothing_away(tmp_path):
    runs = tmp_path / "runs"
    settings = Settings(runs=runs, port=0)
    with serving._made(settings.state), serving._claimed(settings):
        assert "another service works on" in failing(replace(settings))
        assert (runs / ".service" / "lock").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "does not exist"), ("folder", "cannot be read"), (b"\xff", "cannot be read"), (b"[load", "is not TOML")],
)
def test_odd_files_are_refused_before_any_service_is_asked(tmp_path, content, told):
    file = tmp_path / "loadtest.toml"
    if content == "folder":
        file.mkdir()
    elif content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=told):
        read_job(file)


@pytest.mark.parametrize("file", ["/dev/zero", "/dev/null/x", "a\0b"])
def test_a_file_without_end_is_not_read_to_it(file):
    with pytest.raises(ConfigError):
        read_job(Path(file))


def test_a_schedule_is_kept_as_its_five_fields(tmp_path):
    client = app_on(tmp_path / "runs")
    kept = client.post("/api/jobs", json={"schedule": " 0  2 * *\t1\n"}).json()["schedule"]
    assert kept["cron"] == "0 2 * * 1"


def test_a_client_that_leaves_is_no_failure_of_the_service(tmp_path, capsys):
    app, sent = app_on(tmp_path / "runs").app, []

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/api/jobs", "query_string": b"", "headers": headers}
    asyncio.run(app(scope, receive, send))
    assert (sent, capsys.readouterr().err) == ([], "")


def test_the_service_itself_forgets_by_its_flag(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(serving, "serve", asked.append)
    serve(runs=tmp_path / "runs", keep=7)
    serve(runs=tmp_path / "runs")
    assert [each.keep for each in asked] == [DAYS, None]
    shop = Shop(asked[0].runs, asked[0].keep)
    shop.ended()
    shop.now += 2 * DAYS
    Runner(shop.settings, shop.jobs, lambda: shop.now).step()
    assert shop.left() == set()
    shop.jobs.close()
