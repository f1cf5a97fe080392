"""The models that can be simulated, and what each can do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loadgen.errors import ConfigError

DEFAULT_MODEL = "Phi-3-mini-4k-instruct"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a deployment serves."""

    name: str
    context_tokens: int  # prompt and completion together, as published on the model's card
    provider: str = "Microsoft"


MODELS = tuple(
    Model(name=name, context_tokens=context_tokens)
    for name, context_tokens in (
        ("Phi-3-mini-4k-instruct", 4_096),
        ("Phi-3-mini-128k-instruct", 131_072),
        ("Phi-3-small-8k-instruct", 8_192),
        ("Phi-3-small-128k-instruct", 131_072),
        ("Phi-3-medium-4k-instruct", 4_096),
        ("Phi-3-medium-128k-instruct", 131_072),
        ("Phi-3-vision-128k-instruct", 131_072),
        ("Phi-3.5-mini-instruct", 131_072),
        ("Phi-3.5-MoE-instruct", 131_072),
        ("Phi-3.5-vision-instruct", 131_072),
    )
)


def model_of(name: str, context_tokens: int | None = None) -> Model:
    """The model of that name, whatever its case; with `context_tokens` a model that is not in the table, too.

    Raises ConfigError for a name that is not in the table and has no context.
    """
    for model in MODELS:
        if model.name.lower() == name.lower():
            return model if context_tokens is None else replace(model, context_tokens=context_tokens)
    if context_tokens is None:
        known = ", ".join(model.name for model in MODELS)
        raise ConfigError(f"--model {name} is not in the table ({known}); give its context with --context-tokens")
    return Model(name=name, context_tokens=context_tokens)
