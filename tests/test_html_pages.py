"""An error that comes as a page of HTML is told by what the page calls itself, in plain characters."""

from __future__ import annotations

import time

import pytest

from loadgen.refusals import brief, error_of, page_title
from loadgen.samples import Outcome
from planner.assemble import plan_run
from tests.runs import answered, make_run

NGINX = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center></body></html>"


@pytest.mark.parametrize(
    ("page", "title"),
    [
        pytest.param(NGINX, "502 Bad Gateway", id="nginx"),
        pytest.param(
            b"<!DOCTYPE html>\n<TITLE lang=en>\n x  &lt;y&gt; </TITLE>", "x <y>", id="entities and white space"
        ),
        pytest.param(b"<html><body>Bad <b>gateway</b>, request 8f3</body></html>", "", id="no title: no words"),
        pytest.param(b"<html><style>body{color:red}</style><p>Ray 8f3", "", id="a style is no title"),
        pytest.param(b"<html><title> </title><h1>Gone</h1>", "Gone", id="an empty title hides no heading"),
        pytest.param(
            b"<html><h1 class=x><b>Gone</b> <i>away</i></h1> 8f3", "Gone away", id="a heading with tags in it"
        ),
        pytest.param(b"<html><h1>Gone<p>request 8f3", "Gone", id="a heading without end"),
        pytest.param(b"<html><h2>Gone</h2><h1>", "", id="cut at the heading"),
        pytest.param(b"<!-- a --> <!--b-->\n<html><title>Gone</title>", "Gone", id="comments first"),
        pytest.param(
            b"<?xml version='1.0'?>\n<!DOCTYPE html><html><head><title>Gone</title>",
            "Gone",
            id="XHTML, as such pages are",
        ),
        pytest.param(b"<!-- never ends <html><title>Gone</title>", None, id="all comment"),
        pytest.param(b"\xef\xbb\xbf <html><h1>Ray 123</h1> id 8f3", "Ray 123", id="not what differs from page to page"),
        pytest.param(b"<html><title>" + b"word " * 10_000, ("word " * 16)[:-1], id="cut"),
        pytest.param(b"", None, id="nothing"),
        pytest.param(b"upstream connect error", None, id="plain text"),
        pytest.param(b"<?xml version='1.0'?><Error/>", None, id="XML"),
    ],
)
def test_a_page_is_called_by_its_title(page, title):
    assert page_title(page) == title
    assert error_of(page, {}) == (("html_page", title) if title is not None else ("no_error_code", ""))


def test_a_page_that_says_nothing_is_told_by_its_kind_alone():
    assert brief(*error_of(b"<html><p>request 8f3", {})) == "html_page"


def test_what_the_header_names_stays_the_code_and_what_the_record_keeps_is_plain():
    assert error_of(NGINX, {b"x-ms-error-code": b"Down"}) == ("Down", "502 Bad Gateway")
    hostile = b"<html><title>\x1b[31mred\x07\xe2\x80\xae&#27;[2J</title>"
    assert brief(*error_of(hostile, {})) == "html_page: [31mred [2J"


@pytest.mark.parametrize(
    "page",
    [
        b"<html>" + b"<" * 1_000_000,
        b"<html>" + b"<title" * 200_000,
        b"<title>" * 200_000,
        b"<!--" * 200_000,
        b"<html>" + b"&" * 1_000_000,
    ],
)
def test_a_page_made_to_be_slow_is_read_as_quickly_as_any(page):
    began = time.process_time()
    page_title(page)
    assert time.process_time() - began < 0.05


def test_the_failures_of_a_run_name_the_page(tmp_path):
    told = ("html_page: 502 Bad Gateway", "html_page", "busy: come again at 9", "error_in_stream: busy: later")
    samples = [
        answered(number, number / 10, outcome=Outcome.SERVER_ERROR, status=502, error=told[number % 4])
        for number in range(30)
    ]
    failures = plan_run(make_run(tmp_path, samples)).traffic.failures
    assert {failure.error for failure in failures} == {
        "html_page: 502 Bad Gateway",
        "html_page",
        "busy",
        "error_in_stream: busy",
    }
