"""Which requests of a demand a quota never admits, and a need in the times that the demand was recorded at."""

from __future__ import annotations

from dataclasses import dataclass, replace

from loadgen.quota import Quota
from planner.demand import MINUTE_S, Demand, admission_tokens
from planner.quota import REFUSED_SHARE
from planner.quotas.deployments import QuotaNeed


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Requests that cost more than all tokens of a minute, so that no number of deployments serves them."""

    requests: int
    of: int
    largest_tokens: int  # what the largest costs at the door
    tokens_per_minute: int  # of a deployment

    def beyond(self, share: float = REFUSED_SHARE) -> bool:
        """Whether they are more than may be refused."""
        return self.requests > share * self.of

    def __str__(self) -> str:
        return (
            f"{self.requests:,} of {self.of:,} requests {'is' if self.requests == 1 else 'are'} larger than a quota "
            f"of {self.tokens_per_minute:,} tokens a minute ever admits: the largest counts {self.largest_tokens:,}, "
            f"so it takes --tpm {self.largest_tokens} or more"
        )


def too_large(demand: Demand, quota: Quota) -> TooLarge | None:
    """None where each request fits into a minute."""
    cost = demand.arrivals.select(admission_tokens(quota.admission)).to_series()
    largest = cost.max()
    if not isinstance(largest, int) or largest <= quota.tokens_per_minute:
        return None
    return TooLarge(int((cost > quota.tokens_per_minute).sum()), len(cost), largest, quota.tokens_per_minute)


def as_recorded(need: QuotaNeed | None, demand: Demand) -> QuotaNeed | None:
    """With the busiest minute where it was recorded.

    The need is of the demand as it has grown, and repeated until it fills the windows of a quota.
    """
    if need is None:
        return None
    when = need.binds_when
    at_s = when.busiest_minute_s % demand.span_s * demand.speed if demand.span_s > MINUTE_S else 0.0
    return replace(need, binds_when=replace(when, busiest_minute_s=at_s))
