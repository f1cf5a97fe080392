"""What is exported for Azure Load Testing runs by itself: plain Locust, a clean folder, no Headroom."""

import ast
import inspect
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml

from headroom import exporting
from headroom.capturing import Captured
from headroom.exporting import POOL, criteria_of, stages_of, test_id
from loadgen.config import RunConfig
from loadgen.slo import Threshold
from tests.commands import deployment, headroom
from tests.servers import Server, always, response
from tests.simulators import simulated

KEY = "canary-51c07e6fb2aa4d3e"
MIX = ["--scenario", "chat=1", "--scenario", "streaming=3", "--max-tokens", 20]
OBJECTIVES = ["--slo", "ttft.p95<1s", "--slo", "response_time.p99<5s", "--slo", "itl.p95<50ms"]


async def answering(call, writer):
    """Each tenth is refused."""
    if call.number % 10 == 9:
        writer.write(response(b"{}", "429 Too Many Requests"))
    else:
        await deployment(call, writer)


def plain_locust(folder, *arguments):
    """Runs the folder as the service does; the counts of its statistics by name, and the process."""
    command = [sys.executable, "-m", "locust", "--headless", "--only-summary", "--json", *arguments]
    elsewhere = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LOCUST"))}
    done = subprocess.run(
        command, cwd=folder, env=elsewhere | {"MY_KEY": KEY}, capture_output=True, text=True, timeout=90
    )
    return {row["name"]: row for row in json.loads(done.stdout)}, done


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Exported, run, and what the server heard."""
    cwd = tmp_path_factory.mktemp("export")
    with Server(answering) as server:
        load = [
            "--rate",
            "40/s",
            "--duration",
            "4s",
            "--warmup",
            "0s",
            "--key",
            "env:MY_KEY",
            "--dialect",
            "openai",
            "--model",
            "phi",
        ]
        target = ["--target", f"http://127.0.0.1:{server.port}", *load, *MIX, *OBJECTIVES, "--out", "alt"]
        done = headroom(cwd, "export", "azure-load-testing", *target, "--key-vault", "team", MY_KEY=KEY)
        assert done.returncode == 0, done.stderr
        assert server.calls == []  # nothing is sent to the target
        counts, ran = plain_locust(cwd / "alt")
        calls = list(server.calls)
    return cwd / "alt", counts, ran, calls


def test_the_counts_of_plain_locust_are_those_of_the_server(exported):
    _, counts, ran, calls = exported
    asked = {name: row["num_requests"] for name, row in counts.items()}
    assert sum(asked[name] for name in asked if not name.endswith("_ttft")) == len(calls), ran.stderr
    streams = [call for call in calls if json.loads(call.body).get("stream")]
    assert asked["streaming"] + asked["streaming_429"] == len(streams)
    assert asked["streaming_ttft"] == asked["streaming"]  # a stream that was answered has a first token
    assert "chat_ttft" not in asked
    assert asked["streaming_429"] + asked.get("chat_429", 0) == len(calls) // 10
    assert all(
        row["num_failures"] == (row["num_requests"] if name.endswith("_429") else 0) for name, row in counts.items()
    )


def test_no_request_is_cut_at_the_end(exported):
    """800 a second: some are always about to be sent when Locust stops its users."""
    folder = exported[0].parent / "hurried"
    shutil.copytree(exported[0], folder)
    first, *lines = (folder / "workload.jsonl").read_text().splitlines()
    with Server(answering) as server:
        settings = json.loads(first)["settings"] | {"pace_s": 1, "stages": [[2, 800]]}
        settings["url"] = f"http://127.0.0.1:{server.port}"
        (folder / "workload.jsonl").write_text("\n".join([json.dumps({"settings": settings}), *lines]) + "\n")
        counts, ran = plain_locust(folder)
    assert len(server.calls) > 800, ran.stderr
    assert sum(row["num_requests"] for name, row in counts.items() if not name.endswith("_ttft")) == len(server.calls)


def test_the_rate_the_mix_and_the_requests_are_those_of_headroom(exported):
    folder, _, _, calls = exported
    assert len(calls) == pytest.approx(40 * 3, rel=0.35)  # Poisson arrivals
    streams = sum(bool(json.loads(call.body).get("stream")) for call in calls)
    assert streams / len(calls) == pytest.approx(0.75, abs=0.12)
    first, *lines = [json.loads(line) for line in (folder / "workload.jsonl").read_text().splitlines()]
    assert {call.body.decode() for call in calls} <= {line["body"] for line in lines}
    assert {line["path"] for line in lines} == {call.path for call in calls} == {"/v1/chat/completions"}
    assert {json.loads(line["body"])["model"] for line in lines} == {"phi"}
    assert len(lines) == 2 * 64
    assert first["settings"]["weights"] == {"chat": 1, "streaming": 3}


def test_the_key_comes_from_the_environment_and_stands_in_no_file(exported):
    folder, _, ran, calls = exported
    assert {call.header("authorization") for call in calls} == {f"Bearer {KEY}"}
    assert {call.header("api-key") for call in calls} == {None}  # of the azure dialect alone
    everything = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert KEY.encode() not in everything + ran.stdout.encode() + ran.stderr.encode()


def test_the_folder_is_what_the_service_needs_and_nothing_else(exported):
    folder, *_ = exported
    files = {path.name for path in folder.iterdir() if path.is_file()}
    assert files == {"config.yaml", "locustfile.py", "requirements.txt", "workload.jsonl"}
    assert (folder / "requirements.txt").read_text().startswith("locust==")
    tree = ast.parse((folder / "locustfile.py").read_text())
    roots = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {root.split(".")[0] for root in roots} - set(sys.stdlib_module_names) == {"locust"}
    text = (folder / "config.yaml").read_text()
    for line in (
        "testType: Locust",
        "testPlan: locustfile.py",
        "engineInstances: 4",  # 40/s at 20 s a user are 800 users
        '  - name: "MY_KEY"',
        '    value: "https://team.vault.azure.net/secrets/MY-KEY"',
        '  - "streaming_ttft": "p95(response_time_ms) > 1000"',
        '  - "chat": "p99(response_time_ms) > 5000"',
        '  - "streaming": "p99(response_time_ms) > 5000"',
        "  errorPercentage: 90",
    ):
        assert f"\n{line}\n" in text
    assert yaml.safe_load(text)["failureCriteria"][0] == {"streaming_ttft": "p95(response_time_ms) > 1000"}
    assert 'does not measure it: "itl.p95<50ms"' in text


@pytest.mark.parametrize(
    ("objective", "said", "unsaid"),
    [
        pytest.param("response_time.mean<250ms", [("chat", "avg(response_time_ms) > 250")], [], id="a mean"),
        pytest.param("response_time.p97<1s", [], ["response_time.p97<1s"], id="a percentile that the service has not"),
        pytest.param("service_time.p95<1s", [], ["service_time.p95<1s"], id="a metric that it has not"),
        pytest.param("ttft.p95<1s", [], ["ttft.p95<1s"], id="a first token where nothing is streamed"),
    ],
)
def test_objectives_become_conditions_to_fail_by_or_are_said_to_be_left_out(objective, said, unsaid):
    assert criteria_of([Threshold.parse(objective)], ["chat"], []) == (said, unsaid)


def test_a_closed_loop_is_so_many_users_without_a_pace():
    config = RunConfig.model_validate({"load": {"users": 7, "duration": 60}})
    assert stages_of(config) == ([(60, 7)], None)
    stages, pace_s = stages_of(RunConfig.model_validate({"load": {"rate": 0.51}}))
    assert stages[0][1] / pace_s == pytest.approx(0.51)


def test_a_ramp_becomes_stairs_with_the_same_arrivals():
    config = RunConfig.model_validate({"load": {"stages": "10/s:10s,30/s:10s", "warmup": 0}})
    stages, pace_s = stages_of(config)
    assert stages[0] == (10, 200)
    assert stages[-1][0] == 20
    starts_s = [0, *(until_s for until_s, _ in stages)]
    arrivals = sum(
        users / pace_s * (until_s - start_s) for start_s, (until_s, users) in zip(starts_s, stages, strict=False)
    )
    assert arrivals == pytest.approx(10 * 10 + 20 * 10, rel=0.01)


def test_a_test_id_is_one_that_the_service_takes():
    assert test_id("Phi-3.5 Vision/instruct" * 5) == "headroom-phi-3-5-vision-instructphi-3-5-vision-ins"


test_id.__test__ = False


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--target", "sim"], "simulated here", id="a deployment that the service cannot reach"),
        pytest.param(["--target", "http://127.0.0.1:9", "--key", "entra"], "env:NAME", id="Entra"),
        pytest.param(
            ["--target", "http://127.0.0.1:9", "--rate", "900/s"], "engines", id="more than the engines reach"
        ),
    ],
)
def test_what_cannot_be_exported_is_refused(arguments, complaint, tmp_path, capsys, monkeypatch):
    from headroom.cli import main

    monkeypatch.setattr(
        "sys.argv", ["headroom", "export", "azure-load-testing", *arguments, "--out", str(tmp_path / "x")]
    )
    assert main() == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_what_is_sent_is_bounded_and_large_requests_crowd_nobody_out(monkeypatch):
    monkeypatch.setattr(exporting, "MOST_BYTES", 1_000)
    pools = {name: [Captured(n, "/", b"x" * size) for n in range(POOL)] for name, size in (("big", 400), ("small", 20))}
    assert {name: len(kept) for name, kept in exporting._bounded(pools).items()} == {"big": 2, "small": 10}


def test_flags_that_nothing_there_heeds_are_not_offered():
    from headroom.commands.export import azure_load_testing

    offered = inspect.signature(azure_load_testing).parameters
    assert not {"tpm", "rpm", "throttle", "retries", "split", "processes", "master", "workers", "kind"} & set(offered)
    assert {"rate", "stages", "users", "scenario", "prompt_tokens", "seed", "key", "dialect"} <= set(offered)


@pytest.mark.long
def test_a_closed_loops_users_wait_when_they_are_refused(tmp_path):
    with Server(always(response(b"{}", "429 Too Many Requests", retry_after_ms=500))) as server:
        load = ["--users", "3", "--duration", "3s", "--warmup", "0s", "--scenario", "chat", "--out", "alt"]
        done = headroom(tmp_path, "export", "azure-load-testing", "--target", f"http://127.0.0.1:{server.port}", *load)
        assert done.returncode == 0, done.stderr
        counts, _ = plain_locust(tmp_path / "alt")
    assert 9 <= counts["chat_429"]["num_requests"] <= 24, "each of three twice a second"


@pytest.mark.long
def test_the_simulated_deployment_takes_every_request_of_the_whole_mix(tmp_path):
    with simulated("--model", "Phi-3.5-vision-instruct", "--tpm", "9000000", "--rpm", "60000") as server:
        done = headroom(
            tmp_path, "export", "azure-load-testing", "--target", server.url, "--rate", "30/s", "--duration", "6s",
            "--arrivals", "constant", "--out", "alt",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        counts, ran = plain_locust(tmp_path / "alt")
    assert ran.returncode == 0, ran.stderr
    assert set(counts) == {"chat", "streaming", "streaming_ttft", "vision", "vision_ttft"}
    assert sum(row["num_failures"] for row in counts.values()) == 0
    answered = sum(row["num_requests"] for name, row in counts.items() if not name.endswith("_ttft"))
    assert answered == pytest.approx(30 * 6, rel=0.1)
