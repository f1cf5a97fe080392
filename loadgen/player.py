"""Plays a load with Locust's users: one process, one deployment, one part of the record.

The only file beside scenarios/ that imports locust. `python -m loadgen RUN` runs it on a run folder whose manifest
holds the config; it says on standard output, in lines of JSON, when it started, how far it is, and how it ended.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic_ns

import gevent
from gevent import GreenletExit
from locust import User, task  # first: it patches the process for gevent
from locust.env import Environment
from locust.exception import StopUser

from loadgen.alarm import Alarm
from loadgen.arrivals import ClosedLoop, Source
from loadgen.config import Dialect, Kind, LoadConfig, RunConfig, TargetConfig, ThrottleMode
from loadgen.connection import Connection
from loadgen.endpoint import Endpoint
from loadgen.errors import ConfigError, TargetRefused
from loadgen.feed import Feed
from loadgen.proxy import proxy_of
from loadgen.quota import Grant, admitting, pacing
from loadgen.refusals import remaining_of
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Phase, Sample
from loadgen.schedule import Arrival, drawn, read_trace, replayed
from loadgen.tally import Tally
from loadgen.target import address_of, check_allowed, check_encrypted, credential_of
from loadgen.throttle import Throttle
from loadgen.wire import ResponseReader

FIRST_SEEN = 64  # requests of each scenario that are built and checked before anything is sent
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

    def check_requests_fit(self, classes: Mapping[str, type[DeploymentUser]]) -> None:
        """Build the first requests of each scenario and raise ConfigError if one can never be admitted."""
        if self.config.target.kind is Kind.MANAGED:
            return
        limiters = admitting(self.config.quota, paced=self.throttle is not None)
        for name, user_class in classes.items():
            user = user_class(self.environment)
            for seq in range(FIRST_SEEN):
                cost = self._cost(_first_request(user, Arrival(seq, 0, name, self.config.load.seed)))
                for limiter in limiters:
                    limiter.check_fits(cost, f"a request of scenario {name}")


def _first_request(user: DeploymentUser, arrival: Arrival) -> RequestSpec:
    """Raises ConfigError that names the place in the scenario where it failed."""
    try:
        return user.request(arrival)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"scenario {arrival.scenario}: request() raised {type(error).__name__}: {error} "
            f"({Path(place.filename).name}, line {place.lineno})"
        ) from None


class DeploymentUser(User):
    """A user of the deployment. A scenario defines `request`; arrivals, throttle, sending and recording are done here.

    Under plain `locust -f FILE --host URL` it sends closed-loop to that host and feeds Locust's own statistics.
    """

    abstract = True
    scenario_name: str | None = None

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        player = player_of(environment)
        if player is None or (
            player.feed is not None and player.config.target.url != plain_host(environment, self.host)
        ):
            player = plain_player(environment, self.host)  # the first user, or the web page has named another host
            seat(player)
        self.player = player
        self.connection = Connection(self.player.endpoint)
        self._unsent: Arrival | None = None
        # Under plain Locust its own loop decides when a user stops.
        self._pauses = player.feed is not None or type(self).wait_time is not User.wait_time or len(self.tasks) > 1

    @property
    def scenario(self) -> str:
        """The name in the record."""
        return self.scenario_name or type(self).__name__.lower()

    def request(self, arrival: Arrival) -> RequestSpec:
        """What to send for an arrival: a function of it alone, so that a seed repeats a run byte for byte."""
        raise TypeError(f"{type(self).__name__} must define request(arrival) to answer {arrival}, or tasks of its own")

    @task
    def take_turn(self) -> None:
        """One turn after the other, where there is nothing to wait for between them.

        Going back to Locust costs a tenth of a core's requests: it would choose a task anew, and sleep for no time.
        """
        while True:
            arrival = self.next_arrival()
            sample = self.send(arrival, self.request(arrival))
            # What was not sent has not waited either: without a pause here the others would never run.
            if self._pauses or sample.sent_ns is None:
                return

    def next_arrival(self) -> Arrival:
        """Wait for this user's next arrival. Ends the user where there is none."""
        if self._unsent is not None:  # the scenario failed between taking it and sending it
            self.player.drop(self._unsent, "scenario_failed")
            self._unsent = None
        arrival = self.player.source.next(self.scenario)
        if arrival is None:
            raise StopUser
        self._unsent = arrival
        return arrival

    def send(self, arrival: Arrival, spec: RequestSpec) -> Sample:
        """Send the arrival's request when it is due and admitted; returns its row of the record."""
        self._unsent = None
        sample = self.player.play(arrival, spec, self.connection)
        if self.player.feed is not None:
            self.player.feed.add(sample, spec)
            if sample.outcome == Outcome.THROTTLED:  # nothing else holds back users that have no schedule
                wait_ms = UNASKED_PAUSE_MS if sample.retry_after_ms is None else sample.retry_after_ms
                gevent.sleep(min(wait_ms, LONGEST_RETRY_AFTER_MS) / 1e3)
        return sample

    def max_tokens(self, arrival: Arrival) -> int:
        """The completion limit to ask for: the trace's, else the config's."""
        return arrival.completion_tokens or self.player.config.load.max_tokens

    def on_stop(self) -> None:
        self.connection.close()


def seat(player: Player) -> None:
    """Make it the player of its environment's users: Locust's environment is what all of them can reach."""
    vars(player.environment)["headroom"] = player


def player_of(environment: Environment) -> Player | None:
    return vars(environment).get("headroom")


def plain_host(environment: Environment, host: str | None) -> str:
    return environment.host or host or "http://127.0.0.1:8181"


def plain_player(environment: Environment, host: str | None) -> Player:
    """The player of `locust -f FILE --host URL`: no schedule, no record, no throttle; the rails hold all the same.

    A host that is not loopback must be named in HEADROOM_YES_TARGET.
    """
    allowed = tuple(os.environ.get("HEADROOM_YES_TARGET", "").replace(",", " ").split())
    target = TargetConfig(url=plain_host(environment, host), allow_hosts=allowed)
    named = address_of(target.url or "")
    if not (named.is_loopback or named.host in allowed):
        raise TargetRefused(
            f"{named.host} is not this machine, so load on it must be allowed by name: set "
            f"HEADROOM_YES_TARGET={named.host}. Nothing was sent."
        )
    config = RunConfig(target=target, load=LoadConfig(users=1, throttle=ThrottleMode.OFF))
    player = Player(config, environment=environment, variables=os.environ)
    player.feed = Feed(environment)
    return player


def load_scenario(name: str, place: str) -> type[DeploymentUser]:
    """The user class at `package.module:Class` or `path/to/file.py:Class`. Raises ConfigError."""
    module_name, _, class_name = place.rpartition(":")
    try:
        if module_name.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(module_name).stem, module_name)
            assert spec is not None and spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except (ImportError, FileNotFoundError, SyntaxError) as error:
        raise ConfigError(f"scenario {name}: {module_name} cannot be loaded: {error}") from None
    user_class = getattr(module, class_name, None)
    if not (isinstance(user_class, type) and issubclass(user_class, DeploymentUser)):
        raise ConfigError(f"scenario {name}: {module_name} has no class {class_name} that is a DeploymentUser")
    user_class.scenario_name = name
    return user_class
