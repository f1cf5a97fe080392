"""The page of a run that lasts: for its own machine, harmless whatever comes, and no burden to the run."""

import asyncio
import re
import socket
import time
from contextlib import closing

import httpx
import pytest

from headroom.live_server import MOST_CONNECTIONS, live_page
from headroom.progress_feed import HISTORY, MOST_READERS, QUEUED, Feed
from tests.browsers import contrast, needs_browser, until
from tests.commands import told

PAYLOAD = "<img src=x onerror=alert(1)>\u202egnp.exe</script><script>alert(2)</script>"
ABOUT = {"folder": "runs/1", "title": "sim", "tokens_per_minute": 200_000, "requests_per_minute": 1_000}


def progress(t_s, **changes):
    return {
        "t_s": t_s, "duration_s": 60.0, "sent": 70, "in_flight": 9, "waiting": 1, "ok": 60, "failed": 1, "throttled": 2,
        "dropped": 3, "tokens": 12_345, "tokens_per_minute": 151_000, "requests_per_minute": 360, "requests_per_s": 5.9,
        "ttft_p50_ms": 83.1, "ttft_p95_ms": 201.0, "itl_p50_ms": 20.1, "errors": {}, **changes,
    }  # fmt: skip


# The feed.


def frames(feed, last=None, *, most=10_000):
    """All that a reader gets before it would wait."""

    async def read():
        got = []
        async for frame in feed.events(last):
            got.append(frame)
            if len(got) == most:
                break
        return got

    feed.close()
    return asyncio.run(read())


def told_by(frame):
    return tuple(line.partition(": ")[2] for line in frame.decode().splitlines()[:3])


def test_who_comes_late_gets_the_run_from_its_start_and_who_returns_the_rest():
    feed = Feed()
    feed.publish("progress", {"of": "an earlier run"})
    feed.publish("started", ABOUT)
    for number in range(5):
        feed.publish("progress", {"n": number})
    seen = frames(feed)
    assert [told_by(frame)[1] for frame in seen] == ["started", *["progress"] * 5, "closed"]
    third = told_by(seen[3])[0]
    assert [told_by(frame)[2] for frame in frames(feed, third)][:2] == ['{"n": 3}', '{"n": 4}']
    for of_another in ("", "3", "beef.3", third + "x", third.replace(".", ".-"), "x" * 5_000):
        assert frames(feed, of_another) == seen, of_another


def test_of_a_long_run_the_start_and_the_last_quarter_of_an_hour_are_kept():
    feed = Feed()
    feed.publish("started", ABOUT)
    for number in range(2 * HISTORY):
        feed.publish("progress", {"n": number})
    kept = frames(feed)
    assert told_by(kept[0])[1] == "started" and len(kept) == HISTORY + 1
    assert told_by(kept[-2])[2] == f'{{"n": {2 * HISTORY - 1}}}'


def test_a_reader_that_stands_still_is_let_go_and_the_others_go_on():
    async def both():
        feed = Feed()
        feed.publish("started", ABOUT)
        stuck, awake = feed.events(), feed.events()
        assert b"started" in await anext(stuck) and b"started" in await anext(awake)
        heard = 0
        for number in range(QUEUED + 5):
            feed.publish("progress", {"n": number})
            heard += b"progress" in await anext(awake)
        left = [frame async for frame in stuck]
        await awake.aclose()
        return heard, left, feed

    heard, left, feed = asyncio.run(both())
    assert heard == QUEUED + 5 and left == []
    assert not feed._readers


# The server.


@pytest.fixture(scope="module")
def client():
    with httpx.Client(verify=False) as client:
        yield client


@pytest.fixture(scope="module")
def page():
    with live_page(0) as (feed, url):
        feed.publish("started", ABOUT)
        yield feed, url


ASKED = {  # a sentence -> headers, status
    "its own machine by number": ({}, 200),
    "its own machine by name": ({"Host": "localhost:{port}"}, 200),
    "its own page": ({"Origin": "http://127.0.0.1:{port}"}, 200),
    "through a tunnel on another port": ({"Host": "localhost:9000", "Origin": "http://localhost:9000"}, 200),
    "a name of another site that leads here": ({"Host": "evil.example"}, 403),
    "such a name with our port": ({"Host": "evil.example:{port}"}, 403),
    "a name that begins like ours": ({"Host": "localhost.evil.example:{port}"}, 403),
    "no name": ({"Host": ""}, 403),
    "another site's script": ({"Origin": "https://evil.example"}, 403),
    "another port's script": ({"Origin": "http://127.0.0.1:1"}, 403),
    "a sandboxed frame": ({"Origin": "null"}, 403),
}


@pytest.mark.parametrize("case", ASKED)
def test_it_is_read_from_its_own_machine_alone(page, client, case):
    _, url = page
    headers, status = ASKED[case]
    port = url.rstrip("/").rpartition(":")[2]
    sent = {name: value.replace("{port}", port) for name, value in headers.items()}
    for path in ("", "live.js", "live.css"):
        answer = client.get(url + path, headers=sent)
        assert answer.status_code == status, path
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert answer.headers["x-content-type-options"] == "nosniff"
    with client.stream("GET", f"{url}events", headers=sent) as events:
        assert events.status_code == status
        if status == 200:
            assert next(events.iter_text()).startswith("id: ")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_can_be_written(page, client, method):
    for path in ("", "events", "live.js"):
        assert client.request(method, page[1] + path).status_code == 405


@pytest.mark.parametrize("path", ["run", "../manifest.json", "live.js/..%2f..%2fpyproject.toml", "%2e%2e/etc/passwd"])
def test_nothing_else_is_served(page, client, path):
    assert client.get(page[1] + path).status_code == 404


def test_it_listens_on_loopback_only():
    with live_page(0) as (_, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        addresses = {each[4][0] for each in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {
            "127.0.0.1"
        }
        for address in addresses:
            with pytest.raises(OSError):
                socket.create_connection((address, port), timeout=1).close()


def test_what_is_no_request_gets_an_answer_and_leaves_no_line_on_the_panel(page, client, caplog):
    port = int(page[1].rstrip("/").rpartition(":")[2])
    for junk in (b"\x16\x03\x01 a TLS hello\r\n\r\n", b"no request at all\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            one.sendall(junk)
            assert one.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403")), junk
    assert client.get(page[1]).status_code == 200
    assert caplog.records == []


def test_readers_that_never_read_neither_slow_the_run_nor_keep_it_from_ending(client):
    with live_page(0) as (feed, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        stuck = []
        for _ in range(MOST_READERS + 3):
            one = socket.create_connection(("127.0.0.1", port))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            one.sendall(f"GET /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            stuck.append(one)
        for _ in range(200):
            if feed.crowded:
                break
            time.sleep(0.02)
        assert len(feed._readers) == MOST_READERS
        began = time.monotonic()
        for number in range(3_000):
            feed.publish("progress", {"n": number, "text": "x" * 3_000})
        assert time.monotonic() - began < 2.0
        assert MOST_CONNECTIONS > MOST_READERS
        for _ in range(200):
            feed.publish("progress", {"n": 0})
            if not feed.crowded:
                break
            time.sleep(0.02)
        with client.stream("GET", f"{url}events") as events:  # there is a place for who reads
            assert next(events.iter_text()).startswith("id: ")
        ending = time.monotonic()
    assert time.monotonic() - ending < 6.0
    for one in stuck:
        one.close()


def test_a_port_that_is_taken_is_said_before_anything_is_sent(tmp_path):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        done = told(tmp_path, "run", "--live-port", port, "--out", "run")
    assert done.returncode == 2
    assert f"--live-port {port} cannot be had: Address already in use; choose another" in done.stderr
    assert not (tmp_path / "run").exists()
    assert "--live-port 70000 cannot be had" in told(tmp_path, "run", "--live-port", "70000").stderr


# The page in a browser.


INKS = """[...document.querySelectorAll('body *')].filter(each => !each.children.length && each.textContent.trim())
    .map(each => [each.textContent, getComputedStyle(each).color, getComputedStyle(document.documentElement).backgroundColor])"""
NAMELESS = """[...document.querySelectorAll('[role=img], [role=meter], [role=progressbar], section')]
    .filter(each => !each.getAttribute('aria-label')).map(each => each.outerHTML)"""


def text_of(page, selector):
    return re.sub(r"\s+", " ", page.locator(selector).first.inner_text())


@needs_browser
def test_a_run_is_watched_from_its_start_to_its_end_at_any_width_and_nothing_in_it_is_obeyed(browser):
    with live_page(0) as (feed, url):
        page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        problems, asked = [], set()
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: asked.add(request.url))
        page.goto(url)
        assert text_of(page, "h1") == "Waiting for the run"
        feed.publish("started", {**ABOUT, "title": PAYLOAD})
        budget = {"usd": {"used": 0.12, "limit": 5.0}, "wall_s": {"used": 9, "limit": 600}}
        for t_s in range(8):
            unknown = {"requests_per_s": None, "ttft_p50_ms": None} if t_s < 3 else {}
            feed.publish("progress", progress(float(t_s), budget=budget, errors={PAYLOAD: 2}, **unknown))
        until(page, "document.querySelector('[data-count=sent]').textContent === '70'")
        until(page, "document.querySelector('.state').textContent.includes('7 of 60 s, 53 s left')")
        assert "alert(1)" in text_of(page, "h1") and "\u202e" not in page.content()
        assert text_of(page, "[data-errors]").endswith("2") and "None so far" not in text_of(page, ".columns")
        assert text_of(page, "[data-gauges]") == (
            "Tokens reserved, a minute 151,000 of 200,000 Requests a minute 360 of 1,000 "
            "Budget used $0.12 of $5.00 Budget used 9 of 600 s"
        )
        assert text_of(page, "[data-chart=ttft]") == (
            "Time to first token ms 83.1 median; p95 201 (dashed) 0 to 30 s highest 201"
        )
        lines = page.locator("[data-chart=ttft] path.now").get_attribute("d")
        assert lines.count("M") == 1 and lines.count("L") == 4  # from when it was known
        assert page.locator("[data-chart=itl] svg").get_attribute(
            "aria-label"
        ) == "Between tokens: 20.1 ms now, 20.1 ms at most".replace(" ms at", " at")
        for width in (1280, 390, 320):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            for words, ink, paper in page.evaluate(INKS):
                assert contrast(ink, paper) >= 4.5, words
        assert page.evaluate(NAMELESS) == []
        assert (
            page.locator("[role=status]").count() == 1 and text_of(page, "[role=status]") == ""
        )  # it does not chatter
        feed.publish("ended", {"folder": "runs/1", "reason": None})
        until(page, "document.querySelector('[data-state]').textContent === 'ENDED'")
        again = browser.new_page()
        again.goto(url)
        until(again, "document.querySelectorAll('[data-chart=itl] path.now')[0]?.getAttribute('d').length > 40")
        again.close()
    until(page, "document.querySelector('[role=status]').textContent.includes('Nothing more will come.')")
    assert "all of it was played" in text_of(page, "[role=status]")
    assert problems == []
    assert {address.removeprefix(url) for address in asked if not address.startswith("data:")} == {
        "",
        "live.js",
        "live.css",
        "events",
    }
    page.close()


@needs_browser
def test_a_lost_connection_is_said_and_the_next_run_begins_anew(browser):
    with live_page(0) as (feed, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        page = browser.new_page()
        page.goto(url)
        feed.publish("started", ABOUT)
        feed.publish("progress", progress(50.0))
        until(page, "document.querySelector('[data-count=sent]').textContent === '70'")
        feed.publish("ended", {"folder": "runs/1", "reason": "the budget of 9 requests is used up"})
        until(page, "document.querySelector('[role=status]').textContent.includes('the budget of 9 requests')")
        feed.publish("started", {**ABOUT, "title": "the second", "tokens_per_minute": None})
        feed.publish("progress", progress(1.0, sent=5))
        until(page, "document.querySelector('[data-count=sent]').textContent === '5'")
        assert text_of(page, "h1") == "the second" and text_of(page, ".badge") == "RUNNING"
        assert "151,000, no limit" in text_of(page, "[data-gauges]")
        feed._closed = True  # as by a kill: no goodbye
        feed._send(None)
    until(page, "document.querySelector('[data-state]').textContent === 'LOST'")
    assert "this page tries again" in text_of(page, "[role=status]")
    with live_page(port) as (feed, _):
        feed.publish("started", {**ABOUT, "title": "the third"})
        until(page, "document.querySelector('h1').textContent === 'the third'")
    page.close()
