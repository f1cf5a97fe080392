"""A sweep in the terminal: a line for each step as it ends, then the result, what it assumes, and the steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dashboards.printing import lead
from dashboards.terminal import SHORT_NAMES
from dashboards.text import count, digits, readable
from planner.steps import Step, too_few
from planner.sweep import Count, Stop, Verdict, pooled_counts
from planner.swept import Sweep

STYLES = {
    Verdict.MET: "green",
    Verdict.MISSED: "red",
    Verdict.SATURATED: "red",
    Verdict.UNCLEAR: "yellow",
    Verdict.INVALID: "bold red",
}


def step_line(sweep: Sweep) -> Text:
    """Of the last: `12.1/s  met  34 s, 412 requests; 9.4 in flight; TTFT p95 312 ms`, and what counts against it."""
    step = sweep.steps[-1]
    word = step.verdict.upper() if step.verdict is Verdict.INVALID else step.verdict.value
    text = Text.assemble(f"{digits(step.rate_per_s):>8}/s  ", (f"{word:<10}", STYLES[step.verdict]))
    text.append(f"{digits(step.steady_s)} s, {count(step.requests)} requests; {digits(step.concurrency)} in flight")
    for name, value in (("TTFT", step.ttft_p95_ms), ("response", step.response_p95_ms)):
        if value is not None:
            text.append(f"; {name} p95 {digits(value)} ms")
    for remark in remarks(step, sweep.steps):
        text.append(f"; {remark}")
    return text


def remarks(step: Step, steps: Sequence[Step]) -> list[str]:
    """What decided a step, in words; of `steps` all of its rate up to it, as its verdict is."""
    at = [each for each in steps if each.rate_per_s == step.rate_per_s and each.number <= step.number]
    said = [readable(reason) for reason in step.reasons[:1]]
    if step.saturated:
        said.append(
            f"completed {digits(step.completed_per_s)}/s of {digits(step.offered_per_s)}/s offered, the rest piled up"
        )
    if step.quota_limited:
        said.append("limited by the quota")
    if not step.client_limited:
        counts = pooled_counts([each.measurement for each in at])
        said += [_beyond(each) for each in counts if each.verdict is not Verdict.MET]
    if needed := too_few(at):
        said.append(needed)
    return said


def _beyond(objective: Count) -> str:
    if objective.allowed is None:
        return f"{readable(objective.text)} {objective.verdict.value}"
    share = objective.beyond / objective.n if objective.n else 0.0
    return f"{readable(objective.text)}: {share * 100:.3g} % beyond, {objective.allowed * 100:.3g} % allowed"


def print_sweep(sweep: Sweep, console: Console) -> None:
    """The result and the table of steps, at any width from 60 columns on."""
    console.print(view(sweep))


def view(sweep: Sweep) -> Group:
    found = sweep.result is not None and sweep.result.met_at_per_s is not None
    spoiled = sweep.result is not None and sweep.result.stop is Stop.GENERATOR
    word = " UNFINISHED " if sweep.result is None else " INVALID " if spoiled else " FOUND " if found else " MISSED "
    style = "bold reverse green" if found and not spoiled else "bold reverse red"
    lines: list[RenderableType] = [Text.assemble((word, style), "  ", (readable(sweep.sentence), "bold"))]
    lines += [lead("note", each, "dim") for each in sweep.assumptions]
    return Group(*lines, "", steps_table(sweep))


def further(sweep: Sweep, shown: Collection[tuple[str, str]]) -> list[tuple[int, str]]:
    """What objectives name beyond what is `shown` (metric and statistic): its place in `named` of a step, its heading.

    Nothing of a sweep of an earlier version.
    """
    if not all(step.named for step in sweep.steps):
        return []
    named = (
        {(each.metric, each.statistic): place for place, each in enumerate(sweep.steps[0].named)} if sweep.steps else {}
    )
    return [
        (place, f"{SHORT_NAMES.get(metric, metric)} {statistic}")
        for (metric, statistic), place in named.items()
        if (metric, statistic) not in shown
    ]


def steps_table(sweep: Sweep) -> Table:
    """A row a rate, by rate: its last measurement, whose verdict is that of all of them."""
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    named = further(sweep, (("ttft", "p95"), ("itl", "p95")))
    for name in (
        *("rate/s", "verdict", "done/s", "in flight", "TTFT p95", "ITL p95"),
        *(heading for _, heading in named),
        *("e2e mean", "n"),
    ):
        table.add_column(
            name.replace("Response", "resp."),
            justify="left" if name == "verdict" else "right",
            no_wrap=name == "verdict",
            overflow="fold",
        )
    latest = {step.rate_per_s: step for step in sweep.steps}
    for rate in sorted(latest):
        step = latest[rate]
        e2e_ms = None if step.e2e_mean_s is None else step.e2e_mean_s * 1e3
        latencies = (step.ttft_p95_ms, step.itl_p95_ms, *(step.named[place].value_ms for place, _ in named), e2e_ms)
        table.add_row(
            digits(rate),
            Text(step.verdict.value, STYLES[step.verdict]),
            digits(step.completed_per_s),
            digits(step.concurrency),
            *(digits(value) for value in latencies),
            count(step.requests),
        )
    return table
