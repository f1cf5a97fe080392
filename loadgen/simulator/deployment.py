"""A deployment at work: whom it admits, what it answers, and when each token leaves."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

from starlette.types import Receive, Send

from loadgen.quota import NEVER_NS, Admission, Grant, Quota, enforcing
from loadgen.simulator.answers import Answer, Events
from loadgen.simulator.asgi import cut_on_disconnect, send_refusal, send_whole, start
from loadgen.simulator.chat import ChatRequest, Dialect
from loadgen.simulator.models import DEFAULT_MODEL
from loadgen.simulator.pace import Flight, Pacemaker
from loadgen.simulator.refusals import Refusal, bad_request, plain, rate_limited
from loadgen.simulator.serving import ServingModel, rng_of

NS_PER_S = 1_000_000_000
NS_PER_MS = 1_000_000
BUSY_RETRY_NS = NS_PER_S  # when a place will be free is not known
HOPELESS_RETRY_NS = 86_400 * NS_PER_S  # what Azure has been seen to ask for where waiting does not help
UNSEEN_TOKENS = 8  # an answer that is not streamed looks at the load once for so many tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is simulated. `quota` is None for managed compute, which has none."""

    model: str = DEFAULT_MODEL
    context_tokens: int
    quota: Quota | None
    serving: ServingModel = field(default_factory=ServingModel)
    seed: int = 1
    key: str | None = field(default=None, repr=False)


@dataclass(slots=True, kw_only=True)
class Turn:
    """An admitted request until it is answered."""

    answer: Answer
    rng: random.Random
    admitted_ns: int
    grant: Grant | None
    headers: dict[str, str]
    flight: Flight
    generated_tokens: int = 0


class Deployment:
    """Lives in one event loop; `running` is the load that the serving model sees."""

    def __init__(self, settings: Settings, pacemaker: Pacemaker) -> None:
        self.settings = settings
        self._pacemaker = pacemaker
        self._limiter = None if settings.quota is None else enforcing(settings.quota)
        self._flights: set[Flight] = set()
        self._admitted = 0
        self._stopping = False

    @property
    def running(self) -> int:
        return len(self._flights)

    def stop(self) -> None:
        """Cut what is running and admit nothing more."""
        self._stopping = True
        for flight in self._flights:
            flight.cut()

    async def answer(
        self, request: ChatRequest, dialect: Dialect, wanted_tokens: int | None, receive: Receive, send: Send
    ) -> None:
        """Admit the request and answer it, token by token or whole. Raises Refusal before anything was sent."""
        turn = self._admit(request, wanted_tokens)
        watch = asyncio.ensure_future(cut_on_disconnect(receive, turn.flight))
        try:
            if request.stream:
                await self._stream(turn, Events(turn.answer, dialect, request), send)
            else:
                await self._whole(turn, send)
        finally:
            watch.cancel()
            self._release(turn)

    def _admit(self, request: ChatRequest, wanted_tokens: int | None) -> Turn:
        settings = self.settings
        room = settings.context_tokens - request.prompt_tokens
        if room < 0:
            message = f"The prompt has {request.prompt_tokens} tokens; the context holds {settings.context_tokens}."
            raise bad_request(message, code="context_length_exceeded", param="messages")
        if self._stopping:
            raise plain(503, "service_unavailable", "The deployment is stopping.")
        now_ns = time.monotonic_ns()
        grant = self._pass_limits(now_ns, request)
        rng = rng_of(settings.seed, self._admitted)
        self._admitted += 1
        flight = Flight()
        self._flights.add(flight)
        return Turn(
            answer=self._compose(request, rng, room, wanted_tokens),
            rng=rng,
            admitted_ns=now_ns,
            grant=grant,
            headers=self._quota_headers(now_ns),
            flight=flight,
        )

    def _compose(self, request: ChatRequest, rng: random.Random, room: int, wanted_tokens: int | None) -> Answer:
        answer_id = f"{rng.getrandbits(128):032x}"
        first_word = rng.getrandbits(16)
        drawn_tokens = self.settings.serving.completion_tokens(rng)  # drawn always: what follows must not depend on it
        wanted = drawn_tokens if wanted_tokens is None else wanted_tokens
        ceiling = room if request.max_tokens is None else min(room, request.max_tokens)
        return Answer(
            id=answer_id,
            created_s=int(time.time()),
            model=self.settings.model,
            first_word=first_word,
            prompt_tokens=request.prompt_tokens,
            completion_tokens=min(wanted, ceiling),
            finish_reason="length" if wanted >= ceiling else "stop",
        )

    def _pass_limits(self, now_ns: int, request: ChatRequest) -> Grant | None:
        """Take the request's cost from the quota. Raises Refusal (429) where the quota refuses, taking nothing."""
        quota, limiter = self.settings.quota, self._limiter
        if quota is None or limiter is None:
            return None
        if quota.concurrency is not None and self.running >= quota.concurrency:
            raise self._throttled(now_ns, BUSY_RETRY_NS)
        cost = quota.admission.cost(prompt_tokens=request.prompt_tokens, max_tokens=request.max_tokens)
        grant = limiter.try_take(now_ns, cost)
        if grant is None:
            earliest_ns = limiter.earliest_ns(now_ns, cost)
            raise self._throttled(now_ns, HOPELESS_RETRY_NS if earliest_ns >= NEVER_NS else earliest_ns - now_ns)
        return grant

    def _throttled(self, now_ns: int, wait_ns: int) -> Refusal:
        wait_s, wait_ms = -(-wait_ns // NS_PER_S), -(-wait_ns // NS_PER_MS)
        waits = {"retry-after": str(wait_s), "retry-after-ms": str(wait_ms)}
        return rate_limited(wait_s, waits | self._quota_headers(now_ns))

    def _quota_headers(self, now_ns: int) -> dict[str, str]:
        if self._limiter is None or self.settings.quota is None:
            return {}
        tokens, requests = self._limiter.remaining(now_ns)
        return {
            "x-ratelimit-limit-tokens": str(self.settings.quota.tokens_per_minute),
            "x-ratelimit-limit-requests": str(self.settings.quota.requests_per_minute),
            "x-ratelimit-remaining-tokens": str(max(0, tokens)),
            "x-ratelimit-remaining-requests": str(max(0, requests)),
        }

    async def _stream(self, turn: Turn, events: Events, send: Send) -> None:
        """The headers leave at once, the role with the first token, the finish with the last."""
        await send(start(200, {"content-type": "text/event-stream"} | turn.headers))
        answer, last = turn.answer, turn.answer.completion_tokens - 1
        message = {"type": "http.response.body", "body": b"", "more_body": True}  # one for all: the server keeps none
        due_ns, ahead = self._first_token_ns(turn), events.role
        while await self._pacemaker.until(due_ns, turn.flight):
            if (index := turn.generated_tokens) >= last:
                end = (events.before + answer.word(index) + events.after if last >= 0 else b"") + events.end()
                turn.generated_tokens = answer.completion_tokens
                await send({"type": "http.response.body", "body": ahead + end})
                return
            message["body"] = ahead + events.before + answer.word(index) + events.after
            await send(message)
            turn.generated_tokens, ahead = index + 1, b""
            due_ns += self.settings.serving.gap_ns(turn.rng, self.running)
        await send({"type": "http.response.body", "body": b""})  # cut: the stream ends without its terminator

    async def _whole(self, turn: Turn, send: Send) -> None:
        due_ns, tokens = self._first_token_ns(turn), turn.answer.completion_tokens
        while await self._pacemaker.until(due_ns, turn.flight):
            if (left := tokens - turn.generated_tokens) <= 0:
                await send_whole(send, 200, {"content-type": "application/json"} | turn.headers, turn.answer.whole())
                return
            # The first token is there at its time, so `tokens` have one gap less.
            gaps = min(left, UNSEEN_TOKENS) - (turn.generated_tokens == 0)
            due_ns += sum(self.settings.serving.gap_ns(turn.rng, self.running) for _ in range(gaps))
            turn.generated_tokens += min(left, UNSEEN_TOKENS)
        await send_refusal(send, plain(503, "service_unavailable", "The deployment is stopping."))

    def _first_token_ns(self, turn: Turn) -> int:
        prompt_tokens = turn.answer.prompt_tokens
        return turn.admitted_ns + self.settings.serving.ttft_ns(
            turn.rng, prompt_tokens=prompt_tokens, running=self.running
        )

    def _release(self, turn: Turn) -> None:
        """Free the place; where the quota counts what is billed, count what was generated."""
        self._flights.discard(turn.flight)
        if turn.grant is not None and self._limiter is not None and self.settings.quota is not None:
            quota = self.settings.quota
            if quota.admission is Admission.USAGE:
                used = turn.answer.prompt_tokens + turn.generated_tokens
                self._limiter.settle(time.monotonic_ns(), turn.grant, used)
