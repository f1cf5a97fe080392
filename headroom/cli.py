"""The command line: flags in, exit codes out; the work is done elsewhere."""

from __future__ import annotations

import difflib
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from headroom import __version__
from loadgen.errors import ConfigError, HeadroomError

INTERRUPTED = 105

app = typer.Typer(
    name="headroom",
    help="How much headroom an LLM deployment has, and what more would cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they print local variables, and with them keys
    context_settings={"help_option_names": ["-h", "--help"]},
)

Objectives = Annotated[list[str] | None, typer.Option("--slo", help="An objective, like 'ttft.p95<1s'; repeatable.")]


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        sys.stdout.write(f"headroom {__version__}\n")
        raise typer.Exit


@app.command()
def run(
    file: Annotated[Path | None, typer.Argument(help="A loadtest.toml; flags override it.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Validate the file and flags, print what they come to, send nothing.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option(
            help="`sim`, or an endpoint's URL; by default AZURE_INFERENCE_ENDPOINT, AZUREAI_ENDPOINT_URL or sim."
        ),
    ] = None,
    dialect: Annotated[str | None, typer.Option(help="azure or openai.")] = None,
    kind: Annotated[str | None, typer.Option(help="serverless or managed.")] = None,
    model: Annotated[str | None, typer.Option(help="The model's name, where /info does not say it.")] = None,
    key: Annotated[str | None, typer.Option(help="Where the key is: env:NAME, file:PATH or entra.")] = None,
    yes_target: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST", help="Allow load on this host, which is not this machine; repeatable."),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=WEIGHT]", help="chat, streaming, vision or path/to/file.py:Class; repeatable."),
    ] = None,
    users: Annotated[int | None, typer.Option(help="Closed loop: so many users.")] = None,
    rate: Annotated[str | None, typer.Option(help="Open loop: arrivals, like 5/s or 300/min.")] = None,
    arrivals: Annotated[str | None, typer.Option(help="constant, poisson or gamma.")] = None,
    trace: Annotated[Path | None, typer.Option(help="Open loop: arrivals and token counts from a CSV file.")] = None,
    speed: Annotated[float | None, typer.Option(help="Play the trace so many times faster.")] = None,
    duration: Annotated[str | None, typer.Option(help="How long arrivals come, warm-up included, like 60s.")] = None,
    warmup: Annotated[str | None, typer.Option(help="The first part of it, which no figure counts.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Quota: tokens a minute.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Quota: requests a minute.")] = None,
    throttle: Annotated[str | None, typer.Option(help="pace, off or feedback.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Completion limit of each request.")] = None,
    retries: Annotated[int | None, typer.Option(help="Further attempts after a failure; each is a row.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed repeats arrivals and requests.")] = None,
    slo: Objectives = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; must not exist.")] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Write no report.html.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the run folder.")] = False,
) -> None:
    """Load-test a deployment, record what happened, and plan from it."""
    from headroom import running  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    flags = {
        "target.url": target,
        "target.dialect": dialect,
        "target.kind": kind,
        "target.model": model,
        "target.key": key,
        "target.allow_hosts": yes_target,
        "scenarios": mix_of(scenario) if scenario else None,
        "load.users": users,
        "load.rate": rate,
        "load.arrivals": arrivals,
        "load.trace": trace,
        "load.speed": speed,
        "load.duration": duration,
        "load.warmup": warmup,
        "load.max_tokens": max_tokens,
        "load.throttle": throttle,
        "load.retries": retries,
        "load.seed": seed,
        "quota.tokens_per_minute": tpm,
        "quota.requests_per_minute": rpm,
        "slo": slo,
        "output.dir": out,
        "output.report": False if no_report else None,
    }
    config = load_config(file, {name: value for name, value in flags.items() if value is not None}, os.environ)
    places = {name: place_of(name) for name in config.scenarios}
    if check:
        running.check(config)
        sys.stdout.write(config.model_dump_json(indent=2, exclude_none=True) + "\n")
        return
    try:
        raise typer.Exit(running.run(config, places, quiet=quiet))
    except KeyboardInterrupt:  # before the load began, or while its plan was made: the load itself ends by itself
        sys.stderr.write("headroom: interrupted\n")
        raise typer.Exit(INTERRUPTED) from None


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


@app.command()
def plan(
    run_folder: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run folder; not needed with a trace as demand.")
    ] = None,
    demand: Annotated[
        str | None,
        typer.Option(metavar="FILE|RATE", help="Plan for a trace, or for so many requests a second, like 20/s."),
    ] = None,
    slo: Objectives = None,
    growth: Annotated[str | None, typer.Option(help="Plan for so many times the demand, like 3x.")] = None,
    region: Annotated[str | None, typer.Option(help="Where managed instances would run.")] = None,
    prices: Annotated[Path | None, typer.Option(help="A price book of your own.")] = None,
    tpm: Annotated[int | None, typer.Option(help="Quota: tokens a minute, where there is no run.")] = None,
    rpm: Annotated[int | None, typer.Option(help="Quota: requests a minute, where there is no run.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON, as in summary.json.")] = False,
) -> None:
    """What a run shows, what it would cost, and how many deployments or instances it needs."""
    from headroom import planning  # noqa: PLC0415
    from loadgen.loadtest import load_config  # noqa: PLC0415

    if run_folder is not None:
        if tpm is not None or rpm is not None:
            raise ConfigError("--tpm and --rpm go with a trace alone: a run is planned with the quota it ran under")
        planning.plan_from_run(
            run_folder, demand, slo=slo, growth=growth, region=region, prices=prices, as_json=as_json
        )
    elif demand is not None:
        quota = {"quota.tokens_per_minute": tpm, "quota.requests_per_minute": rpm}
        given = {name: value for name, value in quota.items() if value is not None}
        planning.plan_from_trace(demand, load_config(None, given, {}).quota, growth=growth, as_json=as_json)
    else:
        raise ConfigError("plan needs a run folder, or --demand with a trace")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    out: Annotated[Path, typer.Option(help="Where to write it.")] = Path("report.html"),
) -> None:
    """Draw a run as one HTML file that opens offline."""
    from headroom import planning  # noqa: PLC0415

    planning.report(run_folder, out)


@app.command()
def calibrate(
    duration: Annotated[str, typer.Option(help="How long the load lasts, 8s at least.")] = "15s",
    streams: Annotated[int, typer.Option(min=1, max=2_000, help="So many streams at once.")] = 200,
    out: Annotated[
        Path | None, typer.Option(help="Keep the two runs, the server's log and calibration.json here; must not exist.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the calibration as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but the paragraph for a report.")] = False,
) -> None:
    """Measure Headroom's own error on this machine, against a server that knows when it sent what."""
    from headroom import calibrating  # noqa: PLC0415

    try:
        code = calibrating.calibrate(duration=duration, streams=streams, out=out, as_json=as_json, quiet=quiet)
    except KeyboardInterrupt:
        sys.stderr.write("headroom: interrupted\n")
        raise typer.Exit(INTERRUPTED) from None
    raise typer.Exit(code)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)
def simulate(context: typer.Context) -> None:
    """Run the simulated deployment by itself."""
    from loadgen.simulator.__main__ import main as serve  # noqa: PLC0415

    raise typer.Exit(serve(context.args))


RETAIL_PRICES = "https://prices.azure.com/api/retail/prices"
prices_app = typer.Typer(
    name="prices",
    help="The price book: what is in it, and a newer one from Azure.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(prices_app)


@prices_app.command("show")
def show_prices(
    region: Annotated[str, typer.Option(help="Where instances would run.")] = "eastus",
    book: Annotated[Path | None, typer.Option(metavar="FILE", help="A price book of your own.")] = None,
) -> None:
    """List the book: what each model costs per 1,000 tokens and each SKU per hour, says who, and since when."""
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    from dashboards.text import readable  # noqa: PLC0415
    from planner import prices, retail  # noqa: PLC0415

    raw = retail.read_book(prices.BOOK if book is None else book)
    tables = {
        ("Model", "In, $ per 1K", "Out, $ per 1K"): retail.token_quotes(raw),
        ("SKU", f"$ per hour in {region}"): retail.hourly_quotes(raw, region),
    }
    sources = list(dict.fromkeys(quote.source for quotes in tables.values() for quote in quotes))
    console = Console()
    for columns, quotes in tables.items():
        table = Table(box=None, pad_edge=False)
        for number, column in enumerate((*columns, "Dated", "Source")):
            table.add_column(Text(readable(column)), justify="right" if 0 < number < len(columns) else "left")
        for quote in quotes:
            usd = (f"{each:.10f}".rstrip("0").rstrip(".") for each in quote.usd)
            row = (quote.name, *usd, quote.dated.isoformat(), f"[{sources.index(quote.source) + 1}]")
            table.add_row(*map(Text, map(readable, row)))
        console.print(table if quotes else Text(f"{columns[0]}, {readable(columns[-1])}: none in the book"))
        console.print()
    for number, source in enumerate(sources, 1):
        console.print(Text(f"[{number}] {readable(source)}"))


@prices_app.command("refresh")
def refresh_prices(
    region: Annotated[
        list[str] | None, typer.Option(help="Ask for this region instead of the book's own; repeatable.")
    ] = None,
    book: Annotated[
        Path, typer.Option(metavar="FILE", help="The book to refresh; where there is none, Headroom's own is copied.")
    ] = Path("prices.toml"),
    api: Annotated[str, typer.Option(metavar="URL", help="The Azure Retail Prices API.")] = RETAIL_PRICES,
) -> None:
    """Ask Azure for the prices in the book. On any failure the book stays as it was."""
    from planner import retail  # noqa: PLC0415

    refreshed = retail.refresh(book, api=api, regions=region or (), today=datetime.now(UTC).date())
    sys.stdout.write(
        f"{book}: {len(refreshed.found)} prices refreshed; headroom plan --prices {book} plans with them\n"
    )
    if refreshed.kept:
        sys.stdout.write(f"not listed, and kept as they were: {', '.join(refreshed.kept)}\n")


def main() -> int:
    """Exit codes: 0 fine; 1 our fault; 2 usage or config; 4 run invalid; 99 objective missed; 105 interrupted;
    112 target refused.
    """
    try:
        app()
    except HeadroomError as error:
        sys.stderr.write(f"headroom: {error}\n")
        return error.exit_code
    return 0
