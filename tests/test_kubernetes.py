"""deploy/kubernetes.yaml: what it starts is there, what it configures is valid, and nothing of it is privileged."""

import re
import textwrap
from pathlib import Path

import pytest
import typer
import yaml

import headroom.cli  # noqa: F401 - adds the commands
from headroom.commands.app import app
from loadgen.loadtest import load_config

MANIFEST = (Path(__file__).parent.parent / "deploy" / "kubernetes.yaml").read_text()
COMMANDS = typer.main.get_command(app).commands
ARGUMENTS = [re.findall(r'"([^"]*)"', line) for line in re.findall(r"^ +args: \[(.*)\]$", MANIFEST, re.MULTILINE)]


def flags_of(command):
    return {flag for parameter in COMMANDS[command].params for flag in parameter.opts}


def test_the_commands_are_a_master_and_workers_that_know_where_it_is():
    (master, worker) = ARGUMENTS
    assert master[0] == "run"
    assert master[2:7] == ["--master", "--bind", "0.0.0.0:5557", "--workers", "4"]
    assert worker == ["worker", "--connect", "headroom-master:5557"]
    assert len(re.findall(r"^  replicas: 4$", MANIFEST, re.MULTILINE)) == 1


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda arguments: arguments[0])
def test_every_command_and_flag_in_it_exists(arguments):
    assert {word for word in arguments if word.startswith("--")} <= flags_of(arguments[0])


def test_the_load_that_it_configures_is_valid(tmp_path):
    block = re.search(r"^  loadtest\.toml: \|\n((?:    .*\n)+)", MANIFEST, re.MULTILINE)[1]
    file = tmp_path / "loadtest.toml"
    file.write_text(textwrap.dedent(block))
    config = load_config(file, {}, {})
    assert config.target.key == "env:AZURE_INFERENCE_CREDENTIAL"
    assert config.budget.bounds_use
    assert config.budget.requests >= config.load.rate * config.load.duration


def documents():
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(MANIFEST)}


def test_its_parts_fit_together():
    found = documents()
    assert set(found) == {
        ("ConfigMap", "headroom"), ("PersistentVolumeClaim", "headroom-runs"), ("Service", "headroom-master"),
        ("NetworkPolicy", "headroom"), ("Job", "headroom-master"), ("Deployment", "headroom-worker"),
    }  # fmt: skip
    service = found["Service", "headroom-master"]["spec"]
    master = found["Job", "headroom-master"]["spec"]["template"]
    assert service["selector"].items() <= master["metadata"]["labels"].items()
    assert [port["port"] for port in service["ports"]] == [5557]
    deployment = found["Deployment", "headroom-worker"]["spec"]
    assert deployment["selector"]["matchLabels"] == deployment["template"]["metadata"]["labels"]


@pytest.mark.parametrize(
    "name", [("Job", "headroom-master"), ("Deployment", "headroom-worker")], ids=lambda name: name[0]
)
def test_no_container_is_privileged_and_the_key_is_a_secret(name):
    pod = documents()[name]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    assert all("value" not in variable and "secretKeyRef" in variable["valueFrom"] for variable in container["env"])
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]} >= {"runs", "tmp"}
