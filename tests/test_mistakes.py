"""What is refused before any load: in one sentence, with its exit code, and nothing left behind."""

import json
import re

import pytest

from tests.commands import INTO_RUN, PLENTY, SHORT, deployment, headroom, told
from tests.servers import Server

MISTAKES = [
    pytest.param(
        ["--target", "https://example.com"],
        112,
        "example.com is not this machine.* --yes-target example.com",
        id="a host that was not allowed",
    ),
    pytest.param(["--target", "nonsense"], 2, "'nonsense' is no address", id="no address"),
    pytest.param(
        ["--target", "http://127.0.0.1:9"], 2, "cannot reach 127.0.0.1:9: nothing listens there", id="nothing listening"
    ),
    pytest.param(
        ["--master"],
        2,
        "--master: workers cannot reach the deployment that a run simulates for itself: give a --target",
        id="a master of the simulated deployment",
    ),
    pytest.param(["--rate", "fast"], 2, "--rate: 'fast' is not a rate", id="no rate"),
    pytest.param(["--users", "3", "--rate", "5/s"], 2, "users and rate exclude each other", id="two shapes"),
    pytest.param(["--scenario", "chta"], 2, "scenario 'chta' is not known; did you mean 'chat'", id="unknown scenario"),
    pytest.param(["--scenario", "chat=x"], 2, "--scenario chat=x: 'x' is no weight", id="no weight"),
    pytest.param(
        ["--tpm", "100", "--max-tokens", "200"],
        2,
        "every request counts 201 tokens .* never admit more than 100",
        id="never fits",
    ),
    pytest.param(
        ["deep.toml", "--max-tokens", "1500"],
        2,
        "every request counts 1,501 tokens .* never admit more than 1,000",
        id="never fits our own throttle",
    ),
    pytest.param(["--trace", "trace.csv"], 2, "trace.csv, line 3: prompt_tokens is -1", id="bad trace"),
    pytest.param(
        ["--trace", "large.csv", "--warmup", "0s"],
        2,
        "large.csv, line 2, counts 300,005 tokens",
        id="a row of a trace never fits",
    ),
    pytest.param(["none.toml"], 2, "none.toml does not exist", id="no config"),
    pytest.param(["bad.toml"], 2, "bad.toml: load.rat: unknown key; did you mean 'rate'", id="unknown key"),
    pytest.param(["--out", "taken"], 2, "taken exists already; a run never overwrites another", id="existing folder"),
    pytest.param(["--out", "trace.csv/run"], 2, "cannot write the run folder trace.csv/run", id="unwritable folder"),
    pytest.param(
        ["--key", "env:NOT_SET", "--target", "http://127.0.0.1:9"],
        2,
        "environment variable NOT_SET, which is not set",
        id="no key",
    ),
    pytest.param(["--no-such-flag"], 2, "(?i)no such option", id="unknown flag"),
]
MISTAKES_OF_SCENARIOS = [
    pytest.param(
        ["--scenario", "none.py:Class"], 2, "scenario none.py:Class: none.py cannot be loaded", id="no scenario file"
    ),
    pytest.param(
        ["--scenario", "vision", "--tpm", "2000"],
        2,
        "a request of scenario vision counts 2,.* never admit more than 2,000",
        id="a picture never fits",
    ),
]


@pytest.mark.parametrize(
    ("command", "arguments", "code", "complaint"),
    [
        *(pytest.param(told, *case.values, id=case.id) for case in MISTAKES),
        *(pytest.param(headroom, *case.values, id=case.id) for case in MISTAKES_OF_SCENARIOS),
    ],
)
def test_a_mistake_is_told_in_one_sentence_and_leaves_nothing_behind(tmp_path, command, arguments, code, complaint):
    (tmp_path / "trace.csv").write_text("at_s,prompt_tokens,completion_tokens\n0,5,5\n1,-1,5\n")
    (tmp_path / "large.csv").write_text("at_s,prompt_tokens,completion_tokens\n0,300000,5\n")
    (tmp_path / "bad.toml").write_text("[load]\nrat = 5\n")
    (tmp_path / "deep.toml").write_text("[quota]\ntokens_per_minute = 1000\nburst_s = 120\n")
    (tmp_path / "taken").mkdir()
    before = sorted(tmp_path.rglob("*"))
    done = command(tmp_path, "run", *arguments)
    assert done.returncode == code, done.stderr
    assert re.search(complaint, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "runs"] == before


def test_a_refused_target_gets_not_one_byte_until_it_is_named_and_a_missed_objective_has_its_code(tmp_path):
    """127.0.0.1 is free, so the name it goes by here is one that the rails do not know."""
    with Server(deployment) as server:
        target = ["run", "--target", server.url.replace("localhost", "0.0.0.0"), *SHORT, *PLENTY]
        assert told(tmp_path, *target).returncode == 112
        assert server.connections == 0
        load = [
            "--rate",
            "20/s",
            "--duration",
            "1s",
            "--scenario",
            "streaming",
            "--slo",
            "ttft.p50<1us",
            "--quiet",
            *INTO_RUN,
        ]
        done = headroom(tmp_path, *target, "--yes-target", "0.0.0.0", "--budget-requests", 1_000, *load)
        assert done.returncode == 99, done.stderr
        assert server.calls


def test_check_prints_the_config_and_sends_nothing(tmp_path):
    (tmp_path / "loadtest.toml").write_text('[load]\nrate = "5/s"\n')
    done = told(tmp_path, "run", "--check", "loadtest.toml", "--seed", "9")
    assert done.returncode == 0, done.stderr
    config = json.loads(done.stdout)
    assert (config["load"]["rate"], config["load"]["seed"], config["target"]["url"]) == (5.0, 9, "sim")
    assert [path.name for path in tmp_path.iterdir()] == ["loadtest.toml"]
