"""What is read of a record while it grows: each row once, and what a run is like now."""

from pathlib import Path

import pytest

from loadgen.config import RunConfig
from loadgen.samples import Recorder, row_of
from planner import client_metrics
from planner.client_metrics import ClientMetrics
from planner.current import COLUMNS, MOST_CODES, OTHERS, SHOWN_CODES, Current
from planner.growing import MASTER, MOST_PARTS, GrowingRecord
from tests.runs import answered, dropped, refused

ALL = tuple(dict.fromkeys((*COLUMNS, *client_metrics.COLUMNS)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts").mkdir()
    return tmp_path


def grow(recorder: Recorder, *samples, gaps=()):
    recorder.add([row_of(sample) for sample in samples], gaps)
    recorder.publish()


def config(**load):
    return RunConfig.model_validate({"load": {"rate": 1, **load}})


def test_each_row_is_read_once_whichever_worker_published_it(folder):
    record = GrowingRecord(folder, config(processes=2), ALL)
    assert record.read().samples.is_empty() and record.read().chunks.is_empty()
    first, second, master = (Recorder(folder, number) for number in (0, 1, MASTER))
    grow(first, answered(0, 1.0, ttft_s=0.2), gaps=[(0, 0, [20_000, 30_000])])
    grow(second, answered(1, 1.0))
    rows = record.read()
    assert sorted(rows.samples["seq"]) == [0, 1] and rows.chunks["gap_us"].to_list() == [20_000, 30_000]
    grow(master, dropped(2, 1.0))
    for seq in (3, 4):
        grow(first, answered(seq, 1.0))
    assert sorted(record.read().samples["seq"]) == [2, 3, 4]
    assert record.read().samples.is_empty()


def test_a_part_that_cannot_be_read_ends_nothing(folder):
    (folder / "parts" / "samples-00000-000001.parquet").write_bytes(b"PAR1 no")
    record = GrowingRecord(folder, config(), ALL)
    assert record.read().samples.is_empty()
    recorder = Recorder(folder, 0)
    recorder._published = 1
    grow(recorder, answered(7, 1.0))
    assert record.read().samples["seq"].to_list() == [7]


def test_what_a_run_is_like_now_is_of_its_last_ten_seconds(folder):
    recorder, record, current = Recorder(folder, 0), GrowingRecord(folder, config(), COLUMNS), Current()
    slow = [answered(seq, 1.0, ttft_s=0.9) for seq in range(20)]
    grow(recorder, *slow, gaps=[(0, 0, [40_000] * 3)])
    before = current.look(record.read(), t_s=2.0, sent=20)
    assert (before.ttft_p50_ms, before.ttft_p95_ms, before.itl_p50_ms) == (900.0, 900.0, 40.0)
    assert before.requests_per_s is None  # since when?
    quick = [answered(20 + seq, 3.0, ttft_s=0.1 + 0.001 * seq) for seq in range(20)]
    grow(recorder, *quick)
    both = current.look(record.read(), t_s=4.0, sent=40)
    assert both.requests_per_s == 10.0
    assert (both.ttft_p50_ms, both.ttft_p95_ms) == (119.0, 900.0)
    assert current.look(record.read(), t_s=4.0, sent=40).requests_per_s is None  # in no time
    assert current.look(record.read(), t_s=12.0, sent=40).itl_p50_ms == 40.0  # ten seconds ago
    later = current.look(record.read(), t_s=12.5, sent=40)
    assert (later.ttft_p50_ms, later.ttft_p95_ms, later.itl_p50_ms) == (109.0, 118.0, None)
    nothing = current.look(record.read(), t_s=30.0, sent=40)
    assert (nothing.ttft_p50_ms, nothing.ttft_p95_ms, nothing.requests_per_s) == (None, None, 0.0)


ERRORS = {  # what the record says of an attempt -> what it is called
    "429 token_limit": {"status": 429, "outcome": "throttled", "error": "token_limit"},
    "429": {"status": 429, "outcome": "throttled", "error": "429"},
    "503 server_error": {"status": 503, "outcome": "server_error", "error": None},
    "connect_timeout": {"status": None, "outcome": "timeout", "error": "connect_timeout"},
    "cut": {"status": 200, "outcome": "broken_stream", "error": "cut"},
}


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_is_named_by_its_status_and_its_code(folder, name):
    record = GrowingRecord(folder, config(), COLUMNS)
    grow(Recorder(folder, 0), answered(0, 1.0), answered(1, 1.0, **ERRORS[name]))
    assert Current().look(record.read(), t_s=1.0, sent=2).errors == {name: 1}


def test_errors_that_never_repeat_take_no_memory_and_no_screen(folder):
    recorder, record, current = Recorder(folder, 0), GrowingRecord(folder, config(), COLUMNS), Current()
    grow(recorder, *(refused(seq, 1.0, error="known") for seq in range(3)))
    current.look(record.read(), t_s=1.0, sent=3)
    grow(recorder, *(refused(seq, 1.0, error=f"unique {seq} " + "x" * 200) for seq in range(3, 3 + 2 * MOST_CODES)))
    grow(recorder, refused(500, 1.0, error="known"))
    errors = current.look(record.read(), t_s=2.0, sent=4).errors
    assert len(errors) == SHOWN_CODES and len(current._errors) == MOST_CODES + 1
    assert list(errors)[:2] == [OTHERS, "429 known"] and errors["429 known"] == 4
    assert errors[OTHERS] == MOST_CODES + 1  # but for the first known, and 99 of the others
    assert max(map(len, errors)) <= 64


def test_histograms_put_a_bound_into_the_bucket_below_it_and_add_up_over_looks(folder):
    recorder, record, metrics = Recorder(folder, 0), GrowingRecord(folder, config(), ALL), ClientMetrics()
    grow(recorder, answered(0, 1.0, service_s=0.01), answered(1, 1.0, service_s=0.010_000_001), refused(2, 1.0))
    metrics.take(record.read())
    grow(recorder, answered(3, 1.0, service_s=100.0, ttft_s=0.5), dropped(4, 1.0), gaps=[(3, 0, [10_000, 10_001])])
    metrics.take(record.read())
    found = {
        (s.instrument.name.split(".")[-1], s.scenario, s.error): c
        for s, c in metrics.histograms.items()
        if s.instrument.token_type != "output"
    }
    plain = found["duration", "chat", None]
    assert (plain.buckets[0], plain.buckets[1], plain.n, plain.total) == (1, 1, 2, 20_000_001)
    assert (plain.least, plain.most) == (10_000_000, 10_000_001)
    assert found["duration", "chat", "429"].n == 1  # and what was never sent took no time
    assert found["duration", "streaming", None].buckets[-1] == 1  # beyond the last bound
    assert found["time_per_output_chunk", "streaming", None].buckets[:2] == [1, 1]
    assert found["time_to_first_chunk", "streaming", None].total == 500_000_000
    assert {key[1] for key in found if key[0] == "time_to_first_chunk"} == {"streaming"}
    assert found["usage", "chat", None].total == 200 and ("usage", "chat", "429") not in found


def test_a_part_that_cannot_be_read_costs_itself_alone_and_is_tried_once_more(folder):
    record, recorder, other = GrowingRecord(folder, config(processes=2), ALL), Recorder(folder, 0), Recorder(folder, 1)
    grow(recorder, answered(0, 1.0))
    grow(other, answered(1, 1.0))
    part = next((folder / "parts").glob("samples-00000-*"))
    whole = part.read_bytes()
    part.write_bytes(b"PAR1")
    assert record.read().samples["seq"].to_list() == [1]
    part.write_bytes(whole)
    assert record.read().samples["seq"].to_list() == [0]
    assert record.read().samples.is_empty()
    grow(recorder, answered(2, 1.0))
    part = next((folder / "parts").glob("samples-00000-000002*"))
    whole = part.read_bytes()
    part.write_bytes(b"PAR1")
    assert record.read().samples.is_empty() and record.read().samples.is_empty()
    part.write_bytes(whole)
    assert record.read().samples.is_empty()  # it had its second try


def test_no_look_takes_long_however_much_has_come_and_the_rest_is_there_at_the_next(folder):
    record, recorder = GrowingRecord(folder, config(processes=3), ALL), Recorder(folder, 0)
    for seq in range(20):
        grow(recorder, answered(seq, 1.0))
    looks = [record.read().samples["seq"].to_list() for _ in range(3)]
    assert [len(look) for look in looks] == [MOST_PARTS // 4, 4, 0]  # three workers, and the master
    assert [seq for look in looks for seq in look] == list(range(20))


def test_what_a_server_says_beside_its_code_is_not_shown(folder):
    record, recorder = GrowingRecord(folder, config(), ALL), Recorder(folder, 0)
    grow(recorder, refused(0, 1.0, error="content_filter: the prompt 'my secret' is blocked"))
    grow(recorder, refused(1, 1.0, error="error_in_stream: oops: my secret"))
    errors = Current().look(record.read(), t_s=1.0, sent=2).errors
    assert errors == {"429 content_filter": 1, "429 error_in_stream: oops": 1}
