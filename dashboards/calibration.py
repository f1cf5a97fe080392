"""A calibration in the terminal: the verdict, what may be doubted, the figures, and a paragraph for a report."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dashboards.printing import lead
from dashboards.terminal import percentile
from dashboards.text import count, digits, percent, readable, whole
from planner.calibration import PARTS, Calibration

WIDE = 72  # columns from which on an interval fits beside its percentile
ROWS = {"ttft_error": "TTFT", "gap_error": "Gaps", "lag": "Lag"}
LEGEND = (
    "TTFT: our stamp of the first token minus the server's, taken right before it sends it. Gaps: by how much the time "
    "between two tokens is off. Lag: how late a request of the open loop left."
)


def print_calibration(calibration: Calibration, console: Console) -> None:
    """At any width from 60 columns on."""
    console.print(view(calibration, wide=console.width >= WIDE))


def view(calibration: Calibration, *, wide: bool) -> Group:
    """The sections in their order, for a rich console."""
    sections: list[RenderableType] = [_verdict(calibration), "", _errors(calibration, wide=wide), ""]
    sections += [Text(f"{LEGEND} {_load(calibration)}", "dim")]
    if calibration.for_report is not None:
        sections += ["", Text("For a report", "bold"), Text(readable(calibration.for_report))]
    return Group(*sections)


def _verdict(calibration: Calibration) -> RenderableType:
    valid = calibration.validity.valid
    verdict = Text(" VALID " if valid else " INVALID ", "bold reverse green" if valid else "bold reverse red")
    headline = Text.assemble(verdict, "  ", (readable(calibration.headline), "bold"))
    lines: list[RenderableType] = [headline, Text(readable(_machine(calibration)), "dim")]
    lines += [lead("why", reason, "red") for reason in calibration.validity.reasons]
    lines += [lead("doubt", doubt, "yellow") for doubt in calibration.validity.doubts]
    return Group(*lines)


def _machine(calibration: Calibration) -> str:
    machine, versions = calibration.machine, calibration.versions
    made_of = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{machine.get('cpu')}, {machine.get('cores')} cores; {made_of}"


def _errors(calibration: Calibration, *, wide: bool) -> RenderableType:
    loads = f"{count(calibration.streams)} streams of {whole(calibration.tokens_per_s)}/s"
    loads += f", then {whole(calibration.requests_per_s)} requests/s; intervals are 95 %"
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("n", "p50", "p99", "max"):
        table.add_column(name, justify="right", overflow="fold")  # a figure is never cut short
    for row in calibration.rows:
        cells = [percentile(quantile, wide=wide) for quantile in (row.p50, row.p99)]
        table.add_row(Text(f"  {ROWS[row.metric]}"), count(row.n), *cells, digits(row.max_ms))
    return Group(Text.assemble(("Error, ms", "bold"), (f"  {loads}", "dim")), table)


def _load(calibration: Calibration) -> str:
    """What the load process took of its core."""
    use = calibration.core_use
    used = " and ".join(f"{percent(each.ran)} of a core for the {PARTS[name]}" for name, each in use.items())
    waited = " and ".join(percent(each.waited) for each in use.values())
    others = " and ".join(digits(each.others) for each in use.values())
    return f"The load process used {used}, and waited for one {waited} of the time. Other programs used {others} cores."
