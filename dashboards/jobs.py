"""The jobs of a service on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from dashboards.text import UNKNOWN, count, readable, whole


def print_jobs(jobs: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Two lines each, as the API tells them; the newest first.

    A terminal cuts what is too long for it, which `headroom jobs ID` shows whole; a file or a pipe gets all of it.
    """
    console = console or Console()
    cut = console.is_terminal
    if not jobs:
        console.print("no jobs; `headroom submit FILE` queues one", soft_wrap=True)
    for job in jobs:
        tags = [f"[{', '.join(job['tags'])}]"] if job["tags"] else []
        named = " ".join([job["name"], *tags] if job["name"] else tags)
        for line in (f"{job['id']}  {_state(job)}", f"  {named}{': ' if named else ''}{job['what']}"):
            console.print(Text(readable(line)), no_wrap=True, overflow="ellipsis" if cut else "ignore", crop=cut)


def print_schedules(schedules: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """A line each, where there are any."""
    for each in schedules:
        due = each["next_utc"][:16].replace("T", " ")
        named = f"{each['name']}, " if each["name"] else ""
        line = f"{each['id']}: {named}scheduled {each['cron']}, next {due} UTC"
        (console or Console()).print(Text(readable(line)), soft_wrap=True)


def print_job(shown: Mapping[str, Any], server: str, console: Console | None = None) -> None:
    """One, how far it is, where what it found is, and the last that it said. `server`: the service's address."""
    lines = [line_of(shown), f"what: {shown['job']['what']}", place_of(shown["job"], server)]
    lines += (shown["job"]["error"] or shown["log"]).splitlines()
    for line in lines:
        (console or Console()).print(Text(readable(line)), soft_wrap=True)


def place_of(job: Mapping[str, Any], server: str) -> str:
    """Where what it found is read."""
    if job["run"] is None or job["ended_utc"] is None:
        return f"its page: {server}/jobs/{job['id']}"
    return f"its run: {job['run']} in the folder of the runs; its page: {server}/runs/{job['run']}"


def line_of(shown: Mapping[str, Any]) -> str:
    """Its state in a line."""
    job, progress = shown["job"], shown["progress"]
    line = f"{job['id']}: {_state(job)}"
    if job["state"] != "running" or not progress:
        return line
    return (
        f"{line}, {whole(progress.get('t_s'))} of {whole(progress.get('duration_s'))} s, "
        f"{count(progress.get('sent'))} sent, {count(progress.get('ok'))} ok, {count(progress.get('failed'))} failed"
    )


def _state(job: Mapping[str, Any]) -> str:
    code = job["exit_code"]
    told = code not in (None, 0) and job["state"] in ("done", "failed")
    return str(job["state"]) + (f" ({code}: {job['meaning'] or UNKNOWN})" if told else "")
