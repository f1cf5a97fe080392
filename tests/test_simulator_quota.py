"""The quota under more than it allows, as Microsoft's own simulator is accepted: tokens by the minute, and refusals."""

import http.client
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from tests.simulators import CHAT, FAST, PATIENCE_S, ask, pinned, simulated

TOKENS_PER_MINUTE, USERS, MINUTES = 100_000, 30, 2
# Each user asks every three seconds: a little over twice the quota.
EVERY_S, PROMPT_TOKENS, COMPLETION_TOKENS = 3, 25, 325


@dataclass
class Ledger:
    """What came of all requests: the tokens by when they were asked for, in model seconds, and the refusals."""

    served: list[tuple[float, int]] = field(default_factory=list)
    refused: int = 0
    others: list[int] = field(default_factory=list)

    def of_minute(self, minute):
        return sum(tokens for at_s, tokens in self.served if minute * 60 <= at_s < (minute + 1) * 60)


def use(address, began, time_scale, ledger):
    """One user, for so many minutes of the deployment's time."""
    body = ask("a" * 4 * (PROMPT_TOKENS - 4), max_tokens=COMPLETION_TOKENS)
    turn = 0
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    while (at_s := (time.monotonic() - began) * time_scale) < MINUTES * 60:
        connection.request("POST", CHAT, json.dumps(body), pinned(COMPLETION_TOKENS))
        answer = connection.getresponse()
        said = json.loads(answer.read())
        if answer.status == 200:
            ledger.served.append((at_s, said["usage"]["total_tokens"]))
        elif answer.status == 429:
            ledger.refused += 1
        else:
            ledger.others.append(answer.status)
        turn += 1
        time.sleep(max(0, began + turn * EVERY_S / time_scale - time.monotonic()))
    connection.close()


def asked_for_twice_the_quota(time_scale, *flags):
    ledger = Ledger()
    flags = ("--tpm", str(TOKENS_PER_MINUTE), "--rpm", "100000", "--time-scale", str(time_scale), *flags)
    with simulated(*flags, serving={name: value * time_scale for name, value in FAST.items()}) as server:
        address, began = server.url.removeprefix("http://"), time.monotonic()
        users = [threading.Thread(target=use, args=(address, began, time_scale, ledger)) for _ in range(USERS)]
        for user in users:
            user.start()
        for user in users:
            user.join(MINUTES * 60 / time_scale + PATIENCE_S)
    return ledger


def check(ledger, burst_tokens):
    assert ledger.others == []
    assert ledger.refused >= 100
    assert TOKENS_PER_MINUTE * 0.98 <= ledger.of_minute(0) <= TOKENS_PER_MINUTE * 1.02 + burst_tokens
    for minute in range(1, MINUTES):
        assert TOKENS_PER_MINUTE * 0.98 <= ledger.of_minute(minute) <= TOKENS_PER_MINUTE * 1.02


def test_asked_for_twice_its_quota_a_deployment_serves_its_quota_each_minute():
    """Thirty times faster; at the real pace and under every policy among the long tests."""
    check(asked_for_twice_the_quota(30), TOKENS_PER_MINUTE)


POLICIES = [  # flags, and what the first minute may have beyond its quota
    (["--window", "bucket"], TOKENS_PER_MINUTE),
    (["--window", "bucket", "--burst-s", "10"], TOKENS_PER_MINUTE // 6),
    (["--window", "bucket", "--admission", "usage"], TOKENS_PER_MINUTE),
    (["--window", "minute"], 0),
    (["--window", "sliding"], 0),
]


@pytest.mark.long
def test_at_the_real_pace_every_policy_serves_its_quota_each_minute():
    """All at once: each has a deployment and users of its own."""
    with ThreadPoolExecutor(len(POLICIES)) as side_by_side:
        ledgers = side_by_side.map(lambda policy: asked_for_twice_the_quota(1, *policy[0]), POLICIES)
        for ledger, (_, burst_tokens) in zip(ledgers, POLICIES, strict=True):
            check(ledger, burst_tokens)
