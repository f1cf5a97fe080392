"""headroom compare, ab and baseline: is it slower than it was?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headroom.commands.app import (
    BASELINES,
    INTERRUPTED,
    JUDGE,
    WELCH,
    Baselines,
    FailOn,
    GitHub,
    JUnit,
    Markdown,
    TestName,
    app,
)
from headroom.commands.load import also_of, flags_of, place_of, run
from loadgen.errors import ConfigError

Json = Annotated[
    str | None,
    typer.Option("--json", metavar="FILE|-", help="Write the comparison as JSON; - prints it alone."),
]
KeyPlace = Annotated[str | None, typer.Option(metavar="PLACE", help="Where its key is: env:NAME, file:PATH or entra.")]
_OWN = ("file", "check", "target", "repeat", "out", "quiet", "no_report", "slo", "junit", "markdown", "github", "json_")


@app.command(rich_help_panel=JUDGE)
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="BASE NEW", help="Each a run folder, a folder of runs, or a baseline's file or name."),
    ],
    fail_on: FailOn = None,
    test: TestName = WELCH,
    confirm: Annotated[
        Path | None, typer.Option(metavar="RUNS", help="Fresh runs that must show a regression too.")
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Change points over all that is named, instead of a comparison.")
    ] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="DAY", help="With --history: a slowdown before this day or time is known and accepted."),
    ] = None,
    baselines: Baselines = BASELINES,
    junit: JUnit = None,
    markdown: Markdown = None,
    github: GitHub = False,
    json_: Json = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing: the exit code says it.")] = False,
) -> None:
    """Say whether new runs are slower than a base, or fail more."""
    from headroom import comparing  # noqa: PLC0415
    from headroom.gating import Outputs  # noqa: PLC0415

    terms = comparing.Terms.parse(fail_on, test, baselines)
    outputs = Outputs.of({"junit": junit, "markdown": markdown, "github": github, "json_": json_})
    if history:
        given = {"--confirm": confirm, "--junit": junit, "--markdown": markdown, "--github": github}
        unheeded = [flag for flag, value in given.items() if value] + (["--test"] if test != WELCH else [])
        if unheeded:
            raise ConfigError(f"--history makes no use of {', '.join(unheeded)}")
        raise typer.Exit(comparing.history(runs, terms, since=since, outputs=outputs, quiet=quiet))
    if since is not None:
        raise ConfigError("--since is of a --history")
    if len(runs) != 2:
        raise ConfigError("compare takes a BASE and a NEW: several runs of one side go into one folder, or a baseline")
    base, new = runs
    raise typer.Exit(comparing.verdict(base, new, terms, confirm=confirm, outputs=outputs, quiet=quiet))


@app.command(rich_help_panel=JUDGE)
@also_of(run, but=lambda name: name in _OWN)
def ab(
    file: Annotated[Path | None, typer.Argument(help="A loadtest.toml; flags override it.")] = None,
    a: Annotated[str, typer.Option("--a", metavar="URL", help="The base: an endpoint's URL, or sim.")] = "",
    b: Annotated[str, typer.Option("--b", metavar="URL", help="What is compared with it.")] = "",
    a_key: KeyPlace = None,
    b_key: KeyPlace = None,
    pairs: Annotated[int, typer.Option(help="So many runs of each, in turns: A B, B A, A B.")] = 10,
    fail_on: FailOn = None,
    test: TestName = WELCH,
    confirm: Annotated[
        bool, typer.Option("--confirm", help="After a regression play them all again: it must show twice.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="The folder of the runs; must not exist.")] = None,
    junit: JUnit = None,
    markdown: Markdown = None,
    github: GitHub = False,
    json_: Json = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the folder.")] = False,
    **of_run: Any,
) -> None:
    """Load two deployments in turns, and say whether the second is slower."""
    from headroom import comparing, gating, repeating  # noqa: PLC0415
    from headroom.audience import audience_of  # noqa: PLC0415
    from headroom.gating import Outputs  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    if not a or not b:
        raise ConfigError("ab needs --a URL and --b URL")
    config = load_config(file, flags_of({**of_run, "out": out}), os.environ)
    gating.say_not_judged(config)
    places = {name: place_of(name) for name in config.scenarios}
    terms = comparing.Terms.parse(fail_on, test, BASELINES)
    outputs = Outputs.of({"junit": junit, "markdown": markdown, "github": github, "json_": json_})
    arms = ((a, a_key), (b, b_key))
    try:
        with audience_of({**of_run, "quiet": quiet}, config) as audience:
            code = repeating.compare_in_turns(
                config, places, arms, pairs,
                terms=terms, confirm=confirm, outputs=outputs, quiet=quiet, audience=audience,
            )  # fmt: skip
    except KeyboardInterrupt:  # before the first run began
        sys.stderr.write("headroom: interrupted\n")
        code = INTERRUPTED
    raise typer.Exit(code)


baseline_commands = typer.Typer(no_args_is_help=True, help="Keep what runs were like, for later ones.")
app.add_typer(baseline_commands, name="baseline", rich_help_panel=JUDGE)


@baseline_commands.command()
def save(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders, or folders of runs.")],
    name: Annotated[str, typer.Option(help="What `compare` will call it.")],
    baselines: Baselines = BASELINES,
) -> None:
    """Write DIR/NAME.json, for the repository under test."""
    from headroom import comparing  # noqa: PLC0415

    comparing.save(runs, name, baselines)


@baseline_commands.command("list")
def list_(baselines: Baselines = BASELINES) -> None:
    """Name the baselines there are."""
    from headroom import comparing  # noqa: PLC0415

    comparing.show_all(baselines)


@baseline_commands.command()
def show(
    name: Annotated[str, typer.Argument(help="Of a baseline.")],
    baselines: Baselines = BASELINES,
    as_json: Annotated[bool, typer.Option("--json", help="Print the file.")] = False,
) -> None:
    """Show what is in a baseline."""
    from headroom import comparing  # noqa: PLC0415

    comparing.show(name, baselines, as_json=as_json)
