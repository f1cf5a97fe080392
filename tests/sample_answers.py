"""What an answer to a sample must be: the claims of the pages, and the bodies that they show."""

import json
import re

from tests.simulators import events


def same_model(one, other):
    return one.lower() == other.lower()  # the pages write -Instruct, the catalogue -instruct


def check_chat(body, server):
    assert re.fullmatch("[0-9a-f]{32}", body["id"])
    assert body["object"] == "chat.completion"
    assert same_model(
        body["model"],
        {"Mistral": "Mistral-Large", "vision": "Phi-3-vision-128k-Instruct"}.get(server, "Phi-3-mini-4k-Instruct"),
    )
    (choice,) = body["choices"]
    assert (choice["index"], choice["message"]["role"]) == (0, "assistant")
    if choice["finish_reason"] == "tool_calls":
        assert choice["message"]["content"] == ""
    else:
        assert choice["finish_reason"] == "stop"
        assert choice["message"]["content"].strip()
    check_usage(body["usage"])


def check_usage(usage):
    assert min(usage.values()) > 0
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]


def check_stream(answer, shown):
    """`shown`: the first and the last chunk, where the page has them."""
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    first, *_, last = chunks = events(answer.content)
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in chunks}) == 1
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-1])
    check_usage(last["usage"])
    assert last["usage"]["completion_tokens"] == len(chunks) - 2
    for one, chunk in zip(shown, (first, last), strict=bool(shown)):
        compare(one, chunk)


def check_filtered(answer):
    assert answer.status_code == 400, answer.text
    body = answer.json()
    assert body.get("error", body)["code"] == "content_filter"


def check_unsupported(answer):
    assert answer.status_code == 422, answer.text
    body = answer.json()
    assert body["code"] == "parameter_not_supported"
    assert body["detail"] == {"loc": ["body", "response_format"], "input": "json_object"}


def check_tools(body, choice):
    """Also takes the next step of the sample: the answer and the function's result join the messages."""
    messages = body["messages"]
    if messages[-1]["role"] == "tool":
        assert (choice["finish_reason"], choice["message"].get("tool_calls")) == ("stop", None)
        return
    assert choice["finish_reason"] == "tool_calls"
    (call,) = choice["message"]["tool_calls"]
    (tool,) = body["tools"]
    assert call["function"]["name"] == tool["function"]["name"]
    assert json.loads(call["function"]["arguments"]).keys() == tool["function"]["parameters"]["properties"].keys()
    messages += [choice["message"], {"role": "tool", "tool_call_id": call["id"], "content": '{"info": "no flights"}'}]


SPOKEN = {"id", "content", "created", "arguments"}  # of these only the type can be compared, of counts too


def compare(shown, got, place=""):
    """Names, types and fixed values of a documented body are those of ours, whatever their order."""
    if isinstance(shown, dict):
        assert isinstance(got, dict), place
        assert got.keys() == shown.keys(), f"{place}: {sorted(got)}, not {sorted(shown)}"
        for name in shown:
            if name in ("model", "model_name"):
                if "chart" not in json.dumps(shown):  # S3 has the wrong model beside an image (fact 44)
                    assert same_model(shown[name], got[name])
            elif name in SPOKEN or place.endswith("usage"):
                assert type(got[name]) is type(shown[name]), f"{place}.{name}"
            else:
                compare(shown[name], got[name], f"{place}.{name}")
    elif isinstance(shown, list):
        assert isinstance(got, list), place
        assert len(shown) == len(got), place
        for one, other in zip(shown, got, strict=True):
            compare(one, other, place)
    else:
        assert got == shown, f"{place}: {got!r}, not {shown!r}"
