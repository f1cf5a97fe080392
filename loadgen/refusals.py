"""What a server says when it refuses: error code and message, how long to wait, how much is left."""

from __future__ import annotations

import html
import json
import math
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

import orjson

U32 = (1 << 32) - 1
ERROR_BODY_LIMIT = 1 << 20
CODE_LENGTH = 64
ERROR_LENGTH = 200
PATH_LENGTH = 8  # steps from a request's body to the parameter at fault
LONGEST_COUNT = 12  # digits
FILTERED = ("content_filter", "ResponsibleAIPolicyViolation")
NO_CODE = "no_error_code"
HTML_PAGE = "html_page"
PAGE_LENGTH, TITLE_LENGTH = 4_096, 80  # of a page what is looked at, and what is kept
UNPRINTABLE = "unprintable"
_SECONDS = re.compile(r"\d{1,300}(\.\d*)?")
_PROLOG = re.compile(r"(?s:[\ufeff\s]|<\?xml.*?\?>|<!--.*?-->)*+")
_TAG = re.compile(r"<[^<>]*>")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


def read_json(text: bytes | bytearray) -> Any:
    """JSON as the common clients take it: half an emoji, NaN and bytes that are no UTF-8 pass. Raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if len(text) > ERROR_BODY_LIMIT:
            raise
    try:
        return json.loads(text.decode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def error_of(body: bytes | bytearray, headers: dict[bytes, bytes]) -> tuple[str, str]:
    """Code and message of an error answer, in any of the layouts the API's documents and specification show.

    The error may be an object within `error`, the answer itself, a string in `error`, or a `detail` (or `details`):
    an object, a list of objects or a sentence. A parameter that it names comes first in the message. Of a page of HTML
    the message is its title or first heading, if any.
    """
    code = printable(headers.get(b"x-ms-error-code", b"").decode("latin-1").strip())
    try:
        answer = read_json(body)
    except ValueError:
        title = page_title(body)
        return code or (NO_CODE if title is None else HTML_PAGE), title or ""
    return describe_error(answer, code) if isinstance(answer, dict) else (code or NO_CODE, "")


def page_title(body: bytes | bytearray) -> str | None:
    """What a page of HTML calls itself, as proxies send one in the deployment's place: its title, else its first
    heading, and "" where it has neither, as all else may differ from answer to answer. None of what is no page.
    """
    page = _PROLOG.sub("", bytes(body[:PAGE_LENGTH]).decode("utf-8", "replace"), count=1)
    if not page.lower().startswith(("<!doctype html", "<html", "<head", "<title", "<body", "<center", "<h1")):
        return None
    return _text_within(page, "title") or _text_within(page, "h1")


def _text_within(page: str, tag: str) -> str:
    """The words of the page's first such element; up to the next tag where it does not end."""
    found = re.search(rf"(?is)<{tag}\b[^>]*>(.*?)(</{tag}|\Z)", page)
    if found is None:
        return ""
    words = _TAG.sub(" ", found[1]) if found[2] else found[1].partition("<")[0]
    return " ".join(printable(html.unescape(words)).split())[:TITLE_LENGTH].rstrip()


def describe_error(answer: dict[str, Any], code: str = "") -> tuple[str, str]:
    """Code and message of an error object; `code` is what its headers say."""
    inner = answer.get("error")
    layout = inner if isinstance(inner, dict) else answer
    named = (
        layout.get("code") or answer.get("code") or code or (inner if isinstance(inner, str) else layout.get("type"))
    )
    detail = next((each[key] for each in (layout, answer) for key in ("detail", "details") if each.get(key)), None)
    first = detail[0] if isinstance(detail, list) else detail
    said = layout.get("message") or answer.get("message")
    if not said and isinstance(first, dict):
        said = first.get("msg") or first.get("message")
    where = _parameter(layout, first if isinstance(first, dict) else {})
    message = text_of(said or (detail if detail and not where else ""))
    if where and where not in message:
        message = f"{where}: {message}" if message else where
    return printable(text_of(named or NO_CODE)), message


def _parameter(layout: dict[str, Any], detail: dict[str, Any]) -> str:
    """What in the request was wrong: the path in `detail`, else `param` or `target`."""
    path = detail.get("loc")
    if isinstance(path, list) and path:
        steps = path[1:] if path[0] == "body" and len(path) > 1 else path
        return ".".join(text_of(step) for step in steps[:PATH_LENGTH])
    named = layout.get("param") or layout.get("target")
    return named if isinstance(named, str) else ""


def text_of(value: Any) -> str:
    """A string as it is, anything else as JSON, unless it is nested too deeply for that or holds half an emoji."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return UNPRINTABLE


def printable(text: str) -> str:
    """One line of plain characters, whatever a server sent."""
    return text if text.isascii() and text.isprintable() else _UNPRINTABLE.sub(" ", text)


def brief(code: str, message: str) -> str:
    """What the record's `error` says: the code, and what the server adds to it."""
    text = f"{code}: {message}" if message and message != code else code
    return printable(text[: 10 * ERROR_LENGTH])[:ERROR_LENGTH]


def retry_after_ms(headers: dict[bytes, bytes], now_unix_s: float) -> int | None:
    """How long the server asks to wait: retry-after-ms, x-ms-retry-after-ms, or Retry-After in seconds or as a date.

    None where there is nothing usable; a date in the past is 0.
    """
    for name, per_unit in ((b"retry-after-ms", 1), (b"x-ms-retry-after-ms", 1), (b"retry-after", 1_000)):
        text = headers.get(name, b"").decode("latin-1").strip()
        if not text:
            continue
        if _SECONDS.fullmatch(text):
            wait_ms = float(text) * per_unit
        elif name == b"retry-after":
            try:
                at = parsedate_to_datetime(text)
                wait_ms = max(0.0, ((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - now_unix_s) * 1_000)
            except (ValueError, OverflowError, TypeError):
                continue
        else:
            continue
        return min(math.ceil(wait_ms), U32)
    return None


def remaining_of(headers: dict[bytes, bytes], what: bytes) -> int | None:
    """x-ratelimit-remaining-tokens or -requests; None where absent or, as seen in the wild, negative or no number."""
    text = headers.get(b"x-ratelimit-remaining-" + what, b"").strip()
    return int(text) if text.isdigit() and len(text) <= LONGEST_COUNT else None
