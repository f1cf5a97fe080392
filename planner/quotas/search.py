"""The smallest number that is enough, where trying one is slow."""

from __future__ import annotations

from collections.abc import Callable


def smallest(is_enough: Callable[[int], bool], start: int, most: int) -> int:
    """The smallest number from 1 that is enough, if each above one that is enough is so too, and `most` is.

    Looked for from `start` in both directions, by steps that double, and then by halves.
    """
    step = 1
    if is_enough(start):
        low, high = start - 1, start
        while low > 0 and is_enough(low):
            low, high, step = max(0, low - 2 * step), low, 2 * step
    else:
        low, high = start, start + 1
        while high < most and not is_enough(high):
            low, high, step = high, min(most, high + 2 * step), 2 * step
    while low + 1 < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high
