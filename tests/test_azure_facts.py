"""What Azure's documents say of the API, one test a fact: of the simulated deployment, or of what Headroom makes of it.

The comment before a test, or the first column of a table, is the number of the fact in ../shared/azure-facts.md,
section 0. These cannot be asserted of a server or of Headroom:

 3  Entra ID works with managed endpoints only: the sign-in is Azure's own
 5  which SDKs there are, and what the documents misname in them
 6  a constructor of an SDK that never existed
 7  from when on managed endpoints have the API
46  where serverless models are billed
48  when Azure deletes an endpoint on shared quota
"""

import base64
import io
import json
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from PIL import Image

from loadgen.config import RunConfig, TargetConfig
from loadgen.errors import ConfigError
from loadgen.loadtest import ENDPOINT_VARIABLES
from loadgen.quota import Quota
from loadgen.refusals import error_of
from loadgen.requests import Route
from loadgen.samples import Outcome
from loadgen.simulator.models import Kind, model_of
from loadgen.target import address_of, credential_of, routes_of
from loadgen.tokens import image_tokens, text_tokens
from loadgen.wire import ResponseReader
from planner.prices import read_prices
from tests.simulators import FAST_BATCHES, KEY, simulated

pytestmark = pytest.mark.aside

CHAT, VERSION = "/chat/completions", "?api-version=2024-05-01-preview"
FLEET = {
    "phi": ["--tpm", "200000000", "--rpm", "1000000"],
    "mistral": ["--model", "Mistral-Large", "--tpm", "200000000", "--rpm", "1000000"],
    "vision": ["--model", "Phi-3-vision-128k-instruct", "--kind", "managed"],
    "embed": ["--model", "Cohere-embed-v3-english", "--tpm", "200000000", "--rpm", "1000000"],
    "flat": ["--content-filter", "flat"],  # and the quota that a deployment has by default
    "locked": [],
}
EIGHT_TOKENS = {"completion_mean_tokens": 8, "completion_sigma": 0}
AT_ONCE = {
    "ttft_base_ms": 0, "ttft_per_prompt_token_ms": 0, "ttft_per_running_ms": 0, "itl_base_ms": 0, "itl_per_running_ms": 0,
}  # fmt: skip
FILTERED_PROMPT = (
    "Chopping tomatoes and cutting them into cubes or wedges are great ways to practice your knife skills."
)


def swift(flags):
    return EIGHT_TOKENS | (FAST_BATCHES if "managed" in flags else AT_ONCE)


@pytest.fixture(scope="module")
def fleet():
    """An HTTP client for each of the deployments; the locked one asks for KEY."""
    with ExitStack() as stack:
        yield {
            name: stack.enter_context(
                simulated(*flags, serving=swift(flags), key=KEY if name == "locked" else None)
            ).client
            for name, flags in FLEET.items()
        }


@pytest.fixture
def phi(fleet):
    return fleet["phi"]


@pytest.fixture
def mistral(fleet):
    return fleet["mistral"]


@pytest.fixture
def vision(fleet):
    return fleet["vision"]


def said(text="hi", role="user", **more):
    return {"role": role, "content": text, **more}


def post(client, *messages, headers=None, route=CHAT, **fields):
    return client.post(route + VERSION, json={"messages": list(messages) or [said()], **fields}, headers=headers)


def content(client, *messages, **fields):
    answer = post(client, *messages, **fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def chunks(client, **fields):
    answer = post(client, stream=True, **fields)
    assert answer.status_code == 200, answer.text
    *events, end = answer.content.split(b"\n\n")
    assert end == b""
    assert all(event.startswith(b"data: ") for event in events)
    return [event.removeprefix(b"data: ") for event in events]


def picture(width_px=64, height_px=48, mime="image/jpeg"):
    file = io.BytesIO()
    Image.new("RGB", (width_px, height_px)).save(file, "JPEG")
    return {
        "type": "image_url",
        "image_url": {"url": f"data:{mime};base64,{base64.b64encode(file.getvalue()).decode()}"},
    }


# 0.1 Endpoint, authorization, clients


# 1
def test_an_endpoint_is_a_host_in_a_region():
    address = address_of("https://my-host.eastus2.inference.ai.azure.com")
    target = RunConfig().target
    assert (address.scheme, address.host) == ("https", "my-host.eastus2.inference.ai.azure.com")
    assert address.path_of(Route.CHAT, target).startswith("/chat/completions?api-version=")


# 2
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": f"Bearer {KEY}"}, 200),
        ({"api-key": KEY}, 200),
        ({"authorization": f"Bearer {KEY[:-1]}"}, 401),
        ({}, 401),
    ],
)
def test_the_key_of_32_characters_is_a_bearer_token(fleet, headers, status):
    assert len(KEY) == 32
    assert post(fleet["locked"], headers=headers).status_code == status


# 4
@pytest.mark.parametrize(
    ("url", "key"),
    [("AZUREAI_ENDPOINT_URL", "AZUREAI_ENDPOINT_KEY"), ("AZURE_INFERENCE_ENDPOINT", "AZURE_INFERENCE_CREDENTIAL")],
)
def test_both_pairs_of_environment_variables_are_read(url, key):
    assert url in ENDPOINT_VARIABLES
    target = TargetConfig()
    assert credential_of(target, {key: KEY}).headers(target.dialect)["Authorization"] == f"Bearer {KEY}"


# 8
def test_the_routes_of_an_azure_openai_deployment_answer_too(phi):
    route = "/openai/deployments/Phi-3-mini-4k-instruct/chat/completions"
    assert post(phi, route=route).json()["object"] == "chat.completion"


# 9
@pytest.mark.parametrize(
    ("model", "route", "body"),
    [
        ("phi", "/completions", {"prompt": "once"}),
        ("phi", "/chat/completions", {"messages": [said()]}),
        ("embed", "/embeddings", {"input": ["once"]}),
        ("embed", "/images/embeddings", {"input": [{"image": picture()["image_url"]["url"]}]}),
    ],
)
def test_each_modality_has_its_route(fleet, model, route, body):
    assert fleet[model].post(route + VERSION, json=body).status_code == 200
    assert fleet[model].get("/info").status_code == 200


# 10
@pytest.mark.parametrize("query", ["", "?api-version=2024-04-01-preview", "?api-version=2024-05-01-preview"])
def test_an_api_version_may_be_the_old_one_the_sdks_or_none(phi, query):
    assert phi.get("/info" + query).status_code == 200
    assert phi.post(CHAT + query, json={"messages": [said()]}).status_code == 200


# 11, 12, 13
@pytest.mark.parametrize(
    ("model", "kind", "offered"),
    [
        ("Cohere-embed-v3-english", "serverless", True),
        ("Mistral-small", "serverless", True),
        ("Mistral-Large", "serverless", True),
        ("Meta-Llama-3-8B-Instruct", "managed", True),
        ("Phi-3-mini-128k-instruct", "managed", True),
        ("Phi-3-small-8k-instruct", "serverless", True),  # the documents also call it 4k, which it is not
        ("Phi-3-medium-4k-instruct", "serverless", True),
        ("Phi-3-vision-128k-instruct", "managed", True),
        ("Phi-3-small-4k-instruct", "serverless", False),
        ("Phi-3-vision-128k-instruct", "serverless", False),  # managed compute only
        ("Cohere-embed-v3-english", "managed", False),
    ],
)
def test_which_models_are_offered_on_what(model, kind, offered):
    if offered:
        assert model_of(model, Kind(kind)).name == model
    else:
        with pytest.raises(ConfigError, match=model):
            model_of(model, Kind(kind))


# 12
@pytest.mark.parametrize(
    ("model", "context_tokens"),
    [("mini-4k", 4_096), ("mini-128k", 131_072), ("small-8k", 8_192), ("vision-128k", 131_072)],
)
def test_the_name_of_a_phi_3_says_its_context(model, context_tokens):
    assert model_of(f"Phi-3-{model}-instruct", Kind.MANAGED).context_tokens == context_tokens


# 0.2 /info


# 14
@pytest.mark.parametrize(
    ("model", "name", "kind", "provider"),
    [
        ("phi", "Phi-3-mini-4k-instruct", "chat-completions", "Microsoft"),
        ("mistral", "Mistral-Large", "chat-completions", "MistralAI"),
        ("vision", "Phi-3-vision-128k-instruct", "chat-completions", "Microsoft"),
    ],
)
def test_info_has_three_fields(fleet, model, name, kind, provider):
    assert fleet[model].get("/info").json() == {"model_name": name, "model_type": kind, "model_provider_name": provider}


# 14
def test_both_documented_model_types_are_taken_for_chat():
    assert routes_of("completion") == routes_of("chat-completions") == routes_of("chat_completion")
    assert Route.CHAT in routes_of("completion") and Route.CHAT not in routes_of("embeddings")


# 0.3 Chat completion


# 15
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_a_request_needs_messages_only_and_a_message_has_one_of_four_roles(phi, role):
    more = {"tool_call_id": "abc0DeFgH"} if role == "tool" else {}
    assert content(phi, said(role=role, **more))["choices"][0]["message"]["role"] == "assistant"
    assert post(phi, said(role="narrator")).status_code == 422
    assert phi.post(CHAT, json={}).status_code == 422


# 16
def test_an_answer_has_the_documented_fields_in_the_documented_order(phi):
    body = content(phi)
    assert list(body) == ["id", "object", "created", "model", "choices", "usage"]
    assert len(body["id"]) == 32 and "-" not in body["id"]
    assert body["object"] == "chat.completion"
    assert abs(body["created"] - time.time()) < 60
    (choice,) = body["choices"]
    assert choice["index"] == 0 and choice["logprobs"] is None and choice["finish_reason"] == "stop"
    assert choice["message"]["tool_calls"] is None
    assert list(body["usage"]) == ["prompt_tokens", "total_tokens", "completion_tokens"]


# 16
@pytest.mark.parametrize("model", ["phi", "mistral", "vision"])
def test_usage_adds_up(fleet, model):
    usage = content(fleet[model])["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


# 17
def test_roles_may_be_out_of_order_and_repeated(phi):
    assert content(
        phi, said(role="system"), said(), said(role="system"), said(role="assistant"), said(role="assistant")
    )


# 18
@pytest.mark.parametrize("model", ["phi", "vision"])
def test_a_system_message_is_a_user_message_to_phi_and_is_counted(fleet, model):
    alone = content(fleet[model], said())["usage"]["prompt_tokens"]
    with_system = content(fleet[model], said("be brief", "system"), said())["usage"]["prompt_tokens"]
    assert (
        with_system == alone + content(fleet[model], said("be brief"), said())["usage"]["prompt_tokens"] - alone > alone
    )


# 19, 38
def test_a_conversation_goes_on_from_a_tool_call_and_its_result(mistral):
    call = {"id": "abc0DeFgH", "type": "function", "function": {"name": "lookup", "arguments": "{}", "call_id": None}}
    turns = said(), said("", "assistant", tool_calls=[call]), said('{"price":"432"}', "tool", tool_call_id="abc0DeFgH")
    (choice,) = content(mistral, *turns, tools=[TOOL])["choices"]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"]


# 0.4 Streaming


# 20, 21, 22
def test_a_stream_begins_with_the_role_ends_with_usage_beside_the_finish_reason_and_then_done(phi):
    *data, done = chunks(phi)
    first, *later, last = map(json.loads, data)
    assert done == b"[DONE]"
    assert {chunk["object"] for chunk in (first, *later, last)} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"]) for chunk in (first, *later, last)}) == 1
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None, "logprobs": None}
    ]
    assert later and all(chunk["choices"][0]["delta"]["content"] for chunk in later)
    assert not any("usage" in chunk or chunk["choices"][0]["finish_reason"] for chunk in (first, *later))
    assert last["choices"][0]["delta"] == {"content": ""}
    assert last["choices"][0]["finish_reason"] == "stop"
    assert last["usage"]["completion_tokens"] == len(later)


# 23
def test_our_client_passes_over_a_chunk_without_choices():
    reader = ResponseReader(stream=True)
    token = b'data: {"choices":[{"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'
    body = b'data: {"choices":[]}\n\n' + token + b"data: [DONE]\n\n"
    reader.feed(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body), 1
    )
    assert reader.verdict() == (Outcome.OK, None)
    assert reader.chunks == 1


# 24
def test_nothing_is_streamed_unless_the_body_asks_for_it(phi):
    answer = post(phi, headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"] == "application/json"


# 0.5 Parameters


# 25, 26, 27
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "top_p": 1, "max_tokens": 2048},
        {"max_tokens": 4_000},
        {
            "presence_penalty": 0.1,
            "frequency_penalty": 0.8,
            "stop": ["<|endoftext|>"],
            "response_format": {"type": "text"},
        },
        {"presence_penalty": "0.1", "frequency_penalty": "0.8"},  # as the SDK samples send them
        {"response_format": "text"},
    ],
    ids=str,
)
def test_the_documented_sampling_parameters_are_taken(phi, fields):
    assert content(phi, **fields)["choices"][0]["finish_reason"] == "stop"


# 27, 28
@pytest.mark.parametrize("shape", [{"type": "json_object"}, "json_object"], ids=["object", "string"])
def test_json_mode_answers_with_an_object_which_max_tokens_cuts_off(mistral, shape):
    asked = said("Answer as a JSON object.")
    (whole,) = content(mistral, asked, response_format=shape, max_tokens=500)["choices"]
    (cut,) = content(mistral, asked, response_format=shape, max_tokens=1)["choices"]
    assert whole["finish_reason"] == "stop" and isinstance(json.loads(whole["message"]["content"]), dict)
    assert cut["finish_reason"] == "length"
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut["message"]["content"])


# 29, 33
@pytest.mark.parametrize("model", ["phi", "vision"])
def test_phi_has_no_json_mode(fleet, model):
    answer = post(fleet[model], response_format={"type": "json_object"})
    assert answer.status_code == 422
    assert answer.headers["x-ms-error-code"] == "parameter_not_supported"
    body = answer.json()
    assert (body["status"], body["code"]) == (422, "parameter_not_supported")
    assert body["detail"] == {"loc": ["body", "response_format"], "input": "json_object"}
    assert body["message"] == "One of the parameters contain invalid values."


# 0.6 Extra parameters


# 30, 31, 32
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 400),
        ({"extra-parameters": "error"}, 400),
        ({"extra-parameters": "drop"}, 200),
        ({"extra-parameters": "ignore"}, 200),  # the older pages' name of drop
        ({"extra-parameters": "pass-through"}, 200),
        ({"extra-params": "pass-through"}, 400),  # misspelled in the samples, so it says nothing
        ({"extra-params": "passthrough"}, 400),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("model", "extra"), [("phi", "logprobs"), ("mistral", "safe_prompt"), ("mistral", "safe_mode")]
)
def test_a_parameter_beyond_the_api_is_an_error_unless_the_header_says_otherwise(fleet, model, extra, headers, status):
    answer = post(fleet[model], headers=headers, **{extra: True})
    assert answer.status_code == status
    assert status == 200 or extra in answer.text


# 32
def test_log_probabilities_are_answered_only_where_the_parameter_passes_through(phi):
    passed = post(phi, headers={"extra-parameters": "pass-through"}, logprobs=True).json()
    dropped = post(phi, headers={"extra-parameters": "drop"}, logprobs=True).json()
    assert passed["choices"][0]["logprobs"]["content"]
    assert dropped["choices"][0]["logprobs"] is None


# 0.7 Errors


# 33
@pytest.mark.parametrize("key", ["detail", "details"])
@pytest.mark.parametrize("wrap", [dict, lambda detail: [detail]], ids=["object", "list"])
def test_the_parameter_at_fault_is_read_from_an_object_or_a_list(key, wrap):
    body = {
        "status": 422,
        "code": "parameter_not_supported",
        "message": "no",
        key: wrap({"loc": ["body", "response_format"], "input": "json_object"}),
    }
    assert error_of(json.dumps(body).encode(), {}) == ("parameter_not_supported", "response_format: no")


# 34, 35
@pytest.mark.parametrize(
    ("model", "inside", "param"),
    [("phi", lambda body: body["error"], "prompt"), ("flat", lambda body: body, "messages")],
    ids=["wrapped", "flat"],
)
def test_a_filtered_prompt_is_refused_in_one_of_two_layouts(fleet, model, inside, param):
    answer = post(fleet[model], said(FILTERED_PROMPT))
    error = inside(answer.json())
    assert (answer.status_code, error["status"], error["code"]) == (400, 400, "content_filter")
    assert (error["param"], error["type"]) == (param, None)
    assert answer.headers["x-ms-error-code"] == "content_filter"
    assert error_of(answer.content, {})[0] == "content_filter"


# 36
def test_managed_compute_has_no_content_safety(vision):
    assert content(vision, said(FILTERED_PROMPT))["choices"][0]["finish_reason"] == "stop"
    server = subprocess.run(
        [sys.executable, "-m", "loadgen.simulator", *FLEET["vision"], "--content-filter", "wrapped", "--until-eof"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert server.returncode == 2


# 36
def test_the_filter_acts_on_completions_too(phi):
    (choice,) = content(phi, said("Please describe a bar fight."))["choices"]
    assert choice["finish_reason"] == "content_filter"


# 37
def test_the_trailing_commas_of_the_samples_are_no_json(phi):
    answer = phi.post(CHAT, content=b'{"messages": [{"role": "user", "content": "hi"},],}')
    assert answer.status_code == 400


# 0.8 Tools

TOOL = {
    "type": "function",
    "function": {
        "name": "lookup",
        "description": "Looks up a price.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "nights": {"type": "integer"}},
            "required": ["city"],
        },
    },
}


# 38
def test_a_tool_is_called_with_arguments_in_json(mistral):
    (choice,) = content(mistral, tools=[TOOL], tool_choice="auto")["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == ""
    (call,) = choice["message"]["tool_calls"]
    assert call["id"] and call["type"] == "function"
    assert (call["function"]["name"], call["function"]["call_id"]) == ("lookup", None)
    assert isinstance(json.loads(call["function"]["arguments"])["city"], str)


# 39
def test_a_tool_whose_parameters_require_nothing_is_called_too(mistral):
    parameters = {key: value for key, value in TOOL["function"]["parameters"].items() if key != "required"}
    tool = {"type": "function", "function": {**TOOL["function"], "parameters": parameters}}
    assert content(mistral, tools=[tool])["choices"][0]["finish_reason"] == "tool_calls"
    assert post(mistral, tools=TOOL).status_code == 422  # the object alone, as the documents show it first


# 0.9 Vision


# 40, 41
@pytest.mark.parametrize("mime", ["image/jpeg", "image/jpg", "image/png"])
def test_a_picture_comes_as_a_data_url_of_any_documented_type(vision, mime):
    parts = [{"type": "text", "text": "what?"}, picture(mime=mime)]
    assert content(vision, said(parts))["usage"]["prompt_tokens"] > 144


# 40
def test_a_picture_under_the_wrong_key_of_the_samples_is_refused(vision):
    wrong = {"type": "image_url", "image": picture()["image_url"]}
    assert post(vision, said([wrong])).status_code == 422


# 42
def test_phi_3_vision_takes_one_picture_a_turn_and_keeps_the_last(vision):
    small, large = picture(), picture(1900, 1069)
    one = content(vision, said([small]), said("", "assistant"), said("and?"))["usage"]["prompt_tokens"]
    both = content(vision, said([large]), said("", "assistant"), said([small]))["usage"]["prompt_tokens"]
    assert post(vision, said([small, small])).status_code in (400, 422)
    assert both - one == text_tokens("") - text_tokens("and?")  # the first picture costs nothing any more


# 43, 49
def test_the_documented_picture_costs_its_documented_tokens(vision):
    assert image_tokens(1900, 1069) == 2_353
    text = "x" * 4 * (2_380 - 2_353 - 4)  # with the 4 of a message, the 27 of the documented prompt
    body = content(vision, said([{"type": "text", "text": text}, picture(1900, 1069)]))
    assert body["usage"]["prompt_tokens"] == 2_380


# 49
@pytest.mark.parametrize(
    ("size", "crops", "rows"),
    [((1900, 1069), 15, 3), ((1069, 1900), 15, 5), ((336, 336), 16, 4), ((4000, 200), 16, 1)],
    ids=str,
)
def test_a_picture_is_cut_into_sixteen_crops_at_most(size, crops, rows):
    assert image_tokens(*size) == (crops + 1) * 144 + 1 + (rows + 1) * 12


# 44
@pytest.mark.parametrize(
    ("model", "name"), [("phi", "Phi-3-mini-4k-instruct"), ("vision", "Phi-3-vision-128k-instruct")]
)
def test_every_answer_names_the_model_that_is_served(fleet, model, name):
    assert content(fleet[model], model="Mistral-Large")["model"] == name


# 0.10 Quota and cost


# 45
def test_a_serverless_deployment_has_200_000_tokens_and_1_000_requests_a_minute(fleet):
    assert (Quota().tokens_per_minute, Quota().requests_per_minute) == (200_000, 1_000)
    headers = post(fleet["flat"]).headers
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-limit-requests"]) == ("200000", "1000")


# 13, 45
def test_managed_compute_has_no_quota_of_tokens(vision):
    assert not [name for name in post(vision).headers if name.startswith("x-ratelimit")]


# 47
def test_managed_compute_is_priced_by_the_hour_and_quota_is_counted_in_cores():
    (sku, *_) = read_prices().skus_for("Phi-3-vision-128k")
    assert sku.cores > 0
    assert sku.usd_per_hour["eastus"] > 0
    assert read_prices().token_price("Phi-3-vision-128k") is None  # 13: not sold by the token
