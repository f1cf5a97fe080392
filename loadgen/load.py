"""One load while it lasts: users, what keeps them going, and how they end."""

from __future__ import annotations

import gc
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
import gevent.os
from gevent.event import Event
from locust.runners import Runner

from loadgen.arrivals import ClosedLoop, OpenLoop
from loadgen.config import RunConfig
from loadgen.dealing import Share
from loadgen.errors import HeadroomError
from loadgen.health import LOOK_S, Health
from loadgen.player import Player  # first: it patches the process for gevent
from loadgen.recorder import RecorderPipe
from loadgen.samples import Manifest, Outcome
from loadgen.schedule import Arrival
from loadgen.users import check_requests_fit, load_scenario, seat
from loadgen.voice import Teller

FLUSH_S = 0.25
START_IN_NS = 300_000_000  # so that the first arrival can be prepared
STOP_GRACE_S = 5.0
RENEW_S = 60.0
YOUNG_OBJECTS = 10_000


class Load:
    """A load, or one worker's share of it. What is asked of the run is in its manifest.

    `arrivals` are those of an open loop; None: all that the config says. `folder` takes the record.
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
        arrivals: Iterator[Arrival] | None = None,
    ) -> None:
        self.config = RunConfig.model_validate(manifest.config)
        self.classes = {name: load_scenario(name, place) for name, place in places.items()}
        self.runner, self.environment = runner, runner.environment
        self.environment.user_classes = list(self.classes.values())
        self.player = player_for(manifest, runner, folder)
        seat(self.player)
        check_requests_fit(self.player, self.classes)
        self.share, self._arrivals = share or Share(), arrivals
        self.player.worker = self.share.index
        self.pipe = RecorderPipe(folder, self.share.index, gevent.os.nb_write)
        gevent.os.make_nonblocking(self.pipe.fd)
        self.voice = voice
        self.stopping = Event()
        self.environment.events.user_error.add_listener(self._note_failure)  # type: ignore[no-untyped-call]
        self.playing = False
        self._ended = False
        self._stop_reason: str | None = None
        self._failure: HeadroomError | None = None
        self.health = Health(self.player.tally.note)
        self._looks = gevent.get_hub().loop.timer(LOOK_S, LOOK_S)

    def stop(self, reason: str) -> None:
        """Once: no more arrivals, a short wait for the answers. Twice: no wait."""
        if self.stopping.is_set():
            self.runner.user_greenlets.kill(block=False)
        self._stop_reason = self._stop_reason or reason
        self.stopping.set()

    def run(self, start_ns: int | None = None, *, until_eof: bool = True) -> None:
        """Play to the end. The run's zero is `start_ns` of CLOCK_MONOTONIC; by default it is soon.

        With `until_eof` the load also ends when standard input does. Raises HeadroomError where the record fails.
        """
        self.playing = True
        gc.collect()
        gc.freeze()  # what is loaded now stays: the collector need not look at it while the load runs
        gc.set_threshold(YOUNG_OBJECTS)
        if self._arrivals is None and self.config.load.open_loop:
            self._arrivals = self.player.schedule()
        self.player.restart_clock(monotonic_ns() + START_IN_NS if start_ns is None else start_ns)
        self.voice.say("started", monotonic_start_ns=self.player.start_ns)
        flusher = gevent.spawn(self._flush)
        keepers = [gevent.spawn(keeper) for keeper in (self._tell, self._watch_hub, self._renew)]
        keepers += [gevent.spawn(watch_parent, self.stop)] if until_eof else []
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
        planned = self.player.tally.planned
        self.voice.say("finished", planned=planned, reason=self._stop_reason, workers=[health])

    def _play_open(self) -> None:
        source = self.player.source = OpenLoop(
            iter(()) if self._arrivals is None else self._arrivals,
            alarm=self.player.alarm,
            start_ns=self.player.start_ns,
            most_busy=self.share.slots(self.config.load.max_in_flight),
            spawn=lambda scenario: self._spawn({scenario: 1}),
            drop=self.player.drop,
        )
        dispatcher = gevent.spawn(source.run)
        self._until(lambda: dispatcher.dead, None)
        self.health.rest()
        dispatcher.get(block=False) if dispatcher.ready() else source.stop()
        self._until(lambda: source.idle, self.config.load.drain)
        dispatcher.kill()

    def _play_closed(self) -> None:
        end_ns = self.player.start_ns + round(self.config.load.duration * 1e9)
        self.player.source = ClosedLoop(
            start_ns=self.player.start_ns, end_ns=end_ns, seed=self.config.load.seed, numbers=self.share.numbers()
        )
        self.player.alarm.wait_until(self.player.start_ns)
        self._spawn(self.share.users(shares(self.config.scenarios, self.config.load.users or 1)))
        self._until(lambda: monotonic_ns() >= end_ns, None)
        self.health.rest()
        self._until(lambda: len(self.runner.user_greenlets) == 0, self.config.load.drain)

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

    def _send_home(self) -> None:
        """End all users; those whose requests have left only just get a moment for their answers."""
        self.player.source.stop()
        self.player.stopping = True
        throttle = self.player.lane.throttle
        just_sent = self.stopping.is_set() or (throttle is not None and throttle.waiting > 0)
        if throttle is not None:
            throttle.dismiss()
        give_up_ns = monotonic_ns() + round(STOP_GRACE_S * 1e9)
        while just_sent and self.player.lane.endpoint.active and monotonic_ns() < give_up_ns:
            gevent.sleep(0.02)
        if not self.stopping.is_set():
            for connection in list(self.player.lane.endpoint.active):  # what was asked and never answered is a failure
                gevent.get_hub().loop.run_callback(connection.interrupt, Outcome.TIMEOUT, "drain_timeout")
            gevent.sleep(0.05)
        self.runner.user_greenlets.kill(block=True, timeout=STOP_GRACE_S)

    def _note_failure(self, user_instance: Any, exception: Exception, **_: Any) -> None:
        user = getattr(user_instance, "user", user_instance)  # Locust hands over the user's task set
        text = f"scenario {user.scenario} raised {type(exception).__name__}: {exception}"
        credential = self.player.lane.credential
        self.player.tally.note("scenario_failed", (text if credential is None else credential.redact(text))[:200])

    # Keepers: small greenlets beside the load.

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
        throttle = self.player.lane.throttle
        self.health.tick()
        return self.player.tally.progress(
            in_flight=len(self.player.lane.endpoint.active),
            waiting=0 if throttle is None else throttle.waiting,
            duration_s=self.config.load.duration,
        )

    def _watch_hub(self) -> None:
        """From the end of the warm-up on: before then users are made, and no figure counts."""
        self.player.alarm.wait_until(self.player.start_ns + round(self.config.load.warmup * 1e9))
        self.health.begin()
        self._looks.start(lambda: self.health.look(len(self.player.lane.endpoint.active)))

    def _renew(self) -> None:
        while self.player.lane.credential is not None and self.player.lane.credential.entra:
            gevent.sleep(RENEW_S)
            try:
                gevent.get_hub().threadpool.apply(self.player.lane.credential.value)
                self.player.lane.endpoint.renew()
            except HeadroomError as error:
                self.player.tally.note("entra", f"{error}; trying again")


def player_for(manifest: Manifest, runner: Runner, folder: Path) -> Player:
    """Raises HeadroomError for a target that may not be loaded, or a key that is not there."""
    return Player(
        RunConfig.model_validate(manifest.config),
        environment=runner.environment,
        variables=os.environ,
        model=manifest.deployment.get("model_name"),
        run_id=manifest.run_id,
        folder=folder,
    )


def raise_limits() -> None:
    """Each user holds a connection."""
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))


def watch_parent(stop: Callable[[str], None]) -> None:
    """Standard input is held open by the process that started this one, and ends with it."""
    gevent.os.make_nonblocking(0)
    while gevent.os.nb_read(0, 1024):
        pass
    stop("the process that started the load is gone")


def shares(weights: dict[str, float], users: int) -> dict[str, int]:
    """So many users dealt out by weight: largest remainders, and the first named wins a tie."""
    total = sum(weights.values())
    exact = {name: users * weight / total for name, weight in weights.items()}
    counts = {name: int(share) for name, share in exact.items()}
    for name in sorted(exact, key=lambda name: counts[name] - exact[name])[: users - sum(counts.values())]:
        counts[name] += 1
    return counts
