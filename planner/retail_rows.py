"""Which rows of the Azure Retail Prices API a price is taken from.

It lists every way to buy a SKU side by side. By the hour a plan needs the one row that is pay as you go, on Linux; for
a reservation the row of its term. Anything that lacks a key or contradicts another row is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from loadgen.errors import HeadroomError
from planner.prices import HOURS_OF_TERM, plain_name

PHI_PRODUCT = "Azure Phi Models"  # other makers' meters are abbreviated, each in its own way: "V3.2 Inp glbl Tokens"
MOST_USD = 1e6  # above any price per hour or per 1,000 tokens
MOST_TERM_USD = 1e8  # above any price of a machine for five years
# Parts of the names, without blanks and in lower case, of what has a VM's armSkuName and is no Linux VM by the hour.
OTHER_OFFERS = ("windows", "spot", "lowpriority", "cloudservices", "dedicatedhost")
TOKEN_METER = re.compile(r"(?P<model>.+?)[- ](?P<way>input|output) tokens", re.IGNORECASE)
AGAIN = "try again later"
OTHER_LAYOUT = "check that --api is the Azure Retail Prices API, or update Headroom"

Raw = dict[str, Any]


class RetailError(HeadroomError):
    """The API gave no prices that can be trusted; nothing was written."""

    def __init__(self, what: str, to_do: str) -> None:
        super().__init__(f"no prices were refreshed, and the price book is as it was: {what}; {to_do}")


def hourly_prices(rows: Iterable[Any], sku: str, regions: Sequence[str], today: date) -> dict[str, float]:
    """By region. Raises RetailError for rows that lack a key, or contradict one another."""
    prices: dict[str, float] = {}
    for row in rows:
        if not _is_of_machine(row, sku):
            continue
        region = _text(row, "armRegionName")
        if region in regions and _is_base_price(row, "1 Hour", today):
            _enter(prices, region, row, f"{sku} in {region}")
    return prices


def reserved_prices(rows: Iterable[Any], sku: str, regions: Sequence[str], today: date) -> dict[str, dict[str, float]]:
    """By region and term, an hour: what the API lists is the price of the whole term. Raises RetailError.

    A reservation of several prices is left out: one that nobody has to buy is no reason to refresh nothing.
    """
    listed: dict[tuple[str, str], set[float]] = {}
    for row in rows:
        if not _is_of_machine(row, sku) or _text(row, "type") != "Reservation":
            continue
        region, term = _text(row, "armRegionName"), row.get("reservationTerm")
        if region in regions and term in HOURS_OF_TERM and _in_force(row, "1 Hour", today):
            listed.setdefault((region, term), set()).add(_usd(row, f"{sku} in {region} for {term}", MOST_TERM_USD))
    reserved: dict[str, dict[str, float]] = {}
    for (region, term), prices in listed.items():
        above_zero = [usd for usd in prices if usd > 0]
        if len(above_zero) == 1:
            reserved.setdefault(region, {})[term] = above_zero[0] / HOURS_OF_TERM[term]
    return reserved


def token_prices(rows: Iterable[Any], regions: Sequence[str], today: date) -> dict[str, tuple[float, float]]:
    """Input and output by the model's plain name, where both are listed; the regions must agree. Raises RetailError."""
    prices: dict[tuple[str, str], float] = {}
    for row in rows:
        meter = TOKEN_METER.fullmatch(_text(row, "meterName"))
        ours = _text(row, "productName") == PHI_PRODUCT and _is_base_price(row, "1K", today)
        if meter and ours and (not regions or _text(row, "armRegionName") in (*regions, "Global", "")):
            _enter(prices, (plain_name(meter["model"]), meter["way"].lower()), row, repr(meter[0]))
    models = {model for model, _ in prices if {(model, "input"), (model, "output")} <= prices.keys()}
    return {model: (prices[model, "input"], prices[model, "output"]) for model in models}


def _is_of_machine(row: Any, sku: str) -> bool:
    """Of a Linux machine that nobody may take away."""
    names = "".join(_text(row, key) for key in ("productName", "skuName", "meterName")).replace(" ", "").lower()
    return not any(offer in names for offer in OTHER_OFFERS) and _text(row, "armSkuName") == sku


def _is_base_price(row: Raw, unit: str, today: date) -> bool:
    """Pay as you go and in force: a reservation's price is for its whole term."""
    bought_ahead = _text(row, "type") != "Consumption" or row.get("reservationTerm")
    return not bought_ahead and _in_force(row, unit, today)


def _in_force(row: Raw, unit: str, today: date) -> bool:
    """Of the first tier, and since today or earlier."""
    try:
        since = date.fromisoformat(_text(row, "effectiveStartDate")[:10])
    except ValueError:
        raise RetailError("a row's effectiveStartDate is no date", OTHER_LAYOUT) from None
    first_tier = row.get("tierMinimumUnits") in (0, None)
    return first_tier and _text(row, "unitOfMeasure") == unit and since <= today


def _text(row: Any, key: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise RetailError(f"a row of the answer has no {key}", OTHER_LAYOUT)
    return value


def _enter(prices: dict[Any, float], key: Any, row: Raw, name: str) -> None:
    """What is listed at zero or less has no price yet, or none any more."""
    usd = _usd(row, name, MOST_USD)
    if usd > 0 and prices.setdefault(key, usd) != usd:
        choice = "name one region with --region, or write the price into the book by hand"
        raise RetailError(f"{name} is listed both at {prices[key]:g} and at {usd:g} USD", choice)


def _usd(row: Raw, name: str, most_usd: float) -> float:
    usd = row.get("retailPrice")
    if not isinstance(usd, int | float) or isinstance(usd, bool) or not -most_usd < usd < most_usd:
        raise RetailError(f"{name} has no number as its retailPrice", OTHER_LAYOUT)
    if _text(row, "currencyCode") != "USD":
        raise RetailError(f"{name} is listed in {row['currencyCode']!r}, not USD", OTHER_LAYOUT)
    return float(usd)
