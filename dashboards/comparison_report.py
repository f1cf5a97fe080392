"""A comparison as one HTML file: the verdict, how sure it is, both sides' distributions, and how attempts ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dashboards import figures, text
from dashboards.all_figures import all_figures
from dashboards.drawings import Drawing
from dashboards.figures_comparison import changes
from dashboards.page import page
from loadgen.durable import publish_bytes
from loadgen.samples import Run
from planner import metrics
from planner.comparing.comparison import Comparison
from planner.comparing.outcomes import outcome_mix
from planner.rows import config_of

LOOKS = {"regressed": "bad", "inconclusive": "care", "equivalent": "good", "improved": "good"}


def write_comparison(comparison: Comparison, sides: Mapping[str, Sequence[Run]], path: Path, *, subject: str) -> None:
    """Write the page to `path`, at once or not at all; `sides` are the runs whose record is there.

    Raises OSError where it cannot be written.
    """
    publish_bytes(path, render(comparison, sides, subject=subject).encode("utf-8"))


def render(comparison: Comparison, sides: Mapping[str, Sequence[Run]], *, subject: str) -> str:
    """The whole page. Every text in it is escaped and free of control characters."""
    return page(
        "comparison.html.jinja",
        comparison=comparison,
        subject=subject,
        drawings=draw(comparison, sides),
        looks=LOOKS,
        mix=outcome_mix(comparison.outcomes),
        rows=list(all_figures(comparison.metrics, "metrics")),
        undrawn=[each.name for each in comparison.metrics if each.ratio is None],
        told_runs=[(side, *_told(run)) for side, runs in sides.items() for run in runs],
    )


def _told(run: Run) -> tuple[str, str, str, str]:
    """Its name, model, target and start."""
    manifest = run.manifest
    targets = config_of(run).targets
    at = ", ".join(str(each.url or each.name) for each in targets)
    return run.folder.name, str(manifest.deployment.get("model_name", text.UNKNOWN)), at, manifest.started_utc


def draw(comparison: Comparison, sides: Mapping[str, Sequence[Run]]) -> dict[str, list[Drawing]]:
    """The change of each figure with its interval, and the distributions of both sides over one another."""
    told = [each for each in comparison.metrics if each.ratio is not None]
    summary = "; ".join(text.readable(each.reason) for each in told)
    change = Drawing("changes", "New over base with its 95 % interval, and what is tolerated", changes(told), summary)
    overlaid = {}
    if all(sides.values()):
        overlaid = figures.latency_distribution(metrics.latency_of_sides(sides))
    return {
        "changes": [change] if told else [],
        "overlaid": [
            Drawing(f"overlaid-{metric}", f"{text.metric_name(metric)}: share answered within, ms", figure)
            for metric, figure in overlaid.items()
        ],
    }
