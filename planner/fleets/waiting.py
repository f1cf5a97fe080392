"""Waiting for one of several places, by queueing theory: what a simulation is held against.

`places` serve one request each, `load` is the arrival rate times the mean service time (erlangs: places busy in the
mean).
"""

from __future__ import annotations


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
