"""Runs for tests of comparisons: streams at a steady rate whose latencies are drawn, with an effect of their own."""

import random

from loadgen.config import RunConfig
from loadgen.samples import Outcome
from tests.runs import answered, make_run

RATE_PER_S = 20.0


def streams(
    tmp_path,
    name,
    seed,
    *,
    slower=1.0,
    n=100,
    effect=0.02,
    failed=0.0,
    refused=0.0,
    tokens=50,
    plain=False,
    started=None,
    **load,
):
    """A run folder; `slower` multiplies every latency, `failed` and `refused` are shares of the requests."""
    dice = random.Random(seed)
    own = slower * dice.lognormvariate(0, effect)
    settings = {"rate": RATE_PER_S, "duration": n / RATE_PER_S, "warmup": 0, "throttle": "off", **load}
    config = RunConfig.model_validate(
        {"load": settings, "target": {"kind": "managed", "url": "http://127.0.0.1:1"}, "scenarios": {"streaming": 1}}
    )
    samples = []
    for seq in range(n):
        ttft_s = 0.2 * own * dice.lognormvariate(0, 0.2)
        itl_s = 0.02 * own * dice.lognormvariate(0, 0.1)
        fate, known = (seq * 0.6180339887 + seed / 7) % 1, {"completion_tokens": tokens}
        if fate < failed + refused:
            outcome = Outcome.SERVER_ERROR if fate < failed else Outcome.THROTTLED
            known = {"outcome": outcome, "status": 500 if fate < failed else 429, "usage_source": "estimated"}
        service_s = ttft_s + (tokens - 1) * itl_s
        samples.append(answered(seq, seq / RATE_PER_S, ttft_s=None if plain else ttft_s, service_s=service_s, **known))
    run = make_run(tmp_path, samples, config=config, name=name)
    if started is not None:
        run.manifest.model_copy(update={"started_utc": started}).write(run.folder)
    return run.folder


def several(tmp_path, folder, seeds, **like):
    """A folder of such runs."""
    like.pop("seed", None)
    for number, seed in enumerate(seeds, 1):
        streams(tmp_path / folder, f"{number:02d}", seed, **like)
        _rename(tmp_path / folder / f"{number:02d}", f"{folder}-{number}")
    return tmp_path / folder


def _rename(folder, run_id):
    from loadgen.samples import Manifest

    Manifest.read(folder).model_copy(update={"run_id": run_id}).write(folder)
