"""`python -m loadgen.simulator`: one simulated deployment on loopback.

It prints one line of JSON, `{"url": ..., "pid": ...}`, when it listens. On SIGTERM or SIGINT it takes no more
requests, lets those that run be answered (a second signal cuts them), and ends with 0; with --until-eof it ends at
once with its stdin. Exit code 2: a flag that cannot be used, or a port that cannot be had.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from ipaddress import ip_address

from loadgen.errors import ConfigError
from loadgen.quota import Admission, Quota, WindowKind
from loadgen.simulator.deployment import Settings
from loadgen.simulator.models import DEFAULT_MODEL, model_of
from loadgen.simulator.server import Place, serve
from loadgen.simulator.serving import ServingModel

MOST_PORT = 65_535
MOST_DRAIN_S = 3_600
MOST_TIME_SCALE = 1_000
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


def main(argv: Sequence[str]) -> int:
    """Serve until asked to end; the exit code. Complaints go to stderr, one sentence each."""
    arguments = _parser().parse_args(argv)
    try:
        serve(_settings(arguments), _place(arguments))
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the complaint is the output
        return ConfigError.exit_code
    except KeyboardInterrupt:  # before it listened
        return 0
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headroom simulate", description="Simulate one deployment on loopback.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--kind", choices=("serverless", "managed"), default="serverless", help="serverless has a quota, managed none")
    add("--model", default=DEFAULT_MODEL, help="its name, and with it the context")
    add("--context-tokens", type=int, help="context of a model that is not in the table, or instead of its own")
    add("--host", default="127.0.0.1", help="address to listen on; one beyond loopback needs a key")
    add("--port", type=int, default=8181, help="0: any that is free")
    add("--seed", type=int, default=1, help="draws the same lengths and latencies again")
    add("--key-env", metavar="NAME", help="environment variable with the key that requests must carry")
    add("--until-eof", action="store_true", help="end when stdin ends")
    add("--drain-s", type=float, default=30, help="asked to end, let answers run for so many seconds")
    add("--time-scale", type=float, default=1, help="10: the deployment's time runs ten times faster")
    add("--serving", metavar="NAME=NUMBER", action="append", default=[], help="a parameter of the serving model")
    quota = parser.add_argument_group("quota of a serverless deployment").add_argument
    quota("--tpm", type=int, help="tokens a minute")
    quota("--rpm", type=int, help="requests a minute")
    quota("--concurrency", type=int, help="requests in flight at once")
    quota("--admission", type=Admission, choices=list(Admission), help="what a request costs at the door")
    quota("--window", type=WindowKind, choices=list(WindowKind), help="how a limit per minute is enforced")
    quota("--burst-s", type=float, help="seconds of quota that a bucket holds")
    quota("--request-slice-s", type=int, help="requests are checked in slices of so many seconds")
    quota("--header", metavar="NAME=VALUE", action="append", default=[], help="a rate-limit header that lies; '': none")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    """Raises ConfigError or ValueError, saying which flag."""
    context_tokens: int | None = arguments.context_tokens
    if context_tokens is not None and context_tokens < 1:
        raise ConfigError(f"--context-tokens must be above zero, not {context_tokens}")
    if not 0 < arguments.time_scale <= MOST_TIME_SCALE:
        raise ConfigError(f"--time-scale must be above 0 and at most {MOST_TIME_SCALE}, not {arguments.time_scale:g}")
    if arguments.seed < 0:
        raise ConfigError(f"--seed must be zero or above, not {arguments.seed}")
    return Settings(
        model=model_of(arguments.model, context_tokens),
        quota=_quota(arguments),
        serving=_serving(arguments.serving),
        seed=arguments.seed,
        key=_key(arguments.key_env),
        headers=_headers(arguments.header),
        time_scale=arguments.time_scale,
    )


def _place(arguments: argparse.Namespace) -> Place:
    """Raises ConfigError: load and answers stay on this machine, unless a key guards them."""
    if not 0 <= arguments.drain_s <= MOST_DRAIN_S:
        raise ConfigError(f"--drain-s must be from 0 to {MOST_DRAIN_S}, not {arguments.drain_s:g}")
    if not 0 <= arguments.port <= MOST_PORT:
        raise ConfigError(f"--port must be from 0 to {MOST_PORT}, not {arguments.port}")
    if arguments.key_env is None and not _is_loopback(arguments.host):
        raise ConfigError(f"--host {arguments.host} can be reached from elsewhere: give it a key with --key-env NAME")
    return Place(host=arguments.host, port=arguments.port, drain_s=arguments.drain_s, until_eof=arguments.until_eof)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _quota(arguments: argparse.Namespace) -> Quota | None:
    given = {flag: value for flag in QUOTA_FLAGS if (value := getattr(arguments, flag)) is not None}
    if arguments.kind == "managed":
        given |= {"header": True} if arguments.header else {}
        if given:
            flags = ", ".join("--" + flag.replace("_", "-") for flag in given)
            raise ConfigError(f"a managed deployment has no quota: leave out {flags}")
        return None
    return Quota(**{QUOTA_FLAGS[flag]: value for flag, value in given.items()})


def _serving(pairs: Sequence[str]) -> ServingModel:
    names = [field.name for field in fields(ServingModel)]
    values = {}
    for pair in pairs:
        name, _, number = pair.partition("=")
        if name not in names:
            raise ConfigError(f"--serving {pair}: the serving model has {', '.join(names)}")
        try:
            values[name] = float(number)
        except ValueError:
            raise ConfigError(f"--serving {pair}: {number!r} is not a number") from None
    return ServingModel(**values)


def _headers(pairs: Sequence[str]) -> dict[str, str]:
    headers = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (equals and LYING_HEADERS.fullmatch(name.lower()) and value.isascii() and value.isprintable()):
            raise ConfigError(
                f"--header {pair}: give NAME=VALUE, where NAME is retry-after, retry-after-ms, x-ms-retry-after-ms, "
                "x-ratelimit-... or x-rate-limit-..., and VALUE is printable"
            )
        headers[name.lower()] = value
    return headers


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"--key-env: the environment has no {variable}")
    return key


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
