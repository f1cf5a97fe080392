"""The form by which a page submits a job, as the body of POST /api/jobs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from headroom.service.refusals import Refusal

BLANK: Final[Mapping[str, str]] = {  # the form as it first comes
    "name": "",
    "tags": "",
    "schedule": "",
    "as": "fields",
    "target": "sim",
    "scenarios": "chat=6 streaming=13 vision=1",
    "rate": "5/s",
    "duration": "1m",
    "warmup": "5s",
    "max_tokens": "128",
    "tpm": "",
    "rpm": "",
    "requests": "",
    "tokens": "",
    "slo": "",
    "toml": "",
}
PLACES: Final[Mapping[str, tuple[str, str]]] = {  # of the common fields in a loadtest.toml
    "target": ("target", "url"),
    "rate": ("load", "rate"),
    "duration": ("load", "duration"),
    "warmup": ("load", "warmup"),
    "max_tokens": ("load", "max_tokens"),
    "tpm": ("quota", "tokens_per_minute"),
    "rpm": ("quota", "requests_per_minute"),
    "requests": ("budget", "requests"),
    "tokens": ("budget", "tokens"),
}
COUNTS: Final = frozenset({"max_tokens", "tpm", "rpm", "requests", "tokens"})


def filled(form: Mapping[str, str]) -> dict[str, str]:
    """What was sent, by the fields that there are; text areas send line breaks as CR LF."""
    return {name: form.get(name, "").replace("\r\n", "\n") for name in BLANK}


def job_of(form: Mapping[str, str]) -> dict[str, Any]:
    """Of a filled form. Raises Refusal (422) that names the field."""
    whole = form["as"] == "toml"
    job: dict[str, Any] = {
        "kind": "loadtest",
        "name": form["name"].strip(),
        "tags": form["tags"],
        "config": form["toml"] if whole else _config(form),
    }
    if form["schedule"].strip():
        job["schedule"] = form["schedule"].strip()
    return job


def _config(form: Mapping[str, str]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for name, (section, key) in PLACES.items():
        text = form[name].strip()
        if text:
            config.setdefault(section, {})[key] = _count(text) if name in COUNTS else text
    if form["scenarios"].strip():
        config["scenarios"] = dict(_weighted(word) for word in form["scenarios"].replace(",", " ").split())
    if form["slo"].strip():
        config["slo"] = form["slo"].split()
    return config


def _count(text: str) -> float | str:
    """As a number where it is one; what is none, or no count, is told as it is of a loadtest.toml."""
    plain = text.replace(",", "").replace("_", "")
    for number in (int, float):
        with suppress(ValueError):
            return number(plain)
    return text


def _weighted(word: str) -> tuple[str, float]:
    name, equals, weight = word.partition("=")
    try:
        return name, float(weight) if equals else 1.0
    except ValueError:
        raise Refusal(422, f"{word!r}: a weight is a number, like chat=3", where="scenarios") from None
