"""Instances that follow a demand: how many when, what their boots cost, when to let them go, which to reserve.

Arrays of instances have one whole number a bin of the demand's path; a month is that path again and again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.cost import HOURS_PER_MONTH
from planner.costs.demand_path import Floats
from planner.prices import HOURS_OF_TERM

Whole = npt.NDArray[np.int64]


def instances_needed(requests_per_s: Floats, capacity_per_s: float, *, least: int, spare: int) -> Whole:
    """ceil(rate / capacity) + spare in each bin, and `least` at least."""
    # A rate of 3 x 0.1 is three instances of 0.1 and not four: what is a billionth above is rounding.
    needed = np.ceil(requests_per_s / capacity_per_s - 1e-9).astype(np.int64)
    return np.maximum(needed + spare, least)


def follow(needed: Whole, *, boot_bins: float) -> Floats:
    """Instances follow what is needed: each is held for as long as a boot takes, and booted for its next use.

    In which share of the time the k-th instance is billed, shape (most instances,); it never rises. Billed are the use,
    the hold and the boot, the whole of a gap at most: no more than twice what foresight would cost (ski rental: Karlin,
    Manasse, Rudolph, Sleator 1988). The path is a circle: its end is followed by its beginning.
    """
    billed_bins = []
    for level in range(1, int(needed.max(initial=0)) + 1):
        used = needed >= level
        idle = np.minimum(_gaps(used), 2 * boot_bins)
        billed_bins.append(float(used.sum()) + float(idle.sum()))
    # Fewer, longer gaps may be billed less than more, shorter ones: which instance is called the k-th is our choice.
    return np.sort(np.array(billed_bins))[::-1] / len(needed)


def _gaps(used: npt.NDArray[np.bool_]) -> Floats:
    """Lengths, in bins, of the stretches of no use between two of use, around the circle."""
    places = np.flatnonzero(used)
    apart = np.diff(places, append=places[:1] + len(used)) - 1
    return apart[apart > 0].astype(np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    term: str  # "1 Year", "3 Years" or "5 Years"
    usd_per_hour: float  # the term's price divided by its hours
    pays_from_share: float  # of the hours: the k-th instance must be needed for more of them than this
    instances: int  # worth reserving
    per_month_usd: float  # of all instances: these reserved, the others as they are needed
    saves_per_month_usd: float
    committed_usd: float  # for the term, used or not


def reserve(
    share_of_hours: Floats, usd_per_hour: float, reserved_usd_per_hour: Mapping[str, float]
) -> tuple[Reservation, ...]:
    """Reserve the k-th instance iff it is needed in a greater share of the hours than reserved over hourly price.

    The newsvendor's rule; `share_of_hours` is that share for k = 1, 2, ..., which never rises.
    """
    unreserved_usd = float(share_of_hours.sum()) * usd_per_hour * HOURS_PER_MONTH
    rows = []
    for term, reserved_usd in reserved_usd_per_hour.items():
        worth = int((share_of_hours > reserved_usd / usd_per_hour).sum())
        rest = float(share_of_hours[worth:].sum())
        per_month_usd = (worth * reserved_usd + rest * usd_per_hour) * HOURS_PER_MONTH
        rows.append(
            Reservation(
                term=term,
                usd_per_hour=reserved_usd,
                pays_from_share=reserved_usd / usd_per_hour,
                instances=worth,
                per_month_usd=per_month_usd,
                saves_per_month_usd=unreserved_usd - per_month_usd,
                committed_usd=worth * reserved_usd * HOURS_OF_TERM[term],
            )
        )
    return tuple(rows)
