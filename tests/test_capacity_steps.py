"""Steps of run folders and of sweeps, as the serving model is fitted on them."""

import pytest

from loadgen.config import RunConfig
from loadgen.samples import Run
from planner import swept
from planner.capacity import CapacityError, fit, steps_of
from planner.steps import step_of
from planner.sweep import Search
from tests.runs import answered, make_run, refused

SECONDS, TOKENS, TTFT_S = 20.0, 50, 0.1


def itl_s(rate):
    return 0.010 + 0.0004 * rate


def run_at(folder, rate, *, refusals=0, kind="managed"):
    """A steady run at a rate: each answer streams 50 tokens, at a pace that falls with the rate."""
    gap_us, count = round(itl_s(rate) * 1e6), round(rate * SECONDS)
    service_s = TTFT_S + (TOKENS - 1) * itl_s(rate)
    samples = [answered(seq, seq / rate, service_s=service_s, ttft_s=TTFT_S) for seq in range(count)]
    gaps = [(seq, 0, [gap_us] * (TOKENS - 1)) for seq in range(count)]
    samples += [refused(count + each, each * SECONDS / max(1, refusals)) for each in range(refusals)]
    load = {"rate": rate, "duration": SECONDS, "warmup": 0.0, "arrivals": "constant", "throttle": "off"}
    config = RunConfig.model_validate(
        {"load": load, "target": [{"name": "sim", "url": "http://127.0.0.1:1", "kind": kind}]}
    )
    return make_run(folder, samples, gaps, config=config, name=f"at-{rate}").folder


def test_run_folders_become_steps_and_steps_a_model(tmp_path):
    folders = [run_at(tmp_path, rate) for rate in (2, 5, 10, 15, 20)]
    table = steps_of(folders)
    assert table["rate_per_s"].to_list() == pytest.approx([2, 5, 10, 15, 20], rel=0.03)
    assert table["itl_mean_ms"].to_list() == pytest.approx([1e3 * itl_s(rate) for rate in (2, 5, 10, 15, 20)], rel=0.01)
    said = fit(table).predict(12.0)
    assert float(said.itl_mean_ms) == pytest.approx(1e3 * itl_s(12), rel=0.03)
    assert said.itl_mean_ms.low <= 1e3 * itl_s(12) <= said.itl_mean_ms.high


def test_the_steps_of_a_sweep_are_those_of_its_run_folders(tmp_path):
    rates = (2, 5, 10)
    folders = [run_at(tmp_path / "sweep", rate) for rate in rates]
    steps = [
        step_of(Run.open(folder), (), number=at, folder=folder.name, rate_per_s=rate)
        for at, (folder, rate) in enumerate(zip(folders, rates, strict=True), 1)
    ]
    swept.write(
        tmp_path / "sweep",
        swept.Sweep(
            format=swept.FORMAT,
            state="complete",
            reason=None,
            started_utc="2026-11-20T10:00:00Z",
            target="sim",
            model="Phi-3-mini-4k-Instruct",
            kind="managed",
            search=Search(from_per_s=2, to_per_s=10, steps=3, tolerance=0.1),
            step_s=SECONDS,
            past_quota=False,
            objectives=(),
            assumptions=(),
            config={},
            steps=tuple(steps),
        ),
    )
    assert steps_of(tmp_path / "sweep").drop("folder").equals(steps_of(folders).drop("folder"))


def test_a_run_that_the_quota_limited_is_set_aside_and_said(tmp_path):
    folders = [run_at(tmp_path, rate) for rate in (2, 5, 10)]
    folders.append(run_at(tmp_path, 20, refusals=100, kind="serverless"))
    table = steps_of(folders)
    assert table["quota_limited"].to_list() == [False, False, False, True]
    with pytest.raises(CapacityError, match="the quota limited it"):
        fit(table)
