"""How long the stretches of a demand are that are drawn again together, wherever one is."""

from __future__ import annotations

import math

DAY_MINUTES = 24 * 60
LEAST_DAYS = 7


def block_minutes(minutes: int) -> int:
    """A day of a demand of a week and more, as days are alike in their hours.

    Of a shorter one the third root of its minutes, after Hall, Horowitz and Jing (1995): what is alike in neighbouring
    minutes stays together.
    """
    return DAY_MINUTES if minutes >= LEAST_DAYS * DAY_MINUTES else max(1, math.ceil(round(minutes ** (1 / 3), 9)))
