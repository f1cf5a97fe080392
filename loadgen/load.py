"""One load while it lasts: users, what keeps them going, and how they end."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
import gevent.os
from gevent.event import Event
from locust.env import Environment
from locust.runners import Runner

from loadgen.arrivals import LEAD_NS, ClosedLoop, OpenLoop
from loadgen.budget import Price
from loadgen.claim import hold
from loadgen.closed_loop import joining_s, shares
from loadgen.config import RunConfig
from loadgen.errors import HeadroomError
from loadgen.guards import STOPPED_BY_FILE, StopCause
from loadgen.health import LOOK_S, Health
from loadgen.lane import Lane
from loadgen.player import Player  # first: it patches the process for gevent
from loadgen.recorder import RecorderPipe
from loadgen.samples import Manifest, Outcome
from loadgen.schedule import Arrival
from loadgen.spread.dealing import Share
from loadgen.users import check_model_answers, check_requests_fit, load_scenario, seat, told
from loadgen.voice import Teller
from loadgen.watches import budget_use, watch_errors, watch_parent, watch_stop_file, watch_wall

FLUSH_S = 0.1  # its rows go to the recorder, which publishes them each 0.4 s: a kill loses less than a second
START_IN_NS = 300_000_000  # so that the first arrival can be prepared
STOP_GRACE_S = 5.0
RENEW_S = 60.0
YOUNG_OBJECTS = 10_000


class Load:
    """A load, or one worker's share of it. What is asked of the run is in its manifest.

    `arrivals` are those of an open loop; None: all that are stored. `folder` takes the record. Where `alone`, nobody
    else looks after the run: it ends with standard input, with the file STOP, when too much fails or time is up.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        places: dict[str, str],
        *,
        runner: Runner,
        voice: Teller,
        share: Share | None = None,
        arrivals: Iterable[Arrival] | None = None,
    ) -> None:
        hold(folder)
        self.folder, self.voice = folder, voice
        self.share, self._arrivals = share or Share(), arrivals
        self.alone = share is None
        self.config = RunConfig.model_validate(manifest.config)
        self.classes = {name: load_scenario(name, place) for name, place in places.items()}
        self.runner, self.environment = runner, runner.environment
        self.environment.user_classes = list(self.classes.values())
        self.player = player_for(manifest, runner.environment, folder)
        self.player.worker = self.share.index
        if share is not None:
            self.player.numbers = share.numbers()
        self.player.guards.halt = self.halt
        seat(self.player)
        for target in self.config.targets:
            check_model_answers(manifest.deployment_of(target.name), self.classes)
        check_requests_fit(self.player, self.classes)
        self.pipe = RecorderPipe(folder, self.share.index, gevent.os.nb_write)
        gevent.os.make_nonblocking(self.pipe.fd)
        self.stopping = Event()
        self.environment.events.user_error.add_listener(self._note_failure)  # type: ignore[no-untyped-call]
        self.playing = False
        self._ended = False
        self._closed_ns: int | None = None  # since then no more arrivals, and all the answers
        self._hard = False  # no answers either
        self._stop_reason: str | None = None
        self._stop_cause: StopCause | None = None
        self._failure: HeadroomError | None = None
        self.health = Health(self.player.tally.note)
        self._looks = gevent.get_hub().loop.timer(LOOK_S, LOOK_S)

    def stop(self, reason: str) -> None:
        """Once: no more arrivals, a short wait for the answers. Twice: no wait."""
        if self.stopping.is_set():
            self._hard = True
            self.runner.user_greenlets.kill(block=False)
        self._give_reason(reason, StopCause.HAND)
        self.stopping.set()

    def halt(self, reason: str, cause: StopCause) -> None:
        """The guards end the run: a budget that is used up lets all the answers come, the auto-stop few."""
        self._give_reason(reason, cause)
        self.player.stopping = True
        self._closed_ns = self._closed_ns or monotonic_ns()
        self.player.source.stop()
        if cause is not StopCause.BUDGET:
            self.stopping.set()

    def _give_reason(self, reason: str, cause: StopCause) -> None:
        if self._stop_reason is None:
            self._stop_reason, self._stop_cause = reason, cause

    def run(self, start_ns: int | None = None) -> None:
        """Play to the end. The run's zero is `start_ns` of CLOCK_MONOTONIC; by default it is soon.

        Raises HeadroomError where the record cannot be written.
        """
        self.playing = True
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not look at it while the load runs
        gc.set_threshold(YOUNG_OBJECTS)
        if self._arrivals is None:
            self._arrivals = self.player.schedule() if self.config.load.open_loop else ()
        self.player.restart_clock(monotonic_ns() + START_IN_NS if start_ns is None else start_ns)
        self.voice.say("started", monotonic_start_ns=self.player.start_ns)
        flusher = gevent.spawn(self._flush)
        keepers = [gevent.spawn(keeper) for keeper in self._keepers()]
        try:
            (self._play_open if self.config.load.open_loop else self._play_closed)()
        finally:
            self._looks.stop()
            health = self.health.end()
            self._send_home()
            gevent.killall(keepers)
        self._ended = True
        flusher.join()  # never cut short: half a batch would spoil all that follows
        if self._failure is not None:
            raise self._failure
        self.player.tally.flush(self.pipe)
        self.pipe.close()
        self.voice.say("progress", **self._progress())
        self.voice.say(
            "finished",
            planned=self.player.tally.planned,
            reason=self._stop_reason,
            cause=self._stop_cause,
            budget=budget_use(self.player),
            workers=[health],
        )

    def _play_open(self) -> None:
        source = self.player.source = OpenLoop(
            self._arrivals or (),
            alarm=self.player.alarm,
            start_ns=self.player.start_ns,
            most_busy=self.share.slots(self.config.load.max_in_flight),
            spawn=lambda scenario: self._spawn({scenario: 1}),
            drop=self.player.drop,
        )
        dispatcher = gevent.spawn(source.run)
        self._until(lambda: dispatcher.dead or self._closed_ns is not None, None)
        self._dismiss_waiting()
        self.health.rest()
        dispatcher.get(block=False) if dispatcher.ready() else source.stop()
        self._until(lambda: source.idle or self._spent, self.config.load.drain)
        dispatcher.kill()

    def _play_closed(self) -> None:
        load, start_ns = self.config.load, self.player.start_ns
        end_ns = start_ns + round(load.duration * 1e9)
        self.player.source = ClosedLoop(
            start_ns=start_ns, end_ns=end_ns, seed=load.seed, thinking=load.thinking, numbers=self.player.numbers
        )
        users = joining_s(shares(self.config.scenarios, load.users or 1), load.spawn_rate)
        spawner = gevent.spawn(self._let_join, self.share.pick(users))
        self._until(lambda: monotonic_ns() >= end_ns or self._closed_ns is not None, None)
        spawner.kill()
        self._dismiss_waiting()
        self.health.rest()
        self._until(lambda: len(self.runner.user_greenlets) == 0 or self._spent, load.drain)

    def _let_join(self, users: Iterable[tuple[float, str]]) -> None:
        for at_s, scenario in users:
            self.player.alarm.wait_until(self.player.start_ns + round(at_s * 1e9))
            self._spawn({scenario: 1})

    def _spawn(self, users: dict[str, int]) -> None:
        """As Locust's own spawn_users does, which also counts all users anew at each call."""
        for name, count in users.items():
            for _ in range(count):
                self.classes[name](self.environment).start(self.runner.user_greenlets)

    def _until(self, condition: Callable[[], bool], patience_s: float | None) -> None:
        """Return when the condition holds, when patience ends, or when the load is stopped."""
        give_up_ns = None if patience_s is None else monotonic_ns() + round(patience_s * 1e9)
        while not condition() and not self.stopping.is_set():
            if give_up_ns is not None and monotonic_ns() > give_up_ns:
                return
            gevent.sleep(0.02)

    def _dismiss_waiting(self) -> None:
        """Nothing that waits for the quota will be sent any more, once the budget is used up."""
        if self._closed_ns is not None:
            self._dismiss_throttled(but_granted=True)

    @property
    def _spent(self) -> bool:
        """Whether the budget is used up, and whatever it had admitted is answered: who still waits or thinks does so
        in vain."""
        if self._closed_ns is None or monotonic_ns() < self._closed_ns + LEAD_NS:
            return False
        return self.player.in_flight == 0 and self.player.waiting == 0

    def _send_home(self) -> None:
        """End all users; those whose requests have left only just get a moment for their answers."""
        self.player.source.stop()
        self.player.stopping = True
        just_sent = self.stopping.is_set() or self.player.waiting > 0
        self._dismiss_throttled()
        give_up_ns = monotonic_ns() + round(STOP_GRACE_S * 1e9)
        while just_sent and not self._hard and self.player.in_flight and monotonic_ns() < give_up_ns:
            gevent.sleep(0.02)
        if not self.stopping.is_set():
            for connection in self.player.active:  # what was asked and never answered is a failure
                gevent.get_hub().loop.run_callback(connection.interrupt, Outcome.TIMEOUT, "drain_timeout")
            gevent.sleep(0.05)
        self.runner.user_greenlets.kill(block=True, timeout=STOP_GRACE_S)

    def _dismiss_throttled(self, *, but_granted: bool = False) -> None:
        for lane in self.player.lanes:
            if lane.throttle is not None:
                lane.throttle.dismiss(but_granted=but_granted)

    def _note_failure(self, user_instance: Any, exception: Exception, **_: Any) -> None:
        user = getattr(user_instance, "user", user_instance)  # Locust hands over the user's task set
        text = f"scenario {user.scenario} raised {told(exception)}"
        for lane in self.player.lanes:
            text = lane.endpoint.redact(text)
        self.player.tally.note("scenario_failed", text[:200])

    # Keepers: small greenlets beside the load.

    def _keepers(self) -> list[Callable[[], None]]:
        keepers = [self._tell, self._watch_hub, self._renew]
        if not self.alone:
            return keepers
        keepers += [partial(watch_parent, self.stop), self._watch_stop_file]
        if self.config.load.auto_stop:
            keepers.append(partial(watch_errors, self.player, lambda: self.player.tally.outcomes, self.halt))
        if self.config.budget.wall is not None:
            keepers.append(partial(watch_wall, self.player, self.halt))
        return keepers

    def _flush(self) -> None:
        while not self._ended:
            gevent.sleep(FLUSH_S)
            try:
                self.player.tally.flush(self.pipe)
            except HeadroomError as error:
                self._failure = error
                self.stop("the record could not be written")
                return

    def _tell(self) -> None:
        while True:
            gevent.sleep(1)
            self.voice.say("progress", **self._progress())

    def _progress(self) -> dict[str, Any]:
        self.health.tick()
        progress = self.player.tally.progress(
            in_flight=self.player.in_flight, waiting=self.player.waiting, duration_s=self.config.load.duration
        )
        return progress | ({"budget": use} if (use := budget_use(self.player)) else {})

    def _watch_hub(self) -> None:
        """From the end of the warm-up on: before then users are made, and no figure counts."""
        self.player.alarm.wait_until(self.player.start_ns + round(self.config.load.warmup * 1e9))
        self.health.begin()
        self._looks.start(lambda: self.health.look(self.player.in_flight))

    def _watch_stop_file(self) -> None:
        watch_stop_file(self.folder)
        self.stopping.set()
        self._give_reason(STOPPED_BY_FILE, StopCause.HAND)
        self.stop("")

    def _renew(self) -> None:
        lanes = [lane for lane in self.player.lanes if lane.credential is not None and lane.credential.entra]
        while lanes:
            gevent.sleep(RENEW_S)
            for lane in lanes:
                self._renew_credential(lane)

    def _renew_credential(self, lane: Lane) -> None:
        assert lane.credential is not None
        try:
            gevent.get_hub().threadpool.apply(lane.credential.value)
            lane.endpoint.renew()
        except HeadroomError as error:
            self.player.tally.note("entra", f"{lane.name}: {error}; trying again")


def player_for(manifest: Manifest, environment: Environment, folder: Path) -> Player:
    """Raises HeadroomError for a target that may not be loaded, or a key that is not there."""
    config = RunConfig.model_validate(manifest.config)
    return Player(
        config,
        environment=environment,
        variables=os.environ,
        models=[manifest.deployment_of(target.name).get("model_name") for target in config.targets],
        run_id=manifest.run_id,
        folder=folder,
        prices={target: Price(**price) for target, price in manifest.prices.items()},
    )


def raise_limits() -> None:
    """Each user holds a connection."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
