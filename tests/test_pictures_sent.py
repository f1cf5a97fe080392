"""What vision and replay send of pictures, without any load: painted, counted, and never twice."""

import json
import subprocess
import sys

import pytest

from tests.simulators import data_url

MAKE = """
import json, sys
from types import SimpleNamespace
from scenarios.replay import Replay
from scenarios.vision import Vision
from loadgen.prompts import Prompts
from loadgen.prompts_config import PromptsConfig
from loadgen.schedule import Arrival

for name, tokens, messages, images in json.load(sys.stdin):
    prompts = Prompts(PromptsConfig(tokens=tokens), max_tokens=9)
    user = SimpleNamespace(prompts=prompts, scenario=name, max_tokens=prompts.max_tokens)
    arrival = Arrival(3, 0, name, 1, messages=messages, images=images)
    spec = {"vision": Vision, "replay": Replay}[name].request(user, arrival)
    print(json.dumps([spec.prompt_tokens, json.loads(spec.body)["messages"]]))
"""
HELD = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(640, 480)}}]}
TEXT = {"role": "user", "content": "What is this?"}
CASES = {  # claim: scenario, stated tokens, the trace's messages and pictures; tokens of it all or None, pictures sent
    "a stated length is that of question, picture and role": (("vision", "fixed:3000", None, None), 3000, 1),
    "a trace's pictures are painted beside a prompt of the stated length": (
        ("replay", "fixed:6000", None, [[640, 480], [336, 336]]), 6000, 2
    ),
    "they are painted beside its messages": (("replay", None, [TEXT], [[640, 480]]), None, 1),
    "and beside one that says nothing": (("replay", None, [TEXT, {"role": "user"}], [[640, 480]]), None, 1),
    "those that the messages hold are not painted again": (("replay", None, [HELD], [[640, 480]]), None, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def made():
    told = json.dumps([given for given, *_ in CASES.values()])
    done = subprocess.run([sys.executable, "-c", MAKE], input=told, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("claim", CASES)
def test_pictures_are_sent_once_and_counted(made, claim):
    _, tokens, pictures = CASES[claim]
    found, messages = made[claim]
    assert tokens in (None, found)
    parts = [part for each in messages if isinstance(each.get("content"), list) for part in each["content"]]
    assert sum(part["type"] == "image_url" for part in parts) == pictures
