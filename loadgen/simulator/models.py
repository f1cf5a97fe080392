"""The models that can be simulated, and how much they read and write at once."""

from __future__ import annotations

from loadgen.errors import ConfigError

PROVIDER = "Microsoft"
DEFAULT_MODEL = "Phi-3-mini-4k-instruct"

# Context lengths as published on the model cards: prompt and completion together.
CONTEXT_TOKENS = {
    "Phi-3-mini-4k-instruct": 4_096,
    "Phi-3-mini-128k-instruct": 131_072,
    "Phi-3-small-8k-instruct": 8_192,
    "Phi-3-small-128k-instruct": 131_072,
    "Phi-3-medium-4k-instruct": 4_096,
    "Phi-3-medium-128k-instruct": 131_072,
    "Phi-3-vision-128k-instruct": 131_072,
    "Phi-3.5-mini-instruct": 131_072,
    "Phi-3.5-MoE-instruct": 131_072,
    "Phi-3.5-vision-instruct": 131_072,
}


def context_of(model: str) -> int:
    """The context of a model of the table, in tokens. Raises ConfigError for any other."""
    for name, tokens in CONTEXT_TOKENS.items():
        if name.lower() == model.lower():
            return tokens
    known = ", ".join(CONTEXT_TOKENS)
    raise ConfigError(f"--model {model} is not in the table ({known}); give its context with --context-tokens")
