"""Plays arrivals: waits until each is due and admitted, sends it, and records what came of it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic_ns

from gevent import GreenletExit
from locust.env import Environment  # first: it patches the process for gevent

from loadgen.alarm import Alarm
from loadgen.arrivals import ClosedLoop, Source
from loadgen.config import Dialect, Kind, RunConfig, ThrottleMode
from loadgen.connection import Connection
from loadgen.endpoint import Endpoint
from loadgen.errors import ConfigError
from loadgen.feed import Feed
from loadgen.proxy import proxy_of
from loadgen.quota import Grant, pacing
from loadgen.refusals import remaining_of
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Phase, Sample
from loadgen.schedule import Arrival, drawn, read_trace, replayed
from loadgen.tally import Tally
from loadgen.target import address_of, check_allowed, check_encrypted, credential_of
from loadgen.throttle import Throttle
from loadgen.wire import ResponseReader

UNASKED_PAUSE_MS = 1_000  # after a 429 that does not say how long to wait
STEADY = Phase.STEADY.value
RETRIED = frozenset((Outcome.THROTTLED, Outcome.SERVER_ERROR, Outcome.TIMEOUT, Outcome.NETWORK))
FIRST_BACKOFF_S, LONGEST_BACKOFF_S, JITTER_SHARE = 0.5, 8.0, 0.25  # as the openai client's
LONGEST_RETRY_AFTER_MS = 60_000  # who asks for more is left alone


class Player:
    """What the users of one process share."""

    def __init__(
        self,
        config: RunConfig,
        *,
        environment: Environment,
        variables: Mapping[str, str],
        model: str | None = None,
        run_id: str = "plain",
        folder: Path | None = None,
    ) -> None:
        address = address_of(config.target.url or "")
        check_allowed(address, config.target.allow_hosts)
        self.config, self.environment = config, environment
        self.model = config.target.model or model
        self.start_ns = monotonic_ns()
        self.alarm = Alarm()
        self.tally = Tally(self.start_ns, None if folder is None else folder / "notes.jsonl")
        self.credential = credential_of(config.target, variables)
        check_encrypted(address, self.credential)
        proxy = proxy_of(address, variables)
        self.endpoint = Endpoint(address, config.target, config.timeouts, self.credential, self.start_ns, proxy)
        mode = config.load.throttle if config.target.kind is Kind.SERVERLESS else ThrottleMode.OFF
        quota = config.quota
        self.throttle = None if mode is ThrottleMode.OFF else Throttle(pacing(quota), self.alarm, quota.concurrency)
        self.feed: Feed | None = None  # under plain Locust
        self.stopping = False  # no attempt is to be made again
        self._feedback = mode is ThrottleMode.FEEDBACK
        self._admission, self._retries = quota.admission, config.load.retries
        self._request_id, self._target = run_id[:8], address.origin
        self._steady_ns = round(config.load.warmup * 1e9)
        self._cooldown_ns = round((config.load.duration - config.load.cooldown) * 1e9)
        self.source: Source = ClosedLoop(start_ns=self.start_ns, end_ns=1 << 62, seed=config.load.seed)

    def restart_clock(self, start_ns: int) -> None:
        """Make `start_ns` the run's zero."""
        self.start_ns = self.endpoint.start_ns = self.tally.start_ns = start_ns

    @property
    def openai_model(self) -> str | None:
        """The model's name for the openai dialect, else None."""
        return (self.model or "default") if self.config.target.dialect is Dialect.OPENAI else None

    def play(self, arrival: Arrival, spec: RequestSpec, connection: Connection) -> Sample:
        """Wait until the arrival is due and the quota admits it, send it, and record what came of it.

        Returns the row of its last attempt: there are more than one only where the config allows retries.
        """
        due_ns = self.start_ns + arrival.due_ns
        try:
            connection.ready(due_ns)
            self.alarm.wait_until(due_ns)
        except GreenletExit:
            if monotonic_ns() >= due_ns:
                self.drop(arrival, "stopped_before_sent")
            raise
        self.tally.planned += 1
        sample = self._sample(arrival, spec.scenario)
        reader = self._attempt(sample, spec, connection, due_ns)
        while sample.attempt < self._retries and (wait_s := self._backoff_s(sample, reader)) is not None:
            again_ns = monotonic_ns() + round(wait_s * 1e9)
            self.alarm.wait_until(again_ns)
            if self.stopping:
                break
            sample = self._sample(arrival, spec.scenario, sample.attempt + 1)
            reader = self._attempt(sample, spec, connection, again_ns)
        return sample

    def _backoff_s(self, sample: Sample, reader: ResponseReader | None) -> float | None:
        """How long to wait before the next attempt; None where there is to be none."""
        if self.stopping or reader is None or (sample.outcome not in RETRIED and sample.status != 408):
            return None
        if sample.retry_after_ms is not None:
            return sample.retry_after_ms / 1e3 if sample.retry_after_ms <= LONGEST_RETRY_AFTER_MS else None
        jitter = random.Random(f"{self.config.load.seed} {sample.seq} {sample.attempt}").random()
        backoff_s: float = min(FIRST_BACKOFF_S * 2**sample.attempt, LONGEST_BACKOFF_S)
        return backoff_s * (1 - JITTER_SHARE * jitter)

    def _attempt(
        self, sample: Sample, spec: RequestSpec, connection: Connection, wanted_ns: int
    ) -> ResponseReader | None:
        """One attempt, and its row. None where it was not made, since the quota can never admit it."""
        cost = self._cost(spec)
        try:
            grant = self._admit(sample, cost, wanted_ns - self.start_ns)
        except (GreenletExit, ConfigError) as stop:
            if sample.attempt == 0:  # else the arrival has been sent, and its row says what became of it
                why = "never_fits_quota" if isinstance(stop, ConfigError) else "stopped_while_throttled"
                self._record_dropped(sample, why)
            if isinstance(stop, ConfigError):
                return None
            raise
        now_ns = monotonic_ns() - self.start_ns
        self.tally.note_sent(now_ns, cost)
        try:
            reader = connection.attempt(spec, sample, f"{self._request_id}-{sample.seq}-{sample.attempt}")
        except GreenletExit:
            self.tally.add(sample)
            raise
        finally:
            if self.throttle is not None:
                self.throttle.release()
        self.tally.add(sample, reader.gaps_us)
        self._settle(grant, spec, sample, reader)
        return reader

    def drop(self, arrival: Arrival, why: str) -> None:
        """Record an arrival that came due and is not sent."""
        self.tally.planned += 1
        self._record_dropped(self._sample(arrival, arrival.scenario), why)

    def _record_dropped(self, sample: Sample, why: str) -> None:
        sample.outcome, sample.error, sample.admitted_ns = Outcome.DROPPED.value, why, None
        self.tally.add(sample)

    def _sample(self, arrival: Arrival, scenario: str, attempt: int = 0) -> Sample:
        due_ns, phase = arrival.due_ns, STEADY
        if due_ns < self._steady_ns:
            phase = Phase.WARMUP.value
        elif due_ns >= self._cooldown_ns:
            phase = Phase.COOLDOWN.value
        return Sample(
            seq=arrival.seq, attempt=attempt, phase=phase, scenario=scenario, target=self._target, due_ns=due_ns
        )

    def _cost(self, spec: RequestSpec) -> int:
        return self._admission.cost(prompt_tokens=spec.prompt_tokens, max_tokens=spec.max_tokens)

    def _admit(self, sample: Sample, cost: int, wanted_ns: int) -> Grant | None:
        sample.reserved_tokens = cost
        sample.admitted_ns = wanted_ns
        if self.throttle is None:
            return None
        asked_ns = monotonic_ns()
        grant = self.throttle.admit(cost)
        # A request that had not to wait was admitted when it was wanted: what delays it from there is our own lateness.
        if grant.at_ns > asked_ns + 1_000_000:
            sample.admitted_ns = grant.at_ns - self.start_ns
        return grant

    def _settle(self, grant: Grant | None, spec: RequestSpec, sample: Sample, reader: ResponseReader) -> None:
        if self.throttle is None or grant is None:
            return
        if sample.outcome == Outcome.THROTTLED:
            self.throttle.settle(grant, 0)  # its tokens were not counted; that it asked may have been
        elif sample.sent_ns is None:
            self.throttle.cancel(grant)
        elif sample.prompt_tokens is not None:
            real = self._admission.cost(
                prompt_tokens=sample.prompt_tokens,
                max_tokens=spec.max_tokens,
                completion_tokens=sample.completion_tokens,
            )
            self.throttle.settle(grant, real)
        if self._feedback:
            self._learn(sample, reader)

    def _learn(self, sample: Sample, reader: ResponseReader) -> None:
        assert self.throttle is not None
        if sample.outcome == Outcome.THROTTLED:
            wait_ms = sample.retry_after_ms
            self.throttle.pause(UNASKED_PAUSE_MS if wait_ms is None else wait_ms)
        tokens, requests = remaining_of(reader.headers, b"tokens"), remaining_of(reader.headers, b"requests")
        if tokens is not None or requests is not None:
            self.throttle.limiter.observe_remaining(monotonic_ns(), tokens=tokens, requests=requests)

    def schedule(self) -> Iterator[Arrival]:
        """The arrivals of an open loop. Raises ConfigError for a trace that cannot be used."""
        load, mix = self.config.load, self.config.scenarios
        if load.trace is not None:
            return replayed(read_trace(load.trace), load.speed, load.duration, mix, load.seed)
        return drawn(load.arrivals, load.rate_per_s, load.duration, mix, load.seed, gamma_shape=load.gamma_shape)
