"""`python -m loadgen.simulator`: one simulated deployment on loopback.

It prints one line of JSON, `{"url": ..., "pid": ...}`, when it listens, and ends with 0 on SIGTERM, SIGINT or (with
--until-eof) at the end of its stdin. Exit code 2: a flag that cannot be used, or a port that cannot be had.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields

from loadgen.errors import ConfigError
from loadgen.quota import Admission, Quota, WindowKind
from loadgen.simulator.deployment import Settings
from loadgen.simulator.models import DEFAULT_MODEL, Kind, model_of
from loadgen.simulator.safety import PROMPT_PHRASES, FilterShape, Safety
from loadgen.simulator.server import serve
from loadgen.simulator.serving import ServingModel

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
        serve(_settings(arguments), port=arguments.port, until_eof=arguments.until_eof)
    except (ConfigError, ValueError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - the complaint is the output
        return ConfigError.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadgen.simulator", description="Simulate one deployment on loopback.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--kind", type=Kind, choices=list(Kind), default=Kind.SERVERLESS, help="serverless has a quota, managed none")
    add("--model", default=DEFAULT_MODEL, help="its name, and with it the context")
    add("--context-tokens", type=int, help="context of a model that is not in the table, or instead of its own")
    add("--port", type=int, default=0, help="0: any that is free")
    add("--seed", type=int, default=1, help="draws the same lengths and latencies again")
    add("--key-env", metavar="NAME", help="environment variable with the key that requests must carry")
    add("--until-eof", action="store_true", help="end when stdin ends")
    add("--serving", metavar="NAME=NUMBER", action="append", default=[], help="a parameter of the serving model")
    add("--content-filter", choices=(*FilterShape, "off"), help="body of a filtered prompt's refusal; serverless only")
    add("--content-filter-phrase", metavar="TEXT", action="append", default=[], help="filters a prompt that holds it")
    quota = parser.add_argument_group("quota of a serverless deployment").add_argument
    quota("--tpm", type=int, help="tokens a minute")
    quota("--rpm", type=int, help="requests a minute")
    quota("--concurrency", type=int, help="requests in flight at once")
    quota("--admission", type=Admission, choices=list(Admission), help="what a request costs at the door")
    quota("--window", type=WindowKind, choices=list(WindowKind), help="how a limit per minute is enforced")
    quota("--burst-s", type=float, help="seconds of quota that a bucket holds")
    quota("--request-slice-s", type=int, help="requests are checked in slices of so many seconds")
    return parser


def _settings(arguments: argparse.Namespace) -> Settings:
    """Raises ConfigError or ValueError, saying which flag."""
    context_tokens: int | None = arguments.context_tokens
    if context_tokens is not None and context_tokens < 1:
        raise ConfigError(f"--context-tokens must be above zero, not {context_tokens}")
    if arguments.seed < 0:
        raise ConfigError(f"--seed must be zero or above, not {arguments.seed}")
    return Settings(
        model=model_of(arguments.model, arguments.kind, context_tokens),
        quota=_quota(arguments),
        kind=arguments.kind,
        safety=_safety(arguments),
        serving=_serving(arguments.serving),
        seed=arguments.seed,
        key=_key(arguments.key_env),
    )


def _quota(arguments: argparse.Namespace) -> Quota | None:
    given = {flag: value for flag in QUOTA_FLAGS if (value := getattr(arguments, flag)) is not None}
    if arguments.kind is Kind.MANAGED:
        if given:
            flags = ", ".join("--" + flag.replace("_", "-") for flag in given)
            raise ConfigError(f"a managed deployment has no quota: leave out {flags}")
        return None
    return Quota(**{QUOTA_FLAGS[flag]: value for flag, value in given.items()})


def _safety(arguments: argparse.Namespace) -> Safety | None:
    shape, phrases = arguments.content_filter, arguments.content_filter_phrase
    if arguments.kind is Kind.MANAGED and (phrases or shape not in (None, "off")):
        raise ConfigError(
            "managed compute has no content filter: leave out --content-filter and --content-filter-phrase"
        )
    if not all(phrases):
        raise ConfigError("--content-filter-phrase must not be empty: it would filter every prompt")
    if shape == "off" and phrases:
        raise ConfigError("--content-filter off filters nothing: leave out --content-filter-phrase")
    if arguments.kind is Kind.MANAGED or shape == "off":
        return None
    return Safety(shape=FilterShape(shape or FilterShape.WRAPPED), phrases=(*PROMPT_PHRASES, *phrases))


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


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"--key-env: the environment has no {variable}")
    return key


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
