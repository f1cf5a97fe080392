"""Every sample of the documentation, run against the simulator: the Python ones by the real client.

The pages are not part of this repository. Where a page is wrong it is adapted, by a table; each row is proven to be
needed by running the sample without it.
"""

import contextlib
import io
import itertools
import json
import math
import re
import sys
import time
import urllib.request
from types import SimpleNamespace

import azure.identity
import pytest
import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError, ServiceRequestError

from tests.sample_adaptations import ADAPTATIONS, CHART, CHART_ADDRESS, CHART_URL
from tests.sample_answers import (
    check_chat,
    check_filtered,
    check_stream,
    check_tools,
    check_unsupported,
    compare,
    same_model,
)
from tests.samples_of_docs import (
    DOCS,
    Exchange,
    adapted_blocks,
    all_blocks,
    csharp_exchanges,
    javascript_exchanges,
    rest_exchanges,
    run_block,
)
from tests.simulators import KEY, pinned, simulated

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="the pages of ../shared/docs are not here")

ENDPOINT_NAMES = ("AZUREAI_ENDPOINT_URL", "AZURE_INFERENCE_ENDPOINT")
KEY_NAMES = ("AZUREAI_ENDPOINT_KEY", "AZURE_INFERENCE_CREDENTIAL")
# REST samples of the same fault have no header block that could be replaced.
REST_HEADERS = {("S0", "Extra parameters"): {"extra-parameters": "pass-through"}}
REST_HEADERS |= {("S1", "Extra parameters"): {"extra-parameters": "pass-through"}}
SERVERS = {
    "Phi-3": (),
    "Phi-3, flat": ("--content-filter", "flat"),
    "Mistral": ("--model", "Mistral-Large"),
    "vision": ("--model", "Phi-3-vision-128k-instruct", "--kind", "managed"),
}
QUOTA = ("--tpm", "1000000000", "--rpm", "1000000")


@pytest.fixture(scope="module")
def servers():
    """By name, started when they are first asked for."""
    with contextlib.ExitStack() as stack:

        class Servers(dict):
            def __missing__(self, name):
                flags = SERVERS[name] if "managed" in SERVERS[name] else (*SERVERS[name], *QUOTA)
                self[name] = stack.enter_context(simulated(*flags, key=KEY))
                return self[name]

        yield Servers()


def server_name(page, heading, pivot="python"):
    if page == "S2" and pivot == "rest" and "safety" in heading:
        return "Phi-3, flat"  # as this page alone shows it
    if page == "S4" or "images" in heading:
        return "vision"
    return "Mistral" if page == "S3" else "Phi-3"


# Python, by the real client


class Transcript:
    """What a page's Python did: per block, in order, what it printed, its last value and the names after it."""

    def __init__(self):
        self.steps, self.slept_s = [], []

    def of(self, heading):
        return [step for step in self.steps if heading in step.heading.lower()]

    def before(self, heading):
        """The names that the blocks above the heading have left."""
        above = itertools.takewhile(lambda step: step.heading != heading, self.steps)
        return [{}, *(step.names for step in above if "DefaultAzureCredential" not in step.text)][-1]


class Identity:
    """Microsoft Entra ID, at its edge: it gives the server's key."""

    def __init__(self, **_):
        pass

    def get_token(self, *_, **__):
        return AccessToken(KEY, 1 << 62)


def run_python(page, servers, adaptations=ADAPTATIONS, only=None, names=()):
    """Run a page's Python, or its blocks under the heading `only` with the names that those before have left."""
    transcript, namespace, url = Transcript(), dict(names), None
    blocks = [block for block in adapted_blocks(page, "python", adaptations) if block.language == "python"]
    with pytest.MonkeyPatch.context() as patch:
        stand_in(patch, transcript.slept_s)
        for block in blocks:
            if only not in (None, block.heading):
                continue
            server = servers[server_name(page, block.heading)]
            if server.url != url:
                url = server.url
                for name in ENDPOINT_NAMES:
                    patch.setenv(name, url)
                if block is not blocks[0]:
                    run_block(blocks[0], blocks[0].text, namespace)  # the client, for this deployment
            # The client with Entra ID is another one: that of the following blocks has the key.
            entra = "DefaultAzureCredential" in block.text
            transcript.steps.append(play_block(block, dict(namespace) if entra else namespace))
    return transcript


def stand_in(patch, slept_s):
    """For what the pages reach beside their deployment: the clock, another site, Entra ID, a notebook, a key's place."""
    notebook = SimpleNamespace(Image=lambda content: SimpleNamespace(content=content))
    patch.setattr(time, "sleep", slept_s.append)
    patch.setattr(urllib.request, "urlopen", lambda request: io.BytesIO(fetched(request.full_url)))
    patch.setattr(requests, "get", lambda address: SimpleNamespace(content=fetched(address)))
    patch.setattr(azure.identity, "DefaultAzureCredential", Identity)
    patch.setitem(sys.modules, "IPython", SimpleNamespace(display=notebook))
    patch.setitem(sys.modules, "IPython.display", notebook)
    patch.setenv("NO_PROXY", "127.0.0.1")
    for name in KEY_NAMES:
        patch.setenv(name, KEY)


def play_block(block, namespace):
    printed, error, value = io.StringIO(), None, None
    with contextlib.redirect_stdout(printed):
        try:
            value = run_block(block, block.text, namespace)
        except HttpResponseError as refusal:
            error = refusal
    return SimpleNamespace(
        heading=block.heading,
        text=block.text,
        printed=printed.getvalue(),
        value=value,
        error=error,
        names=dict(namespace),
    )


def fetched(address):
    assert address == CHART_ADDRESS
    return CHART


@pytest.fixture(scope="module")
def transcripts(servers):
    class Transcripts(dict):
        def __missing__(self, page):
            self[page] = run_python(page, servers)
            return self[page]

    return Transcripts()


@pytest.mark.parametrize("page", ["S0", "S1", "S2", "S3", "S4"])
def test_every_python_block_runs_and_only_content_safety_raises(transcripts, page):
    steps = transcripts[page].steps
    assert len(steps) == sum(block.language == "python" for block in all_blocks(page))
    raised = [step for step in steps if step.error is not None]
    # S3 ends its handler with a bare `raise`: it reports, and raises all the same.
    assert [step.heading for step in raised] == (["Apply content safety"] if page == "S3" else [])
    assert all(step.error.error.code == "content_filter" for step in raised)


@pytest.mark.parametrize("row", ADAPTATIONS, ids=str)
def test_an_adaptation_is_still_needed_and_matches_as_often_as_stated(servers, transcripts, row):
    found = [block for block in all_blocks(row.page) if block.pivot == row.pivot and row.before in block.text]
    assert sum(block.text.count(row.before) for block in found) == row.times
    others = [each for each in ADAPTATIONS if each is not row]
    heading = found[0].heading
    with pytest.raises(row.fails):
        if row.pivot == "python":
            run_python(row.page, servers, others, heading, transcripts[row.page].before(heading))
        else:
            for exchange in exchanges(row.page, row.pivot, others):
                if exchange.heading == heading:
                    play(exchange, row.pivot, servers)


@pytest.mark.parametrize("page", ["S0", "S1", "S3", "S4"])
def test_python_learns_what_the_page_says_about_the_model(transcripts, page):
    step = transcripts[page].of("capabilities")[0]
    about = step.value or step.names["model_info"]
    # S0 shows a Mistral model in this pivot, another of its pivots the one that it is about.
    shown = info_of("S0" if page == "S0" else page)
    assert same_model(about.model_name, shown["model_name"])
    assert (about.model_type, about.model_provider_name) == (shown["model_type"], shown["model_provider_name"])


def test_python_prints_the_model_as_the_page_does(transcripts):
    (shown,) = [b.text for b in all_blocks("S3") if b.pivot == "python" and b.text.startswith("Model name")]
    assert transcripts["S3"].of("capabilities")[1].printed == shown


@pytest.mark.parametrize("page", ["S0", "S1", "S3", "S4"])
def test_python_gets_a_chat_answer_with_its_usage(transcripts, page):
    asked, printed = (
        transcripts[page].of("chat completion")[:2] if page in ("S0", "S1") else transcripts[page].of("create a chat")
    )
    answer = asked.names["response"]
    check_chat(answer.as_dict(), server_name(page, ""))
    assert f"Response: {answer.choices[0].message.content}\nModel: {answer.model}\nUsage:" in printed.printed
    assert str(answer.usage.total_tokens) in printed.printed


@pytest.mark.parametrize("page", ["S0", "S1", "S3", "S4"])
def test_python_prints_a_stream_piece_by_piece(transcripts, page):
    steps = transcripts[page].of("stream")
    words = steps[2].printed.split()
    assert len(words) > 1
    assert steps[2].printed == "".join(f" {word}" for word in words)
    if page != "S3":  # the others wait after each chunk: the role, the words, the end
        assert transcripts[page].slept_s == [0.05] * (len(words) + 2)


@pytest.mark.parametrize("page", ["S0", "S1", "S2", "S3", "S4"])
def test_python_sends_every_parameter_and_extra_ones(transcripts, page):
    steps = transcripts[page].of("parameters") + transcripts[page].of("extensibility")
    assert len(steps) == (1 if page == "S2" else 2)
    for step in steps:
        check_chat(step.names["response"].as_dict(), server_name(page, ""))


@pytest.mark.parametrize("page", ["S0", "S1", "S2", "S3"])
def test_python_reports_the_content_filter(transcripts, page):
    (step,) = transcripts[page].of("content safety")
    assert step.printed.startswith("Your request triggered an content_filter error:\n\t The response was filtered")
    assert len(step.printed.splitlines()) == 2


def test_python_names_the_parameter_that_the_model_does_not_support(transcripts):
    (step,) = transcripts["S2"].of("disparate")
    said = "Looks like the model doesn't support the parameter 'body.response_format' with value 'json_object'\n"
    assert step.printed == said


def test_python_gets_json_when_it_asks_for_it(transcripts):
    (step,) = transcripts["S3"].of("json outputs")
    (choice,) = step.names["response"].choices
    assert choice.finish_reason == "stop"
    assert isinstance(json.loads(choice.message.content), dict)


def test_python_makes_the_tool_round_trip(transcripts):
    steps = transcripts["S3"].of("use tools")
    (first,) = steps[2].names["response"].choices
    assert first.finish_reason == "tool_calls"
    assert first.message.content == ""
    (call,) = steps[2].names["response"].choices[0].message.tool_calls
    assert (call["type"], call.function.name) == ("function", "get_flight_info")
    given = json.loads(call.function.arguments)
    assert given.keys() == {"origin_city", "destination_city"}
    info = f"There are no flights available from {given['origin_city']} to {given['destination_city']}."
    assert steps[5].printed.startswith(f"Calling function `get_flight_info` with arguments {given}\n-> {{'info': ")
    assert info in steps[5].printed
    (last,) = steps[6].names["response"].choices
    assert last.finish_reason == "stop"
    assert last.message.content
    assert not last.message.tool_calls


@pytest.mark.parametrize("page", ["S3", "S4"])
def test_python_sends_an_image_that_counts_as_many_tokens_as_documented(transcripts, page):
    *_, asked, printed = transcripts[page].of("images")
    answer = asked.names["response"]
    check_chat(answer.as_dict(), "vision")
    texts = re.findall(r'(?:SystemMessage\(|text=)"(.*?)"', asked.text)
    assert len(texts) == 2
    words = sum(math.ceil(len(text) / 4) + 4 for text in texts)
    assert answer.usage.prompt_tokens == 2_353 + words
    assert answer.choices[0].message.content in printed.printed


@pytest.mark.parametrize("page", ["S1", "S2", "S4"])
def test_python_signs_in_by_a_token_alone(transcripts, page):
    """The client keeps tokens to https unless told otherwise, so the pages' own call cannot be made on loopback."""
    (step,) = [step for step in transcripts[page].steps if "DefaultAzureCredential" in step.text]
    model = step.names["model"]
    with pytest.raises(ServiceRequestError, match="https"):
        model.get_model_info(retry_total=0)
    assert model.get_model_info(enforce_https=False).model_provider_name == "Microsoft"


def test_the_flat_content_filter_is_one_that_the_page_does_not_look_for(servers):
    """S2's own REST answer is flat, and its Python looks for `error`: so it raises, with the code."""
    flat = {"Phi-3": servers["Phi-3, flat"]}
    (step,) = run_python("S2", flat).of("content safety")
    assert step.printed == ""
    assert (step.error.status_code, step.error.error.code) == (400, "content_filter")


# JavaScript, C# and REST: the requests that they send

TOOL_OF_CSHARP = {
    "type": "function",
    "function": {
        "name": "getFlightInfo",
        "description": "the next flight between two cities",
        "parameters": {
            "type": "object",
            "properties": {
                "origin_city": {"type": "string", "description": "where the flight originates"},
                "destination_city": {"type": "string", "description": "the flight destination"},
            },
        },
    },
}
KEY_HEADERS = {
    "javascript": {"api-key": KEY, "Authorization": f"Bearer {KEY}"},  # as @azure-rest/ai-inference 1.0.0-beta.6 does
    "csharp": {"api-key": KEY},
    "rest": {"Authorization": f"Bearer {KEY}"},
}


def exchanges(page, pivot, adaptations=ADAPTATIONS):
    if pivot == "javascript":
        return javascript_exchanges(page, adaptations, {"data_url": CHART_URL})
    if pivot == "csharp":
        return csharp_exchanges(page, CHART_URL, TOOL_OF_CSHARP)
    found = rest_exchanges(page, adaptations)
    for exchange in found:
        exchange.headers |= REST_HEADERS.get((page, exchange.heading), {})
    return found


def play(exchange, pivot, servers):
    """Send it, check the answer by what its heading is about, and by the answers that the page shows."""
    name = server_name(exchange.page, exchange.heading, pivot)
    answer = send(exchange, pivot, servers[name])
    kind = exchange.heading.lower()
    if "safety" in kind:
        check_filtered(answer)
    elif "disparate" in kind:
        check_unsupported(answer)
    elif "stream" in kind:
        check_stream(answer, exchange.answers)
    elif exchange.method == "GET":
        assert answer.status_code == 200
        assert answer.json().keys() == {"model_name", "model_type", "model_provider_name"}
    else:
        assert answer.status_code == 200, answer.text
        check_chat(answer.json(), name)
    if "stream" not in kind and exchange.answers:
        compare(exchange.answers[0], answer.json())
    return answer


def send(exchange, pivot, server):
    headers = {"Content-Type": "application/json"} | KEY_HEADERS[pivot] | exchange.headers
    headers |= pinned(20)  # lengths are no matter of the pages, and only time here
    path = exchange.path if pivot == "rest" else exchange.path + "?api-version=2024-05-01-preview"
    content = None if exchange.body is None else json.dumps(exchange.body).encode()
    return server.client.request(exchange.method, path, headers=headers, content=content)


@pytest.mark.parametrize(("page", "pivot", "count"), [
    ("S0", "javascript", 6), ("S1", "javascript", 6), ("S2", "javascript", 3), ("S3", "javascript", 10), ("S4", "javascript", 6),
    ("S2", "csharp", 3), ("S3", "csharp", 10), ("S4", "csharp", 5),
    ("S0", "rest", 6), ("S1", "rest", 6), ("S2", "rest", 4), ("S3", "rest", 10), ("S4", "rest", 6),
])  # fmt: skip
def test_every_request_of_a_page_is_answered_as_it_says(servers, page, pivot, count):
    found = exchanges(page, pivot)
    assert len(found) == count
    for exchange in found:
        answer = play(exchange, pivot, servers)
        if "tools" in exchange.heading:
            check_tools(exchange.body, answer.json()["choices"][0])
        if "JSON outputs" in exchange.heading:
            assert isinstance(json.loads(answer.json()["choices"][0]["message"]["content"]), dict)
        if "images" in exchange.heading:
            texts = [part["text"] for part in exchange.body["messages"][-1]["content"] if part["type"] == "text"]
            texts += [turn["content"] for turn in exchange.body["messages"][:-1]]
            words = sum(math.ceil(len(text) / 4) + 4 for text in texts)
            assert answer.json()["usage"]["prompt_tokens"] == 2_353 + words


@pytest.mark.parametrize("page", ["S3", "S4"])
def test_the_documented_image_counts_the_documented_prompt_within_a_token(servers, page):
    """The image counts exactly; its 87 bytes of text are 26 tokens by the rule that counts bytes, and 27 in the pages."""
    *_, exchange = exchanges(page, "rest")
    usage = play(exchange, "rest", servers).json()["usage"]
    assert exchange.answers[0]["usage"]["prompt_tokens"] == 2_380
    assert usage["prompt_tokens"] == 2_379


@pytest.mark.parametrize(
    ("name", "form", "status"),
    [
        ("Phi-3", {"type": "text"}, 200),  # as most pages have it
        ("Mistral", {"type": {"type": "text"}}, 200),  # what S3's Python sent by the client of its day (fact 27)
        ("Mistral", {"type": {"type": "json_object"}}, 200),
        ("Phi-3", {"type": {"type": "json_object"}}, 422),
        ("Phi-3", "text", 200),
    ],
)
def test_a_response_format_is_read_in_every_form_of_the_pages(servers, name, form, status):
    body = {"messages": [{"role": "user", "content": "hello"}], "response_format": form}
    exchange = Exchange(page="S3", heading="", line=0, body=body)
    answer = send(exchange, "rest", servers[name])
    assert answer.status_code == status
    if "json_object" in str(form) and status == 200:
        assert isinstance(json.loads(answer.json()["choices"][0]["message"]["content"]), dict)


@pytest.mark.parametrize("page", ["S0", "S1"])
def test_an_extra_parameter_without_the_header_is_a_bad_request(servers, page):
    """As these pages show it; the reference has `error` as the header's default."""
    (exchange,) = [each for each in rest_exchanges(page, ADAPTATIONS) if each.heading == "Extra parameters"]
    answer = send(exchange, "rest", servers["Phi-3"])
    assert answer.status_code == 400
    assert "logprobs" in answer.text


def info_of(page):
    (shown,) = [each.answers[0] for each in rest_exchanges(page) if each.method == "GET"]
    return shown
