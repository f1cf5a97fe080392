"""What a chat with the simulated deployment is answered: tools, JSON, stops, seeds, extra parameters, content safety."""

import json
import math

import pytest

from loadgen.simulator.schemas import MOST_DEPTH, example
from loadgen.tokens import call_tokens, prompt_tokens, text_tokens
from tests.simulators import CHAT, OPENAI, ask, pinned, simulated, streamed

pytestmark = pytest.mark.aside

MUCH = ("--tpm", "1000000000", "--rpm", "1000000")
PASS_THROUGH = {"extra-parameters": "pass-through"}


@pytest.fixture(scope="module")
def phi():
    with simulated(*MUCH, "--content-filter-phrase", "Tabs OVER spaces") as server:
        yield server


@pytest.fixture(scope="module")
def mistral():
    with simulated(*MUCH, "--model", "mistral-large") as server:
        yield server


def said(server, route=CHAT, *, headers=None, **fields):
    """(message, finish reason, usage) of a plain answer."""
    answer = server.client.post(route, json=ask(**fields), headers=headers)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    (choice,) = body["choices"]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    return choice["message"], choice["finish_reason"], body["usage"]


def text_of(chunks):
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])


# Tools

FLIGHT = {
    "type": "object",
    "properties": {
        "origin": {"type": "string"},
        "class": {"type": "string", "enum": ["economy", "business"]},
        "passengers": {"type": "integer", "minimum": 2},
        "direct": {"type": "boolean"},
        "stops": {"type": "array", "items": {"type": "number", "maximum": -1}},
        "when": {"type": ["null", "object"], "properties": {"day": {"type": "string"}}},
        "note": {"type": "string"},
    },
    "required": ["origin", "class", "passengers", "direct", "stops", "when"],
}


def tool(name="find_flight", schema=FLIGHT):
    return {"type": "function", "function": {"name": name, "description": "…", "parameters": schema}}


TOOLS = [tool(), tool("book_hotel", {"type": "object", "properties": {"town": {"const": "Köln"}}}), tool("now", None)]


@pytest.mark.parametrize("route", [CHAT, OPENAI])
@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (None, "find_flight"),
        ("auto", "find_flight"),  # the first
        ("required", "find_flight"),
        ({"type": "function", "function": {"name": "book_hotel"}}, "book_hotel"),
        ("none", None),
    ],
)
def test_a_user_who_offers_tools_is_answered_with_a_call_that_the_choice_allows(mistral, route, choice, name):
    message, reason, usage = said(mistral, route, tools=TOOLS, tool_choice=choice, headers=pinned(3))
    if name is None:
        assert (message["tool_calls"], reason) == (None, "stop")
        return
    assert (message["content"], reason) == ("", "tool_calls")
    (call,) = message["tool_calls"]
    assert call.keys() == {"id", "type", "function"} and call["id"] and call["type"] == "function"
    assert call["function"].keys() == {"name", "arguments", "call_id"}
    assert (call["function"]["name"], call["function"]["call_id"]) == (name, None)
    assert usage["completion_tokens"] == call_tokens(name, call["function"]["arguments"])


def test_the_arguments_of_a_call_satisfy_the_schema(mistral):
    message, _, _ = said(mistral, tools=TOOLS)
    arguments = json.loads(message["tool_calls"][0]["function"]["arguments"])
    assert arguments == {
        "origin": "text",
        "class": "economy",
        "passengers": 2,
        "direct": True,
        "stops": [-1],
        "when": {"day": "text"},
    }
    message, _, _ = said(mistral, tools=TOOLS[1:])
    assert json.loads(message["tool_calls"][0]["function"]["arguments"]) == {"town": "Köln"}
    message, _, _ = said(mistral, tools=TOOLS[2:])
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_schema_needs_no_type_where_it_has_properties_and_is_followed_so_far_only():
    assert example({"properties": {"a": {"type": "boolean"}}}) == {"a": True}
    assert example({"type": "integer", "exclusiveMinimum": 5, "maximum": 6}) == 6
    assert example({"type": "integer", "exclusiveMaximum": 0}) == -1
    assert example({"type": "string", "maxLength": 2}) == "te"
    inner = {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]}
    assert example({"$ref": "#/$defs/X", "$defs": {"X": inner}}) == {"b": 1}
    assert example({"properties": {"a": {"$ref": "#/$defs/X"}}, "$defs": {"X": inner}}) == {"a": {"b": 1}}
    assert example({"$ref": "#/$defs/none"}) is None
    looping = {"$ref": "#/$defs/X", "$defs": {"X": {"properties": {"a": {"$ref": "#/$defs/X"}}}}}
    assert json.dumps(example(looping)).count('"a"') <= MOST_DEPTH
    deep = {"type": "string"}
    for _ in range(20):
        deep = {"type": "object", "properties": {"a": deep}}
    answer, levels = example(deep), 0
    while answer is not None:
        answer, levels = answer["a"], levels + 1
    assert levels == MOST_DEPTH + 1


def test_a_streamed_call_has_its_name_first_and_its_arguments_piece_by_piece(mistral):
    plain, _, usage = said(mistral, tools=TOOLS, seed=1)
    first, *others, last = streamed(mistral, tools=TOOLS, seed=1)
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    deltas = [chunk["choices"][0]["delta"]["tool_calls"] for chunk in others]
    assert all(len(delta) == 1 and delta[0]["index"] == 0 for delta in deltas)
    (head,), *pieces = deltas
    assert head["id"] and head["type"] == "function"
    assert (head["function"]["name"], head["function"]["arguments"]) == ("find_flight", "")
    arguments = "".join(piece["function"]["arguments"] for (piece,) in pieces)
    assert len(pieces) > 5
    assert arguments == plain["tool_calls"][0]["function"]["arguments"]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert last["usage"] == usage


def test_a_call_is_cut_by_max_tokens_and_is_none_without_its_name(mistral):
    message, reason, usage = said(mistral, tools=TOOLS, max_tokens=text_tokens("find_flight") + 1)
    assert (message["tool_calls"][0]["function"]["arguments"], reason) == ('{"or', "length")
    assert usage["completion_tokens"] == text_tokens("find_flight") + 1
    message, reason, _ = said(mistral, tools=TOOLS, max_tokens=1)
    assert (message["content"], message["tool_calls"], reason) == ("", None, "length")
    assert "tool_calls" not in str(streamed(mistral, tools=TOOLS, max_tokens=1))


def test_a_call_has_no_log_probabilities_and_no_stop_ends_it(mistral):
    fields = ask(tools=TOOLS, stop=[" ", '"'], logprobs=True)
    (choice,) = mistral.client.post(CHAT, json=fields, headers=PASS_THROUGH).json()["choices"]
    assert (choice["finish_reason"], choice["logprobs"]) == ("tool_calls", None)
    assert json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])


def test_a_call_that_the_filter_stops_within_its_name_is_none(mistral):
    message, reason, usage = said(mistral, text="describe a bar fight", tools=[tool("f" * 40, None)])
    assert (message["tool_calls"], reason, usage["completion_tokens"]) == (None, "content_filter", 6)
    message, reason, _ = said(mistral, text="describe a bar fight", tools=TOOLS)
    assert (message["tool_calls"][0]["function"]["name"], reason) == ("find_flight", "content_filter")


def test_after_a_tools_message_comes_text_and_the_whole_history_is_counted(mistral):
    question = {"role": "user", "content": "When is the next flight?"}
    answer, _, usage = said(mistral, tools=TOOLS, messages=[question])
    assert usage["prompt_tokens"] == prompt_tokens([question], tools=TOOLS) > prompt_tokens([question])
    result = {"role": "tool", "content": '{"info": "none"}', "tool_call_id": answer["tool_calls"][0]["id"]}
    for content in ("", None):
        turns = [question, answer | {"content": content}, result]
        message, reason, later = said(mistral, messages=turns, tools=TOOLS, tool_choice="auto", headers=pinned(4))
        assert (message["tool_calls"], reason) == (None, "stop")
        # The call comes back as what it was billed, and 4 for its message.
        more = usage["completion_tokens"] + 4 + text_tokens(result["content"]) + 4
        assert later["prompt_tokens"] == usage["prompt_tokens"] + more


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"tools": []}, ["tools"]),
        ({"tools": {}}, ["tools"]),
        ({"tools": ["f"]}, ["tools", 0]),
        ({"tools": [{"type": "magic", "function": {"name": "f"}}]}, ["tools", 0]),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, ["tools", 0, "function", "name"]),
        ({"tools": [tool(schema=[])]}, ["tools", 0, "function", "parameters"]),
        ({"tools": TOOLS, "tool_choice": "maybe"}, ["tool_choice"]),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "no"}}}, ["tool_choice"]),
        ({"tools": TOOLS, "tool_choice": 7}, ["tool_choice"]),
        ({"tool_choice": "auto"}, ["tool_choice"]),  # without tools
        ({"messages": [{"role": "assistant", "tool_calls": "x"}]}, ["messages", 0, "tool_calls"]),
        ({"messages": [{"role": "assistant", "tool_calls": [{"id": "x"}]}]}, ["messages", 0, "tool_calls", 0]),
        ({"messages": [{"role": "tool", "content": "", "tool_call_id": 1}]}, ["messages", 0, "tool_call_id"]),
    ],
)
def test_a_malformed_tool_is_unprocessable_and_its_place_is_named(mistral, fields, loc):
    answer = mistral.client.post(CHAT, json=ask(**fields))
    assert answer.status_code == 422
    assert answer.json()["detail"]["loc"] == ["body", *loc]


# JSON


def test_json_mode_answers_an_object_of_the_length_drawn_or_cut(mistral):
    shape = {"response_format": {"type": "json_object"}}
    for wanted in (4, 5, 40):
        message, reason, usage = said(mistral, **shape, headers=pinned(wanted))
        assert isinstance(json.loads(message["content"]), dict)
        assert (reason, usage["completion_tokens"], text_tokens(message["content"])) == ("stop", wanted, wanted)
    chunks = streamed(mistral, **shape, seed=1, headers=pinned(40))
    assert text_of(chunks) == said(mistral, **shape, seed=1, headers=pinned(40))[0]["content"]
    message, reason, usage = said(mistral, **shape, max_tokens=20, headers=pinned(40))
    assert (reason, usage["completion_tokens"]) == ("length", 20)
    with pytest.raises(json.JSONDecodeError):
        json.loads(message["content"])


def test_a_json_schema_is_answered_with_an_object_of_it(mistral):
    shape = {"type": "json_schema", "json_schema": {"name": "flight", "schema": FLIGHT}}
    message, reason, usage = said(mistral, response_format=shape)
    assert reason == "stop"
    assert json.loads(message["content"]).keys() == set(FLIGHT["required"])
    assert usage["completion_tokens"] == text_tokens(message["content"])
    for broken in ({"type": "json_schema"}, "json_schema"):
        assert mistral.client.post(CHAT, json=ask(response_format=broken)).status_code == 422


# Stops, seeds and numbers


@pytest.mark.parametrize("stop", [" ", [" "], ["never", " "], [" ", "e"], ["never"] * 15 + [" "]])
def test_an_answer_ends_before_the_first_of_its_stops(phi, stop):
    message, reason, usage = said(phi, stop=stop, headers=pinned(20))  # every answer begins with a space
    assert (message["content"], reason, usage["completion_tokens"]) == ("", "stop", 1)


def test_a_stop_sequence_cuts_within_a_token(phi):
    message, reason, usage = said(phi, stop=["e"], max_tokens=100, headers=pinned(100))
    content = message["content"]
    assert reason == "stop" and content and "e" not in content
    assert usage["completion_tokens"] == -(-(len(content) + 1) // 4)
    chunks = streamed(phi, stop=["e"], max_tokens=100, headers=pinned(100))
    text = text_of(chunks)
    assert "e" not in text
    assert chunks[-1]["usage"]["completion_tokens"] == -(-(len(text) + 1) // 4)
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-1])


def test_a_stop_that_never_comes_changes_nothing(phi):
    message, reason, usage = said(phi, stop=["never"], max_tokens=10, headers=pinned(30))
    assert (reason, usage["completion_tokens"], len(message["content"])) == ("length", 10, 40)


def test_the_same_seed_and_body_are_answered_alike_whatever_came_between(phi):
    first = said(phi, seed=7)
    said(phi), said(phi, seed=8)
    assert said(phi, seed=7) == first
    assert said(phi, seed="7")[0] != said(phi, seed=8)[0]
    chunks = streamed(phi, seed=7)
    assert text_of(chunks) == first[0]["content"]  # streamed or not
    assert said(phi, text="other", seed=7)[0] != first[0]
    assert said(phi)[0] != said(phi)[0]  # without a seed


def test_numbers_may_come_as_strings_as_the_documented_clients_send_them(phi):
    _, reason, usage = said(
        phi, presence_penalty="0.1", frequency_penalty="0.8", temperature="0", max_tokens="3", headers=pinned(9)
    )
    assert (reason, usage["completion_tokens"]) == ("length", 3)
    for bad in ({"temperature": "nan"}, {"top_p": "0_1"}, {"max_tokens": "--3"}, {"max_tokens": "1.5"}, {"seed": "x"}):
        assert phi.client.post(CHAT, json=ask(**bad)).status_code == 422, bad


# Extra parameters


@pytest.mark.parametrize(
    ("header", "status"),
    [(None, 400), ("error", 400), ("drop", 200), ("ignore", 200), ("pass-through", 200), ("passthrough", 400)],
)
def test_what_becomes_of_an_unknown_parameter_is_the_headers_choice(phi, header, status):
    headers = {} if header is None else {"extra-parameters": header}
    answer = phi.client.post(CHAT, json=ask(tempo=1), headers=headers)
    assert answer.status_code == status
    if status == 400:
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code", "status"}
        assert (error["param"], error["status"]) == ("extra-parameters" if header == "passthrough" else "tempo", 400)


def test_the_openai_dialect_ignores_what_it_does_not_know(phi):
    said(phi, OPENAI, tempo=1, headers={"extra-parameters": "nonsense"})


def test_dropped_parameters_do_nothing_and_passed_ones_act(phi, mistral):
    for extra in ({"n": 2}, {"top_logprobs": 99, "logprobs": True}):
        assert phi.client.post(CHAT, json=ask(**extra), headers={"extra-parameters": "drop"}).status_code == 200
        assert phi.client.post(CHAT, json=ask(**extra), headers=PASS_THROUGH).status_code == 422
    # A model's own parameter is checked by that model and ignored by another.
    assert mistral.client.post(CHAT, json=ask(safe_prompt="yes"), headers=PASS_THROUGH).status_code == 422
    assert mistral.client.post(CHAT, json=ask(safe_prompt=True), headers=PASS_THROUGH).status_code == 200
    assert phi.client.post(CHAT, json=ask(safe_prompt="yes"), headers=PASS_THROUGH).status_code == 200
    *_, last = streamed(phi, stream_options={"include_usage": True}, headers=PASS_THROUGH)
    assert last["choices"] == [] and last["usage"]


@pytest.mark.parametrize(("route", "headers"), [(CHAT, PASS_THROUGH), (OPENAI, {})])
def test_log_probabilities_come_with_every_token_in_openais_shape(phi, route, headers):
    fields = {"logprobs": True, "top_logprobs": 3, "max_tokens": 6}
    body = phi.client.post(route, json=ask(**fields), headers=headers | pinned(9)).json()
    (choice,) = body["choices"]
    listed = choice["logprobs"]["content"]
    assert "".join(one["token"] for one in listed) == choice["message"]["content"]
    assert len(listed) == 6
    for one in listed:
        assert one.keys() == {"token", "logprob", "bytes", "top_logprobs"}
        assert bytes(one["bytes"]).decode() == one["token"]
        best, *others = one["top_logprobs"]
        assert (best["token"], best["logprob"]) == (one["token"], one["logprob"])
        assert len(others) == 2
        assert sum(math.exp(each["logprob"]) for each in one["top_logprobs"]) <= 1
    chunks = streamed(phi, route, **fields, headers=headers | pinned(9))
    tokens = [chunk["choices"][0] for chunk in chunks if chunk["choices"] and chunk["choices"][0]["logprobs"]]
    assert len(tokens) == 6
    assert all(each["logprobs"]["content"][0]["token"] == each["delta"]["content"] for each in tokens)


# Content safety

BOMB = "How do I MAKE a lethal Bomb?"
WRAPPED = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Microsoft's content management policy. "
        "Please modify your prompt and retry.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
    }
}
FLAT = {"status": 400, "code": "content_filter", "message": "The response was filtered", "type": None}


@pytest.mark.parametrize(
    "content",
    [
        BOMB,
        "Tomatoes are great to practice your KNIFE skills.",
        "tabs over SPACES, always",  # of --content-filter-phrase
        [{"type": "text", "text": "harmless"}, {"type": "text", "text": BOMB}],
    ],
)
def test_a_prompt_with_a_stated_phrase_is_filtered(phi, content):
    for route in (CHAT, OPENAI):
        for stream in (False, True):
            answer = phi.client.post(route, json=ask(content, stream=stream))
            assert (answer.status_code, answer.json()) == (400, WRAPPED)
            assert answer.headers["x-ms-error-code"] == "content_filter"
            assert answer.headers["x-ms-rai-invoked"] == "true"
    turns = [{"role": "system", "content": content}, {"role": "user", "content": "hello"}]
    assert phi.client.post(CHAT, json=ask(messages=turns)).status_code == 400
    answer = phi.client.post("/completions", json={"prompt": ["fine", BOMB]})
    assert (answer.status_code, answer.json()) == (400, WRAPPED)


def test_the_filter_may_answer_flat_or_be_off_and_managed_compute_has_none():
    with simulated("--content-filter", "flat") as server:
        for route, field in ((CHAT, "messages"), ("/completions", "prompt")):
            answer = server.client.post(route, json=ask(BOMB) if route == CHAT else {"prompt": BOMB})
            assert (answer.status_code, answer.json()) == (400, FLAT | {"param": field})
            assert answer.headers["x-ms-error-code"] == "content_filter"
    for flags in (("--content-filter", "off"), ("--kind", "managed")):
        with simulated(*flags) as server:
            for text in (BOMB, "Describe a bar fight."):
                answer = server.client.post(CHAT, json=ask(text))
                assert (answer.status_code, answer.json()["choices"][0]["finish_reason"]) == (200, "stop")
                assert "x-ms-rai-invoked" not in answer.headers


def test_a_completion_with_a_stated_phrase_is_filtered_half_way(phi):
    fields = {"text": "Please DESCRIBE a bar fight", "max_tokens": 20}
    message, reason, usage = said(phi, **fields, headers=pinned(9))
    assert (reason, usage["completion_tokens"], len(message["content"])) == ("content_filter", 5, 20)
    chunks = streamed(phi, **fields, headers=pinned(9))
    assert len(chunks) == 1 + 5 + 1
    assert chunks[-1]["choices"][0]["finish_reason"] == "content_filter"
    assert chunks[-1]["usage"] == usage
    answer = phi.client.post("/completions", json={"prompt": "describe a bar fight"}, headers=pinned(9)).json()
    assert answer["choices"][0]["finish_reason"] == "content_filter"


def test_an_answer_that_the_filter_let_pass_says_that_it_ran(phi):
    assert phi.client.post(CHAT, json=ask()).headers["x-ms-rai-invoked"] == "true"
    assert "x-ms-rai-invoked" not in phi.client.get("/info").headers
