"""A newer price book, from the Azure Retail Prices API.

The API wants no key and answers in pages (learn.microsoft.com/rest/api/cost-management/retail-prices). It lists every
way to buy a SKU side by side; a plan needs the one row that is pay as you go, on Linux, by the hour. Nothing is written
before every answer is in and the new book has been read back, so that a failure leaves the old book as it was.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
from asyncio_throttle.throttler import Throttler

from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError
from planner.prices import BOOK, plain_name, read_prices
from planner.retail_rows import (
    AGAIN,
    OTHER_LAYOUT,
    PHI_PRODUCT,
    RetailError,
    hourly_prices,
    reserved_prices,
    token_prices,
)

SOURCE = "Azure Retail Prices API"
PHI_FILTER = f"productName eq '{PHI_PRODUCT}' and priceType eq 'Consumption'"
REQUESTS_PER_S = 5
TIMEOUT_S = 20.0  # of each step of a request
DEADLINE_S = 300.0  # of all of them
MOST_PAGES = 50  # of one question; a SKU has a page or two
MOST_WAITS = 2  # of one request, each as long as Retry-After says
LONGEST_WAIT_S = 60
WAIT_S = 5  # where Retry-After is missing, or a date

Raw = dict[str, Any]  # a price book or a part of it, as TOML holds it


@dataclass(frozen=True, slots=True)
class Quote:
    """One line of the book: dollars per 1,000 input and output tokens, or per hour."""

    name: str
    usd: tuple[float, ...]
    source: str
    dated: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What the API lists: by SKU and region dollars an hour, also by term, and by model those per 1,000 tokens."""

    hourly: Mapping[str, Mapping[str, float]]
    reserved: Mapping[str, Mapping[str, Mapping[str, float]]]
    tokens: Mapping[str, tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """Names of the prices that the API gave, and of those that were asked for and not listed."""

    found: tuple[str, ...]
    kept: tuple[str, ...]


def read_book(path: Path) -> Raw:
    """A valid price book as TOML holds it, where every price bears its own `source` and `dated`: a model beside its
    prices, a SKU's regions in its table `origins`; what had none takes its section's. Raises ConfigError.
    """
    read_prices(path)
    book = tomllib.loads(path.read_text("utf-8"))
    for section, price in _origins(book):
        for key in ("source", "dated"):
            price.setdefault(key, section.get(key))
    return book


def _origins(book: Raw) -> Iterator[tuple[Raw, Raw]]:
    """For each price its section, and the table that says where it comes from."""
    serverless, managed = book.setdefault("serverless", {}), book.setdefault("managed", {})
    for price in serverless.get("models", {}).values():
        yield serverless, price
    for sku in managed.get("skus", {}).values():
        origins = sku.setdefault("origins", {})
        for region in sku.setdefault("usd_per_hour", {}):
            yield managed, origins.setdefault(region, {})


def token_quotes(book: Raw) -> list[Quote]:
    return [
        Quote(name, (price["input_usd_per_1k"], price["output_usd_per_1k"]), price["source"], price["dated"])
        for name, price in book["serverless"].get("models", {}).items()
    ]


def hourly_quotes(book: Raw, region: str) -> list[Quote]:
    """Of the SKUs that have a price in the region; the name of one that Azure retires says when."""
    quotes = []
    for name, sku in book["managed"].get("skus", {}).items():
        if region in sku["usd_per_hour"]:
            origin, ends = sku["origins"][region], f" (retired {sku['retired']})" if "retired" in sku else ""
            quotes.append(Quote(name + ends, (sku["usd_per_hour"][region],), origin["source"], origin["dated"]))
    return quotes


def refresh(path: Path, *, api: str, regions: Sequence[str], today: date) -> Refreshed:
    """Refresh the book at `path`, or write Headroom's own there, refreshed; without `regions` those of the book.

    Raises ConfigError and RetailError, and then `path` is byte for byte what it was.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no folder {path.parent}")
    book = read_book(path if path.exists() else BOOK)
    skus = book["managed"].get("skus", {})
    places = tuple(regions) or tuple(dict.fromkeys(region for sku in skus.values() for region in sku["usd_per_hour"]))
    answers = asyncio.run(_ask(_address(api), [_vm_filter(sku, places) for sku in skus] + [PHI_FILTER]))
    of_skus = list(zip(skus, answers, strict=False))
    listed = Listed(
        hourly={sku: hourly_prices(rows, sku, places, today) for sku, rows in of_skus},
        reserved={sku: reserved_prices(rows, sku, places, today) for sku, rows in of_skus},
        tokens=token_prices(answers[-1], places, today),
    )
    refreshed = _update(book, listed, places, today)
    if not refreshed.found:
        raise RetailError(f"{api} lists none of them", "check --api, and --region, which is written like eastus")
    _publish(path, book)
    return refreshed


def _address(api: str) -> httpx.URL:
    try:
        url = httpx.URL(api)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL()
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query or url.fragment:
        raise ConfigError(
            "--api must be an http(s) URL without user or query, like https://prices.azure.com/api/retail/prices"
        )
    return url


def _vm_filter(sku: str, regions: Iterable[str]) -> str:
    places = " or ".join(f"armRegionName eq {_quoted(region)}" for region in regions)
    kinds = "(priceType eq 'Consumption' or priceType eq 'Reservation')"
    machine = f"serviceName eq 'Virtual Machines' and {kinds} and armSkuName eq {_quoted(sku)}"
    return f"{machine} and ({places})" if places else machine


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


async def _ask(url: httpx.URL, filters: Iterable[str]) -> list[list[Any]]:
    """The rows of each filter's answer."""
    try:
        async with asyncio.timeout(DEADLINE_S), httpx.AsyncClient(timeout=TIMEOUT_S) as client:
            api = _Api(client, url)
            return await asyncio.gather(*(api.rows(each) for each in filters))
    except TimeoutError:
        raise RetailError(f"{url.host} was not done after {DEADLINE_S:g} s", AGAIN) from None


class _Api:
    """All requests share one pace; a 429 to one of them holds back the others too."""

    def __init__(self, client: httpx.AsyncClient, url: httpx.URL) -> None:
        self._client, self._url = client, url
        self._throttler = Throttler(rate_limit=REQUESTS_PER_S)
        self._resume_s = 0.0  # on the event loop's clock

    async def rows(self, wanted: str) -> list[Any]:
        """Every page's rows, in order."""
        url = self._url.copy_with(params={"$filter": wanted})
        seen, rows = {url}, []
        while True:
            more, link = self._page(await self._get(url))
            rows += more
            if not link:
                return rows
            url = self._followed(link)
            if url in seen or len(seen) == MOST_PAGES:
                raise RetailError(f"{self._url.host} sends page after page of {wanted}", OTHER_LAYOUT)
            seen.add(url)

    def _page(self, response: httpx.Response) -> tuple[list[Any], str | None]:
        try:
            page = response.json()
        except (ValueError, RecursionError):
            raise RetailError(f"{self._url.host} answered what is not JSON", OTHER_LAYOUT) from None
        for key, kind in (("Items", list), ("NextPageLink", str | None)):
            if not isinstance(page, dict) or key not in page or not isinstance(page[key], kind):
                raise RetailError(f"an answer of {self._url.host} has no {key}", OTHER_LAYOUT)
        return page["Items"], page["NextPageLink"]

    def _followed(self, link: str) -> httpx.URL:
        try:
            url = httpx.URL(link)
        except httpx.InvalidURL:
            url = httpx.URL()
        if (url.scheme, url.host, url.port) != (self._url.scheme, self._url.host, self._url.port):
            raise RetailError(f"{self._url.host} sends on to another host for its next page", OTHER_LAYOUT)
        return url

    async def _get(self, url: httpx.URL) -> httpx.Response:
        for waits_left in reversed(range(MOST_WAITS + 1)):
            await self._turn()
            response = await self._send(url)
            if response.status_code == 200:
                return response
            if response.status_code != 429 or not waits_left:
                break
            self._hold(response.headers.get("Retry-After", ""))
        to_do = AGAIN if response.status_code == 429 or response.status_code >= 500 else OTHER_LAYOUT
        raise RetailError(f"{self._url.host} answered {response.status_code}", to_do)

    async def _turn(self) -> None:
        clock = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._resume_s - clock.time())
            async with self._throttler:
                if clock.time() >= self._resume_s:
                    return

    async def _send(self, url: httpx.URL) -> httpx.Response:
        host = self._url.host
        try:
            return await self._client.get(url)
        except httpx.TimeoutException:
            raise RetailError(f"{host} did not answer within {TIMEOUT_S:g} s", AGAIN) from None
        except httpx.ConnectError as error:
            raise RetailError(f"{host} cannot be reached ({error})", "check the network and --api") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise RetailError(f"the answer of {host} cannot be read ({type(error).__name__})", AGAIN) from None

    def _hold(self, retry_after: str) -> None:
        wait_s = int(retry_after) if re.fullmatch("[0-9]{1,9}", retry_after) else WAIT_S
        if wait_s > LONGEST_WAIT_S:
            raise RetailError(f"{self._url.host} answered 429", f"try again in {wait_s} s, as it asks")
        self._resume_s = max(self._resume_s, asyncio.get_running_loop().time() + wait_s)


def _update(book: Raw, listed: Listed, regions: Sequence[str], today: date) -> Refreshed:
    found, kept = [], []
    origin = {"source": SOURCE, "dated": today}
    for name, region in ((name, region) for name in listed.hourly for region in regions):
        sku, here = book["managed"]["skus"][name], f"{name} in {region}"
        if region in listed.hourly[name]:
            sku["usd_per_hour"][region], sku["origins"][region] = listed.hourly[name][region], dict(origin)
            found.append(here)
            reserved, old = listed.reserved[name].get(region, {}), _reserved_of(sku, region)
            kept += [f"{here} for {term}" for term in old if term not in reserved]
            if reserved:
                sku.setdefault("reserved_usd_per_hour", {})[region] = {**old, **reserved}
                found += [f"{here} for {term}" for term in reserved]
        elif region in sku["usd_per_hour"]:
            kept.append(here)
    for name, price in book["serverless"].get("models", {}).items():
        if usd := listed.tokens.get(plain_name(name)):
            price.update(input_usd_per_1k=usd[0], output_usd_per_1k=usd[1], **origin)
            found.append(name)
        elif plain_name(name).startswith("phi"):
            kept.append(name)
    _sum_up_origins(book)
    return Refreshed(tuple(found), tuple(kept))


def _reserved_of(sku: Raw, region: str) -> Mapping[str, float]:
    old: Mapping[str, float] = sku.get("reserved_usd_per_hour", {}).get(region, {})
    return old


def _sum_up_origins(book: Raw) -> None:
    """A section names all sources of its prices, and the day of the oldest."""
    for section in (book["serverless"], book["managed"]):
        own = [price for its_section, price in _origins(book) if its_section is section]
        if own:
            section["source"] = "; ".join(dict.fromkeys(price["source"] for price in own))
            section["dated"] = min(price["dated"] for price in own)


def _publish(path: Path, book: Raw) -> None:
    """Replace the book once the new one has been read back."""
    text = "\n".join(
        ["# Written by `headroom prices refresh`; `headroom plan --prices FILE` reads it.", *_toml(book), ""]
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder) / "prices.toml"
            draft.write_text(text, "utf-8")
            read_prices(draft)
            if tomllib.loads(text) != book:
                raise ConfigError("it reads otherwise than it was written")
        publish_bytes(path, text.encode())
    except ConfigError as error:
        raise RetailError(f"the new book cannot be used ({error})", "please report this") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _toml(table: Raw, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The lines of a table: its own values, then the tables below it. Small tables deep down stand on one line."""
    below = [
        key
        for key, value in table.items()
        if isinstance(value, dict) and (len(path) < 2 or any(isinstance(each, dict) for each in value.values()))
    ]
    if path:
        yield f"\n[{'.'.join(_toml_key(name) for name in path)}]"
    yield from (f"{_toml_key(key)} = {_toml_value(value)}" for key, value in table.items() if key not in below)
    for key in below:
        yield from _toml(table[key], (*path, key))


def _toml_key(key: str) -> str:
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else _toml_value(key)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml_key(key)} = {_toml_value(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_value(each) for each in value) + "]"
    if isinstance(value, str):  # JSON escapes what TOML wants escaped, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, float) and math.isfinite(value):
        digits = f"{Decimal(repr(value)):f}"
        return digits if "." in digits else f"{digits}.0"
    return str(value).lower() if isinstance(value, bool | int | float) else str(value.isoformat())
