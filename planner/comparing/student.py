"""Student's t and the beta distribution, from the regularised incomplete beta function.

The continued fraction is Lentz's, as in Press et al., Numerical Recipes, section 6.4; it is right to 12 digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

_TINY = 1e-300
_TURNS = 500
_HALVINGS = 200


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b): the chance that a Beta(a, b) variable is at most x. For a, b > 0."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _fraction(a, b, x) / a
    return 1 - math.exp(log_front) * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away(1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, _TURNS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d, c = 1 / _away(1 + term * d), _away(1 + term / c)
            value *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return value


def _away(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def beta_quantile(p: float, a: float, b: float) -> float:
    """The x with I_x(a, b) = p, by halving."""
    return _solved(lambda x: incomplete_beta(a, b, x) < p, 0.0, 1.0)


def t_above(t: float, df: float) -> float:
    """The chance that Student's t with df > 0 degrees of freedom is above t; of infinitely many, the normal's."""
    if math.isinf(df):
        return math.erfc(t / math.sqrt(2)) / 2
    if math.isinf(t):
        return 0.0 if t > 0 else 1.0
    beyond = incomplete_beta(df / 2, 0.5, df / (df + t * t)) / 2
    return beyond if t > 0 else 1 - beyond


@lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    """The t that Student's variable stays below with chance p, 0 < p < 1."""
    if p < 0.5:
        return -t_quantile(1 - p, df)
    highest = 1.0
    while t_above(highest, df) > 1 - p and highest < 1e15:
        highest *= 2
    return _solved(lambda t: t_above(t, df) > 1 - p, 0.0, highest)


def _solved(too_low: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return (low + high) / 2
