"""What the simulated deployment answers to what: a real process on loopback."""

import re
import socket
import time

import pytest

from loadgen.tokens import text_tokens
from tests.simulators import CHAT, KEY, OPENAI, PATIENCE_S, ask, pinned, simulated, streamed


@pytest.fixture(scope="module")
def fast():
    with simulated("--tpm", "1000000000", "--rpm", "1000000") as server:
        yield server


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


# Routes

PREFIXES = ("", "/models")
OPENAI_PREFIXES = ("/v1", "/openai/v1", "/openai/deployments/Phi-3-mini-4k-instruct")


def test_every_root_answers_chats_and_completions(fast):
    for prefix in (*PREFIXES, *OPENAI_PREFIXES, "/openai/deployments/PHI-3-mini-4k-INSTRUCT"):
        chat = fast.client.post(f"{prefix}/chat/completions", json=ask(), headers=pinned(2))
        text = fast.client.post(f"{prefix}/completions", json={"prompt": "x"}, headers=pinned(2))
        assert [one.json()["usage"]["completion_tokens"] for one in (chat, text)] == [2, 2], prefix


def test_info_and_the_list_of_models_stand_under_every_root_of_theirs(fast):
    infos = [fast.client.get(f"{prefix}/info").json() for prefix in PREFIXES]
    assert infos[0] == infos[1]
    for prefix in ("/v1", "/openai/v1"):
        listed = fast.client.get(f"{prefix}/models").json()
        assert listed["object"] == "list"
        (entry,) = listed["data"]
        assert (entry["id"], entry["object"], entry["owned_by"]) == ("Phi-3-mini-4k-instruct", "model", "Microsoft")
        assert fast.client.get(f"{prefix}/models/phi-3-mini-4k-instruct").json() == entry
        unknown = fast.client.get(f"{prefix}/models/gpt-4o")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


def test_another_deployments_name_is_not_found(fast):
    for rest in ("chat/completions", "embeddings", "nonsense"):
        answer = fast.client.post(f"/openai/deployments/gpt-4o/{rest}", json=ask())
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (404, "DeploymentNotFound")
        assert answer.json()["error"]["code"] == "DeploymentNotFound"


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("2024-04-01-preview", 200),
        ("2024-05-01-preview", 200),
        ("2025-04-01", 200),
        ("2031-12-31", 200),  # of that shape
        ("2024-05-01-beta", 400),
        ("latest", 400),
        ("", 400),
    ],
)
def test_any_api_version_of_the_documented_shape_will_do(fast, version, status):
    for query in (f"?api-version={version}", f"?a=b&api-version={version}&c=d"):
        answers = [fast.client.get("/info" + query)]
        answers += [fast.client.post(route + query, json=ask(max_tokens=1)) for route in (CHAT, OPENAI)]
        assert [answer.status_code for answer in answers] == [status] * 3
        if status == 400:
            assert answers[1].json()["error"]["param"] == "api-version"


def test_every_answer_has_an_id_of_its_own_and_the_clients_where_that_is_well_formed(fast):
    given = {"x-request-id": "mine", "x-ms-client-request-id": "a1-B_2"}
    answers = [
        fast.client.get("/info", headers=given),
        fast.client.get("/nowhere", headers=given),
        fast.client.post(CHAT, json=ask(), headers=given),
        fast.client.post(CHAT, json=ask(stream=True), headers=given),
        fast.client.post(CHAT, json={}, headers=given),
        fast.client.get(CHAT, headers=given),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 200, 200, 422, 405]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == len(answers) and all(re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", id) for id in ids)
    assert [answer.headers.get("x-ms-client-request-id") for answer in answers] == ["a1-B_2"] * 6
    for bad in ("", "a b", "x" * 41, "a/b"):
        answer = fast.client.get("/info", headers={"x-ms-client-request-id": bad})
        assert "x-ms-client-request-id" not in answer.headers


def test_a_system_message_may_stand_anywhere_and_repeat(fast):
    roles = ("user", "system", "system", "tool", "assistant", "system")  # the documents' own samples mix them up
    turns = [{"role": role, "content": "abcd"} for role in roles]
    body = fast.client.post(CHAT, json=ask(messages=turns), headers=pinned(1)).json()
    assert body["usage"]["prompt_tokens"] == 6 * 5
    developer = ask(messages=[{"role": "developer", "content": "abcd"}])
    assert fast.client.post(OPENAI, json=developer).status_code == 200
    assert fast.client.post(CHAT, json=developer).status_code == 422


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
    paths = ("/info", "/v1/models", "/v1/models/Phi-3-mini-4k-instruct")
    answers = [keyed.client.get(path, headers=headers) for path in paths]
    answers += [keyed.client.post(route, json=ask(max_tokens=1), headers=headers) for route in (CHAT, OPENAI)]
    elsewhere = keyed.client.post("/openai/deployments/other/completions", headers=headers)
    assert [answer.status_code for answer in answers] == [status] * 5
    assert elsewhere.status_code == (404 if status == 200 else 401)
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
        ("GET", "/models", 404),
        ("POST", "/v1/images/embeddings", 404),
        ("POST", CHAT + "/", 404),
        ("GET", CHAT, 405),
        ("DELETE", OPENAI, 405),
        ("POST", "/info", 405),
        ("GET", "/openai/deployments/phi-3-mini-4k-instruct/completions", 405),
        ("POST", "/openai/deployments/Phi-3-mini-4k-instruct/nonsense", 404),
        ("POST", "/models/v1/completions", 404),
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
        ({"messages": [USER], "max_tokens": "ten"}, ["max_tokens"]),
        ({"messages": [USER], "max_tokens": -1}, ["max_tokens"]),
        ({"messages": [USER], "max_tokens": 1.5}, ["max_tokens"]),
        ({"messages": [USER], "max_tokens": True}, ["max_tokens"]),
        ({"messages": [USER], "stream": "yes"}, ["stream"]),
        ({"messages": [USER], "temperature": "hot"}, ["temperature"]),
        ({"messages": [USER], "top_p": 1.1}, ["top_p"]),
        ({"messages": [USER], "presence_penalty": "2.1"}, ["presence_penalty"]),
        ({"messages": [USER], "frequency_penalty": -3}, ["frequency_penalty"]),
        ({"messages": [USER], "stop": [1]}, ["stop"]),
        ({"messages": [USER], "stop": ""}, ["stop"]),
        ({"messages": [USER], "stop": []}, ["stop"]),
        ({"messages": [USER], "stop": ["x", ""]}, ["stop"]),
        ({"messages": [USER], "stop": ["x"] * 17}, ["stop"]),
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
    [
        ({"response_format": {"type": "json_object"}}, "json_object"),
        ({"response_format": {"type": {"type": "json_object"}}}, "json_object"),  # as the documents' Python nests it
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "json_schema"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "list"),
        ({"modalities": ["text", "audio"]}, "list"),
        ({"n": 2}, 2),
        ({"n": True}, True),  # equal to 1, and so is the next
        ({"n": 1.0}, 1.0),
    ],
)
def test_what_phi_3_does_not_support_is_unprocessable(fast, fields, given):
    answer = fast.client.post(CHAT, json=ask(**fields), headers={"extra-parameters": "pass-through"})
    assert answer.status_code == 422
    assert answer.json() == {
        "status": 422,
        "code": "parameter_not_supported",
        "detail": {"loc": ["body", *fields], "input": given},
        "message": "One of the parameters contain invalid values.",
    }
    assert answer.headers["x-ms-error-code"] == "parameter_not_supported"


def test_an_assistant_turn_may_have_no_content_and_optional_values_may_be_null(fast):
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "{}"}]
    nulls = dict.fromkeys(("max_tokens", "stream", "temperature", "stop", "response_format", "tools", "tool_choice"))
    for route in (CHAT, OPENAI):
        nulls |= dict.fromkeys(("stream_options", "n")) if route == OPENAI else {}
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


# What no real deployment has


@pytest.fixture(scope="module")
def killable():
    with simulated("--kind", "managed", key=KEY) as server:
        yield server


@pytest.mark.parametrize("number", ["9" * 5_000, "9" * 9, "7", "-1", "0x0", "²", "%0a"])
def test_an_instance_that_is_not_there_is_not_found_once_the_key_is_right(killable, number):
    path = f"/simulator/instances/{number}/kill"
    assert killable.client.post(path).status_code == 401
    answer = killable.client.post(path, headers={"api-key": KEY})
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (404, "not_found")
    assert answer.json().keys() == {"error", "message", "status"}
