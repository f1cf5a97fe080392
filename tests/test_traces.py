"""Traces of every format, what is wrong with them, and what a load plays of them; the schedule in its file."""

import csv
import json
from collections import Counter
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from headroom import scheduling
from headroom.scheduling import store_schedule
from loadgen.config import LoadConfig, RunConfig
from loadgen.errors import ConfigError, RunFolderError
from loadgen.loadtest import load_config
from loadgen.samples import SAMPLES_SCHEMA
from loadgen.schedule import Arrival, TraceRow, replayed
from loadgen.schedule_file import ScheduleFile, write_schedule
from loadgen.tokens import prompt_tokens
from loadgen.traces import open_trace, played_rows, read_trace, trace_of
from planner.demand import demand_from_trace
from tests.runs import answered, make_run

DATA = Path(__file__).parents[2] / "shared" / "data"
HI = [{"role": "user", "content": "hi"}]

ROWS = [TraceRow(0, 472, 18), TraceRow(40, 1087, 0), TraceRow(105.5, 417, 505)]
FORMATS = [  # claim, text, rows
    (
        "BurstGPT, whose failures generated nothing",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,1087,0,1087,Conversation log\n110.5,GPT-4,417,505,922,API log\n",
        ROWS,
    ),
    (
        "BurstGPT with sessions",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "0,a,1.5,ChatGPT,472,18,490,x\n40,,,ChatGPT,1087,0,1087,x\n105.5,b,2,GPT-4,417,505,922,x\n",
        ROWS,
    ),
    (
        "Azure of 2023, to the last digit",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,9",
        [TraceRow(0, 374, 44), TraceRow(4.314579, 396, 9)],
    ),
    (
        "Azure of 2024, with a zone",
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:01+00:00,2399,6\n",
        [TraceRow(0, 2162, 5), TraceRow(0.99007, 2399, 6)],
    ),
    (
        "Mooncake, in milliseconds",
        '{"timestamp": 3052, "input_length": 2287, "output_length": 3, "hash_ids": [1, 2]}\n\n'
        '{"timestamp": 3052.5, "input_length": 10, "output_length": 0, "hash_ids": []}\n',
        [TraceRow(0, 2287, 3), TraceRow(0.0005, 10, 0)],
    ),
    (
        "our own CSV, with all there can be",
        '\ufeffat_s,prompt_tokens,completion_tokens,scenario,messages,images\n1,5,6,chat,"[{""role"": ""user""}]",\n'
        '2,5,6,,,640x480 1900x1069\n3,5,6,,,"[[640, 480]]"\n',
        [
            TraceRow(0, 5, 6, "chat", [{"role": "user"}]),
            TraceRow(1, 5, 6, images=[(640, 480), (1900, 1069)]),
            TraceRow(2, 5, 6, images=[(640, 480)]),
        ],
    ),
    (
        "our own JSON lines; the tokens of messages are counted where they are not stated",
        '{"at_s": 0, "completion_tokens": 6, "prompt_tokens": 5, "images": ["640x480", [20, 30]], "scenario": "vision"}\n'
        '{"at_s": 0.25, "completion_tokens": 7, "messages": [{"role": "user", "content": "hi"}]}\n',
        [TraceRow(0, 5, 6, "vision", None, [(640, 480), (20, 30)]), TraceRow(0.25, prompt_tokens(HI), 7, None, HI)],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("claim", "text", "rows"), FORMATS, ids=[row[0] for row in FORMATS])
def test_a_format_is_told_by_its_content(tmp_path, claim, text, rows):
    (tmp_path / "any.name").write_text(text)
    assert read_trace(tmp_path / "any.name") == rows


def test_parquet_is_read_with_its_own_types(tmp_path):
    own = pl.DataFrame(
        {"at_s": [1.5, 2.5], "prompt_tokens": [5, 6], "completion_tokens": [7, 8], "scenario": ["x", None]}
    )
    azure = pl.DataFrame(
        {"TIMESTAMP": [datetime(2024, 5, 10), datetime(2024, 5, 10, 0, 0, 1, 500)], "ContextTokens": [5, 6], "GeneratedTokens": [7, 8]}
    )  # fmt: skip
    own.write_parquet(tmp_path / "own")
    azure.write_parquet(tmp_path / "azure")
    assert read_trace(tmp_path / "own") == [TraceRow(0, 5, 7, "x"), TraceRow(1, 6, 8)]
    assert read_trace(tmp_path / "azure") == [TraceRow(0, 5, 7), TraceRow(1.0005, 6, 8)]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here")
def test_the_published_azure_trace_is_read_whole():
    rows = read_trace(DATA / "AzureLLMInferenceTrace_conv.csv")
    with (DATA / "AzureLLMInferenceTrace_conv.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert [row.prompt_tokens for row in rows] == [int(each["ContextTokens"]) for each in cells]
    assert (len(rows), rows[0], rows[-1].at_s) == (19_366, TraceRow(0, 374, 44), 3501.721937)


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is not here")
def test_the_published_mooncake_trace_is_read_whole():
    rows = read_trace(DATA / "mooncake_synthetic_trace.jsonl")
    lines = [json.loads(line) for line in (DATA / "mooncake_synthetic_trace.jsonl").read_text().splitlines()]
    assert [(row.at_s, row.prompt_tokens, row.completion_tokens) for row in rows] == [
        (each["timestamp"] / 1e3, each["input_length"], each["output_length"]) for each in lines
    ]
    assert (len(rows), rows[-1].at_s) == (3_993, 1022.025)


OWN, MOON = (
    "at_s,prompt_tokens,completion_tokens,messages,images\n",
    '{"timestamp": 1, "input_length": 2, "output_length": 3}\n',
)
BAD = [  # claim, text, complaint
    ("a column too few", "Timestamp,Request tokens\n", "line 1: the column Response tokens is missing"),
    ("no JSON", MOON + "{\n", "line 2: is not JSON"),
    ("no object", MOON + "[1]\n", "line 2: is not an object"),
    ("a key too few", MOON + '{"timestamp": 1, "input_length": 2}\n', "line 2: output_length is missing"),
    ("a key too few in the first line", '{"timestamp": 1, "input_length": 2}\n', "line 1: the column output_length is missing"),
    ("a key of no format", '{"when": 1}\n', "line 1: no column at_s, .*this file has when"),
    ("half a token", MOON + '{"timestamp": 1, "input_length": 2.5, "output_length": 3}\n', "line 2: input_length is 2.5, not a whole"),
    ("true", MOON + '{"timestamp": true, "input_length": 2, "output_length": 3}\n', "line 2: True is not an instant"),
    ("before the start", OWN + "-1,1,1\n", "line 2: '-1' is not an instant"),
    ("never", OWN + "nan,1,1\n", "line 2: 'nan' is not an instant"),
    ("a date that is none", OWN + "2023-13-16 18:15:46,1,1\n", "line 2: '2023-13-16 18:15:46' is not an instant"),
    ("messages of text", OWN + "1,1,1,hello\n", "line 2: messages are not JSON"),
    ("messages without a role", OWN + '1,1,1,"[{""content"": 1}]"\n', "line 2: messages are not a list like"),
    ("an image without a size", OWN + "1,1,1,,large\n", "line 2: 'large' is not the size of an image; write it like 640x480"),
    ("an image of nothing", OWN + "1,1,1,,0x480\n", "line 2: '0x480' is not the size"),
    ("a line after a cell of two lines", 'at_s,prompt_tokens,completion_tokens,x\n1,1,1,"a\nb"\n2,x,1,\n', "line 4: prompt_tokens is 'x'"),
    ("damaged Parquet", "PAR1garbage", "cannot be read as a trace"),
]  # fmt: skip


@pytest.mark.parametrize("content", [bytes(range(256)), b"at_s\0,prompt_tokens,completion_tokens\n1,1,1\n"])
def test_a_file_that_is_no_text_is_said_to_be_no_trace(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(ConfigError, match=r"t is no trace: neither CSV, JSON lines nor Parquet"):
        read_trace(tmp_path / "t")


@pytest.mark.parametrize(("claim", "text", "complaint"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_row_is_named_by_file_and_line(tmp_path, claim, text, complaint):
    (tmp_path / "t").write_text(text)
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/t,? {complaint}"):
        read_trace(tmp_path / "t")


def test_bad_rows_can_be_passed_over_and_are_counted(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(OWN + "0,1,1\n1,x,1\n3,1,1\n2,1,1\n4,1,1\n")
    trace = open_trace(path, skip_bad_rows=True)
    assert [row.at_s for row in trace.rows] == [0, 3, 4]
    note = trace.note(path)
    assert note == (
        "2 bad rows of t.csv passed over, 3 good ones read; the first: line 3: prompt_tokens is 'x', not a whole number"
    )
    path.write_text(OWN + "x,1,1\n")
    with pytest.raises(ConfigError, match=r"t.csv holds no rows that can be used; line 2: 'x' is not an instant"):
        open_trace(path, skip_bad_rows=True)


def test_a_trace_is_read_no_further_than_it_is_played(tmp_path):
    (tmp_path / "t.csv").write_text(OWN + "0,1,1\n9,1,1\n20,x,1\n")
    assert len(open_trace(tmp_path / "t.csv", until_s=9).rows) == 2


def config_of(path, **load):
    return LoadConfig.model_validate({"trace": path, "warmup": 0, **load})


PLAYED = [  # claim, keys of [load], instants that are due in seconds
    ("all of it", {}, [0, 10, 20, 40]),
    ("until the duration", {"duration": 20}, [0, 10]),
    ("faster", {"speed": 4, "duration": 9}, [0, 2.5, 5]),
    ("from some time on", {"from": "15s"}, [5, 25]),
    ("from a row on, which is the first", {"from": 10, "speed": 2}, [0, 5, 15]),
]


@pytest.mark.parametrize(("claim", "load", "due_s"), PLAYED, ids=[row[0] for row in PLAYED])
def test_what_is_played_of_a_trace(tmp_path, claim, load, due_s):
    rows = [TraceRow(at_s, 1, 1) for at_s in (0, 10, 20, 40)]
    load = config_of(tmp_path, **load)
    arrivals = list(replayed(rows, load.speed, load.duration, {"x": 1}, 1, from_s=load.from_))
    assert [(each.seq, each.due_ns) for each in arrivals] == [(seq, round(at * 1e9)) for seq, at in enumerate(due_s)]


UNPLAYABLE = [
    ({"from": "50s"}, "t.csv has no arrival from 50 s on: its last comes at 40 s; give a smaller --from"),
    ({"speed": 10, "warmup": "5s"}, r"t.csv: its last arrival within the run \(of 3\) comes 4 s after the start, and the warm-up ends after 5 s"),
    ({}, r"t.csv, line 3: the scenario 'vison' is not in the mix, which has vision: add --scenario vison"),
]  # fmt: skip


@pytest.mark.parametrize(("load", "complaint"), UNPLAYABLE)
def test_a_trace_that_cannot_be_played_is_refused_with_the_numbers(tmp_path, load, complaint):
    scenario = "vision" if load else "vison"
    text = f"at_s,prompt_tokens,completion_tokens,scenario\n0,1,1,\n10,1,1,{scenario}\n40,1,1,\n"
    (tmp_path / "t.csv").write_text(text)
    load = config_of(tmp_path / "t.csv", **load)
    with pytest.raises(ConfigError, match=complaint):
        played_rows(open_trace(load.trace), load, {"vision": 1})


BURSTS = [TraceRow(second + tick / 1_000, second, tick + 1) for second in range(200) for tick in range(20)]


@pytest.mark.parametrize("scale", [0.25, 0.5, 1.5, 2, 3.25])
def test_a_scaled_trace_keeps_its_bursts_its_pauses_and_its_rows(scale):
    """Bursts of 20 ms each second: what fell evenly over the gaps around it would fill the pauses."""
    arrivals = list(replayed(BURSTS, 1, 1_000, {"x": 1}, 3, scale=scale))
    assert len(arrivals) == pytest.approx(scale * len(BURSTS), rel=0.05)
    assert [each.seq for each in arrivals] == list(range(len(arrivals)))
    due_ns = [each.due_ns for each in arrivals]
    assert due_ns == sorted(due_ns)
    assert all((at + 500_000) % 10**9 <= 20_000_000 for at in due_ns)
    times = Counter((each.prompt_tokens, each.completion_tokens) for each in arrivals)
    assert set(times.values()) == {int(scale), int(scale) + (scale % 1 > 0)} - {0}
    assert due_ns == [each.due_ns for each in replayed(BURSTS, 1, 1_000, {"x": 1}, 3, scale=scale)]
    if scale != 2:
        assert due_ns != [each.due_ns for each in replayed(BURSTS, 1, 1_000, {"x": 1}, 4, scale=scale)]


def test_twice_the_trace_is_its_own_arrivals_and_others_between_them():
    arrivals = [each.due_ns for each in replayed(BURSTS, 1, 1_000, {"x": 1}, 3, scale=2)]
    own = {round(row.at_s * 1e9) for row in BURSTS}
    assert own <= set(arrivals) and len(set(arrivals) - own) > 0.95 * len(BURSTS)


ARRIVALS = [
    Arrival(0, 0, "chat", 1),
    Arrival(2, 5, "streaming", (1 << 63) - 1, 10, 20),
    Arrival(1, (1 << 52) + 1, "mine.py:Mine", 1, 0, 1, [{"role": "user", "content": "\u00e9\n"}], [(640, 480), (1, 2)]),
]


def test_a_schedule_is_read_as_it_was_written(tmp_path):
    write_schedule(tmp_path, iter(ARRIVALS))
    schedule = ScheduleFile(tmp_path)
    assert (len(schedule), list(schedule), list(schedule)) == (3, ARRIVALS, ARRIVALS)
    assert [len(slice_) for slice_ in schedule.slices(2)] == [2, 1]


@pytest.mark.parametrize("count", [0, 1, 2_048, 70_000])
def test_slices_of_a_long_schedule_are_all_of_it_in_order(tmp_path, count):
    write_schedule(tmp_path, (Arrival(seq, seq * 7, "x", 1) for seq in range(count)))
    schedule = ScheduleFile(tmp_path)
    assert len(schedule) == count
    assert [(each.seq, each.due_ns) for each in schedule] == [(seq, seq * 7) for seq in range(count)]


def test_a_schedule_that_is_missing_or_damaged_is_said_to_be(tmp_path):
    with pytest.raises(RunFolderError, match=r"schedule\.parquet cannot be read"):
        ScheduleFile(tmp_path)
    (tmp_path / "schedule.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RunFolderError, match=r"schedule\.parquet cannot be read"):
        ScheduleFile(tmp_path)


def trace_run(tmp_path, *, keep_schedule):
    """A run of a trace whose second answer had no usage, and the config that made it."""
    (tmp_path / "t.csv").write_text("at_s,prompt_tokens,completion_tokens\n0,30,40\n1,50,60\n")
    load = {"trace": tmp_path / "t.csv", "duration": 5, "warmup": 0, "max_tokens": 99, "throttle": "off"}
    config = RunConfig.model_validate({"load": load, "scenarios": {"streaming": 1}})
    none = {"prompt_tokens": None, "completion_tokens": None, "usage_source": "estimated"}
    samples = [answered(0, 0, prompt_tokens=30, completion_tokens=33), answered(1, 1, chunks=0, **none)]
    run = make_run(tmp_path, samples, config=config)
    if keep_schedule:
        store_schedule(run.folder, config)
    return run


@pytest.mark.parametrize(("keep_schedule", "asked"), [(True, [40, 60]), (False, [33, 33])])
def test_a_trace_asked_for_the_completions_that_it_states(tmp_path, keep_schedule, asked):
    """Without its schedule, as of earlier records, what was generated stands for it."""
    run = trace_run(tmp_path, keep_schedule=keep_schedule)
    assert demand_from_trace(run.folder).arrivals["max_tokens"].to_list() == asked


def test_a_run_folder_is_a_trace_of_its_schedule(tmp_path):
    run = trace_run(tmp_path, keep_schedule=True)
    rows = [
        (row.at_s, row.prompt_tokens, row.completion_tokens, row.scenario, row.seq, row.seed)
        for row in read_trace(run.folder)
    ]
    assert rows == [(0, 30, 40, "streaming", 0, 1), (1, 50, 60, "streaming", 1, 1)]


def test_a_closed_loops_folder_is_a_trace_of_the_instants_its_samples_hold(tmp_path):
    config = RunConfig.model_validate({"load": {"users": 2, "seed": 9}})
    samples = [answered(0, 0.1), answered(4, 0.3, scenario="vision"), answered(1, 0.4), answered(1, 0.4, attempt=1)]
    samples += [answered(3, 0.35, session=0)]  # a later turn: it follows from the first, in a replay too
    run = make_run(tmp_path, samples, config=config)
    rows = read_trace(run.folder)
    assert [(row.at_s, row.prompt_tokens, row.scenario, row.seq, row.seed) for row in rows] == [
        (0.1, None, "chat", 0, 9), (0.3, None, "vision", 4, 9), (0.4, None, "chat", 1, 9)
    ]  # fmt: skip
    arrivals = list(replayed(rows, 1, 60, {"chat": 1, "vision": 1}, 1))
    assert [(each.seq, each.due_ns, each.seed) for each in arrivals] == [
        (0, 100_000_000, 9), (4, 300_000_000, 9), (1, 400_000_000, 9)
    ]  # fmt: skip
    assert [each.seq for each in replayed(rows, 1, 60, {"chat": 1, "vision": 1}, 1, from_s=0.2)] == [4, 1]
    write_schedule(tmp_path, arrivals)
    assert ScheduleFile(tmp_path).first_free == 5, "what follows has numbers of its own"
    assert "seq" in SAMPLES_SCHEMA


def test_a_replayed_run_is_as_long_and_of_the_same_requests_unless_it_is_said(tmp_path):
    load = {"users": 2, "duration": 33, "warmup": 3, "max_tokens": 7}
    asked = {"prompts": {"tokens": "fixed:9", "shared_prefix": 0.5}, "parameters": {"temperature": 0.2}}
    config = RunConfig.model_validate({"load": load, "scenarios": {"mine.py:X": 2}, **asked})
    run = make_run(tmp_path, [answered(0, 0.1)], config=config)
    found = load_config(None, {"load.trace": run.folder, "load.warmup": 0}, {})
    assert (found.load.duration, found.load.warmup, found.load.max_tokens, found.scenarios) == (
        33,
        0,
        7,
        {"mine.py:X": 2},
    )
    assert (found.prompts, found.parameters) == (config.prompts, {"temperature": 0.2})
    other = load_config(None, {"load.trace": run.folder, "prompts.tokens": "fixed:20"}, {})
    assert (other.prompts.tokens, other.prompts.shared_prefix) == ("fixed:20", 0.5)


def test_a_trace_is_read_once_for_a_look_at_it_and_for_its_schedule(tmp_path, monkeypatch):
    (tmp_path / "t.csv").write_text("at_s,prompt_tokens,completion_tokens\n0,30,40\n9,50,60\n")
    config = RunConfig.model_validate({"load": {"trace": tmp_path / "t.csv"}, "scenarios": {"replay": 1}})
    read = []
    monkeypatch.setattr(scheduling, "trace_of", lambda load: (read.append(load), trace_of(load))[1])
    stated = scheduling.stated_rows(config)
    scheduling.store_schedule(tmp_path, RunConfig.model_validate(config.model_dump(mode="json")))
    assert len(read) == 1 and len(stated) == len(ScheduleFile(tmp_path)) == 2
