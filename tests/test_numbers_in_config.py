"""Every key of loadtest.toml that takes a number: what is none, or cannot be meant, is told by the key's name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

from loadgen.config import RunConfig, TargetConfig, ThresholdConfig
from loadgen.errors import ConfigError
from loadgen.loadtest import load_config
from loadgen.quota import Quota

NO_NUMBERS = ["true", '"x"', "nan", "inf", "-inf", "-2", "1e300", "9" * 400, '""', "[1]", "{ a = 1 }"]
BESIDE = {  # keys that say nothing alone
    "load.spawn_rate": {"load.users": "3"},
    "load.think_time": {"load.users": "3"},
    "load.spike": {"load.rate": "3"},
    "load.day": {"load.rate": "3", "load.diurnal": str([1] * 24)},
    "load.diurnal": {"load.rate": "3"},
    "load.gamma_shape": {"load.rate": "3", "load.arrivals": '"gamma"'},
    **{f"load.{key}": {"load.trace": '"t.csv"'} for key in ("speed", "from", "scale")},
    "load.workers": {"load.master": "true"},
    "target.usd_per_1k_prompt": {"target.usd_per_1k_completion": "1"},
    "target.usd_per_1k_completion": {"target.usd_per_1k_prompt": "1"},
    "prompts.shared_prefix": {"prompts.tokens": '"fixed:9"'},
    "threshold.delay": {"threshold.expr": '"failed<1%"', "threshold.abort_on_fail": "true"},
}


def is_number(kind: Any) -> bool:
    return kind in (int, float) or any(is_number(part) for part in get_args(kind))


def keys_of(model: type, prefix: str = "") -> Iterator[str]:
    """Dotted, of all that has numbers, found in the types: a new key is in the table by itself."""
    if dataclasses.is_dataclass(model):
        yield from (prefix + name for name, kind in get_type_hints(model).items() if is_number(kind))
        return
    tables = {"targets": TargetConfig, "threshold": ThresholdConfig, "quota": Quota}
    for name, field in model.model_fields.items():  # type: ignore[attr-defined]
        key, kind = prefix + (field.alias or name), tables.get(name, field.annotation)
        if hasattr(kind, "model_fields") or kind is Quota:
            yield from keys_of(kind, f"{key}.")
        elif is_number(kind):
            yield key


KEYS = [*(key for key in keys_of(RunConfig) if key != "scenarios"), "scenarios.chat"]


def load(tmp_path, values: dict[str, str]) -> RunConfig:
    path = tmp_path / "loadtest.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in values.items()))
    return load_config(path, {}, {})


def test_the_table_has_the_keys_that_it_should():
    assert {"load.rate", "quota.burst_s", "target.quota.concurrency", "budget.usd", "threshold.delay"} <= {*KEYS}
    assert len(KEYS) > 50


@pytest.mark.parametrize("key", KEYS)
def test_what_is_no_number_or_cannot_be_meant_is_told_by_the_keys_name(tmp_path, key):
    name = key.removeprefix("scenarios.").rpartition(".")[2]
    for value in NO_NUMBERS:
        with pytest.raises(ConfigError) as told:
            load(tmp_path, {**BESIDE.get(key, {}), key: value})
        assert name in str(told.value) or "not TOML" in str(told.value), value  # int() reads no 400 digits


TAKE_TEXT = [
    "rate",
    "spawn_rate",
    "day",
    "scale",
    "from",
    "duration",
    "warmup",
    "cooldown",
    "drain",
    "turn_pause",
    "wall",
    "delay",
]
TAKE_TEXT += ["connect", "first_byte", "idle", "total"]


@pytest.mark.parametrize("key", [key for key in KEYS if key.rpartition(".")[2] not in TAKE_TEXT])
def test_a_number_in_quotes_is_a_slip_where_no_unit_could_follow(tmp_path, key):
    with pytest.raises(ConfigError, match="must be a number, not text; write it without quotes|24 hours"):
        load(tmp_path, {**BESIDE.get(key, {}), key: '"0.5"'})


@pytest.mark.parametrize("text", ["10k", "1,000", "", "many"])
def test_who_wrote_no_number_is_not_told_of_quotes(tmp_path, text):
    with pytest.raises(ConfigError, match="tokens_per_minute: must be a number, not text$"):
        load(tmp_path, {"quota.tokens_per_minute": f'"{text}"'})


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("load.duration", '"999999999999999h"', "'999999999999999h' is longer than 20 years"),
        ("load.think_time", '"1s..999999999999999h"', "'1s..999999999999999h' is not a think time"),
        ("load.stages", '"1e300/s:60s"', "'1e300/s' is more than 10,000,000 a second"),
        ("load.stages", '"-1/s:60s"', "'-1/s:60s': a rate is not below zero"),
        ("load.stages", '"5/s:999999999999999h"', "longer than 20 years"),
        ("load.stages", "[true]", "input should be a valid string"),
        ("load.spike", '"nan/s:1s@2s"', "'nan/s' is not a rate"),
        ("load.diurnal", str(["true"] * 24).replace("'", ""), "must be a number, not true"),
        ("load.diurnal", str([1e9] * 24), "a number from 0 to 1,000,000"),
        ("prompts.tokens", '"lognormal:1e300,1"', "its numbers must lie between 1 and 1,000,000"),
        ("prompts.tokens", '"fixed:nan"', "its numbers must lie between 1 and 1,000,000"),
        ("quota.tokens_per_minute", "1e300", r"must be a number below 2\^63"),
        ("quota.concurrency", "5_000_000_000_000_000_000", "must be below 4,611,686,018,427,387,904"),
        ("target.quota", "{ burst_s = true }", "burst_s: must be a number, not true"),
    ],
)
def test_numbers_within_texts_and_tables_are_held_to_the_same(tmp_path, key, value, complaint):
    with pytest.raises(ConfigError, match=rf"{key.split('.')[-1]}.*{complaint}"):
        load(tmp_path, {**BESIDE.get(key, {}), key: value})


def test_whole_numbers_may_be_written_with_a_point_and_durations_and_rates_as_text_or_number(tmp_path):
    config = load(
        tmp_path,
        {
            "load.max_tokens": "1e3",
            "load.rate": "5",
            "load.duration": '"2m"',
            "load.drain": "7.5",
            "quota.burst_s": "9",
        },
    )
    assert (config.load.max_tokens, config.load.rate, config.load.duration) == (1000, 5.0, 120.0)
    assert (config.load.drain, config.quota.burst_s) == (7.5, 9.0)
