"""Signing in and out of the service by its pages: a session ends at the server, and what was typed is not lost."""

import html
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from playwright.sync_api import Browser, expect
from starlette.datastructures import Headers

from headroom.service import sessions
from headroom.service.database import Database
from headroom.service.sessions import SESSION_S, Sessions
from tests.browsers import needs_browser
from tests.runs import synthetic_run
from tests.service_sites import site, visiting
from tests.services import app_on, submit

pytestmark = pytest.mark.aside

TOKEN = "0123456789abcdef0123456789abcdef"
PAGE = {"host": "localhost", "accept": "text/html"}
BEARER = {"host": "localhost", "authorization": f"Bearer {TOKEN}"}
FORM = {"csrf": "x", "name": "my <job>", "rate": "7/s", "as": "toml", "toml": '[load]\n"a" = 1\n', "once": "a-key"}


@pytest.fixture
def locked(tmp_path):
    client = app_on(tmp_path / "runs", token=TOKEN)
    client.headers.update({"host": "localhost"})
    return client


def csrf(client):
    return client.app.state.locks.csrf


def sign_in(client, place="/", **fields):
    """The answer; the client holds the session from then on."""
    data = {"csrf": csrf(client), "token": TOKEN, **fields}
    return client.post("/login", params={"next": place}, data=data, headers=PAGE, follow_redirects=False)


def session_of(client):
    return client.cookies.get("headroom_session")


def held(client, session):
    return client.app.state.locks.let_in(Headers(), {"headroom_session": session})


def test_signing_out_ends_the_session_at_the_server_and_no_other(locked):
    sign_in(locked)
    mine = session_of(locked)
    locked.cookies.clear()
    sign_in(locked)
    others = session_of(locked)
    assert mine != others, "though both began within a second"
    locked.cookies.clear()
    copied = {**PAGE, "cookie": f"headroom_session={mine}"}
    answer = locked.post("/logout", data={"csrf": csrf(locked)}, headers=copied, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert 'headroom_session=""' in answer.headers["set-cookie"] and "Max-Age=0" in answer.headers["set-cookie"]
    assert locked.get("/api/jobs", headers=copied).status_code == 401
    assert held(locked, others)


def test_what_was_signed_out_stays_so_after_a_restart(tmp_path):
    first = app_on(tmp_path / "runs", token=TOKEN)
    signed = first.app.state.locks.sessions
    ended, other = signed.fresh(), signed.fresh()
    signed.end(ended)
    again = app_on(tmp_path / "runs", token=TOKEN)
    assert (held(again, ended), held(again, other)) == (False, True)


@pytest.mark.parametrize(
    ("headers", "fields", "status"),
    [
        ({}, {"csrf": ""}, 403),
        ({}, {"csrf": "wrong"}, 403),
        ({"sec-fetch-site": "same-origin"}, {"csrf": "wrong"}, 403),
        ({"origin": "http://evil.example"}, None, 403),
        ({"origin": "http://evil.example"}, {"csrf": "wrong"}, 403),
        ({"origin": "http://localhost:81"}, {"csrf": "wrong"}, 403),
        ({"origin": "null"}, {"csrf": "wrong"}, 403),
        ({"sec-fetch-site": "cross-site"}, None, 403),
        ({"content-type": "text/plain"}, None, 415),
    ],
)
def test_no_other_site_signs_anybody_out(locked, headers, fields, status):
    sign_in(locked)
    fields = {"csrf": csrf(locked)} if fields is None else fields
    assert locked.post("/logout", data=fields, headers=PAGE | headers).status_code == status
    assert held(locked, session_of(locked))
    assert locked.get("/logout", headers=PAGE).status_code == 405


def test_a_page_of_before_a_restart_signs_out_too(locked):
    sign_in(locked)
    session = session_of(locked)
    ours = PAGE | {"origin": "http://localhost"}
    answer = locked.post("/logout", data={"csrf": "of before"}, headers=ours, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login") and not held(locked, session)


def test_nobody_signs_out_who_is_not_signed_in(locked):
    assert locked.post("/logout", data={"csrf": csrf(locked)}, headers=PAGE).status_code == 401
    bearer = locked.post("/logout", data={"csrf": csrf(locked)}, headers=PAGE | BEARER, follow_redirects=False)
    assert bearer.status_code == 303


def test_a_button_is_there_for_who_is_signed_in_alone(locked, tmp_path):
    assert "Sign out" not in locked.get("/", headers=BEARER).text
    sign_in(locked)
    for place in ("/", "/runs", "/jobs/new", "/compare", "/plan", "/nothing"):
        assert 'action="/logout"' in locked.get(place, headers=PAGE).text, place
    assert "Sign out" not in app_on(tmp_path / "open").get("/").text, "without a token there is no session"


@pytest.mark.parametrize(
    "session", ["", ".", "..", "9", "99999999999999.x.y", "٣.x.y", "1e9.x.y", "-1.x.y", "x" * 5_000, "\xe9.\xe9.\xe9"]
)
def test_what_is_no_session_is_none_and_ends_nothing(tmp_path, session):
    with closing(Database(tmp_path / "jobs.sqlite")) as database:
        ours = Sessions(TOKEN.encode(), database)
        assert not ours.hold(session)
        ours.end(session)
        assert database.rows("SELECT * FROM ended_sessions") == []
        assert not Sessions(b"another token of the service", database).hold(ours.fresh())


def test_ended_sessions_are_forgotten_when_they_would_have_ended_by_themselves(tmp_path, monkeypatch):
    now_s = 1_800_000_000
    monkeypatch.setattr(sessions.time, "time", lambda: now_s)
    with closing(Database(tmp_path / "jobs.sqlite")) as database:
        ours = Sessions(TOKEN.encode(), database)
        ours.end(old := ours.fresh())
        now_s += SESSION_S
        assert not ours.hold(old)
        ours.end(ours.fresh())
        assert len(database.rows("SELECT * FROM ended_sessions")) == len(ours._ended) == 1


def test_a_full_disk_keeps_no_session_alive(tmp_path, monkeypatch):
    with closing(Database(tmp_path / "jobs.sqlite")) as database:
        ours = Sessions(TOKEN.encode(), database)
        session = ours.fresh()
        monkeypatch.setattr(database, "writing", lambda: (_ for _ in ()).throw(OSError(28, "no space left")))
        with pytest.raises(OSError, match="space"):
            ours.end(session)
        assert not ours.hold(session)


def test_many_that_sign_out_at_once_are_all_signed_out(tmp_path):
    """Each ends in a thread of its own, beside many that have ended; switching often finds what is lost."""
    switched_s, together = sys.getswitchinterval(), threading.Barrier(6)

    def end(session):
        together.wait(timeout=20)
        ours.end(session)

    with closing(Database(tmp_path / "jobs.sqlite")) as database, ThreadPoolExecutor(6) as pool:
        ours = Sessions(TOKEN.encode(), database)
        ours._ended = {f"ended-{number}": 1 << 40 for number in range(1_000)}
        mine = [ours.fresh() for _ in range(20 * 6)]
        sys.setswitchinterval(1e-6)
        try:
            for first in range(0, len(mine), 6):
                list(pool.map(end, mine[first : first + 6]))
        finally:
            sys.setswitchinterval(switched_s)
        assert not any(ours.hold(session) for session in mine)
        assert len(database.rows("SELECT * FROM ended_sessions")) == len(mine)


def test_who_is_signed_out_follows_no_job_any_longer(locked, monkeypatch):
    monkeypatch.setattr("headroom.service.events.LOOK_EVERY_S", 0.01)
    sign_in(locked)
    job = submit(locked)
    session = session_of(locked)
    looked = []
    real = locked.app.state.desk.told

    def told(job):
        looked.append(job)
        assert len(looked) < 50
        if len(looked) == 3:
            locked.app.state.locks.sessions.end(session)
        return real(job)

    monkeypatch.setattr(locked.app.state.desk, "told", told)
    cookie = {"host": "localhost", "cookie": f"headroom_session={session}"}
    answer = locked.get(f"/api/jobs/{job}/events", headers=cookie)
    assert answer.status_code == 200 and len(looked) == 3


def hidden(page):
    found = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page)
    return {name: html.unescape(value) for name, value in found}


def shown(page):
    field = r'<input id="field-(\w+)" name="\w+" type="text" value="([^"]*)"'
    area = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.DOTALL)
    return {name: html.unescape(value) for name, value in re.findall(field, page)} | {
        "toml": html.unescape(area[1]) if area else None
    }


def test_a_form_that_was_sent_without_a_session_comes_back_after_signing_in(locked):
    asked = locked.post("/jobs/new", data=FORM, headers=PAGE)
    assert asked.status_code == 401 and "What you filled in comes back" in asked.text and "<job>" not in asked.text
    assert 'action="/login?next=%2Fjobs%2Fnew"' in asked.text
    kept = hidden(asked.text)
    assert kept.pop("csrf") == csrf(locked)
    wrong = locked.post("/login?next=%2Fjobs%2Fnew", data={**kept, "csrf": csrf(locked), "token": "no"}, headers=PAGE)
    assert wrong.status_code == 401 and {**hidden(wrong.text)} == {**kept, "csrf": csrf(locked)}
    back = sign_in(locked, "/jobs/new", **kept)
    assert back.status_code == 200 and "You are signed in" in back.text and session_of(locked)
    assert "Sign out" in back.text
    form = shown(back.text)
    assert (form["name"], form["rate"], form["toml"]) == ("my <job>", "7/s", FORM["toml"])
    assert hidden(back.text)["once"] == "a-key" and 'id="as-toml" checked' in back.text
    assert locked.app.state.desk.jobs.all() == [], "it is looked at before it is sent"
    assert TOKEN not in back.text


def test_the_tags_of_a_run_come_back_after_signing_in(locked):
    synthetic_run(locked.app.state.desk.settings.runs, 20, name="run")
    asked = locked.post("/runs/run/tags", data={"csrf": "x", "tags": "east, mine"}, headers=PAGE)
    kept = hidden(asked.text)
    del kept["csrf"]
    back = sign_in(locked, "/runs/run", **kept)
    assert shown(back.text)["tags"] == "east, mine" and "You are signed in" in back.text
    gone = sign_in(locked, "/runs/none", **kept)
    assert (gone.status_code, gone.headers["location"]) == (303, "/runs/none")


@pytest.mark.parametrize(
    ("sent", "page"),
    [
        ("/jobs/a/cancel", "/jobs/a"),
        ("/schedules/a/end", "/"),
        ("/logout", "/"),
        ("/runs/a/tags", "/runs/a"),
    ],
)
def test_after_a_button_comes_the_page_that_it_is_on(locked, sent, page):
    asked = locked.post(sent, data={"csrf": "x"}, headers=PAGE)
    assert asked.status_code == 401
    place = html.unescape(re.search(r'action="(/login[^"]*)"', asked.text)[1])
    data = {"csrf": csrf(locked), "token": TOKEN}
    answer = locked.post(place, data=data, headers=PAGE, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, page)


def test_a_form_outlives_a_restart_between_the_question_and_the_token(locked):
    data = {"csrf": "of before", "token": TOKEN, "name": "mine", "once": "a-key"}
    asked = locked.post("/login?next=%2Fjobs%2Fnew", data=data, headers=PAGE)
    assert asked.status_code == 403 and not session_of(locked) and TOKEN not in asked.text
    assert hidden(asked.text) == {"csrf": csrf(locked), "name": "mine", "once": "a-key"}


@pytest.mark.parametrize("form", [b"a=" + b"x" * 300_000, b"&".join(b"a=1" for _ in range(200)), b"\xff=\xff"])
def test_a_form_that_cannot_be_kept_is_still_asked_for_the_token(locked, form):
    kind = {"content-type": "application/x-www-form-urlencoded"}
    answer = locked.post("/jobs/new", content=form, headers=PAGE | kind)
    assert answer.status_code == 401 and "<h1>Sign in</h1>" in answer.text
    assert set(hidden(answer.text)) == {"csrf"} and len(answer.text) < 10_000
    assert locked.post("/login", content=form, headers=PAGE | kind).status_code in (413, 422)


@needs_browser
def test_by_keyboard_a_form_survives_the_end_of_a_session_and_the_button_signs_out(browser: Browser, tmp_path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with site(runs, token=TOKEN) as where, visiting(browser, where) as (page, seen):
        page.goto("/jobs/new")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.get_by_label("Name", exact=True).fill("typed by hand")
        page.get_by_label("A whole loadtest.toml").check()
        page.get_by_label("loadtest.toml", exact=True).fill('[load]\nrate = "5/s"\nduration = "10s"\nwarmup = "0s"\n')
        page.context.clear_cookies()
        page.get_by_role("button", name="Submit").press("Enter")
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.get_by_label("Name", exact=True)).to_have_value("typed by hand")
        expect(page.get_by_role("alert")).to_contain_text("You are signed in")
        page.get_by_role("button", name="Submit").dblclick()
        page.wait_for_url("**/jobs/2*")
        (job,) = where.desk.jobs.all()
        assert job.name == "typed by hand" and where.desk.jobs.config_of(job.id)["load"]["rate"] == "5/s"
        page.locator("form.out input[name=csrf]").evaluate("field => { field.value = 'of before a restart' }")
        page.get_by_role("button", name="Sign out").press("Enter")
        page.wait_for_url("**/login")
        page.go_back()
        expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
        assert not seen.dialogs and not seen.elsewhere
