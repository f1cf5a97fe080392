"""The parameters that the routes share: a body read as JSON, those the API does not define, and values checked.

Numbers may come as strings ("0.1"): the documented clients send their penalties so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson

from loadgen.simulator.models import Model
from loadgen.simulator.refusals import bad_request, invalid
from loadgen.simulator.safety import Safety

UNSUPPORTED = "parameter_not_supported"
RANGES = {  # of the API reference; temperature as the documentation has it, up to what OpenAI's dialect allows
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
SAMPLING = frozenset({*RANGES, "max_tokens", "stop", "stream", "seed", "model"})
MOST_TOP_LOGPROBS = 20
MOST_STOPS = 16  # ours; OpenAI takes 4, and of the Azure API no limit is documented
MOST_DIGITS = 15
WRITABLE_LEVELS = 250  # of nested JSON; orjson reads 1,024


class Dialect(StrEnum):
    AZURE = "azure"
    OPENAI = "openai"


class Extras(StrEnum):
    """What becomes of parameters that the API does not define: the header `extra-parameters` of the Azure dialect."""

    ERROR = "error"
    DROP = "drop"
    FORWARD = "pass-through"


class UsageWhere(StrEnum):
    """Where a stream carries its usage."""

    LAST_EVENT = "beside the finish reason"  # the Azure API, always
    EVENT_OF_ITS_OWN = "after it, without choices"  # OpenAI's dialect, on request
    NOWHERE = "nowhere"


EXTRAS_HEADER = {None: Extras.ERROR, b"ignore": Extras.DROP} | {mode.encode(): mode for mode in Extras}


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a body is read by: the model it is for, the dialect of its route, and the filter; None without one."""

    model: Model
    dialect: Dialect
    safety: Safety | None


def extras_of(header: bytes | None) -> Extras:
    """Raises Refusal (400) for a value that is not documented; `ignore` is what older pages call `drop`."""
    mode = EXTRAS_HEADER.get(header)
    if mode is None:
        allowed = ", ".join(Extras)
        raise bad_request(f"The header extra-parameters must be one of {allowed}.", param="extra-parameters")
    return mode


def read_fields(body: bytes, defined: frozenset[str], terms: Terms, extras: Extras) -> dict[str, Any]:
    """The body's fields, those that the API does not `define` treated as `extras` says.

    OpenAI's dialect ignores unknown ones. Raises Refusal: 400 for broken JSON and for a parameter that is not allowed,
    422 for what is no object.
    """
    try:
        fields = orjson.loads(body)
        if body.count(b"[") + body.count(b"{") > WRITABLE_LEVELS:
            orjson.dumps(fields)  # raises where it is too deep: parts of it are written again, to be counted
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        raise bad_request("The body is not valid JSON, or nested too deeply.", code="invalid_json") from None
    if not isinstance(fields, dict):
        raise invalid((), fields)
    if terms.dialect is Dialect.AZURE and not fields.keys() <= defined:
        if extras is Extras.ERROR:
            name = min(fields.keys() - defined)
            message = (
                f"The API does not define the parameter {name[:100]}; "
                "the header extra-parameters can drop it or pass it through."
            )
            raise bad_request(message, code="extra_parameter", param=name[:100])
        if extras is Extras.DROP:
            return {name: value for name, value in fields.items() if name in defined}
    return fields


def check_sampling(fields: Mapping[str, Any], model: Model) -> None:
    """Raises Refusal (422) for a value that is out of range, and for more than one choice."""
    for name, (least, most) in RANGES.items():
        if name in fields:
            value = number(fields, name)
            if value is not None and not least <= value <= most:
                raise invalid((name,), fields[name])
    if (choices := fields.get("n")) is not None and (type(choices) is not int or choices != 1):
        raise invalid(("n",), choices, code=UNSUPPORTED)
    if not isinstance(fields.get("model"), str | None):
        raise invalid(("model",), fields["model"])
    for name in model.extras:
        flag(fields, name)


def usage_where(fields: Mapping[str, Any], dialect: Dialect) -> UsageWhere:
    """Azure puts it beside the finish reason, unless the stream_options of OpenAI were passed through."""
    options = fields.get("stream_options")
    if options is None:
        return UsageWhere.LAST_EVENT if dialect is Dialect.AZURE else UsageWhere.NOWHERE
    if not isinstance(options, dict):
        raise invalid(("stream_options",), options)
    if flag(options, "include_usage", ("stream_options",)):
        return UsageWhere.EVENT_OF_ITS_OWN
    return UsageWhere.LAST_EVENT if dialect is Dialect.AZURE else UsageWhere.NOWHERE


def stops(fields: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The sequences that end an answer; none without the field. Raises Refusal (422) for none in it, and too many."""
    stop = fields.get("stop")
    if stop is None:
        return ()
    given = [stop] if isinstance(stop, str) else stop
    if not isinstance(given, list) or not 0 < len(given) <= MOST_STOPS:
        raise invalid(("stop",), stop)
    if not all(isinstance(one, str) and one for one in given):
        raise invalid(("stop",), stop)
    return tuple(one.encode() for one in given)


def top_logprobs(fields: Mapping[str, Any]) -> int | None:
    """How many alternatives to list with each token; None where no log probabilities are asked for."""
    wanted, most = flag(fields, "logprobs"), count(fields, "top_logprobs")
    if most is not None and (not wanted or most > MOST_TOP_LOGPROBS):
        raise invalid(("top_logprobs",), fields["top_logprobs"])
    return (most or 0) if wanted else None


def number(fields: Mapping[str, Any], name: str) -> float | None:
    """A number or a string that holds one; None where it is absent or null. Raises Refusal (422)."""
    value = fields.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    try:
        if isinstance(value, str) and "_" not in value:
            return float(value)
    except ValueError:
        pass
    raise invalid((name,), value)


def count(fields: Mapping[str, Any], name: str) -> int | None:
    """A whole number from zero up, or a string that holds one. Raises Refusal (422)."""
    value = whole(fields, name)
    if value is not None and value < 0:
        raise invalid((name,), fields[name])
    return value


def whole(fields: Mapping[str, Any], name: str) -> int | None:
    """A whole number, or a string that holds one. Raises Refusal (422)."""
    value = fields.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    if isinstance(value, str) and len(value) <= MOST_DIGITS and value.lstrip("-").isdecimal() and value.isascii():
        try:
            return int(value)
        except ValueError:  # more than one sign
            pass
    raise invalid((name,), value)


def flag(fields: Mapping[str, Any], name: str, within: tuple[str, ...] = ()) -> bool:
    """A truth value, false where it is absent or null. Raises Refusal (422)."""
    value = fields.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise invalid((*within, name), value)
