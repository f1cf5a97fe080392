"""How fast a demand is counted against a quota, beside the least that any loop over its arrivals must do.

    python benchmarks/planner.py [REQUESTS]

Poisson arrivals whose rate doubles and halves over each half hour, lognormal lengths, 1,000 prompt and 200 completion
tokens in the mean, max_tokens 400: nine tenths of what ten deployments of 200,000 tokens a minute admit. The limits are
measured in the same process: a bare loop that adds each request to the count of its deployment's minute and compares,
and the limiter that the simulator runs, one call a request. One core, CPU time; 1,000,000 requests against ten
deployments, and against 1, 2, ... 10, must be counted in 10 s each. So must the number of deployments that they need,
with its interval, be found: of 1,000,000 and of 10,000,000 alike.
"""

from __future__ import annotations

import argparse
import importlib
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

# The programs of this folder find it first on their path, and mean the package of this name.
sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]
if __name__ == "planner":
    del sys.modules[__name__]
    importlib.import_module(__name__)

from loadgen.quota import MINUTE_NS, Quota, enforcing  # noqa: E402
from planner.demand import Demand  # noqa: E402
from planner.quota import what_if  # noqa: E402
from planner.quotas.deployments import quota_need  # noqa: E402
from planner.quotas.doors import door_of, windows  # noqa: E402

DEPLOYMENTS, MAX_TOKENS = 10, 400
MOST_S = 10.0
LIMITER_REQUESTS = 100_000  # of more the limiter takes as long for each
CONSOLE = Console(width=170, soft_wrap=True)


def demand(count: int) -> pl.DataFrame:
    draw = np.random.default_rng(1)
    prompts = np.maximum(1, np.rint(draw.lognormal(6.503, 0.9, count))).astype(np.int64)
    completions = np.maximum(1, np.rint(draw.lognormal(4.978, 0.8, count))).astype(np.int64)
    rate_per_s = 0.9 * DEPLOYMENTS * 200_000 / 60 / (prompts.mean() + MAX_TOKENS)
    at_s = np.cumsum(draw.exponential(1 / rate_per_s, count))
    at_s = at_s - 180 * np.sin(at_s * 2 * math.pi / 1_800)
    return pl.DataFrame(
        {
            "at_s": np.sort(at_s),
            "prompt_tokens": prompts,
            "completion_tokens": completions,
            "max_tokens": np.full(count, MAX_TOKENS),
        }
    )


def cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def bare_loop(at_ns: list[int], costs: list[int]) -> int:
    """A fixed minute's limit of tokens alone."""
    minutes, used, refused = [0] * DEPLOYMENTS, [0] * DEPLOYMENTS, 0
    for place, (now_ns, cost) in enumerate(zip(at_ns, costs, strict=True)):
        turn = place % DEPLOYMENTS
        minute = now_ns // MINUTE_NS
        if minute != minutes[turn]:
            minutes[turn], used[turn] = minute, 0
        if used[turn] + cost > 200_000:
            refused += 1
        else:
            used[turn] += cost
    return refused


def by_limiter(quota: Quota, at_ns: list[int], costs: list[int]) -> None:
    limiters = [enforcing(quota, origin_ns=0) for _ in range(DEPLOYMENTS)]
    for place, (now_ns, cost) in enumerate(zip(at_ns, costs, strict=True)):
        limiters[place % DEPLOYMENTS].try_take(now_ns, cost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("requests", type=int, nargs="?", default=1_000_000)
    count = parser.parse_args().requests
    arrivals = demand(count)
    door = door_of(arrivals, Quota())
    at_ns, costs = door.at_ns.tolist(), door.tokens.tolist()
    bare_s = cpu_s(lambda: bare_loop(at_ns, costs))
    some = min(count, LIMITER_REQUESTS)
    table = Table(box=None, pad_edge=False)
    headers = ("refused by 10", "10, s", "1 to 10, s", "queue at 10, s", "bare loop at 10, s", "limiter at 10, s")
    for header in ("enforced as", *headers):
        table.add_column(header, justify="left" if header == "enforced as" else "right")
    worst_s = 0.0
    for name, quota in windows(Quota()).items():
        found: list[pl.DataFrame] = []
        ten_s = cpu_s(lambda quota=quota, found=found: found.append(what_if(arrivals, quota, DEPLOYMENTS)))
        all_s = cpu_s(lambda quota=quota: what_if(arrivals, quota, range(1, DEPLOYMENTS + 1)))
        queue_s = cpu_s(lambda quota=quota: what_if(arrivals, quota, DEPLOYMENTS, mode="queue"))
        limiter_s = cpu_s(lambda quota=quota: by_limiter(quota, at_ns[:some], costs[:some])) * count / some
        worst_s = max(worst_s, ten_s, all_s)
        figures = (ten_s, all_s, queue_s, bare_s, limiter_s)
        share = f"{found[0]['refused_requests_share'].item():.2%}"
        table.add_row(name, share, *(f"{seconds:.2f}" for seconds in figures))
    hours = float(arrivals["at_s"][-1]) / 3_600
    CONSOLE.print(f"{count:,} requests in {hours:.1f} h; CPU seconds of one core", highlight=False)
    CONSOLE.print(table)
    used_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    CONSOLE.print(f"at most {used_mib:,.0f} MiB of memory, Python and the arrivals included", highlight=False)
    needed_s = cpu_s(lambda: quota_need(Demand(arrivals, hours * 3_600, "drawn"), Quota()))
    CONSOLE.print(f"how many deployments they need, and how sure that is: {needed_s:.1f} s", highlight=False)
    if max(worst_s * 1_000_000 / count, needed_s) > MOST_S:
        CONSOLE.print(f"too slow: a million requests may take {MOST_S:g} s, and so may what is needed", highlight=False)
        sys.exit(1)


if __name__ == "__main__":
    main()
