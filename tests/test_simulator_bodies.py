"""No body makes the simulator's parsers fail: each is read, or refused with an answer that the API defines."""

import json
from collections import Counter
from random import Random

import pytest

from loadgen.simulator.chat import parse_chat
from loadgen.simulator.completions import parse_completion
from loadgen.simulator.embeddings import parse_embeddings, parse_image_embeddings
from loadgen.simulator.models import Images, Model
from loadgen.simulator.parameters import Dialect, Extras, Terms
from loadgen.simulator.refusals import Refusal
from loadgen.simulator.safety import Safety
from loadgen.simulator.schemas import MOST_BYTES, example
from tests.simulators import CHAT, OPENAI, ask, data_url, simulated

pytestmark = pytest.mark.aside

BODIES = 4_000
EVERYTHING = Model(name="all", context_tokens=10_000, images=Images.SEVERAL, tools=True, json_object=True)
_NAMES = (
    "messages prompt input role content type text image_url url image detail tools tool_choice tool_calls tool_call_id "
    "function name arguments parameters properties required enum items minItems maximum minimum anyOf const stop seed "
    "max_tokens stream stream_options include_usage response_format json_schema schema n logprobs top_logprobs model "
    "temperature top_p dimensions encoding_format input_type modalities max_completion_tokens"
)
NAMES = tuple(_NAMES.split())
LEAVES = (
    *(None, True, False, 0, 1, -1, 7, 0.5, 1e300, 2**63, -(2**63), "", "x", "7", "-", "0.5", "nan", "user", "tool"),
    *("assistant", "function", "text", "image_url", "json_object", "json_schema", "auto", "none", "base64", "object"),
    *("array", "string", "number", "describe a bar fight", data_url(8, 8), "e", " ", "ü\n"),
)


def grown(random, depth=0):
    kind = random.random()
    if depth > 4 or kind < 0.5:
        return random.choice(LEAVES)
    if kind < 0.75:
        return [grown(random, depth + 1) for _ in range(random.randrange(4))]
    return {random.choice(NAMES): grown(random, depth + 1) for _ in range(random.randrange(5))}


def mutated(random, value):
    """The value with something in it replaced."""
    if random.random() < 0.12 or not isinstance(value, dict | list) or not value:
        return grown(random)
    if isinstance(value, list):
        at = random.randrange(len(value))
        return [*value[:at], mutated(random, value[at]), *value[at + 1 :]]
    name = random.choice([*value, random.choice(NAMES)])
    return value | {name: mutated(random, value.get(name))}


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PICTURE = {"type": "image_url", "image_url": {"url": data_url(8, 8)}}
TURNS = [
    {"role": "system", "content": "x"},
    {"role": "user", "content": [{"type": "text", "text": "x"}, PICTURE]},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "x", "tool_call_id": "1"},
]
SHAPE = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": {"a": {"type": "array"}}}}}
SAMPLING = {"temperature": 1, "max_tokens": 9, "stop": ["e"], "seed": 1, "stream_options": {"include_usage": True}}
SEEDS = [
    (parse_chat, {"messages": TURNS, **SAMPLING, "logprobs": True, "top_logprobs": 2}),
    (parse_chat, {"messages": TURNS[:2], "tools": [TOOL], "tool_choice": "auto", **SAMPLING}),
    (parse_chat, {"messages": TURNS[:2], "response_format": SHAPE, **SAMPLING}),
    (parse_completion, {"prompt": ["x", [1, 2]], **SAMPLING}),
    (parse_embeddings, {"input": ["x"], "encoding_format": "binary", "dimensions": 9, "input_type": "text"}),
    (parse_image_embeddings, {"input": [{"image": data_url(8, 8), "text": "x"}]}),
]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_body_is_answered_or_refused_whatever_it_holds(dialect):
    random, seen = Random(f"bodies/{dialect}"), Counter()
    terms = Terms(model=EVERYTHING, dialect=dialect, safety=Safety())
    for _ in range(BODIES):
        parse, fields = random.choice(SEEDS)
        for _ in range(random.randrange(4)):
            fields = mutated(random, fields)
        try:
            asked = parse(json.dumps(fields).encode(), terms, random.choice(list(Extras)))
        except Refusal as refusal:
            assert json.loads(refusal.body)
            seen[refusal.status] += 1
            continue
        answer = asked.compose(random, room_tokens=random.choice([0, 3, 500]), length=lambda rng: rng.randrange(40))
        whole = json.loads(answer.whole())
        assert whole["usage"]["prompt_tokens"] == asked.prompt_tokens
        if asked.stream or parse in (parse_chat, parse_completion):
            events = answer.events()
            stream = events.role + b"".join(events.token(index) for index in range(answer.completion_tokens))
            frames = (stream + events.end()).split(b"\n\n")
            assert frames[-2:] == [b"data: [DONE]", b""]
            assert all(json.loads(frame.removeprefix(b"data: ")) for frame in frames[:-2])
        seen[200] += 1
    assert seen.keys() == {200, 400, 422}
    assert min(seen[200], seen[422]) > BODIES / 10


def test_a_request_names_the_field_that_holds_its_prompt():
    terms = Terms(model=EVERYTHING, dialect=Dialect.OPENAI, safety=None)
    for parse, fields in SEEDS:
        asked = parse(json.dumps(fields).encode(), terms, Extras.FORWARD)
        assert asked.param in {"messages", "prompt", "input"} & fields.keys()


def test_what_is_nested_too_deeply_to_be_written_again_is_refused():
    deep = []
    for _ in range(600):
        deep = [deep]
    with simulated("--model", "mistral-large") as server:
        for route, fields in (
            (OPENAI, {"seed": 1, "whatever": deep}),
            (CHAT, {"tools": [TOOL | {"function": {"name": "f", "parameters": {"const": deep}}}]}),
        ):
            assert server.client.post(route, json=ask(**fields)).status_code == 400
        assert server.client.post(CHAT, json=ask()).status_code == 200


def arrays(levels, schema, least=16):
    for _ in range(levels):
        schema = {"type": "array", "minItems": least, "items": schema}
    return schema


def within(schema, *, required):
    return {"type": "object", "properties": {"a": {"type": "integer"}, "b": schema}, "required": ["a", "b"][:required]}


LONG = {"const": "x" * MOST_BYTES}
MANY = {"type": "object", "properties": {f"p{n}": {} for n in range(5_000)}}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (LONG, None),  # what must be does not fit
        ({"enum": [{"a": ["x" * MOST_BYTES]}]}, None),
        ({"type": "object", "required": [f"r{n}" for n in range(5_000)]}, None),
        ({"type": "object", "required": ["x" * MOST_BYTES]}, None),
        (arrays(3, {"const": "x" * 100}), None),
        (arrays(5, {"type": "string"}), None),
        (within(LONG, required=2), None),
        (within(LONG, required=0), {"a": 1}),  # what need not be is left out
        (within(LONG, required=1), {"a": 1}),
        (arrays(1, LONG, least=0), []),
        (arrays(2, within(LONG, required=0)), [[{"a": 1}] * 16] * 16),
        (arrays(1, {"type": "string"}), ["text"] * 16),
    ],
)
def test_a_value_for_a_schema_has_a_size_that_no_schema_exceeds(schema, expected):
    if expected is None:
        with pytest.raises(Refusal) as refused:
            example(schema, ("there",))
        assert json.loads(refused.value.body)["detail"] == {"loc": ["body", "there"], "input": "dict"}
    else:
        assert example(schema) == expected


def test_of_many_properties_that_need_not_be_as_many_are_said_as_have_room():
    said = example(MANY)
    assert 300 < len(said) < 5_000
    assert MOST_BYTES * 0.9 < len(json.dumps(said)) <= MOST_BYTES
    assert len(json.dumps(example(arrays(3, MANY, least=0)))) <= MOST_BYTES


def test_a_schema_that_is_too_large_is_unprocessable_at_its_place():
    huge = within(arrays(3, {"const": "x" * 20_000}), required=2)
    shape = {"type": "json_schema", "json_schema": {"schema": huge}}
    second = [TOOL, {"type": "function", "function": {"name": "g", "parameters": huge}}]
    choice = {"type": "function", "function": {"name": "g"}}
    with simulated("--model", "mistral-large") as server:
        for fields, loc in (
            ({"response_format": shape}, ["response_format", "json_schema", "schema"]),
            ({"tools": second, "tool_choice": choice}, ["tools", 1, "function", "parameters"]),
        ):
            answer = server.client.post(CHAT, json=ask(**fields))
            assert (answer.status_code, answer.json()["detail"]["loc"]) == (422, ["body", *loc])
        assert server.client.post(CHAT, json=ask(tools=second)).status_code == 200  # the first is called
