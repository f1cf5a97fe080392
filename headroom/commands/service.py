"""headroom serve, submit, jobs and cancel: a queue of load tests for a team."""

from __future__ import annotations

import re
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headroom.commands.app import INTERRUPTED, SERVE, app
from loadgen.errors import ConfigError
from loadgen.toml_file import parse, text_of

if TYPE_CHECKING:
    from headroom.service.client import Client

ServerUrl = Annotated[str, typer.Option("--server", metavar="URL", help="Where `headroom serve` listens.")]
SAY_EVERY_S = 5.0
HERE = "http://127.0.0.1:8089"


@app.command(rich_help_panel=SERVE)
def serve(
    runs: Annotated[Path, typer.Option(help="The folder of the run folders; the queue is kept in it too.")] = Path(
        "runs"
    ),
    host: Annotated[
        str, typer.Option(help="The address to listen on; any but this machine's own needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: one that is free.")] = 8089,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The token that each request needs; or set HEADROOM_TOKEN.")
    ] = None,
    allow_target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL[,KEY]",
            help="A deployment that jobs may load, and where its key is: env:NAME, file:PATH or entra; repeatable.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that browsers may call the service by; repeatable."),
    ] = None,
    max_requests: Annotated[int, typer.Option(min=1, help="Requests a job may send.")] = 100_000,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens a job may use.")] = 20_000_000,
    max_duration: Annotated[str, typer.Option(help="How long a job's load may last.")] = "1h",
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Prompts, pictures and traces that jobs may name.")
    ] = None,
    keep: Annotated[
        int | None,
        typer.Option(
            metavar="DAYS",
            min=1,
            max=36_500,
            help="Forget a job and its log so long after its end, and never its run; by default all are kept.",
        ),
    ] = None,
    parallel: Annotated[
        int, typer.Option(min=1, max=64, help="So many jobs at once; they disturb each other's measurements.")
    ] = 1,
) -> None:
    """Queue load tests and plans for a team: an HTTP API, and pages."""
    from headroom.service.bearer import token_of  # noqa: PLC0415
    from headroom.service.serving import serve as serve_on  # noqa: PLC0415
    from headroom.service.settings import AllowedTarget, Caps, Settings  # noqa: PLC0415
    from loadgen.slo import parse_duration_ns  # noqa: PLC0415

    if data is not None and not data.is_dir():
        raise ConfigError(f"--data {data} is no folder")
    try:
        longest_s = parse_duration_ns(max_duration) / 1e9
    except ConfigError as error:
        raise ConfigError(f"--max-duration: {error}") from None
    settings = Settings(
        runs=runs.absolute(),
        host=host,
        port=port,
        token=token_of(token_file),
        parallel=parallel,
        targets=tuple(map(AllowedTarget.parse, allow_target or ())),
        hosts=tuple(map(str.lower, allow_host or ())),
        caps=Caps(requests=max_requests, tokens=max_tokens, duration_s=longest_s),
        keep=None if keep is None else timedelta(days=keep),
        data=data,
    )
    serve_on(settings)


@app.command(rich_help_panel=SERVE)
def submit(
    file: Annotated[Path, typer.Argument(help="A loadtest.toml, or a plan's fields with its runs.")],
    server: ServerUrl = HERE,
    name: Annotated[str | None, typer.Option(help="What people call it; by default the file's name.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="By which its run is found again; repeatable.")] = None,
    schedule: Annotated[
        str | None, typer.Option(metavar="CRON", help="Queue it again and again: five fields in UTC, like '0 2 * * *'.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end, and end with the run's exit code.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the job's id.")] = False,
) -> None:
    """Queue a load test or a plan at a service."""
    if schedule is not None and wait:
        raise ConfigError("--wait: a scheduled job comes again and again, and there is no one end: leave it out")
    client = _client(server)
    kind, text = _read(file)
    job: dict[str, Any] = {"kind": kind, "config": text, "name": name or file.stem[:100], "tags": tag or []}
    try:
        made = client.submit(job if schedule is None else {**job, "schedule": schedule})
    except ConfigError as error:  # the service calls each job's configuration loadtest.toml
        raise ConfigError(re.sub(r"(?m)^loadtest\.toml(?=:| is )", lambda _: str(file), str(error))) from None
    if "schedule" in made:
        sys.stdout.write(f"{made['schedule']['id']}\n")
        _say(f"scheduled; next at {made['schedule']['next_utc']}", quiet=quiet)
        return
    sys.stdout.write(f"{made['job']['id']}\n")
    sys.stdout.flush()
    if wait:
        raise typer.Exit(_wait(client, made["job"]["id"], quiet=quiet))


@app.command(rich_help_panel=SERVE)
def jobs(
    job: Annotated[str | None, typer.Argument(metavar="[ID]", help="One of them.")] = None,
    server: ServerUrl = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as the service tells them.")] = False,
) -> None:
    """Show the jobs of a service, or one and how far it is."""
    import json  # noqa: PLC0415

    from dashboards.jobs import print_job, print_jobs, print_schedules  # noqa: PLC0415

    client = _client(server)
    found: Any = client.jobs() if job is None else client.job(job)
    if as_json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    elif job is None:
        print_jobs(found)
        print_schedules(client.schedules())
    else:
        print_job(found, client.server)


@app.command(rich_help_panel=SERVE)
def cancel(
    job: Annotated[str, typer.Argument(metavar="ID", help="Of a job, or of a schedule.")], server: ServerUrl = HERE
) -> None:
    """Cancel a job of a service: at once where it waits, within seconds where it runs; or delete a schedule."""
    found = _client(server).cancel(job)
    sys.stdout.write("it is told to end\n" if found == "running" else f"{found}\n")


def _client(server: str) -> Client:
    from headroom.service.bearer import token_of  # noqa: PLC0415
    from headroom.service.client import Client  # noqa: PLC0415

    return Client(server, token_of())


def _read(file: Path) -> tuple[str, str]:
    """The kind of job, and its TOML, which the service validates."""
    text = text_of(file)
    return "plan" if "runs" in parse(text, file) else "loadtest", text


def _wait(client: Client, job_id: str, *, quiet: bool) -> int:
    from dashboards.jobs import line_of, place_of  # noqa: PLC0415

    state = shown = None
    said_s = 0.0
    for shown in client.follow(job_id):
        if shown["job"]["state"] != state or (state == "running" and time.monotonic() - said_s > SAY_EVERY_S):
            state, said_s = shown["job"]["state"], time.monotonic()
            _say(line_of(shown), quiet=quiet)
    assert shown is not None
    _say(place_of(shown["job"], client.server), quiet=quiet)
    code = shown["job"]["exit_code"]
    if code in (1, 2, 112):
        _say(str(shown["job"]["error"] or ""), quiet=False)
    return INTERRUPTED if code is None else int(code)


def _say(text: str, *, quiet: bool) -> None:
    from dashboards.readable import readable  # noqa: PLC0415

    if not quiet:
        sys.stderr.write("".join(f"headroom: {readable(line)}\n" for line in text.splitlines()))
