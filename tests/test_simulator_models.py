"""The table of models: what it holds, and that the README says the same."""

import re
from pathlib import Path

import pytest

from loadgen.errors import ConfigError
from loadgen.simulator.models import DEFAULT_MODEL, MODELS, Images, Kind, Modality, model_of
from loadgen.simulator.safety import COMPLETION_PHRASES, PROMPT_PHRASES
from tests.simulators import CHAT, ask, data_url, picture, simulated

README = (Path(__file__).parent.parent / "README.md").read_text()


def row(model):
    """A line of the README's table."""
    takes = "texts, pictures" if model.modality is Modality.EMBEDDINGS else f"chat; pictures {model.images}"
    can = [word for word, able in (("tools", model.tools), ("JSON", model.json_object)) if able] or [
        "no tools, no JSON"
    ]
    can += [] if model.system_role or model.modality is Modality.EMBEDDINGS else ["system turned into user"]
    cells = (model.name, model.provider, f"{model.context_tokens:,}", ", ".join(model.kinds), takes, ", ".join(can))
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_model_is_in_the_readme_with_what_it_can_do(model):
    assert row(model) in README


def test_the_readme_lists_no_model_that_is_not_and_every_trigger_phrase():
    section = README.partition("## The simulated deployment")[2].partition("\n## ")[0]
    named = re.findall(r"^\| ([A-Z][\w.-]+-\w+) \|", section, re.MULTILINE)
    assert named == [model.name for model in MODELS]
    for phrase in PROMPT_PHRASES + COMPLETION_PHRASES:
        assert f"`{phrase}`" in section


@pytest.mark.parametrize(
    ("name", "kind", "remedy"),
    [
        ("Phi-3-vision-128k-instruct", Kind.SERVERLESS, "--kind managed"),  # documented for managed compute only
        ("Mistral-Large", Kind.MANAGED, "--kind serverless"),
        ("Cohere-embed-v3-english", Kind.MANAGED, "--kind serverless"),
        ("gpt-4o", Kind.SERVERLESS, "--context-tokens"),
    ],
)
def test_a_model_that_is_not_offered_is_refused_with_the_remedy(name, kind, remedy):
    with pytest.raises(ConfigError, match=remedy):
        model_of(name, kind)


def test_a_model_is_found_whatever_its_case_and_may_be_given_another_context():
    for model in MODELS:
        assert model_of(model.name.upper(), model.kinds[0]) is model
    assert model_of(DEFAULT_MODEL, Kind.MANAGED, 9).context_tokens == 9
    assert model_of(DEFAULT_MODEL, Kind.MANAGED, 9).images is Images.NONE


def test_a_model_that_is_not_in_the_table_can_do_all_of_it():
    with simulated("--model", "gpt-4o", "--context-tokens", "5000") as server:
        tools = [{"type": "function", "function": {"name": "f"}}]
        called = server.client.post(CHAT, json=ask(tools=tools)).json()
        assert called["choices"][0]["finish_reason"] == "tool_calls"
        assert called["model"] == "gpt-4o"
        assert server.client.post(CHAT, json=ask(response_format={"type": "json_object"})).status_code == 200
        pictures = picture(data_url(8, 8)) + picture(data_url(8, 8))
        too_long = server.client.post(CHAT, json=ask(pictures, max_tokens=1))  # but read, both of them
        assert too_long.headers["x-ms-error-code"] == "context_length_exceeded"
        assert server.client.post(CHAT, json=ask(pictures[:2], max_tokens=1)).status_code == 200
