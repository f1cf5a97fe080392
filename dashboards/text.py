"""How numbers, metrics and other people's text are written, the same in the report and in the terminal.

Names, errors, models and addresses come from servers and users. They are shown literally and never obeyed: no control
character reaches a terminal, no markup reaches plotly, and the page escapes everything it prints.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from dashboards.readable import readable as readable  # noqa: PLC0414 - it is part of how texts are written
from loadgen.samples import WorkerHealth
from planner.plan import Estimate, LatencyRow, Quantile

UNKNOWN = "–"  # noqa: RUF001 - an en dash, as in a table of figures

METRICS = {
    "ttft": ("Time to first token", "first content after sending"),
    "itl": ("Inter-token latency", "every gap between content chunks"),
    "tpot": ("Time per output token", "per request, first token excluded"),
    "service_time": ("Service time", "sending to the end of the answer"),
    "response_time": ("Response time", "due to the end of the answer: what a user waits"),
    "ttft_from_due": ("Time to first token, from due", "first content after the request was due"),
    "ttfb": ("Time to first byte", "first byte after sending"),
    "throttle_wait": ("Throttle wait", "due to admission by the client's own throttle"),
    "lag": ("Generator lag", "admission to sending: our own lateness"),
    "connect": ("Connect", "opening a connection, in no other latency but the response time"),
    "tls": ("TLS handshake", "likewise"),
}
MAIN_METRICS = ("ttft", "itl", "tpot", "service_time", "response_time")


def plotly_label(text: str, longest: int = 36) -> str:
    """As plotly will show it literally: it would obey tags, entities, templates and formulas in every text."""
    short = readable(text)
    short = short if len(short) <= longest else short[: longest - 1] + "…"
    escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;", "{": "&#123;"}
    return "".join(escapes.get(char, char) for char in short)


def exact(value: float | bool | None) -> str:
    """The unrounded number, as JSON."""
    return json.dumps(value)


def metric_name(metric: str) -> str:
    return METRICS[metric][0] if metric in METRICS else metric


def metric_meaning(metric: str) -> str:
    return METRICS[metric][1] if metric in METRICS else ""


def digits(value: float | None) -> str:
    """Three digits or more: 0.042, 8.31, 83.1, 831, 12,345."""
    if value is None:
        return UNKNOWN
    if value == 0:
        return "0"
    size = abs(value)
    places = next((places for limit, places in ((99.95, 0), (9.995, 1), (0.9995, 2)) if size >= limit), 3)
    return f"{value:,.{places}f}" if size >= 0.0005 else f"{value:.1e}"


def count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def whole(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.0f}"


def usd(value: float | None) -> str:
    """$12,345 or $12.34 or $0.00021: cents below $100, and two digits where it is less than a cent or so."""
    if value is None:
        return UNKNOWN
    size = abs(value)
    if size >= 99.995:
        return f"${value:,.0f}"
    if size >= 0.1 or size == 0:
        return f"${value:,.2f}"
    return f"${value:.{next((places for places in range(3, 12) if size >= 10.0 ** (1 - places)), 12)}f}"


def spent(resource: str, used: float, limit: float) -> str:
    """Of a budget: 900 of 1,000 requests, $0.12 of $5.00, 30 of 600 s."""
    if resource == "usd":
        return f"{usd(used)} of {usd(limit)}"
    return f"{whole(used)} of {whole(limit)} {'s' if resource == 'wall_s' else readable(resource)}"


def percent(share: float | None) -> str:
    """Never 0 % or 100 % of a share that is not."""
    if share is None:
        return UNKNOWN
    if 0 < share < 0.0005:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{share:.0%}".replace("%", " %") if share in (0, 1) else f"{share:,.1%}".replace("%", " %")


def times(factor: float) -> str:
    return f"{factor:g} \N{MULTIPLICATION SIGN}"


def ratio(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.3f}"


def chance(p: float | None) -> str:
    return "<0.001" if p is not None and p < 0.001 else ratio(p)


def whole_percent(share: float) -> str:
    """A slider's position."""
    return f"{share * 100:.0f}"


def interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{digits(low)}–{digits(high)}"  # noqa: RUF001 - en dash


def quantiles(row: LatencyRow) -> tuple[tuple[str, Quantile], ...]:
    return (("p50", row.p50), ("p90", row.p90), ("p95", row.p95), ("p99", row.p99))


def estimator_error(estimate: Estimate) -> str:
    """How right the counts were that paced the load."""
    side = "above" if estimate.error_share > 0 else "below"
    bias = f"{percent(abs(estimate.error_share))} {side} the server's counts" if estimate.error_share else "no bias"
    most = f"95 of 100 within {percent(estimate.p95_error_share)}"
    return f"prompts were estimated by {readable(estimate.estimator)}: {bias}, {most}; n {count(estimate.n)}"


GENERATOR_ROWS: tuple[
    tuple[str, str, str, Callable[[Any], str]], ...
] = (  # field, what it is, its bound, how it is shown
    ("seconds", "measured, s", "", digits),
    ("cpu_share", "share of a core", "90 %", percent),
    ("busiest_cpu_share", "share of a core in its busiest second", "", percent),
    ("without_core_share", "time it had work and no core", "", percent),
    ("hub_late_p99_ms", "event loop late, p99, ms", "10 ms", digits),
    ("hub_late_max_ms", "event loop late, at most, ms", "100 ms", digits),
    ("collections", "garbage collections", "", count),
    ("longest_collection_ms", "longest of them, ms", "", digits),
    ("clock_step_ms", "time of day set by, at most, ms", "", digits),
    ("most_in_flight", "most requests in flight", "", count),
)


TARGET_ROWS: tuple[tuple[str, str, Callable[[Any], str]], ...] = (  # where it stands in TargetFigures, what it is
    ("traffic.planned", "Arrivals, with those tried again here", count),
    ("traffic.sent", "Arrivals sent", count),
    ("traffic.dropped", "Arrivals dropped", count),
    ("traffic.attempts", "Attempts", count),
    ("traffic.outcomes.ok", "Attempts ok", count),
    ("traffic.outcomes.throttled", "Attempts answered 429", count),
    ("goodput.share", "Goodput", percent),
    ("traffic.requests_per_s", "Offered, requests/s", digits),
    ("traffic.completed_per_s", "Completed, requests/s", digits),
    ("traffic.output_tokens_per_s", "Output, tokens/s", digits),
    ("traffic.mean_in_flight", "In flight, mean", digits),
    ("traffic.peak_in_flight", "In flight, at most", count),
    ("traffic.prompt_tokens", "Prompt tokens billed", count),
    ("traffic.completion_tokens", "Completion tokens billed", count),
    ("traffic.peak_requests_per_minute", "Busiest minute, requests", whole),
    ("quota.requests_per_minute", "Quota, requests per minute", count),
    ("quota.requests_share", "Busiest minute, share of the quota of requests", percent),
    ("traffic.peak_tokens_per_minute", "Busiest minute, tokens", whole),
    ("quota.tokens_per_minute", "Quota, tokens per minute", count),
    ("quota.tokens_share", "Busiest minute, share of the quota of tokens", percent),
    ("quota.headroom", "So many times this load fits", digits),
    ("quota.throttled_share", "429s, share of attempts", percent),
    ("quota.mean_throttle_wait_ms", "Wait in our own throttle, mean, ms", digits),
    ("serverless.so_far_usd", "Serverless cost of this run so far", usd),
    ("serverless.per_request_usd", "Serverless cost per request", usd),
    ("serverless.per_hour_usd", "Serverless cost per hour at this rate", usd),
    ("serverless.per_month_usd", "Serverless cost per month, 730 h at this rate", usd),
    ("serverless.deployments", "Serverless deployments needed", count),
    ("managed.0.instances", "Managed compute, instances", count),
    ("managed.0.per_month_usd", "Managed compute, the cheapest, per month of 730 h", usd),
)


def within(value: Any, path: str) -> Any:
    """What stands at a dotted path; None where something on the way is None or not there."""
    for name in path.split("."):
        if isinstance(value, dict):
            value = value.get(name)
        elif isinstance(value, tuple):
            value = value[int(name)] if int(name) < len(value) else None
        else:
            value = getattr(value, name, None)
    return value


def generator(worker: WorkerHealth) -> str:
    """What a load process took for itself, and how late it was to what came."""
    if worker.cpu_share is None:
        return "it ended before it had measured itself"
    late = ""
    if worker.hub_late_p99_ms is not None and worker.hub_late_max_ms is not None:
        p99, most = digits(worker.hub_late_p99_ms), digits(worker.hub_late_max_ms)
        late = f"; its event loop was late by {p99} ms at p99, {most} ms at most"
    return f"{percent(worker.cpu_share)} of a core{late}"
