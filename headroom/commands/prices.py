"""headroom prices: the price book."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from headroom.commands.app import SHOW, app

RETAIL_PRICES = "https://prices.azure.com/api/retail/prices"
prices_app = typer.Typer(
    name="prices",
    help="The price book: what is in it, and a newer one from Azure.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(prices_app, rich_help_panel=SHOW)


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
