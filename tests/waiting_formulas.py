"""How long is waited for one of several places, by formulas that simulations and serving models are held against.

Arrivals are Poisson; `cv2` is the squared coefficient of variation of the time in service: 1 where that is exponential,
0 where all take alike.
"""

import math

from planner.fleets.waiting import erlang_c


def mean_wait_s(places: int, rate_per_s: float, service_s: float, *, cv2: float = 1.0) -> float:
    """Allen and Cunneen's approximation; exact for M/M/c, and for M/G/1 the formula of Pollaczek and Khinchine.

    Infinite where the load is the places or above.
    """
    load = rate_per_s * service_s
    if load >= places:
        return math.inf
    return erlang_c(places, load) * service_s / (places - load) * (1 + cv2) / 2


def waiting_beyond(wait_s: float, places: int, rate_per_s: float, service_s: float, *, cv2: float = 1.0) -> float:
    """The share that waits longer, with Kimura's exponential tail; exact for M/M/c. 1 where the load is too high.

    P(W > t) = C exp(-2 (c / S - rate) t / (1 + Cs^2)).
    """
    load = rate_per_s * service_s
    if load >= places:
        return 1.0
    return erlang_c(places, load) * math.exp(-2 * (places / service_s - rate_per_s) * wait_s / (1 + cv2))
