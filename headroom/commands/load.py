"""headroom run: load on a deployment."""

from __future__ import annotations

import difflib
import inspect
import keyword
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from headroom.commands.app import (
    INTERRUPTED,
    MEASURE,
    GitHub,
    Json,
    JUnit,
    Live,
    LivePort,
    Markdown,
    Otlp,
    Progress,
    Thresholds,
    app,
)
from loadgen.errors import ConfigError

Command = TypeVar("Command", bound=Callable[..., None])


@app.command(rich_help_panel=MEASURE)
def run(
    file: Annotated[Path | None, typer.Argument(help="A loadtest.toml; flags override it.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Validate the file and flags, print what they come to, send nothing.")
    ] = False,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="`sim`, or an endpoint's URL; by default AZURE_INFERENCE_ENDPOINT, AZUREAI_ENDPOINT_URL or sim. "
            "Repeatable: see --split.",
        ),
    ] = None,
    dialect: Annotated[str | None, typer.Option(help="azure or openai.")] = None,
    kind: Annotated[str | None, typer.Option(help="serverless or managed.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name, where /info does not say it.")] = None,
    instances: Annotated[int | None, typer.Option(help="How many instances a managed deployment has.")] = None,
    key: Annotated[str | None, typer.Option(help="Where the key is: env:NAME, file:PATH or entra.")] = None,
    yes_target: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Allow load on this host, which is not this machine; repeatable."),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=WEIGHT]",
            help="One of chat, streaming, vision, ... (see the README) or path/to/file.py:Class; repeatable.",
        ),
    ] = None,
    users: Annotated[int | None, typer.Option(help="Closed loop: so many users.")] = None,
    spawn_rate: Annotated[str | None, typer.Option(help="Users that come, like 10/s; by default all at once.")] = None,
    think_time: Annotated[str | None, typer.Option(help="A user's wait after an answer: 2s, 1s..3s or exp:2s.")] = None,
    rate: Annotated[str | None, typer.Option(help="Open loop: arrivals, like 5/s or 300/min.")] = None,
    spike: Annotated[
        str | None, typer.Option(help="Another rate for a while: 50/s:10s@30s is 50/s for 10 s from 30 s on.")
    ] = None,
    diurnal: Annotated[
        str | None, typer.Option(metavar="W0,...,W23", help="Weights of a day's hours, whose mean has the rate.")
    ] = None,
    stages: Annotated[
        str | None, typer.Option(help="Open loop: rates with even ramps between them, like 5/s:60s,20/s:120s.")
    ] = None,
    arrivals: Annotated[str | None, typer.Option(help="constant, poisson or gamma.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Open loop: arrivals and token counts of a file, or of a run folder.")
    ] = None,
    speed: Annotated[float | None, typer.Option(help="Play the trace so many times faster.")] = None,
    from_: Annotated[str | None, typer.Option("--from", help="Skip so much of the trace's beginning.")] = None,
    scale: Annotated[str | None, typer.Option(help="Play so many times the trace's arrivals, like 2x.")] = None,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Pass over bad rows of the trace, and count them.")
    ] = False,
    duration: Annotated[str | None, typer.Option(help="How long arrivals come, warm-up included, like 60s.")] = None,
    warmup: Annotated[str | None, typer.Option(help="The first part of it, which no figure counts.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Quota: tokens a minute.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Quota: requests a minute.")] = None,
    throttle: Annotated[str | None, typer.Option(help="pace, off or feedback.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Completion limit of each request.")] = None,
    prompt_tokens: Annotated[
        str | None, typer.Option(help="Tokens of each prompt, like fixed:200, uniform:50..400 or lognormal:200,0.5.")
    ] = None,
    completion_tokens: Annotated[
        str | None, typer.Option(help="max_tokens of each request, drawn likewise, instead of --max-tokens.")
    ] = None,
    retries: Annotated[int | None, typer.Option(help="Further attempts after a failure; each is a row.")] = None,
    split: Annotated[
        str | None,
        typer.Option(help="How several targets share arrivals: weight, round_robin, least_throttled or each."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed repeats arrivals and requests.")] = None,
    processes: Annotated[
        int | None, typer.Option(help="So many load processes share the load; -1: one a core.")
    ] = None,
    master: Annotated[
        bool, typer.Option("--master", help="Wait for workers on other machines, and let them make the load.")
    ] = False,
    bind: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Where a master listens (127.0.0.1:5557).")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="So many workers a master waits for (1).")] = None,
    budget_requests: Annotated[int | None, typer.Option(help="End when so many requests are sent.")] = None,
    budget_tokens: Annotated[int | None, typer.Option(help="End before so many tokens are used.")] = None,
    budget_usd: Annotated[float | None, typer.Option(help="End before so many US dollars are spent.")] = None,
    budget_wall: Annotated[str | None, typer.Option(help="Send nothing so long after the start, like 10m.")] = None,
    no_auto_stop: Annotated[
        bool, typer.Option("--no-auto-stop", help="Go on whatever fails: without it 401, 403 or 90 % errors end it.")
    ] = False,
    slo: Thresholds = None,
    repeat: Annotated[
        int | None, typer.Option(help="Play it so many times, each afresh, into one folder: for `compare`.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; must not exist.")] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html.")] = False,
    junit: JUnit = None,
    markdown: Markdown = None,
    github: GitHub = False,
    json_: Json = None,
    otlp: Otlp = None,
    live: Live = False,
    live_port: LivePort = None,
    progress: Progress = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the run folder.")] = False,
) -> None:
    """Load-test a deployment, record what happened, and plan from it."""
    given = dict(locals())
    try:
        raise typer.Exit(_run(file, given))
    except KeyboardInterrupt:  # before the load began, or while its plan was made: the load itself ends by itself
        sys.stderr.write("headroom: interrupted\n")
        raise typer.Exit(INTERRUPTED) from None


@app.command(rich_help_panel=MEASURE)
def worker(
    connect: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="Where the master listens.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the record waits until the master has it (runs/worker-DATE-TIME); must not exist."),
    ] = None,
) -> None:
    """Make a share of the load of a master elsewhere: `headroom run --master`."""
    command = [sys.executable, "-m", "loadgen.spread.worker", "--connect", connect]
    os.execv(sys.executable, command + ([] if out is None else ["--out", str(out)]))  # noqa: S606 - no shell is meant


def _run(file: Path | None, given: Mapping[str, Any]) -> int:
    from headroom import running, targets  # noqa: PLC0415
    from headroom.aborting import check_delays  # noqa: PLC0415
    from headroom.audience import audience_of  # noqa: PLC0415
    from headroom.gating import Outputs  # noqa: PLC0415
    from headroom.own_scenarios import check_own  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    config, outputs = load_config(file, flags_of(given), os.environ), Outputs.of(given)
    places = {name: place_of(name) for name in config.scenarios}
    if given["check"]:
        targets.check(config)
        check_delays(config)
        check_own(config, places)
        sys.stdout.write(config.model_dump_json(indent=2, exclude_none=True) + "\n")
        return 0
    with audience_of(given, config) as audience:
        if given["repeat"] is not None:
            from headroom import repeating  # noqa: PLC0415

            return repeating.repeat(
                config, places, given["repeat"], quiet=given["quiet"], outputs=outputs, audience=audience
            )
        return running.run(config, places, quiet=given["quiet"], outputs=outputs, audience=audience)


def flags_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The config's keys and values that a command's parameters set: each is named as its flag in FLAG_OF is.

    A switch that was not given says nothing; one that begins with --no sets its key to false. Raises ConfigError.
    """
    from loadgen.loadtest import FLAG_OF  # noqa: PLC0415

    values = {}
    for key, flag in FLAG_OF.items():
        value = given.get(parameter_of(flag))
        if value is not None and value is not False:
            values[key] = False if flag.startswith("--no-") else value
    if given.get("scenario"):
        values["scenarios"] = mix_of(given["scenario"])
    return values


def parameter_of(flag: str) -> str:
    """`--max-tokens` as Python names it, and `--from` with a stroke behind."""
    name = flag.removeprefix("--").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def also_of(command: Callable[..., None], *, but: Callable[[str], bool]) -> Callable[[Command], Command]:
    """Give a command the flags of another, less those for which `but` holds of their Python name: declared once.

    They reach it as the keyword arguments that it does not name itself.
    """

    def extended(function: Command) -> Command:
        own = inspect.signature(function, eval_str=True).parameters
        theirs = inspect.signature(command, eval_str=True).parameters
        merged = {name: each for name, each in theirs.items() if name not in own and not but(name)}
        named = [each for each in own.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
        parameters = [*named, *merged.values()]
        plain = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
        function.__signature__ = inspect.Signature(plain)  # type: ignore[attr-defined]
        function.__annotations__ = {each.name: each.annotation for each in plain}
        return function

    return extended


def mix_of(scenarios: list[str]) -> dict[str, float]:
    """`chat=3` and `streaming` as names and weights. Raises ConfigError."""
    mix: dict[str, float] = {}
    for text in scenarios:
        name, _, weight = text.partition("=")
        try:
            mix[name] = float(weight or 1)
        except ValueError:
            raise ConfigError(f"--scenario {text}: {weight!r} is no weight; write it like {name}=3") from None
    return mix


def place_of(name: str) -> str:
    """Where a scenario's class is. Raises ConfigError for a name that there is not."""
    from scenarios import PLACES  # noqa: PLC0415

    if ":" in name:
        return name
    if name not in PLACES:
        near = difflib.get_close_matches(name, PLACES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(PLACES)}, or path/to/file.py:Class"
        raise ConfigError(f"scenario {name!r} is not known; {hint}")
    return PLACES[name]
