"""Waiting for one of several places, by queueing theory: quick answers, and what a simulation is checked against.

`places` serve one request each, `load` is the arrival rate times the mean service time (erlangs: places busy in the
mean), `cv2` is a squared coefficient of variation: 1 for Poisson arrivals and for exponential service, 0 where all are
alike.
"""

from __future__ import annotations

import math

STAFFING_STEPS = 200  # of the bisection for beta: more than a float can tell apart
_BETA_MOST = 40.0  # the chance of waiting is 0 to the last digit well before


def erlang_b(places: int, load: float) -> float:
    """The share of Poisson arrivals refused where nobody may wait: B_0 = 1, B_k = a B / (k + a B)."""
    blocked = 1.0
    for place in range(1, places + 1):
        blocked = load * blocked / (place + load * blocked)
    return blocked


def erlang_c(places: int, load: float) -> float:
    """The share of Poisson arrivals that wait (M/M/c): C = B / (1 - rho (1 - B)); 1 from a load of the places on."""
    if load >= places:
        return 1.0
    blocked = erlang_b(places, load)
    return blocked / (1 - load / places * (1 - blocked))


def mean_wait_s(
    places: int, rate_per_s: float, service_s: float, *, arrival_cv2: float = 1.0, cv2: float = 1.0
) -> float:
    """Allen and Cunneen's approximation; exact for M/M/c, and for M/G/1 the formula of Pollaczek and Khinchine.

    Infinite where the load is the places or above.
    """
    load = rate_per_s * service_s
    if load >= places:
        return math.inf
    return erlang_c(places, load) * service_s / (places - load) * (arrival_cv2 + cv2) / 2


def waiting_beyond(
    wait_s: float, places: int, rate_per_s: float, service_s: float, *, arrival_cv2: float = 1.0, cv2: float = 1.0
) -> float:
    """The share that waits longer, with Kimura's exponential tail; exact for M/M/c. 1 where the load is too high.

    P(W > t) = C exp(-2 (c / S - rate) t / (Ca^2 + Cs^2)).
    """
    load = rate_per_s * service_s
    if load >= places:
        return 1.0
    variability = arrival_cv2 + cv2
    if variability == 0:
        return 0.0
    return erlang_c(places, load) * math.exp(-2 * (places / service_s - rate_per_s) * wait_s / variability)


def halfin_whitt(beta: float) -> float:
    """The share that waits of very many places a + beta sqrt(a) under the load a (Halfin and Whitt, 1981)."""
    if beta <= 0:
        return 1.0
    below = (1 + math.erf(beta / math.sqrt(2))) / 2
    density = math.exp(-beta * beta / 2) / math.sqrt(2 * math.pi)
    return 1.0 if density == 0 and below == 0 else density / (density + beta * below)


def square_root_staffing(load: float, waiting_share: float) -> int:
    """Places so that about `waiting_share` (above 0, below 1) wait: a + beta sqrt(a), with Halfin and Whitt's beta.

    Raises ValueError for another share.
    """
    if not 0 < waiting_share < 1:
        raise ValueError(f"waiting_share must lie between 0 and 1, not {waiting_share}")
    low, high = 0.0, _BETA_MOST
    for _ in range(STAFFING_STEPS):
        beta = (low + high) / 2
        low, high = (low, beta) if halfin_whitt(beta) <= waiting_share else (beta, high)
    return max(1, math.ceil(load + high * math.sqrt(load)))
