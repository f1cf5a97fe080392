"""How a demand would fare at a quota, for the terminal: what it needs, what is refused, and how retries fare."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from dashboards.printing import lead, without_trailing_blanks
from dashboards.text import UNKNOWN, digits, percent
from planner.plan import WhatIf
from planner.quotas.clients import ClientOutcome
from planner.quotas.deployments import PolicyNeed, QuotaNeed, Trim
from planner.quotas.quota_plan import QuotaPlan


def print_quota_plan(plan: QuotaPlan, console: Console) -> None:
    """For a demand without a run."""
    with without_trailing_blanks(console):
        _print_quota_plan(plan, console)


def _print_quota_plan(plan: QuotaPlan, console: Console) -> None:
    _say(
        console,
        f"{plan.tokens_per_minute:,} tokens and {plan.requests_per_minute:,} requests a minute each; a request "
        f"counts {plan.admission}; arrivals are dealt out in turn",
    )
    if plan.need is not None:
        for line in need_in_words(plan.need):
            _say(console, line)
    console.print()
    for doubt in plan.doubts:
        console.print(lead("doubt", doubt, "yellow"))
    console.print()
    if plan.rows_of is not None:
        _say(console, f"Of the busiest {plan.rows_of:,} arrivals:")
    print_what_if(plan.rows, console)
    if plan.need is not None:
        _print_policies(plan.need, console)
    _print_clients(plan.clients, console)


def need_in_words(need: QuotaNeed) -> list[str]:
    """Sentences: how many deployments, how sure that is, what binds when, and what a lower max_tokens would win."""
    interval = "too short to say how sure that is: give ten minutes or more"
    if need.low is not None:
        interval = (
            f"{_range(need.low, need.high)} with 95 % confidence, in the ways below, by {need.bootstrap_blocks} "
            f"stretches of {need.block_minutes} min drawn again"
        )
    when = need.binds_when
    nearer = when.tokens_nearer_share if need.binds == "tokens" else 1 - when.tokens_nearer_share
    at = "" if need.low is None else f", {_into(when.busiest_minute_s)},"  # too short to tell one minute from another
    busiest = f"The busiest minute{at} fills {when.busiest_minute_load:.1f} deployments"
    if when.busiest_hour_s is not None:
        busiest += f", the busiest hour, {_into(when.busiest_hour_s)}, {when.busiest_hour_load:.1f}"
    lines = [
        f"{_deployments(need.deployments)} {'refuses' if need.deployments == 1 else 'refuse'} at most "
        f"{need.target_share * 100:g} % of the requests, however the quota is enforced ({interval}).",
        f"The {need.binds} bind: they are nearer their limit than the "
        f"{'requests' if need.binds == 'tokens' else 'tokens'} in {percent(nearer)} of the minutes. {busiest}, "
        f"the mean minute {when.mean_load:.1f}.",
    ]
    own = [each for each in need.by_policy if _counting(each) == _counting(need.by_policy[0])]
    lines += [
        f"{each.never_fit:,} requests are larger than a {each.window} ever admits: enforced so, no number of "
        "deployments would serve them; they are not counted among those refused."
        for each in own
        if each.never_fit
    ]
    lines += [_trimmed(trim) for trim in need.max_tokens_trim if trim.deployments < need.deployments]
    return lines


def _trimmed(trim: Trim) -> str:
    cut = f"{percent(trim.cut_short_share)} of the answers" if trim.cut_short_share else "no answer"
    return (
        f"With max_tokens at most {trim.max_tokens:,} (p{trim.percentile * 100:g} of the completions) "
        f"{_deployments(trim.deployments)} would do; {cut} would be cut short."
    )


def print_what_if(rows: Sequence[WhatIf], console: Console) -> None:
    """One line for each number of deployments and each way the quota may be enforced."""
    table = _table("enforced as", "% requests\nrefused", "% tokens\nrefused", "or wait\np50", "wait\np99", "never\nfit")
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


def _print_policies(need: QuotaNeed, console: Console) -> None:
    """A line for each admission and slice, a column for each window."""
    _say(console, "\nDeployments needed (95 % interval), by how the quota may be enforced, which is not documented:")
    windows = list(dict.fromkeys(policy.window for policy in need.by_policy))
    table = Table(box=None, pad_edge=False)
    table.add_column("a request counts", no_wrap=True)
    table.add_column("checked each", justify="right")
    for window in windows:
        table.add_column(window, justify="right", no_wrap=True)
    for (admission, slice_s), policies in groupby(need.by_policy, _counting):
        by_window = {policy.window: policy for policy in policies}
        table.add_row(admission, f"{slice_s} s", *(_needed(by_window[window]) for window in windows))
    console.print(table)


def _print_clients(clients: Sequence[ClientOutcome], console: Console) -> None:
    if not clients:
        return
    _say(console, f"\nClients that try again, enforced as {clients[0].window}; refused tries are not billed:")
    table = _table("client (tries)", "tries a\nrequest", "% never\nadmitted", "wait\np50", "wait\np99", "longest\nwait")
    for each in clients:
        table.add_row(
            str(each.deployments),
            f"{each.client} ({len(each.refused_after_share)})",
            f"{each.attempts_per_request:.2f}",
            f"{each.refused_share * 100:.2f}",
            *map(_seconds, (each.delay_p50_s, each.delay_p99_s, each.delay_max_s)),
        )
    console.print(table)


def _table(name: str, *figures: str) -> Table:
    """A row for a number of deployments, in 80 columns."""
    table = Table(box=None, pad_edge=False)
    table.add_column("deploy-\nments", justify="right", no_wrap=True)
    table.add_column(name, no_wrap=True)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table


def _counting(policy: PolicyNeed) -> tuple[str, int]:
    return policy.admission, policy.request_slice_s


def _needed(policy: PolicyNeed) -> str:
    if policy.low is None or policy.low == policy.high == policy.deployments:
        return f"{policy.deployments}"
    return f"{policy.deployments} ({_range(policy.low, policy.high)})"


def _range(low: int | None, high: int | None) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _deployments(number: int) -> str:
    return f"{number:,} deployment{'' if number == 1 else 's'}"


def _into(at_s: float) -> str:
    if round(at_s / 60) == 0:
        return "at the start"
    minutes, hours = round(at_s / 60) % 60, round(at_s / 60) // 60
    return f"{hours} h {minutes} min in" if hours else f"{minutes} min in"


def _seconds(value: float | None) -> str:
    return UNKNOWN if value is None else f"{digits(value)} s"


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False)
