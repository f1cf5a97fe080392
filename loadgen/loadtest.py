"""loadtest.toml, the flags over it and the environment under it, read into a RunConfig."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from loadgen.config import DEFAULT_RATE_PER_S, SIMULATED, RunConfig
from loadgen.errors import ConfigError

ENDPOINT_VARIABLES = ("AZURE_INFERENCE_ENDPOINT", "AZUREAI_ENDPOINT_URL")
SHAPES = ("users", "rate", "trace")  # of a load: one of them


def load_config(file: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str]) -> RunConfig:
    """The file, then the flags over it (dotted keys: `load.rate`), then the environment for a target neither names.

    Raises ConfigError naming the file and key, or the flag, and what to do.
    """
    values = _read(file) if file is not None else {}
    _drop_overridden(values, flags)
    for dotted, value in flags.items():
        _put(values, dotted.split("."), value)
    load, target = values.get("load", {}), values.get("target", {})
    if isinstance(load, dict) and not any(load.get(shape) is not None for shape in SHAPES):
        _put(values, ["load", "rate"], DEFAULT_RATE_PER_S)
    if isinstance(load, dict) and load.get("trace") is not None:
        values.setdefault("scenarios", {"streaming": 1})  # prompts of the stated length, and nothing else
    if isinstance(target, dict) and target.get("url") is None:
        _put(
            values,
            ["target", "url"],
            next((environment[name] for name in ENDPOINT_VARIABLES if environment.get(name)), SIMULATED),
        )
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentences(error, file, flags)) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is not TOML: {error}") from None


def _drop_overridden(values: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """A flag that sets the load's shape replaces the file's shape, and flags that name scenarios the file's mix."""
    load = values.get("load")
    if isinstance(load, dict) and any(f"load.{name}" in flags for name in SHAPES):
        values["load"] = {key: value for key, value in load.items() if key not in SHAPES}


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    *sections, key = path
    for name in sections:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[key] = value


def _sentences(error: ValidationError, file: Path | None, flags: Mapping[str, Any]) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        keys = [str(key) for key in problem["loc"]]
        dotted = ".".join(keys)
        place = FLAG_OF[dotted] if dotted in flags and dotted in FLAG_OF else f"{file}: {dotted}" if file else dotted
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            near = difflib.get_close_matches(keys[-1], _known_keys(keys[:-1]), n=1, cutoff=0.5)
            message = "unknown key" + (
                f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_known_keys(keys[:-1]))}"
            )
        lines.append(f"{place}: {message[0].lower()}{message[1:]}" if place else message)
    return "\n".join(lines)


def _known_keys(path: list[str]) -> list[str]:
    model: Any = RunConfig
    for key in path:
        field = model.model_fields.get(key) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = next((kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)), None)
    if dataclasses.is_dataclass(model):
        return [field.name for field in dataclasses.fields(model)]
    return list(getattr(model, "model_fields", ()))


FLAG_OF = {
    "target.url": "--target",
    "target.dialect": "--dialect",
    "target.kind": "--kind",
    "target.model": "--model",
    "target.key": "--key",
    "target.allow_hosts": "--yes-target",
    "scenarios": "--scenario",
    "load.users": "--users",
    "load.rate": "--rate",
    "load.arrivals": "--arrivals",
    "load.trace": "--trace",
    "load.speed": "--speed",
    "load.duration": "--duration",
    "load.warmup": "--warmup",
    "load.max_tokens": "--max-tokens",
    "load.throttle": "--throttle",
    "load.retries": "--retries",
    "load.seed": "--seed",
    "load.processes": "--processes",
    "load.master": "--master",
    "load.bind": "--bind",
    "load.workers": "--workers",
    "quota.tokens_per_minute": "--tpm",
    "quota.requests_per_minute": "--rpm",
    "slo": "--slo",
    "output.dir": "--out",
    "output.report": "--no-report",
    "plan.region": "--region",
    "plan.growth": "--growth",
    "plan.prices": "--prices",
}
