"""What one instance serves within the objectives: by the serving model, else by the highest step of a sweep that met.

Known for requests such as were measured, and for those alone: a prompt eight times as long is another load.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from loadgen.errors import CapacityError, ConfigError
from loadgen.slo import Slo
from planner.capacity import ServingModel, fit
from planner.demand import Demand
from planner.instances import SweptCapacity
from planner.plan import InstanceEstimate
from planner.scope import Scope
from planner.serving.curves import Shape
from planner.serving.usable import is_same_shape

MEASURED = "measured"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceRate:
    """Requests a second that one instance serves within the objectives; 90 % interval.

    By a sweep alone, grade "measured": the rate that met, which is the low end too, and the one that did not.
    """

    rate_per_s: float
    low: float
    high: float
    binds: str  # the objective that is missed first, or "capacity", or "concurrency cap"
    grade: str  # interpolated | one step beyond | extrapolated | measured
    horizon: float  # the rate over the highest steady step's
    form: str  # of the curve: linear | power | quadratic | none
    steps_used: int
    concurrency_cap: int | None
    cap_source: str  # given | measured | unknown


def instance_rate(scope: Scope) -> tuple[ServingModel | None, InstanceRate | None, str | None]:
    """The model, what an instance serves, and why that is not known and what to run."""
    unknown = _unknown(scope)
    if unknown is not None:
        return None, None, unknown
    try:
        return _modelled(scope)
    except (CapacityError, ConfigError) as error:
        rate = _swept(scope)
        return None, rate, None if rate is not None else _refused(scope, str(error))


def _unknown(scope: Scope) -> str | None:
    """Why there is nothing to know it from."""
    if not scope.managed:
        return (
            "serverless deployments hide their machines; measure a managed one of this model: headroom sweep "
            f"--target URL --kind managed {_flags(scope.slos)}"
        )
    if not scope.slos:
        return "no objective says how slow is too slow: give --slo"
    if scope.steps is None and scope.swept is None:
        return (
            f"one load says nothing of another: measure several with headroom sweep {_flags(scope.slos)}, or plan "
            "several runs"
        )
    return None


def _refused(scope: Scope, why: str) -> str:
    """Neither the model nor the sweep says it."""
    other = other_shape(scope)
    if other is not None:
        return f"{other}: run headroom sweep with such prompts and answers"
    if scope.swept is None:
        return why
    return f"{why}; and the sweep was of other objectives: {_texts(scope.config.slos)}"


def _modelled(scope: Scope) -> tuple[ServingModel | None, InstanceRate | None, str | None]:
    """Of requests such as the demand's. Raises CapacityError and ConfigError."""
    if scope.steps is None or scope.steps.height < 2:
        raise CapacityError("one step is too few for a curve")
    instances = scope.config.target.instances or 1
    model = fit(scope.steps, concurrency_cap=scope.settings.max_concurrency, instances=instances)
    shape = _shape(scope.planned)
    found = model.max_rate(scope.slos, shape.prompt_tokens, max(1.0, shape.completion_tokens))
    rate = found.rate_per_s
    return model, InstanceRate(
        rate_per_s=rate.value,
        low=rate.low,
        high=rate.high,
        binds=found.binds,
        grade=found.grade,
        horizon=found.horizon,
        form=model.form,
        steps_used=model.steps_used,
        concurrency_cap=model.concurrency_cap,
        cap_source=model.cap_source,
    ), None  # fmt: skip


def _swept(scope: Scope) -> InstanceRate | None:
    """What the sweep saw, where it was of the same objectives."""
    met_per_s, missed_per_s = measured_rate_per_s(scope), missed_rate_per_s(scope)
    if met_per_s is None:
        return None
    return InstanceRate(
        rate_per_s=met_per_s,
        low=met_per_s,
        high=met_per_s if missed_per_s is None else max(met_per_s, missed_per_s),
        binds=" and ".join(slo.text for slo in scope.slos),
        grade=MEASURED,
        horizon=1.0,
        form="none",
        steps_used=0 if scope.steps is None else scope.steps.height,
        concurrency_cap=None,
        cap_source="unknown",
    )


def measured_rate_per_s(scope: Scope) -> float | None:
    """Of one instance, that a sweep found to keep these objectives with such requests."""
    swept = _of_these(scope)
    return None if swept is None else swept.rate_per_s / swept.instances


def missed_rate_per_s(scope: Scope) -> float | None:
    """Of one instance, the lowest at which a sweep saw these objectives missed with such requests."""
    swept = _of_these(scope)
    return None if swept is None or swept.missed_per_s is None else swept.missed_per_s / swept.instances


def _of_these(scope: Scope) -> SweptCapacity | None:
    """The sweep, where it was of the objectives and requests that are planned for."""
    same = _texts(scope.slos) == _texts(scope.config.slos) and other_shape(scope) is None
    return scope.swept if same else None


def other_shape(scope: Scope) -> str | None:
    """How the planned requests differ from those that were measured; None where they do not, by 20 % at most."""
    measured, planned = _shape(scope.measured), _shape(scope.planned)
    if scope.of_own_mix or is_same_shape(measured, planned):
        return None
    return f"measured were requests of {_in_words(measured)}, planned are such of {_in_words(planned)}"


def guessed(scope: Scope, estimate: InstanceEstimate | None) -> str | None:
    """Why the number of instances is a guess where no capacity was measured; None where it is none."""
    if estimate is not None and estimate.assumed:
        return (
            f"what an instance serves is a guess, {estimate.concurrency_per_instance} requests at once "
            "(--concurrency-per-instance says how many)"
        )
    other = other_shape(scope)
    return None if other is None else f"what an instance serves of such requests was not measured ({other})"


def _shape(demand: Demand) -> Shape:
    return Shape(demand.mean_tokens("prompt_tokens"), demand.mean_tokens("completion_tokens"))


def _in_words(shape: Shape) -> str:
    return f"{shape.prompt_tokens:,.0f} prompt and {shape.completion_tokens:,.0f} completion tokens"


def _texts(slos: Iterable[Slo]) -> str:
    return ", ".join(sorted(slo.text for slo in slos))


def _flags(slos: Iterable[Slo]) -> str:
    """The user's own objectives, as the command line takes them."""
    return " ".join(f"--slo '{slo.text}'" for slo in slos) or "--slo 'ttft.p95<1s'"
