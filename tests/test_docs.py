"""The README tells the truth: every command, flag, key, default, metric and exit code, and its examples work."""

import inspect
import json
import re
import subprocess
import sys
import tomllib
import typing
from dataclasses import fields
from pathlib import Path

import pytest
from pydantic import BaseModel

import headroom.cli  # noqa: F401 - adds the commands
from headroom.commands.app import app
from headroom.service.plan_request import PlanRequest
from loadgen.config import RunConfig, TargetConfig
from loadgen.errors import HeadroomError
from loadgen.quota import Quota
from loadgen.samples import Run
from loadgen.simulator.autoscale import Metric
from loadgen.simulator.batching import BatchingModel
from loadgen.simulator.endpoint import EndpointSettings
from loadgen.simulator.faults import COMMON, KINDS, RULES, read_faults
from loadgen.simulator.flags import ENDPOINT_FLAGS
from loadgen.simulator.flags import parser as simulator_flags
from loadgen.slo import LATENCIES
from tests.commands import PLENTY

pytestmark = pytest.mark.aside

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def keys(model, prefix=""):
    for name, field in model.model_fields.items():
        if name == "targets":  # in the file a table, or several
            yield from keys(TargetConfig, "target.")
        elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, f"{prefix}{name}.")
        elif field.annotation is Quota:
            yield from ((f"{prefix}{name}.{each.name}", None) for each in fields(Quota))
        else:
            yield f"{prefix}{field.alias or name}", field.description


@pytest.mark.parametrize(("key", "meaning"), list(keys(RunConfig)))
def test_every_config_key_is_documented_with_its_meaning(key, meaning):
    row = re.search(rf"^\| `{re.escape(key)}` \|(.*)\|(.+)\|$", README, re.MULTILINE)
    assert row, f"{key} is not in the README"
    assert meaning is None or row[2].strip() == meaning


def test_the_readme_documents_no_key_that_is_not():
    documented = re.findall(
        r"^\| `((?:target|load|prompts|quota|budget|timeouts|output|plan|telemetry)\.\w+)`", README, re.MULTILINE
    )
    assert set(documented) <= {key for key, _ in keys(RunConfig)}


def flags_of_simulate():
    for group in simulator_flags()._action_groups:
        for action in group._group_actions:
            if "--help" not in action.option_strings:
                choices = f"{', '.join(action.choices)}: " if action.choices else ""
                yield action.option_strings[-1], choices + action.help % {"default": action.default}


@pytest.mark.parametrize(("flag", "meaning"), list(flags_of_simulate()))
def test_every_flag_of_simulate_is_documented_with_its_meaning(flag, meaning):
    assert f"| `{flag}` | {meaning} |\n" in README


@pytest.mark.parametrize("model", [BatchingModel, EndpointSettings])
def test_every_parameter_of_managed_compute_is_documented(model):
    flags = {field: flag for flag, field in ENDPOINT_FLAGS.items()} | {"rules": "scale_rule"}
    for each in fields(model):
        name = f"--{flags[each.name].replace('_', '-')}" if model is EndpointSettings else each.name
        assert name in README, each.name


def test_every_metric_of_a_scale_rule_is_documented():
    assert all(f"`{metric}`" in README for metric in Metric)


def test_the_replay_of_the_readme_runs():
    (example,) = (block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "replay" in block)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert 1e6 < int(done.stdout) < 1e9, done.stderr


def commands(typer_app, prefix=""):
    for command in typer_app.registered_commands:
        yield f"{prefix}{command.name or command.callback.__name__}", command.callback
    for group in typer_app.registered_groups:
        yield from commands(group.typer_instance, f"{prefix}{group.name or group.typer_instance.info.name} ")


def flags():
    for name, callback in commands(app):
        hints = typing.get_type_hints(callback, include_extras=True)
        for parameter in inspect.signature(callback).parameters:
            for option in getattr(hints[parameter], "__metadata__", ()):
                if type(option).__name__ == "OptionInfo":
                    named = [option.default, *(option.param_decls or ())]  # typer keeps the first name as the default
                    spelled = [each for each in named if isinstance(each, str) and each.startswith("--")]
                    yield name, (spelled or [f"--{parameter.replace('_', '-')}"])[0]


@pytest.mark.parametrize(("command", "flag"), list(flags()))
def test_every_command_and_flag_is_documented(command, flag):
    assert f"headroom {command}" in README
    assert re.search(rf"{re.escape(flag)}\b", README), f"{flag} of headroom {command}"


def test_every_metric_and_exit_code_is_documented():
    for metric in LATENCIES:
        assert f"`{metric}`" in README
    codes = {error.exit_code for error in HeadroomError.__subclasses__()} | {0, 1, 4, 99, 105, 108, 111}
    assert codes <= {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}


def test_the_configuration_of_the_readme_is_valid(tmp_path):
    examples = [tomllib.loads(each) for each in re.findall(r"```toml\n(.*?)```", README, re.DOTALL)]
    assert [PlanRequest.model_validate(each) for each in examples if "runs" in each]
    examples = [each for each in examples if not {"toxic", "runs", "currency"} & set(each)]
    configs = [RunConfig.model_validate(each) for each in examples]
    assert [len(config.targets) for config, each in zip(configs, examples, strict=True) if "target" in each] == [
        2,
        1,
        1,
    ]


def test_the_faults_file_of_the_readme_is_valid(tmp_path):
    examples = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (example,) = (each for each in examples if "toxic" in tomllib.loads(each))
    file = tmp_path / "faults.toml"
    file.write_text(example)
    assert [toxic.kind for toxic in read_faults(file).toxics] == ["cut", "status", "freeze", "gzip_bomb"]


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_of_fault_is_documented_with_its_keys_and_their_defaults(kind):
    row = re.search(rf"^\| `{kind}` \|.+\|(.*)\|$", README, re.MULTILINE)
    assert row, f"{kind} is not in the README"
    assert re.findall(r"`(.+?)`", row[1]) == [
        key if default is None else f"{key} = {json.dumps(default)}" for key, default in KINDS[kind].items()
    ]


@pytest.mark.parametrize("key", list(RULES))
def test_every_key_of_a_fault_is_documented_with_its_default_and_what_is_allowed(key):
    default = "of its kind" if key not in COMMON else "" if COMMON[key] is None else f"`{COMMON[key]}`"
    row = re.search(rf"^\| `{key}` \|(.*)\| {re.escape(str(RULES[key]))} \| .+\|$", README, re.MULTILINE)
    assert row, f"{key} is not in the README, or not as it is"
    assert row[1].strip() == default


def test_the_readme_documents_no_fault_that_is_not():
    section = README.partition("### Faults on purpose\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE)) == {*KINDS, *RULES}


def test_the_scenarios_of_the_readme_run(tmp_path):
    example, doubter, *_ = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(example.splitlines()) <= 12
    (tmp_path / "mine.py").write_text(example)
    (tmp_path / "doubter.py").write_text(doubter)
    command = [sys.executable, "-m", "headroom", "run", "--scenario", "mine.py:Mine", "--rate", "20/s", *PLENTY]
    command += ["--scenario", "doubter.py:Doubter"]
    command += ["--duration", "1s", "--warmup", "0s", "--no-report", "--quiet", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, 4), done.stderr  # 4 where other programs hold the cores
    outcomes = Run.open(tmp_path / "run").samples.select("scenario", "outcome").unique().collect().rows()
    assert set(outcomes) == {("mine.py:Mine", "ok"), ("doubter.py:Doubter", "ok")}


def test_pictures_and_files_that_the_readme_names_exist():
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        assert (ROOT / path).stat().st_size > 10_000
    for folder in ("loadgen", "scenarios", "planner", "dashboards", "headroom", "benchmarks"):
        assert (ROOT / folder).is_dir()


def test_the_lock_holds_hashes_and_no_address():
    lock = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links", lock)
    pinned = re.findall(r"^[a-z0-9._-]+==[^ ]+.*\\$", lock, re.MULTILINE)
    assert len(pinned) > 50
    assert len(re.findall(r"^[a-z0-9._-]+==", lock, re.MULTILINE)) == len(pinned)  # each goes on with its hashes
    assert "headroom==" not in lock


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    for block in re.findall(r"^(?:dependencies|azure|dev) = \[\n?(.*?)\]", text, re.DOTALL | re.MULTILINE):
        for line in filter(str.strip, block.splitlines()):
            assert "#" in line or "azure-identity" in line, line
