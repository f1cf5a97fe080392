"""Every figure of the plan and of the report, recomputed by other means from the rows of the record.

Plain Python over rows and the price book; nothing of the planner or of the limiters. What design.md leaves open is here
as the code defines it:
- A percentile needs so many samples that they all lie on one side of it with a chance of 1 % at most; each end of its
  interval misses with 2.5 % at most.
- Latencies are of the steady phase's answers; lag, connect, tls and throttle_wait of what it sent, the last of first attempts only.
- An objective's limit holds for each request that has the metric, and one good attempt is enough.
- Unstated tokens: a prompt is the reservation less max_tokens, a completion its chunks, else both are their scenario's
  mean (of all rows, rounded), else 0 and max_tokens. Of an arrival's attempts the last with usage stands for it.
- Billed are answers, and filtered or broken attempts with usage, of the whole run. Completed is what ended within the
  steady stretch, which ends with the load, or with the last arrival of a run cut short.
- A busiest minute is half-open. Growth divides the demand's instants and span, but not what `quota` says of the run.
- The what-if repeats the demand to ten minutes, deals it in turn (what never fits takes its turn, and no part in shares),
  counts fixed windows from the first arrival, and tries twelve numbers of deployments at most, from one, or from one
  below the mean load where that is above six. A bucket of requests holds one slice at most.
- A target's figures are of the rows that went there, over the same stretch. Together, several targets' quotas are added up,
  but the one that is full first ends the headroom; each is paid at its own price; unequal quotas have no what-if.
- An instance holds 8 requests at once, or what a managed run with all objectives met held in its busiest minute.
- Invalid is a run that never finished, dropped above 1 %, answered nothing, or lagged (highest supported percentile, if
  above 5 ms) by more than 50 ms or a tenth of the median ttft.
"""

from __future__ import annotations

import html
import json
import math
import re
import tomllib
from bisect import bisect_left, bisect_right
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from functools import cache
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist, fmean

import polars as pl
import pytest

from loadgen.config import RunConfig
from loadgen.samples import Sample, WorkerHealth
from tests.commands import headroom, told
from tests.runs import answered, dropped, make_run, refused, synthetic_run

pytestmark = pytest.mark.aside

S, MS, MINUTE = 10**9, 10**6, 60 * 10**9
BOOK = tomllib.loads((Path(__file__).parent.parent / "planner" / "prices.toml").read_text("utf-8"))
BETWEEN = {
    "ttft": ("sent", "first_token"), "ttft_from_due": ("due", "first_token"), "ttfb": ("sent", "first_byte"), "itl": (),
    "tpot": (), "service_time": ("sent", "done"), "response_time": ("due", "done"), "throttle_wait": ("due", "admitted"),
    "lag": ("admitted", "sent"), "connect": ("connect", "connected"), "tls": ("connected", "secured"),
}  # fmt: skip
SHOWN_BY_SCENARIO = ("ttft", "itl", "tpot", "service_time", "response_time")
OUTCOMES = (
    "ok", "throttled", "filtered", "rejected", "server_error", "timeout", "network", "broken_stream", "dropped", "cancelled",
)  # fmt: skip
WINDOWS = ("minute", "bucket 60 s", "bucket 10 s", "sliding")
QUANTILES = {"p50": Fraction(1, 2), "p90": Fraction(9, 10), "p95": Fraction(19, 20), "p99": Fraction(99, 100)}
NOT_RECOMPUTED = {"format": "the version of the layout, no measurement"}
WORKERS = [
    WorkerHealth(55.0, 0.1, 0.2, None, 1.1, 2.9, 3, 0.7, -0.02, 41),
    WorkerHealth(55.0, 0.3, 0.4, 0.01, 1.0, 3.0),
]
AT_A_RANK = re.compile(r".*\.(value_ms|low_ms|high_ms|max_ms|measured_ms)")


@cache
def ranks(n, q):
    """Of the order statistics around the percentile: the binomial's upper tail in whole numbers, from n downwards."""
    hit, miss, every = q.numerator, q.denominator - q.numerator, q.denominator**n
    exactly, at_least, high = hit**n, 0, None
    for k in range(n, -1, -1):
        at_least += exactly
        if 40 * at_least <= every:
            high = k
        if 40 * at_least >= 39 * every:
            return (k or None), high
        exactly = exactly * k * miss // ((n - k + 1) * hit)
    raise AssertionError("the tail of all counts is everything")


@cache
def needed(q):
    return next(n for n in range(1, 10_000) if max(q, 1 - q) ** n <= Fraction(1, 100))


def percentile(ascending, q):
    n = len(ascending)
    at = (math.ceil(q * n), *ranks(n, q)) if n >= needed(q) else (None, None, None)
    value, low, high = (None if rank is None else ascending[rank - 1] / MS for rank in at)
    return {"value_ms": value, "low_ms": low, "high_ms": high, "needs_n": needed(q)}


def wilson(good, n):
    """The roots of (p - good/n)^2 = z^2 p (1 - p) / n."""
    z2 = NormalDist().inv_cdf(0.975) ** 2
    a, b, c = n + z2, -(2 * good + z2), good**2 / n
    root = math.sqrt(b * b - 4 * a * c)
    return {"low": (-b - root) / (2 * a), "high": (-b + root) / (2 * a)}


def busiest_minute(demand, amount):
    arrivals, span = demand
    at, sums = [at for at, _ in arrivals], [0, *accumulate(amount(cost) for _, cost in arrivals)]
    if span < MINUTE:
        return float(sums[-1] * MINUTE / span)
    return max(sums[i + 1] - sums[bisect_right(at, instant - MINUTE)] for i, instant in enumerate(at))


class Bucket:
    """A virtual schedule (GCRA) in ns times the rate: `paid` is when all that was taken has been refilled."""

    def __init__(self, per_minute, burst_ns):
        self.rate, self.room, self.paid = per_minute, per_minute * burst_ns, 0
        self.largest = self.room // MINUTE

    def earliest(self, now, amount):
        return max(now, -((self.room - self.paid - amount * MINUTE) // self.rate))

    def take(self, now, amount):
        self.paid = max(self.paid, now * self.rate) + amount * MINUTE


class Fixed:
    def __init__(self, limit, period):
        self.largest, self.period, self.used = limit, period, Counter()

    def earliest(self, now, amount):
        while self.used[now // self.period] + amount > self.largest:
            now = (now // self.period + 1) * self.period
        return now

    def take(self, now, amount):
        self.used[now // self.period] += amount


class Sliding:
    def __init__(self, limit, period):
        self.largest, self.period, self.at, self.sums = limit, period, [], [0]

    def earliest(self, now, amount):
        expired = bisect_left(self.sums, self.sums[-1] + amount - self.largest)
        return max(now, self.at[expired - 1] + self.period) if expired else now

    def take(self, now, amount):
        self.at.append(now)
        self.sums.append(self.sums[-1] + amount)


def doors(window, limits):
    """The limits on tokens and on requests of one deployment."""
    tpm, rpm, slice_ns = limits["tokens_per_minute"], limits["requests_per_minute"], limits["request_slice_s"] * S
    if window.startswith("bucket"):
        burst = int(window.split()[1]) * S
        return Bucket(tpm, burst), Bucket(rpm, min(burst, slice_ns))
    kind = {"minute": Fixed, "sliding": Sliding}[window]
    return kind(tpm, MINUTE), kind(rpm * slice_ns // MINUTE, slice_ns)


def replay(arrivals, window, limits, deployments, *, waits):
    """Delays of the admitted, ascending, and the costs of the refused and of those that can never fit."""
    dealt, last = [doors(window, limits) for _ in range(deployments)], [0] * deployments
    delays, refused_costs, never_fit = [], [], []
    for turn, (at, cost) in enumerate(arrivals):
        tokens, requests = dealt[turn % deployments]
        if cost > tokens.largest:
            never_fit.append(cost)
            continue
        now = max(at, last[turn % deployments]) if waits else at
        while (fits := max(tokens.earliest(now, cost), requests.earliest(now, 1))) > now and waits:
            now = fits
        if fits > now:
            refused_costs.append(cost)
            continue
        tokens.take(now, cost)
        requests.take(now, 1)
        last[turn % deployments] = now
        delays.append(now - at)
    return sorted(delays), refused_costs, never_fit


class Figures:
    """A run folder, and each section of its plan worked out from it: `found`. With a name: of that target's rows."""

    def __init__(self, folder, name=None):
        manifest = json.loads((folder / "manifest.json").read_text())
        self.config, self.state = manifest["config"], manifest["state"]
        self.workers_read = manifest["workers"]
        targets = self.config["target"] if isinstance(self.config["target"], list) else [self.config["target"]]
        self.target = next(target for target in targets if name in (None, target["name"]))
        self.load, self.limits = self.config["load"], self.target["quota"] or self.config["quota"]
        self.is_managed = self.target["kind"] == "managed"
        self.model = manifest["deployment"]["model_name"].lower()
        self.rows = pl.read_parquet(folder / "samples.parquet").rows(named=True)
        self.steady = [row for row in self.rows if row["phase"] == "steady"]
        self._find_stretch()
        self.rows = [row for row in self.rows if name in (None, row["target"])]
        self.parts = [Figures(folder, target["name"]) for target in targets] if len(targets) > 1 and not name else []
        self.gaps = {}
        for seq, attempt, gap_us in pl.read_parquet(folder / "chunks.parquet").rows():
            self.gaps.setdefault((seq, attempt), []).append(gap_us * 1_000)
        self._state_tokens()
        self.steady = [row for row in self.rows if row["phase"] == "steady"]
        self.answers = [row for row in self.rows if row["outcome"] == "ok"]
        with_usage = [row for row in self.rows if row["usage_source"] == "server"]
        self.billed = self.answers + [row for row in with_usage if row["outcome"] in ("filtered", "broken_stream")]
        self.billed_steady = [row for row in self.billed if row["phase"] == "steady"]
        self.measured = self._demand(Fraction(1))
        self.planned = self._demand(Fraction(self.config["plan"]["growth"]))
        self.found = {"open_loop": self.load["users"] is None}
        for section in SECTIONS[1:]:
            self.found[section] = getattr(self, section)()
        shared = ("slos", "goodput", "latency", "traffic", "quota", "serverless", "instances", "managed")
        self.found["targets"] = [
            {"name": part.target["name"], **{section: part.found[section] for section in shared}} for part in self.parts
        ]

    def estimate(self):
        pairs = [(row["estimated_prompt_tokens"], row["prompt_tokens"]) for row in self.rows]
        told = [(estimated, counted) for estimated, counted in pairs if estimated is not None and counted]
        if not told:
            return None
        off = sorted(abs(estimated - counted) / counted for estimated, counted in told)
        share = sum(estimated for estimated, _ in told) / sum(counted for _, counted in told) - 1
        return {
            "n": len(told),
            "error_share": share,
            "p95_error_share": off[math.ceil(Fraction(95, 100) * len(off)) - 1],
        }

    def _state_tokens(self):
        limit, admission, means = self.load["max_tokens"], self.limits["admission"], {}
        for name in ("prompt_tokens", "completion_tokens"):
            for scenario in {row["scenario"] for row in self.rows}:
                stated = [r[name] for r in self.rows if r["scenario"] == scenario and r[name] is not None]
                means[name, scenario] = math.floor(fmean(stated) + 0.5) if stated else (0 if name[0] == "p" else limit)
        for row in self.rows:
            prompt, completion = row["prompt_tokens"], row["completion_tokens"]
            estimated, asked = row["estimated_prompt_tokens"], limit
            if estimated is not None:
                asked = row["reserved_tokens"] - (0 if admission == "max_tokens" else estimated)
                prompt = estimated if prompt is None else prompt
            if prompt is None and row["reserved_tokens"] > limit and admission != "max_tokens":
                prompt = row["reserved_tokens"] - limit
            if completion is None and row["outcome"] == "ok" and row["chunks"]:
                completion = row["chunks"]
            row["prompt"] = means["prompt_tokens", row["scenario"]] if prompt is None else prompt
            row["completion"] = means["completion_tokens", row["scenario"]] if completion is None else completion
            after = row["completion"] if admission == "usage" else asked
            row["cost"] = after if admission == "max_tokens" else row["prompt"] + after

    def _find_stretch(self):
        due, end = [row["due_ns"] for row in self.steady], self.load["duration"] - self.load["cooldown"]
        if self.state != "complete":
            end = min(end, max(row["due_ns"] for row in self.rows) / S)
        self.start, self.end = min(round(self.load["warmup"] * S), *due), max(round(end * S), *due)
        self.span = self.end - self.start

    def _demand(self, growth):
        """Instants (ns from the stretch's start) and costs of the arrivals, and their span."""
        ranked = sorted(self.steady, key=lambda row: (row["usage_source"] == "server", row["attempt"]))
        self.arrivals = {row["seq"]: row for row in ranked}.values()
        arrivals = sorted((row["due_ns"], row["seq"], row["cost"]) for row in self.arrivals)
        return [((due - self.start) / growth, cost) for due, _, cost in arrivals], self.span / growth

    def of_row(self, metric, row):
        if metric == "itl":
            return self.gaps.get((row["seq"], row["attempt"]), [])
        if metric == "tpot":
            tokens, first, last = row["completion_tokens"] or 0, row["first_token_ns"], row["last_token_ns"]
            return [] if tokens < 2 or first is None else [(last - first) / (tokens - 1)]
        begin, end = (row[f"{instant}_ns"] for instant in BETWEEN[metric])
        left_out = begin is None or end is None or (metric == "throttle_wait" and row["attempt"] > 0)
        if left_out:
            return []
        opened = row["secured_ns"] or row["connected_ns"]  # while its connection is being opened, a request is not late
        opening = max(0, opened - max(row["connect_ns"], row["admitted_ns"])) if metric == "lag" and opened else 0
        return [end - begin - opening]

    def values(self, metric, scenario="all"):
        rows = [row for row in self.steady if scenario in ("all", row["scenario"])]
        of_all_sent = metric in ("throttle_wait", "lag", "connect", "tls")
        counted = [row for row in rows if (row["sent_ns"] is not None if of_all_sent else row["outcome"] == "ok")]
        return sorted(value for row in counted for value in self.of_row(metric, row))

    def latency(self):
        table = []
        for metric in BETWEEN:
            for scenario in ("all", *{row["scenario"] for row in self.rows}):
                found = self.values(metric, scenario)
                measured = {"mean_ms": fmean(found) / MS, "max_ms": found[-1] / MS} if found else {}
                row = {"metric": metric, "scenario": scenario, "n": len(found), "mean_ms": None, "max_ms": None}
                of_each = {name: percentile(found, q) for name, q in QUANTILES.items()}
                always = scenario == "all" and metric not in ("connect", "tls")
                table += [{**row, **measured, **of_each}] if found or always else []
        return table

    def objectives(self):
        """Text, metric, statistic, limit in ns, and whether the limit itself is allowed."""
        for text in self.config["slo"]:
            metric, statistic, allowed, number, unit = re.fullmatch(r"(\w+)\.(\w+)<(=?)(\d+)(m?s)", text).groups()
            yield text, metric, statistic, int(number) * (MS if unit == "ms" else S), bool(allowed)

    def slos(self):
        results = []
        for text, metric, statistic, limit, allowed in self.objectives():
            found, low, high = self.values(metric), None, None
            if statistic.startswith("p"):
                measured, low, high, _ = percentile(found, Fraction(int(statistic[1:]), 100)).values()
            else:
                measured = {"mean": fmean(found), "max": found[-1]}[statistic] / MS
            met = None if measured is None else measured < limit / MS or (allowed and measured == limit / MS)
            n = len(found)
            results += [{"text": text, "n": n, "measured_ms": measured, "low_ms": low, "high_ms": high, "met": met}]
        return results

    def goodput(self):
        def is_good(row):
            return all(
                value < limit or (allowed and value == limit)
                for _, metric, _, limit, allowed in self.objectives()
                for value in self.of_row(metric, row)
            )

        kept = [row for row in self.steady if row["outcome"] == "ok" and is_good(row)]
        good, offered = len({row["seq"] for row in kept}), len({row["seq"] for row in self.steady})
        of_streams = any(metric in ("ttft", "ttft_from_due", "itl", "tpot") for _, metric, *_ in self.objectives())
        without = len({row["seq"] for row in kept if row["first_token_ns"] is None}) if of_streams else 0
        return {"share": good / offered, **wilson(good, offered), "good": good, "offered": offered, "without": without}

    def traffic(self):
        outcomes, seconds = Counter(row["outcome"] for row in self.rows), self.span / S
        answers, steady = self.answers, [row for row in self.answers if row["phase"] == "steady"]
        within = [row for row in answers if self.start <= row["done_ns"] < self.end]
        mean_in_flight, peak_in_flight = self._flight()
        return {
            "planned": len({row["seq"] for row in self.rows}), "dropped": outcomes["dropped"],
            "sent": len({row["seq"] for row in self.rows if row["outcome"] != "dropped"}),
            "attempts": len(self.rows) - outcomes["dropped"], "outcomes": {name: outcomes[name] for name in OUTCOMES},
            "steady_s": seconds, "requests_per_s": len(self.measured[0]) / seconds,
            "completed_per_s": len(within) / seconds,
            "prompt_tokens": sum(row["prompt"] for row in self.billed),
            "completion_tokens": sum(row["completion"] for row in self.billed),
            "billed_requests": len(self.billed_steady),
            "billed_prompt_tokens": fmean(row["prompt"] for row in self.billed_steady),
            "billed_completion_tokens": fmean(row["completion"] for row in self.billed_steady),
            "estimated_usage_share": sum(row["usage_source"] != "server" for row in answers) / len(answers),
            "mean_prompt_tokens": fmean(row["prompt"] for row in steady),
            "mean_completion_tokens": fmean(row["completion"] for row in steady),
            "output_tokens_per_s": sum(row["completion"] for row in within) / seconds,
            "peak_requests_per_minute": busiest_minute(self.measured, lambda cost: 1),
            "peak_tokens_per_minute": busiest_minute(self.measured, lambda cost: cost),
            "mean_in_flight": mean_in_flight, "peak_in_flight": peak_in_flight, "failures": self._failures(),
        }  # fmt: skip

    def _failures(self):
        failed = [(row["outcome"], row["error"] or "") for row in self.rows if row["outcome"] != "ok" or row["error"]]
        coded = Counter((o, re.match(r"(error_in_\w+: )?[^:]*", error)[0]) for o, error in failed)
        ranked = sorted(coded.items(), key=lambda item: (-item[1], *item[0]))[:12]
        return [{"outcome": outcome, "error": error, "n": n} for (outcome, error), n in ranked]

    def _flight(self):
        sent = sorted(row["sent_ns"] for row in self.rows if row["sent_ns"] is not None)
        done = sorted(row["done_ns"] for row in self.rows if row["done_ns"] is not None)
        changes = sorted({self.start, self.end, *(at for at in (*sent, *done) if self.start < at < self.end)})
        levels = [bisect_right(sent, at) - bisect_right(done, at) for at in changes[:-1]]
        area = sum(level * (after - at) for level, at, after in zip(levels, changes, changes[1:], strict=False))
        return area / self.span, max(levels)

    def quota(self):
        if self.is_managed:
            return None
        tpm, rpm = self.limits["tokens_per_minute"], self.limits["requests_per_minute"]
        traffic = self.found["traffic"]
        peak_tokens, peak_requests = traffic["peak_tokens_per_minute"], traffic["peak_requests_per_minute"]
        sent = [row["outcome"] for row in self.steady if row["sent_ns"] is not None]
        fullest = {}
        if self.parts:
            tpm, rpm = (
                sum(part.limits[name] for part in self.parts) for name in ("tokens_per_minute", "requests_per_minute")
            )
            first = min(self.parts, key=lambda part: part.found["quota"]["headroom"])
            fullest = {"target": first.target["name"], **{k: first.found["quota"][k] for k in ("headroom", "binds")}}
        return {
            "tokens_per_minute": tpm, "requests_per_minute": rpm,
            "tokens_share": peak_tokens / tpm, "requests_share": peak_requests / rpm,
            "binds": "tokens" if peak_tokens * rpm >= peak_requests * tpm else "requests",
            "headroom": min(tpm / peak_tokens, rpm / peak_requests),
            "throttled_share": sent.count("throttled") / len(sent),
            "mean_throttle_wait_ms": fmean(self.values("throttle_wait")) / MS, "target": None, **fullest,
        }  # fmt: skip

    def what_if(self):
        if any(part.limits != self.limits for part in self.parts):
            return []
        arrivals, span = self.planned
        times = math.ceil(10 * MINUTE / span)
        watched = [(round(at - arrivals[0][0] + i * span), cost) for i in range(times) for at, cost in arrivals]
        assert len(watched) <= 30_000, "more are cut to the busiest 30,000, which is not recomputed here"
        tokens = sum(cost for _, cost in arrivals) / self.limits["tokens_per_minute"]
        mean_load = math.ceil(max(tokens, len(arrivals) / self.limits["requests_per_minute"]) * MINUTE / span)
        first, table = 1 if mean_load <= 6 else mean_load - 1, []
        for deployments in range(first, first + 12):
            table += [self._what_if_row(watched, times, window, deployments) for window in WINDOWS]
            if all(row["rejected_requests_share"] <= 0.01 for row in table[-4:]):
                break
        return table

    def _what_if_row(self, watched, times, window, deployments):
        _, refused_costs, never_fit = replay(watched, window, self.limits, deployments, waits=False)
        delays, _, _ = replay(watched, window, self.limits, deployments, waits=True)
        fitting_tokens = sum(cost for _, cost in watched) - sum(never_fit)
        return {
            "deployments": deployments, "window": window, "admission": self.limits["admission"],
            "rejected_requests_share": len(refused_costs) / (len(watched) - len(never_fit)),
            "rejected_tokens_share": sum(refused_costs) / fitting_tokens,
            "delay_p50_s": delays[math.ceil(len(delays) / 2) - 1] / S,
            "delay_p99_s": delays[math.ceil(Fraction(99, 100) * len(delays)) - 1] / S, "never_fit": len(never_fit) // times,
        }  # fmt: skip

    def serverless(self):
        if self.parts:
            return self._serverless_together([part.found["serverless"] for part in self.parts])
        (name,) = (name for name in BOOK["serverless"]["models"] if name.lower() == self.model)
        price, table = BOOK["serverless"]["models"][name], self.found["what_if"]
        source = {"source": BOOK["serverless"]["source"], "dated": BOOK["serverless"]["dated"].isoformat()}
        if self.target["usd_per_1k_prompt"] is not None:
            ours = (("input", "prompt"), ("output", "completion"))
            price = {f"{there}_usd_per_1k": self.target[f"usd_per_1k_{here}"] for there, here in ours}
            source = {"source": "the target's configuration", "dated": "2026-11-20"}
        spent, of_demand = (
            sum(row["prompt"] for row in rows) / 1_000 * price["input_usd_per_1k"]
            + sum(row["completion"] for row in rows) / 1_000 * price["output_usd_per_1k"]
            for rows in (self.billed, self.arrivals)
        )
        each = of_demand / len(self.arrivals)
        per_hour = each * len(self.planned[0]) * float(60 * MINUTE / self.planned[1])
        refusing = {row["deployments"] for row in table if row["rejected_requests_share"] > 0.01}
        enough = min({row["deployments"] for row in table} - refusing, default=table[-1]["deployments"])
        return {
            "model": name, **price, **source, "so_far_usd": spent,
            "per_request_usd": each, "per_hour_usd": per_hour, "per_month_usd": per_hour * 730,
            "deployments": enough,
        }  # fmt: skip

    def _serverless_together(self, costs):
        spent = sum(cost["so_far_usd"] for cost in costs)
        billed = [len(part.billed_steady) for part in self.parts]
        each = sum(n * cost["per_request_usd"] for n, cost in zip(billed, costs, strict=True)) / sum(billed)
        per_hour = each * len(self.planned[0]) * float(60 * MINUTE / self.planned[1])
        return {
            **{name: None for name in ("input_usd_per_1k", "output_usd_per_1k") if len({c[name] for c in costs}) > 1},
            "so_far_usd": spent, "per_request_usd": each, "per_hour_usd": per_hour,
            "per_month_usd": per_hour * 730, "deployments": sum(cost["deployments"] for cost in costs),
        }  # fmt: skip

    def instances(self):
        seconds, concurrency = fmean(self.values("service_time")) / S, 8
        if self.is_managed and all(slo["met"] for slo in self.found["slos"]):
            concurrency = math.ceil(self.found["traffic"]["peak_requests_per_minute"] / 60 * seconds)
        per_s = busiest_minute(self.planned, lambda cost: 1) / 60
        return {
            "peak_requests_per_s": per_s, "time_in_system_s": seconds, "concurrency_per_instance": concurrency,
            "instances": math.ceil(per_s * seconds / concurrency), "assumed": concurrency == 8,
        }  # fmt: skip

    def managed(self):
        (skus,) = (skus for name, skus in BOOK["managed"]["models"].items() if name.lower() == self.model)
        region, instances = self.config["plan"]["region"], self.found["instances"]["instances"]
        of = self.found["instances"]
        most = instances * of["concurrency_per_instance"] / of["time_in_system_s"]
        table = []
        for name in skus:
            sku = BOOK["managed"]["skus"][name]
            each, reserve = sku["usd_per_hour"].get(region, 0), 0 if sku["exempt_from_reservation"] else Fraction(1, 5)
            row = {
                "sku": name, "gpus": sku["gpus"], "usd_per_hour": each, "region": region, "instances": instances,
                "source": BOOK["managed"]["source"], "dated": BOOK["managed"]["dated"].isoformat(),
                "per_hour_usd": each * instances, "per_month_usd": each * instances * 730,
                "cores_of_quota": sku["cores"] * math.ceil(instances * (1 + reserve)),
                "break_even_requests_per_s": each * instances / 3_600 / self.found["serverless"]["per_request_usd"],
            }  # fmt: skip
            if row["break_even_requests_per_s"] > most:
                row["break_even_requests_per_s"] = None
            table += [row] if each and "retired" not in sku else []
        return sorted(table, key=lambda row: (row["per_hour_usd"], row["gpus"]))

    def workers(self):
        """As the manifest has them: nothing is made of them but the verdict."""
        return self.workers_read

    def validity(self):
        traffic, ttft_ms = self.found["traffic"], percentile(self.values("ttft"), Fraction(1, 2))["value_ms"]
        lag = [percentile(self.values("lag"), q)["value_ms"] for q in QUANTILES.values()]
        lag_ms = max(value for value in lag if value is not None)
        late = lag_ms > 50 or (lag_ms > 5 and ttft_ms is not None and lag_ms > ttft_ms / 10)
        thinned = self.found["open_loop"] and traffic["dropped"] > traffic["planned"] / 100
        stood_still = any(
            (worker["hub_late_max_ms"] or 0) >= 100
            or (worker["hub_late_p99_ms"] or 0) > 10
            or (worker["cpu_share"] or 0) > 0.9
            for worker in self.workers_read
        )
        invalid = self.state == "running" or thinned or late or stood_still or not self.values("service_time")
        return {"valid": not invalid}


SECTIONS = (
    "open_loop", "latency", "slos", "goodput", "traffic", "quota", "what_if", "serverless", "instances", "managed",
    "validity", "workers", "estimate",
)  # fmt: skip
OF_TARGETS = re.compile(  # what the report says of each target; the rest stands in summary.json
    rf"targets\.\d+\.(latency\.({'|'.join(SHOWN_BY_SCENARIO)})\.all\..*(?<!needs_n)|slos\.\d\.measured_ms|quota\.(?!target)\w+"
    r"|serverless\.(\w+_usd|deployments)|goodput\.share|managed\.0\.(instances|per_month_usd)"
    r"|traffic\.((?!steady|estimated|billed|mean_p|mean_c|failures|outcomes)\w+|outcomes\.(ok|throttled)))"
)


def leaves(value, path=""):
    """Dotted paths, as the report marks its figures; a latency row is named by its metric and scenario."""
    if isinstance(value, list):
        names = [
            f"{each['metric']}.{each['scenario']}" if path.endswith("latency") else i for i, each in enumerate(value)
        ]
        assert len(set(names)) == len(value), path
        value = dict(zip(names, value, strict=True))
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in leaves(inner, f"{path}.{key}".strip(".")).items()}


def numbers(found):
    """But those of the look ahead, whose parts have oracles of their own."""
    return {
        path
        for path, value in found.items()
        if not path.startswith("ahead") and (value is None or isinstance(value, int | float))
    }


def agrees(path, found, expected):
    if isinstance(found, bool | str | None) or isinstance(expected, bool | str | None):
        return type(found) is type(expected) and found == expected
    return math.isclose(found, expected, rel_tol=1e-12 if AT_A_RANK.fullmatch(path) else 1e-9)


def reworked(base, tmp_path, more, **how):
    """The synthetic run `base` with `more` attempts, planned and reported by the command line."""
    samples, gaps = [Sample(**row) for row in base.samples.collect().rows(named=True)], {}
    for seq, attempt, gap_us in base.chunks.collect().rows():
        gaps.setdefault((seq, attempt), []).append(gap_us)
    config = RunConfig.model_validate(base.manifest.config)
    streams = [(*attempt, stream) for attempt, stream in gaps.items()]
    folder = make_run(tmp_path, samples + more(samples), streams, config=config, workers=WORKERS, **how).folder
    (folder / "summary.json").write_text(told(tmp_path, "plan", folder, "--json").stdout)
    assert told(tmp_path, "report", folder, "--out", folder / "report.html").returncode == 0
    return folder


def failures(samples):
    """Every way to fail, retries, and answers without usage."""
    silent = {"prompt_tokens": None, "completion_tokens": None, "usage_source": "estimated"}
    again = {"attempt": 1, "wait_s": 1.5, "ttft_s": 0.2}
    unanswered = {**silent, "first_byte_ns": None, "done_ns": None}
    return [
        *(answered(sample.seq, sample.due_ns / S, **again) for sample in samples if sample.outcome == "throttled"),
        answered(1_000, 20.0, outcome="filtered", prompt_tokens=300),
        refused(1_000, 20.0, attempt=1, wait_s=0.8),
        answered(1_001, 21.0, outcome="filtered", **silent),
        answered(1_002, 22.0, outcome="broken_stream", ttft_s=0.3),
        answered(1_003, 23.0, outcome="broken_stream", ttft_s=0.3, **silent),
        answered(1_004, 24.0, outcome="timeout", service_s=9.0, **silent),
        answered(1_005, 99.0, outcome="cancelled", **unanswered),
        answered(1_006, 25.0, outcome="rejected", **silent),
        answered(1_007, 26.0, outcome="network", wait_s=0.25, **unanswered),
        answered(1_008, 27.0, ttft_s=0.3, **{**silent, "chunks": 41}),
        answered(1_009, 28.0, **{**silent, "reserved_tokens": 0}),
        answered(1_010, 29.0, prompt_tokens=30_000, lag_s=0.02),
        answered(1_011, 30.0, ttft_s=0.1, completion_tokens=1),
        answered(1_012, 2.0, phase="warmup", service_s=7.0),
        refused(1_013, 3.0, phase="warmup"),
        *(dropped(1_020 + i, 40.0 + i / 10) for i in range(8)),
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of the main job, of a run in which much fails, and of a managed one that was cut short and is to grow."""
    cwd = tmp_path_factory.mktemp("figures")
    flags = (
        "--duration 6s --warmup 500ms --rate 44/s --max-tokens 24 --tpm 2000000 --rpm 60000 --seed 3 --out run --quiet"
    )
    slos = ("--slo", "ttft.p95<1s", "--slo", "itl.p99<100ms", "--slo", "tpot.p50<1ms")
    done = headroom(cwd, "run", *flags.split(), *slos)
    assert done.returncode in (99, 4), done.stderr
    limits = {"tokens_per_minute": 120_000, "requests_per_minute": 200}
    slo = ["ttft.p95<1s", "response_time.p90<=2500ms", "service_time.max<5s", "itl.mean<20ms"]
    failing = reworked(synthetic_run(cwd, seed=14, name="base", quota=limits, slo=slo), cwd, failures, name="failing")
    limits = {"tokens_per_minute": 300_000, "requests_per_minute": 150, "admission": "usage", "request_slice_s": 10}
    config = {"target": {"kind": "managed"}, "plan": {"growth": 3, "region": "westus"}, "quota": limits}
    base = synthetic_run(cwd, n=240, seed=9, name="short base", slo=["response_time.p50<=2s"], **config)
    large = [answered(500, 8.0, prompt_tokens=60_000), answered(501, 25.0, ttft_s=0.2, service_s=60.0)]
    managed = reworked(base, cwd, lambda _: large, state="interrupted", name="managed")
    several = reworked(split_run(cwd), cwd, tried_elsewhere, name="several")
    codes = {"main": (cwd / "run", done.returncode), "failing": (failing, 0), "managed": (managed, 0)}
    return codes | {"several": (several, 0)}


def split_run(cwd):
    """Of two targets, whose quotas and prices differ: the second takes a third of the arrivals."""
    own = {"quota": {"tokens_per_minute": 30_000}, "usd_per_1k_prompt": 0.25, "usd_per_1k_completion": 1.5}
    targets = [{"name": "north", "url": "https://north"}, {"name": "south", "url": "https://south", **own}]
    return synthetic_run(cwd, n=300, seed=11, name="split base", target=targets, quota={"tokens_per_minute": 90_000})


def tried_elsewhere(samples):
    """Tells which target each attempt went to; more that one refused and the other answered."""
    for sample in samples:
        sample.target = "south" if sample.seq % 3 == 0 else "north"
    refusals = [refused(900 + i, 11.0 + i, target=("south", "north")[i % 2]) for i in range(8)]
    answers = [answered(900 + i, 11.0 + i, attempt=1, wait_s=0.25, target=("north", "south")[i % 2]) for i in range(8)]
    return [*refusals, *answers, dropped(910, 12.0, target="north")]


@pytest.fixture(scope="module", params=["main", "failing", "managed", "several"])
def plan(request, folders):
    """The leaves of summary.json, the same recomputed, and the report's figures: name, exact value, shown text."""
    folder, _ = folders[request.param]
    page = re.sub(r"<script\b.*?</script>", "", (folder / "report.html").read_text("utf-8"), flags=re.DOTALL)
    marked = re.findall(r'data-figure="([^"]*)" data-value="([^"]*)"[^>]*>(.*?)</', page, flags=re.DOTALL)
    assert len(marked) == page.count("data-figure")
    unescaped = [[html.unescape(text) for text in found] for found in marked]
    figures = [(name, json.loads(value), shown) for name, value, shown in unescaped]
    return leaves(json.loads((folder / "summary.json").read_bytes())), leaves(Figures(folder).found), figures


@pytest.mark.parametrize("section", [*SECTIONS, "targets"])
def test_a_section_of_the_plan_is_what_the_rows_give(plan, section):
    summary, expected, _ = plan
    of_section = {path: value for path, value in expected.items() if path.partition(".")[0] == section}
    pairs = {path: (summary.get(path, "missing"), value) for path, value in of_section.items()}
    assert (pairs or section in ("what_if", "targets")) and {
        path: p for path, p in pairs.items() if not agrees(path, *p)
    } == {}


def test_no_number_of_the_plan_goes_unchecked(plan):
    summary, expected, _ = plan
    assert numbers(summary) - set(expected) == set(NOT_RECOMPUTED)


def test_every_figure_in_the_report_is_the_plans_to_the_last_digit(plan):
    summary, _, figures = plan
    assert [(name, value) for name, value, _ in figures if name not in summary or summary[name] != value] == []


def test_every_number_of_the_plan_stands_in_the_report(plan):
    summary, _, figures = plan
    aside = re.compile(
        r"format|open_loop|validity\.valid|instances\.assumed|quota|quota\.target|estimate|.*\.needs_n|latency\.(\w+)\.(?!all\.).*|targets\..*"
        r"|workers\.\d+\.(host|pid|offset_ns|uncertainty_ns)"  # who they are, no measure of the run
    )
    by_scenario = re.compile(rf"latency\.({'|'.join(SHOWN_BY_SCENARIO)})\..*(?<!needs_n)")
    no_bound = {path for path in summary if re.search(r"(low|high)_ms$", path) and summary[path] is None}
    wanted = {path for path in numbers(summary) if by_scenario.fullmatch(path) or not aside.fullmatch(path)}
    wanted |= {path for path in numbers(summary) if OF_TARGETS.fullmatch(path)}
    assert wanted - no_bound - {name for name, _, _ in figures} == set()


def shows(value, text):
    """Within half a unit of the last digit shown; a share of less than 0.1 % or more than 99.9 % may be said so."""
    if value is None or isinstance(value, bool):
        return re.search({None: "^.$|needs n|cannot say", True: "met", False: "missed"}[value], text) is not None
    exact = Decimal(value) * (100 if "%" in text else 1)
    number = Decimal(re.search(r"-?[\d,]+(\.\d+)?(e-?\d+)?", text)[0].replace(",", ""))
    if text[0] in "<>":
        return text in ("<0.1 %", ">99.9 %") and (exact < number) is (text[0] == "<")
    return abs(exact - number) <= Decimal(10) ** number.as_tuple().exponent / 2


def test_what_the_report_shows_is_the_figure_rounded(plan):
    _, _, figures = plan
    assert [figure for figure in figures if not shows(*figure[1:])] == []


def test_the_main_job_judges_its_objectives(folders):
    folder, code = folders["main"]
    summary = json.loads((folder / "summary.json").read_bytes())
    assert [slo["met"] for slo in summary["slos"]] == [True, True, False]
    assert code == (99 if summary["validity"]["valid"] else 4)  # 4: this machine was too busy to send in time


def test_the_runs_reach_every_rule(folders):
    """Else a figure above would be compared to nothing."""
    failing, managed = (json.loads((folders[name][0] / "summary.json").read_bytes()) for name in ("failing", "managed"))
    assert min(failing["traffic"]["outcomes"].values()) > 0 < failing["traffic"]["estimated_usage_share"]
    assert 0 < failing["goodput"]["good"] < failing["goodput"]["offered"]
    several = json.loads((folders["several"][0] / "summary.json").read_bytes())
    assert [target["quota"]["binds"] for target in several["targets"]] == ["tokens", "tokens"]
    assert several["quota"]["target"] == "south" and several["serverless"]["input_usd_per_1k"] is None
    tried = [target["traffic"]["planned"] for target in several["targets"]]
    assert sum(tried) > several["traffic"]["planned"] > max(tried)
    assert (failing["quota"]["binds"], failing["validity"]["valid"]) == ("requests", False)
    assert (managed["quota"], managed["validity"]["valid"]) == (None, True)
    assert managed["instances"]["concurrency_per_instance"] != 8 and managed["what_if"][0]["deployments"] > 1
    for table in (failing["what_if"], managed["what_if"]):
        assert {row["window"] for row in table if row["rejected_requests_share"] > 0} == set(WINDOWS)
        assert {row["window"] for row in table if row["delay_p99_s"] > 0} == set(WINDOWS)
        assert max(row["never_fit"] for row in table) > 0
