"""The table of models: what it holds, and that the README says the same."""

import re
from pathlib import Path

import pytest

from loadgen.errors import ConfigError
from loadgen.simulator.models import DEFAULT_MODEL, MODELS, Images, Kind, Modality, model_of
from loadgen.simulator.safety import COMPLETION_PHRASES, PROMPT_PHRASES
from tests.simulators import CHAT, ask, data_url, picture, simulated

pytestmark = pytest.mark.aside

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


@pytest.mark.parametrize(
    "name", ["", "x" * 201, "a b", "a\r\nset-cookie: b", "{name}", "é", "a%2Fb", "a?b", "a\n", "a#"]
)
def test_a_name_that_could_not_stand_in_a_path_is_refused(name):
    with pytest.raises(ConfigError, match=r"give 1 to 200 letters") as refused:
        model_of(name, Kind.SERVERLESS, 5_000)
    assert len(str(refused.value)) < 500 and str(refused.value).isprintable()
    assert model_of("x" * 200, Kind.SERVERLESS, 5_000).name == "x" * 200


def test_a_name_with_a_slash_is_found_whatever_its_case():
    with simulated("--model", "Org/sub:v1@2+x_y.z-Model", "--context-tokens", "5000") as server:
        for name in ("Org/sub:v1@2+x_y.z-Model", "org/sub:v1@2+x_y.z-model", "ORG%2Fsub:v1@2%2Bx_y.z-model"):
            entry = server.client.get(f"/v1/models/{name}")
            assert (entry.status_code, entry.json()["id"]) == (200, "Org/sub:v1@2+x_y.z-Model")
            answer = server.client.post(f"/openai/deployments/{name}/chat/completions", json=ask())
            assert (answer.status_code, answer.json()["model"]) == (200, "Org/sub:v1@2+x_y.z-Model")
            assert server.client.get(f"/openai/deployments/{name}/chat/completions").status_code == 405
            assert server.client.post(f"/openai/deployments/{name}/nonsense").headers["x-ms-error-code"] == "not_found"
        for name in ("org", "org/sub", "org/sub:v1@2+x_y.z-model2", "other/model"):
            assert server.client.get(f"/v1/models/{name}").status_code == 404
            unknown = server.client.post(f"/openai/deployments/{name}/chat/completions", json=ask())
            assert unknown.headers["x-ms-error-code"] == "DeploymentNotFound"
            assert f"no deployment {name};" in unknown.json()["error"]["message"]
        assert server.client.get("/openai/deployments/").status_code == 404


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
