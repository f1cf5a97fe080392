"""Usable steps: which of a load's steps a serving model may be fitted on, and what the others say.

A step counts where the deployment itself was measured in a steady state. Quota, the load generator, or a queue in front
of the instance's slots make latencies that no concurrency explains; such steps are set aside, each with its reason, and
those in which the deployment did not keep up tell its capacity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from statistics import median

import numpy as np
import numpy.typing as npt
import polars as pl

from loadgen.errors import CapacityError
from planner.serving.curves import MS_PER_S, Shape

# Served over offered: load generators that report both show saturation below the first.
KEPT_UP_SHARE, JUDGED_SHARE = 0.97, 0.9
LITTLE_DOUBT, LITTLE_GROSS = 0.05, 0.25  # of concurrency against rate x time, by Little's law
WAITS = 3.0  # times the TTFT that the iterations explain
TAIL_WAITS = 2.0  # likewise, of its 95th percentile: some requests wait long before most do
FLAT_CONCURRENCY = 0.1
OVER_CAP = 1.1  # concurrency over the cap: requests wait in front of it
PLATEAU_ELASTICITY, PLATEAU_GROWTH = 0.1, 1.2  # d log rate / d log concurrency, over this growth of concurrency
SAME_SHAPE = 0.2
OF_CHANCE = 2.0  # deviations of a mean: lengths vary by as much as their mean
FEWEST_LEFT_OUT = 4  # shapes: of fewer, steps are left out one by one
FEWEST_STEADY = 2  # steps without a wait, to know one by
TTFT_P95 = "ttft_p95_ms"
REQUESTS = 300.0  # of a step, for a p95 to be worth something

ESSENTIAL = ("rate_per_s", "completion_tokens", "itl_mean_ms", "ttft_p50_ms", "e2e_mean_s")
OPTIONAL = ("prompt_tokens", "concurrency", "completed_per_s", "requests")
FLAGS = ("saturated", "quota_limited", "client_limited")


@dataclass(slots=True, kw_only=True)
class UsableStep:
    """One step, at one instance."""

    number: int  # of the row it came from, from 1
    rate_per_s: float
    served_per_s: float
    concurrency: float  # by Little's law
    prompt_tokens: float
    completion_tokens: float
    itl_ms: float
    ttft_p50_ms: float
    e2e_s: float
    quantiles: dict[str, float]  # of further columns, as "ttft_p95_ms"
    flagged: bool
    requests: float  # that it is made of; where it is not said, as many as a step should have
    shape: int = 0
    weight: float = 1.0  # in the curve
    plateau: bool = False  # as fast as it goes, without a queue
    waited: bool = False  # some requests waited for a place: TTFT and time in system are not those of the iterations

    @property
    def tokens(self) -> Shape:
        return Shape(self.prompt_tokens, self.completion_tokens)


@dataclass(slots=True, kw_only=True)
class Sifted:
    kept: list[UsableStep] = field(default_factory=list)
    queued: list[UsableStep] = field(default_factory=list)  # the deployment did not keep up
    dropped: list[str] = field(default_factory=list)  # the reason of each
    doubts: list[str] = field(default_factory=list)

    @property
    def queue_reasons(self) -> list[str]:
        return [f"step {step.number} at {step.rate_per_s:.3g} requests/s: it saturated" for step in self.queued]


def sift(frame: pl.DataFrame, *, concurrency_cap: int | None, instances: int) -> Sifted:
    """The steps by what they can be used for. Raises CapacityError for columns or values that cannot be."""
    missing = [name for name in ESSENTIAL if name not in frame.columns]
    if missing:
        raise CapacityError(
            f"the steps have no column {', '.join(missing)}; a serving model needs {', '.join(ESSENTIAL)}"
        )
    sifted, steps = Sifted(), []
    for number, row in enumerate(frame.iter_rows(named=True), 1):
        reason = _unusable(row)
        if reason is None:
            step = _step(number, row, instances)
            reason = _breaks_little(step, row, instances, sifted)
        if reason is None:
            steps.append(step)
        else:
            sifted.dropped.append(f"step {number} at {row['rate_per_s']} requests/s: {reason}")
    for shape, alike in enumerate(_by_shape(steps)):
        _sift_sweep(alike, concurrency_cap, sifted)
        for step in alike:
            step.shape = shape
    return sifted


def _unusable(row: dict[str, object]) -> str | None:
    if row.get("quota_limited") is True:
        return "the quota limited it, not the deployment"
    if row.get("client_limited") is True:
        return "the load generator limited it, not the deployment"
    if row["rate_per_s"] == math.inf and row.get("completed_per_s") is None:
        return "rate_per_s is inf, which is as fast as can be: give completed_per_s, what was served"
    empty = [name for name in ESSENTIAL if row[name] is None]
    return f"it has no {', '.join(empty)}" if empty else None


def _step(number: int, row: dict[str, object], instances: int) -> UsableStep:
    endless = row["rate_per_s"] == math.inf
    if endless:
        row = row | {"rate_per_s": row["completed_per_s"]}
    known = {name: _positive(number, name, value) for name, value in row.items() if _is_figure(name, value)}
    completed = known.get("completed_per_s", known["rate_per_s"])
    # What was in flight when a short step began or ended makes completions fewer; where its whole course was judged
    # not to be saturated, little less was completed by that.
    kept_up = row.get("saturated") is False and completed > JUDGED_SHARE * known["rate_per_s"]
    rate = known["rate_per_s"] / instances
    served = rate if kept_up else min(rate, completed / instances)
    if known.get(TTFT_P95, math.inf) < known["ttft_p50_ms"]:
        raise CapacityError(f"step {number}: ttft_p95_ms is below ttft_p50_ms; check which column is which")
    return UsableStep(
        number=number,
        rate_per_s=rate,
        served_per_s=served,
        concurrency=served * known["e2e_mean_s"],
        prompt_tokens=known.get("prompt_tokens", 0.0),
        completion_tokens=known["completion_tokens"],
        itl_ms=known["itl_mean_ms"],
        ttft_p50_ms=known["ttft_p50_ms"],
        e2e_s=known["e2e_mean_s"],
        quantiles={name: known[name] for name in known if "_p" in name and name.endswith("_ms")},
        flagged=endless or row.get("saturated") is True,
        requests=max(1.0, known.get("requests", REQUESTS)),
    )


def _is_figure(name: str, value: object) -> bool:
    """Of what need not be there, what is no number is not there."""
    if value is None or (name not in ESSENTIAL and isinstance(value, float) and math.isnan(value)):
        return False
    return name in ESSENTIAL or name in OPTIONAL or name.startswith(("ttft_p", "itl_p", "e2e_p", "response_p"))


def _positive(number: int, name: str, value: object) -> float:
    if not isinstance(value, int | float | Decimal) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise CapacityError(
            f"step {number}: {name} is {value!r}, which no step can be; correct the row or leave it out"
        )
    if value == 0 and name not in ("prompt_tokens", "requests"):
        raise CapacityError(f"step {number}: {name} is 0: nothing was measured; leave the row out")
    return float(value)


def _breaks_little(step: UsableStep, row: dict[str, object], instances: int, sifted: Sifted) -> str | None:
    given = row.get("concurrency")
    if not _is_figure("concurrency", given) or step.flagged:
        return None
    held = _positive(step.number, "concurrency", given) / instances
    off = held / step.concurrency - 1
    if abs(off) > LITTLE_GROSS:
        return (
            f"{held:.3g} in flight, but rate x time is {step.concurrency:.3g}: Little's law does not hold, so it was "
            "not steady; run it longer"
        )
    if abs(off) > LITTLE_DOUBT:
        sifted.doubts.append(
            f"step {step.number}: {held:.3g} in flight, {step.concurrency:.3g} by Little's law ({off:+.0%}): "
            "perhaps not steady"
        )
    return None


def mean_shape(steps: Sequence[UsableStep]) -> Shape:
    requests = sum(step.requests for step in steps)
    prompt_tokens, completion_tokens = (
        sum(getattr(step, name) * step.requests for step in steps) / requests
        for name in ("prompt_tokens", "completion_tokens")
    )
    return Shape(prompt_tokens, completion_tokens)


def _by_shape(steps: list[UsableStep]) -> list[list[UsableStep]]:
    """Steps of the same traffic together: again and again the two groups whose mean requests are most alike."""
    shapes = [[step] for step in steps]
    while len(shapes) > 1:
        apart, one, other = min(
            (_apart(shapes[i], shapes[j]), i, j) for i in range(len(shapes)) for j in range(i + 1, len(shapes))
        )
        if apart > 1:
            break
        shapes[one] += shapes.pop(other)
    return shapes


def _apart(some: Sequence[UsableStep], others: Sequence[UsableStep]) -> float:
    """How far two mean requests are apart, of what is the same shape: 20 %, and what few requests differ by chance."""
    chance = OF_CHANCE * math.sqrt(sum(1 / sum(step.requests for step in steps) for steps in (some, others)))
    one, other = mean_shape(some), mean_shape(others)
    prompts = (
        0.0 if 0 in (one.prompt_tokens, other.prompt_tokens) else _apart_by(one.prompt_tokens, other.prompt_tokens)
    )
    return max(prompts, _apart_by(one.completion_tokens, other.completion_tokens)) / max(SAME_SHAPE, chance)


def _apart_by(one: float, other: float) -> float:
    return abs(one - other) / max(one, other)


def groups_of(steps: Sequence[UsableStep]) -> npt.NDArray[np.int64]:
    """What is left out together to see how well it is predicted: a shape where there are several, else a step."""
    by_shape = len({step.shape for step in steps}) >= FEWEST_LEFT_OUT
    return np.array([step.shape if by_shape else at for at, step in enumerate(steps)])


def is_same_shape(one: Shape, other: Shape) -> bool:
    """Whether two requests are much the same: prompt and completion tokens within 20 %. No prompt length is any."""
    prompts = one.prompt_tokens, other.prompt_tokens
    alike = 0 in prompts or _apart_by(*prompts) <= SAME_SHAPE
    return alike and _apart_by(one.completion_tokens, other.completion_tokens) <= SAME_SHAPE


def _sift_sweep(steps: list[UsableStep], cap: int | None, sifted: Sifted) -> None:
    """The steps of one shape, from the fewest in flight: each is seen against those below it."""
    below: list[UsableStep] = []
    ordered = sorted(steps, key=lambda step: step.concurrency)
    for step in ordered:
        waits = is_waiting(step, below)
        short = step.served_per_s < KEPT_UP_SHARE * step.rate_per_s
        if short and not waits and not step.flagged and _is_flat(step, ordered):
            sifted.dropped.append(
                f"step {step.number} at {step.rate_per_s:.3g} requests/s: {step.served_per_s:.3g} were served, yet no "
                "more were in flight: the load generator held back, and its limit was measured"
            )
        elif step.flagged or short or waits or (cap is not None and step.concurrency > OVER_CAP * cap):
            sifted.queued.append(step)
        else:
            step.plateau = bool(below) and _is_plateau(step, below[-1])
            sifted.kept.append(step)
            below.append(step)
    _note_waits(below, sifted)


def _note_waits(kept: Sequence[UsableStep], sifted: Sifted) -> None:
    """Which kept steps have first tokens that waited for a place: these count with what was in service alone."""
    below: list[UsableStep] = []
    for step in kept:
        if len(below) < FEWEST_STEADY or not _tail_waits(step, below):
            below.append(step)
            continue
        in_service = step.served_per_s * service_ms(step, below) * median(map(time_ratio, below)) / MS_PER_S
        step.waited, step.concurrency = True, min(step.concurrency, max(in_service, below[-1].concurrency))
        sifted.doubts.append(
            f"step {step.number} at {step.rate_per_s:.3g} requests/s: some requests waited to be served; its time "
            "between tokens counts, its time to first token does not"
        )


def is_waiting(step: UsableStep, below: Sequence[UsableStep]) -> bool:
    """Whether requests waited before they were served: longer for the first token than the iterations explain."""
    return bool(below) and step.ttft_p50_ms > WAITS * explained_ttft_ms(step, below)


def _tail_waits(step: UsableStep, below: Sequence[UsableStep]) -> bool:
    known = [each for each in below if TTFT_P95 in each.quantiles]
    if TTFT_P95 not in step.quantiles or not known:
        return False
    explained_ms = max(each.quantiles[TTFT_P95] * max(1.0, step.itl_ms / each.itl_ms) for each in known)
    return step.quantiles[TTFT_P95] > TAIL_WAITS * explained_ms


def explained_ttft_ms(step: UsableStep, below: Sequence[UsableStep]) -> float:
    """The TTFT that longer iterations alone would explain: at most in proportion to the time between tokens."""
    return max(each.ttft_p50_ms * max(1.0, step.itl_ms / each.itl_ms) for each in below if not each.waited)


def service_ms(step: UsableStep, below: Sequence[UsableStep]) -> float:
    """What the iterations explain of the time of a request."""
    return explained_ttft_ms(step, below) + (step.completion_tokens - 1) * step.itl_ms


def time_ratio(step: UsableStep) -> float:
    """The time of a request over that of its first token and its gaps."""
    return step.e2e_s * MS_PER_S / (step.ttft_p50_ms + (step.completion_tokens - 1) * step.itl_ms)


def _is_flat(step: UsableStep, steps: list[UsableStep]) -> bool:
    """Whether a step that asked for another rate had as many in flight."""
    others = (each for each in steps if each is not step and abs(each.rate_per_s / step.rate_per_s - 1) > 0.01)
    return any(abs(each.concurrency / step.concurrency - 1) <= FLAT_CONCURRENCY for each in others)


def _is_plateau(step: UsableStep, before: UsableStep) -> bool:
    growth = step.concurrency / before.concurrency
    gain = step.served_per_s / before.served_per_s
    return growth >= PLATEAU_GROWTH and math.log(max(gain, 1e-9)) <= PLATEAU_ELASTICITY * math.log(growth)
