"""The simulated deployment, as its clients see it: a real process on loopback."""

import asyncio
import base64
import io
import json
import math
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from types import SimpleNamespace

import httpx
import pytest
from PIL import Image

from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.serving import Lengths, ServingModel, rng_of
from loadgen.tokens import text_tokens

KEY = "0123456789abcdef0123456789abcdef"
CHAT, OPENAI = "/chat/completions", "/v1/chat/completions"
# Without jitter and load a request of P prompt tokens and n completion tokens takes exactly TTFT + (n - 1) x ITL.
EXACT = {"ttft_sigma": 0, "itl_sigma": 0, "ttft_per_prompt_token_ms": 0, "ttft_per_running_ms": 0}
FAST = {"ttft_base_ms": 2, "itl_base_ms": 0.2, "itl_per_running_ms": 0}
PATIENCE_S = 10


@contextmanager
def simulated(*flags, serving=FAST, key=None):
    """A running simulator: its url, pid, process and an HTTP client."""
    parameters = [word for name, value in serving.items() for word in ("--serving", f"{name}={value}")]
    command = [sys.executable, "-m", "loadgen.simulator", "--port", "0", "--until-eof", *flags, *parameters]
    if key is not None:
        command += ["--key-env", "SIMULATOR_KEY"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | ({"SIMULATOR_KEY": key} if key else {}),
    )
    with process:
        try:
            announced = json.loads(process.stdout.readline())
            with httpx.Client(base_url=announced["url"], trust_env=False, timeout=PATIENCE_S) as client:
                yield SimpleNamespace(process=process, client=client, **announced)
        finally:
            process.stdin.close()
            try:
                process.wait(PATIENCE_S)
            finally:
                process.kill()


@pytest.fixture(scope="module")
def fast():
    with simulated("--tpm", "1000000000", "--rpm", "1000000") as server:
        yield server


def ask(text="hello", **fields):
    return {"messages": [{"role": "user", "content": text}]} | fields


def pinned(tokens):
    return {"x-headroom-completion-tokens": str(tokens)}


def events(raw):
    """The JSON of each event; checks the framing on the way."""
    assert b"\r" not in raw
    *frames, rest = raw.split(b"\n\n")
    assert rest == b""
    assert frames.pop() == b"data: [DONE]"
    assert all(frame.startswith(b"data: {") and b"\n" not in frame for frame in frames)
    return [json.loads(frame.removeprefix(b"data: ")) for frame in frames]


def streamed(server, route=CHAT, *, headers=None, **fields):
    answer = server.client.post(route, json=ask(stream=True, **fields), headers=headers)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream"
    return events(answer.content)


def eventually(claim):
    """True as soon as the claim holds; False if it never does."""
    for _ in range(200):
        if claim():
            return True
        time.sleep(PATIENCE_S / 200)
    return False


def data_url(width_px, height_px, kind="JPEG", mime="image/jpeg"):
    file = io.BytesIO()
    Image.new("RGB", (width_px, height_px), "navy").save(file, kind)
    return f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"


def picture(url, text="what is this?"):
    return [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}]


# What is answered


def test_info_names_the_model(fast):
    for query in ("", "?api-version=2024-05-01-preview"):
        assert fast.client.get("/info" + query).json() == {
            "model_name": "Phi-3-mini-4k-instruct",
            "model_type": "chat-completions",
            "model_provider_name": "Microsoft",
        }


@pytest.mark.parametrize("route", [CHAT, CHAT + "?api-version=2024-05-01-preview", OPENAI])
def test_a_plain_answer_has_the_documented_fields_and_its_usage_adds_up(fast, route):
    before_s = int(time.time())
    answer = fast.client.post(route, json=ask("a" * 40), headers=pinned(7))
    body = answer.json()
    assert answer.status_code == 200
    assert re.fullmatch("[0-9a-f]{32}", body["id"])
    assert body["object"] == "chat.completion"
    assert before_s <= body["created"] <= time.time()
    assert body["model"] == "Phi-3-mini-4k-instruct"
    (choice,) = body["choices"]
    assert choice.keys() == {"index", "message", "finish_reason", "logprobs"}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["tool_calls"] is None
    assert body["usage"] == {"prompt_tokens": 14, "total_tokens": 21, "completion_tokens": 7}
    # Sent back in a next turn, the answer counts as many tokens as it was billed.
    assert text_tokens(choice["message"]["content"]) == 7


def test_a_stream_has_the_role_first_one_token_a_chunk_and_the_usage_in_its_last_chunk(fast):
    chunks = streamed(fast, headers=pinned(5))
    assert len({(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}) == 1
    assert re.fullmatch("[0-9a-f]{32}", chunks[0]["id"])
    assert chunks[0]["object"] == "chat.completion.chunk"
    choices = [chunk["choices"][0] for chunk in chunks]
    assert all(choice["logprobs"] is None and choice["index"] == 0 for choice in choices)
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert len(choices) == 1 + 5 + 1
    assert all(choice["delta"].keys() == {"content"} and choice["delta"]["content"] for choice in choices[1:-1])
    assert choices[-1]["delta"] == {"content": ""}
    assert [choice["finish_reason"] for choice in choices] == [None] * 6 + ["stop"]
    assert ["usage" in chunk for chunk in chunks] == [False] * 6 + [True]
    assert chunks[-1]["usage"] == {"prompt_tokens": 6, "total_tokens": 11, "completion_tokens": 5}


def test_the_openai_dialect_sends_usage_only_when_asked_and_in_a_chunk_of_its_own(fast):
    silent = streamed(fast, OPENAI, headers=pinned(3))
    assert all("usage" not in chunk and len(chunk["choices"]) == 1 for chunk in silent)
    *earlier, last = streamed(fast, OPENAI, headers=pinned(3), stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 6, "total_tokens": 9, "completion_tokens": 3}
    assert all(chunk["usage"] is None for chunk in earlier)
    assert earlier[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("wanted", "max_tokens", "generated", "reason"),
    [
        (9, 10, 9, "stop"),  # below the limit
        (10, 10, 10, "length"),  # at the limit: a client cannot tell it from being cut
        (50, 10, 10, "length"),
        (1, None, 1, "stop"),
        (50, 1, 1, "length"),
        (50, 0, 0, "length"),  # the API allows zero
    ],
)
def test_max_tokens_cuts_the_answer_and_says_so(fast, wanted, max_tokens, generated, reason):
    limit = {} if max_tokens is None else {"max_tokens": max_tokens}
    plain = fast.client.post(CHAT, json=ask(**limit), headers=pinned(wanted)).json()
    assert plain["usage"]["completion_tokens"] == generated
    assert plain["choices"][0]["finish_reason"] == reason
    chunks = streamed(fast, headers=pinned(wanted), **limit)
    assert len(chunks) == generated + 2
    assert chunks[-1]["usage"]["completion_tokens"] == generated
    assert chunks[-1]["choices"][0]["finish_reason"] == reason


def test_the_context_cuts_the_answer_and_refuses_a_longer_prompt():
    with simulated("--context-tokens", "50") as server:
        cut = server.client.post(CHAT, json=ask(max_tokens=4000), headers=pinned(4000)).json()
        assert cut["usage"] == {"prompt_tokens": 6, "total_tokens": 50, "completion_tokens": 44}
        assert cut["choices"][0]["finish_reason"] == "length"
        refused = server.client.post(CHAT, json=ask("a" * 200))
        assert refused.status_code == 400
        assert refused.headers["x-ms-error-code"] == "context_length_exceeded"
        assert refused.json()["error"]["code"] == "context_length_exceeded"


def test_a_model_brings_its_own_context(fast):
    prompt = ask("a" * 4 * 5_000, max_tokens=1)
    assert fast.client.post(CHAT, json=prompt).status_code == 400
    with simulated("--model", "phi-3-small-8k-instruct") as server:
        assert server.client.post(CHAT, json=prompt).json()["usage"]["prompt_tokens"] == 5_004


def test_the_same_seed_gives_the_same_answers_and_another_seed_others():
    def answers(seed):
        with simulated("--seed", str(seed)) as server:
            bodies = [server.client.post(CHAT, json=ask()).json() for _ in range(3)]
        return [(body["id"], body["choices"], body["usage"]) for body in bodies]

    first = answers(1)
    assert answers(1) == first
    assert answers(2) != first
    assert len({answer_id for answer_id, _, _ in first}) == 3


def test_a_stream_says_what_the_plain_answer_to_the_same_request_says():
    with simulated() as server:
        plain = server.client.post(CHAT, json=ask()).json()
    with simulated() as server:
        chunks = streamed(server)
    assert chunks[0]["id"] == plain["id"]
    content = "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks)
    assert content == plain["choices"][0]["message"]["content"]
    assert chunks[-1]["usage"] == plain["usage"]


# Images


def test_an_image_costs_what_phi_3_vision_was_documented_to_count(fast):
    content = picture(data_url(1900, 1069), "x" * 92)
    body = fast.client.post(CHAT, json=ask(content, max_tokens=1)).json()
    assert body["usage"]["prompt_tokens"] == 2_380


@pytest.mark.parametrize(("kind", "mime"), [("JPEG", "image/jpeg"), ("JPEG", "image/jpg"), ("PNG", "image/png")])
def test_jpeg_and_png_are_read(fast, kind, mime):
    content = picture(data_url(336, 336, kind, mime), "abcd")
    usage = fast.client.post(CHAT, json=ask(content, max_tokens=1)).json()["usage"]
    assert usage["prompt_tokens"] == 4 + 1 + (16 + 1) * 144 + 1 + (4 + 1) * 12


def test_of_two_turns_with_an_image_only_the_last_is_counted(fast):
    small, large = picture(data_url(336, 336), "abcd"), picture(data_url(1900, 1069), "abcd")
    turns = [
        {"role": "user", "content": small},
        {"role": "assistant", "content": "abcd"},
        {"role": "user", "content": large},
    ]
    body = fast.client.post(CHAT, json={"messages": turns, "max_tokens": 1}).json()
    assert body["usage"]["prompt_tokens"] == 3 * (4 + 1) + 2_353


@pytest.mark.parametrize(
    "url",
    [
        "data:image/jpeg;base64,@@@@",
        "data:image/jpeg;base64,abc",
        "data:image/jpeg;base64,\u00e4\u00e4\u00e4\u00e4",
        "data:image/jpeg;base64," + base64.b64encode(b"no image at all").decode(),
        data_url(8, 8)[:60],
        data_url(8, 8) + "@",
        data_url(8, 8, "GIF", "image/jpeg"),
        data_url(8, 8, "GIF", "image/gif"),
        "data:image/jpeg,plain",
        "file:///etc/hostname",
        "",
    ],
)
def test_what_is_no_jpeg_or_png_is_a_bad_request(fast, url):
    answer = fast.client.post(CHAT, json=ask(picture(url)))
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "bad_request")


def test_two_images_in_one_message_are_refused(fast):
    url = data_url(8, 8)
    answer = fast.client.post(CHAT, json=ask(picture(url) + picture(url)))
    assert answer.status_code == 400
    assert "one image" in answer.json()["error"]["message"]


def test_a_remote_image_is_refused_and_never_fetched(fast):
    with socket.create_server(("127.0.0.1", 0)) as elsewhere:
        elsewhere.setblocking(False)
        port = elsewhere.getsockname()[1]
        answer = fast.client.post(CHAT, json=ask(picture(f"http://127.0.0.1:{port}/cat.jpg")))
        assert answer.status_code == 400
        assert "not fetched" in answer.json()["error"]["message"]
        with pytest.raises(BlockingIOError):
            elsewhere.accept()


# What is refused


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {KEY}"}, 200),
        ({"Authorization": f"bearer {KEY}"}, 200),  # the scheme's case does not matter
        ({"api-key": KEY}, 200),
        ({"Authorization": f"Bearer {KEY}", "api-key": KEY}, 200),  # as the SDK sends it
        ({"Authorization": KEY}, 401),
        ({"Authorization": f"Basic {KEY}"}, 401),
        ({"api-key": KEY[:-1]}, 401),
        ({"api-key": ""}, 401),
    ],
)
def test_a_key_is_asked_for_in_either_header(keyed, headers, status):
    answers = [keyed.client.get("/info", headers=headers)]
    answers += [keyed.client.post(route, json=ask(max_tokens=1), headers=headers) for route in (CHAT, OPENAI)]
    assert [answer.status_code for answer in answers] == [status] * 3
    if status == 401:
        assert all(answer.json().keys() == {"error", "message", "status"} for answer in answers)
        assert all(answer.headers["x-ms-error-code"] == "unauthorized" for answer in answers)


@pytest.fixture(scope="module")
def keyed():
    with simulated(key=KEY) as server:
        yield server


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/embeddings", 404),
        ("POST", CHAT + "/", 404),
        ("GET", CHAT, 405),
        ("DELETE", OPENAI, 405),
        ("POST", "/info", 405),
    ],
)
def test_unknown_routes_and_methods_are_named(fast, method, path, status):
    answer = fast.client.request(method, path)
    assert answer.status_code == status
    assert answer.json()["status"] == status
    assert path in answer.json()["message"]
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("body", [b"", b"{", b'{"messages": [1,]}', b"\xff", b'{"messages":[{"content":"\\ud800"}]}'])
def test_broken_json_is_a_bad_request(fast, body):
    answer = fast.client.post(CHAT, content=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


USER = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ([], []),
        ({}, ["messages"]),
        ({"messages": []}, ["messages"]),
        ({"messages": "hello"}, ["messages"]),
        ({"messages": ["hello"]}, ["messages", 0]),
        ({"messages": [USER, {"role": "robot", "content": ""}]}, ["messages", 1, "role"]),
        ({"messages": [{"role": "user"}]}, ["messages", 0, "content"]),
        ({"messages": [{"role": "user", "content": []}]}, ["messages", 0, "content"]),
        ({"messages": [{"role": "user", "content": 7}]}, ["messages", 0, "content"]),
        ({"messages": [{"role": "user", "content": ["x"]}]}, ["messages", 0, "content", 0]),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, ["messages", 0, "content", 0]),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, ["messages", 0, "content", 0, "text"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image": {"url": "x"}}]}]},
            ["messages", 0, "content", 0, "image_url"],
        ),
        ({"messages": [USER], "max_tokens": "10"}, ["max_tokens"]),
        ({"messages": [USER], "max_tokens": -1}, ["max_tokens"]),
        ({"messages": [USER], "max_tokens": 1.5}, ["max_tokens"]),
        ({"messages": [USER], "max_tokens": True}, ["max_tokens"]),
        ({"messages": [USER], "stream": "yes"}, ["stream"]),
        ({"messages": [USER], "temperature": "0"}, ["temperature"]),
        ({"messages": [USER], "top_p": 1.1}, ["top_p"]),
        ({"messages": [USER], "presence_penalty": "0.1"}, ["presence_penalty"]),
        ({"messages": [USER], "frequency_penalty": -3}, ["frequency_penalty"]),
        ({"messages": [USER], "stop": [1]}, ["stop"]),
        ({"messages": [USER], "response_format": "text"}, None),
        ({"messages": [USER], "response_format": {"type": "yaml"}}, ["response_format"]),
    ],
)
def test_a_wrong_value_is_unprocessable_and_its_place_is_named(fast, body, loc):
    answer = fast.client.post(CHAT, json=body)
    if loc is None:
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (422, "invalid_parameter")
    assert answer.json()["detail"]["loc"] == ["body", *loc]
    assert answer.json()["status"] == 422


@pytest.mark.parametrize(
    ("fields", "given"),
    [({"response_format": {"type": "json_object"}}, "json_object"), ({"n": 2}, 2)],
)
def test_what_phi_3_does_not_support_is_unprocessable(fast, fields, given):
    answer = fast.client.post(CHAT, json=ask(**fields))
    assert (answer.status_code, answer.json()["code"]) == (422, "parameter_not_supported")
    assert answer.json()["detail"] == {"loc": ["body", *fields], "input": given}


def test_an_assistant_turn_may_have_no_content_and_optional_values_may_be_null(fast):
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "{}"}]
    nulls = dict.fromkeys(("max_tokens", "stream", "temperature", "stop", "response_format", "stream_options", "n"))
    for route in (CHAT, OPENAI):
        body = fast.client.post(route, json={"messages": turns} | nulls, headers=pinned(1)).json()
        assert body["usage"]["prompt_tokens"] == 3 * 4 + 2 + 1


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "9" * 30, ""])
def test_a_pinned_length_must_be_a_count(fast, value):
    answer = fast.client.post(CHAT, json=ask(), headers={"x-headroom-completion-tokens": value})
    assert answer.status_code == 400


def test_a_body_too_large_is_refused_by_its_announced_length_and_by_its_bytes(fast):
    def flood():
        for _ in range(17):
            yield b" " * 2**20

    host, port = fast.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as raw:
        raw.sendall(b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n")
        assert raw.recv(12) == b"HTTP/1.1 413"  # before a byte of the body was sent
    answer = fast.client.post(CHAT, content=flood())
    assert (answer.status_code, answer.json()["status"]) == (413, 413)


# Limits


def test_beyond_the_tokens_a_429_says_when_to_come_back():
    with simulated("--tpm", "60") as server:  # one token a second, 60 of them saved up
        first = server.client.post(CHAT, json=ask(max_tokens=44), headers=pinned(1))
        assert first.status_code == 200
        assert first.headers["x-ratelimit-limit-tokens"] == "60"
        assert first.headers["x-ratelimit-remaining-tokens"] == "10"
        assert first.headers["x-ratelimit-remaining-requests"] == "999"
        second = server.client.post(CHAT, json=ask(max_tokens=44))
    assert second.status_code == 429
    wait_s, wait_ms = int(second.headers["retry-after"]), int(second.headers["retry-after-ms"])
    assert 40 - PATIENCE_S < wait_s <= 40
    assert wait_s == math.ceil(wait_ms / 1000)
    message = f"Rate limit is exceeded. Try again in {wait_s} seconds."
    assert second.json() == {"error": {"code": "429", "message": message}}
    assert second.headers["x-ms-error-code"] == "429"
    assert 10 <= int(second.headers["x-ratelimit-remaining-tokens"]) < 10 + PATIENCE_S
    assert int(second.headers["x-ratelimit-remaining-requests"]) >= 999  # the refused one took none


def test_beyond_the_requests_a_429_and_a_refused_body_takes_nothing():
    with simulated("--rpm", "2", "--window", "sliding") as server:
        statuses = [server.client.post(CHAT, json=body).status_code for body in ({}, ask(), {}, ask(), ask())]
    assert statuses == [422, 200, 422, 200, 429]


def test_a_request_that_can_never_fit_is_told_to_wait_a_day():
    with simulated("--tpm", "60") as server:
        refused = server.client.post(CHAT, json=ask(max_tokens=61))
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "86400")


@pytest.mark.parametrize(
    ("lie", "said"),
    [
        ("retry-after=", None),
        ("retry-after-ms=", None),
        ("x-ratelimit-remaining-requests=", None),
        ("Retry-After=0", "0"),
        ("retry-after=86400", "86400"),
        ("retry-after-ms=-1", "-1"),
        ("x-ratelimit-remaining-tokens=-12", "-12"),
        ("x-ms-retry-after-ms=700", "700"),
        ("x-rate-limit-reset-tokens=33", "33"),
        ("x-ratelimit-type=UserByMinute", "UserByMinute"),
    ],
)
def test_each_rate_limit_header_can_be_left_out_or_lie(lie, said):
    name = lie.partition("=")[0].lower()
    with simulated("--tpm", "60", "--header", lie) as server:
        passed, refused = (server.client.post(CHAT, json=ask(max_tokens=44), headers=pinned(1)) for _ in range(2))
    assert (passed.status_code, refused.status_code) == (200, 429)
    assert refused.headers.get(name) == said
    assert passed.headers.get(name) == (said if name.startswith("x-rate") else None)
    honest = {"retry-after", "retry-after-ms", "x-ratelimit-limit-tokens", "x-ratelimit-remaining-requests"} - {name}
    assert honest <= refused.headers.keys()  # the others do not change


def test_a_wait_can_be_said_as_a_date():
    with simulated("--tpm", "60", "--header", "retry-after=http-date") as server:
        _, refused = (server.client.post(CHAT, json=ask(max_tokens=44), headers=pinned(1)) for _ in range(2))
        until = parsedate_to_datetime(refused.headers["retry-after"]).timestamp()
    assert until == pytest.approx(time.time() + int(refused.headers["retry-after-ms"]) / 1000, abs=PATIENCE_S)


def test_scaled_time_makes_tokens_quota_and_waits_faster():
    slow = EXACT | {"ttft_base_ms": 3_000, "itl_base_ms": 300, "itl_per_running_ms": 0}
    with simulated("--time-scale", "30", "--tpm", "600", "--window", "sliding", serving=slow) as server:
        began = time.monotonic()
        first = server.client.post(CHAT, json=ask(max_tokens=500), headers=pinned(41))
        assert first.status_code == 200
        assert 0.5 <= time.monotonic() - began < 3  # 3 s + 40 x 0.3 s of model time
        refused = server.client.post(CHAT, json=ask(max_tokens=500))
        assert int(refused.headers["retry-after-ms"]) <= 2_000 - 500  # a minute of model time from the first
        assert eventually(lambda: server.client.post(CHAT, json=ask(max_tokens=500)).status_code == 200)


@pytest.mark.parametrize(("admission", "left"), [("prompt+max_tokens", 94), ("max_tokens", 100), ("usage", 984)])
def test_what_a_request_costs_follows_the_admission_policy(admission, left):
    with simulated("--tpm", "1000", "--window", "sliding", "--admission", admission) as server:
        first = server.client.post(CHAT, json=ask(max_tokens=900), headers=pinned(10))
        assert first.status_code == 200
        # The bill of the first is known now: 6 + 10. The second costs 0 under `max_tokens`, else its 6 of prompt.
        second = server.client.post(CHAT, json=ask(max_tokens=0))
        mine = 0 if admission == "max_tokens" else 6
        assert int(second.headers["x-ratelimit-remaining-tokens"]) == left - mine


def test_managed_compute_has_no_quota():
    with simulated("--kind", "managed", serving={}) as server:
        answer = server.client.post(CHAT, json=ask(max_tokens=1_000_000), headers=pinned(1))
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("x-ratelimit")]


SLOW = EXACT | {"ttft_base_ms": 1, "itl_base_ms": 50, "itl_per_running_ms": 0}


def test_a_client_that_leaves_frees_its_place():
    with simulated("--concurrency", "1", "--context-tokens", "100000", serving=SLOW) as server:
        for stream in (True, False):
            body = ask(stream=stream)
            with httpx.Client(base_url=server.url, trust_env=False) as leaver:
                request = leaver.build_request("POST", CHAT, json=body, headers=pinned(10_000))  # 500 s
                if stream:
                    lines = leaver.send(request, stream=True).iter_lines()
                    assert next(lines).startswith("data: ")
                else:
                    with pytest.raises(httpx.ReadTimeout):
                        request.extensions["timeout"] = {"connect": 5, "read": 0.3, "write": 5, "pool": 5}
                        leaver.send(request)
                busy = server.client.post(CHAT, json=ask(max_tokens=1)) if stream else None
            if busy is not None:
                assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
            assert eventually(lambda: server.client.post(CHAT, json=ask(max_tokens=1)).status_code == 200)


# Time


def test_ttft_and_gaps_are_distributed_as_the_model_states():
    model, lengths, n = ServingModel(), Lengths(), 20_000
    draws = {
        "ttft": [model.ttft_ns(rng_of(5, i), prompt_tokens=1_000, running=10) / 1e6 for i in range(n)],
        "gap": [model.gap_ns(rng_of(5, i), 50) / 1e6 for i in range(n)],
        "completion": [lengths.completion_tokens(rng_of(5, i)) for i in range(n)],
    }
    stated = {"ttft": (60 + 0.06 * 1_000 + 0.4 * 10, 0.15), "gap": (12 + 0.12 * 50, 0.1), "completion": (90, 0.6)}
    for name, (mean, sigma) in stated.items():
        logs = [math.log(draw) for draw in draws[name]]
        error = 5 / math.sqrt(n)  # five standard errors of a mean, in standard deviations
        assert statistics.fmean(logs) == pytest.approx(math.log(mean) - sigma**2 / 2, abs=error * sigma)
        assert statistics.stdev(logs) == pytest.approx(sigma, rel=error)
        assert statistics.fmean(draws[name]) == pytest.approx(mean, rel=error * math.sqrt(math.expm1(sigma**2)))
        for quantile in (0.05, 0.5, 0.95):
            limit = mean * math.exp(sigma * statistics.NormalDist().inv_cdf(quantile) - sigma**2 / 2)
            assert sum(draw <= limit for draw in draws[name]) / n == pytest.approx(quantile, abs=0.02)


def test_without_jitter_the_formulas_are_exact():
    model = ServingModel(**EXACT | {"ttft_per_prompt_token_ms": 0.5, "ttft_per_running_ms": 2})
    assert model.ttft_ns(random.Random(1), prompt_tokens=100, running=3) == (60 + 50 + 6) * 1_000_000
    assert model.gap_ns(random.Random(1), 100) == 24_000_000
    assert Lengths(completion_sigma=0).completion_tokens(random.Random(1)) == 90


def test_a_serving_model_refuses_what_is_no_duration():
    for value in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="itl_base_ms"):
            ServingModel(itl_base_ms=value)


def test_a_requests_randomness_depends_on_seed_and_number_only():
    draws = {(seed, number): rng_of(seed, number).random() for seed in range(20) for number in range(20)}
    assert len(set(draws.values())) == len(draws)
    assert rng_of(3, 4).random() == draws[3, 4]


def test_tokens_never_leave_early_and_do_not_drift():
    """Lower bounds only: a busy machine can be late, never early."""
    with simulated(serving=EXACT | {"ttft_base_ms": 100, "itl_base_ms": 10, "itl_per_running_ms": 0}) as server:
        began = time.monotonic()
        server.client.post(CHAT, json=ask(), headers=pinned(21))
        assert 0.3 <= time.monotonic() - began < PATIENCE_S
        began = time.monotonic()
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(21)) as answer:
            seen = [time.monotonic() - began for line in answer.iter_lines() if '"content":" ' in line]
    assert len(seen) == 21
    assert all(at_s >= 0.1 + 0.01 * index for index, at_s in enumerate(seen))


def test_whoever_runs_beside_slows_a_stream_down():
    serving = EXACT | {"ttft_base_ms": 1, "itl_base_ms": 0, "itl_per_running_ms": 50}
    with (
        simulated(serving=serving) as server,
        httpx.stream(
            "POST", server.url + CHAT, json=ask(stream=True), headers=pinned(1_000), trust_env=False
        ) as beside,
    ):
        lines = beside.iter_lines()
        next(lines)
        began = time.monotonic()
        streamed(server, headers=pinned(6))
        assert time.monotonic() - began >= 5 * 2 * 0.05


def test_a_wait_ends_at_its_instant_or_when_it_is_cut():
    async def waits():
        pacemaker, free, doomed = Pacemaker(), Flight(), Flight()
        began_ns = time.monotonic_ns()
        never = asyncio.create_task(pacemaker.until(began_ns + 3_600_000_000_000, doomed))
        await asyncio.sleep(0)  # the far wait is set before the near ones
        for ms in (30, 0.5, 31.3, 31.2, -5):
            due_ns = began_ns + round(ms * 1e6)
            assert await asyncio.wait_for(pacemaker.until(due_ns, free), PATIENCE_S)
            assert time.monotonic_ns() >= due_ns
        doomed.cut()
        assert not await asyncio.wait_for(never, PATIENCE_S)
        assert not await pacemaker.until(began_ns + 3_600_000_000_000, doomed)
        pacemaker.close()

    asyncio.run(waits())


def test_many_waits_end_in_the_order_of_their_instants_and_none_before_its_own():
    async def waits():
        pacemaker, ended, rng = Pacemaker(), [], random.Random(1)
        began_ns = time.monotonic_ns() + 500_000_000  # all are waiting by then

        async def one(due_ns):
            assert await pacemaker.until(due_ns, Flight())
            ended.append((due_ns, time.monotonic_ns()))

        await asyncio.gather(*(one(began_ns + rng.randrange(50_000_000)) for _ in range(500)))
        pacemaker.close()
        return ended

    ended = asyncio.run(waits())
    assert len(ended) == 500
    assert ended == sorted(ended)
    assert all(at_ns >= due_ns for due_ns, at_ns in ended)


# The process


def test_it_prints_one_line_and_ends_with_its_stdin():
    with simulated() as server:
        assert server.pid == server.process.pid
        server.client.get("/info")
        server.process.stdin.close()
        assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stdout.read() == b""
        assert server.process.stderr.read() == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_answers_what_runs_takes_no_more_and_leaves_with_0(number):
    with simulated(serving=SLOW) as server:
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(30)) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(number)
            assert eventually(lambda: not listens(server.url))
            rest = list(lines)
        assert sum('"content":" ' in line for line in rest) >= 29
        assert rest[-2] == "data: [DONE]"
        assert server.process.wait(PATIENCE_S) == 0
        assert server.process.stderr.read() == b"ending: 1 running, for 30 s at most; Ctrl-C cuts them\n"


def test_asked_twice_it_cuts_what_runs():
    with simulated(serving=SLOW) as server:
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(3_000)) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.send_signal(signal.SIGINT)
            assert b"Ctrl-C" in server.process.stderr.readline()
            server.process.send_signal(signal.SIGINT)
            assert not [line for line in lines if "[DONE]" in line or '"stop"' in line]
        assert server.process.wait(PATIENCE_S) == 0


def test_the_time_for_what_runs_is_bounded():
    with simulated("--drain-s", "0.3", serving=SLOW) as server:
        with server.client.stream("POST", CHAT, json=ask(stream=True), headers=pinned(3_000)) as answer:
            lines = answer.iter_lines()
            next(lines)
            server.process.terminate()
            assert not [line for line in lines if "[DONE]" in line]
        assert server.process.wait(PATIENCE_S) == 0


def listens(url):
    host, port = url.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE_S).close()
    except ConnectionRefusedError:
        return False
    return True


def test_whoever_is_not_answered_when_it_ends_is_told_so():
    body = json.dumps(ask()).encode()
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n{next(iter(pinned(3_000)))}: 3000\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    hopeless = ask(max_tokens=1_000_000)  # refused whatever is left, so that it can ask what is
    with simulated("--window", "sliding", "--drain-s", "0.3", serving=SLOW) as server:
        address = ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))
        with (
            socket.create_connection(address, PATIENCE_S) as waits,
            socket.create_connection(address, PATIENCE_S) as sends,
        ):
            waits.sendall(head.encode() + body)
            sends.sendall(head.encode() + body[:-1])
            assert eventually(
                lambda: server.client.post(CHAT, json=hopeless).headers["x-ratelimit-remaining-requests"] == "999"
            )
            server.process.terminate()
            assert eventually(lambda: not listens(server.url))
            sends.sendall(body[-1:])
            assert sends.recv(12) == b"HTTP/1.1 503"  # it takes no more
            assert waits.recv(12) == b"HTTP/1.1 503"  # its time is over
        assert server.process.wait(PATIENCE_S) == 0


def test_without_until_eof_the_end_of_stdin_means_nothing():
    command = [sys.executable, "-m", "loadgen.simulator", "--port", "0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            time.sleep(0.5)
            assert httpx.get(url + "/info", trust_env=False).status_code == 200
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0


def complaint(*flags):
    done = subprocess.run(
        [sys.executable, "-m", "loadgen.simulator", *flags],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    return done.stderr


def test_a_port_in_use_is_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = complaint("--port", str(port))
    assert said == f"port {port} of 127.0.0.1 is in use; give another with --port, or 0 for any\n"


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--model", "Phi-9"], "--context-tokens"),
        (["--kind", "managed", "--tpm", "5"], "--tpm"),
        (["--tpm", "0"], "tokens_per_minute"),
        (["--key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE"),
        (["--serving", "speed=9"], "itl_base_ms"),
        (["--serving", "itl_base_ms=x"], "'x'"),
        (["--serving", "itl_base_ms=-1"], "itl_base_ms"),
        (["--context-tokens", "0"], "--context-tokens"),
        (["--seed", "-1"], "--seed"),
        (["--host", "0.0.0.0"], "--key-env"),
        (["--host", "::"], "--key-env"),
        (["--host", "no host at all", "--key-env", "PATH"], "--host"),
        (["--drain-s", "-1"], "--drain-s"),
        (["--time-scale", "0"], "--time-scale"),
        (["--time-scale", "nan"], "--time-scale"),
        (["--header", "x-powered-by=me"], "x-powered-by"),
        (["--header", "retry-after"], "NAME=VALUE"),
        (["--kind", "managed", "--header", "retry-after=1"], "--header"),
        (["--port", "70000"], "70000"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named(flags, named):
    assert named in complaint(*flags)


def test_it_imports_neither_the_load_generator_nor_the_planner():
    code = "import sys, loadgen.simulator.__main__; print([m for m in sys.argv[1:] if m in sys.modules])"
    forbidden = [
        "gevent",
        "locust",
        "polars",
        "pydantic",
        "planner",
        "scenarios",
        "headroom",
        "httpx",
        "loadgen.config",
    ]
    done = subprocess.run([sys.executable, "-c", code, *forbidden], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
