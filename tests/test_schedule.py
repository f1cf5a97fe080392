"""When requests are due: drawn from a seed, or read from a trace."""

import math
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from loadgen.errors import ConfigError
from loadgen.requests import text_of
from loadgen.schedule import Arrival, TraceRow, drawn, replayed
from loadgen.tokens import image_tokens, prompt_tokens, text_tokens
from loadgen.traces import read_trace

MIX = {"chat": 3.0, "streaming": 6.0, "vision": 1.0}


def gaps_ns(arrivals):
    return [after.due_ns - before.due_ns for before, after in pairwise(arrivals)]


def cv(values):
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) / mean


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        pytest.param("constant", 0, 0.001, id="constant gaps do not vary"),
        pytest.param("poisson", 0.95, 1.05, id="exponential gaps vary as much as their mean"),
        pytest.param("gamma", 1.34, 1.49, id="gamma of shape 0.5 varies by the square root of two"),
    ],
)
def test_gaps_vary_as_their_name_says(kind, least, most):
    arrivals = list(drawn(kind, 100, 100, MIX, seed=3))
    assert 9_500 < len(arrivals) < 10_500
    assert least <= cv(gaps_ns(arrivals)) <= most


def test_poisson_counts_are_not_bunched():
    arrivals = list(drawn("poisson", 50, 400, MIX, seed=5))
    counts = [0] * 400
    for arrival in arrivals:
        counts[arrival.due_ns // 10**9] += 1
    mean = sum(counts) / len(counts)
    dispersion = sum((count - mean) ** 2 for count in counts) / len(counts) / mean
    assert 0.8 < dispersion < 1.2  # one for a Poisson process; its standard error here is 0.07


def test_the_same_seed_repeats_a_schedule_and_another_does_not():
    first, again, other = (list(drawn("poisson", 20, 10, MIX, seed)) for seed in (1, 1, 2))
    assert first == again
    assert [each.due_ns for each in first] != [each.due_ns for each in other]


def test_a_known_seed_draws_what_it_always_drew():
    """If this fails, runs are no longer comparable with those recorded before."""
    arrivals = list(drawn("poisson", 10, 60, {"chat": 1.0, "s": 2.0}, seed=1))
    assert (len(arrivals), arrivals[0].due_ns, arrivals[0].scenario, arrivals[2].scenario) == (
        588,
        121107143,
        "s",
        "chat",
    )
    assert text_of(arrivals[0].random, 6) == text_of(Random("1/0"), 6)


def test_scenarios_come_by_their_weights():
    arrivals = list(drawn("constant", 100, 100, MIX, seed=1))
    shares = {name: sum(arrival.scenario == name for arrival in arrivals) / len(arrivals) for name in MIX}
    assert shares == pytest.approx({"chat": 0.3, "streaming": 0.6, "vision": 0.1}, abs=0.015)


def test_what_an_arrival_draws_depends_on_seed_and_number_alone():
    draws = {Arrival(seq, 0, "chat", seed).random.random() for seq in range(50) for seed in range(2)}
    assert len(draws) == 100
    assert Arrival(7, 123, "vision", 1).random.random() == Arrival(7, 0, "chat", 1).random.random()


def test_a_trace_keeps_its_instants_and_counts_and_plays_faster_when_asked():
    rows = [TraceRow(0, 10, 20), TraceRow(1.5, 30, 0), TraceRow(8, 50, 60)]
    arrivals = list(replayed(rows, 2, 4, {"chat": 1.0}, seed=1))
    assert [(each.seq, each.due_ns, each.prompt_tokens, each.completion_tokens) for each in arrivals] == [
        (0, 0, 10, 20),
        (1, 750_000_000, 30, 1),  # nothing generates no token at all
    ]


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    return path


def test_azure_and_plain_traces_are_read(tmp_path):
    azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109"
    assert read_trace(write(tmp_path, azure)) == [TraceRow(0, 374, 44), TraceRow(4.314579, 396, 109)]
    plain = "\ufeffat_s,completion_tokens,prompt_tokens\r\n10.5,1,2\r\n\r\n11,3,4\r\n"
    assert read_trace(write(tmp_path, plain)) == [TraceRow(0, 2, 1), TraceRow(0.5, 4, 3)]


HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.68,374,44\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1: no column at_s, TIMESTAMP, Timestamp or timestamp"),
        (HEADER, "holds no rows"),
        ("TIMESTAMP,ContextTokens\n", "line 1: the column GeneratedTokens is missing"),
        ("a,b\n1,2\n", "line 1: no column at_s, .*; this file has a, b"),
        (HEADER + ROW + "2023-11-16 18:15:47.00,-4,44\n", "line 3: ContextTokens is -4"),
        (HEADER + ROW + "2023-11-16 18:15:47.00,4,x\n", "line 3: GeneratedTokens is 'x', not a whole number"),
        (HEADER + ROW + "2023-11-16 18:15:47.00,4\n", "line 3: GeneratedTokens is missing"),
        (HEADER + ROW + "2023-11-16 18:15:40.00,4,4\n", "line 3: TIMESTAMP goes back in time; sort"),
        (HEADER + "yesterday,4,4\n", "line 2: 'yesterday' is not an instant"),
        (HEADER + ROW + "2023-11-16 18:15:47.00,99999999999,4\n", "line 3: ContextTokens is 99999999999"),
    ],
)
def test_a_bad_trace_is_refused_naming_file_and_line(tmp_path, text, complaint):
    with pytest.raises(ConfigError, match=f"trace.csv,? ?{complaint}"):
        read_trace(write(tmp_path, text))


def test_a_trace_that_is_not_text_or_not_there_is_refused(tmp_path):
    (tmp_path / "trace.csv").write_bytes(b"\xff\xfe\x00garbage")
    with pytest.raises(ConfigError, match="is no trace: neither CSV, JSON lines nor Parquet"):
        read_trace(tmp_path / "trace.csv")
    with pytest.raises(ConfigError, match="does not exist"):
        read_trace(tmp_path / "none.csv")


@pytest.mark.parametrize("tokens", [1, 2, 7, 100, 4_096])
def test_made_up_text_counts_the_tokens_that_were_asked_for(tokens):
    assert text_tokens(text_of(Random(tokens), tokens)) == tokens


def test_image_tokens_reproduce_the_documented_example():
    assert image_tokens(1900, 1069) == 2_353
    messages = [{"role": "user", "content": [{"type": "text", "text": "x" * 4 * 23}, {"type": "image_url"}]}]
    assert prompt_tokens(messages, [(1900, 1069)]) == 2_380
    assert image_tokens(1069, 1900) == 16 * 144 + 1 + 6 * 12  # portrait: five rows of three
