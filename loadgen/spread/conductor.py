"""The master of a load that several processes make: it deals the arrivals, gives the quota, and keeps the record whole.

The workers speak to it over Locust's own channel (ZeroMQ), with messages of Headroom's beside Locust's. It sends no
request itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
from locust.env import Environment

from loadgen.claim import hold
from loadgen.config import RunConfig
from loadgen.errors import ConfigError, HeadroomError, Interrupted
from loadgen.guards import STOPPED_BY_FILE, StopCause
from loadgen.load import START_IN_NS, player_for
from loadgen.player import Player
from loadgen.quota import pacing
from loadgen.recorder import RecorderPipe
from loadgen.samples import Manifest, WorkerHealth
from loadgen.spread.channel import VERSIONS, Children, boot_id, digest_of, hear, listening, place_of
from loadgen.spread.dealer import Dealer
from loadgen.spread.desk import Desk
from loadgen.spread.reception import Reception
from loadgen.spread.roster import Member, Roster
from loadgen.spread.shipping import receive, recorded_seqs
from loadgen.users import check_requests_fit, load_scenario, seat
from loadgen.voice import Teller
from loadgen.watches import budget_use, watch_errors, watch_parent, watch_stop_file, watch_wall

GATHER_S = 600.0  # how long workers on other machines may take to come
GATHER_CHILDREN_S = 60.0
LOOK_S = 0.25
LATE_LOOK_NS = 1_000_000_000  # the master itself stood still: what the others said meanwhile has not been read yet
AHEAD_NS = 150_000_000  # of an open loop: so long before an arrival is due its admission is decided
MASTER = 65_535  # the number of its own parts
OWN_END_S = 15.0  # for what is closed after the last answer


class Conductor:
    """The run as its master sees it."""

    def __init__(
        self, folder: Path, manifest: Manifest, places: dict[str, str], *, environment: Environment, voice: Teller
    ) -> None:
        self.folder, self.manifest, self.places, self.voice = folder, manifest, places, voice
        self.config = RunConfig.model_validate(manifest.config)
        load = self.config.load
        host, port = place_of(load.bind, least_port=0) if load.master else ("127.0.0.1", 0)
        hold(folder)
        self.player: Player = player_for(manifest, environment, folder)
        seat(self.player)
        check_requests_fit(self.player, {name: load_scenario(name, place) for name, place in places.items()})
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        wanted = load.workers if load.master else cores if load.processes == -1 else load.processes
        self.roster = Roster(wanted, VERSIONS)
        schedule = self.player.schedule() if load.open_loop else ()
        self.dealer = Dealer(schedule, wanted, self._deal, targets=len(self.player.lanes))
        budget = self.player.guards.budget
        self.reception = Reception(
            self._desks(), self.player.alarm, self._grant, budget, lambda reason: self.halt(reason, StopCause.BUDGET)
        )
        self._first_free = next(self.player.numbers)  # behind the schedule
        self._receiving, self._accounting = 0, False
        self._stops = 0
        self._stop_reason: str | None = None
        self._stop_cause: StopCause | None = None
        self._stop_ns: int | None = None
        self._failure: HeadroomError | None = None
        self._degraded: list[str] = []
        self.runner = listening(environment, host, port)  # last: who calls from here on is heard
        self.children = Children(manifest.run_id, 0 if load.master else wanted, self.runner.server.port)
        members = {name: self._from_member(listener) for name, listener in self._of_members().items()}
        hear(self.runner, {"hello": self._on_hello, **members})

    def _desks(self) -> list[Desk]:
        """One a target; where neither quota nor budget is kept nobody asks at it."""
        ahead_ns = AHEAD_NS if self.config.load.open_loop else 0
        return [
            Desk(
                None if lane.throttle is None else pacing(lane.quota, slack_ns=ahead_ns),
                concurrency=None if lane.throttle is None else lane.quota.concurrency,
                ahead_ns=ahead_ns,
                budget=self.player.guards.budget,
            )
            for lane in self.player.lanes
        ]

    # The run.

    def run(self) -> None:
        """From the first worker to the last row. Raises HeadroomError where it cannot begin, or a worker fails."""
        keepers = [
            gevent.spawn(keeper)
            for keeper in (partial(watch_parent, self.stop), self._watch_stop_file, self.reception.run, self._look)
        ]
        try:
            self._gather()
            self._begin()
            keepers += [gevent.spawn(keeper) for keeper in self._keepers()]
            self.dealer.run(self.player.start_ns, lambda: bool(self._stops) or not self.roster.live)
            self._until(lambda: not self.roster.live, None)
        finally:
            gevent.killall(keepers)
            self._dismiss()
        self._conclude()

    def stop(self, reason: str) -> None:
        """Once: no more arrivals, a short wait for the answers. Twice: no wait."""
        self._end(reason, StopCause.HAND)
        for member in self.roster.live:
            self._send(member, "stop", {"reason": reason})

    def halt(self, reason: str, cause: StopCause) -> None:
        """The guards end the run, for all workers."""
        if self._stop_cause is not None:
            return
        self._end(reason, cause)
        for member in self.roster.live:
            self._send(member, "halt", {"reason": reason, "cause": cause.value})

    def _end(self, reason: str, cause: StopCause) -> None:
        self._stops += 1
        if self._stop_cause is None:
            self._stop_reason, self._stop_cause, self._stop_ns = reason, cause, monotonic_ns()

    def _gather(self) -> None:
        """Wait until all workers are ready to play."""
        load = self.config.load
        self.children.start(self._child_ended)
        if load.master:
            port = self.runner.server.port
            say(f"waiting for {self.roster.wanted} x `headroom worker --connect HOST:{port}`")
        patience_s = GATHER_S if load.master else GATHER_CHILDREN_S
        self._until(lambda: self.roster.complete or bool(self._failure or self._stops), patience_s)
        if not (self.roster.complete or self._failure or self._stops):
            here = sum(member.ready for member in self.roster.members)
            self._failure = HeadroomError(
                f"{here} of {self.roster.wanted} workers were ready after {patience_s:g} s; nothing was sent"
            )
        if self._stops and self._failure is None:
            self._failure = Interrupted(f"{self._stop_reason} before the load began; nothing was sent")
        if self._failure is not None:
            raise self._failure
        self.roster.started = True

    def _begin(self) -> None:
        self.player.restart_clock(monotonic_ns() + START_IN_NS)
        self.reception.start_ns = self.player.start_ns
        for member in self.roster.members:
            member.seen_ns = monotonic_ns()
            self._send(member, "start", {"start_ns": self.player.start_ns})
        self.voice.say("started", monotonic_start_ns=self.player.start_ns)

    def _until(self, condition: Callable[[], bool], patience_s: float | None) -> None:
        """Return when the condition holds, or when patience ends."""
        give_up_ns = None if patience_s is None else monotonic_ns() + round(patience_s * 1e9)
        while not condition() and (give_up_ns is None or monotonic_ns() < give_up_ns):
            gevent.sleep(0.02)

    # Keepers.

    def _tell(self) -> None:
        while True:
            gevent.sleep(1)
            self.voice.say("progress", **self._progress())

    def _progress(self) -> dict[str, Any]:
        t_s = round((monotonic_ns() - self.player.start_ns) / 1e9, 3)
        told = {"t_s": t_s, "duration_s": self.config.load.duration, **self.roster.progress()}
        return told | ({"budget": use} if (use := budget_use(self.player)) else {})

    def _keepers(self) -> list[Callable[[], None]]:
        keepers = [self._tell]
        if self.config.load.auto_stop:
            keepers.append(partial(watch_errors, self.player, self.roster.outcomes, self.halt))
        if self.config.budget.wall is not None:
            keepers.append(partial(watch_wall, self.player, self.halt))
        return keepers

    def _watch_stop_file(self) -> None:
        watch_stop_file(self.folder)
        self.stop(STOPPED_BY_FILE)
        self.stop(STOPPED_BY_FILE)  # at once

    def _look(self) -> None:
        """See who has gone silent."""
        looked_ns = monotonic_ns()
        while True:
            gevent.sleep(LOOK_S)
            now_ns = monotonic_ns()
            if now_ns - looked_ns < LATE_LOOK_NS:
                for member in self.roster.overdue(now_ns):
                    self._lose(member, f"no sign of life for {(now_ns - member.seen_ns) / 1e9:.1f} s")
            looked_ns = now_ns

    def _lose(self, member: Member, why: str) -> None:
        """Its arrivals from here on are dealt to the others; those that it holds nobody else may send."""
        at_s = (monotonic_ns() - self.player.start_ns) / 1e9
        member.lost = why
        self.dealer.lose(member.index)
        self.reception.lose(member.index)
        gevent.spawn_later(self.config.timeouts.total, self.reception.clear_places, member.index)  # all have ended
        if not self.roster.started:
            self._failure = HeadroomError(f"{member.name} was lost before the load began: {why}; nothing was sent")
            return
        self._degraded.append(f"{member.name} was lost at {max(0.0, at_s):.1f} s: {why}")
        self.player.tally.note("worker_lost", self._degraded[-1])
        if member.finished is None:
            self._send(member, "lost", {"reason": why})
        if not self.roster.live and all(each.lost is not None for each in self.roster.members):
            self._end("all workers were lost", StopCause.HAND)

    def _child_ended(self, key: str, code: int, words: str) -> None:
        member = next((each for each in self.roster.members if each.key == key), None)
        if member is not None:
            if member.live:
                self._lose(member, f"its process ended with {code}")
            self.reception.clear_places(member.index)
        elif self._failure is None:
            self._failure = HeadroomError(words or f"a worker ended with {code} before it had begun")

    # Messages.

    def _of_members(self) -> dict[str, Callable[[Member, Any], None]]:
        return {
            "ping": self._on_ping,
            "ready": self._on_ready,
            "beat": self._on_beat,
            "desk": self._on_letter,
            "progress": self._on_progress,
            "part": self._on_part,
            "notes": self._on_notes,
            "failed": self._on_failed,
            "halt": lambda _, data: self.halt(data["reason"], StopCause(data["cause"])),
            "finished": self._on_finished,
        }

    def _from_member(self, listener: Callable[[Member, Any], None]) -> Callable[[str, Any], None]:
        def listen(client_id: str, data: Any) -> None:
            member = self.roster.of(client_id)
            if member is not None:
                listener(member, data)

        return listen

    def _send(self, member: Member, name: str, data: Any) -> None:
        self.runner.send_message(f"headroom.{name}", data, member.client_id)

    def _deal(self, worker: int, share: Any) -> None:
        self._send(self.roster.members[worker], "deal", share)

    def _grant(self, worker: int, target: int, granted: list[int | None]) -> None:
        self._send(self.roster.members[worker], "granted", {"target": target, "numbers": granted})

    def _on_hello(self, client_id: str, data: Any) -> None:
        joined = self.roster.join(client_id, data, monotonic_ns(), keys=self.children.keys)
        if isinstance(joined, str):
            say(f"a worker on {data.get('host')} was refused: {joined}")
            self.runner.send_message("headroom.refused", {"reason": joined}, client_id)
            return
        if joined.key is None:
            say(f"{joined.name} is here, {len(self.roster.members)} of {self.roster.wanted}")
        welcome = {
            "index": joined.index,
            "of": self.roster.wanted,
            "first": self._first_free,
            "manifest": self.manifest.model_dump_json(),
            "places": self.places,
            "digests": {name: digest_of(place) for name, place in self.places.items()},
            "folder": None if joined.key is None else str(self.folder.resolve()),
            "boot_id": boot_id(),
        }
        self._send(joined, "welcome", welcome)

    def _on_ping(self, member: Member, data: Any) -> None:
        self._send(member, "pong", {"sent_ns": data["sent_ns"], "at_ns": monotonic_ns()})

    def _on_ready(self, member: Member, data: Any) -> None:
        member.clock, member.ready, member.seen_ns = data["clock"], True, monotonic_ns()

    def _on_beat(self, member: Member, data: Any) -> None:
        if member.lost is not None and member.finished is None:
            self._send(member, "lost", {"reason": member.lost})
            return
        member.seen_ns = monotonic_ns()
        self._send(member, "echo", data)

    def _on_letter(self, member: Member, data: Any) -> None:
        if member.lost is None:
            self.reception.read(member.index, data["target"], data["letter"])

    def _on_progress(self, member: Member, data: Any) -> None:
        member.progress = data

    def _on_part(self, member: Member, part: Any) -> None:
        if self._accounting:  # the rows that it might bring have been written off: its worker keeps them
            return
        self._receiving += 1
        gevent.spawn(self._publish, member, part)

    def _publish(self, member: Member, part: Any) -> None:
        """In a thread: writing durably takes a while, and beats must be answered meanwhile."""
        try:
            name = gevent.get_hub().threadpool.apply(receive, (self.folder, member.index, part))
        except (OSError, HeadroomError) as error:
            self._fail(HeadroomError(f"the record could not be written: {error}"))
        else:
            self._send(member, "arrived", {"name": name})
        finally:
            self._receiving -= 1

    def _on_notes(self, _: Member, data: Any) -> None:
        with (self.folder / "notes.jsonl").open("a") as file:
            file.write(data["lines"])

    def _on_failed(self, member: Member, data: Any) -> None:
        kind = ConfigError if data["exit_code"] == ConfigError.exit_code else HeadroomError
        text = data["text"] if member.key is not None else f"{member.name}: {data['text']}"
        member.lost = data["text"]
        self._send(member, "bye", None)
        self._fail(kind(text))

    def _fail(self, error: HeadroomError) -> None:
        self._failure = self._failure or error
        if self.roster.started:
            self.stop(str(error))

    def _on_finished(self, member: Member, data: Any) -> None:
        if member.lost is not None:
            return
        member.finished = data
        self.reception.clear_places(member.index)
        if data["reason"] is not None and not self._stops:  # nobody here has asked it to end
            self._lose(member, data["reason"])

    # The end.

    def _dismiss(self) -> None:
        """All that is to be recorded is on disk, or its worker is gone."""
        for member in self.roster.members:
            self._send(member, "bye", None)
        lost = [member.key for member in self.roster.members if member.lost is not None]
        # Before the load nothing is recorded, and who has not called yet hears of no end.
        self.children.end(OWN_END_S, lost if self.roster.started else self.children.keys)
        self._accounting = True
        self._until(lambda: self._receiving == 0, OWN_END_S)

    def _conclude(self) -> None:
        planned = sum(self._account(member) for member in self.roster.members)
        planned += self.player.tally.planned  # those dropped here
        pipe = RecorderPipe(self.folder, MASTER, gevent.os.nb_write)
        self.player.tally.flush(pipe)
        pipe.close()
        if self._failure is not None:
            raise self._failure
        self.voice.say("progress", **self._progress())
        self.voice.say(
            "finished",
            planned=planned,
            reason=self._stop_reason,
            cause=self._stop_cause,
            budget=budget_use(self.player),
            workers=[self._health(member) for member in self.roster.members],
            degraded=self._degraded,
        )

    def _account(self, member: Member) -> int:
        """How many arrivals came due at that worker, by its own count or its rows; drops those nobody can account for.

        Whether they were sent is not known, so nobody sends them again.
        """
        if member.finished is not None and member.lost is None:
            return int(member.finished["planned"])
        seqs = recorded_seqs(self.folder, member.index)
        self.player.worker = member.index
        for arrival in self.dealer.unaccounted(
            member.index, seqs, self._stop_ns and self._stop_ns - self.player.start_ns
        ):
            self.player.drop(arrival, "worker_lost")
        return len(seqs)

    def _health(self, member: Member) -> dict[str, Any]:
        told = member.finished["workers"][0] if member.finished is not None else asdict(WorkerHealth())
        return told | {"host": member.host, "pid": member.pid, **member.clock}


def say(line: str) -> None:
    """To whoever looks on: what is no line of JSON is passed on to them."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
