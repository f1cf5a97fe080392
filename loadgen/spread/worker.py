"""One worker of a load: `python -m loadgen.spread.worker --connect HOST:PORT [--out DIR] [--child KEY]`.

It plays the share that its master deals. A child of the master writes into the run folder; one elsewhere keeps its part
of the record in a folder of its own, and ships it. It sends nothing without a lease: for 2.5 s after a beat that the
master has answered.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
from gevent.queue import Empty, Queue
from locust.env import Environment  # first: it patches the process for gevent
from locust.runners import CONNECT_RETRY_COUNT, CONNECT_TIMEOUT

from loadgen.config import RunConfig
from loadgen.errors import ConfigError, HeadroomError
from loadgen.guards import StopCause
from loadgen.load import Load, raise_limits
from loadgen.quota import pacing
from loadgen.samples import Manifest, create
from loadgen.schedule import Arrival
from loadgen.spread.channel import VERSIONS, boot_id, hear, place_of
from loadgen.spread.dealing import Share, unpacked
from loadgen.spread.distant import DistantBudget, DistantThrottle
from loadgen.spread.roster import BEAT_S, GIVE_UP_NS, LEASE_NS, SET_UP_NS, clock_of, own_ns
from loadgen.spread.shipping import Shipper
from loadgen.watches import watch_parent

PINGS = 10
ANSWER_S = 30.0  # for the master's answer to a greeting
SHIP_S = 0.25
LAST_SHIPMENT_S = 30.0
BYE_S = 5.0
INTERRUPTED = 105


class Refused(HeadroomError):  # noqa: N818 - the master has refused; nothing failed
    """The master does not want this worker."""

    exit_code = 2


class MasterLost(HeadroomError):  # noqa: N818 - it says what happened
    """The master does not answer any more."""


class Worker:
    """One worker, from its greeting to its end."""

    def __init__(self, host: str, port: int, *, key: str | None, out: Path | None) -> None:
        self._key, self._out = key, out
        self._inbox: Queue[tuple[str, Any]] = Queue()  # what is waited for
        self._dealt: Queue[Any] = Queue()
        self._gates: dict[int, DistantThrottle] = {}  # by target
        self._shipper: Shipper | None = None
        self._load: Load | None = None
        self._folder = Path()
        self._answered_ns = monotonic_ns()  # when the last beat left that was answered
        self._offset_ns = 0  # what the master's clock shows more than this one
        self._given_up: HeadroomError | None = None
        self._stopped = False
        self._noted = 0  # bytes of the notes that the master has
        self.environment = Environment()
        self.runner = self.environment.create_worker_runner(host, port)
        kept = {name: self._keep(name) for name in ("welcome", "refused", "pong", "start", "bye")}
        hear(
            self.runner,
            kept
            | {
                "deal": lambda _, columns: self._dealt.put(columns),
                "echo": self._on_echo,
                "granted": self._on_granted,
                "arrived": self._on_arrived,
                "stop": lambda _, data: self.stop(data["reason"]),
                "halt": self._on_halt,
                "lost": self._on_lost,
            },
        )

    def run(self) -> int:
        """The exit code. Raises HeadroomError."""
        if self._key is not None:
            gevent.spawn(watch_parent, self.stop)
        greeting = {"versions": VERSIONS, "host": socket.gethostname(), "pid": os.getpid(), "key": self._key}
        self._send("hello", greeting)
        kind, welcome = self._receive("welcome", "refused", patience_s=ANSWER_S)
        if kind == "refused":
            raise Refused(f"the master refused this worker: {welcome['reason']}")
        keepers = [gevent.spawn(self._beat)]
        try:
            load = self._load = self._prepare(welcome)
            self._send("ready", {"clock": self._compare_clocks(welcome["boot_id"])})
        except HeadroomError as error:
            self._report(error)
            self._leave_nothing()
            raise
        keepers += [gevent.spawn(gate.run) for gate in self._gates.values()]
        try:
            _, start = self._receive("start", patience_s=None)
        except HeadroomError:
            self._leave_nothing()
            raise
        self._play(load, own_ns(start["start_ns"], self._offset_ns))
        with suppress(MasterLost):
            self._receive("bye", patience_s=ANSWER_S)
        gevent.killall(keepers)
        return self._end()

    def stop(self, reason: str) -> None:
        """Once: no more arrivals, a short wait for the answers. Twice: no wait."""
        self._stopped = True
        if self._load is not None and self._load.playing:
            self._load.stop(reason)
        else:
            self._given_up = self._given_up or MasterLost(reason)

    # Before the load.

    def _prepare(self, welcome: dict[str, Any]) -> Load:
        manifest = Manifest.model_validate_json(welcome["manifest"])
        for name, digest in welcome["digests"].items():
            check_same(name, welcome["places"][name], digest)
        self._folder = Path(welcome["folder"]) if welcome["folder"] is not None else self._own_folder(manifest)
        config = RunConfig.model_validate(manifest.config)
        load = Load(
            self._folder,
            manifest,
            welcome["places"],
            runner=self.runner,
            voice=self,
            share=Share(welcome["index"], welcome["of"], welcome["first"]),
            arrivals=self._arrivals() if config.load.open_loop else None,
        )
        self._connect_gates(load)
        return load

    def _connect_gates(self, load: Load) -> None:
        """From now on the master gives quota and budget, and hears what this worker's answers say of the run."""
        player = load.player
        kept = player.guards.budget is not None
        budget = player.guards.budget = DistantBudget() if kept else None
        for place, lane in enumerate(player.lanes):
            if lane.throttle is None and not kept:
                continue
            limiter = None if lane.throttle is None else pacing(lane.quota)
            gate = DistantThrottle(limiter, player.alarm, partial(self._write_letter, place), budget)
            self._gates[place] = gate
            lane.admit_elsewhere(gate)

        def halt(reason: str, cause: StopCause) -> None:
            self._send("halt", {"reason": reason, "cause": cause.value})
            load.halt(reason, cause)

        player.guards.halt = halt

    def _own_folder(self, manifest: Manifest) -> Path:
        stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
        folder = self._out or Path("runs") / f"worker-{stamp}-{os.getpid()}"
        create(folder, manifest)
        self._shipper = Shipper(folder, lambda part: self._send("part", part))
        return folder

    def _compare_clocks(self, boot: str | None) -> dict[str, int]:
        """By how much the master's clock is ahead, and within what bounds that is known; one host has one clock."""
        if boot is not None and boot == boot_id():
            return {"offset_ns": 0, "uncertainty_ns": 0}
        trips = []
        for _ in range(PINGS):
            self._send("ping", {"sent_ns": monotonic_ns()})
            _, pong = self._receive("pong", patience_s=ANSWER_S)
            trips.append((pong["sent_ns"], pong["at_ns"], monotonic_ns()))
        clock = clock_of(trips)
        self._offset_ns = clock["offset_ns"]
        return clock

    # The load.

    def _play(self, load: Load, start_ns: int) -> None:
        for gate in self._gates.values():
            gate.start_ns = start_ns
        if self._shipper is not None:
            manifest = Manifest.read(self._folder)
            manifest.model_copy(update={"monotonic_start_ns": start_ns}).write(self._folder)
            gevent.spawn(self._ship)
        self._extend_lease()
        try:
            load.run(start_ns)
        except HeadroomError as error:
            self._report(error)
            raise

    def _report(self, error: HeadroomError) -> None:
        """Tell the master, and stay until it knows."""
        self._send("failed", {"text": str(error), "exit_code": error.exit_code})
        with suppress(MasterLost):
            self._receive("bye", patience_s=BYE_S)

    def _arrivals(self) -> Iterator[Arrival]:
        """As they are dealt; the last message is empty."""
        while (columns := self._dealt.get()) is not None:
            yield from unpacked(columns)

    def say(self, event: str, **values: Any) -> None:
        """What the load tells of itself goes to the master; its end only when all rows are there."""
        if event == "finished":
            self._ship_all()
        if event == "progress" and self._load is not None:
            values["outcomes"] = dict(self._load.player.tally.outcomes)
        if event != "started":
            self._send(event, values)

    def _beat(self) -> None:
        """Ask for the lease, and see that it is not long gone."""
        while True:
            now_ns = monotonic_ns()
            self._send("beat", {"sent_ns": now_ns})
            patience_ns = GIVE_UP_NS if self._load is not None and self._load.playing else SET_UP_NS
            if now_ns - self._answered_ns > patience_ns and self._given_up is None:
                self._give_up(f"the master has not answered for {(now_ns - self._answered_ns) / 1e9:.1f} s")
            gevent.sleep(BEAT_S)

    def _give_up(self, reason: str) -> None:
        """Stop for good."""
        self._given_up = self._given_up or MasterLost(f"{reason}: this worker has stopped")
        if self._load is not None and self._load.playing:
            self._load.stop(reason)

    def _extend_lease(self) -> None:
        for lane in () if self._load is None else self._load.player.lanes:
            lane.endpoint.send_until_ns = self._answered_ns + LEASE_NS

    def _ship(self) -> None:
        while True:
            gevent.sleep(SHIP_S)
            self._ship_now()

    def _ship_now(self) -> int:
        assert self._shipper is not None
        with (self._folder / "notes.jsonl").open() as notes:
            notes.seek(self._noted)
            lines = notes.read()
            self._noted = notes.tell()
        if lines:
            self._send("notes", {"lines": lines})
        return self._shipper.ship()

    def _ship_all(self) -> None:
        give_up_ns = monotonic_ns() + round(LAST_SHIPMENT_S * 1e9)
        while self._shipper is not None and self._given_up is None and self._ship_now():
            if monotonic_ns() > give_up_ns:
                return
            gevent.sleep(0.02)

    def _end(self) -> int:
        kept = self._shipper is not None and any((self._folder / "parts").iterdir())
        if self._given_up is not None or kept:
            left = f"; what the master has not got is in {self._folder}" if kept else ""
            raise MasterLost(f"{self._given_up or 'the master took no more of the record'}{left}")
        self._leave_nothing()  # all of it is with the master
        return INTERRUPTED if self._stopped else 0

    def _leave_nothing(self) -> None:
        """Of the folder of its own."""
        if self._shipper is not None:
            shutil.rmtree(self._folder)

    # Messages.

    def _send(self, name: str, data: Any) -> None:
        self.runner.send_message(f"headroom.{name}", data)

    def _write_letter(self, target: int, letter: dict[str, Any]) -> None:
        self._send("desk", {"target": target, "letter": letter})

    def _receive(self, *names: str, patience_s: float | None) -> tuple[str, Any]:
        """The next message of these names. Raises MasterLost."""
        give_up_ns = None if patience_s is None else monotonic_ns() + round(patience_s * 1e9)
        while self._given_up is None:
            with suppress(Empty):
                name, data = self._inbox.get(timeout=0.1)
                if name in names:
                    return name, data
                if name == "bye":
                    raise MasterLost("the master has ended the run before it began")
            if give_up_ns is not None and monotonic_ns() > give_up_ns:
                raise MasterLost(f"the master has not answered for {patience_s:g} s")
        raise self._given_up

    def _keep(self, name: str) -> Callable[[str, Any], None]:
        return lambda _, data: self._inbox.put((name, data))

    def _on_echo(self, _: str, data: Any) -> None:
        self._answered_ns = max(self._answered_ns, data["sent_ns"])
        self._extend_lease()

    def _on_granted(self, _: str, data: Any) -> None:
        self._gates[data["target"]].answer(data["numbers"])

    def _on_arrived(self, _: str, data: Any) -> None:
        if self._shipper is not None:
            self._shipper.arrived(data["name"])

    def _on_halt(self, _: str, data: Any) -> None:
        if self._load is not None and self._load.playing:
            self._load.halt(data["reason"], StopCause(data["cause"]))

    def _on_lost(self, _: str, data: Any) -> None:
        self._give_up(f"the master counts this worker as lost ({data['reason']})")


def check_same(name: str, place: str, digest: str | None) -> None:
    """Raise ConfigError if a scenario's own file is not here as the master has it."""
    if digest is None:
        return
    path = Path(place.rpartition(":")[0])
    if not path.exists():
        raise ConfigError(f"scenario {name}: {path} is not on {socket.gethostname()}; copy it there, to the same path")
    if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise ConfigError(f"scenario {name}: {path} on {socket.gethostname()} differs from the master's; copy it there")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="headroom worker", description=__doc__)
    parser.add_argument("--connect", required=True, metavar="HOST[:PORT]")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", metavar="KEY")
    asked = parser.parse_args(arguments)
    raise_limits()
    try:
        host, port = place_of(asked.connect)
        signals = (signal.SIGINT, signal.SIGTERM)
        waiting = {number: gevent.signal_handler(number, os._exit, INTERRUPTED) for number in signals}
        if asked.child is None:
            patience_min = CONNECT_TIMEOUT * (CONNECT_RETRY_COUNT + 1) / 60
            sys.stderr.write(f"waiting for a master at {host}:{port}, {patience_min:.0f} minutes at most\n")
        try:
            worker = Worker(host, port, key=asked.child, out=asked.out)
        except ConnectionError:
            raise MasterLost(f"no master has answered at {host}:{port}") from None
        for number, handler in waiting.items():  # it has met its master: there is something to end
            handler.cancel()
            gevent.signal_handler(number, worker.stop, "stopped by hand")
        code = worker.run()
    except HeadroomError as error:
        sys.stderr.write(f"{error}\n")
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # Locust's greenlets and sockets have nothing left to say


if __name__ == "__main__":
    main(sys.argv[1:])
