"""A job that is submitted again, because its answer was lost, is the same job: load is sent once."""

import http.client
import http.server
import json
import re
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from headroom.service import client as clients
from headroom.service.client import Client, ServiceAway
from headroom.service.jobs import Asked, Jobs, Kind
from headroom.service.once import KEPT, Once, SpentKey, once_of
from headroom.service.refusals import Refusal
from tests.services import SHORT, app_on, end, say, serving, standing_in, started

pytestmark = pytest.mark.aside

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
ASKED = Asked(kind=Kind.LOADTEST, name="nightly", tags=(), config={"load": {"rate": 5}})
ONCE = Once("a-key", "0" * 64)
PAGE = {"accept": "text/html"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    return app_on(tmp_path_factory.mktemp("service") / "runs")


def ask(client, key, job, **headers):
    return client.post("/api/jobs", json=job, headers={"idempotency-key": key, **headers})


def count(client):
    return len(client.get("/api/jobs", params={"limit": 1000}).json()["jobs"])


@pytest.mark.parametrize("extra", [{}, {"schedule": "0 2 * * *"}])
def test_the_same_key_and_body_are_answered_with_what_they_made(client, extra):
    before, job = count(client), {"config": SHORT, "name": "a", **extra}
    first, second = (ask(client, f"same{extra.get('schedule', '')[:1]}", job) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json() and first.headers.get("location") == second.headers.get("location")
    assert count(client) - before == (not extra) and len(client.get("/api/schedules").json()["schedules"]) <= 1


def test_a_key_says_how_its_job_is_now_and_whatever_the_service_offers_now(client, monkeypatch):
    made = ask(client, "now", {"config": SHORT}).json()["job"]["id"]
    client.delete(f"/api/jobs/{made}")
    monkeypatch.setattr("headroom.service.admission.admit", lambda *_: pytest.fail("it was admitted"))
    assert ask(client, "now", {"config": SHORT}).json()["job"]["state"] == "cancelled"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"config": SHORT}, {"config": SHORT, "name": "b"}),
        ({"config": SHORT}, {"config": SHORT, "schedule": "0 2 * * *"}),
        ({"config": SHORT}, {"config": {**SHORT, "load": {**SHORT["load"], "rate": 9}}}),
    ],
)
def test_another_body_under_the_same_key_is_refused(client, first, second):
    key = f"other-{len(json.dumps(second))}"
    made = ask(client, key, first).json()["job"]["id"]
    before, answer = count(client), ask(client, key, second)
    error = answer.json()["error"]
    assert (answer.status_code, error["where"], count(client)) == (422, "idempotency-key", before)
    assert made in error["message"]


def test_the_order_of_the_keys_of_a_body_says_nothing(client):
    one, other = '{"name": "x", "config": {"load": {"rate": 5}}}', '{"config": {"load": {"rate": 5}},  "name": "x"}'
    made = {
        client.post(
            "/api/jobs", content=body, headers={"content-type": "application/json", "idempotency-key": "order"}
        ).json()["job"]["id"]
        for body in (one, other)
    }
    assert len(made) == 1


def test_a_key_that_was_refused_may_be_used_for_what_is_put_right(client):
    assert ask(client, "right", {"config": {"load": {"rat": 5}}}).status_code == 422
    assert ask(client, "right", {"config": SHORT}).status_code == 201


def test_without_a_key_each_request_makes_a_job(client):
    assert len({client.post("/api/jobs", json={"config": SHORT}).json()["job"]["id"] for _ in range(2)}) == 2


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        (["a"], 201),
        (["x" * 100], 201),
        (['"8e03978e-40d5-43e8-bc93-6894a57f9324"'], 201),  # as a string of RFC 9651
        (["x" * 101], 400),
        ([""], 400),
        (["a b"], 400),
        (['a"b'], 400),
        ([b"\xe9"], 400),
        (["b", "c"], 400),
    ],
)
def test_a_key_is_a_word(client, keys, status):
    headers = [("idempotency-key", key) for key in keys]
    answer = client.post("/api/jobs", json={"config": SHORT}, headers=headers)
    assert answer.status_code == status
    assert status == 201 or answer.json()["error"]["where"] == "idempotency-key"


def test_a_key_with_quotes_and_without_is_one():
    assert once_of(['"k"'], {}) == once_of([" k "], {}) != once_of(["l"], {})


def test_tables_too_deep_to_be_told_apart_are_refused():
    deep = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(Refusal, match="too deep"):
        once_of(["k"], deep)


def test_threads_that_ask_at_once_make_one_job(tmp_path):
    jobs, made = Jobs(tmp_path / "jobs.sqlite"), []
    threads = [
        threading.Thread(target=lambda: made.append(jobs.add(ASKED, most_queued=1, once=ONCE).id)) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8 and len(set(made)) == 1, "though no second one may wait"
    jobs.close()


def test_a_key_outlives_a_restart_and_its_job_and_ends_after_thirty_days(tmp_path):
    now = NOON
    jobs = Jobs(tmp_path / "jobs.sqlite", clock=lambda: now)
    job = jobs.add(ASKED, most_queued=9, once=ONCE)
    schedule = jobs.add_schedule(ASKED, "0 2 * * *", NOON, most=9, once=Once("b", "1"))
    jobs.close()
    jobs = Jobs(tmp_path / "jobs.sqlite", clock=lambda: now)
    assert (jobs.made_by(ONCE), jobs.made_by(Once("b", "1"))) == (job, schedule)
    jobs.ask_cancel(job.id)
    jobs.drop(job.id, run=False)
    jobs.drop_schedule(schedule.id)
    for spent in (ONCE, Once("b", "1")):
        with pytest.raises(SpentKey, match="is no more") as refused:
            jobs.made_by(spent)
        assert refused.value.status == 409
    now = NOON + KEPT + timedelta(seconds=1)
    jobs.forget_keys()
    assert jobs.made_by(ONCE) is None
    jobs.close()


def form_of(client, page):
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))
    return fields | {"name": "by form", "rate": "5/s", "duration": "10s", "warmup": "0s", "scenarios": "chat"}


def test_a_form_that_is_sent_twice_makes_one_job_and_a_changed_one_asks_first(client):
    form, before = form_of(client, client.get("/jobs/new").text), count(client)
    first, second = (client.post("/jobs/new", data=form, follow_redirects=False) for _ in range(2))
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["location"] == second.headers["location"] and count(client) == before + 1
    changed = client.post("/jobs/new", data=form | {"rate": "6/s"}, headers=PAGE)
    assert changed.status_code == 422 and "send it again for another" in changed.text and 'value="6/s"' in changed.text
    again = form_of(client, changed.text)
    assert again["once"] != form["once"] and count(client) == before + 1
    assert client.post("/jobs/new", data=again, follow_redirects=False).status_code == 303
    assert count(client) == before + 2


def test_a_form_that_comes_back_keeps_its_key_since_it_may_have_been_taken(client):
    """The answer was lost with the service, and the browser sends the form once more to the next one."""
    form, before = form_of(client, client.get("/jobs/new").text), count(client)
    client.post("/jobs/new", data=form)
    stale = client.post("/jobs/new", data=form | {"csrf": "of before"}, headers=PAGE)
    assert stale.status_code == 403 and form_of(client, stale.text)["once"] == form["once"]
    client.post("/jobs/new", data=form | form_of(client, stale.text))
    assert count(client) == before + 1


@pytest.mark.parametrize("cron", ["", "0 2 * * *"])
def test_a_form_whose_job_is_gone_says_so_and_makes_another_when_sent_again(client, cron):
    form, jobs = form_of(client, client.get("/jobs/new").text) | {"schedule": cron}, client.app.state.desk.jobs
    client.post("/jobs/new", data=form)
    if cron:
        made = next(each.id for each in jobs.schedules() if each.name == "by form")
        jobs.drop_schedule(made)
    else:
        made = jobs.all(limit=1)[0].id
        jobs.ask_cancel(made)
        jobs.drop(made, run=False)
    late = client.post("/jobs/new", data=form, headers=PAGE)
    assert late.status_code == 409 and f"{made}, is no more" in late.text and "look at it" not in late.text
    again = form | form_of(client, late.text) | {"schedule": cron}
    assert again["once"] != form["once"]
    assert client.post("/jobs/new", data=again, follow_redirects=False).status_code == 303


def test_a_form_with_a_key_that_is_none_gets_one(client):
    form = form_of(client, client.get("/jobs/new").text) | {"once": "a b"}
    refused = client.post("/jobs/new", data=form, headers=PAGE)
    assert refused.status_code == 400 and " " not in form_of(client, refused.text)["once"]


MADE = {
    "schedule": {**dict.fromkeys(("id", "cron", "name", "created_utc", "next_utc"), "x"), "kind": "plan", "tags": []}
}


class Breaking(http.server.BaseHTTPRequestHandler):
    """Does what the next of `server.left` says with each request: a status, or to close without an answer."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.server.keys.append(self.headers["idempotency-key"])
        status = self.server.left.pop(0)
        if status is None:
            self.close_connection = True
            return
        say(self, status, json.dumps(MADE).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def breaking(monkeypatch):
    monkeypatch.setattr(clients, "WAITS_S", (0.0,) * 3)
    with standing_in(Breaking) as server:
        server.keys, server.left = [], []
        yield server


@pytest.mark.parametrize(
    ("answers", "asked", "ends"),
    [
        ([201], 1, None),
        ([None, 201], 2, None),
        ([None, 502, 503, 201], 4, None),
        ([None] * 4, 4, "it may have been queued"),
        ([504] * 4, 4, "it may have been queued"),
        ([503], 1, "503"),  # it says that it has not done it
        ([500], 1, "500"),
        ([507], 1, "507"),
    ],
)
def test_a_lost_answer_is_asked_for_again_under_the_same_key_and_not_for_ever(breaking, answers, asked, ends):
    breaking.left += answers
    ours = Client(f"http://127.0.0.1:{breaking.server_port}", None)
    if ends is None:
        assert ours.submit({}) == MADE
    else:
        with pytest.raises(ServiceAway, match=ends):
            ours.submit({})
    assert len(breaking.keys) == asked and len(set(breaking.keys)) == 1 and breaking.keys[0]


def test_a_service_that_is_not_there_at_first_is_not_asked_again(monkeypatch):
    monkeypatch.setattr(clients.time, "sleep", lambda _: pytest.fail("it waited"))
    with pytest.raises(ServiceAway, match="is `headroom serve` running"):
        Client("http://127.0.0.1:9", None).submit({})


def test_a_service_that_accepts_and_is_silent_is_given_up_by_a_deadline(monkeypatch):
    """Not after six times as long as one answer may take."""
    for name, value in (("PATIENCE_S", 0.2), ("WHOLE_S", 0.5), ("WAITS_S", (0.0,) * 5)):
        monkeypatch.setattr(clients, name, value)
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        silent.setblocking(False)
        begun_s = time.monotonic()
        with pytest.raises(ServiceAway, match="it may have been queued"):
            Client(f"http://127.0.0.1:{silent.getsockname()[1]}", None).submit({})
        assert time.monotonic() - begun_s < 6 * 0.2
        asked = 0
        with suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert 1 <= asked <= 3


@pytest.mark.long
def test_a_service_that_is_killed_before_its_answer_has_made_one_job(tmp_path):
    """Cut at any moment of the request: what the next service is asked under the same key is there once."""
    runs, port, job = tmp_path / "runs", None, json.dumps({"config": SHORT})
    for number in range(4):
        service = started(runs, *(() if port is None else ("--port", port)))
        port = service.url.rpartition(":")[2]
        connection = http.client.HTTPConnection("127.0.0.1", int(port))
        headers = {"content-type": "application/json", "idempotency-key": f"key-{number}"}
        connection.request("POST", "/api/jobs", job, headers)
        if number % 2:
            connection.getresponse().read()
        end(service)
        connection.close()
    with serving(runs, "--port", port) as service:
        for number in range(4):
            headers = {"idempotency-key": f"key-{number}"}
            first, second = (service.client.post("/api/jobs", json=json.loads(job), headers=headers) for _ in range(2))
            assert (first.status_code, second.status_code) == (201, 201)
            assert first.json()["job"]["id"] == second.json()["job"]["id"]
        assert len(service.client.get("/api/jobs").json()["jobs"]) == 4
