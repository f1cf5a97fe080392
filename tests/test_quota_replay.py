"""The replay of arrivals against a quota: the obvious slow way, case by case, and what cannot be replayed."""

import math
from fractions import Fraction
from random import Random

import polars as pl
import pytest

from loadgen.errors import ConfigError
from loadgen.quota import Admission, Quota, WindowKind
from planner.demand import Demand
from planner.quota import deployments_needed, replayed, what_if, what_if_table
from planner.quotas.doors import door_of
from planner.quotas.queues import waits

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


def test_a_bucket_beyond_the_range_of_a_vector_is_replayed_all_the_same():
    """997 tokens a minute share no factor with its nanoseconds, so 80 days of them pass 2 ** 62 units."""
    quota = Quota(tokens_per_minute=997, requests_per_minute=9, window=WindowKind.BUCKET, admission=Admission.USAGE)
    rows = [(float(place), 100 + place, 0, 0) for place in range(30)]
    for mode in ("reject", "queue"):
        short = replayed(arrivals(*rows), quota, 2, mode=mode)
        long = replayed(arrivals(*rows, (80 * 86_400.0, 1, 0, 0)), quota, 2, mode=mode)
        assert long[:-1].equals(short)
    refused_by = replayed(arrivals(*rows), quota, 2)["short_of"].drop_nulls()
    assert refused_by.unique().sort().to_list() == ["both", "tokens"]


def test_what_if_sums_up_each_number_of_deployments():
    rows = [(place / 10, 40, 20, 30) for place in range(200)] + [(20.0, 700, 0, 0)]
    quota = Quota(tokens_per_minute=600, requests_per_minute=60, window=WindowKind.MINUTE)
    table = what_if(arrivals(*rows), quota, [1, 4], admission="max_tokens", window="minute")
    of_requests = {"requests": 201, "tokens": 6_000, "never_fit": 0, "short_of_requests": 0}
    assert table.drop("delay_p50_s", "delay_p95_s", "delay_p99_s", "delay_max_s").to_dicts() == [
        {
            **{"deployments": number, "window": "minute", "admission": "max_tokens", "mode": "reject"},
            **of_requests,
            **{"refused_requests": 200 - fit, "refused_requests_share": (200 - fit) / 201},
            **{"refused_tokens": (200 - fit) * 30, "refused_tokens_share": (200 - fit) / 200},
            **{"short_of_tokens": 200 - fit, "delayed_requests": 0, "binds": "tokens"},
        }
        for number, fit in ((1, 20), (4, 80))
    ]
    queued = what_if(arrivals(*rows), quota, 4, admission="max_tokens", window="minute", mode="queue").row(
        0, named=True
    )
    assert (queued["refused_requests"], queued["delayed_requests"], queued["delay_max_s"]) == (
        0,
        121,
        104,
    )  # from 16 s to 120
    usual = what_if(arrivals(*rows), quota, 1).row(0, named=True)
    assert (usual["admission"], usual["never_fit"], usual["requests"]) == ("prompt+max_tokens", 1, 200)
    assert what_if(arrivals(), quota, (1, 2))["requests"].to_list() == [0, 0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"drop": "max_tokens"}, "no column max_tokens", id="a column that is counted is not there"),
        pytest.param({"at_s": [1.0, 0.5]}, "goes back in time in row 1", id="not sorted"),
        pytest.param({"at_s": [0.0, math.nan]}, "at_s must be finite", id="an instant that is none"),
        pytest.param({"at_s": [0.0, None]}, "at_s has 1 nulls", id="no instant"),
        pytest.param({"prompt_tokens": [1, None]}, "prompt_tokens has 1 nulls", id="no prompt"),
        pytest.param({"prompt_tokens": [1, -5]}, "prompt_tokens must lie between", id="below zero"),
        pytest.param({"prompt_tokens": [1.0, 2.5]}, "prompt_tokens must be whole", id="half a token"),
        pytest.param({"prompt_tokens": ["1", "2"]}, "prompt_tokens holds String", id="words"),
        pytest.param({"deployments": 0}, "deployments must be whole numbers from 1", id="no deployment"),
        pytest.param({"deployments": [1, 2.5]}, "not 2.5", id="half a deployment"),
        pytest.param({"window": "hourly"}, "window 'hourly' is not known; it is one of 'bucket'", id="unknown window"),
        pytest.param({"admission": "words"}, "admission 'words' is not known", id="unknown admission"),
        pytest.param({"mode": "wait"}, "mode must be 'reject' or 'queue', not 'wait'", id="unknown mode"),
    ],
)
def test_what_cannot_be_replayed_is_named(change, said):
    columns = {"at_s": [0.0, 1.0], "prompt_tokens": [1, 2], "completion_tokens": [1, 2], "max_tokens": [1, 2]}
    frame = pl.DataFrame(
        {name: change.get(name, values) for name, values in columns.items() if name != change.get("drop")}
    )
    options = {name: change[name] for name in ("window", "admission", "mode") if name in change}
    with pytest.raises(ConfigError, match=said):
        what_if(frame, Quota(), change.get("deployments", 1), **options)


def test_a_table_that_needs_many_numbers_ends_with_the_two_between_which_the_answer_lies():
    rows = [(place / 1_000, 100, 0, 0) for place in range(400)]
    quota = Quota(tokens_per_minute=15_000, requests_per_minute=10, admission=Admission.USAGE)
    table = what_if_table(Demand(arrivals(*rows), 600.0, "a burst"), quota)
    assert sorted({row.deployments for row in table}) == [*range(1, 11), 395, 396]  # 10 s hold one request
    assert deployments_needed(table) == 396
