"""What a job may ask for: no file, key, target or amount but what the service itself offers.

A job is checked as it comes, before any file that it names is touched, and then by the very code that `headroom run`
checks a loadtest.toml by, so that the messages are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headroom import targets
from headroom.aborting import check_delays
from headroom.commands.load import place_of
from headroom.service.bounds import FILE, check_bounds, complete_budget
from headroom.service.jobs import Asked, Kind
from headroom.service.launching import environment_for
from headroom.service.plan_request import plan_of
from headroom.service.refusals import Refusal
from headroom.service.settings import AllowedTarget, Settings
from headroom.service.toml import to_toml
from loadgen.config import SIMULATED, RunConfig
from loadgen.errors import ConfigError, HeadroomError
from loadgen.loadtest import config_of
from loadgen.target import address_of
from loadgen.toml_file import parse

JOB_KEYS = ("kind", "name", "tags", "config", "schedule")
LONGEST_NAME, MOST_TAGS = 100, 20
TAG = re.compile(r"[^\s,][^,\n\r\t]{0,39}")
PATHS = (("load", "trace"), ("prompts", "file"), ("prompts", "images"), ("plan", "prices"))
LENGTHS = (("prompts", "tokens"), ("prompts", "completion"), ("prompts", "turns"))  # which may name a file
FORBIDDEN = {
    ("output", "dir"): "the service names the run folder",
    ("telemetry", "otlp"): "the service sends nothing to collectors that a job names",
    ("load", "master"): "the service's jobs make their load on its own machine",
    ("load", "bind"): "the service's jobs make their load on its own machine",
    ("load", "workers"): "the service's jobs make their load on its own machine",
}
OF_TARGET = {"ca_file": "certificates are the service's", "allow_hosts": None}  # None: taken over by the service


def admit(job: Mapping[str, Any], settings: Settings, folder_of_run: Callable[[str], Path]) -> Asked:
    """Of `{kind, name, tags, config}`, or raises Refusal (422) that names the field. `folder_of_run` raises it too."""
    _check_keys(job)
    kind = _kind(job.get("kind", "loadtest"))
    name, tags = _name(job.get("name", "")), tags_of(job.get("tags", []))
    try:
        values = _table(job.get("config", {}))
        if kind is Kind.LOADTEST:
            return Asked(kind=kind, name=name, tags=tags, config=_loadtest(values, settings))
    except HeadroomError as error:
        raise Refusal(422, str(error), where="config") from None
    request = plan_of(values)
    for run in request.runs:
        folder_of_run(run)
    return Asked(kind=kind, name=name, tags=tags, config=request.model_dump(mode="json", exclude_none=True))


def admit_again(kind: Kind, config: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The configuration of a job that was admitted, perhaps by a service that offered more, as this one lets it start.

    Its targets have the keys of now. Raises HeadroomError and Refusal for what is offered no more.
    """
    if kind is Kind.PLAN:
        return plan_of(dict(config)).model_dump(mode="json", exclude_none=True)
    values = _table(dict(config))
    given = values.get("target", {})
    whole = [_without_offer(each) for each in (given if isinstance(given, list) else [given])]
    return _loadtest(values | {"target": whole if isinstance(given, list) else whole[0]}, settings)


def _without_offer(target: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in target.items() if key not in ("key", "allow_hosts")}


def _table(config: object) -> dict[str, Any]:
    values = parse(config, FILE) if isinstance(config, str) else config
    if not isinstance(values, dict):
        raise ConfigError(f"{FILE}: must be a table of sections, or TOML text")
    return {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}


def _loadtest(values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The values of a loadtest.toml within the service's bounds. Raises ConfigError and its kin."""
    _refuse_forbidden(values)
    _place_files(values, settings.data)
    _offer_targets(values, settings.targets)
    complete_budget(values, settings.caps)
    to_toml(values)  # what cannot be written down cannot be run
    try:
        config = config_of(_copy(values), FILE, {}, {})
        _check_config(config, settings)
    finally:
        targets.forget_files()  # which may be others when the next job names them
    return values


def _check_config(config: RunConfig, settings: Settings) -> None:
    _check_places(config, settings)
    check_bounds(config, settings.caps)
    for scenario in config.scenarios:
        if ":" in scenario or "/" in scenario:
            raise ConfigError(f"{FILE}: scenarios: jobs play those that Headroom has, and name no file of their own")
        place_of(scenario)
    targets.check(config, environment_for(settings, [target.key for target in config.targets]))
    check_delays(config)


def _check_places(config: RunConfig, settings: Settings) -> None:
    """What the values have come to, whichever way they were written: a second lock behind the first."""
    for target in config.targets:
        offered = _offer_of(target.url, settings.targets)
        if target.url != SIMULATED and offered is None:
            raise _not_loaded(target.url, settings.targets)
        if target.ca_file is not None or target.key != (None if offered is None else offered.key):
            raise ConfigError(f"{FILE}: target: keys and certificates are the service's")
    prompts = config.prompts
    lengths = [
        str(text).partition(":")[2] for text in (prompts.tokens, prompts.completion, prompts.turns) if is_file(text)
    ]
    for path in (config.load.trace, prompts.file, prompts.images, config.plan.prices, *map(Path, lengths)):
        if path is not None and (settings.data is None or not path.is_relative_to(settings.data.resolve())):
            raise ConfigError(f"{FILE}: files are those in the service's data folder, named from there")
    if config.output.dir is not None or config.load.master or config.telemetry.otlp is not None:
        raise ConfigError(f"{FILE}: the service names the run folder, and makes the load on its own machine for itself")


def is_file(text: str | None) -> bool:
    return text is not None and text.startswith("file:")


def _copy(value: Any) -> Any:
    match value:
        case dict():
            return {key: _copy(each) for key, each in value.items()}
        case list():
            return [_copy(each) for each in value]
    return value


def _refuse_forbidden(values: Mapping[str, Any]) -> None:
    for (section, key), why in FORBIDDEN.items():
        if _at(values, section, key) is not None:
            raise ConfigError(f"{FILE}: {section}.{key}: {why}: leave it out")


def _at(values: Mapping[str, Any], section: str, key: str) -> Any:
    table = values.get(section)
    return table.get(key) if isinstance(table, dict) else None


def _place_files(values: dict[str, Any], data: Path | None) -> None:
    """Names of files become paths inside the service's data folder. Raises ConfigError for any other."""
    for section, key in PATHS:
        if (name := _at(values, section, key)) is not None:
            values[section][key] = str(_inside(data, name, f"{section}.{key}"))
    for section, key in LENGTHS:
        text = _at(values, section, key)
        if isinstance(text, str) and is_file(text):
            name, comma, column = text.removeprefix("file:").partition(",")
            values[section][key] = f"file:{_inside(data, name, f'{section}.{key}')}{comma}{column}"


def _inside(data: Path | None, name: object, place: str) -> Path:
    if data is None:
        raise ConfigError(f"{FILE}: {place}: this service offers no files: it was started without --data")
    if not isinstance(name, str) or not name or "\0" in name:
        raise ConfigError(f"{FILE}: {place}: must be the name of a file in the service's data folder")
    root = data.resolve()
    try:
        path = (root / name).resolve()
        there, led = path.is_file() or path.is_dir(), [path, *(link.resolve() for link in _links_in(path))]
    except (OSError, RuntimeError):  # too long a name, a loop of links
        path, there, led = root, False, [root]
    if path == root or not all(each.is_relative_to(root) for each in led):
        raise ConfigError(f"{FILE}: {place}: files are those in the service's data folder, named from there")
    if not there:
        raise ConfigError(f"{FILE}: {place}: the service's data folder has no {name!r}")
    return path


def _links_in(folder: Path) -> Iterator[Path]:
    """At any depth; none of a file."""
    for place, folders, files in os.walk(folder):
        yield from (link for name in (*folders, *files) if (link := Path(place, name)).is_symlink())


def _offer_targets(values: dict[str, Any], offered: Sequence[AllowedTarget]) -> None:
    """Each target becomes one that the service allows, with its key. Raises ConfigError for any other."""
    given = values.get("target", {})
    several = given if isinstance(given, list) else [given]
    if not all(isinstance(each, dict) for each in several):
        return  # which is said where it is validated
    whole = [_offered(dict(each), offered) for each in several]
    values["target"] = whole if isinstance(given, list) else whole[0]


def _offered(target: dict[str, Any], offered: Sequence[AllowedTarget]) -> dict[str, Any]:
    for key, why in OF_TARGET.items():
        if target.pop(key, None) is not None and why is not None:
            raise ConfigError(f"{FILE}: target.{key}: {why}: leave it out")
    url = target.setdefault("url", SIMULATED)
    key = target.pop("key", None)
    found = _offer_of(url, offered)
    if url != SIMULATED and found is None:
        raise _not_loaded(url, offered)
    if found is not None:
        target["allow_hosts"] = [found.address.host]
        if found.key is not None:
            target["key"] = found.key
    if key is not None and (found is None or key != found.key):
        raise ConfigError(f"{FILE}: target.key: keys are the service's, and go with its targets: leave it out")
    return target


def _not_loaded(url: object, offered: Sequence[AllowedTarget]) -> ConfigError:
    loaded = [SIMULATED, *(each.address.origin + each.address.path for each in offered)]
    return ConfigError(
        f"{FILE}: target.url: this service does not load {url!r}; it loads {', '.join(loaded)}; who starts it allows "
        "more by `headroom serve --allow-target URL`"
    )


def _offer_of(url: object, offered: Sequence[AllowedTarget]) -> AllowedTarget | None:
    if url == SIMULATED or not isinstance(url, str):
        return None
    address = address_of(url)
    return next((each for each in offered if each.covers(address)), None)


def _check_keys(job: Mapping[str, Any]) -> None:
    unknown = sorted(set(job) - set(JOB_KEYS))
    if unknown:
        raise Refusal(422, f"unknown key; known are {', '.join(JOB_KEYS)}", where=str(unknown[0])[:100])


def _kind(kind: object) -> Kind:
    if kind not in list(Kind):
        raise Refusal(422, f"must be {' or '.join(Kind)}", where="kind")
    return Kind(str(kind))


def _name(name: object) -> str:
    if not isinstance(name, str) or len(name) > LONGEST_NAME or not name.isprintable():
        raise Refusal(422, f"must be a text of one line and at most {LONGEST_NAME} characters", where="name")
    return name.strip()


def tags_of(tags: object) -> tuple[str, ...]:
    """Of a job or a run: as they are in a list, or between commas. Raises Refusal (422)."""
    given = tags.split(",") if isinstance(tags, str) else tags
    if not isinstance(given, list) or len(given) > MOST_TAGS or not all(isinstance(tag, str) for tag in given):
        raise Refusal(422, f"must be a list of at most {MOST_TAGS} texts", where="tags")
    whole = tuple(dict.fromkeys(tag.strip() for tag in given if tag.strip()))
    for tag in whole:
        if not TAG.fullmatch(tag) or not tag.isprintable():
            raise Refusal(422, "a tag has at most 40 characters, and no comma", where="tags")
    return whole
