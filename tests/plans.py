"""A Plan for the tests of what draws it: every part filled, with figures that are easy to tell apart."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from loadgen.samples import WorkerHealth
from planner.plan import (
    Goodput,
    InstanceEstimate,
    LatencyRow,
    ManagedCost,
    Plan,
    Quantile,
    QuotaUse,
    ServerlessCost,
    SloResult,
    Traffic,
    Validity,
    WhatIf,
)

SCENARIOS = ("chat", "streaming", "vision")
LATENCIES_MS = {
    "ttft": 83.125,
    "itl": 17.25,
    "tpot": 18.5,
    "service_time": 1_612.875,
    "response_time": 1_650.0625,
    "ttft_from_due": 90.5,
    "ttfb": 80.25,
    "throttle_wait": 0.0,
    "lag": 0.21875,
    "connect": 0.4375,
    "tls": 12.5,
}


def quantile(value_ms: float, needs_n: int, n: int) -> Quantile:
    if n < needs_n:
        return Quantile(value_ms=None, low_ms=None, high_ms=None, needs_n=needs_n)
    return Quantile(value_ms=value_ms, low_ms=value_ms * 0.96875, high_ms=value_ms * 1.0625, needs_n=needs_n)


def latency_row(metric: str, scenario: str, n: int) -> LatencyRow:
    p50 = LATENCIES_MS[metric]
    return LatencyRow(
        metric=metric,
        scenario=scenario,
        n=n,
        mean_ms=p50 * 1.125,
        max_ms=p50 * 4,
        p50=quantile(p50, 6, n),
        p90=quantile(p50 * 1.5, 45, n),
        p95=quantile(p50 * 1.75, 90, n),
        p99=quantile(p50 * 2.5, 459, n),
    )


def example_plan(**changes: Any) -> Plan:
    """The plan of 412 requests to a serverless deployment at three quarters of its quota."""
    rows = [latency_row(metric, "all", 12_480 if metric == "itl" else 412) for metric in LATENCIES_MS]
    rows += [
        latency_row(m, s, n) for m in list(LATENCIES_MS)[:5] for s, n in zip(SCENARIOS, (120, 270, 22), strict=True)
    ]
    plan = Plan(
        format=1,
        run_ids=("20261120-2343-7f3a",),
        started_utc="2026-11-20T23:43:07Z",
        target="http://127.0.0.1:8181",
        model="Phi-3-mini-4k-instruct",
        kind="serverless",
        open_loop=True,
        workers=(WorkerHealth(seconds=55.0, cpu_share=0.03, hub_late_p99_ms=1.02, hub_late_max_ms=2.4),),
        headline="The deployment serves this load with 1.3 times headroom before its token limit; "
        "serverless at $212 a month is cheaper than one managed instance.",
        validity=Validity(
            valid=True, reasons=(), doubts=("p99 needs 459 samples; there are 412.", "The run is short: one minute.")
        ),
        slos=(
            SloResult(text="ttft.p95<1s", n=412, measured_ms=145.46875, low_ms=140.9, high_ms=154.5, met=True),
            SloResult(text="response_time.p95<2s", n=412, measured_ms=2887.6, low_ms=2797.3, high_ms=3068.1, met=False),
            SloResult(text="itl.p99<50ms", n=412, measured_ms=None, low_ms=None, high_ms=None, met=None),
        ),
        goodput=Goodput(share=0.90625, low=0.8741, high=0.9308, good=377, offered=416),
        latency=tuple(rows),
        traffic=example_traffic(),
        quota=QuotaUse(
            tokens_per_minute=200_000,
            requests_per_minute=1_000,
            tokens_share=0.75625,
            requests_share=0.421,
            binds="tokens",
            headroom=1.3223140495867769,
            throttled_share=0.0091324,
            mean_throttle_wait_ms=3.40625,
        ),
        what_if=tuple(
            example_what_if(deployments, window)
            for deployments in (1, 2)
            for window in ("bucket 60 s", "bucket 10 s", "minute", "sliding")
        ),
        serverless=ServerlessCost(
            model="Phi-3-mini-4k-instruct",
            input_usd_per_1k=0.00013,
            output_usd_per_1k=0.00052,
            source="https://prices.azure.com/api/retail/prices",
            dated="2026-11-01",
            so_far_usd=0.00402173,
            per_request_usd=0.0000134375,
            per_hour_usd=0.290625,
            per_month_usd=212.15625,
            deployments=1,
        ),
        managed=(
            managed("Standard_NC24ads_A100_v4", 1, 3.673, 1, None),
            managed("Standard_NC40ads_H100_v5", 1, 6.98, 2, 87.53125),
            managed("Standard_ND96amsr_A100_v4", 8, 32.7703, 1, 1_204.5),
        ),
        instances=InstanceEstimate(
            peak_requests_per_s=7.03125,
            time_in_system_s=1.6128,
            concurrency_per_instance=8,
            concurrency_source="assumed, since the run was against a serverless deployment",
            instances=2,
        ),
        assumptions=(
            "The demand of the steady phase holds for a month of 730 hours.",
            "Tokens count against the quota as prompt + max_tokens, as documented for Azure OpenAI.",
            "Prices are of eastus, without reservations or taxes.",
        ),
    )
    return replace(plan, **changes)


def with_every_text(value: Any, text: str) -> Any:
    """The value with each text in it replaced, down to the keys; the names of metrics stay, and the scenario `all`."""
    if isinstance(value, str):
        return text
    if isinstance(value, dict):
        return {text: with_every_text(next(iter(value.values())), text)} if value else {}
    if isinstance(value, list | tuple):
        return type(value)(with_every_text(inner, text) for inner in value)
    if not is_dataclass(value):
        return value
    kept = {field.name: getattr(value, field.name) for field in fields(value)}
    changed = {
        name: inner if name == "metric" or inner == "all" else with_every_text(inner, text)
        for name, inner in kept.items()
    }
    return replace(value, **changed)


def example_traffic() -> Traffic:
    outcomes = {
        "ok": 405,
        "throttled": 4,
        "server_error": 2,
        "timeout": 1,
        "broken_stream": 1,
        "filtered": 0,
        "dropped": 3,
    }
    return Traffic(
        planned=416,
        sent=413,
        dropped=3,
        attempts=438,
        outcomes=outcomes,
        steady_s=55.0,
        requests_per_s=6.015625,
        completed_per_s=5.890625,
        prompt_tokens=98_765,
        completion_tokens=31_415,
        estimated_usage_share=0.0025,
        mean_prompt_tokens=243.8642,
        mean_completion_tokens=77.5679,
        output_tokens_per_s=468.8125,
        peak_requests_per_minute=421.0,
        peak_tokens_per_minute=151_250.0,
        mean_in_flight=9.4375,
        peak_in_flight=21,
    )


def example_what_if(deployments: int, window: str) -> WhatIf:
    share = {"bucket 60 s": 0.0, "bucket 10 s": 0.011, "minute": 0.0234375, "sliding": 0.0421}[window] / deployments**3
    return WhatIf(
        deployments=deployments,
        window=window,
        admission="prompt+max_tokens",
        rejected_requests_share=share,
        rejected_tokens_share=share * 1.5,
        delay_p50_s=0.0,
        delay_p99_s=share * 100,
        never_fit=0,
    )


def managed(sku: str, gpus: int, usd_per_hour: float, instances: int, break_even: float | None) -> ManagedCost:
    return ManagedCost(
        sku=sku,
        gpus=gpus,
        usd_per_hour=usd_per_hour,
        region="eastus",
        source="Azure Retail Prices",
        dated="2026-11-01",
        instances=instances,
        per_hour_usd=usd_per_hour * instances,
        per_month_usd=usd_per_hour * instances * 730,
        cores_of_quota=29 * instances,
        break_even_requests_per_s=break_even,
    )
