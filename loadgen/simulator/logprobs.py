"""Log probabilities in OpenAI's shape: stated numbers, since no model draws the words.

The token said has a probability between 0.5 and 0.82, by its place; each alternative has half of what is left.
"""

from __future__ import annotations

import math
from typing import Any

from loadgen.simulator.drafts import WORDS


def logprob_of(piece: bytes, index: int, alternatives: int) -> dict[str, Any]:
    """The token at `index`, and in `top_logprobs` the `alternatives` likeliest, itself the first of them."""
    probability = 0.5 + 0.08 * (index % 5)
    said = _entry(piece, probability)
    others = [word for word in WORDS if word != piece]
    top = [_entry(others[(index + rank) % len(others)], (1 - probability) / 2**rank) for rank in range(1, alternatives)]
    return said | {"top_logprobs": [said, *top][:alternatives]}


def _entry(piece: bytes, probability: float) -> dict[str, Any]:
    return {"token": piece.decode(), "logprob": math.log(probability), "bytes": list(piece)}
