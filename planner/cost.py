"""Cost: of tokens on serverless deployments, of hours of managed instances, and where one overtakes the other."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from planner.plan import ManagedCost, ServerlessCost
from planner.prices import Sku, TokenPrice

HOURS_PER_MONTH = 730
S_PER_HOUR = 3_600
FALLBACK_REGION = "eastus"


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: float
    completion: float


def tokens_usd(tokens: Tokens, price: TokenPrice) -> float:
    return (tokens.prompt * price.input_usd_per_1k + tokens.completion * price.output_usd_per_1k) / 1_000


def blended_usd_per_1k(price: TokenPrice, output_share: float) -> float:
    """Of a token, when `output_share` of the tokens are generated ones."""
    return tokens_usd(Tokens(1_000 * (1 - output_share), 1_000 * output_share), price)


def break_even_tokens_per_hour(usd_per_hour: float, price: TokenPrice, output_share: float) -> float | None:
    """The volume for which serverless costs what the instance hour does; None of tokens that cost nothing."""
    usd_per_1k = blended_usd_per_1k(price, output_share)
    return usd_per_hour / usd_per_1k * 1_000 if usd_per_1k else None


def break_even_output_share(usd_per_hour: float, tokens_per_hour: float, price: TokenPrice) -> float | None:
    """The share of generated tokens at which that volume costs, serverless, what the instance hour does.

    None where both kinds of token cost the same. Outside 0..1 where no mix of the volume does.
    """
    dearer = price.output_usd_per_1k - price.input_usd_per_1k
    if dearer == 0:
        return None
    return (usd_per_hour * 1_000 / tokens_per_hour - price.input_usd_per_1k) / dearer


def cores_of_quota(instances: int, cores: int, *, exempt: bool) -> int:
    """Core quota that a managed deployment takes: 20 % more instances, rounded up, unless the SKU is exempt."""
    reserved = instances if exempt else -(-instances * 12 // 10)
    return reserved * cores


def serverless_cost(
    price: TokenPrice, *, so_far: Tokens, of_a_request: Tokens, requests_per_s: float, deployments: int
) -> ServerlessCost:
    """`so_far` is what was billed; the rest a request's mean cost at a rate. A deployment by itself costs nothing."""
    per_request_usd = tokens_usd(of_a_request, price)
    per_hour_usd = per_request_usd * requests_per_s * S_PER_HOUR
    return ServerlessCost(
        model=price.model,
        input_usd_per_1k=price.input_usd_per_1k,
        output_usd_per_1k=price.output_usd_per_1k,
        source=price.source,
        dated=price.dated.isoformat(),
        so_far_usd=tokens_usd(so_far, price),
        per_request_usd=per_request_usd,
        per_hour_usd=per_hour_usd,
        per_month_usd=per_hour_usd * HOURS_PER_MONTH,
        deployments=deployments,
    )


def region_priced(sku: Sku, region: str) -> str | None:
    """The region itself where the SKU has a price there, else eastus, else the first that has one; None: none has."""
    known = sorted(sku.usd_per_hour)
    return next((place for place in (region, FALLBACK_REGION, *known) if place in sku.usd_per_hour), None)


def managed_costs(
    skus: Iterable[Sku],
    *,
    region: str,
    instances: int,
    usd_per_request: float | None,
    most_requests_per_s: float = math.inf,
) -> tuple[ManagedCost, ...]:
    """So many instances of each SKU that has a price in the region, the cheapest first.

    `most_requests_per_s` is what they serve: a break-even above it never comes.
    Where no SKU has one, the prices of eastus stand in, and `region` of each row says so.
    """
    priced = [sku for sku in skus if region in sku.usd_per_hour]
    if not priced:
        region = FALLBACK_REGION
        priced = [sku for sku in skus if region in sku.usd_per_hour]
    rows = [_managed_cost(sku, region, instances, usd_per_request, most_requests_per_s) for sku in priced]
    return tuple(sorted(rows, key=lambda row: (row.per_hour_usd, row.gpus)))


def _managed_cost(
    sku: Sku, region: str, instances: int, usd_per_request: float | None, most_requests_per_s: float
) -> ManagedCost:
    usd_per_hour, origin = sku.usd_per_hour[region], sku.origin(region)
    per_hour_usd = usd_per_hour * instances
    break_even = per_hour_usd / (usd_per_request * S_PER_HOUR) if usd_per_request else math.inf
    return ManagedCost(
        sku=sku.name,
        gpus=sku.gpus,
        usd_per_hour=usd_per_hour,
        region=region,
        source=origin.source,
        dated=origin.dated.isoformat(),
        instances=instances,
        per_hour_usd=per_hour_usd,
        per_month_usd=per_hour_usd * HOURS_PER_MONTH,
        cores_of_quota=cores_of_quota(instances, sku.cores, exempt=sku.exempt_from_reservation),
        break_even_requests_per_s=break_even if break_even <= most_requests_per_s and usd_per_request else None,
    )
