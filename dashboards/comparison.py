"""A comparison in the terminal: the verdict, a line for each figure, and what to bear in mind."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dashboards.printing import lead
from dashboards.text import UNKNOWN, count, digits, percent, readable
from planner.comparing.baseline import Baseline
from planner.comparing.comparison import Comparison, LengthComparison, MetricComparison
from planner.comparing.figures import Test
from planner.comparing.history import History
from planner.comparing.verdict import Verdict

WIDEST_NAME = 22  # the rest of a longer one goes below
STYLES = {
    Verdict.REGRESSED: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.EQUIVALENT: "green",
    Verdict.IMPROVED: "green",
}


def print_comparison(comparison: Comparison, console: Console, *, subject: str, first: Comparison | None) -> None:
    """At any width from 60 columns on. `first`: the comparison that this one was to confirm."""
    word = Text(f" {comparison.verdict.value.upper()} ", f"bold reverse {STYLES[comparison.verdict]}")
    lines: list[RenderableType] = [Text.assemble(word, "  ", (readable(comparison.reason), "bold"))]
    lines += [lead("note", readable(each), "dim") for each in comparison.doubts]
    if first is not None:
        lines.append(lead("first", readable(first.headline), "dim"))
    outcomes = comparison.outcomes
    told = Text.assemble(("unanswered  ", "dim"), readable(outcomes.reason))
    lines += ["", _table(comparison.metrics), *_one_sided(comparison.metrics), "", told]
    if comparison.lengths is not None:
        lines.append(Text.assemble(("lengths     ", "dim"), _lengths(comparison.lengths)))
    lines.append(Text.assemble(("runs        ", "dim"), readable(f"{subject}: {_runs(comparison)}")))
    console.print(Group(*lines))


def _table(rows: Sequence[MetricComparison]) -> Table:
    table = Table(box=None, padding=(0, 0, 0, 1), header_style="dim", pad_edge=False)
    for name in ("", "verdict", "base ms", "new ms", "change", "95 %", "spread", "finds"):
        words = name in ("", "verdict")
        widest = None if name else WIDEST_NAME
        table.add_column(
            name, justify="left" if words else "right", no_wrap=name == "verdict", overflow="fold", max_width=widest
        )
    for row in rows:
        table.add_row(
            Text(readable(f"{row.name}:+{row.tolerance_share * 100:g}%").replace("{", "\n{")),
            Text(row.verdict.value, STYLES[row.verdict]),
            digits(row.base_ms),
            digits(row.new_ms),
            _more(row.ratio),
            f"{_more(row.low)} to {_more(row.high)}".replace(" % to", " to"),
            _share(row.spread_share),
            UNKNOWN if row.detectable_share is None else f"{row.detectable_share * 100:+.0f} %",
        )
    return table


def _one_sided(rows: Sequence[MetricComparison]) -> list[RenderableType]:
    """The bounds that decide, of figures that are equivalent although their interval reaches beyond the tolerance."""
    beyond = [
        f"{readable(row.name)} {_more(row.most)}"
        for row in rows
        if row.verdict is Verdict.EQUIVALENT and row.high is not None and row.high > 1 + row.tolerance_share
    ]
    said = "equivalent by the one-sided upper 95 % bound, lower than the interval's end"
    return [Text(f"{said}: {', '.join(beyond)}", "dim")] if beyond else []


def _more(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{(ratio - 1) * 100:+.1f} %"


def _share(share: float | None) -> str:
    return UNKNOWN if share is None else f"{share * 100:.1f} %"


def _lengths(lengths: LengthComparison) -> str:
    differ = "; they differ" if lengths.differ else ""
    return f"{digits(lengths.new_tokens)} tokens an answer, against {digits(lengths.base_tokens)}{differ}"


def _runs(comparison: Comparison) -> str:
    runs = comparison.runs
    by = "ranks" if runs.test == Test.RANKS else "Student's t" if runs.paired else "Welch's t"
    return f"{len(runs.new)} new against {len(runs.base)}, {'in pairs, ' if runs.paired else ''}by {by}"


def print_history(history: History, console: Console) -> None:
    """A line for each change, the latest last."""
    metrics = ", ".join(readable(name) for name in history.metrics)
    for skipped in history.skipped:
        console.print(Text.assemble(("passed over  ", "dim"), readable(skipped)), soft_wrap=True)
    if not history.changes:
        console.print(Text(f"No change of level in {history.points} points of {metrics}."), soft_wrap=True)
        return
    for change in sorted(history.changes, key=lambda each: (each.started_utc, each.metric)):
        style = "red" if change.ratio > 1 else "green"
        line = Text.assemble(f"{change.started_utc}  ", (f"{readable(change.metric)} {_more(change.ratio)}", style))
        line.append(f" from {readable(change.at)} on: {digits(change.before_ms)} to {digits(change.after_ms)} ms")
        line.append(f"; p {change.p:.3g}")
        console.print(line, soft_wrap=True)


def print_baselines(baselines: Sequence[Baseline], console: Console) -> None:
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    for name in ("name", "runs", "newest", "model"):
        table.add_column(name, justify="right" if name == "runs" else "left", overflow="fold")
    for each in baselines:
        newest = each.runs[-1]
        model = str(newest.circumstances.get("model", UNKNOWN))
        table.add_row(_shown(each.name), count(len(each.runs)), _shown(newest.started_utc), _shown(model))
    console.print(table)


def print_baseline(baseline: Baseline, console: Console) -> None:
    """What its runs were like, a line a run."""
    table = Table(box=None, padding=(0, 0, 0, 2), header_style="dim", pad_edge=False)
    figures = [("ttft", 50.0), ("ttft", 95.0), ("tpot", 50.0), ("tpot", 95.0), ("response_time", 95.0)]
    for name in ("run", "started", "requests", "unanswered", *(f"{metric} p{at:g}" for metric, at in figures)):
        table.add_column(name, justify="left" if name in ("run", "started") else "right", overflow="fold")
    for run in baseline.runs:
        found = [run.quantile(metric, at) for metric, at in figures]
        table.add_row(
            _shown(run.name),
            _shown(run.started_utc[:16].replace("T", " ")),
            count(run.arrivals),
            percent(run.unanswered / run.arrivals if run.arrivals else None),
            *(digits(None if each is None else each.value_ms) for each in found),
        )
    console.print(table)


def _shown(name: str) -> Text:
    """Somebody's words, which are no markup."""
    return Text(readable(name))
