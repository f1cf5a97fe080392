"""A plan in the terminal, as `headroom run` and `headroom plan` end: what may be doubted first, then the figures.

Everything goes through rich's Text, never its markup, because names and errors are a server's words. A word says what a
colour says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dashboards import ahead
from dashboards.printing import lead, without_trailing_blanks
from dashboards.text import (
    UNKNOWN,
    count,
    digits,
    estimator_error,
    generator,
    interval,
    percent,
    quantiles,
    readable,
    spent,
    usd,
    whole,
)
from planner.plan import LatencyRow, ManagedCost, Plan, Quantile, QuotaUse, ServerlessCost, SloResult, TargetFigures

WIDE = 116  # columns from which on an interval fits beside its percentile
SHOWN_FAILURES = 6
INVALID = "Do not plan from it: no figure below, costs included, can be relied on."
CHEAPEST = 4  # kinds of instance that are listed
SHORT_NAMES = {"ttft": "TTFT", "itl": "ITL", "tpot": "TPOT", "service_time": "Service", "response_time": "Response"}


def print_plan(plan: Plan, console: Console, *, details: bool = False) -> None:
    """All of a plan that fits a terminal, at any width from 60 columns on; with every assumption and formula."""
    with without_trailing_blanks(console):
        console.print(view(plan, wide=console.width >= WIDE, details=details))


def view(plan: Plan, *, wide: bool, details: bool = False) -> Group:
    """The sections in their order, for a rich console."""
    sections: list[RenderableType] = [_verdict(plan)]
    if plan.ahead is not None and plan.validity.valid:
        sections += _section("Recommendation", list(ahead.recommended(plan.ahead)))
    sections += _doubts(plan)
    sections += _section("Objectives", _objectives(plan))
    sections += ["", _latency([row for row in plan.latency if row.scenario == "all"], wide=wide)]
    if plan.targets:
        sections += ["", _targets(plan.targets), "", _latency_by_target(plan.targets, wide=wide)]
    sections += _section("Traffic", list(_traffic(plan)))
    needed = [] if plan.ahead is None else list(ahead.deployments(plan.ahead))
    sections += _section(
        "Quota" if plan.quota is not None else "Deployments, were it serverless",
        [*([] if plan.quota is None else _quota(plan.quota, plan)), *needed],
    )
    sections += _section("Instances", [] if plan.ahead is None else list(ahead.instances(plan.ahead)))
    sections += _section("Cost", list(_cost(plan)))
    if details:
        told = (*plan.assumptions, *(() if plan.ahead is None else plan.ahead.assumptions))
        sections += _section("Assumptions", [Text(f"- {readable(line)}") for line in told])
        sections += _section("Formulas", [] if plan.ahead is None else list(ahead.details(plan.ahead)))
    return Group(*sections)


def _verdict(plan: Plan) -> RenderableType:
    valid = plan.validity.valid
    verdict = Text.assemble(
        (" VALID " if valid else " INVALID ", "bold reverse green" if valid else "bold reverse red")
    )
    said_below = "" if plan.ahead is None else plan.ahead.recommendation
    told = plan.headline.removesuffix(said_below).rstrip() if valid else INVALID  # the reasons stand below
    verdict.append("  ").append(readable(told), "bold")
    loop = "open loop" if plan.open_loop else "closed loop: slow answers held back the next requests"
    where = f", at {readable(plan.target)}" if plan.target else ""
    what = f"{readable(plan.model)}, {readable(plan.kind)}{where}; {loop}"
    lines: list[RenderableType] = [verdict, Text(what, "dim")]
    lines += [lead("why", reason, "red") for reason in plan.validity.reasons]
    return Group(*lines)


def _doubts(plan: Plan) -> list[RenderableType]:
    """Of the run, and of what is recommended, where anything is."""
    further = plan.ahead.doubts if plan.ahead is not None and plan.validity.valid else ()
    found = [lead("doubt", doubt, "yellow") for doubt in (*plan.validity.doubts, *further)]
    return ["", *found] if found and plan.ahead is not None else list(found)


def _section(title: str, lines: Sequence[RenderableType]) -> list[RenderableType]:
    return ["", Text(title, "bold"), *(Padding(line, (0, 0, 0, 2), expand=False) for line in lines)] if lines else []


def _objectives(plan: Plan) -> list[RenderableType]:
    if not plan.slos:
        return []
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for slo in plan.slos:
        word, style = {True: ("met", "green"), False: ("MISSED", "bold red"), None: ("unclear", "yellow")}[slo.met]
        table.add_row(Text(word, style), Text(readable(slo.text), "bold"), _measured(slo))
    good = plan.goodput
    if good is not None:
        parts = f"{count(good.good)} of {count(good.offered)} offered met them"
        if good.without:
            parts += f", {count(good.without)} of these without a stream, which an objective is about"
        table.add_row(
            "goodput", Text(percent(good.share), "bold"), f"{percent(good.low)} to {percent(good.high)}; {parts}"
        )
    return [table]


def _measured(slo: SloResult) -> Text:
    if slo.measured_ms is None:
        said = "by the sweep's verdict; too few samples for the percentile" if slo.met else "the data cannot say"
        return Text(f"{said}, n {count(slo.n)}")
    within = interval(slo.low_ms, slo.high_ms)
    return Text(f"{digits(slo.measured_ms)} ms{f' ({within})' if within else ''}, n {count(slo.n)}")


def _latency(rows: list[LatencyRow], *, wide: bool) -> RenderableType:
    """One row a metric. A percentile that n cannot support prints what it lacks, never a number."""
    title = Text.assemble(("Latency, ms", "bold"), ("  steady phase, all scenarios; intervals are 95 %", "dim"))
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("n", "p50", "p90", "p95", "p99"):
        table.add_column(name, justify="right", overflow="fold")  # a figure is never cut short
    by_metric = {row.metric: row for row in rows}
    for metric, name in SHORT_NAMES.items():
        row = by_metric.get(metric)
        if row is not None:
            cells = [percentile(quantile, wide=wide) for _, quantile in quantiles(row)]
            table.add_row(Text(f"  {name}"), count(row.n), *cells)
    return Group(title, table)


def _targets(targets: Sequence[TargetFigures]) -> RenderableType:
    """One row a target: what it was asked, what it refused, its own quota and cost."""
    title = Text.assemble(("Targets", "bold"), ("  an arrival that was tried at two is counted at both", "dim"))
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("sent", "ok", "429s", "quota", "headroom", "per month"):
        table.add_column(name, justify="right", overflow="fold")
    for target in targets:
        traffic, use, month = target.traffic, target.quota, _per_month(target)
        limit = UNKNOWN if use is None else percent(max(use.tokens_share, use.requests_share))
        fits = UNKNOWN if use is None else f"{digits(use.headroom)} ×"  # noqa: RUF001
        counts = [count(n) for n in (traffic.sent, traffic.outcomes.get("ok", 0), traffic.outcomes.get("throttled", 0))]
        table.add_row(Text(f"  {readable(target.name)}"), *counts, limit, fits, usd(month))
    return Group(title, table)


def _per_month(target: TargetFigures) -> float | None:
    """Of what it is: tokens, or the cheapest instances."""
    if target.kind == "managed":
        return target.managed[0].per_month_usd if target.managed else None
    return None if target.serverless is None else target.serverless.per_month_usd


def _latency_by_target(targets: Sequence[TargetFigures], *, wide: bool) -> RenderableType:
    title = Text.assemble(("Latency by target, ms", "bold"), ("  all scenarios", "dim"))
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    for name in ("n", "p50", "p95"):
        table.add_column(name, justify="right", overflow="fold")
    for metric in ("ttft", "itl", "response_time"):
        for target in targets:
            row = next(each for each in target.latency if (each.metric, each.scenario) == (metric, "all"))
            cells = [percentile(quantile, wide=wide) for quantile in (row.p50, row.p95)]
            table.add_row(f"  {SHORT_NAMES[metric]}", Text(readable(target.name)), count(row.n), *cells)
    return Group(title, table)


def percentile(quantile: Quantile, *, wide: bool) -> Text:
    if quantile.value_ms is None:
        return Text(f"n<{quantile.needs_n}", "dim")
    within = interval(quantile.low_ms, quantile.high_ms)
    if not within:
        return Text(digits(quantile.value_ms))
    return Text.assemble(digits(quantile.value_ms), (f" ({within})" if wide else f"\n{within}", "dim"))


def _traffic(plan: Plan) -> Iterator[RenderableType]:
    traffic = plan.traffic
    rates = f"{digits(traffic.requests_per_s)} requests/s offered, {digits(traffic.completed_per_s)} completed"
    yield Text(f"{count(traffic.planned)} due = {count(traffic.sent)} sent + {count(traffic.dropped)} dropped; {rates}")
    ended = [
        f"{readable(name).replace('_', ' ')} {count(n)}"
        for name, n in traffic.outcomes.items()
        if n and name != "dropped"
    ]
    yield Text(f"{count(traffic.attempts)} attempts: {', '.join(ended)}")
    for title, answered in (("failures", False), ("answered, and faulty", True)):
        found = [failure for failure in traffic.failures if (failure.outcome == "ok") is answered]
        if found:
            worst = ", ".join(
                f"{readable(failure.error or failure.outcome)} {count(failure.n)}" for failure in found[:SHOWN_FAILURES]
            )
            yield Text(f"{title}: {worst}{', and more' if len(found) > SHOWN_FAILURES else ''}")
    for worker in plan.workers:
        yield Text(f"load generator: {generator(worker)}")
    yield Text(f"{count(traffic.prompt_tokens)} prompt + {count(traffic.completion_tokens)} completion tokens; "
               f"{digits(traffic.output_tokens_per_s)} output tokens/s; "
               f"{digits(traffic.mean_in_flight)} in flight, at most {count(traffic.peak_in_flight)}")  # fmt: skip
    if plan.estimate is not None:
        yield Text(estimator_error(plan.estimate))
    if plan.budget:
        yield Text(f"budget: {', '.join(spent(each.resource, each.used, each.limit) for each in plan.budget)} used")


def _quota(quota: QuotaUse, plan: Plan) -> Iterator[RenderableType]:
    for name, limit, peak, share in (
        ("tokens", quota.tokens_per_minute, plan.traffic.peak_tokens_per_minute, quota.tokens_share),
        ("requests", quota.requests_per_minute, plan.traffic.peak_requests_per_minute, quota.requests_share),
    ):
        binds = "  <- binds first" if quota.binds == name and quota.target is None else ""
        line = Text(f"{name:<9}{percent(share):>8}  {whole(peak)} of {count(limit)} per minute")
        yield line.append(binds, "bold")
    first = "" if quota.target is None else f", up to {readable(quota.target)}'s {readable(quota.binds)} per minute"
    yield Text.assemble("headroom ", (f"{digits(quota.headroom):>7} ×", "bold"), f" this load{first}")  # noqa: RUF001
    refused = plan.traffic.outcomes.get("throttled", 0)
    yield Text(f"429s     {percent(quota.throttled_share):>8}  {_many(refused, 'attempt')}; "
               f"mean wait in our own throttle {digits(quota.mean_throttle_wait_ms)} ms")  # fmt: skip


def _cost(plan: Plan) -> Iterator[RenderableType]:
    cost, estimate = plan.serverless, plan.instances
    if cost is not None:
        yield Text(f"this run so far {usd(cost.so_far_usd)}; a planned request {usd(cost.per_request_usd)} serverless; "
                   f"prices of {readable(cost.dated)}")  # fmt: skip
    if plan.ahead is not None and plan.ahead.spending is not None:
        yield from ahead.spent(plan.ahead.spending)
    if plan.managed and estimate is not None and (plan.ahead is None or plan.ahead.capacity is None):
        yield Text(f"instances: {digits(estimate.peak_requests_per_s)}/s × {digits(estimate.time_in_system_s)} s "  # noqa: RUF001
                   f"/ {count(estimate.concurrency_per_instance)} at once = {count(estimate.instances)}{_spare(plan)}; "
                   f"concurrency {readable(estimate.concurrency_source)}")  # fmt: skip
    if plan.ahead is not None and plan.ahead.costs is not None:
        yield from ahead.costs(plan.ahead.costs, valid=plan.validity.valid)
        return
    if cost is not None or plan.managed:
        yield _prices(cost, plan.managed)
    if plan.managed[CHEAPEST:]:
        yield Text(f"and {_many(len(plan.managed[CHEAPEST:]), 'dearer kind')} of instance, in the report", "dim")


def _spare(plan: Plan) -> str:
    """What the rules add to the instances that the load needs."""
    if plan.ahead is None or plan.ahead.instances is None or plan.instances is None:
        return ""
    more = plan.ahead.instances - plan.instances.instances
    return f", and {count(more)} more by --spare or --min-instances" if more else ""


def _prices(serverless: ServerlessCost | None, managed: Sequence[ManagedCost]) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    table.add_column("", overflow="fold")
    for name in ("", "per hour", "per month", "break-even"):
        table.add_column(name, justify="right", no_wrap=True)
    if serverless is not None:
        amount, month = _many(serverless.deployments, "deployment"), usd(serverless.per_month_usd)
        table.add_row("serverless", amount, usd(serverless.per_hour_usd), Text(month, "bold"), "")
    for machine in managed[:CHEAPEST]:
        rate, amount = machine.break_even_requests_per_s, _many(machine.instances, "instance")
        even = UNKNOWN if rate is None else f"{digits(rate)}/s"
        row = (amount, usd(machine.per_hour_usd), Text(usd(machine.per_month_usd), "bold"), even)
        table.add_row(Text(readable(machine.sku)), *row)
    return table


def _many(n: int, noun: str) -> str:
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"
