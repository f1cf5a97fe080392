"""How well the serving model predicts load steps that it has not seen, beside what else one would predict them with.

    python benchmarks/planner_accuracy.py [--data FOLDER]

Measured: 16 load sweeps of one model on one GPU (inferno_exp2.json of llm-inferno/model-trainer) and six vLLM
configurations through saturation (kubecon_inferenceperf.json of kubernetes-sigs/inference-perf), where the folder has
them; made up: sweeps of servers of known form, with noise and a hidden cap. Rolling origin: fitted on the first k, the
next is predicted. The load error is that of the rate at which the time between tokens measured next is reached.
Beside it: the last step again (persistence), the straight line through the last two, and the published queueing model
(mean field, fitted per sweep; also to ITL alone, which it predicts better). Errors in %, median / 90th percentile.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table
from scipy.optimize import minimize

from planner.capacity import CapacityError, Interval, ServingModel, fit

DATA = Path(__file__).parents[2] / "shared" / "data"
CONSOLE = Console(width=170, soft_wrap=True)
CAPS = {"vllm+batch_size": 192}  # max_num_seqs of the configuration; the others 128
Row = dict[str, float]


@dataclass(frozen=True)
class Guess:
    itl_ms: float
    ttft_p50_ms: float
    ttft_p95_ms: float
    rate_per_s: float  # at which the next step's ITL is reached


@dataclass(frozen=True)
class MeanField:
    alpha: float
    beta: float
    gamma: float

    def work_ms(self, row: Row) -> float:
        prompt, completion = row["prompt_tokens"], row["completion_tokens"]
        return self.beta * (prompt + completion) + self.gamma * (prompt + completion / 2) * (completion - 1)

    def latencies_ms(self, row: Row) -> tuple[float, float]:
        """ITL and TTFT; infinite beyond its capacity."""
        free = 1 - row["rate_per_s"] / 1e3 * self.work_ms(row)
        if free <= 0:
            return math.inf, math.inf
        iteration = self.alpha / free
        chunks = math.ceil((row["prompt_tokens"] + row["completion_tokens"]) / 8192)
        return self.beta + iteration, self.beta * row["prompt_tokens"] + (chunks + 1) * iteration

    @classmethod
    def fitted(cls, rows: Sequence[Row], ttft_weight: float) -> MeanField:
        def loss(logs: np.ndarray) -> float:
            model = cls(*np.exp(logs))
            pairs = [(model.latencies_ms(row), row) for row in rows]
            return sum(
                min(1e6, (itl / row["itl_mean_ms"] - 1) ** 2 + ttft_weight * (ttft / row["ttft_p50_ms"] - 1) ** 2)
                for (itl, ttft), row in pairs
            )

        starts = ([math.log(10), math.log(beta), math.log(gamma)] for beta in (1e-3, 0.03) for gamma in (1e-7, 1e-5))
        found = [minimize(loss, start, method="Nelder-Mead", options={"maxiter": 2_000}) for start in starts]
        return cls(*np.exp(min(found, key=lambda each: each.fun).x))


def by_mean_field(rows: Sequence[Row], following: Row, ttft_weight: float = 1.0) -> Guess:
    """Fitted to ITL and TTFT alike, as published."""
    model = MeanField.fitted(rows, ttft_weight)
    itl, ttft = model.latencies_ms(following)
    free = model.alpha / max(1e-9, following["itl_mean_ms"] - model.beta)
    rate = max(0.0, 1 - free) / model.work_ms(following) * 1e3
    return Guess(itl, ttft if ttft_weight else math.nan, math.nan, rate)


def by_mean_field_of_itl(rows: Sequence[Row], following: Row) -> Guess:
    return by_mean_field(rows, following, ttft_weight=0.0)


def by_persistence(rows: Sequence[Row], _: Row) -> Guess:
    last = rows[-1]
    return Guess(last["itl_mean_ms"], last["ttft_p50_ms"], last["ttft_p95_ms"], last["rate_per_s"])


def by_line(rows: Sequence[Row], following: Row) -> Guess:
    before, last = rows[-2:]
    ahead = (following["rate_per_s"] - last["rate_per_s"]) / (last["rate_per_s"] - before["rate_per_s"])
    itl, p50, p95 = (
        last[name] + ahead * (last[name] - before[name]) for name in ("itl_mean_ms", "ttft_p50_ms", "ttft_p95_ms")
    )
    slope = (last["itl_mean_ms"] - before["itl_mean_ms"]) / (last["rate_per_s"] - before["rate_per_s"])
    rate = last["rate_per_s"] + (following["itl_mean_ms"] - last["itl_mean_ms"]) / slope if slope > 0 else math.inf
    return Guess(itl, p50, p95, rate)


class Scores:
    def __init__(self) -> None:
        self.errors: dict[str, list[float]] = defaultdict(list)
        self.covered: dict[str, list[bool]] = defaultdict(list)

    def add(self, name: str, guess: float, measured: float) -> None:
        if not math.isnan(guess):
            self.errors[name].append(abs(guess / measured - 1))

    def add_interval(self, name: str, interval: Interval | None, measured: float) -> None:
        if interval is not None:
            self.add(name, interval.value, measured)
            self.covered[name].append(interval.low <= measured <= interval.high)

    def of(self, *names: str) -> list[str]:
        return [percent(self.errors[name]) for name in names]

    def coverage(self, *names: str) -> list[str]:
        return [f"{100 * mean(self.covered[name]):.0f}" if self.covered[name] else "-" for name in names]


def percent(errors: Sequence[float]) -> str:
    if not errors:
        return "-"
    at_90 = 100 * float(np.quantile(errors, 0.9, method="inverted_cdf"))
    return f"{100 * median(errors):.1f} / {at_90:.1f}" if math.isfinite(at_90) else f"{100 * median(errors):.1f} / none"


def score(scores: Scores, model: ServingModel, following: Row) -> None:
    """What a model said of a step, refusals counting as errors without bound."""
    try:
        said = model.predict(following["rate_per_s"])
        for name in ("itl_mean_ms", "itl_p95_ms", "ttft_p50_ms", "ttft_p95_ms"):
            scores.add_interval(name, getattr(said, name), following[name])
    except CapacityError:
        for name in ("itl_mean_ms", "itl_p95_ms", "ttft_p50_ms", "ttft_p95_ms"):
            scores.add(name, math.inf, 1.0)
    try:
        rate = model.max_rate(f"itl.mean<{following['itl_mean_ms']:.6f}ms").rate_per_s
        scores.add_interval("load", rate, following["rate_per_s"])
    except CapacityError:
        scores.add("load", math.inf, 1.0)


def sweeps_of(folder: Path) -> dict[tuple[int, int], list[Row]]:
    """The steps of each shape by rising rate, without the last, which asked for as much as it got."""
    names = {
        "rate_per_s": "rps_mean",
        "prompt_tokens": "in_mean",
        "completion_tokens": "out_mean",
        "itl_mean_ms": "itl_mean",
        "itl_p95_ms": "itl_p95",
        "ttft_p50_ms": "ttft_p50",
        "ttft_p95_ms": "ttft_p95",
        "e2e_mean_s": "e2e_mean",
    }
    sweeps: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for raw in sorted(json.loads((folder / "inferno_exp2.json").read_bytes()), key=lambda raw: raw["step"]):
        if raw["step"] != 1:
            sweeps[raw["isl"], raw["osl"]].append({name: raw[given] for name, given in names.items()})
    return sweeps


def print_rolling_origin(title: str, sweeps: Iterable[Sequence[Row]], firsts: Sequence[int]) -> None:
    others = {
        "persistence": by_persistence,
        "line through the last two": by_line,
        "queueing model": by_mean_field,
        "queueing model, of ITL alone": by_mean_field_of_itl,
    }
    names = ("itl_mean_ms", "ttft_p50_ms", "ttft_p95_ms", "load")
    table = Table(
        "first steps",
        "model",
        "ITL mean",
        "TTFT p50",
        "TTFT p95",
        "load",
        "within 90 %: ITL, TTFT p95, load",
        title=title,
    )
    sweeps, overall = list(sweeps), defaultdict(Scores)
    for k in firsts:
        scores: dict[str, Scores] = defaultdict(Scores)
        for rows in sweeps:
            model = fit(pl.DataFrame(rows[:k]))
            for each in (scores["serving model"], overall["serving model"]):
                score(each, model, rows[k])
            for name, predict in others.items():
                add_guess((scores[name], overall[name]), predict(rows[:k], rows[k]), rows[k])
        add_rows(table, str(k), scores, names)
    add_rows(table, f"{firsts[0]} to {firsts[-1]}", overall, names)
    CONSOLE.print(table)


def add_guess(scores: Iterable[Scores], guess: Guess, row: Row) -> None:
    for each in scores:
        each.add("itl_mean_ms", guess.itl_ms, row["itl_mean_ms"])
        each.add("ttft_p50_ms", guess.ttft_p50_ms, row["ttft_p50_ms"])
        each.add("ttft_p95_ms", guess.ttft_p95_ms, row["ttft_p95_ms"])
        each.add("load", guess.rate_per_s, row["rate_per_s"])


def add_rows(table: Table, label: str, scores: dict[str, Scores], names: Sequence[str]) -> None:
    for name, each in scores.items():
        covered = each.coverage("itl_mean_ms", "ttft_p95_ms", "load")
        table.add_row(label, name, *each.of(*names), "" if covered[0] == "-" else ", ".join(covered))
    table.add_section()


def left_out_errors(sweeps: dict[tuple[int, int], list[Row]]) -> dict[str, float]:
    """Fitted on the first seven steps of all shapes but one, which are predicted: the mean error over the mean."""
    off: dict[str, list[float]] = defaultdict(list)
    measured: dict[str, list[float]] = defaultdict(list)
    for shape in sweeps:
        model = fit([pl.DataFrame(rows[:7]) for each, rows in sweeps.items() if each != shape])
        for at, row in enumerate(sweeps[shape][:7]):
            said = model.predict(row["rate_per_s"], row["prompt_tokens"], row["completion_tokens"])
            for name in ("itl_mean_ms", "ttft_p50_ms") if at else ("itl_mean_ms",):  # an idle instance starts at once
                off[name].append(abs(float(getattr(said, name)) - row[name]))
                measured[name].append(row[name])
    return {name: sum(off[name]) / sum(measured[name]) for name in off}


def saturated_rates(folder: Path) -> list[tuple[str, int, Interval | CapacityError, float]]:
    """Of each configuration its cap, the rate by the stages that achieved what they asked for, and what was served."""
    stages: dict[str, list[dict]] = defaultdict(list)
    for raw in json.loads((folder / "kubecon_inferenceperf.json").read_bytes()):
        stages[raw["cfg"]].append(raw)
    found: list[tuple[str, int, Interval | CapacityError, float]] = []
    for name, raws in stages.items():
        served, cap = median(sorted(raw["rps"] for raw in raws)[-3:]), CAPS.get(name, 128)
        steady = pl.DataFrame([stage_row(raw) for raw in raws if raw["ach"] >= 0.97 * raw["req"]])
        try:
            said: Interval | CapacityError = fit(steady, concurrency_cap=cap).max_rate("ttft.p95<1h").rate_per_s
        except CapacityError as error:
            said = error
        found.append((name, cap, said, served))
    return found


def print_saturated(folder: Path) -> None:
    table = Table("configuration", "cap", "predicted", "90 %", "served", "error", title="saturated rate, requests/s")
    for name, cap, said, served in saturated_rates(folder):
        if isinstance(said, CapacityError):
            table.add_row(name, str(cap), f"refused: {str(said).partition(';')[0]}", "", f"{served:.1f}", "")
        else:
            off, within = f"{100 * (said.value / served - 1):+.1f} %", f"{said.low:.1f} to {said.high:.1f}"
            table.add_row(name, str(cap), f"{said.value:.1f}", within, f"{served:.1f}", off)
    CONSOLE.print(table)


def stage_row(raw: dict) -> Row:
    return {
        "rate_per_s": raw["rps"],
        "completion_tokens": raw["out"],
        "itl_mean_ms": (raw["e2e"]["mean"] - raw["ttft"]["mean"]) / (raw["out"] - 1) * 1e3,
        "ttft_p50_ms": raw["ttft"]["median"] * 1e3,
        "ttft_p95_ms": raw["ttft"]["p95"] * 1e3,
        "e2e_mean_s": raw["e2e"]["mean"],
    }


def made_up(rng: random.Random, itl_ms: Callable[[float], float], noise: float) -> tuple[list[Row], Row, float]:
    """Steps at 5 to 90 % of the capacity, one that saturates, and the capacity in requests/s."""
    prompt, completion, cap = (
        rng.choice((128, 512, 2_048)),
        rng.choice((64, 256, 1_024)),
        rng.choice((32, 64, 128, 256)),
    )
    start_ms = 5 + 0.02 * prompt

    def near(value: float) -> float:
        return value * math.exp(rng.gauss(0, noise))

    def row(n: float, wait_ms: float = 0.0) -> Row:
        itl = itl_ms(n)
        ttft = start_ms + 1.9 * itl
        e2e_s = (ttft + (completion - 1) * itl) / 1e3
        measured = near(itl)
        return {
            "rate_per_s": n / e2e_s,
            "prompt_tokens": float(prompt),
            "completion_tokens": float(completion),
            "itl_mean_ms": measured,
            "itl_p95_ms": near(1.05 * itl),
            "ttft_p50_ms": near(ttft) + wait_ms,
            "ttft_p95_ms": 1.1 * near(ttft) * math.exp(2 * noise) + 3 * noise * ttft + wait_ms,
            "e2e_mean_s": (ttft + (completion - 1) * measured + wait_ms) / 1e3,
        }

    capacity = row(cap)["rate_per_s"]
    levels = [at_share(share * capacity, cap, row) for share in (0.05, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.9)]
    return [row(n) for n in levels], row(cap, wait_ms=20_000.0), capacity


def at_share(rate_per_s: float, cap: float, row: Callable[[float], Row]) -> float:
    low, high = 0.0, float(cap)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if row(max(middle, 1e-9))["rate_per_s"] < rate_per_s else (low, middle)
    return high


def families(seed: int, noise: float, count: int) -> dict[str, list[tuple[list[Row], Row, float]]]:
    rng, made = random.Random(seed), defaultdict(list)
    for _ in range(count):
        a = rng.uniform(6, 40)
        b, p, c = a * rng.uniform(0.002, 0.02), rng.uniform(0.5, 0.8), a * rng.uniform(1e-5, 5e-5)
        made["linear"].append(made_up(rng, lambda n, a=a, b=b: a + b * n, noise))
        made["power"].append(made_up(rng, lambda n, a=a, b=b, p=p: a + 4 * b * n**p, noise))
        made["quadratic"].append(made_up(rng, lambda n, a=a, b=b, c=c: a + b * n + c * n * n, noise))
    return made


def print_made_up(seed: int, count: int) -> None:
    names = ("itl_mean_ms", "ttft_p95_ms", "load")
    table = Table(
        "form",
        "noise",
        "ITL mean",
        "TTFT p95",
        "load",
        "within 90 %: ITL, TTFT p95, load",
        "max rate at ITL of 85 %",
        "within",
    )
    for noise in (0.01, 0.02, 0.04):
        for form, sweeps in families(seed, noise, count).items():
            next_step, whole = Scores(), Scores()
            for rows, saturated, _ in sweeps:
                for k in (5, 6, 7):
                    score(next_step, fit(pl.DataFrame(rows[:k])), rows[k])
                model = fit(pl.DataFrame([*rows[:6], saturated]))
                score(whole, model, rows[6])
            table.add_row(
                form,
                f"{noise:.0%}",
                *next_step.of(*names),
                ", ".join(next_step.coverage(*names)),
                *whole.of("load"),
                *whole.coverage("load"),
            )
    table.title = "servers made up"
    CONSOLE.print(table)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="where the measured files lie")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--count", type=int, default=20, help="servers of each form")
    given = parser.parse_args(arguments)
    if (given.data / "inferno_exp2.json").is_file():
        sweeps = sweeps_of(given.data)
        print_rolling_origin("16 sweeps: the next step, by the first ones", sweeps.values(), (4, 5, 6, 7))
        out = left_out_errors(sweeps)
        CONSOLE.print(f"workload left out: ITL {out['itl_mean_ms']:.1%}, TTFT {out['ttft_p50_ms']:.1%}\n")
        print_saturated(given.data)
    else:
        CONSOLE.print(f"no measured sweeps in {given.data}: servers made up only")
    print_made_up(given.seed, given.count)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
