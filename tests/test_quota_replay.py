"""The replay of arrivals against a quota: the obvious slow way, case by case, and what cannot be replayed."""

import math
from fractions import Fraction
from random import Random

import polars as pl
import pytest

from loadgen.quota import Admission, Quota, WindowKind
from planner.doors import door_of
from planner.queues import waits
from planner.quota import replayed

MINUTE, S = 60 * 10**9, 10**9
CASES = 1_000


def arrivals(*rows):
    return pl.DataFrame(
        rows,
        schema={"at_s": pl.Float64, "prompt_tokens": pl.Int64, "completion_tokens": pl.Int64, "max_tokens": pl.Int64},
        orient="row",
    )


class Obvious:
    """One deployment that remembers all it admitted, and counts it anew each time."""

    def __init__(self, quota, phase):
        self.quota, self.phase, self.admitted = quota, phase, []
        self.slice = quota.request_slice_s * S
        burst = round(quota.burst_s * S)
        self.bursts = {"tokens": burst, "requests": min(burst, self.slice)}
        per_minute = {"tokens": quota.tokens_per_minute, "requests": quota.requests_per_minute}
        self.rates = {name: Fraction(amount, MINUTE) for name, amount in per_minute.items()}
        self.limits = {
            "tokens": quota.tokens_per_minute,
            "requests": quota.requests_per_minute * quota.request_slice_s // 60,
        }
        self.periods = {"tokens": MINUTE, "requests": self.slice}

    def amount(self, name, tokens):
        return tokens if name == "tokens" else 1

    def fits_ever(self, tokens):
        if self.quota.window is WindowKind.BUCKET:
            return tokens <= self.rates["tokens"] * self.bursts["tokens"]
        return tokens <= self.limits["tokens"]

    def level(self, name, now):
        capacity = self.rates[name] * self.bursts[name]
        level, last = capacity, 0
        for at, tokens in self.admitted:
            level = min(capacity, level + (at - last) * self.rates[name]) - self.amount(name, tokens)
            last = at
        return min(capacity, level + (now - last) * self.rates[name])

    def counts_until(self, name, at):
        """The first instant at which what was admitted at `at` no longer counts."""
        if self.quota.window is WindowKind.SLIDING:
            return at + self.periods[name]
        return ((at + self.phase) // self.periods[name] + 1) * self.periods[name] - self.phase

    def short(self, name, now, tokens):
        if self.quota.window is WindowKind.BUCKET:
            most = self.rates[name] * self.bursts[name]
            return self.level(name, now) < min(self.amount(name, tokens), most if name == "requests" else tokens)
        used = sum(self.amount(name, took) for at, took in self.admitted if self.counts_until(name, at) > now)
        return used + self.amount(name, tokens) > self.limits[name]

    def shorts(self, now, tokens):
        return [name for name in ("tokens", "requests") if self.short(name, now, tokens)]

    def earliest(self, now, tokens):
        """Of all the instants at which anything changes, the first at which the request fits."""
        changes = {now}
        for name in ("tokens", "requests"):
            if self.quota.window is WindowKind.BUCKET:
                needed = min(self.amount(name, tokens), self.rates[name] * self.bursts[name])
                changes.add(now + max(0, math.ceil((needed - self.level(name, now)) / self.rates[name])))
            else:
                changes |= {self.counts_until(name, at) for at, _ in self.admitted}
        return min(at for at in changes if at >= now and not self.shorts(at, tokens))


def obvious(rows, quota, deployments, mode, phase):
    """Of each arrival whether it fits ever, its delay or None, and what it was refused by."""
    dealt, last = [Obvious(quota, phase) for _ in range(deployments)], [0] * deployments
    for place, (at, tokens) in enumerate(rows):
        turn = place % deployments
        deployment = dealt[turn]
        if not deployment.fits_ever(tokens):
            yield False, None, []
            continue
        shorts = deployment.shorts(at, tokens)
        if mode == "reject" and shorts:
            yield True, None, shorts
            continue
        now = at if mode == "reject" else deployment.earliest(max(at, last[turn]), tokens)
        last[turn] = now
        deployment.admitted.append((now, tokens))
        yield True, now - at, shorts


def random_case(seed):
    random = Random(seed)
    quota = Quota(
        tokens_per_minute=random.choice((600, 1_000, 997, 60_000)),
        requests_per_minute=random.choice((9, 10, 60)),
        window=random.choice(list(WindowKind)),
        burst_s=random.choice((2.5, 10.0, 60.0)),
        request_slice_s=random.choice((10, 60, 7)) if seed % 3 else 60,
        admission=random.choice(list(Admission)),
    )
    at_s, rows = 0.0, []
    for _ in range(random.randint(1, 40)):
        at_s += random.choice(
            (0.0, random.expovariate(1.0), random.expovariate(0.1), 60.0 if random.random() < 0.1 else 1.0)
        )
        largest = quota.tokens_per_minute // random.choice((1, 3, 10))
        tokens = [random.randint(0, max(1, largest // 2)) for _ in range(3)]
        rows.append((round(at_s, random.choice((0, 3, 9))) if not rows else max(rows[-1][0], round(at_s, 3)), *tokens))
    return quota, arrivals(*rows), random.randint(1, 4), random.choice((0, random.randrange(MINUTE)))


@pytest.mark.parametrize("mode", ["reject", "queue"])
def test_a_replay_is_what_the_obvious_way_counts_in_each_of_1000_random_cases(mode):
    seen = set()
    for seed in range(CASES):
        quota, frame, deployments, phase = random_case(seed)
        door = door_of(frame, quota, phase_ns=phase)
        counted = list(
            obvious(list(zip(door.at_ns.tolist(), door.tokens.tolist(), strict=True)), quota, deployments, mode, phase)
        )
        if mode == "reject":
            codes = door.refusals(deployments).tolist()
            shorts = [["tokens"] * (code & 1) + ["requests"] * (code >> 1 & 1) for code in codes]
            assert shorts == [short for _, _, short in counted], seed
            seen |= {(quota.window, *short) for short in shorts}
        else:
            delays, codes = waits(door, deployments)
            assert delays.tolist() == [delay or 0 for _, delay, _ in counted], seed
            seen |= {(quota.window, delay > 0) for delay in delays.tolist()}
        assert [code == 4 for code in codes] == [not fits for fits, _, _ in counted], seed
    assert len(seen) == 3 * (4 if mode == "reject" else 2)  # each window refused by each limit and by both


@pytest.mark.parametrize("admission", list(Admission))
def test_tokens_are_counted_as_the_throttle_counts_them(admission):
    rows = [(0.0, 10, 4, 7), (1.0, 10, 4, None), (2.0, 10, None, 7), (3.0, 10, None, None)]
    counted = replayed(arrivals(*rows), Quota(), 1, admission=admission)["tokens"].to_list()
    assert counted == [
        admission.cost(prompt_tokens=prompt, max_tokens=limit, completion_tokens=completion)
        for _, prompt, completion, limit in rows
    ]
