"""The section of loadtest.toml that says what is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from loadgen.errors import ConfigError
from loadgen.fields import Real, Seconds, Section
from loadgen.lengths import parse_lengths


class PromptsConfig(Section):
    """What is asked, where a scenario's own prompts will not do."""

    tokens: str | None = Field(
        None,
        description="tokens of each prompt: `fixed:200`, `uniform:50..400`, `normal:200,50`, `lognormal:200,0.5`, "
        "`file:FILE` (a number a line) or `file:FILE,COLUMN` (CSV); by default as each scenario has it",
    )
    completion: str | None = Field(None, description="max_tokens of each request, likewise; by default load.max_tokens")
    shared_prefix: Real = Field(
        0.0, ge=0, le=1, description="share of each prompt's tokens that is the same in all, at its beginning"
    )
    cache_bust: bool = Field(False, description="begin each prompt with a line of its own, so that no cache knows it")
    file: Path | None = Field(
        None, description='own prompts, drawn by the seed: `{"prompt": "..."}` or `{"messages": [...]}` a line'
    )
    images: Path | None = Field(
        None, description="a folder of own pictures (JPEG, PNG) for those scenarios that send some"
    )
    turns: str = Field("uniform:2..6", description="turns of each conversation, as a distribution")
    turn_pause: Seconds = Field(
        1.0, description="mean pause of a conversation between an answer and the next turn (exponential)"
    )
    unsafe_share: Real = Field(
        0.1, ge=0, le=1, description="share of the content_safety scenario's prompts that trip the filter"
    )

    @field_validator("tokens", "completion", "turns")
    @classmethod
    def _lengths_parse(cls, value: str | None) -> str | None:
        try:
            if value is not None:
                parse_lengths(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.file is not None and self.tokens is not None:
            raise ValueError("file and tokens exclude each other: own prompts have the lengths they have")
        if self.cache_bust and self.shared_prefix:
            raise ValueError("cache_bust and shared_prefix exclude each other: give one")
        return self
