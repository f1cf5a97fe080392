"""The clients that users have, against the simulator: azure-ai-inference and openai, each blocking and asynchronous."""

import asyncio
import contextlib
import json
import math

import azure.ai.inference as blocking
import azure.ai.inference.aio as asynchronous
import openai
import pytest
from azure.ai.inference.models import (
    ChatCompletionsToolDefinition,
    FunctionDefinition,
    ImageEmbeddingInput,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from azure.core.credentials import AzureKeyCredential
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError

from tests.simulators import KEY, data_url, picture, simulated

MODELS = {
    "chat": "Phi-3-mini-4k-instruct",
    "tools": "Mistral-Large",
    "vision": "Phi-3.5-vision-instruct",
    "embeddings": "Cohere-embed-v3-english",
    "limited": "Phi-3-mini-4k-instruct",
}
QUOTA = ("--tpm", "1000000000", "--rpm", "1000000")
API_VERSION = "2024-10-21"
KNIVES = "Chopping tomatoes and cutting them into cubes or wedges are great ways to practice your knife skills."
FLIGHT = {
    "name": "get_flight_info",
    "description": "the next flight between two cities",
    "parameters": {
        "type": "object",
        "properties": {"origin_city": {"type": "string"}, "destination_city": {"type": "string"}},
        "required": ["origin_city", "destination_city"],
    },
}


@pytest.fixture(scope="module")
def servers():
    """By name, started when they are first asked for."""
    with contextlib.ExitStack() as stack:

        class Servers(dict):
            def __missing__(self, name):
                quota = ("--rpm", "1", "--window", "sliding") if name == "limited" else QUOTA
                self[name] = stack.enter_context(simulated("--model", MODELS[name], *quota, key=KEY))
                return self[name]

        yield Servers()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


# azure-ai-inference: `azure(kind, server, method, ...)` calls it either way and returns the answer, a stream as a list


def call_blocking(make, method, fields):
    with make(blocking) as client:
        answer = getattr(client, method)(**fields)
        return list(answer) if fields.get("stream") else answer


def call_asynchronous(make, method, fields):
    async def call():
        async with make(asynchronous) as client:
            answer = await getattr(client, method)(**fields)
            return [update async for update in answer] if fields.get("stream") else answer

    return asyncio.run(call())


@pytest.fixture(params=[call_blocking, call_asynchronous], ids=["blocking", "asynchronous"])
def azure(request):
    def call(client_name, method, server, *, key=KEY, path="", retry_total=10, **fields):
        def make(module):
            return getattr(module, client_name)(server.url + path, AzureKeyCredential(key), retry_total=retry_total)

        return request.param(make, method, fields)

    return call


def complete(azure, server, text="How many languages are in the world?", **fields):
    messages = fields.pop("messages", None) or [SystemMessage("You are a helpful assistant."), UserMessage(text)]
    return azure("ChatCompletionsClient", "complete", server, messages=messages, **fields)


def refused(azure, server, error=HttpResponseError, **fields):
    with pytest.raises(error) as raised:
        complete(azure, server, **fields)
    return raised.value


def adds_up(usage):
    assert min(usage.prompt_tokens, usage.completion_tokens) > 0
    return usage.prompt_tokens + usage.completion_tokens == usage.total_tokens


@pytest.mark.parametrize("prefix", ["", "/models"])
def test_azure_learns_the_model_and_gets_an_answer(azure, servers, prefix):
    server = servers["chat"]
    info = azure("ChatCompletionsClient", "get_model_info", server, path=prefix)
    assert (info.model_name, info.model_type, info.model_provider_name) == (
        "Phi-3-mini-4k-instruct",
        "chat-completions",
        "Microsoft",
    )
    answer = complete(azure, server, path=prefix)
    assert (answer["object"], answer.model) == ("chat.completion", "Phi-3-mini-4k-instruct")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert adds_up(answer.usage)


def test_azure_reads_a_stream_to_its_usage(azure, servers):
    """Its parser takes `data: ` and LF only, and drops what it cannot read: so the deltas are counted."""
    first, *middle, last = complete(azure, servers["chat"], stream=True)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert all(update.choices[0].delta.content and update.usage is None for update in middle)
    assert last.choices[0].finish_reason == "stop"
    assert last.usage.completion_tokens == len(middle)
    assert adds_up(last.usage)
    assert len({(update.id, update.created) for update in (first, *middle, last)}) == 1


def test_azure_sends_every_parameter(azure, servers):
    answer = complete(
        azure, servers["chat"], presence_penalty=0.1, frequency_penalty=0.8, max_tokens=3, stop=["<|endoftext|>"],
        temperature=0, top_p=1, seed=5, response_format="text",
    )  # fmt: skip
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")


def test_azure_gets_the_same_answer_for_the_same_seed(azure, servers):
    said = [complete(azure, servers["chat"], seed=seed).choices[0].message.content for seed in (3, 4, 3)]
    assert said[0] == said[2] != said[1]


def test_azure_passes_extra_parameters_through(azure, servers):
    """The client adds the header by itself; without it the same request is refused."""
    answer = complete(azure, servers["chat"], model_extras={"logprobs": True})
    assert len(answer.choices[0]["logprobs"]["content"]) == answer.usage.completion_tokens
    body = {"messages": [{"role": "user", "content": "hello"}], "logprobs": True}
    with pytest.raises(HttpResponseError, match="logprobs") as raised:
        azure("ChatCompletionsClient", "complete", servers["chat"], body=body)
    assert raised.value.status_code == 400


def test_azure_makes_the_tool_round_trip(azure, servers):
    tools = [ChatCompletionsToolDefinition(function=FunctionDefinition(FLIGHT))]
    messages = [UserMessage("When is the next flight from Miami to Seattle?")]
    answer = complete(azure, servers["tools"], messages=messages, tools=tools, tool_choice="auto")
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_flight_info"
    assert json.loads(call.function.arguments).keys() == {"origin_city", "destination_city"}
    messages += [answer.choices[0].message, ToolMessage('{"info": "none"}', tool_call_id=call.id)]
    last = complete(azure, servers["tools"], messages=messages, tools=tools)
    assert last.choices[0].finish_reason == "stop"
    assert last.choices[0].message.content


def test_azure_reads_a_streamed_tool_call(azure, servers):
    tools = [ChatCompletionsToolDefinition(function=FunctionDefinition(FLIGHT))]
    updates = complete(azure, servers["tools"], tools=tools, stream=True)
    calls = [call for update in updates for call in update.choices[0].delta.tool_calls or ()]
    assert calls[0].id
    assert calls[0].function.name == "get_flight_info"
    assert json.loads("".join(call.function.arguments for call in calls)).keys() == {"origin_city", "destination_city"}
    assert updates[-1].choices[0].finish_reason == "tool_calls"
    assert adds_up(updates[-1].usage)


def test_azure_gets_json_from_a_model_that_writes_it(azure, servers):
    answer = complete(azure, servers["tools"], "Answer in JSON.", response_format="json_object")
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_azure_sends_a_picture(azure, servers):
    turn = {"role": "user", "content": picture(data_url(1900, 1069), "x" * 92)}
    answer = complete(azure, servers["vision"], messages=[turn])
    assert answer.usage.prompt_tokens == 2_380
    assert answer.choices[0].message.content


@pytest.mark.parametrize(
    ("given", "error", "status_and_code"),
    [
        ({"key": "x" * 32}, ClientAuthenticationError, (401, None)),
        ({"path": "/nowhere"}, ResourceNotFoundError, (404, None)),
        ({"text": KNIVES}, HttpResponseError, (400, "content_filter")),
        ({"text": "x" * 20_000}, HttpResponseError, (400, "context_length_exceeded")),
        ({"response_format": "json_object"}, HttpResponseError, (422, "parameter_not_supported")),
        ({"temperature": 9}, HttpResponseError, (422, "invalid_parameter")),
    ],
)
def test_azure_raises_what_the_status_means(azure, servers, given, error, status_and_code):
    raised = refused(azure, servers["chat"], error, **given)
    # Where `error` is a word instead of an object, as with 401 and 404, the client makes nothing of it.
    assert (raised.status_code, raised.error and raised.error.code) == status_and_code


def test_azure_raises_a_spent_quota_with_the_time_to_wait(azure, servers):
    for _ in range(2):  # at most: the client before this one may have spent it already
        with contextlib.suppress(HttpResponseError):
            complete(azure, servers["limited"], retry_total=0)
    error = refused(azure, servers["limited"], retry_total=0)
    assert (error.status_code, error.error.code) == (429, "429")
    assert 1 <= int(error.response.headers["retry-after"]) <= 60


def test_azure_embeds_texts(azure, servers):
    answer = azure(
        "EmbeddingsClient", "embed", servers["embeddings"], input=["one text", "another"], input_type="query"
    )
    assert [item.index for item in answer.data] == [0, 1]
    one, other = (item.embedding for item in answer.data)
    assert len(one) == len(other) > 1
    assert one != other
    assert math.hypot(*one) == pytest.approx(1)
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    info = azure("EmbeddingsClient", "get_model_info", servers["embeddings"])
    assert (info.model_name, info.model_type, info.model_provider_name) == (
        MODELS["embeddings"],
        "embeddings",
        "Cohere",
    )


def test_azure_embeds_images(azure, servers):
    images = [ImageEmbeddingInput(image=data_url(8, 8)), ImageEmbeddingInput(image=data_url(9, 8), text="navy")]
    answer = azure("ImageEmbeddingsClient", "embed", servers["embeddings"], input=images)
    one, other = (item.embedding for item in answer.data)
    assert len(one) == len(other) > 1
    assert one != other


@pytest.mark.parametrize(("name", "client"), [("chat", "ChatCompletionsClient"), ("embeddings", "EmbeddingsClient")])
def test_azure_chooses_the_client_by_what_the_deployment_says(servers, name, client):
    with blocking.load_client(servers[name].url, AzureKeyCredential(KEY)) as loaded:
        assert type(loaded).__name__ == client


# openai: `ask(resource, server, ...)` calls `client.<resource>(...)` either way, of the plain client or that for Azure


@pytest.fixture(
    params=[(False, False), (False, True), (True, False), (True, True)],
    ids=["plain-blocking", "plain-asynchronous", "azure-blocking", "azure-asynchronous"],
)
def ask(request):
    for_azure, is_async = request.param

    def call(resource, server, *, key=KEY, path="", **fields):
        where = {"base_url": f"{server.url}{path}/v1"}
        if for_azure:
            where = {"azure_endpoint": server.url + path, "api_version": API_VERSION}
        options = where | {"api_key": key, "max_retries": 0}
        kind = ("Async" if is_async else "") + ("AzureOpenAI" if for_azure else "OpenAI")
        client = getattr(openai, kind)(**options)
        return asyncio.run(asked_async(client, resource, fields)) if is_async else asked(client, resource, fields)

    def asked(client, resource, fields):
        with client:
            answer = method_of(client, resource)(**fields)
            return list(answer) if fields.get("stream") else answer

    async def asked_async(client, resource, fields):
        async with client:
            answer = await method_of(client, resource)(**fields)
            return [chunk async for chunk in answer] if fields.get("stream") else answer

    return call


def method_of(client, resource):
    for name in resource.split("."):
        client = getattr(client, name)
    return client


def chat(ask, servers, name="chat", text="How many languages are in the world?", **fields):
    messages = fields.pop("messages", None) or [{"role": "user", "content": text}]
    fields = {"model": MODELS[name], "messages": messages} | fields
    return ask("chat.completions.create", servers[name], **fields)


def test_openai_gets_an_answer(ask, servers):
    answer = chat(ask, servers, max_tokens=300)
    assert (answer.object, answer.model) == ("chat.completion", "Phi-3-mini-4k-instruct")
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert adds_up(answer.usage)


def test_openai_reads_a_stream_whose_usage_comes_last_and_only_when_asked_for(ask, servers):
    silent = chat(ask, servers, stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in silent)
    *chunks, last = chat(ask, servers, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert sum(bool(chunk.choices[0].delta.content) for chunk in chunks) == last.usage.completion_tokens
    assert adds_up(last.usage)


def test_openai_makes_the_tool_round_trip(ask, servers):
    tools = [{"type": "function", "function": FLIGHT}]
    question = {"role": "user", "content": "When is the next flight from Miami to Seattle?"}
    choice = chat(ask, servers, "tools", messages=[question], tools=tools, tool_choice="auto").choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert json.loads(call.function.arguments).keys() == {"origin_city", "destination_city"}
    result = {"role": "tool", "tool_call_id": call.id, "content": '{"info": "none"}'}
    last = chat(ask, servers, "tools", messages=[question, choice.message, result], tools=tools).choices[0]
    assert (last.finish_reason, last.message.tool_calls) == ("stop", None)
    assert last.message.content


def test_openai_puts_a_streamed_tool_call_together(ask, servers):
    tools = [{"type": "function", "function": FLIGHT}]
    named = {"type": "function", "function": {"name": "get_flight_info"}}
    chunks = chat(ask, servers, "tools", tools=tools, tool_choice=named, stream=True)
    calls = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert {call.index for call in calls} == {0}
    assert (calls[0].type, calls[0].function.name) == ("function", "get_flight_info")
    given = "".join(call.function.arguments for call in calls)
    assert json.loads(given).keys() == {"origin_city", "destination_city"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_openai_sends_a_picture(ask, servers):
    answer = chat(
        ask, servers, "vision", messages=[{"role": "user", "content": picture(data_url(1900, 1069), "x" * 92)}]
    )
    assert answer.usage.prompt_tokens == 2_380


def test_openai_gets_log_probabilities(ask, servers):
    """Here they are a parameter of the API itself, not an extra one."""
    answer = chat(ask, servers, logprobs=True, top_logprobs=2, max_tokens=3)
    assert [len(token.top_logprobs) for token in answer.choices[0].logprobs.content] == [2, 2, 2]
    assert all(token.logprob <= 0 for token in answer.choices[0].logprobs.content)


@pytest.mark.parametrize(
    ("given", "error", "code"),
    [
        ({"key": "x" * 32}, openai.AuthenticationError, None),
        ({"path": "/nowhere"}, openai.NotFoundError, None),
        ({"text": KNIVES}, openai.BadRequestError, "content_filter"),
        ({"text": "x" * 20_000}, openai.BadRequestError, "context_length_exceeded"),
        ({"response_format": {"type": "json_object"}}, openai.UnprocessableEntityError, "parameter_not_supported"),
        ({"temperature": 9}, openai.UnprocessableEntityError, None),
    ],
)
def test_openai_raises_what_the_status_means(ask, servers, given, error, code):
    with pytest.raises(error) as raised:
        chat(ask, servers, **given)
    if code is not None:
        assert raised.value.code == code


def test_openai_raises_a_spent_quota_with_the_time_to_wait(ask, servers):
    with contextlib.suppress(openai.RateLimitError):
        chat(ask, servers, "limited")
    with pytest.raises(openai.RateLimitError) as raised:
        chat(ask, servers, "limited")
    assert 1 <= int(raised.value.response.headers["retry-after"]) <= 60


@pytest.mark.parametrize("stream", [False, True])
def test_openai_completes_a_prompt(ask, servers, stream):
    fields = {"model": MODELS["chat"], "prompt": "Once upon a time", "max_tokens": 4}
    answer = ask("completions.create", servers["chat"], stream=stream, **fields)
    parts = answer if stream else [answer]
    assert all(part.object == "text_completion" for part in parts)
    said = "".join(choice.text for part in parts for choice in part.choices)
    assert len(said.split()) == 4
    reasons = [choice.finish_reason for part in parts for choice in part.choices]
    assert reasons[-1] == "length"
    assert set(reasons[:-1]) <= {None}


def test_openai_embeds_texts_whatever_the_encoding(ask, servers):
    """The client asks for base64 unless told otherwise, and decodes it."""
    fields = {"model": MODELS["embeddings"], "input": ["one text", "another"]}
    coded = ask("embeddings.create", servers["embeddings"], **fields)
    plain = ask("embeddings.create", servers["embeddings"], encoding_format="float", **fields)
    assert [item.index for item in coded.data] == [0, 1]
    assert coded.data[0].embedding != coded.data[1].embedding
    for one, other in zip(coded.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.hypot(*one.embedding) == pytest.approx(1)
    assert coded.usage.prompt_tokens == coded.usage.total_tokens > 0


def test_openai_lists_the_model(servers):
    with openai.OpenAI(base_url=servers["chat"].url + "/v1", api_key=KEY, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == [MODELS["chat"]]
        assert client.models.retrieve(MODELS["chat"]).object == "model"


def test_openai_speaks_to_the_route_that_azure_gives_it(servers):
    with openai.OpenAI(base_url=servers["chat"].url + "/openai/v1", api_key=KEY, max_retries=0) as client:
        fields = {"model": MODELS["chat"], "messages": [{"role": "user", "content": "hello"}]}
        assert client.chat.completions.create(**fields).choices[0].message.content
        assert [model.id for model in client.models.list()] == [MODELS["chat"]]


def test_openai_for_azure_names_a_deployment_that_is_not_there(servers):
    options = {"azure_endpoint": servers["chat"].url, "api_version": API_VERSION, "api_key": KEY, "max_retries": 0}
    with openai.AzureOpenAI(**options) as client, pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="Mistral-Large", messages=[{"role": "user", "content": "hello"}])
    assert raised.value.code == "DeploymentNotFound"
