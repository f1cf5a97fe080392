"""The flags of the simulated deployment, and what they make: Settings and a Place. Every complaint names its flag."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar

from loadgen.errors import ConfigError
from loadgen.quota import Admission, Quota, WindowKind
from loadgen.simulator.autoscale import parse_rule
from loadgen.simulator.batching import BatchingModel
from loadgen.simulator.deployment import Settings
from loadgen.simulator.endpoint import EndpointSettings, Routing
from loadgen.simulator.faults import read_faults
from loadgen.simulator.hardware import batching_of, usual_sku
from loadgen.simulator.managed import ManagedSettings
from loadgen.simulator.models import DEFAULT_MODEL, Kind, model_of
from loadgen.simulator.safety import PROMPT_PHRASES, FilterShape, Safety
from loadgen.simulator.server import Place
from loadgen.simulator.serverless import HTTP_DATE, ServerlessSettings
from loadgen.simulator.serving import Lengths, ServingModel

Made = TypeVar("Made")
Name = TypeVar("Name", bound=StrEnum)
MOST_PORT = 65_535
MOST_DRAIN_S = 3_600
MOST_TIME_SCALE = 1_000
OFF = "off"
CATALOGUE_TIMEOUT_MS = 180_000.0  # the longest that Azure allows
LYING_HEADERS = re.compile("retry-after(-ms)?|x-ms-retry-after-ms|x-rate-?limit-[a-z-]+")
QUOTA_FLAGS = {  # flag: field of Quota
    "tpm": "tokens_per_minute",
    "rpm": "requests_per_minute",
    "concurrency": "concurrency",
    "admission": "admission",
    "window": "window",
    "burst_s": "burst_s",
    "request_slice_s": "request_slice_s",
}
ENDPOINT_FLAGS = {  # flag: field of EndpointSettings
    "instances": "instances",
    "max_concurrent": "max_concurrent_per_instance",
    "request_timeout_ms": "request_timeout_ms",
    "requests_per_second": "requests_per_second",
    "bandwidth_bytes_per_s": "bandwidth_bytes_per_s",
    "routing": "routing",
    "boot_s": "boot_s",
    "scale_grain_s": "grain_s",
    "scale_window_s": "window_s",
    "min_instances": "min_instances",
    "max_instances": "max_instances",
}


MOST_OF_ENDPOINT = {  # a deployment may have 50 instances, by Azure's documented limits; the others keep times sane
    "instances": 50,
    "max_instances": 50,
    "request_timeout_ms": 86_400_000,
    "boot_s": 86_400,
    "scale_grain_s": 86_400,
    "scale_window_s": 86_400,
}


def parser() -> argparse.ArgumentParser:
    """All flags; those of one kind of compute are None unless given."""
    made = argparse.ArgumentParser(
        prog="headroom simulate", description="Simulate one deployment on loopback.", allow_abbrev=False
    )
    add = made.add_argument
    add(
        "--kind",
        type=_one_of(Kind),
        choices=list(Kind),
        default=Kind.SERVERLESS,
        help="a quota, or instances to see",
    )
    add("--model", default=DEFAULT_MODEL, help="its name, and with it what it can do (%(default)s)")
    add("--context-tokens", type=_whole, help="context of a model that is not in the table, or instead of its own")
    add("--host", default="127.0.0.1", help="address to listen on; one beyond loopback needs a key (%(default)s)")
    add("--port", type=_whole, default=8181, help="0: any that is free (%(default)s)")
    add("--seed", type=_whole, default=1, help="draws the same lengths and latencies again (%(default)s)")
    add("--key-env", metavar="NAME", help="environment variable with the key that requests must carry")
    add("--until-eof", action="store_true", help="end when stdin ends")
    add("--drain-s", type=_number, default=30, help="asked to end, let answers run for so many seconds (%(default)s)")
    add("--time-scale", type=_number, default=1, help="10: the deployment's time runs ten times faster (%(default)s)")
    add("--faults", type=Path, metavar="FILE", help="misbehave as its [[toxic]] tables say; the README has all of them")
    add(
        "--serving",
        metavar="NAME=NUMBER",
        action="append",
        default=[],
        help="a parameter of the serving model, NAME=NUMBER; repeatable",
    )
    _add_serverless(made.add_argument_group("a serverless deployment").add_argument)
    _add_managed(made.add_argument_group("a managed deployment").add_argument)
    return made


def _add_serverless(add: Any) -> None:
    add("--tpm", type=_whole, help="tokens a minute (200,000)")
    add("--rpm", type=_whole, help="requests a minute (1,000)")
    add(
        "--concurrency", type=_whole, help="requests in flight at once (no limit; 300 is documented for some endpoints)"
    )
    add(
        "--admission", type=_one_of(Admission), choices=list(Admission), help="what a request costs (prompt+max_tokens)"
    )
    add(
        "--window",
        type=_one_of(WindowKind),
        choices=list(WindowKind),
        help="refilled all the time, reset each minute, or any 60 s (bucket)",
    )
    add("--burst-s", type=_number, help="seconds of quota that a bucket holds (60)")
    add("--request-slice-s", type=_whole, help="requests are checked in slices of so many seconds (60)")
    add("--header", metavar="NAME=VALUE", action="append", help="a rate-limit header that lies; without VALUE, omitted")
    add("--content-filter", choices=(*FilterShape, OFF), help="the body that refuses a filtered prompt (wrapped)")
    add("--content-filter-phrase", metavar="TEXT", action="append", help="one more phrase that filters a prompt")


def _add_managed(add: Any) -> None:
    add("--sku", help="the machine, such as Standard_NC24ads_A100_v4 (the smallest A100 that the model is offered on)")
    add("--instances", type=_whole, help="how many (--min-instances, else 1)")
    add("--max-concurrent", type=_whole, help="requests that one instance works on; twice as many are let in (64)")
    add("--request-timeout-ms", type=_number, help="then 408, unless a stream has begun (180,000)")
    add("--requests-per-second", type=_whole, help="above it 429 (500)")
    add("--bandwidth-bytes-per-s", type=_whole, help="above it delays (5,000,000)")
    add("--routing", type=_one_of(Routing), choices=list(Routing), help="which instance gets a request (least_loaded)")
    add("--boot-s", type=_number, help="from an instance's start to its first request (900)")
    add("--min-instances", type=_whole, help="of the autoscale rules (--instances)")
    add("--max-instances", type=_whole, help="of the autoscale rules (--instances)")
    add("--scale-rule", metavar="RULE", action="append", help="such as utilization_percent>70:+1; repeatable")
    add("--scale-grain-s", type=_number, help="a rule looks at averages of so many seconds (60)")
    add("--scale-window-s", type=_number, help="and at the mean of those of so many (300)")


def _whole(text: str) -> int:
    try:
        return int(text.replace(",", ""))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _number(text: str) -> float:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def _one_of(names: type[Name]) -> Callable[[str], Name]:
    def named(text: str) -> Name:
        try:
            return names(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}") from None

    return named


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Raises ConfigError or ValueError, saying which flag."""
    context_tokens: int | None = arguments.context_tokens
    if context_tokens is not None and context_tokens < 1:
        raise ConfigError(f"--context-tokens must be above zero, not {context_tokens}")
    if not 0 < arguments.time_scale <= MOST_TIME_SCALE:
        raise ConfigError(f"--time-scale must be above 0 and at most {MOST_TIME_SCALE}, not {arguments.time_scale:g}")
    if arguments.seed < 0:
        raise ConfigError(f"--seed must be zero or above, not {arguments.seed}")
    model = model_of(arguments.model, arguments.kind, context_tokens)
    managed = arguments.kind is Kind.MANAGED
    serving = _serving(arguments.serving, BatchingModel if managed else ServingModel)
    lengths = {entry.name: serving.pop(entry.name) for entry in fields(Lengths) if entry.name in serving}
    return Settings(
        model=model,
        compute=_managed(arguments, model.name, serving) if managed else _serverless(arguments, serving),
        safety=None if managed else _safety(arguments.content_filter, arguments.content_filter_phrase or ()),
        lengths=Lengths(**lengths),
        seed=arguments.seed,
        key=_key(arguments.key_env),
        time_scale=arguments.time_scale,
        faults=None if arguments.faults is None else read_faults(arguments.faults),
    )


def place_of(arguments: argparse.Namespace) -> Place:
    """Raises ConfigError: answers stay on this machine, unless a key guards them."""
    if not 0 <= arguments.drain_s <= MOST_DRAIN_S:
        raise ConfigError(f"--drain-s must be from 0 to {MOST_DRAIN_S}, not {arguments.drain_s:g}")
    if not 0 <= arguments.port <= MOST_PORT:
        raise ConfigError(f"--port must be from 0 to {MOST_PORT}, not {arguments.port}")
    if arguments.until_eof and sys.stdin is None:
        raise ConfigError("--until-eof: there is no stdin whose end could be seen")
    if arguments.key_env is None and not _is_loopback(arguments.host):
        raise ConfigError(f"--host {arguments.host} can be reached from elsewhere: give it a key with --key-env NAME")
    return Place(
        host=arguments.host.strip("[]"),
        port=arguments.port,
        drain_s=arguments.drain_s,
        until_eof=arguments.until_eof,
    )


def _serverless(arguments: argparse.Namespace, serving: Mapping[str, float]) -> ServerlessSettings:
    _refuse(arguments, ("sku", "scale_rule", *ENDPOINT_FLAGS), "a serverless deployment has no instances to see")
    return ServerlessSettings(
        quota=_made(Quota, QUOTA_FLAGS, **_given(arguments, QUOTA_FLAGS)),
        serving=ServingModel(**serving),
        headers=_headers(arguments.header or ()),
    )


def _managed(arguments: argparse.Namespace, model: str, serving: Mapping[str, float]) -> ManagedSettings:
    """What a deployment from Azure's catalogue allows is not documented: here an instance takes all it can run.

    For a deployment of one's own Azure's defaults are --max-concurrent 1 and --request-timeout-ms 5000.
    """
    _refuse(arguments, ("header", *QUOTA_FLAGS), "a managed deployment has no quota")
    _refuse(arguments, ("content_filter", "content_filter_phrase"), "a managed deployment has no content filter")
    sku = arguments.sku or usual_sku(model)
    batching = batching_of(model, sku, serving)
    usual = {
        "instances": arguments.min_instances or 1,
        "max_concurrent_per_instance": batching.max_running,
        "request_timeout_ms": CATALOGUE_TIMEOUT_MS,
    }
    for flag, most in MOST_OF_ENDPOINT.items():
        value = getattr(arguments, flag)
        if value is not None and not value <= most:
            raise ConfigError(f"--{flag.replace('_', '-')} must be at most {most:,}, not {value:g}")
    rules = tuple(parse_rule(text) for text in arguments.scale_rule or ())
    endpoint = _made(EndpointSettings, ENDPOINT_FLAGS, rules=rules, **usual | _given(arguments, ENDPOINT_FLAGS))
    if rules and len(set(endpoint.bounds)) == 1:
        raise ConfigError("--scale-rule can change nothing: give --min-instances or --max-instances")
    if not rules and len(set(endpoint.bounds)) > 1:
        raise ConfigError("--min-instances and --max-instances do nothing without a --scale-rule")
    return ManagedSettings(sku=sku, batching=batching, endpoint=endpoint)


def _made(kind: type[Made], names: Mapping[str, str], **values: Any) -> Made:
    """The value, or a complaint that names the flags instead of its fields. Raises ConfigError."""
    try:
        return kind(**values)
    except ValueError as error:
        complaint = str(error)
        for flag, name in names.items():
            complaint = re.sub(rf"\b{name}\b", "--" + flag.replace("_", "-"), complaint)
        raise ConfigError(complaint) from None


def _given(arguments: argparse.Namespace, names: Mapping[str, str]) -> dict[str, Any]:
    return {name: value for flag, name in names.items() if (value := getattr(arguments, flag)) is not None}


def _refuse(arguments: argparse.Namespace, flags: Sequence[str], why: str) -> None:
    given = ["--" + flag.replace("_", "-") for flag in flags if getattr(arguments, flag) is not None]
    if given:
        raise ConfigError(f"{why}: leave out {', '.join(given)}")


def _serving(pairs: Sequence[str], model: type[BatchingModel | ServingModel]) -> dict[str, float]:
    names = [entry.name for entry in (*fields(model), *fields(Lengths))]
    values = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if name not in names:
            other = ServingModel if model is BatchingModel else BatchingModel
            kind = Kind.SERVERLESS if model is BatchingModel else Kind.MANAGED
            remedy = f"; {name} is one of --kind {kind}" if name in {entry.name for entry in fields(other)} else ""
            raise ConfigError(f"--serving {pair}: give NAME=NUMBER, NAME one of {', '.join(names)}{remedy}")
        try:
            values[name] = float(number)
        except ValueError:
            raise ConfigError(f"--serving {pair}: give NAME=NUMBER; {number!r} is not a number") from None
    return values


def _headers(pairs: Sequence[str]) -> dict[str, str]:
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        dated = value == HTTP_DATE and name.lower() != "retry-after"
        if dated or not (equals and LYING_HEADERS.fullmatch(name.lower()) and value.isascii() and value.isprintable()):
            raise ConfigError(
                f"--header {pair}: give NAME=VALUE, where NAME is retry-after, retry-after-ms, x-ms-retry-after-ms, "
                "x-ratelimit-... or x-rate-limit-..., and VALUE is printable (http-date for retry-after only)"
            )
        headers[name.lower()] = value
    return headers


def _safety(shape: str | None, phrases: Sequence[str]) -> Safety | None:
    if not all(phrases):
        raise ConfigError("--content-filter-phrase must not be empty: it would filter every prompt")
    if shape != OFF:
        return Safety(shape=FilterShape(shape or FilterShape.WRAPPED), phrases=(*PROMPT_PHRASES, *phrases))
    if phrases:
        raise ConfigError("--content-filter off filters nothing: leave out --content-filter-phrase")
    return None


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        lacking = "has no" if key is None else "holds nothing in"
        raise ConfigError(f"--key-env: the environment {lacking} {variable}")
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise ConfigError(f"--key-env: {variable} holds what no header can carry, such as a newline at its end")
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
