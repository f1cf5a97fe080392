"""Run folders for tests: written as the load generator writes them, opened as the planner opens them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.config import RunConfig
from loadgen.quota import Quota, enforcing
from loadgen.samples import Gaps, Manifest, Outcome, Phase, Recorder, Run, Sample, WorkerHealth, create, finish, row_of

NS = 1_000_000_000
STARTED_UTC = "2026-11-20T10:00:00Z"
PHI_3_MINI = {
    "model_name": "Phi-3-mini-4k-Instruct",
    "model_type": "chat-completions",
    "model_provider_name": "Microsoft",
}


def ns(seconds: float) -> int:
    return round(seconds * NS)


def answered(
    seq: int,
    due_s: float,
    *,
    service_s: float = 0.5,
    ttft_s: float | None = None,
    wait_s: float = 0.0,
    lag_s: float = 0.0,
    **fields: Any,
) -> Sample:
    """An attempt that ended `service_s` after it was sent; a stream where `ttft_s` is given. Outcome ok unless said."""
    sent_s = due_s + wait_s + lag_s
    streamed = ttft_s is not None
    known: dict[str, Any] = {
        "scenario": "streaming" if streamed else "chat",
        "target": "sim",
        "status": 200,
        "due_ns": ns(due_s),
        "admitted_ns": ns(due_s + wait_s),
        "sent_ns": ns(sent_s),
        "first_byte_ns": ns(sent_s + (service_s if ttft_s is None else ttft_s)),
        "first_token_ns": None if ttft_s is None else ns(sent_s + ttft_s),
        "last_token_ns": ns(sent_s + service_s) if streamed else None,
        "done_ns": ns(sent_s + service_s),
        "reserved_tokens": 228,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "usage_source": "server",
        "chunks": 50 if streamed else 0,
        "bytes_in": 900,
        "bytes_out": 500,
        "finish_reason": "stop",
    }
    return Sample(seq=seq, **{**known, **fields})


def refused(seq: int, due_s: float, **fields: Any) -> Sample:
    """An attempt answered 429 within 5 ms."""
    none = {"prompt_tokens": None, "completion_tokens": None, "usage_source": "estimated", "finish_reason": None}
    known = {"outcome": Outcome.THROTTLED, "status": 429, "error": "429", "retry_after_ms": 1_000, **none}
    return answered(seq, due_s, service_s=0.005, **{**known, **fields})


def dropped(seq: int, due_s: float, **fields: Any) -> Sample:
    """An arrival that came due and was never sent."""
    known = {"scenario": "chat", "target": "sim", "due_ns": ns(due_s), "reserved_tokens": 228}
    return Sample(seq=seq, outcome=Outcome.DROPPED, **{**known, **fields})


def make_run(
    tmp_path: Path,
    samples: Iterable[Sample],
    gaps: Iterable[Gaps] = (),
    *,
    config: RunConfig | None = None,
    state: str = "complete",
    reason: str | None = None,
    deployment: Mapping[str, Any] = PHI_3_MINI,
    notes: Sequence[Mapping[str, Any]] = (),
    workers: Sequence[WorkerHealth] = (),
    name: str = "run",
) -> Run:
    """A run folder `tmp_path / name` that holds these samples. `state="running"`: left in parts, as by a kill."""
    folder = tmp_path / name
    config = RunConfig() if config is None else config
    manifest = Manifest(
        run_id=f"{name}-0001",
        config=config.model_dump(mode="json"),
        seed=config.load.seed,
        deployment=dict(deployment),
        versions={"headroom": "0.1.0"},
        started_utc=STARTED_UTC,
    )
    create(folder, manifest)
    recorder = Recorder(folder, worker=0)
    recorder.add([row_of(sample) for sample in samples], gaps)
    recorder.publish()
    if notes:
        (folder / "notes.jsonl").write_text("".join(json.dumps(note) + "\n" for note in notes))
    if state != "running":
        finish(folder, state=state, reason=reason, workers=workers)
    return Run.open(folder)


# share of the arrivals, prompt tokens (low, high), seconds to the first token, completion tokens (mean)
SCENARIOS = {
    "chat": (0.30, (60, 400), 0.25, 70),
    "streaming": (0.65, (60, 400), 0.22, 80),
    "vision": (0.05, (2_360, 2_420), 0.90, 60),
}
RATE_PER_S = 6.0
MAX_TOKENS = 128
ITL_S = 0.018


def synthetic_run(tmp_path: Path, n: int = 600, seed: int = 1, *, name: str = "run", **config: Any) -> Run:
    """`n` Poisson arrivals at 6/s of chat, streaming and vision, sent when due to a quota that refuses some of them.

    Now and then an attempt times out, ends in a 500, or its stream breaks. `config` replaces sections of the RunConfig.
    """
    quota = Quota(tokens_per_minute=165_000, burst_s=5.0)
    seconds = n / RATE_PER_S
    load = {
        "rate": RATE_PER_S,
        "duration": seconds,
        "warmup": seconds / 20,
        "throttle": "off",
        "max_tokens": MAX_TOKENS,
    }
    sections = {"load": load, "quota": quota, "slo": ("ttft.p95<1s", "response_time.p95<5s"), **config}
    run_config = RunConfig.model_validate(sections)
    dice, limiter = random.Random(seed), enforcing(quota, origin_ns=0)
    samples, gaps = [], []
    for seq, due_s in enumerate(sorted(dice.uniform(0, seconds) for _ in range(n))):
        phase = Phase.WARMUP if due_s < seconds / 20 else Phase.STEADY
        sample, stream = _attempt(seq, due_s, dice, limiter.try_take)
        sample.phase = phase
        samples.append(sample)
        if stream:
            gaps.append((seq, 0, stream))
    note = {"at_s": 12.0, "kind": "cpu", "text": "the load generator used 91 % of a core"}
    return make_run(tmp_path, samples, gaps, config=run_config, notes=[note, note], name=name)


def _attempt(seq: int, due_s: float, dice: random.Random, admit: Any) -> tuple[Sample, list[int]]:
    """One attempt and the gaps of its stream in us."""
    scenario = dice.choices(list(SCENARIOS), [share for share, *_ in SCENARIOS.values()])[0]
    _, (low, high), first_s, mean_tokens = SCENARIOS[scenario]
    prompt_tokens = dice.randint(low, high)
    known = {"scenario": scenario, "reserved_tokens": prompt_tokens + MAX_TOKENS, "lag_s": dice.expovariate(1 / 0.0003)}
    if admit(ns(due_s), prompt_tokens + MAX_TOKENS) is None:
        return refused(seq, due_s, **known), []
    tokens = min(MAX_TOKENS, max(2, round(dice.gauss(mean_tokens, 25))))
    gaps = [round(dice.lognormvariate(0, 0.3) * ITL_S * 1e6) for _ in range(tokens - 1)]
    ttft_s = first_s * dice.lognormvariate(0, 0.4)
    known |= {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "service_s": ttft_s + sum(gaps) / 1e6}
    known |= {"finish_reason": "length" if tokens == MAX_TOKENS else "stop"}
    if scenario == "chat":
        gaps = []
    else:
        known |= {"ttft_s": ttft_s, "chunks": tokens}
    fate = dice.random()
    unknown = {"prompt_tokens": None, "completion_tokens": None, "usage_source": "estimated", "finish_reason": None}
    if fate < 0.002:
        known |= {"outcome": Outcome.SERVER_ERROR, "status": 500, "error": "500", "service_s": 0.02, **unknown}
        return answered(seq, due_s, **{**known, "ttft_s": None, "chunks": 0, "scenario": scenario}), []
    if fate < 0.004 and gaps:
        known |= {"outcome": Outcome.BROKEN_STREAM, "error": "connection reset", **unknown}
    return answered(seq, due_s, **known), gaps
