"""The price book: what models cost per token and instances per hour, each figure with its source and date."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, TypeVar

from loadgen.errors import ConfigError
from loadgen.toml_file import read_toml

_Entry = TypeVar("_Entry")

HOURS_OF_TERM = {"1 Year": 8_760, "3 Years": 26_280, "5 Years": 43_800}  # of reservations
BOOK = Path(__file__).with_name("prices.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenPrice:
    model: str
    input_usd_per_1k: float
    output_usd_per_1k: float
    source: str
    dated: date


@dataclass(frozen=True, slots=True)
class Origin:
    source: str
    dated: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Sku:
    name: str
    cores: int
    gpus: int
    exempt_from_reservation: bool  # from the 20 % of extra core quota
    usd_per_hour: Mapping[str, float]  # by region
    source: str
    dated: date
    origins: Mapping[str, Origin] = field(default_factory=dict)  # by region, where a price has one of its own
    reserved_usd_per_hour: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # by region, then by term
    retired: date | None = None  # when Azure ends it: nothing new is planned on it

    def origin(self, region: str) -> Origin:
        """Where the price of the region comes from: its own origin, else the section's."""
        return self.origins.get(region, Origin(self.source, self.dated))


@dataclass(frozen=True, slots=True)
class PriceBook:
    """Prices in US dollars. Models are found whatever the spelling of their name, see `plain_name`."""

    tokens: Mapping[str, TokenPrice]  # by plain name
    skus: Mapping[str, Sku]
    hosts: Mapping[str, tuple[str, ...]]  # plain name -> the SKUs that can host the model, the smallest first

    def token_price(self, model: str) -> TokenPrice | None:
        """None for a model that is not sold per token, or is unknown."""
        return self.tokens.get(plain_name(model))

    def skus_for(self, model: str, *, retired: bool = False) -> tuple[Sku, ...]:
        """The smallest first; empty for an unknown model. Those that Azure retires only where they are asked for."""
        skus = (self.skus[name] for name in self.hosts.get(plain_name(model), ()))
        return tuple(sku for sku in skus if retired or sku.retired is None)


def plain_name(model: str) -> str:
    """`Phi-3-mini-4k-Instruct`, `phi-3-mini-4k` and `azure_ai/Phi_3_mini_4k_instruct` are one model."""
    name = re.sub(r"[\s_]+", "-", model.rpartition("/")[2].strip().lower())
    return name.removeprefix("meta-").removesuffix("-instruct")


def read_prices(path: Path | None = None) -> PriceBook:
    """The book that comes with Headroom, or a user's own. Raises ConfigError naming the file and the key."""
    path = BOOK if path is None else path
    return _Reader(path).book(read_toml(path))


class _Reader:
    """Takes a price book apart, and says where it is wrong."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def book(self, raw: dict[str, Any]) -> PriceBook:
        if raw.get("currency") != "USD":
            raise self._error("currency", f'must be "USD", not {raw.get("currency")!r}: plans are in US dollars')
        serverless, managed = self._table(raw, "serverless"), self._table(raw, "managed")
        skus = self._skus(managed)
        return PriceBook(self._tokens(serverless), skus, self._hosts(managed, skus))

    def _tokens(self, serverless: dict[str, Any]) -> dict[str, TokenPrice]:
        prices: dict[str, TokenPrice] = {}
        models = self._table(serverless, "models", "serverless.")
        for model in models:
            price = self._table(models, model, "serverless.models.")
            place = f'serverless.models."{model}"'
            of = {key: (price, place) if key in price else (serverless, "serverless") for key in ("source", "dated")}
            token_price = TokenPrice(
                model=model,
                input_usd_per_1k=self._price(price, "input_usd_per_1k", place),
                output_usd_per_1k=self._price(price, "output_usd_per_1k", place),
                source=self._source(*of["source"]),
                dated=self._dated(*of["dated"]),
            )
            self._put(prices, model, token_price, place)
        return prices

    def _skus(self, managed: dict[str, Any]) -> dict[str, Sku]:
        skus = {}
        for name, sku in self._table(managed, "skus", "managed.").items():
            place = f"managed.skus.{name}"
            prices = self._table(sku, "usd_per_hour", f"{place}.")
            skus[name] = Sku(
                name=name,
                cores=self._count(sku, "cores", place),
                gpus=self._count(sku, "gpus", place),
                exempt_from_reservation=self._flag(sku, "exempt_from_reservation", place),
                usd_per_hour={region: self._price(prices, region, f"{place}.usd_per_hour") for region in prices},
                source=self._source(managed, "managed"),
                dated=self._dated(managed, "managed"),
                origins=self._origins(sku, place),
                reserved_usd_per_hour=self._reserved(sku, place),
                retired=self._dated(sku, place, "retired") if "retired" in sku else None,
            )
        return skus

    def _origins(self, sku: dict[str, Any], place: str) -> dict[str, Origin]:
        read = {}
        for region, origin in self._table(sku, "origins", f"{place}.").items():
            here = f"{place}.origins.{region}"
            read[region] = Origin(self._source(origin, here), self._dated(origin, here))
        return read

    def _reserved(self, sku: dict[str, Any], place: str) -> dict[str, dict[str, float]]:
        regions = self._table(sku, "reserved_usd_per_hour", f"{place}.")
        reserved: dict[str, dict[str, float]] = {}
        for region in regions:
            terms, here = self._table(regions, region, f"{place}.reserved_usd_per_hour."), f"{place}.reserved"
            unknown = [term for term in terms if term not in HOURS_OF_TERM]
            if unknown:
                raise self._error(f"{here}.{region}", f"has the term {unknown[0]!r}: known are {list(HOURS_OF_TERM)}")
            reserved[region] = {term: self._price(terms, term, f"{here}.{region}") for term in terms}
        return reserved

    def _hosts(self, managed: dict[str, Any], skus: Mapping[str, Sku]) -> dict[str, tuple[str, ...]]:
        hosts: dict[str, tuple[str, ...]] = {}
        for model, names in self._table(managed, "models", "managed.").items():
            place = f'managed.models."{model}"'
            if not isinstance(names, list) or not names:
                raise self._error(place, "must list the SKUs that can host the model, the smallest first")
            unknown = [name for name in names if not isinstance(name, str) or name not in skus]
            if unknown:
                raise self._error(place, f"names {unknown[0]!r}, of which managed.skus says nothing")
            self._put(hosts, model, tuple(names), place)
        return hosts

    def _table(self, raw: Any, key: str, prefix: str = "") -> dict[str, Any]:
        table = raw.get(key, {}) if isinstance(raw, dict) else raw
        if not isinstance(table, dict):
            raise self._error(f"{prefix}{key}", "must be a table")
        return table

    def _price(self, raw: Any, key: str, place: str) -> float:
        value = raw.get(key) if isinstance(raw, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value <= 0:
            raise self._error(f"{place}.{key}", f"must be a price above zero, not {value!r}")
        return float(value)

    def _count(self, raw: Any, key: str, place: str) -> int:
        value = raw.get(key) if isinstance(raw, dict) else None
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self._error(f"{place}.{key}", f"must be a whole number above zero, not {value!r}")
        return value

    def _flag(self, raw: dict[str, Any], key: str, place: str) -> bool:
        value = raw.get(key)
        if not isinstance(value, bool):
            raise self._error(f"{place}.{key}", f"must be true or false, not {value!r}")
        return value

    def _put(self, table: dict[str, _Entry], model: str, entry: _Entry, place: str) -> None:
        if plain_name(model) in table:
            raise self._error(place, "is there twice, in another spelling")
        table[plain_name(model)] = entry

    def _source(self, raw: Any, place: str) -> str:
        source = raw.get("source") if isinstance(raw, dict) else None
        if not isinstance(source, str) or not source.strip():
            raise self._error(f"{place}.source", "must say where the prices come from")
        return source

    def _dated(self, raw: Any, place: str, key: str = "dated") -> date:
        value = raw.get(key) if isinstance(raw, dict) else None
        if type(value) is not date:
            meaning = "the prices were collected" if key == "dated" else "Azure retires it"
            raise self._error(f"{place}.{key}", f"must be the day {meaning}, like 2026-11-20, not {value!r}")
        return value

    def _error(self, key: str, message: str) -> ConfigError:
        return ConfigError(f"{self._path}: {key} {message}")
