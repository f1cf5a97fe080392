"""How a demand would fare at a quota, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from loadgen.quota import Quota
from planner.plan import WhatIf


def print_what_if(rows: Sequence[WhatIf], quota: Quota, console: Console) -> None:
    """One line for each number of deployments and each way the quota may be enforced."""
    console.print(
        f"{quota.tokens_per_minute:,} tokens and {quota.requests_per_minute:,} requests a minute each; a request "
        f"counts {quota.admission} (for a trace, its completion); arrivals are dealt out in turn",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("deployments", justify="right")
    table.add_column("enforced as", no_wrap=True)
    for name in ("% of requests refused", "% of tokens", "or wait p50", "wait p99", "never fit"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.deployments),
            row.window,
            f"{row.rejected_requests_share * 100:.2f}",
            f"{row.rejected_tokens_share * 100:.2f}",
            _seconds(row.delay_p50_s),
            _seconds(row.delay_p99_s),
            f"{row.never_fit:,}",
        )
    console.print(table)


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} s"
