"""Locust's users as Headroom plays them: a scenario is a class of them, loaded by its place.

They work under `headroom run`, and under plain `locust -f FILE --host URL` for a look at Locust's own web page.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import gevent
from locust import User, task  # first: it patches the process for gevent
from locust.env import Environment
from locust.exception import RescheduleTaskImmediately, StopUser

from loadgen.answers import Answer
from loadgen.config import Kind, LoadConfig, RunConfig, TargetConfig, ThrottleMode
from loadgen.connection import Connection
from loadgen.errors import ConfigError, TargetRefused
from loadgen.feed import Feed
from loadgen.kept import KeepingReader
from loadgen.lane import LONGEST_RETRY_AFTER_MS, UNASKED_PAUSE_MS
from loadgen.player import Player
from loadgen.quota import admitting
from loadgen.requests import RequestSpec, Route
from loadgen.samples import Outcome, Sample
from loadgen.schedule import Arrival
from loadgen.target import address_of, routes_of

FIRST_SEEN = 64  # requests of each scenario that are built and checked before anything is sent


class DeploymentUser(User):
    """A user of the deployment. A scenario defines `request`; arrivals, throttle, sending and recording are done here.

    Under plain `locust -f FILE --host URL` it sends closed-loop to that host and feeds Locust's own statistics.
    """

    abstract = True
    scenario_name: str | None = None
    _usual_name = ""
    route = Route.CHAT  # what its requests ask for: checked against the model before anything is sent

    def __init_subclass__(cls, **given: Any) -> None:
        """What answers `request` is no task of a class that has another in its place, or tasks and no `request`."""
        super().__init_subclass__(**given)
        cls._usual_name = re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        replaced = cls.take_turn is not DeploymentUser.take_turn
        if replaced or (cls.request is DeploymentUser.request and len(cls.tasks) > 1):
            cls.tasks = [each for each in cls.tasks if each is not DeploymentUser.take_turn]

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
        self.prompts = player.prompts
        self.answer: Answer | None = None  # to the last request, where it went well and its spec says keep_answer
        self._unsent: Arrival | None = None
        # Under plain Locust its own loop decides when a user stops.
        self._pauses = player.feed is not None or type(self).wait_time is not User.wait_time or len(self.tasks) > 1

    @property
    def scenario(self) -> str:
        """The name in the record."""
        return self.scenario_name or self._usual_name

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
        sample, reader = self.player.play(arrival, spec, self.connections)
        if spec.keep_answer:
            whole = sample.outcome == Outcome.OK and isinstance(reader, KeepingReader)
            self.answer = cast(KeepingReader, reader).answer() if whole else None
        if self.player.feed is not None:
            self.player.feed.add(sample, spec)
            if sample.outcome == Outcome.THROTTLED:  # nothing else holds back users that have no schedule
                wait_ms = UNASKED_PAUSE_MS if sample.retry_after_ms is None else sample.retry_after_ms
                gevent.sleep(min(wait_ms, LONGEST_RETRY_AFTER_MS) / 1e3)
        return sample

    def follow_up(self, arrival: Arrival, pause_s: float = 0.0) -> Arrival:
        """The next request of the same session, due after the pause: an arrival with a number and a row of its own,
        whose `random` comes from the session's seed and turn. Ends the task where no more comes due by then."""
        following = self.player.follow(arrival, pause_s)
        if following is None:
            raise RescheduleTaskImmediately
        return following

    def max_tokens(self, arrival: Arrival) -> int:
        """The completion limit to ask for: the trace's, else the config's."""
        return self.prompts.max_tokens(arrival)

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
    """The user class at `package.module:Class` or `path/to/file.py:Class`, as a class of that name, so that two
    scenarios may have classes that are called the same. Raises ConfigError naming the file and line that failed."""
    module_name, _, class_name = place.rpartition(":")
    try:
        module = _load_file(Path(module_name)) if module_name.endswith(".py") else importlib.import_module(module_name)
    except (FileNotFoundError, SyntaxError) as error:
        raise ConfigError(f"scenario {name}: {module_name} cannot be loaded: {error}") from None
    except Exception as error:
        raise ConfigError(f"scenario {name}: {module_name} cannot be loaded: {told(error)}") from None
    user_class = getattr(module, class_name, None)
    if not (isinstance(user_class, type) and issubclass(user_class, DeploymentUser)):
        raise ConfigError(f"scenario {name}: {module_name} has no class {class_name} that is a DeploymentUser")
    namesake: type[DeploymentUser] = type(name, (user_class,), {"scenario_name": name, "__module__": module.__name__})
    return namesake


def _load_file(path: Path) -> ModuleType:
    """As a module of its own, that may import what lies beside it."""
    named = f"headroom_scenario_{blake2b(str(path.resolve()).encode(), digest_size=8).hexdigest()}"
    if named not in sys.modules:
        spec = importlib.util.spec_from_file_location(named, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        beside = str(path.resolve().parent)
        if beside not in sys.path:
            sys.path.append(beside)
        sys.modules[named] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[named]
            raise
    return sys.modules[named]


def told(error: BaseException) -> str:
    """What was raised, and where in the scenario: the last line of the user's own that was reached."""
    frames = traceback.extract_tb(error.__traceback__)
    library = (str(Path(__file__).parent), sys.prefix, sys.base_prefix)
    own = [frame for frame in frames if not frame.filename.startswith((*library, "<"))] or frames
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}: {error}{place}"


def check_model_answers(deployment: Mapping[str, Any], classes: Mapping[str, type[DeploymentUser]]) -> None:
    """Raises ConfigError for a scenario whose route a model of the deployment's type does not have.

    Of an endpoint that does not say its model's type, as in the openai dialect, nothing is known.
    """
    routes = routes_of(str(deployment.get("model_type", "")))
    for name, user_class in classes.items():
        if routes is not None and user_class.route not in routes:
            raise ConfigError(
                f"scenario {name} asks for {user_class.route}, and {deployment.get('model_name')} is a model of type "
                f"{deployment['model_type']}: leave the scenario out, or name a deployment that has them"
            )


def check_requests_fit(player: Player, classes: Mapping[str, type[DeploymentUser]]) -> None:
    """Build the first requests of each scenario, also where nothing limits them: raises ConfigError for one that fails,
    or that a target's quota or the budget can never admit."""
    doors = [
        (lane, limiter)
        for lane in player.lanes
        if lane.config.kind is Kind.SERVERLESS
        for limiter in admitting(lane.quota, paced=lane.throttle is not None)
    ]
    budget = player.guards.budget
    for name, user_class in classes.items():
        if user_class.request is DeploymentUser.request:
            continue  # it has tasks of its own, and what they send shows when they send it
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
        raise ConfigError(f"scenario {arrival.scenario}: request() raised {told(error)}") from None
