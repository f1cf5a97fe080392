"""Content safety, which serverless deployments have and managed compute has not.

Nothing is judged: a prompt is filtered where it holds one of the stated phrases, whatever its case. The two of
PROMPT_PHRASES come from the prompts that Azure's documents show being filtered; that of COMPLETION_PHRASES lets the
prompt pass and has the completion filtered half-way.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from loadgen.simulator.refusals import Refusal, bad_request

PROMPT_PHRASES = ("practice your knife skills", "make a lethal bomb")
COMPLETION_PHRASES = ("describe a bar fight",)
CODE = "content_filter"


class FilterShape(StrEnum):
    """The two documented bodies of a filtered prompt."""

    WRAPPED = "wrapped"  # inside `error`, param prompt
    FLAT = "flat"  # the fields at the top, param messages (or prompt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Safety:
    """A content filter at work. `phrases` are those that a prompt is refused for."""

    shape: FilterShape = FilterShape.WRAPPED
    phrases: tuple[str, ...] = PROMPT_PHRASES

    def check(self, texts: Iterable[str], param: str) -> bool:
        """Whether the completion will be filtered; `param` is the field the texts came from.

        Raises Refusal (400 content_filter) where the prompt is.
        """
        filters_completion = False
        for text in texts:
            folded = text.casefold()
            for phrase in self.phrases:
                if phrase.casefold() in folded:
                    raise self._refusal(param)
            for phrase in COMPLETION_PHRASES:
                filters_completion = filters_completion or phrase in folded
        return filters_completion

    def _refusal(self, param: str) -> Refusal:
        if self.shape is FilterShape.WRAPPED:
            message = (
                "The response was filtered due to the prompt triggering Microsoft's content management policy. "
                "Please modify your prompt and retry."
            )
            return bad_request(message, code=CODE, param="prompt")
        body = {"status": 400, "code": CODE, "message": "The response was filtered", "param": param, "type": None}
        return Refusal(400, CODE, body)
