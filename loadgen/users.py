"""Locust's users as Headroom plays them: a scenario is a class of them, loaded by its place.

They work under `headroom run`, and under plain `locust -f FILE --host URL` for a look at Locust's own web page.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import traceback
from collections.abc import Mapping
from pathlib import Path

import gevent
from locust import User, task  # first: it patches the process for gevent
from locust.env import Environment
from locust.exception import StopUser

from loadgen.config import Kind, LoadConfig, RunConfig, TargetConfig, ThrottleMode
from loadgen.connection import Connection
from loadgen.errors import ConfigError, TargetRefused
from loadgen.feed import Feed
from loadgen.lane import LONGEST_RETRY_AFTER_MS, UNASKED_PAUSE_MS
from loadgen.player import Player
from loadgen.quota import admitting
from loadgen.requests import RequestSpec
from loadgen.samples import Outcome, Sample
from loadgen.schedule import Arrival
from loadgen.target import address_of

FIRST_SEEN = 64  # requests of each scenario that are built and checked before anything is sent


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
        self.connections = tuple(Connection(lane.endpoint) for lane in self.player.lanes)  # opened when first needed
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
        sample = self.player.play(arrival, spec, self.connections)
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
        for connection in self.connections:
            connection.close()


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
    config = RunConfig(targets=(target,), load=LoadConfig(users=1, throttle=ThrottleMode.OFF))
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


def check_requests_fit(player: Player, classes: Mapping[str, type[DeploymentUser]]) -> None:
    """Build the first requests of each scenario and raise ConfigError if a target's quota or the budget can never admit
    one."""
    doors = [
        (lane, limiter)
        for lane in player.lanes
        if lane.config.kind is Kind.SERVERLESS
        for limiter in admitting(lane.quota, paced=lane.throttle is not None)
    ]
    budget = player.guards.budget
    if not doors and budget is None:
        return
    for name, user_class in classes.items():
        user, what = user_class(player.environment), f"a request of scenario {name}"
        for seq in range(FIRST_SEEN):
            spec = _first_request(user, Arrival(seq, 0, name, player.config.load.seed))
            for lane, limiter in doors:
                limiter.check_fits(lane.cost(spec), f"{what} at {lane.name}" if len(player.lanes) > 1 else what)
            if budget is not None:
                for lane in player.lanes:
                    budget.check_fits(*lane.estimate(spec), what)


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
