"""What a server says when it refuses, in each of the layouts that the API's documents, specifications and gateways show."""

import json
from email.utils import formatdate

import pytest

from loadgen.refusals import error_of, remaining_of, retry_after_ms
from loadgen.samples import Outcome
from loadgen.wire import ResponseReader

UNSUPPORTED = {
    "status": 422,
    "code": "parameter_not_supported",
    "message": "One of the parameters contain invalid values.",
}
DETAIL = {"loc": ["body", "response_format"], "input": "json_object"}
NAMED = "parameter_not_supported: response_format: One of the parameters contain invalid values."
FASTAPI = {
    "detail": [{"loc": ["body", "messages", 0, "role"], "msg": "Input should be 'user'", "type": "literal_error"}]
}
PROMPT = "The response was filtered due to the prompt triggering the content management policy."
DEEP = b'{"code":' + b"[" * 900 + b"]" * 900 + b"}"

# The claim, status, body, outcome and error.
TABLE = [
    ("within an error object", 404, {"error": {"code": "NotFound", "message": "no such route", "status": 404}}, "rejected", "NotFound: no such route"),
    ("with the parts of the specification", 400, {"error": {"code": "BadRequest", "message": "bad", "target": "stop", "details": [], "innererror": {"code": "X"}}}, "rejected", "BadRequest: stop: bad"),
    ("as the answer itself", 400, {"code": "invalid_value", "message": "no", "status": 400}, "rejected", "invalid_value: no"),
    ("as a string, with a message beside it", 404, {"error": "NotFoundError", "message": "no such route", "status": 404}, "rejected", "NotFoundError: no such route"),
    ("as a string and a code: the code counts", 422, {"error": "UnprocessableContentError", "code": "bad_value", "message": "no"}, "rejected", "bad_value: no"),
    ("as a detail that is a list", 422, FASTAPI, "rejected", "no_error_code: messages.0.role: Input should be 'user'"),
    ("as a detail that is a sentence", 404, {"detail": "Not Found"}, "rejected", "no_error_code: Not Found"),
    ("by its type, where there is no code", 400, {"error": {"message": "Unknown argument: foo", "type": "invalid_request_error", "param": "foo", "code": None}}, "rejected", "invalid_request_error: Unknown argument: foo"),
    ("with a number for a code", 400, {"object": "error", "message": "too long", "type": "BadRequestError", "param": None, "code": 400}, "rejected", "400: too long"),
    ("an unsupported parameter is named from an object", 422, {**UNSUPPORTED, "detail": DETAIL}, "rejected", NAMED),
    ("from a list", 422, {**UNSUPPORTED, "detail": [DETAIL]}, "rejected", NAMED),
    ("from details, an object", 422, {**UNSUPPORTED, "details": DETAIL}, "rejected", NAMED),
    ("from details, a list", 422, {**UNSUPPORTED, "details": [DETAIL]}, "rejected", NAMED),
    ("within an error object too", 422, {"error": {**UNSUPPORTED, "detail": DETAIL}}, "rejected", NAMED),
    ("beside one", 422, {"error": {"code": "parameter_not_supported"}, "detail": {"loc": ["body", "seed"], "value": 7}}, "rejected", "parameter_not_supported: seed"),
    ("by param", 400, {"error": {"code": "invalid_value", "message": "must be positive", "param": "max_tokens"}}, "rejected", "invalid_value: max_tokens: must be positive"),
    ("once only", 400, {"error": {"code": "invalid_value", "message": "max_tokens must be positive", "param": "max_tokens"}}, "rejected", "invalid_value: max_tokens must be positive"),
    ("with a path as long as eight steps", 422, {"code": "bad", "detail": {"loc": list(range(99))}, "message": "no"}, "rejected", "bad: 0.1.2.3.4.5.6.7: no"),
    ("with an empty path", 422, {"code": "bad", "detail": {"loc": []}, "message": "no"}, "rejected", "bad: no"),
    ("a filtered prompt, wrapped", 400, {"error": {"message": PROMPT, "type": None, "param": "prompt", "code": "content_filter", "status": 400}}, "filtered", "content_filter"),
    ("a filtered prompt, flat", 400, {"status": 400, "code": "content_filter", "message": "The response was filtered", "param": "messages", "type": None}, "filtered", "content_filter"),
    ("a filtered prompt, the error a string", 400, {"error": "ContentFilterError", "code": "content_filter", "message": "filtered", "param": "messages", "status": 400}, "filtered", "content_filter"),
    ("a filtered prompt, by its policy", 400, {"error": {"code": "ResponsibleAIPolicyViolation", "message": PROMPT}}, "filtered", "ResponsibleAIPolicyViolation"),
    ("a 429 with words: they are many, its code is one", 429, {"error": {"code": "429", "message": "Rate limit is exceeded. Try again in 50 seconds."}}, "throttled", "429"),
    ("a 429 as a string", 429, {"error": "TooManyRequestsError", "message": "later", "status": 429}, "throttled", "TooManyRequestsError"),
    ("a refused key: what is said of it may hold it", 401, {"error": "UnauthorizedError", "message": "the key abc is wrong", "status": 401}, "rejected", "UnauthorizedError"),
    ("too many tokens in one request", 413, {"error": {"code": "tokens_limit_reached", "message": "8000 at most"}}, "rejected", "tokens_limit_reached: 8000 at most"),
    ("a server's own failure", 503, {"error": {"code": "ServiceUnavailable", "message": "down"}}, "server_error", "ServiceUnavailable: down"),
    ("HTML instead", 502, b"<html><h1>Bad Gateway</h1></html>", "server_error", "html_page: Bad Gateway"),
    ("nothing at all", 500, b"", "server_error", "no_error_code"),
    ("an array", 400, [{"error": "x"}], "rejected", "no_error_code"),
    ("a code nested too deeply to print", 400, DEEP, "rejected", "unprintable"),
    ("an error in an answer to a plain request", 200, {"error": {"code": "429", "message": "later"}}, "broken_stream", "error_in_answer: 429"),
    ("an error's words where it has no code", 200, {"detail": "model is loading"}, "broken_stream", "error_in_answer: model is loading"),
    ("a filter's verdict in a 200", 200, {"error": {"code": "content_filter", "message": PROMPT}}, "filtered", "content_filter"),
    ("an empty answer", 200, b"", "broken_stream", "empty_body"),
    ("an answer that is none", 200, {"object": "list", "data": []}, "broken_stream", "not_a_chat_completion"),
    ("an answer of null", 200, b"null", "broken_stream", "not_a_chat_completion"),
    ("no answer, only an end", 204, b"", "rejected", "unexpected_status_204"),
    ("a redirect", 307, b"", "rejected", "redirect_not_followed"),
    ("not modified: no redirect", 304, b"", "rejected", "unexpected_status_304"),
]  # fmt: skip
BODIES = [body if isinstance(body, bytes) else json.dumps(body).encode() for _, _, body, _, _ in TABLE]


@pytest.mark.parametrize(("claim", "status", "body", "outcome", "error"), TABLE, ids=[row[0] for row in TABLE])
def test_an_error_is_named_wherever_it_stands(claim, status, body, outcome, error):
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader = ResponseReader(stream=False)
    reader.feed(
        b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, 0 if status == 304 else len(payload)) + payload, 1
    )
    assert reader.verdict() == (Outcome(outcome), error)


def test_the_header_names_the_error_where_the_body_does_not():
    header = {b"x-ms-error-code": b" RateLimitReached "}
    for body in (b"", b"<html>", b'{"error":"TooManyRequests"}', b'{"message":"later"}', b"[]"):
        assert error_of(body, header)[0] == "RateLimitReached"
    assert error_of(b'{"error":{"code":"429"}}', header)[0] == "429"


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_code_holds_no_control_characters_wherever_it_comes_from(status):
    for head, body in (
        (b"x-ms-error-code: a\x9b31m\r\n", b""),
        (b"", b'{"code":"a\\u009b31m"}'),
        (b"", b'{"error":"a\\u001b31m"}'),
    ):
        reader = ResponseReader(stream=False)
        reader.feed(b"HTTP/1.1 %d X\r\n%bContent-Length: %d\r\n\r\n%b" % (status, head, len(body), body), 1)
        assert reader.verdict()[1] == "a 31m"


def test_a_message_of_a_megabyte_is_cut_and_one_over_the_limit_is_not_read():
    for length, error in ((1_000_000, "bad: " + "y" * 195), (1_100_000, "no_error_code")):
        body = json.dumps({"code": "bad", "message": "y" * length}).encode()
        reader = ResponseReader(stream=False)
        reader.feed(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n" % len(body) + body, 1)
        assert reader.verdict() == (Outcome.REJECTED, error)


NOW_S = 1_700_000_000.0
DATE = formatdate(NOW_S + 30, usegmt=True)
MOST_MS = (1 << 32) - 1
WAITS = [
    ("whole seconds", {"retry-after": "7"}, 7_000),
    ("seconds with a fraction", {"retry-after": "1.5"}, 1_500),
    ("none: at once", {"retry-after": "0"}, 0),
    ("spaces around it", {"retry-after": " 7\t"}, 7_000),
    ("an HTTP date", {"retry-after": DATE}, 30_000),
    ("a date as RFC 850 wrote it", {"retry-after": "Tuesday, 14-Nov-23 22:13:50 GMT"}, 30_000),
    ("a date as C writes it", {"retry-after": "Tue Nov 14 22:13:50 2023"}, 30_000),
    ("a date in the past: at once", {"retry-after": formatdate(NOW_S - 30, usegmt=True)}, 0),
    ("a date before all others", {"retry-after": "Mon, 01 Jan 0001 00:00:00 +2359"}, 0),
    ("a date after all others", {"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, MOST_MS),
    ("a day, as seen in the wild", {"retry-after": "86400"}, 86_400_000),
    ("ten to the ninth: as long as the record holds", {"retry-after": "1000000000"}, MOST_MS),
    ("a hundred digits: likewise", {"retry-after": "9" * 100}, MOST_MS),
    ("four hundred digits: nothing usable", {"retry-after": "9" * 400}, None),
    ("garbage", {"retry-after": "soon"}, None),
    ("a negative number", {"retry-after": "-3"}, None),
    ("a number with a sign", {"retry-after": "+5"}, None),
    ("a number as Python writes it", {"retry-after": "1_000"}, None),
    ("an exponent", {"retry-after": "1e3"}, None),
    ("no number", {"retry-after": "nan"}, None),
    ("infinity", {"retry-after": "inf"}, None),
    ("two answers", {"retry-after": "7, 8"}, None),
    ("nothing", {"retry-after": ""}, None),
    ("a date without a day that is one", {"retry-after": "Tue, 99 Nov 2023 22:13:50 GMT"}, None),
    ("a zone beyond the earth", {"retry-after": "Fri, 31 Dec 2027 23:59:59 +99999999999999999999"}, None),
    ("milliseconds", {"retry-after-ms": "250"}, 250),
    ("a fraction of a millisecond is one", {"retry-after-ms": "0.3"}, 1),
    ("milliseconds before seconds", {"retry-after-ms": "250", "retry-after": "7"}, 250),
    ("the older name of them", {"x-ms-retry-after-ms": "80", "retry-after": "7"}, 80),
    ("the newer name first", {"retry-after-ms": "90", "x-ms-retry-after-ms": "80"}, 90),
    ("seconds, where the milliseconds are garbage", {"retry-after-ms": "soon", "retry-after": "2"}, 2_000),
    ("or negative", {"retry-after-ms": "-1", "retry-after": "2"}, 2_000),
    ("or a date, which only Retry-After may be", {"retry-after-ms": DATE, "retry-after": "2"}, 2_000),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "headers", "wait_ms"), WAITS, ids=[row[0] for row in WAITS])
def test_how_long_a_server_asks_to_wait(claim, headers, wait_ms):
    reader = ResponseReader(stream=False)
    lines = "".join(f"{name.title()}: {value}\r\n" for name, value in headers.items())
    reader.feed(f"HTTP/1.1 429 X\r\n{lines}Content-Length: 0\r\n\r\n".encode(), 1)
    assert reader.complete
    assert retry_after_ms(reader.headers, NOW_S) == wait_ms


def test_a_server_that_says_nothing_asks_for_nothing():
    assert retry_after_ms({}, NOW_S) is None


@pytest.mark.parametrize(
    ("value", "left"),
    [("41", 41), ("0", 0), (" 41 \t", 41), ("-1", None), ("unlimited", None), ("", None), ("1,000", None), ("12.5", None), ("1e6", None), ("0x10", None), ("9" * 12, 10**12 - 1), ("9" * 5_000, None), ("\u00b2", None)],
)  # fmt: skip
@pytest.mark.parametrize("what", ["tokens", "requests"])
def test_what_a_server_says_is_left(what, value, left):
    reader = ResponseReader(stream=False)
    reader.feed(
        f"HTTP/1.1 200 OK\r\nX-RateLimit-Remaining-{what.title()}: {value}\r\nContent-Length: 0\r\n\r\n".encode(), 1
    )
    assert remaining_of(reader.headers, what.encode()) == left
    assert remaining_of(reader.headers, b"requests" if what == "tokens" else b"tokens") is None
