"""loadtest.toml, the flags over it and the environment under it, read into a RunConfig."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from loadgen.config import SIMULATED, Kind, RunConfig, TargetConfig
from loadgen.errors import ConfigError
from loadgen.load_shape import DEFAULT_RATE_PER_S
from loadgen.prompts_config import PromptsConfig
from loadgen.toml_file import read_toml

ENDPOINT_VARIABLES = ("AZURE_INFERENCE_ENDPOINT", "AZUREAI_ENDPOINT_URL")
SHAPES = {  # of a load: one of them, and the other keys that go with it
    "users": ("spawn_rate", "think_time"),
    "rate": ("spike", "diurnal", "day", "arrivals", "gamma_shape", "max_in_flight"),
    "stages": ("arrivals", "gamma_shape", "max_in_flight"),
    "trace": ("speed", "from", "scale", "skip_bad_rows", "max_in_flight"),
}
REPEATED_SECTIONS = ("scenarios", "parameters")  # of a run that is replayed: what its requests were made by
REPEATED_KEYS = {
    "load": ("duration", "warmup", "cooldown", "max_tokens"),
    "prompts": tuple(PromptsConfig.model_fields),
}
NO_TABLE = "slo"  # the one key that stands in none
NEEDS = {"day": ("diurnal", None), "gamma_shape": ("arrivals", "gamma")}  # keys that say nothing without another


def load_config(file: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str]) -> RunConfig:
    """The file, then the flags over it (dotted keys: `load.rate`), then the environment for a target neither names.

    Raises ConfigError naming the file and key, or the flag, and what to do.
    """
    return config_of(read_toml(file) if file is not None else {}, file, flags, environment)


def config_of(
    values: dict[str, Any], file: Path | None, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> RunConfig:
    """The same of values that have been read, which it completes; messages call them `file`. Raises ConfigError."""
    _drop_overridden(values, flags)
    for dotted, value in flags.items():
        if not dotted.startswith("target."):
            _put(values, dotted.split("."), value)
    values["target"] = _targets(values.get("target", {}), flags)
    load, target = values.get("load", {}), values["target"]
    if isinstance(load, dict):
        if not any(load.get(shape) is not None for shape in SHAPES):
            _put(values, ["load", "rate"], DEFAULT_RATE_PER_S)
        if load.get("trace") is not None:
            _put_defaults(values, Path(load["trace"]))
    if isinstance(target, dict) and target.get("url") is None:
        _put(
            values,
            ["target", "url"],
            next((environment[name] for name in ENDPOINT_VARIABLES if environment.get(name)), SIMULATED),
        )
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_sentences(error, file, flags, values["target"])) from None
    _check_all_used(load, file, flags)
    _check_flags_used(config, flags)
    return config


def _targets(of_file: Any, flags: Mapping[str, Any]) -> Any:
    """The file's, or those that --target names instead; what the other flags say holds for all of them.

    One --target over the file's one changes its address, and no more.
    """
    changes = {name.removeprefix("target."): value for name, value in flags.items() if name.startswith("target.")}
    urls = changes.pop("url", None)
    urls = [urls] if isinstance(urls, str) else urls or []
    targets = of_file if isinstance(of_file, list) else [of_file]
    if len(urls) > 1 or (urls and len(targets) != 1):
        targets = [{"url": url} for url in urls]
    elif urls:
        changes["url"] = urls[0]
    targets = [{**target, **changes} if isinstance(target, dict) else target for target in targets]
    return targets[0] if len(targets) == 1 else targets


def _drop_overridden(values: dict[str, Any], flags: Mapping[str, Any]) -> None:
    """A flag that sets the load's shape replaces the file's, with all that goes with that one and not with the new."""
    load, given = values.get("load"), {name.removeprefix("load.") for name in flags}
    shape = _shape_of(given)
    if not isinstance(load, dict):
        return
    if "arrivals" in given:
        load.pop("gamma_shape", None)
    if shape is None:
        return
    kept = {shape, *SHAPES[shape]} - ({"spike", "diurnal"} if given & {"spike", "diurnal"} else set())
    dropped = {*SHAPES, *(key for keys in SHAPES.values() for key in keys)} - kept
    if shape == "stages":
        dropped.add("duration")
    values["load"] = {key: value for key, value in load.items() if key not in dropped}


def _shape_of(keys: Collection[str]) -> str | None:
    """The shape that keys of a load set or vary; the first, where there are several."""
    return next((shape for shape in SHAPES if shape in keys), "rate" if {"spike", "diurnal"} & set(keys) else None)


def _check_all_used(load: Mapping[str, Any], file: Path | None, flags: Mapping[str, Any]) -> None:
    """A key that the load's shape makes no use of would be passed over silently. Raises ConfigError naming it."""
    shape = _shape_of([key for key in load if load[key] is not None]) or "rate"
    for key in (key for keys in SHAPES.values() for key in keys if load.get(key) is not None):
        place = FLAG_OF[f"load.{key}"] if f"load.{key}" in flags else f"{file}: load.{key}" if file else f"load.{key}"
        if key not in SHAPES[shape]:
            shapes = " or ".join(shape for shape, keys in SHAPES.items() if key in keys)
            raise ConfigError(f"{place}: goes with {shapes}, and says nothing of a load given by {shape}")
        other, value = NEEDS.get(key, (key, None))
        if load.get(other) is None or (value is not None and load[other] != value):
            raise ConfigError(f"{place}: says nothing without {other}" + (f" = {value}" if value else ""))


def _check_flags_used(config: RunConfig, flags: Mapping[str, Any]) -> None:
    """A flag about what this run has not would be passed over silently; in a file it may wait for its turn.

    Raises ConfigError naming the flag.
    """
    unused: list[tuple[Collection[str], str]] = []
    if not config.load.master:
        unused.append((("load.bind", "load.workers"), "goes with --master, which waits for workers: add it"))
    if len(config.targets) == 1:
        unused.append((("load.split",), "shares the load among several targets, and there is one: add a --target"))
    if all(target.kind is Kind.MANAGED for target in config.targets):
        quota = "quota.tokens_per_minute", "quota.requests_per_minute"
        unused.append((quota, "managed deployments have no quota: leave it out, or give --kind serverless"))
    for keys, why in unused:
        for key in keys:
            if key in flags:
                raise ConfigError(f"{FLAG_OF[key]}: {why}")


def _put_defaults(values: dict[str, Any], trace: Path) -> None:
    """What a trace's load is where nothing else is said: a run's own, so that it repeats the run's requests."""
    if not trace.is_dir():
        values.setdefault("scenarios", {"replay": 1})  # what it states, and nothing else
        return
    from loadgen.samples import Manifest  # noqa: PLC0415 - it brings polars, which --help does without

    before = Manifest.read(trace).config
    for section in REPEATED_SECTIONS:
        if section in before:
            values.setdefault(section, before[section])
    for section, keys in REPEATED_KEYS.items():
        repeated = {key: before[section][key] for key in keys if key in before.get(section, {})}
        if isinstance(said := values.setdefault(section, {}), dict):
            values[section] = repeated | said


def _put(values: dict[str, Any], path: list[str], value: Any) -> None:
    *sections, key = path
    for name in sections:
        if not isinstance(values.get(name), dict):
            values[name] = {}
        values = values[name]
    values[key] = value


def _sentences(error: ValidationError, file: Path | None, flags: Mapping[str, Any], targets: Any) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=False):
        keys = [key for key in problem["loc"] if isinstance(key, str)]
        dotted = ".".join(keys)
        number = next((key for key in problem["loc"] if isinstance(key, int)), None)
        flag = FLAG_OF.get(dotted) if dotted in flags else None
        if keys[:1] == ["target"] and number is not None and isinstance(targets, list):
            dotted = f"target {number + 1}{dotted.removeprefix('target')}"
        place = flag or (f"{file}: {dotted}" if file else dotted)
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            message = _unknown(keys)
        lines.append(f"{place}: {message[0].lower()}{message[1:]}" if place else message)
    return "\n".join(dict.fromkeys(lines))


def _unknown(keys: list[str]) -> str:
    """What was meant by a key that is not known where it stands; its own name at another place, if it has one."""
    key, known, sections = keys[-1], _known_keys(keys[:-1]), _known_keys([])
    places = [f"under [{name}]" for name in sections if key in _known_keys([name])]
    if key in sections:
        places.insert(0, "above the first [table]" if key == NO_TABLE else f"as a table of its own, [{key}]")
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if places and not (near and key in near[0]):  # what is merely spelled alike was hardly meant
        return f"unknown key; {key!r} stands {' or '.join(places)}"
    return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; known are {', '.join(known)}"


def _known_keys(path: list[str]) -> list[str]:
    model: Any = RunConfig
    for key in path:
        if key == "target" and model is RunConfig:
            model = TargetConfig
            continue
        field = model.model_fields.get(key) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = next((kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)), None)
    if dataclasses.is_dataclass(model):
        return [field.name for field in dataclasses.fields(model)]
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]


FLAG_OF = {
    "target.url": "--target",
    "target.dialect": "--dialect",
    "target.kind": "--kind",
    "target.model": "--model",
    "target.instances": "--instances",
    "target.key": "--key",
    "target.allow_hosts": "--yes-target",
    "scenarios": "--scenario",
    "load.users": "--users",
    "load.spawn_rate": "--spawn-rate",
    "load.think_time": "--think-time",
    "load.rate": "--rate",
    "load.spike": "--spike",
    "load.diurnal": "--diurnal",
    "load.stages": "--stages",
    "load.arrivals": "--arrivals",
    "load.trace": "--trace",
    "load.speed": "--speed",
    "load.from": "--from",
    "load.scale": "--scale",
    "load.skip_bad_rows": "--skip-bad-rows",
    "load.duration": "--duration",
    "load.warmup": "--warmup",
    "load.max_tokens": "--max-tokens",
    "load.throttle": "--throttle",
    "load.retries": "--retries",
    "load.split": "--split",
    "load.seed": "--seed",
    "load.processes": "--processes",
    "load.master": "--master",
    "load.bind": "--bind",
    "load.workers": "--workers",
    "prompts.tokens": "--prompt-tokens",
    "prompts.completion": "--completion-tokens",
    "load.auto_stop": "--no-auto-stop",
    "budget.requests": "--budget-requests",
    "budget.tokens": "--budget-tokens",
    "budget.usd": "--budget-usd",
    "budget.wall": "--budget-wall",
    "quota.tokens_per_minute": "--tpm",
    "quota.requests_per_minute": "--rpm",
    "slo": "--slo",
    "output.dir": "--out",
    "output.report": "--no-report",
    "telemetry.otlp": "--otlp",
    "plan.region": "--region",
    "plan.growth": "--growth",
    "plan.prices": "--prices",
}
