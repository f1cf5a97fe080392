"""/completions, /embeddings and /images/embeddings of the simulated deployment."""

import base64
import math
import struct

import pytest

from loadgen.tokens import EMBEDDED_IMAGE_TOKENS
from tests.simulators import CHAT, data_url, events, pinned, simulated

pytestmark = pytest.mark.aside

COMPLETIONS, OPENAI_COMPLETIONS = "/completions", "/v1/completions"
EMBEDDINGS, IMAGES = "/embeddings", "/images/embeddings"
MUCH = ("--tpm", "1000000000", "--rpm", "1000000")


@pytest.fixture(scope="module")
def phi():
    with simulated(*MUCH) as server:
        yield server


@pytest.fixture(scope="module")
def cohere():
    with simulated(*MUCH, "--model", "Cohere-embed-v3-english") as server:
        yield server


def completed(server, route=COMPLETIONS, tokens=5, **fields):
    answer = server.client.post(route, json=fields, headers=pinned(tokens))
    assert answer.status_code == 200, answer.text
    return events(answer.content) if fields.get("stream") else answer.json()


def embedded(server, given, route=EMBEDDINGS, **fields):
    answer = server.client.post(route, json={"input": given} | fields)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [one["index"] for one in body["data"]] == list(range(len(body["data"])))
    assert all(one["object"] == "embedding" for one in body["data"])
    return [one["embedding"] for one in body["data"]], body


# Completions


def test_a_completion_has_the_documented_fields(phi):
    body = completed(phi, prompt="a" * 40)
    assert body["object"] == "text_completion"
    assert len(body["id"]) == 32
    (choice,) = body["choices"]
    assert choice.keys() == {"index", "text", "finish_reason", "logprobs"}
    assert (choice["index"], choice["finish_reason"], len(choice["text"])) == (0, "stop", 20)
    assert body["usage"] == {"prompt_tokens": 10, "total_tokens": 15, "completion_tokens": 5}


@pytest.mark.parametrize(
    ("prompt", "tokens", "choices"),
    [
        ("abcd", 1, 1),
        (["abcd", "abcdefgh"], 3, 2),
        ([7, 8, 9], 3, 1),
        ([[7, 8, 9], [7]], 4, 2),
        (["abcd", [7, 8]], 3, 2),
        ("", 0, 1),
    ],
)
def test_each_prompt_is_answered_by_a_choice(phi, prompt, tokens, choices):
    body = completed(phi, prompt=prompt, seed=1)
    assert [choice["index"] for choice in body["choices"]] == list(range(choices))
    assert body["usage"] == {
        "prompt_tokens": tokens,
        "total_tokens": tokens + 5 * choices,
        "completion_tokens": 5 * choices,
    }
    chunks = completed(phi, prompt=prompt, seed=1, stream=True)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}  # one shape, streamed or not
    assert all(chunk["choices"][0].keys() == body["choices"][0].keys() for chunk in chunks)
    for choice in body["choices"]:
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in mine) == choice["text"]
        assert [one["finish_reason"] for one in mine] == [None] * 5 + ["stop"]
    assert ["usage" in chunk for chunk in chunks] == [False] * (6 * choices - 1) + [True]
    assert chunks[-1]["usage"] == body["usage"]


def test_several_prompts_share_the_quota_but_not_the_context():
    with simulated("--tpm", "1000", "--window", "sliding", "--context-tokens", "250") as server:
        answer = server.client.post(COMPLETIONS, json={"prompt": ["x" * 400, "x" * 800], "max_tokens": 30})
        assert answer.json()["usage"]["prompt_tokens"] == 300
        assert answer.headers["x-ratelimit-remaining-tokens"] == str(1000 - 300 - 2 * 30)
        answer = server.client.post(COMPLETIONS, json={"prompt": "x" * 1_004})
        assert answer.headers["x-ms-error-code"] == "context_length_exceeded"


def test_a_completion_is_cut_at_256_tokens_or_max_tokens_or_its_stop(phi):
    for fields, tokens, reason in (({}, 256, "length"), ({"max_tokens": 3}, 3, "length"), ({"stop": " "}, 1, "stop")):
        body = completed(phi, tokens=300, prompt="x", **fields)
        assert (body["usage"]["completion_tokens"], body["choices"][0]["finish_reason"]) == (tokens, reason)
    empty = completed(phi, prompt=["x", "y"], max_tokens=0, stream=True)
    assert [chunk["choices"][0]["finish_reason"] for chunk in empty if chunk["choices"][0]["finish_reason"]] == [
        "length",
        "length",
    ]


def test_openais_completion_streams_usage_only_when_asked(phi):
    assert all("usage" not in chunk for chunk in completed(phi, OPENAI_COMPLETIONS, prompt="x", stream=True))
    options = {"stream_options": {"include_usage": True}}
    *earlier, last = completed(phi, OPENAI_COMPLETIONS, prompt="x", stream=True, **options)
    assert all(chunk["usage"] is None for chunk in earlier)
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 5)


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({}, ["prompt"]),
        ({"prompt": []}, ["prompt"]),
        ({"prompt": 7}, ["prompt"]),
        ({"prompt": ["x", 7]}, ["prompt", 1]),
        ({"prompt": ["x", []]}, ["prompt", 1]),
        ({"prompt": ["x"] * 65}, ["prompt"]),
        ({"prompt": "x", "max_tokens": -1}, ["max_tokens"]),
        ({"prompt": "x", "temperature": 3}, ["temperature"]),
        ({"prompt": "x", "stop": [""]}, ["stop"]),
        ({"prompt": "x", "stream": 1}, ["stream"]),
        ({"prompt": "x", "model": 1}, ["model"]),
    ],
)
def test_a_wrong_completion_is_unprocessable_and_its_place_is_named(phi, fields, loc):
    answer = phi.client.post(COMPLETIONS, json=fields)
    assert (answer.status_code, answer.json()["detail"]["loc"]) == (422, ["body", *loc])


def test_an_unknown_parameter_of_a_completion_is_refused(phi):
    answer = phi.client.post(COMPLETIONS, json={"prompt": "x", "messages": []})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


# Embeddings


def test_a_text_has_one_unit_vector_and_others_are_far_from_it(cohere):
    (one, two, again), body = embedded(cohere, ["a cat", "a dog", "a cat"])
    assert one == again
    assert len(one) == 1024
    assert math.hypot(*one) == pytest.approx(1) == math.hypot(*two)
    assert abs(sum(map(float.__mul__, one, two))) < 0.2
    assert body["object"] == "list"
    assert body["model"] == "Cohere-embed-v3-english"
    assert body["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert embedded(cohere, "a cat")[0] == [one]
    assert embedded(cohere, [5, 6], "/v1/embeddings")[1]["usage"]["prompt_tokens"] == 2


def test_dimensions_set_the_length_of_the_vector(cohere):
    ((vector,), _) = embedded(cohere, "a cat", dimensions=256)
    assert len(vector) == 256 and math.hypot(*vector) == pytest.approx(1)


def test_every_encoding_says_the_same_vector(cohere):
    ((vector,), _) = embedded(cohere, "a cat", encoding_format="float")
    ((packed,), _) = embedded(cohere, "a cat", encoding_format="base64", input_type="query")
    assert struct.unpack("<1024f", base64.b64decode(packed)) == pytest.approx(vector, abs=1e-7)
    peak = max(map(abs, vector))
    ((small,), _) = embedded(cohere, "a cat", encoding_format="int8")
    assert small == pytest.approx([127 * value / peak for value in vector], abs=0.51)
    ((unsigned,), _) = embedded(cohere, "a cat", encoding_format="uint8")
    assert [value - 128 for value in unsigned] == small
    ((bits,), _) = embedded(cohere, "a cat", encoding_format="ubinary")
    assert "".join(f"{byte:08b}" for byte in bits) == "".join("01"[value > 0] for value in vector)
    ((signed,), _) = embedded(cohere, "a cat", encoding_format="binary")
    assert [byte + 128 for byte in signed] == bits


def test_a_picture_has_a_vector_of_its_own_and_its_text_counts(cohere):
    small, large = data_url(8, 8), data_url(9, 9)
    given = [{"image": small}, {"image": large}, {"image": small, "text": "abcd"}]
    vectors, body = embedded(cohere, given, IMAGES)
    assert len({tuple(vector) for vector in vectors}) == 3
    assert body["usage"]["prompt_tokens"] == 3 * EMBEDDED_IMAGE_TOKENS + 1


@pytest.mark.parametrize(
    ("route", "fields", "loc"),
    [
        (EMBEDDINGS, {}, ["input"]),
        (EMBEDDINGS, {"input": []}, ["input"]),
        (EMBEDDINGS, {"input": [True]}, ["input", 0]),
        (EMBEDDINGS, {"input": ["x"] * 97}, ["input"]),
        (EMBEDDINGS, {"input": "x", "dimensions": 0}, ["dimensions"]),
        (EMBEDDINGS, {"input": "x", "dimensions": 1025}, ["dimensions"]),
        (EMBEDDINGS, {"input": "x", "encoding_format": "gif"}, ["encoding_format"]),
        (EMBEDDINGS, {"input": "x", "encoding_format": ["float"]}, ["encoding_format"]),
        (EMBEDDINGS, {"input": "x", "encoding_format": False}, ["encoding_format"]),
        (EMBEDDINGS, {"input": "x", "encoding_format": 0}, ["encoding_format"]),
        (EMBEDDINGS, {"input": "x", "encoding_format": []}, ["encoding_format"]),
        (EMBEDDINGS, {"input": "x", "encoding_format": ""}, ["encoding_format"]),
        (EMBEDDINGS, {"input": "x", "input_type": "poem"}, ["input_type"]),
        (IMAGES, {"input": "x"}, ["input"]),
        (IMAGES, {"input": ["x"]}, ["input", 0, "image"]),
        (IMAGES, {"input": [{"image": data_url(8, 8), "text": 1}]}, ["input", 0, "text"]),
    ],
)
def test_a_wrong_input_is_unprocessable_and_its_place_is_named(cohere, route, fields, loc):
    answer = cohere.client.post(route, json=fields)
    assert (answer.status_code, answer.json()["detail"]["loc"]) == (422, ["body", *loc])


def test_a_picture_that_cannot_be_read_is_a_bad_request(cohere):
    answer = cohere.client.post(IMAGES, json={"input": [{"image": "http://127.0.0.1/cat.jpg"}]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input[0].image")


def test_the_context_must_hold_the_longest_input_not_their_sum(cohere):
    assert embedded(cohere, ["x" * 2_000] * 3)[1]["usage"]["prompt_tokens"] == 1_500
    answer = cohere.client.post(EMBEDDINGS, json={"input": "x" * 2_052})
    assert (answer.status_code, answer.headers["x-ms-error-code"]) == (400, "context_length_exceeded")


def test_embeddings_are_metered_by_their_prompt():
    with simulated("--tpm", "100", "--window", "sliding", "--model", "Cohere-embed-v3-multilingual") as server:
        first = server.client.post(EMBEDDINGS, json={"input": "x" * 240})
        assert first.headers["x-ratelimit-remaining-tokens"] == "40"
        assert server.client.post(EMBEDDINGS, json={"input": "x" * 240}).status_code == 429


def test_the_content_filter_does_not_look_at_embeddings(cohere):
    answer = cohere.client.post(EMBEDDINGS, json={"input": "make a lethal bomb"})
    assert answer.status_code == 200
    assert "x-ms-rai-invoked" not in answer.headers


def test_a_model_offers_its_own_modality_and_not_the_other(phi, cohere):
    for server, route in ((phi, EMBEDDINGS), (phi, IMAGES), (cohere, CHAT), (cohere, COMPLETIONS)):
        answer = server.client.post(route, json={})
        assert (answer.status_code, answer.headers["x-ms-error-code"]) == (404, "not_found")
        assert answer.json().keys() == {"error", "message", "status"}
        assert route in answer.json()["message"]
    assert cohere.client.get("/info").json()["model_type"] == "embeddings"
