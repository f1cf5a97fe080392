"""The models that can be simulated, and what each can do."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from loadgen.errors import ConfigError

# A name stands in headers and in the paths of routes, where braces and line ends would mean something else.
_NAME = re.compile(r"[A-Za-z0-9._\-/:@+]{1,200}")
DEFAULT_MODEL = "Phi-3-mini-4k-instruct"


class Kind(StrEnum):
    """What a deployment runs on, and is paid by."""

    SERVERLESS = "serverless"
    MANAGED = "managed"


class Modality(StrEnum):
    """What the routes of a model take; the values are /info's `model_type`."""

    CHAT = "chat-completions"  # /completions too
    EMBEDDINGS = "embeddings"  # of texts and of images


class Images(StrEnum):
    """What a chat model does with pictures."""

    NONE = "refused"
    ONE = "one a turn, the last is kept"
    SEVERAL = "several"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What a deployment serves. `extras` are the parameters beyond the API's that it knows, all of them flags."""

    name: str
    context_tokens: int  # prompt and completion together, as published on the model's card
    provider: str = "Microsoft"
    kinds: tuple[Kind, ...] = tuple(Kind)
    modality: Modality = Modality.CHAT
    images: Images = Images.NONE
    system_role: bool = True  # False: the API turns system messages into user messages, which count the same
    tools: bool = False
    json_object: bool = False
    extras: tuple[str, ...] = ()


def _phi(name: str, context_tokens: int, images: Images = Images.NONE, kinds: tuple[Kind, ...] = tuple(Kind)) -> Model:
    return Model(name=name, context_tokens=context_tokens, images=images, kinds=kinds, system_role=False)


def _mistral(name: str) -> Model:
    return Model(
        name=name,
        context_tokens=32_768,
        provider="MistralAI",
        kinds=(Kind.SERVERLESS,),
        tools=True,
        json_object=True,
        extras=("safe_prompt", "safe_mode"),
    )


def _cohere(name: str) -> Model:
    return Model(
        name=name, context_tokens=512, provider="Cohere", kinds=(Kind.SERVERLESS,), modality=Modality.EMBEDDINGS
    )


MODELS = (
    _phi("Phi-3-mini-4k-instruct", 4_096),
    _phi("Phi-3-mini-128k-instruct", 131_072),
    _phi("Phi-3-small-8k-instruct", 8_192),
    _phi("Phi-3-small-128k-instruct", 131_072),
    _phi("Phi-3-medium-4k-instruct", 4_096),
    _phi("Phi-3-medium-128k-instruct", 131_072),
    _phi("Phi-3-vision-128k-instruct", 131_072, Images.ONE, (Kind.MANAGED,)),
    _phi("Phi-3.5-mini-instruct", 131_072),
    _phi("Phi-3.5-MoE-instruct", 131_072),
    _phi("Phi-3.5-vision-instruct", 131_072, Images.SEVERAL),
    _mistral("Mistral-Large"),
    _mistral("Mistral-small"),
    Model(name="Meta-Llama-3-8B-Instruct", context_tokens=8_192, provider="Meta"),
    Model(name="Meta-Llama-3-70B-Instruct", context_tokens=8_192, provider="Meta"),
    _cohere("Cohere-embed-v3-english"),
    _cohere("Cohere-embed-v3-multilingual"),
)


def model_of(name: str, kind: Kind, context_tokens: int | None = None) -> Model:
    """The model of that name, whatever its case; with `context_tokens` a model that is not in the table, too.

    A model that is not in the table can do all that a chat model can. Raises ConfigError for a name that cannot be one,
    for one that is not in the table and has no context, and for a model that is not offered on this kind of deployment.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--model {name[:50]!a} cannot be a name: give 1 to 200 letters of ASCII, digits and . _ - / : @ +"
        )
    for model in MODELS:
        if model.name.lower() == name.lower():
            if kind not in model.kinds:
                other = model.kinds[0]
                raise ConfigError(
                    f"--model {model.name} is not offered as a {kind} deployment: give --kind {other}, or another model"
                )
            return model if context_tokens is None else replace(model, context_tokens=context_tokens)
    if context_tokens is None:
        known = ", ".join(model.name for model in MODELS)
        raise ConfigError(f"--model {name} is not in the table ({known}); give its context with --context-tokens")
    return Model(name=name, context_tokens=context_tokens, images=Images.SEVERAL, tools=True, json_object=True)
