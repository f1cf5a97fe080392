"""Serverless compute: a quota at the door, and behind it machines that are known only by their latencies."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate

from starlette.types import Send

from loadgen.errors import ConfigError
from loadgen.quota import Admission, Grant, Quota, enforcing
from loadgen.simulator.asked import Answer, Asked, Pace
from loadgen.simulator.autoscale import ScaleEvent
from loadgen.simulator.fleet import InstanceView
from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.refusals import Refusal, rate_limited
from loadgen.simulator.serving import ServingModel
from loadgen.simulator.units import NEVER_NS, NS_PER_MS, NS_PER_S

BUSY_RETRY_NS = NS_PER_S  # when a place will be free is not known
HOPELESS_RETRY_NS = 86_400 * NS_PER_S  # what Azure has been seen to ask for where waiting does not help
UNSEEN_TOKENS = 8  # an answer that is not streamed looks at the load once for so many tokens
RATE_HEADERS = ("x-ratelimit-", "x-rate-limit-")
HTTP_DATE = "http-date"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerlessSettings:
    """`headers` are rate-limit headers that lie: see Door."""

    quota: Quota
    serving: ServingModel = field(default_factory=ServingModel)
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """For the line that a person reads."""
        tokens, requests = self.quota.tokens_per_minute, self.quota.requests_per_minute
        return f"serverless, {tokens:,} tokens and {requests:,} requests a minute"


class Door:
    """The quota as the server enforces it: 429 before any work, and headers that say what is left.

    `lies` are headers as servers in the wild send them, by name: "" leaves the header out, `http-date` writes the
    instant to come back instead of the seconds to wait. Those of RATE_HEADERS stand on every answer, others on a 429.
    """

    def __init__(self, quota: Quota, lies: Mapping[str, str], real_ns: Callable[[int], int]) -> None:
        self._quota, self._limiter = quota, enforcing(quota)
        self._real_ns = real_ns  # of a time of the deployment: a client's clock may be slower
        self._lies_of_429 = lies
        self._lies = {name: value for name, value in lies.items() if name.startswith(RATE_HEADERS)}

    def admit(self, now_ns: int, *, running: int, prompt_tokens: int, max_tokens: int | None) -> Grant:
        """Take the request's cost. Raises Refusal (429) where the quota refuses, taking nothing."""
        if self._quota.concurrency is not None and running >= self._quota.concurrency:
            raise self._refusal(now_ns, BUSY_RETRY_NS)
        cost = self._quota.admission.cost(prompt_tokens=prompt_tokens, max_tokens=max_tokens)
        grant = self._limiter.try_take(now_ns, cost)
        if grant is None:
            earliest_ns = self._limiter.earliest_ns(now_ns, cost)
            raise self._refusal(now_ns, HOPELESS_RETRY_NS if earliest_ns >= NEVER_NS else earliest_ns - now_ns)
        return grant

    def settle(self, now_ns: int, grant: Grant, used_tokens: int) -> None:
        """Where the quota counts what is billed, count what was really used."""
        if self._quota.admission is Admission.USAGE:
            self._limiter.settle(now_ns, grant, used_tokens)

    def headers(self, now_ns: int) -> dict[str, str]:
        """What stands on an answer that is not refused."""
        left = self._left(now_ns)
        return _with(left, self._lies) if self._lies else left

    def _left(self, now_ns: int) -> dict[str, str]:
        tokens, requests = self._limiter.remaining(now_ns)
        return {
            "x-ratelimit-limit-tokens": str(self._quota.tokens_per_minute),
            "x-ratelimit-limit-requests": str(self._quota.requests_per_minute),
            "x-ratelimit-remaining-tokens": str(max(0, tokens)),
            "x-ratelimit-remaining-requests": str(max(0, requests)),
        }

    def _refusal(self, now_ns: int, wait_ns: int) -> Refusal:
        real_ns = self._real_ns(wait_ns)
        wait_s, wait_ms = -(-real_ns // NS_PER_S), -(-real_ns // NS_PER_MS)
        honest = {"retry-after": str(wait_s), "retry-after-ms": str(wait_ms)} | self._left(now_ns)
        date = formatdate(time.time() + wait_s, usegmt=True)
        lies = {name: date if value == HTTP_DATE else value for name, value in self._lies_of_429.items()}
        return rate_limited(wait_s, _with(honest, lies))


class Serverless:
    """The door and what is behind it. `running` is the load that the latencies depend on."""

    def __init__(self, settings: ServerlessSettings, pacemaker: Pacemaker) -> None:
        self._door, self._pacemaker = Door(settings.quota, settings.headers, pacemaker.real_ns), pacemaker
        self.model, self.running = settings.serving, 0

    def begin(self, asked: Asked, answer: Answer, rng: random.Random, flight: Flight) -> Paced:
        """Admit the request and start on its answer. Raises Refusal (429)."""
        now_ns = self._pacemaker.now_ns()
        grant = self._door.admit(
            now_ns, running=self.running, prompt_tokens=asked.prompt_tokens, max_tokens=asked.max_tokens
        )
        self.running += 1
        ttft_ns = self.model.ttft_ns(rng, prompt_tokens=answer.prompt_tokens, running=self.running)
        return Paced(self, grant, now_ns + ttft_ns, rng, self._pacemaker, flight)

    def end(self, pace: Pace, answer: Answer) -> None:
        """The answer is over, complete or not."""
        assert isinstance(pace, Paced)
        self.running -= 1
        used_tokens = answer.prompt_tokens + min(pace.generated_tokens, answer.completion_tokens)
        self._door.settle(self._pacemaker.now_ns(), pace.grant, used_tokens)

    def headers(self) -> dict[str, str]:
        return self._door.headers(self._pacemaker.now_ns())

    async def take_in(self, body_bytes: int, flight: Flight) -> dict[str, str]:  # noqa: ARG002 - no limit is documented
        return {}

    def through_pipe(self, send: Send, flight: Flight) -> Send:  # noqa: ARG002
        return send

    def instances(self) -> list[InstanceView]:
        return []

    def scaled(self) -> list[ScaleEvent]:
        return []

    def kill(self, number: int) -> None:
        raise ConfigError(f"there is no instance {number} to kill: those of serverless compute are not seen")

    def close(self) -> None:
        """Nothing runs by itself."""


class Paced:
    """The tokens of one answer, at the instants that the serving model owes them."""

    sure = True
    __slots__ = ("_due_ns", "_flight", "_pacemaker", "_pool", "_rng", "generated_tokens", "grant")

    def __init__(  # noqa: PLR0917 - one caller, and every one of them is needed
        self,
        pool: Serverless,
        grant: Grant,
        first_token_ns: int,
        rng: random.Random,
        pacemaker: Pacemaker,
        flight: Flight,
    ) -> None:
        self._pool, self._due_ns, self._rng = pool, first_token_ns, rng
        self._pacemaker, self._flight = pacemaker, flight
        self.grant, self.generated_tokens = grant, 0

    async def token(self) -> bool:
        """Wait for the next token; False as soon as the flight is cut."""
        if not await self._pacemaker.until(self._due_ns, self._flight):
            return False
        self.generated_tokens += 1
        self._due_ns += self._pool.model.gap_ns(self._rng, self._pool.running)
        return True

    async def all_of(self, tokens: int) -> bool:
        """Wait until the last of `tokens` is there, looking at the load every UNSEEN_TOKENS; False when cut."""
        while await self._pacemaker.until(self._due_ns, self._flight):
            if (left := tokens - self.generated_tokens) <= 0:
                return True
            # The first token is there at its time, so `tokens` have one gap less.
            gaps = min(left, UNSEEN_TOKENS) - (self.generated_tokens == 0)
            self._due_ns += sum(self._pool.model.gap_ns(self._rng, self._pool.running) for _ in range(gaps))
            self.generated_tokens += min(left, UNSEEN_TOKENS)
        return False

    def failure(self) -> Refusal | None:
        """Nothing behind the door fails by itself."""
        return None


def _with(honest: Mapping[str, str], lies: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in {**honest, **lies}.items() if value}
