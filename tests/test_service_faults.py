"""What goes wrong at the batch service is answered, and takes nothing else down; what is asked for in vain comes back."""

import asyncio
import errno
import functools
import os
import time
from types import SimpleNamespace

import pytest
import uvicorn
from starlette.datastructures import Headers
from starlette.requests import Request
from uvicorn.server import ServerState

from headroom.service import connections, events, security
from headroom.service.connections import PatientConnection
from headroom.service.refusals import Refusal
from tests.runs import make_run
from tests.services import app_on, submit

pytestmark = pytest.mark.aside

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return app_on(tmp_path_factory.mktemp("service") / "runs")


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    return app_on(tmp_path_factory.mktemp("service") / "runs", token=TOKEN)


@pytest.mark.parametrize(
    ("place", "to"),
    [
        ("/runs?tag=east&q=a%20b", "/runs?tag=east&q=a%20b"),
        ("//evil.example", "/"),
        ("/\\evil.example", "/"),
        ("https://evil.example", "/"),
        ("/runs\r\nx: y", "/"),
        ("", "/"),
    ],
)
def test_who_signs_in_comes_to_the_page_of_ours_that_was_asked_for_and_to_no_other(locked, place, to):
    fields = {"csrf": locked.app.state.locks.csrf, "token": TOKEN}
    answer = locked.post(
        "/login", params={"next": place}, data=fields, headers={"host": "localhost"}, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, to)
    locked.cookies.clear()


def test_a_page_that_needs_the_token_is_kept_over_the_signing_in(locked):
    page = {"host": "localhost", "accept": "text/html"}
    answer = locked.get("/runs?tag=east", headers=page, follow_redirects=False)
    assert answer.headers["location"] == "/login?next=%2Fruns%3Ftag%3Deast"
    shown = locked.get(answer.headers["location"], headers=page).text
    assert 'action="/login?next=%2Fruns%3Ftag%3Deast"' in shown


def test_a_form_without_a_session_is_told_as_a_page_and_a_program_as_json(locked):
    for accept, told in (("text/html", "<h1>Sign in</h1>"), ("application/json", '{"error":')):
        answer = locked.post("/jobs/new", data={"name": "x"}, headers={"host": "localhost", "accept": accept})
        assert answer.status_code == 401 and told in answer.text


@pytest.mark.parametrize("asked", ["slo=%00", "slo=a%00b", "demand=20", "tpm=1e9"])
def test_a_plan_that_cannot_be_made_is_told_on_its_page(client, asked):
    name = f"planned-{asked.partition('%')[0]}".replace("=", "-")
    make_run(client.app.state.desk.settings.runs, [], name=name)
    answer = client.get(f"/plan?run={name}&{asked}", headers={"accept": "text/html"})
    assert answer.status_code == 422 and 'role="alert"' in answer.text


def test_a_session_ends_by_itself_and_cannot_be_lengthened(locked, monkeypatch):
    locks = locked.app.state.locks
    session = locks.sessions.fresh()
    ends_s, _, signed = session.partition(".")
    assert locks.let_in(Headers(), {"headroom_session": session})
    assert not locks.let_in(Headers(), {"headroom_session": f"{int(ends_s) + 1}.{signed}"})
    monkeypatch.setattr("headroom.service.sessions.time.time", lambda: int(ends_s))
    assert not locks.let_in(Headers(), {"headroom_session": session})


def test_a_wrong_token_is_told_from_a_missing_one(locked):
    missing, wrong = (
        locked.get("/api/jobs", headers={"host": "localhost", **headers}).json()["error"]["message"]
        for headers in ({}, {"authorization": "Bearer guess"})
    )
    assert "needs its token" in missing and "is not this service's token" in wrong


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RuntimeError("a\nb"), 500),
        (RecursionError(), 500),
        (OSError(errno.ENOSPC, "x"), 507),
        (Exception("database or disk is full"), 507),
    ],
)
def test_where_the_service_fails_it_answers_with_its_headers_and_a_line(client, monkeypatch, capsys, error, status):
    def fail(*_):
        raise error

    monkeypatch.setattr(type(client.app.state.desk), "runs", fail)
    for accept in ("application/json", "text/html"):
        answer = client.get("/api/runs" if accept.endswith("json") else "/runs", headers={"accept": accept})
        assert answer.status_code == status and "default-src 'none'" in answer.headers["content-security-policy"]
        assert ("<h1>" in answer.text) == (accept == "text/html")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and all("failed: " in line for line in lines)


def test_a_form_of_before_a_restart_comes_back_as_it_was_filled_in(client):
    desk, page = client.app.state.desk, {"accept": "text/html"}
    before = desk.jobs.counts()
    filled = {"csrf": "old", "name": "my job", "rate": "7/s", "as": "fields"}
    answer = client.post("/jobs/new", data=filled, headers=page)
    assert answer.status_code == 403 and "restarted" in answer.text and desk.jobs.counts() == before
    assert 'value="my job"' in answer.text and 'value="7/s"' in answer.text
    assert client.app.state.locks.csrf in answer.text
    assert "restarted" in client.post("/login", data={"csrf": "old"}, headers=page).text


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("10k", "quota: tokens_per_minute: must be a number, not text"),
        ("-5", "quota: tokens_per_minute must be above zero, not -5"),
        ("1.5", "quota.tokens_per_minute: input should be a valid integer"),
        ("9" * 30, "a whole number lies beyond 9,223,372,036,854,775,807"),
        ("nan", "quota.tokens_per_minute: input should be a finite number"),
    ],
)
def test_who_typed_no_count_into_the_form_is_told_of_no_quotes(client, typed, told):
    csrf = client.app.state.locks.csrf
    form = {"csrf": csrf, "as": "fields", "target": "sim", "rate": "5/s", "duration": "9s", "tpm": typed}
    answer = client.post("/jobs/new", data=form, headers={"accept": "text/html"})
    assert answer.status_code == 422 and told in answer.text and "without quotes" not in answer.text


def test_so_many_read_and_no_more_though_they_come_at_once(client):
    state, desk = client.app.state, client.app.state.desk
    request = SimpleNamespace(path_params={"id": submit(client)}, app=client.app)

    async def ask():
        return await asyncio.gather(*(events.of(request, desk) for _ in range(60)), return_exceptions=True)

    found = asyncio.run(ask())
    assert sum(isinstance(each, Refusal) for each in found) == 10 and state.readers == 50
    state.readers = 0


def test_a_queue_that_stands_still_is_not_healthy(client, monkeypatch):
    monkeypatch.setattr(client.app.state.desk.runner, "looked_s", time.monotonic() - 31)
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json()["status"]) == (503, "the queue stands still")
    monkeypatch.setattr(client.app.state.desk.runner, "looked_s", time.monotonic() - 1)
    assert client.get("/healthz").status_code == 200


def test_a_method_that_is_not_there_names_those_that_are(client):
    for method in ("OPTIONS", "DELETE"):
        answer = client.request(method, "/api/plan")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("summary.json", "[]"),
        ("summary.json", "5"),
        ("summary.json", '{"traffic": "x"}'),
        ("summary.json", '{"validity": {"valid": true}, "latency": [5]}'),
        ("summary.json", '{"validity": {"valid": "yes"}}'),
        (
            "summary.json",
            '{"validity": {"valid": true}, "latency": [{"metric": "ttft", "scenario": "all", "p95": {"value_ms": "x"}}]}',
        ),
        ("manifest.json", "[]"),
        ("manifest.json", '{"format": 1, "run_id": "x", "config": {"target": 5}, "seed": 1, "started_utc": 5}'),
        ("manifest.json", '{"format": 1, "run_id": "x", "config": {"target": [5]}, "seed": 1, "started_utc": "x"}'),
        ("manifest.json", None),
        ("summary.json", None),
    ],
)
def test_a_damaged_run_is_passed_over_and_takes_no_page_down(tmp_path, name, content):
    client = app_on(tmp_path / "runs")
    folder = tmp_path / "runs" / "run"
    folder.mkdir()
    (folder / "manifest.json").write_text(
        '{"format": 1, "run_id": "x", "config": {}, "seed": 1, "started_utc": "2026-11-20T10:00:00Z"}'
    )
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name) if content is None else (folder / name).write_text(content)
    for place in ("/", "/runs", "/api/runs", "/compare", "/plan"):
        assert client.get(place).status_code == 200, place
    for place in ("/runs/run", "/api/runs/run", "/api/runs/run/summary"):
        assert client.get(place).status_code in (200, 404), place


async def meet(begin, more):
    """What comes of a connection that sends `begin`, and after a while `more`; each head is waited for 0.2 s."""

    async def app(scope, receive, send):
        await asyncio.sleep(0.5)  # an answer takes longer than a head may
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    config = uvicorn.Config(app, http=PatientConnection, lifespan="off", log_config=None)
    config.load()
    loop, state = asyncio.get_running_loop(), ServerState()
    make = functools.partial(PatientConnection, config, state, {})
    async with await loop.create_server(make, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(begin)
        await asyncio.sleep(0.05)
        writer.write(more)
        said = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        return said


@pytest.mark.parametrize(
    ("begin", "more", "answers"),
    [
        (b"", b"", 0),
        (b"GET / HT", b"TP/1.1\r\nhost: x\r\n", 0),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"", 1),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"GET / HTTP/1.1\r\nho", 1),
    ],
)
def test_a_connection_that_says_nothing_is_closed_and_one_that_is_answered_is_not(monkeypatch, begin, more, answers):
    monkeypatch.setattr(connections, "LONGEST_HEAD_S", 0.2)
    assert asyncio.run(meet(begin, more)).count(b"HTTP/1.1 200") == answers


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(security, "LONGEST_BODY_S", 0.01)
    silent = Request({"type": "http"}, receive=lambda: asyncio.sleep(10))
    with pytest.raises(Refusal) as refused:
        asyncio.run(security.body_of(silent))
    assert refused.value.status == 408
