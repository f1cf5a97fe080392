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
from loadgen.config import RunConfig
from loadgen.connection import Connection
from loadgen.feed import Feed
from loadgen.lane import Lane
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Phase, Sample
from loadgen.schedule import Arrival, drawn, read_trace, replayed
from loadgen.tally import Tally
from loadgen.wire import ResponseReader

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
        self.config, self.environment = config, environment
        self.start_ns = monotonic_ns()
        self.alarm = Alarm()
        self.tally = Tally(self.start_ns, None if folder is None else folder / "notes.jsonl")
        self.lane = Lane(config, alarm=self.alarm, tally=self.tally, variables=variables, model=model, run_id=run_id)
        self.feed: Feed | None = None  # under plain Locust
        self.stopping = False  # no attempt is to be made again
        self.worker = 0  # whose rows these are
        self._retries = config.load.retries
        self._steady_ns = round(config.load.warmup * 1e9)
        self._cooldown_ns = round((config.load.duration - config.load.cooldown) * 1e9)
        self.source: Source = ClosedLoop(start_ns=self.start_ns, end_ns=1 << 62, seed=config.load.seed)

    def restart_clock(self, start_ns: int) -> None:
        """Make `start_ns` the run's zero."""
        self.start_ns = self.lane.endpoint.start_ns = self.tally.start_ns = start_ns

    def play(self, arrival: Arrival, spec: RequestSpec, connection: Connection) -> Sample:
        """Wait until the arrival is due and the quota admits it, send it, and record what came of it.

        Returns the row of its last attempt: there are more than one only where the config allows retries.
        """
        due_ns, ahead = self.start_ns + arrival.due_ns, self.lane.ahead
        try:
            if ahead is not None:
                ahead.expect(due_ns, self.lane.cost(spec))
            connection.ready(due_ns)
            self.alarm.wait_until(due_ns)
        except GreenletExit:
            if ahead is not None:
                ahead.forget()
            if monotonic_ns() >= due_ns:
                self.drop(arrival, "stopped_before_sent")
            raise
        self.tally.planned += 1
        sample = self._sample(arrival, spec.scenario)
        reader = self.lane.attempt(sample, spec, connection, due_ns)
        while sample.attempt < self._retries and (wait_s := self._backoff_s(sample, reader)) is not None:
            again_ns = monotonic_ns() + round(wait_s * 1e9)
            self.alarm.wait_until(again_ns)
            if self.stopping:
                break
            sample = self._sample(arrival, spec.scenario, sample.attempt + 1)
            reader = self.lane.attempt(sample, spec, connection, again_ns)
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

    def drop(self, arrival: Arrival, why: str) -> None:
        """Record an arrival that came due and is not sent."""
        self.tally.planned += 1
        self.tally.drop(self._sample(arrival, arrival.scenario), why)

    def _sample(self, arrival: Arrival, scenario: str, attempt: int = 0) -> Sample:
        due_ns, phase = arrival.due_ns, STEADY
        if due_ns < self._steady_ns:
            phase = Phase.WARMUP.value
        elif due_ns >= self._cooldown_ns:
            phase = Phase.COOLDOWN.value
        return Sample(
            seq=arrival.seq, attempt=attempt, worker=self.worker, phase=phase,
            scenario=scenario, target=self.lane.name, due_ns=due_ns,
        )  # fmt: skip

    def schedule(self) -> Iterator[Arrival]:
        """The arrivals of an open loop. Raises ConfigError for a trace that cannot be used."""
        load, mix = self.config.load, self.config.scenarios
        if load.trace is not None:
            return replayed(read_trace(load.trace), load.speed, load.duration, mix, load.seed)
        return drawn(load.arrivals, load.rate_per_s, load.duration, mix, load.seed, gamma_shape=load.gamma_shape)
