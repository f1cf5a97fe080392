"""What the commands that ask a service say of what they meet there, and of what they are given."""

import http.server
import io
import json
from contextlib import contextmanager

import pytest
from rich.console import Console

from dashboards.jobs import place_of, print_jobs, print_schedules
from headroom.service import client as clients
from headroom.service.bearer import token_of
from headroom.service.client import Client, ServiceAway
from headroom.service.jobs import MEANINGS
from loadgen.errors import ConfigError, HeadroomError
from tests.services import say, standing_in

pytestmark = pytest.mark.aside

TOKEN = "0123456789abcdef"
JOB = {
    "number": 1, "id": "a", "kind": "loadtest", "name": "", "what": "", "tags": [], "state": "done",
    "created_utc": "", "started_utc": None, "ended_utc": "x", "exit_code": 0, "meaning": "fine", "error": None,
    "launch": 1, "cancel_asked": False, "schedule_id": None, "run": "a",
}  # fmt: skip
SHOWN = {"job": JOB, "about": None, "progress": None, "log": ""}


@contextmanager
def answering(*answers):
    """The address of a server that gives these, `(status, body)`, one after the other; and what it was asked."""
    left, asked = list(answers), []

    class Strange(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            say(self, *left.pop(0))

        def log_message(self, *_):
            pass

    with standing_in(Strange) as server:
        yield f"http://127.0.0.1:{server.server_port}", asked


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b'{"job": 5}', b'{"job": {"id": 5}}', b"\xff"])
def test_what_is_no_service_is_called_so(body):
    with answering((200, body)) as (url, _), pytest.raises(HeadroomError, match="is no service of Headroom's"):
        Client(url, None).job("a")


def test_a_newer_service_may_say_more():
    with answering((200, json.dumps({**SHOWN, "job": {**JOB, "new": 1}, "newer": 2}).encode())) as (url, _):
        assert Client(url, None).job("a")["job"]["state"] == "done"


@pytest.mark.parametrize(
    ("token", "hint"), [(None, "it says so; set HEADROOM_TOKEN"), (TOKEN, "it says so; HEADROOM_TOKEN holds another")]
)
def test_a_token_that_is_wrong_is_told_from_none(token, hint):
    refused = b'{"error": {"message": "it says so", "where": "authorization"}}'
    with answering((401, refused)) as (url, _), pytest.raises(ConfigError, match=f"^{hint}$"):
        Client(url, token).job("a")


@pytest.mark.parametrize("known", ["..", ".", "", "a/b", "../runs", "a b", "\x1b[2J"])
def test_what_is_no_id_is_not_asked_for(known):
    asked = Client("http://127.0.0.1:9", None)
    for ask in (asked.job, asked.cancel):
        with pytest.raises(ConfigError, match="is no id of a job"):
            ask(known)


def test_a_service_that_is_too_busy_for_a_while_is_waited_for(monkeypatch):
    monkeypatch.setattr(clients, "LOOK_EVERY_S", 0.0)
    busy = b'{"error": {"message": "too many", "where": null}}'
    with answering((503, b"Service Unavailable"), (502, b""), (500, busy), (200, json.dumps(SHOWN).encode())) as (
        url,
        _,
    ):
        assert [shown["job"]["id"] for shown in Client(url, None).follow("a")] == ["a"]
    with answering((503, busy)) as (url, _), pytest.raises(ServiceAway, match="503: too many"):
        Client(url, None).job("a")


def test_what_runs_is_listed_first_however_many_are_newer():
    running, newer = {**JOB, "id": "r", "state": "running"}, {**JOB, "id": "n"}
    pages = [json.dumps({"jobs": jobs}).encode() for jobs in ([running], [newer, running])]
    with answering(*((200, page) for page in pages)) as (url, asked):
        assert [job["id"] for job in Client(url, None).jobs()] == ["r", "n"]
    assert "state=running" in asked[0]


@pytest.mark.parametrize(
    ("text", "token"),
    [
        (f"{TOKEN}\n", TOKEN),
        (f" {TOKEN}\r\n", TOKEN),
        ("", None),
        (f"{TOKEN}\nsecond", ConfigError),
        ("geheimnis-ü-geheimnis", ConfigError),
        ("two words of a token", ConfigError),
        (f"{TOKEN}\x7f", ConfigError),
    ],
)
def test_a_token_is_a_word_and_is_never_shown(monkeypatch, tmp_path, text, token):
    monkeypatch.setenv("HEADROOM_TOKEN", text)
    (tmp_path / "token").write_text(text)
    for file in (None, tmp_path / "token"):
        if token is ConfigError:
            with pytest.raises(ConfigError) as refused:
                token_of(file)
            assert "a token is one word" in str(refused.value) and text[:9] not in str(refused.value)
        else:
            assert token_of(file) == (token if file is None or token else "")


def test_where_a_jobs_result_is_read_is_said():
    assert place_of(JOB, "http://x") == "its run: a in the folder of the runs; its page: http://x/runs/a"
    assert place_of({**JOB, "run": None}, "http://x") == "its page: http://x/jobs/a"
    assert place_of({**JOB, "ended_utc": None}, "http://x") == "its page: http://x/jobs/a"  # where its figures move


@pytest.mark.parametrize("server", ["http://[::1", "ftp://x", "http://", "x"])
def test_a_server_that_is_no_address_is_refused(server):
    with pytest.raises(ConfigError, match="--server"):
        Client(server, None)


def test_the_list_of_jobs_says_what_each_does_and_folds_no_id(capsys):
    known = "20261121-101500-1f2e3d4c"
    job = {
        **JOB,
        "id": known,
        "name": "a name " * 9,
        "what": "load test of https://a.example/" + "x" * 90,
        "exit_code": 4,
    }
    print_jobs([{**job, "meaning": "run invalid", "tags": ["east"]}], Console(width=100))
    said = capsys.readouterr().out
    assert known in said and "load test" in said and "(4:" in said and "east" in said


@pytest.mark.parametrize("terminal", [True, False])
def test_a_job_takes_two_lines_of_a_terminal_and_a_pipe_gets_all_of_it(terminal):
    job = {**JOB, "name": "nightly", "what": "load test of https://a.example/" + "x" * 90, "exit_code": 112}
    console = Console(width=80, force_terminal=terminal, file=io.StringIO())
    print_jobs([{**job, "meaning": MEANINGS[112], "tags": ["east", "chat"]}], console)
    first, second = console.file.getvalue().splitlines()
    assert first.startswith(f"{JOB['id']}  done (112: target refused")
    assert second.startswith("  nightly [east, chat]: load test of https://a.example/")
    assert (len(second) <= 80, second.endswith("x" * 90)) == (terminal, not terminal)


@pytest.mark.parametrize(
    ("name", "tags", "second"),
    [
        ("nightly", [], "  nightly: load test"),
        ("", [], "  load test"),
        ("", ["east"], "  [east]: load test"),
    ],
)
def test_what_a_job_does_comes_after_its_name_and_its_tags_where_it_has_any(name, tags, second):
    console = Console(width=80, file=io.StringIO())
    print_jobs([{**JOB, "name": name, "tags": tags, "what": "load test"}], console)
    assert console.file.getvalue().splitlines()[1] == second


def test_a_schedule_without_a_name_begins_with_when_it_is_due():
    console = Console(width=80, file=io.StringIO())
    print_schedules([{"id": "s", "name": "", "cron": "0 2 * * *", "next_utc": "2026-11-22T02:00:00Z"}], console)
    assert console.file.getvalue() == "s: scheduled 0 2 * * *, next 2026-11-22 02:00 UTC\n"


def test_where_there_are_no_jobs_it_is_said_and_no_header_stands_alone():
    console = Console(width=80, file=io.StringIO())
    print_jobs([], console)
    assert console.file.getvalue() == "no jobs; `headroom submit FILE` queues one\n"
