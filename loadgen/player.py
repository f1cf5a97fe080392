"""Plays arrivals: waits until each is due and admitted, sends it, and records what came of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from time import monotonic_ns

from gevent import GreenletExit, getcurrent
from locust.env import Environment  # first: it patches the process for gevent

from loadgen.alarm import Alarm
from loadgen.arrivals import ClosedLoop, Source
from loadgen.backoff import Patience, backoff_s
from loadgen.budget import Price
from loadgen.config import RunConfig, Split
from loadgen.connection import Connection
from loadgen.feed import Feed
from loadgen.guards import Guards
from loadgen.lane import LONGEST_RETRY_AFTER_MS, Lane
from loadgen.prompts import Prompts
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Phase, Sample
from loadgen.schedule import Arrival
from loadgen.schedule_file import ScheduleFile
from loadgen.split import Copied, Outlook, Router
from loadgen.tally import Tally
from loadgen.wire import ResponseReader

STEADY = Phase.STEADY.value
RETRIED = frozenset((Outcome.THROTTLED, Outcome.SERVER_ERROR, Outcome.TIMEOUT, Outcome.NETWORK))
TRIED_ELSEWHERE = frozenset((Outcome.THROTTLED, Outcome.SERVER_ERROR))
UNMOVED = frozenset((Outcome.OK, Outcome.FILTERED))  # a user of a closed loop asks on at once


class Player:
    """What the users of one process share."""

    def __init__(
        self,
        config: RunConfig,
        *,
        environment: Environment,
        variables: Mapping[str, str],
        models: Sequence[str | None] = (),
        run_id: str = "plain",
        folder: Path | None = None,
        prices: Mapping[str, Price] | None = None,
        numbers: Iterator[int] | None = None,
    ) -> None:
        """`numbers` are those of arrivals that no schedule knows: a closed loop's, and later turns of sessions."""
        self.config, self.environment, self._folder = config, environment, folder
        self.start_ns = monotonic_ns()
        self.alarm = Alarm()
        self.tally = Tally(self.start_ns, None if folder is None else folder / "notes.jsonl")
        self.guards = Guards(config.budget, auto_stop=config.load.auto_stop and folder is not None)
        self.lanes = tuple(
            Lane(
                config,
                target,
                alarm=self.alarm,
                tally=self.tally,
                guards=self.guards,
                variables=variables,
                model=model,
                run_id=run_id,
                prices=prices,
            )
            for target, model in zip(config.targets, models or [None] * len(config.targets), strict=True)
        )
        self.guards.keys = {lane.name: lane.credential.called for lane in self.lanes if lane.credential is not None}
        self.prompts = Prompts(config.prompts, max_tokens=config.load.max_tokens)
        self.numbers = itertools.count() if numbers is None else numbers
        self.lane = self.lanes[0]
        split = config.load.split
        self._router = None if len(self.lanes) == 1 else Router(split, [target.weight for target in config.targets])
        self._retries_elsewhere = config.load.retry_elsewhere and split is not Split.EACH
        self.feed: Feed | None = None  # under plain Locust
        self.stopping = False  # no attempt is to be made again
        self.worker = 0  # whose rows these are
        self._retries = config.load.retries
        played_closed = folder is not None and not config.load.open_loop  # plain Locust has waits of its own
        self._patience = Patience(config.load.seed) if played_closed else None
        self._steady_ns = round(config.load.warmup * 1e9)
        self._end_ns = round(config.load.duration * 1e9)
        self._cooldown_ns = round((config.load.duration - config.load.cooldown) * 1e9)
        self.source: Source = ClosedLoop(
            start_ns=self.start_ns, end_ns=1 << 62, seed=config.load.seed, numbers=self.numbers
        )

    def restart_clock(self, start_ns: int) -> None:
        """Make `start_ns` the run's zero."""
        self.start_ns = self.tally.start_ns = start_ns
        for lane in self.lanes:
            lane.endpoint.start_ns = start_ns

    @property
    def active(self) -> list[Connection]:
        """On which an attempt is in flight."""
        return [connection for lane in self.lanes for connection in lane.endpoint.active]

    @property
    def in_flight(self) -> int:
        return sum(len(lane.endpoint.active) for lane in self.lanes)

    @property
    def waiting(self) -> int:
        """Requests that the throttles hold back."""
        return sum(lane.waiting for lane in self.lanes)

    def play(
        self, arrival: Arrival, spec: RequestSpec, connections: Sequence[Connection]
    ) -> tuple[Sample, ResponseReader | None]:
        """Wait until the arrival is due and the quota admits it, send it, and record what came of it.

        `connections` are the caller's own, one to each target. Returns the row of the last attempt, and its answer
        unless it was never sent; there are more than one only where the config allows retries.
        """
        due_ns, router = self.start_ns + arrival.due_ns, self._router
        place = 0 if router is None else self._place(arrival, spec)
        ahead = self.lanes[place].ahead
        try:
            if ahead is not None:
                self.lanes[place].expect(spec, due_ns)
            connections[place].ready(due_ns)
            self.alarm.wait_until(due_ns)
        except GreenletExit:
            if ahead is not None:
                ahead.forget()
            if monotonic_ns() >= due_ns:
                self.drop(arrival, "stopped_before_sent")
            raise
        if router is not None and router.decides_late:
            if ahead is not None:
                ahead.forget()
            place = self._place(arrival, spec)
            self.lanes[place].expect(spec, due_ns)
        self.tally.planned += 1
        sample = self._sample(arrival, spec.scenario, place)
        reader = self.lanes[place].attempt(sample, spec, connections[place], due_ns)
        if self._retries:
            sample, reader = self._retried(arrival, spec, connections, sample=sample, reader=reader, tried=[place])
        if self._patience is not None:
            self._hold_back(self._patience, sample)
        return sample, reader

    def _hold_back(self, patience: Patience, sample: Sample) -> None:
        """The calling user of a closed loop has its answer: after a failure its next request comes later."""
        user = getcurrent()
        if sample.outcome in UNMOVED:
            patience.answer(user)
        elif isinstance(self.source, ClosedLoop):
            asked_s = None if sample.retry_after_ms is None else sample.retry_after_ms / 1e3
            self.source.hold_back(patience.failure_s(user, sample.seq, asked_s))

    def _retried(
        self,
        arrival: Arrival,
        spec: RequestSpec,
        connections: Sequence[Connection],
        *,
        sample: Sample,
        reader: ResponseReader | None,
        tried: list[int],
    ) -> tuple[Sample, ResponseReader | None]:
        """The last attempt and its answer. A target not asked before is asked at once: it did not say wait."""
        while sample.attempt < self._retries and self._may_try_again(sample, reader):
            place = self._next_place(arrival, spec, sample, tried)
            wait_s = self._backoff_s(sample) if place in tried else 0.0
            if wait_s is None:
                break
            again_ns = monotonic_ns() + round(wait_s * 1e9)
            self.alarm.wait_until(again_ns)
            if self.stopping:
                break
            tried.append(place)
            self.lanes[place].expect(spec, again_ns)
            sample = self._sample(arrival, spec.scenario, place, sample.attempt + 1)
            reader = self.lanes[place].attempt(sample, spec, connections[place], again_ns)
        return sample, reader

    def follow(self, arrival: Arrival, pause_s: float) -> Arrival | None:
        """The next turn of the arrival's session, due after the pause; None where no more is to come due by then."""
        due_ns = monotonic_ns() - self.start_ns + round(pause_s * 1e9)
        if self.stopping or (self.feed is None and due_ns >= self._end_ns):
            return None
        return Arrival(
            next(self.numbers),
            due_ns,
            arrival.scenario,
            arrival.seed,
            drawn_as=arrival.drawn_as,
            session=arrival.began,
            turn=arrival.turn + 1,
        )

    def _place(self, arrival: Arrival, spec: RequestSpec | None) -> int:
        """Which lane an arrival takes first."""
        return 0 if self._router is None else self._router.first(arrival, lambda: self._outlooks(spec))

    def _next_place(self, arrival: Arrival, spec: RequestSpec, sample: Sample, tried: Sequence[int]) -> int:
        if self._router is None or not self._retries_elsewhere or sample.outcome not in TRIED_ELSEWHERE:
            return tried[-1]
        return self._router.elsewhere(arrival, tried, lambda: self._outlooks(spec))

    def _outlooks(self, spec: RequestSpec | None) -> list[Outlook]:
        return [lane.outlook(spec) for lane in self.lanes]

    def _may_try_again(self, sample: Sample, reader: ResponseReader | None) -> bool:
        return not self.stopping and reader is not None and (sample.outcome in RETRIED or sample.status == 408)

    def _backoff_s(self, sample: Sample) -> float | None:
        """How long to wait before the next attempt; None where the server asks for too much."""
        if sample.retry_after_ms is not None:
            return sample.retry_after_ms / 1e3 if sample.retry_after_ms <= LONGEST_RETRY_AFTER_MS else None
        return backoff_s(self.config.load.seed, sample.seq, sample.attempt)

    def drop(self, arrival: Arrival, why: str) -> None:
        """Record an arrival that came due and is not sent."""
        self.tally.planned += 1
        self.tally.drop(self._sample(arrival, arrival.scenario, self._place(arrival, None)), why)

    def _sample(self, arrival: Arrival, scenario: str, place: int, attempt: int = 0) -> Sample:
        due_ns, phase = arrival.due_ns, STEADY
        if due_ns < self._steady_ns:
            phase = Phase.WARMUP.value
        elif due_ns >= self._cooldown_ns:
            phase = Phase.COOLDOWN.value
        return Sample(
            seq=arrival.seq,
            attempt=attempt,
            worker=self.worker,
            phase=phase,
            scenario=scenario,
            target=self.lanes[place].name,
            due_ns=due_ns,
            session=arrival.session,
        )

    def schedule(self) -> Iterable[Arrival]:
        """The arrivals of an open loop as they are stored, and where each target gets them all, as often as they are
        sent; what follows them is numbered from there on. Raises RunFolderError where none are stored."""
        assert self._folder is not None
        stored = ScheduleFile(self._folder)
        copies = len(self.lanes) if self.config.load.split is Split.EACH else 1
        self.numbers = itertools.count(copies * stored.first_free)
        return Copied(stored, copies) if copies > 1 else stored
