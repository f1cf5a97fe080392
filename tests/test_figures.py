"""Every figure of the plan and of the report, recomputed by other means from the rows of the record.

Plain Python over rows and the price book, written from design.md: binomial tails as whole numbers, Wilson's interval as
the roots of its quadratic, buckets as virtual schedules. Nothing of the planner or of the limiters is imported.

What design.md leaves open is as the code has it:
- A percentile needs so many samples that all lie below it with a chance of 1 % or less. Each end of its interval misses
  with 2.5 % at most.
- Latencies are of answers (ok) in the steady phase; lag and throttle_wait of whatever was sent in it, the latter of first
  attempts only.
- An objective's limit holds for each request; a request without that metric keeps it, and one good attempt is enough.
- The steady stretch ends with the load, or with the last arrival of a run that was cut short.
- Tokens that no server stated: a prompt is the reservation less max_tokens, a completion its chunks, then both are their
  scenario's mean (whole run, rounded), then 0 and max_tokens. Of several attempts the last with usage stands for an arrival.
- Billed are answers, and filtered or broken attempts that came with usage; so_far_usd and per_request_usd are of the
  whole run. Completed is what ended within the steady stretch. throttled_share is of its attempts.
- The busiest minute is the half-open one before each arrival. Growth divides the instants and the span of the demand.
- The what-if repeats the demand to ten minutes, deals it in turn (what can never fit takes its turn too), counts fixed
  windows from the first arrival, and tries twelve numbers of deployments at most, from near the mean load where that
  is above six. Shares are of what can fit. Requests are checked in slices, and a bucket holds no more than one of them.
- Instances: the busiest minute's rate, the mean service time, and 8 at once, or what a managed run held with all met.
- A run is invalid that never finished, dropped above 1 %, answered nothing, or lagged (highest supported percentile,
  above 5 ms) by more than 50 ms or a tenth of the median ttft.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import tomllib
from bisect import bisect_left, bisect_right
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from functools import cache
from html.parser import HTMLParser
from itertools import accumulate
from pathlib import Path
from statistics import NormalDist

import polars as pl
import pytest

from loadgen.config import RunConfig
from loadgen.samples import Sample
from tests.runs import answered, dropped, make_run, refused, synthetic_run

S, MS, MINUTE = 10**9, 10**6, 60 * 10**9
BOOK = tomllib.loads((Path(__file__).parent.parent / "planner" / "prices.toml").read_text("utf-8"))
BETWEEN = {
    "ttft": ("sent_ns", "first_token_ns"),
    "ttft_from_due": ("due_ns", "first_token_ns"),
    "ttfb": ("sent_ns", "first_byte_ns"),
    "itl": (),
    "tpot": (),
    "service_time": ("sent_ns", "done_ns"),
    "response_time": ("due_ns", "done_ns"),
    "throttle_wait": ("due_ns", "admitted_ns"),
    "lag": ("admitted_ns", "sent_ns"),
}
OF_ALL_SENT = ("throttle_wait", "lag")
LED_BY_SCENARIO = ("ttft", "itl", "tpot", "service_time", "response_time")
OUTCOMES = ["ok", "throttled", "filtered", "rejected", "server_error", "timeout", "network", "broken_stream", "dropped", "cancelled"]
QUANTILES = {"p50": Fraction(1, 2), "p90": Fraction(9, 10), "p95": Fraction(19, 20), "p99": Fraction(99, 100)}
NOT_RECOMPUTED = {"format": "the version of the layout, no measurement"}
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
    n = 1
    while max(q, 1 - q) ** n > Fraction(1, 100):
        n += 1
    return n


def at_rank(ascending, rank):
    return None if rank is None else ascending[rank - 1] / MS


def percentile(ascending, q):
    n, found = len(ascending), (None, None, None)
    if n >= needed(q):
        low, high = ranks(n, q)
        found = tuple(at_rank(ascending, rank) for rank in (math.ceil(q * n), low, high))
    return {**dict(zip(("value_ms", "low_ms", "high_ms"), found, strict=True)), "needs_n": needed(q)}


def wilson(good, n):
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


def doors(window, quota):
    """The limits on tokens and on requests of one deployment."""
    tpm, rpm, slice_ns = quota["tokens_per_minute"], quota["requests_per_minute"], quota["request_slice_s"] * S
    if window.startswith("bucket"):
        burst = int(window.split()[1]) * S
        return Bucket(tpm, burst), Bucket(rpm, min(burst, slice_ns))
    kind = {"minute": Fixed, "sliding": Sliding}[window]
    return kind(tpm, MINUTE), kind(rpm * slice_ns // MINUTE, slice_ns)


def replay(arrivals, window, quota, deployments, *, waits):
    limits, last = [doors(window, quota) for _ in range(deployments)], [0] * deployments
    delays, refused_costs, never_fit = [], [], 0
    for turn, (at, cost) in enumerate(arrivals):
        tokens, requests = limits[turn % deployments]
        if cost > tokens.largest:
            never_fit += 1
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
    """A run folder, and each section of its plan worked out from it."""

    def __init__(self, folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        self.config, self.state = manifest["config"], manifest["state"]
        self.load, self.limits = self.config["load"], self.config["quota"]
        self.managed_kind = self.config["target"]["kind"] == "managed"
        self.model = manifest["deployment"]["model_name"].lower()
        self.rows = pl.read_parquet(folder / "samples.parquet").rows(named=True)
        self.gaps = {}
        for gap in pl.read_parquet(folder / "chunks.parquet").rows(named=True):
            self.gaps.setdefault((gap["seq"], gap["attempt"]), []).append(gap["gap_us"] * 1_000)
        self._state_tokens()
        self.steady = [row for row in self.rows if row["phase"] == "steady"]
        self._find_stretch()
        self.measured = self._demand(Fraction(1))
        self.planned = self._demand(Fraction(self.config["plan"]["growth"]))
        self.billed = [row for row in self.rows if row["outcome"] == "ok" or self._billed_failure(row)]
        self.found = {}
        for section in SECTIONS:
            self.found[section] = getattr(self, section)()

    def _state_tokens(self):
        limit, means = self.load["max_tokens"], {}
        for row in self.rows:
            for name in ("prompt_tokens", "completion_tokens"):
                if row[name] is not None:
                    means.setdefault((row["scenario"], name), []).append(row[name])
        means = {key: math.floor(sum(stated) / len(stated) + 0.5) for key, stated in means.items()}
        for row in self.rows:
            prompt, completion = row["prompt_tokens"], row["completion_tokens"]
            if prompt is None and row["reserved_tokens"] > limit and self.limits["admission"] != "max_tokens":
                prompt = row["reserved_tokens"] - limit
            if completion is None and row["outcome"] == "ok" and row["chunks"]:
                completion = row["chunks"]
            row["prompt"] = means.get((row["scenario"], "prompt_tokens"), 0) if prompt is None else prompt
            other = means.get((row["scenario"], "completion_tokens"), limit)
            row["completion"] = other if completion is None else completion
            after = limit if self.limits["admission"] == "prompt+max_tokens" else row["completion"]
            row["cost"] = limit if self.limits["admission"] == "max_tokens" else row["prompt"] + after

    def _find_stretch(self):
        due = [row["due_ns"] for row in self.steady]
        end = self.load["duration"] - self.load["cooldown"]
        if self.state != "complete":
            end = min(end, max(row["due_ns"] for row in self.rows) / S)
        self.start, self.end = min(round(self.load["warmup"] * S), *due), max(round(end * S), *due)
        self.span = self.end - self.start

    def _demand(self, growth):
        """Instants (ns from the stretch's start) and costs of the arrivals, and their span."""
        by_seq = {}
        for row in sorted(self.steady, key=lambda row: (row["usage_source"] == "server", row["attempt"])):
            by_seq[row["seq"]] = row
        arrivals = sorted((row["due_ns"], row["seq"], row["cost"]) for row in by_seq.values())
        return [((due - self.start) / growth, cost) for due, _, cost in arrivals], self.span / growth

    def _billed_failure(self, row):
        return row["outcome"] in ("filtered", "broken_stream") and row["usage_source"] == "server"

    def of_row(self, metric, row):
        if metric == "itl":
            return self.gaps.get((row["seq"], row["attempt"]), [])
        if metric == "tpot":
            tokens, first, last = row["completion_tokens"] or 0, row["first_token_ns"], row["last_token_ns"]
            return [] if tokens < 2 or first is None else [(last - first) / (tokens - 1)]
        if metric == "throttle_wait" and row["attempt"]:
            return []
        begin, end = (row[instant] for instant in BETWEEN[metric])
        return [] if begin is None or end is None else [end - begin]

    def values(self, metric, scenario="all"):
        rows = [row for row in self.steady if scenario in ("all", row["scenario"])]
        kept = [r for r in rows if (r["sent_ns"] is not None if metric in OF_ALL_SENT else r["outcome"] == "ok")]
        return sorted(value for row in kept for value in self.of_row(metric, row))

    def latency(self):
        scenarios = ["all", *{row["scenario"] for row in self.rows}]
        lines = [(metric, scenario, self.values(metric, scenario)) for metric in BETWEEN for scenario in scenarios]
        return [
            {
                "metric": metric,
                "scenario": scenario,
                "n": len(found),
                "mean_ms": math.fsum(found) / len(found) / MS if found else None,
                "max_ms": found[-1] / MS if found else None,
                **{name: percentile(found, q) for name, q in QUANTILES.items()},
            }
            for metric, scenario, found in lines
            if found or scenario == "all"
        ]

    def objectives(self):
        """Text, metric, statistic, limit in ns, and whether the limit itself is allowed."""
        for text in self.config["slo"]:
            metric, statistic, allowed, number, unit = re.fullmatch(r"(\w+)\.(\w+)<(=?)(\d+)(m?s)", text).groups()
            yield text, metric, statistic, int(number) * {"ms": MS, "s": S}[unit], bool(allowed)

    def slos(self):
        results = []
        for text, metric, statistic, limit, allowed in self.objectives():
            found = self.values(metric)
            result = {"text": text, "n": len(found), "low_ms": None, "high_ms": None}
            if statistic.startswith("p"):
                of_it = percentile(found, Fraction(int(statistic[1:]), 100))
                result |= {"measured_ms": of_it["value_ms"], "low_ms": of_it["low_ms"], "high_ms": of_it["high_ms"]}
            else:
                result["measured_ms"] = {"mean": sum(found) / len(found), "max": found[-1]}[statistic] / MS
            measured, limit_ms = result["measured_ms"], limit / MS
            keeps = None if measured is None else measured < limit_ms or (allowed and measured == limit_ms)
            results.append({**result, "met": keeps})
        return results

    def goodput(self):
        objectives = list(self.objectives())
        if not objectives:
            return None
        good = {row["seq"] for row in self.steady if row["outcome"] == "ok" and self._is_good(row, objectives)}
        offered = len({row["seq"] for row in self.steady})
        shares = {"share": len(good) / offered, **wilson(len(good), offered)}
        return {**shares, "good": len(good), "offered": offered}

    def _is_good(self, row, objectives):
        return all(
            value < limit or (allowed and value == limit)
            for _, metric, _, limit, allowed in objectives
            for value in self.of_row(metric, row)
        )

    def traffic(self):
        outcomes = Counter(row["outcome"] for row in self.rows)
        answers = [row for row in self.rows if row["outcome"] == "ok"]
        steady = [row for row in answers if row["phase"] == "steady"]
        within = [row for row in answers if self.start <= row["done_ns"] < self.end]
        unstated = sum(row["usage_source"] != "server" for row in answers)
        seconds = self.span / S
        mean_in_flight, peak_in_flight = self._flight()
        return {
            "planned": len({row["seq"] for row in self.rows}),
            "sent": len({row["seq"] for row in self.rows if row["outcome"] != "dropped"}),
            "dropped": outcomes["dropped"],
            "attempts": len(self.rows) - outcomes["dropped"],
            "outcomes": {outcome: outcomes[outcome] for outcome in OUTCOMES},
            "steady_s": seconds,
            "requests_per_s": len(self.measured[0]) / seconds,
            "completed_per_s": len(within) / seconds,
            "prompt_tokens": sum(row["prompt"] for row in self.billed),
            "completion_tokens": sum(row["completion"] for row in self.billed),
            "estimated_usage_share": unstated / len(answers),
            "mean_prompt_tokens": sum(row["prompt"] for row in steady) / len(steady),
            "mean_completion_tokens": sum(row["completion"] for row in steady) / len(steady),
            "output_tokens_per_s": sum(row["completion"] for row in within) / seconds,
            "peak_requests_per_minute": busiest_minute(self.measured, lambda cost: 1),
            "peak_tokens_per_minute": busiest_minute(self.measured, lambda cost: cost),
            "mean_in_flight": mean_in_flight,
            "peak_in_flight": peak_in_flight,
        }

    def _flight(self):
        sent = sorted(row["sent_ns"] for row in self.rows if row["sent_ns"] is not None)
        done = sorted(row["done_ns"] for row in self.rows if row["done_ns"] is not None)
        changes = sorted({self.start, self.end, *(at for at in (*sent, *done) if self.start < at < self.end)})
        levels = [bisect_right(sent, at) - bisect_right(done, at) for at in changes[:-1]]
        area = sum(level * (after - at) for level, at, after in zip(levels, changes, changes[1:], strict=False))
        return area / self.span, max(levels)

    def quota(self):
        if self.managed_kind:
            return None
        traffic, tpm, rpm = self.found["traffic"], self.limits["tokens_per_minute"], self.limits["requests_per_minute"]
        tokens, requests = traffic["peak_tokens_per_minute"] / tpm, traffic["peak_requests_per_minute"] / rpm
        sent = [row["outcome"] for row in self.steady if row["sent_ns"] is not None]
        waits = self.values("throttle_wait")
        return {
            "tokens_per_minute": tpm,
            "requests_per_minute": rpm,
            "tokens_share": tokens,
            "requests_share": requests,
            "binds": "tokens" if tokens >= requests else "requests",
            "headroom": min(tpm / traffic["peak_tokens_per_minute"], rpm / traffic["peak_requests_per_minute"]),
            "throttled_share": sent.count("throttled") / len(sent),
            "mean_throttle_wait_ms": sum(waits) / len(waits) / MS,
        }

    def what_if(self):
        arrivals, span = self.planned
        first_at, times = arrivals[0][0], math.ceil(10 * MINUTE / span)
        watched = [(round(at - first_at + i * span), cost) for i in range(times) for at, cost in arrivals]
        assert len(watched) <= 30_000, "more are cut to the busiest 30,000, which is not recomputed here"
        tokens_share = sum(cost for _, cost in arrivals) / self.limits["tokens_per_minute"]
        mean_load = max(tokens_share, len(arrivals) / self.limits["requests_per_minute"]) * MINUTE / span
        first, table = 1 if mean_load <= 6 else math.ceil(mean_load) - 1, []
        for deployments in range(first, first + 12):
            table += [
                self._what_if_row(watched, window, deployments)
                for window in ("minute", "bucket 60 s", "bucket 10 s", "sliding")
            ]
            if all(row["rejected_requests_share"] <= 0.01 for row in table[-4:]):
                break
        return table

    def _what_if_row(self, watched, window, deployments):
        _, refused_costs, never_fit = replay(watched, window, self.limits, deployments, waits=False)
        delays, _, _ = replay(watched, window, self.limits, deployments, waits=True)
        largest = doors(window, self.limits)[0].largest
        fitting = [cost for _, cost in watched if cost <= largest]
        return {
            "deployments": deployments,
            "window": window,
            "admission": self.limits["admission"],
            "rejected_requests_share": len(refused_costs) / len(fitting),
            "rejected_tokens_share": sum(refused_costs) / sum(fitting),
            "delay_p50_s": delays[math.ceil(len(delays) / 2) - 1] / S,
            "delay_p99_s": delays[math.ceil(Fraction(99, 100) * len(delays)) - 1] / S,
            "never_fit": never_fit,
        }

    def serverless(self):
        prices = {name.lower(): (name, price) for name, price in BOOK["serverless"]["models"].items()}
        name, price = prices[self.model]
        spent = sum(
            row["prompt"] * price["input_usd_per_1k"] / 1_000 + row["completion"] * price["output_usd_per_1k"] / 1_000
            for row in self.billed
        )
        per_request, table = spent / len(self.billed), self.found["what_if"]
        per_hour = per_request * 3_600 * len(self.planned[0]) / float(self.planned[1] / S)
        refusing = {row["deployments"] for row in table if row["rejected_requests_share"] > 0.01}
        return {
            "model": name,
            **price,
            "source": BOOK["serverless"]["source"],
            "dated": BOOK["serverless"]["dated"].isoformat(),
            "so_far_usd": spent,
            "per_request_usd": per_request,
            "per_hour_usd": per_hour,
            "per_month_usd": per_hour * 730,
            "deployments": min({row["deployments"] for row in table} - refusing, default=table[-1]["deployments"]),
        }

    def instances(self):
        service = self.values("service_time")
        seconds = sum(service) / len(service) / S
        concurrency = self.config["plan"]["concurrency_per_instance"] or 8
        slos = self.found["slos"]
        if self.managed_kind and slos and all(slo["met"] for slo in slos):
            concurrency = math.ceil(self.found["traffic"]["peak_requests_per_minute"] / 60 * seconds)
        per_s = busiest_minute(self.planned, lambda cost: 1) / 60
        return {
            "peak_requests_per_s": per_s,
            "time_in_system_s": seconds,
            "concurrency_per_instance": concurrency,
            "instances": math.ceil(per_s * seconds / concurrency),
        }

    def managed(self):
        hosts = {name.lower(): skus for name, skus in BOOK["managed"]["models"].items()}
        skus, region = {sku: BOOK["managed"]["skus"][sku] for sku in hosts[self.model]}, self.config["plan"]["region"]
        instances, per_request = self.found["instances"]["instances"], self.found["serverless"]["per_request_usd"]
        rows = [
            {
                "sku": name,
                "gpus": sku["gpus"],
                "usd_per_hour": sku["usd_per_hour"][region],
                "region": region,
                "source": BOOK["managed"]["source"],
                "dated": BOOK["managed"]["dated"].isoformat(),
                "instances": instances,
                "per_hour_usd": sku["usd_per_hour"][region] * instances,
                "per_month_usd": sku["usd_per_hour"][region] * instances * 730,
                "cores_of_quota": sku["cores"]
                * math.ceil(instances * (1 if sku["exempt_from_reservation"] else Fraction(12, 10))),
                "break_even_requests_per_s": sku["usd_per_hour"][region] * instances / 3_600 / per_request,
            }
            for name, sku in skus.items()
            if region in sku["usd_per_hour"]
        ]
        return sorted(rows, key=lambda row: (row["per_hour_usd"], row["gpus"]))

    def open_loop(self):
        return self.load["users"] is None

    def validity(self):
        traffic = self.found["traffic"]
        lag = [percentile(self.values("lag"), q)["value_ms"] for q in reversed(QUANTILES.values())]
        lag_ms = next((value for value in lag if value is not None), 0)
        ttft_ms = percentile(self.values("ttft"), Fraction(1, 2))["value_ms"]
        late = lag_ms > 50 or (lag_ms > 5 and ttft_ms is not None and lag_ms > ttft_ms / 10)
        dropped_too_many = self.open_loop() and traffic["dropped"] > traffic["planned"] / 100
        return {"valid": self.state != "running" and not dropped_too_many and not late and bool(self.values("ttfb"))}


SECTIONS = (
    "open_loop", "latency", "slos", "goodput", "traffic", "quota", "what_if", "serverless", "instances", "managed",
    "validity",
)  # fmt: skip


def leaves(value, path=""):
    """Dotted paths, as the report marks its figures; a latency row is named by its metric and scenario."""
    if isinstance(value, list):
        names = [f"{each['metric']}.{each['scenario']}" if path == "latency" else i for i, each in enumerate(value)]
        assert len(set(names)) == len(value), path
        value = dict(zip(names, value, strict=True))
    if not isinstance(value, dict):
        return {path: value}
    found = {}
    for key, inner in value.items():
        found |= leaves(inner, f"{path}.{key}".strip("."))
    return found


def is_a_figure(value):
    return value is None or isinstance(value, int | float)


def differs(path, found, expected):
    if isinstance(found, bool | str | None) or isinstance(expected, bool | str | None):
        return found is not expected and found != expected
    return not math.isclose(found, expected, rel_tol=1e-12 if AT_A_RANK.fullmatch(path) else 1e-9)


class Page(HTMLParser):
    """The marked figures of a report: (name, exact value, shown text), as often as each stands there."""

    def __init__(self, page):
        super().__init__()
        self.figures, self._open = [], []
        self.feed(re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))

    def handle_starttag(self, tag, attrs):
        marked = dict(attrs)
        if "data-figure" in marked:
            self.figures.append([marked["data-figure"], json.loads(marked["data-value"]), ""])
            self._open.append(tag)
        elif self._open:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if self._open:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open:
            self.figures[-1][2] += data


def headroom(cwd, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AZURE", "HEADROOM"))}
    command = [sys.executable, "-m", "headroom", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120, check=False)


def reworked(base, tmp_path, more, **how):
    """The synthetic run `base` with `more` attempts."""
    samples = [Sample(**row) for row in base.samples.collect().rows(named=True)]
    gaps = {}
    for gap in base.chunks.collect().rows(named=True):
        gaps.setdefault((gap["seq"], gap["attempt"]), []).append(gap["gap_us"])
    config = RunConfig.model_validate(base.manifest.config)
    streams = [(seq, attempt, stream) for (seq, attempt), stream in gaps.items()]
    return make_run(tmp_path, samples + more(samples), streams, config=config, **how).folder


def failures(samples):
    """Every way to fail, retries, and answers without usage."""
    silent = {"prompt_tokens": None, "completion_tokens": None, "usage_source": "estimated"}
    unanswered = {**silent, "first_byte_ns": None, "done_ns": None}
    retries = [
        answered(s.seq, s.due_ns / S, attempt=1, wait_s=1.5, scenario=s.scenario, ttft_s=0.2, chunks=50)
        for s in samples
        if s.outcome == "throttled" and s.seq % 3
    ]
    others = [
        answered(1_000, 20.0, outcome="filtered", status=400),
        answered(1_001, 21.0, outcome="filtered", status=400, **silent),
        answered(1_002, 22.0, outcome="broken_stream", ttft_s=0.3),
        answered(1_003, 23.0, outcome="broken_stream", ttft_s=0.3, **silent),
        answered(1_004, 24.0, outcome="timeout", service_s=9.0, **silent),
        answered(1_005, 99.0, outcome="cancelled", **unanswered),
        answered(1_006, 25.0, outcome="rejected", status=404, **silent),
        answered(1_007, 26.0, outcome="network", wait_s=0.25, **unanswered),
        answered(1_008, 27.0, ttft_s=0.3, **{**silent, "chunks": 41}),
        answered(1_009, 28.0, **{**silent, "reserved_tokens": 0}),
        answered(1_010, 29.0, prompt_tokens=30_000, lag_s=0.02),
        answered(1_011, 30.0, ttft_s=0.1, completion_tokens=1, chunks=1),
        answered(1_012, 2.0, phase="warmup", service_s=7.0),
        refused(1_013, 3.0, phase="warmup"),
    ]
    return [*retries, *others, *(dropped(1_020 + i, 40.0 + i / 10) for i in range(8))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Run folders: of the main job, of one in which much fails, and of a managed one that was cut short and shall grow."""
    cwd = tmp_path_factory.mktemp("figures")
    flags = "--duration 20s --warmup 2s --rate 25/s --tpm 2000000 --rpm 60000 --seed 3 --out run --quiet"
    slos = ("ttft.p95<1s", "itl.p99<100ms", "tpot.p50<1ms")
    done = headroom(cwd, "run", *flags.split(), *(word for slo in slos for word in ("--slo", slo)))
    assert done.returncode in (99, 4), done.stderr
    slos = ["ttft.p95<1s", "response_time.p90<=2500ms", "service_time.max<5s", "itl.mean<20ms"]
    failing = reworked(synthetic_run(cwd, seed=5, name="base", slo=slos), cwd, failures, name="failing")
    config = {
        "target": {"kind": "managed"},
        "quota": {
            "tokens_per_minute": 300_000,
            "requests_per_minute": 400,
            "admission": "usage",
            "request_slice_s": 10,
        },
        "plan": {"growth": 3, "region": "westus"},
        "slo": ["response_time.p50<2s"],
    }
    base = synthetic_run(cwd, n=200, seed=9, name="short base", **config)
    large = [answered(500, 8.0, prompt_tokens=60_000), answered(501, 25.0, ttft_s=0.2, service_s=60.0)]
    managed = reworked(base, cwd, lambda _: large, state="interrupted", name="managed")
    for folder in (failing, managed):
        planned = headroom(cwd, "plan", folder, "--json")
        (folder / "summary.json").write_text(planned.stdout)
        assert headroom(cwd, "report", folder, "--out", folder / "report.html").returncode == 0, planned.stderr
    return {"main": (cwd / "run", done.returncode), "failing": (failing, 0), "managed": (managed, 0)}


@pytest.fixture(scope="module", params=["main", "failing", "managed"])
def plan(request, folders):
    """The leaves of summary.json, the same recomputed, and the report's figures."""
    folder, _ = folders[request.param]
    summary = leaves(json.loads((folder / "summary.json").read_bytes()))
    return summary, leaves(Figures(folder).found), Page((folder / "report.html").read_text("utf-8")).figures


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_of_the_plan_is_what_the_rows_give(plan, section):
    summary, expected, _ = plan
    of_section = {path: value for path, value in expected.items() if path.partition(".")[0] == section}
    wrong = {
        path: (summary.get(path, "missing"), value)
        for path, value in of_section.items()
        if path not in summary or differs(path, summary[path], value)
    }
    assert of_section and not wrong


def test_no_number_of_the_plan_goes_unchecked(plan):
    summary, expected, _ = plan
    figures = {path for path, value in summary.items() if is_a_figure(value)}
    assert figures - set(expected) == set(NOT_RECOMPUTED)


def test_every_figure_in_the_report_is_the_plans_to_the_last_digit(plan):
    summary, _, figures = plan
    assert [(name, value) for name, value, _ in figures if name not in summary or summary[name] != value] == []


def test_every_number_of_the_plan_stands_in_the_report(plan):
    summary, _, figures = plan
    unmarked = re.compile(r"format|open_loop|validity\..*|.*\.needs_n|quota|goodput")
    bound = re.compile(r".*\.(low_ms|high_ms)")
    wanted = {path for path, value in summary.items() if is_a_figure(value) and not unmarked.fullmatch(path)}
    wanted -= {path for path in wanted if bound.fullmatch(path) and summary[path] is None}
    aside = {
        path
        for path in wanted
        if path.startswith("latency.") and ".all." not in path and path.split(".")[1] not in LED_BY_SCENARIO
    }
    assert wanted - aside - {name for name, _, _ in figures} == set()


def test_what_the_report_shows_is_the_figure_rounded(plan):
    _, _, figures = plan
    assert [figure for figure in figures if not shows(*figure[1:])] == []


def shows(value, text):
    """Within half a unit of the last digit shown; a share of less than 0.1 % or more than 99.9 % may be said so."""
    if value is None or isinstance(value, bool):
        return bool(re.search({None: "^–$|needs n|cannot", True: "met", False: "missed"}[value], text.strip()))
    percent = "%" in text
    exact = Decimal(value) * (100 if percent else 1)
    number = Decimal(re.search(r"-?[\d,]+(\.\d+)?(e-?\d+)?", text)[0].replace(",", ""))
    if text.strip()[0] in "<>":
        return number in (Decimal("0.1"), Decimal("99.9")) and (exact < number) is (text.strip()[0] == "<")
    return abs(exact - number) <= Decimal(10) ** number.as_tuple().exponent / 2


def test_the_main_job_judges_its_objectives(folders):
    folder, code = folders["main"]
    summary = json.loads((folder / "summary.json").read_bytes())
    assert [slo["met"] for slo in summary["slos"]] == [True, True, False]
    assert code == (99 if summary["validity"]["valid"] else 4)  # 4: this machine was too busy to send in time


def test_the_runs_exercise_every_rule(folders):
    """A zero here would mean that some figure above was compared to nothing."""
    (failing, managed) = (
        json.loads((folders[name][0] / "summary.json").read_bytes()) for name in ("failing", "managed")
    )
    assert min(failing["traffic"]["outcomes"].values()) > 0
    assert failing["traffic"]["estimated_usage_share"] > 0 and failing["quota"]["throttled_share"] > 0
    assert 0 < failing["goodput"]["good"] < failing["goodput"]["offered"]
    assert {row["window"] for row in failing["what_if"] if row["rejected_requests_share"] > 0} >= {
        "minute",
        "bucket 10 s",
    }
    assert (
        max(row["delay_p50_s"] for row in managed["what_if"]) > 0 < max(row["never_fit"] for row in managed["what_if"])
    )
    assert (failing["quota"]["binds"], managed["quota"]) == ("tokens", None)
    assert (managed["instances"]["concurrency_per_instance"], managed["validity"]["valid"]) != (8, False)
