"""Each scenario against a simulated deployment: what it sends, what its rows say, and that plain Locust plays it too."""

import json
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from headroom.targets import simulated_model
from loadgen.config import Kind
from loadgen.samples import Run, check_ledger
from loadgen.simulator.models import Images, Modality, model_of
from scenarios import PLACES
from tests.commands import environment, headroom, side_by_side
from tests.simulators import simulated

ROOT = Path(__file__).parent.parent
TEXTS = ["tools=3", "json_output=2", "conversation=2", "content_safety=3", "completions", "replay"]
VECTORS = ["embeddings", "image_embeddings"]
SHORT = ["--duration", "3s", "--warmup", "0s", "--rate", "14/s", "--rpm", 9_999, "--tpm", 9_999_999, "--no-report"]
PROMPTS = """
[prompts]
tokens = "uniform:60..200"
completion = "normal:40,10"
turns = "fixed:3"
turn_pause = 0.1
unsafe_share = 0.5

[parameters]
temperature = 0.2
dimensions = 64
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of texts and one of vectors: what each said at its end, and its record."""
    cwd = tmp_path_factory.mktemp("scenarios")
    (cwd / "prompts.toml").write_text(PROMPTS)

    def play(mix):
        flags = [word for scenario in mix for word in ("--scenario", scenario)]
        return headroom(cwd, "run", "prompts.toml", *flags, *SHORT, "--out", mix[-1])

    ended = side_by_side(play, [TEXTS, VECTORS])
    for done in ended:
        assert done.returncode in (0, 4), done.stderr  # 4: this machine was too busy
    return [(done.stdout, Run.open(cwd / mix[-1])) for done, mix in zip(ended, (TEXTS, VECTORS), strict=True)]


@pytest.fixture(scope="module")
def rows(runs):
    return pl.concat([run.samples.collect() for _, run in runs])


def of(rows, scenario):
    return rows.filter(pl.col("scenario") == scenario).sort("due_ns")


def test_every_row_is_answered_and_the_ledgers_add_up(runs, rows):
    assert set(rows["scenario"]) == {each.partition("=")[0] for each in TEXTS + VECTORS}
    assert set(rows.filter(pl.col("scenario") != "content_safety")["outcome"]) == {"ok"}
    for _, run in runs:
        check_ledger(run.manifest.totals)
        assert run.samples.select(pl.col("seq").is_duplicated().any()).collect().item() is False


def test_a_prompt_is_as_long_as_stated_and_the_estimate_is_the_servers_count(rows):
    told = rows.filter(pl.col("prompt_tokens").is_not_null(), pl.col("scenario") != "image_embeddings")
    assert (told["estimated_prompt_tokens"] == told["prompt_tokens"]).all()
    first = told.filter(~pl.col("scenario").is_in(["tools", "conversation"]))
    assert first["prompt_tokens"].is_between(60, 200).all() and first["prompt_tokens"].n_unique() > 10
    asked = rows["reserved_tokens"] - rows["estimated_prompt_tokens"]
    assert asked.filter(~rows["scenario"].is_in(VECTORS)).n_unique() > 10


def test_the_estimators_error_is_printed_and_its_name_recorded(runs):
    for stdout, run in runs:
        assert "prompts were estimated by bytes/4" in stdout
        assert run.manifest.estimator == "bytes/4"


def test_tools_are_two_rows_the_call_and_the_answer(rows):
    tools = of(rows, "tools")
    calls, answers = (tools.filter((pl.col("finish_reason") == "tool_calls") == call) for call in (True, False))
    in_time = calls.filter(pl.col("done_ns") < 2.9e9)  # nothing comes due after the last arrival
    assert 3 < in_time.height <= answers.height <= calls.height
    assert answers["seq"].min() > calls["seq"].max()  # their numbers stand behind the schedule's
    assert answers["prompt_tokens"].min() > calls["prompt_tokens"].min() and set(answers["outcome"]) == {"ok"}


def test_a_conversation_has_three_turns_of_growing_length_with_pauses_between(rows):
    turns = of(rows, "conversation")
    later = turns.filter(pl.col("seq") > rows.filter(pl.col("scenario") == "replay")["seq"].max())
    assert later.height > 2 and later["prompt_tokens"].max() > 250
    assert later["due_ns"].max() < 3e9  # none comes due behind the last arrival
    first = turns.filter(pl.col("seq") < later["seq"].min())
    assert later["due_ns"].min() > first["done_ns"].min()


def test_what_the_filter_stops_is_an_outcome_and_makes_no_run_invalid(runs, rows):
    safety = of(rows, "content_safety")
    assert set(safety["outcome"]) == {"ok", "filtered"}
    assert 0.2 < (safety["outcome"] == "filtered").mean() < 0.8
    assert "content safety filtered" in runs[0][0] and "attempts failed" not in runs[0][0]


def test_json_is_looked_at_and_what_is_none_stays_an_answer(runs, rows):
    """A limit of 40 tokens cuts some objects short."""
    told = of(rows, "json_output")
    assert set(told["error"]) <= {None, "cut_json"} and "not_json" not in runs[0][0]
    cut = told.filter(pl.col("error") == "cut_json")
    assert set(cut["finish_reason"]) <= {"length"}
    assert ("cut_json" in runs[0][0]) is (cut.height > 0)


def test_vectors_have_no_completion_and_cost_none(rows):
    vectors = rows.filter(pl.col("scenario").is_in(VECTORS))
    assert set(vectors["completion_tokens"]) == {0} and set(vectors["usage_source"]) == {"server"}
    assert set(vectors["finish_reason"]) == set(vectors["first_token_ns"]) == {None}
    assert (vectors["reserved_tokens"] == vectors["estimated_prompt_tokens"]).all()


def test_streams_of_completions_are_timed_by_their_texts(rows):
    streamed = of(rows, "completions")
    assert (streamed["chunks"] == streamed["completion_tokens"]).all()
    assert streamed["first_token_ns"].is_not_null().all()


def test_a_mix_that_one_model_cannot_answer_is_refused_before_anything_is_sent(tmp_path):
    done = headroom(tmp_path, "run", "--scenario", "chat", "--scenario", "image_embeddings", "--out", "run")
    assert done.returncode == 2
    assert "embeddings, and " in done.stderr and "is a model of type chat-completions" in done.stderr
    assert not (tmp_path / "run").exists()


def test_the_simulated_model_can_do_what_the_mix_asks_for():
    assert model_of(simulated_model(VECTORS), Kind.SERVERLESS).modality is Modality.EMBEDDINGS
    able = model_of(simulated_model(["tools", "chat"]), Kind.SERVERLESS)
    assert able.tools and able.json_object
    everything = model_of(simulated_model(["tools", "vision"]), Kind.MANAGED, 1_000)
    assert everything.tools and everything.images is Images.SEVERAL


def test_every_scenario_runs_under_plain_locust(tmp_path):
    """Side by side in one process, at one deployment; those of vectors at another."""

    def play(names_and_flags):
        names, flags = names_and_flags
        files = ",".join(str(ROOT / "scenarios" / f"{name}.py") for name in names)
        stats = tmp_path / names[0]
        with simulated(*flags, "--rpm", "99999", "--tpm", "99999999") as deployment:
            command = [sys.executable, "-m", "locust", "-f", files, "--host", deployment.url, "--headless"]
            command += ["--users", str(2 * len(names)), "--spawn-rate", "99", "--json-file", stats]
            # Not --run-time: Locust counts it from before its imports.
            locust = subprocess.Popen(command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
            said = ""
            while "All users spawned" not in said and (line := locust.stderr.readline()):
                said += line
            time.sleep(2.5)
            locust.terminate()
            said += locust.communicate(timeout=30)[1]
        return locust.returncode, said, json.loads(stats.with_suffix(".json").read_text())

    texts = [name for name in PLACES if name not in VECTORS]
    all_round = ["--model", "all-round", "--context-tokens", "100000"]
    for code, said, stats in side_by_side(
        play, [(texts, all_round), (VECTORS, ["--model", "Cohere-embed-v3-english"])]
    ):
        assert code == 0 and "Traceback" not in said, said
        for row in stats:
            assert row["num_requests"] > 1, row["name"]
            assert row["num_failures"] == 0, said
        assert {row["name"] for row in stats} in (set(texts), set(VECTORS)), said
