"""The machines behind an endpoint: allocated, booting, ready, draining, gone; and what they are billed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from loadgen.errors import ConfigError
from loadgen.simulator.autoscale import Meter
from loadgen.simulator.batching import BatchingModel, Instance, Sequence
from loadgen.simulator.units import NEVER_NS


class MachineState(StrEnum):
    BOOTING = "booting"
    READY = "ready"
    DRAINING = "draining"  # finishes what it has, takes nothing new, and is then removed


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """One instance as a list of them shows it."""

    number: int
    state: MachineState
    running: int
    queued: int
    billed_ns: int  # from its allocation until now, its boot included


@dataclass(slots=True, eq=False)
class Machine:
    """One allocated instance."""

    instance: Instance
    allocated_ns: int
    ready_ns: int
    state: MachineState
    metered_ns: int = 0  # its busy time is in the meter up to here,
    metered_busy_ns: int = 0  # where the instance's own integral had this value


class Fleet:
    """Starts with `count` machines ready. `ready` and `serving` (ready or draining) are the instances in use."""

    def __init__(self, model: BatchingModel, count: int, boot_ns: int, meter: Meter, now_ns: int = 0) -> None:
        self.ready: list[Instance] = []
        self.serving: list[Instance] = []
        self.next_boot_ns = NEVER_NS
        self.draining = 0
        self._model, self._boot_ns, self._meter = model, boot_ns, meter
        self._machines: dict[int, Machine] = {}
        self._allocated = 0
        self._removed_billed_ns = 0
        self._allocate(count, now_ns, now_ns)
        self.boot(now_ns)

    @property
    def staying(self) -> int:
        """Machines that are ready or will be."""
        return len(self._machines) - self.draining

    def instance(self, number: int) -> Instance:
        """Raises ConfigError naming those there are."""
        return self._machine(number).instance

    def views(self, now_ns: int) -> list[InstanceView]:
        return [
            InstanceView(
                number=number,
                state=machine.state,
                running=machine.instance.running,
                queued=machine.instance.queued,
                billed_ns=now_ns - machine.allocated_ns,
            )
            for number, machine in self._machines.items()
        ]

    def billed_ns(self, now_ns: int) -> int:
        """Instance-ns from each allocation to its removal or now."""
        allocated = sum(now_ns - machine.allocated_ns for machine in self._machines.values())
        return self._removed_billed_ns + allocated

    def boot(self, now_ns: int) -> None:
        """Those whose boot is over are ready."""
        for machine in self._machines.values():
            if machine.state is MachineState.BOOTING and machine.ready_ns <= now_ns:
                machine.state = MachineState.READY
                machine.metered_ns, machine.metered_busy_ns = machine.ready_ns, 0
        self._sort_out()

    def grow(self, now_ns: int, count: int) -> None:
        self._allocate(count, now_ns, now_ns + self._boot_ns)
        self._sort_out()

    def shrink(self, now_ns: int, count: int) -> None:
        """First those that boot, then those with the least to do; of equals the youngest."""
        staying = [number for number, machine in self._machines.items() if machine.state is not MachineState.DRAINING]
        staying.sort(key=lambda number: (self._idle_rank(number), -number))
        for number in staying[:count]:
            machine = self._machines[number]
            if machine.state is MachineState.READY:
                self._meter_up(machine, now_ns)
                machine.state = MachineState.DRAINING
            else:
                self._remove(number, now_ns)
        self._sort_out()
        self.retire(now_ns)

    def kill(self, now_ns: int, number: int) -> list[Sequence]:
        """What it held, failed. It boots again; one that was draining is gone. Raises ConfigError."""
        machine = self._machine(number)
        lost = machine.instance.kill(now_ns)
        if machine.state is MachineState.DRAINING:
            self._remove(number, now_ns)
        else:
            if machine.state is MachineState.READY:
                self._meter_up(machine, now_ns)
            machine.instance = Instance(self._model, number, now_ns)
            machine.state, machine.ready_ns = MachineState.BOOTING, now_ns + self._boot_ns
        self._sort_out()
        return lost

    def retire(self, now_ns: int) -> None:
        """Remove what has drained, at the instant at which it had."""
        for number, machine in list(self._machines.items()):
            idle_ns = machine.instance.idle_since_ns
            if machine.state is MachineState.DRAINING and idle_ns is not None:
                drained_ns = max(idle_ns, machine.metered_ns)
                assert drained_ns <= now_ns
                self._remove(number, drained_ns)
        self._sort_out()

    def meter_up(self, now_ns: int) -> None:
        """Bring the meter up to now."""
        for machine in self._machines.values():
            if machine.state is MachineState.READY:
                self._meter_up(machine, now_ns)

    def _meter_up(self, machine: Machine, now_ns: int) -> None:
        busy_ns = machine.instance.running_ns(now_ns)
        self._meter.busy_ns += busy_ns - machine.metered_busy_ns
        self._meter.places_ns += self._model.max_running * (now_ns - machine.metered_ns)
        machine.metered_ns, machine.metered_busy_ns = now_ns, busy_ns

    def _idle_rank(self, number: int) -> int:
        machine = self._machines[number]
        return -1 if machine.state is MachineState.BOOTING else machine.instance.held

    def _machine(self, number: int) -> Machine:
        machine = self._machines.get(number)
        if machine is None:
            there = ", ".join(map(str, self._machines))
            raise ConfigError(f"there is no instance {number}; there are {there or 'none'}")
        return machine

    def _allocate(self, count: int, now_ns: int, ready_ns: int) -> None:
        for _ in range(count):
            instance = Instance(self._model, self._allocated, now_ns)
            self._machines[self._allocated] = Machine(instance, now_ns, ready_ns, MachineState.BOOTING)
            self._allocated += 1

    def _remove(self, number: int, at_ns: int) -> None:
        self._removed_billed_ns += at_ns - self._machines.pop(number).allocated_ns

    def _sort_out(self) -> None:
        machines = self._machines.values()
        self.ready = [one.instance for one in machines if one.state is MachineState.READY]
        self.serving = [one.instance for one in machines if one.state is not MachineState.BOOTING]
        self.draining = len(self.serving) - len(self.ready)
        boots = (one.ready_ns for one in machines if one.state is MachineState.BOOTING)
        self.next_boot_ns = min(boots, default=NEVER_NS)
