"""Autoscaling over a demand by Azure Monitor-like rules, those of loadgen.simulator.autoscale, instance by instance.

As documented for managed online endpoints: 429 at once where more than 2 x the concurrency of an instance x the ready
instances would be in flight; an instance serves after its boot, and is billed from its allocation. One that is taken
away finishes what it has. As decided for the simulated deployment: first those that boot are taken away, then those
with the least to do, of equals the youngest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.simulator.autoscale import GRAIN_S, WINDOW_S, Autoscaler, Meter, ScaleEvent, parse_rule
from loadgen.slo import Slo
from planner.fleets.attainment import Attainment, Outcomes, attainment
from planner.fleets.sharing import Routing, ServiceCurve, SharingFleet, SharingInstance, Work

NS_PER_S = 1e9
MOST_ROWS = 1_440  # of a timeline: the minutes of a day


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePolicy:
    """A profile of Azure Monitor: bounds, where it starts, and rules as `headroom simulate --scale-rule` takes them."""

    min_instances: int
    max_instances: int
    start_instances: int
    rules: tuple[str, ...]
    boot_s: float
    places_per_instance: int  # max_concurrent_requests_per_instance
    grain_s: float = GRAIN_S
    window_s: float = WINDOW_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """One change of the number of instances."""

    at_s: float
    before: int
    after: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetAt:
    """The fleet at the end of a stretch of the timeline."""

    at_s: float
    ready: int
    billed: int  # ready, booting or finishing what they have
    in_flight: int
    refused: int  # in the stretch


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoscaleResult:
    """What the rules did over the demand."""

    rules: tuple[str, ...]
    min_instances: int
    max_instances: int
    start_instances: int
    boot_s: float
    span_s: float  # of the demand that was played: its busiest stretch, where it is very long
    requests: int
    refused: int  # 429: too many pending
    refused_share: float
    attainment: Attainment  # refused requests keep no limit; its minutes_missed are the minutes in violation
    events: tuple[Scaling, ...]
    most_instances: int  # billed at once
    instance_hours: float  # billed, from allocation (boot included) to removal or the end of the demand
    mean_instances: float
    timeline: tuple[FleetAt, ...]


@dataclass(slots=True, eq=False)
class _Machine:
    allocated_s: float
    ready_s: float
    instance: SharingInstance | None = None  # once it has booted
    metered_s: float = 0.0
    metered_busy_s: float = 0.0
    draining: bool = False
    last_s: float = 0.0  # when it last had something to do, or was taken away


class ScaledFleet:
    """A SharingFleet that boots, drains and is billed. Instants must not decrease."""

    def __init__(self, curve: ServiceCurve, work: Work, policy: ScalePolicy, *, routing: Routing, seed: int) -> None:
        self.sharing = SharingFleet(curve, work, routing=routing, seed=seed)
        self.events: list[ScaleEvent] = []
        self.refused = 0
        self.most = 0
        self.next_s = policy.grain_s  # the next boot or end of a grain
        self._policy, self._work = policy, work
        self._meter = Meter()
        least, most = policy.min_instances, policy.max_instances
        self._autoscaler = Autoscaler(
            [parse_rule(rule) for rule in policy.rules],
            min_instances=least,
            max_instances=most,
            window_grains=round(policy.window_s / policy.grain_s),
        )
        self._grain_s = policy.grain_s
        self._machines: list[_Machine] = []
        self._removed_s = 0.0  # billed of those that are gone
        self.sharing.ended = self._end
        self._allocate(policy.start_instances, 0.0, 0.0)
        self._boot(0.0)

    @property
    def allocated(self) -> int:
        return len(self._machines)

    def billed_s(self, now_s: float) -> float:
        """Instance-seconds from each allocation to its removal or now."""
        self._retire()
        return self._removed_s + sum(now_s - machine.allocated_s for machine in self._machines)

    def arrive(self, now_s: float, row: int) -> None:
        """Everything due before `now_s` has been done."""
        sharing = self.sharing
        sharing.run(now_s)
        self._meter.arrived += 1
        if sharing.in_flight >= 2 * self._policy.places_per_instance * len(sharing.ready):
            self.refused += 1
            return
        self._meter.begin(round(now_s * NS_PER_S))
        sharing.offer(now_s, row)

    def act(self) -> None:
        """Whatever is due at `next_s`."""
        now_s = self.next_s
        self.sharing.run(now_s)
        self._retire()
        if any(machine.instance is None and machine.ready_s <= now_s for machine in self._machines):
            self._boot(now_s)
        if self._grain_s <= now_s:
            self._grain_s += self._policy.grain_s
            self._decide(now_s)
        boots = (machine.ready_s for machine in self._machines if machine.instance is None)
        self.next_s = min(self._grain_s, min(boots, default=math.inf))

    def _decide(self, now_s: float) -> None:
        for machine in self._machines:
            self._meter_up(machine, now_s)
        now_ns = round(now_s * NS_PER_S)
        staying = sum(not machine.draining for machine in self._machines)
        event = self._autoscaler.decide(now_ns, staying, self._meter.close_grain(now_ns))
        if event is None:
            return
        self.events.append(event)
        if event.after > event.before:
            self._allocate(event.after - event.before, now_s, now_s + self._policy.boot_s)
            if self._policy.boot_s == 0:
                self._boot(now_s)
        else:
            self._take_away(event.before - event.after, now_s)

    def _end(self, row: int) -> None:
        served = self.sharing.served
        self._meter.end(round(self._work.at_s[row] * NS_PER_S), round(served.done_s[row] * NS_PER_S))

    def _meter_up(self, machine: _Machine, now_s: float) -> None:
        if machine.instance is None or machine.draining:
            return
        busy_s = machine.instance.running_s(now_s)
        self._meter.busy_ns += round((busy_s - machine.metered_busy_s) * NS_PER_S)
        self._meter.places_ns += round(self._policy.places_per_instance * (now_s - machine.metered_s) * NS_PER_S)
        machine.metered_s, machine.metered_busy_s = now_s, busy_s

    def _allocate(self, count: int, now_s: float, ready_s: float) -> None:
        self._machines += [_Machine(now_s, ready_s, metered_s=ready_s) for _ in range(count)]
        self.most = max(self.most, len(self._machines))

    def _boot(self, now_s: float) -> None:
        for machine in self._machines:
            if machine.instance is None and machine.ready_s <= now_s:
                machine.instance = self.sharing.add(1, now_s)[0]

    def _take_away(self, count: int, now_s: float) -> None:
        staying = [(number, machine) for number, machine in enumerate(self._machines) if not machine.draining]
        staying.sort(key=lambda each: (-1 if each[1].instance is None else each[1].instance.held, -each[0]))
        for _, machine in staying[:count]:
            if machine.instance is None:
                self._remove(machine, now_s)
            else:
                self._meter_up(machine, now_s)
                machine.draining, machine.last_s = True, now_s
        self._use()
        self._retire()

    def _retire(self) -> None:
        """Remove what has drained, billed until it had."""
        drained = [machine for machine in self._machines if machine.draining and not self._held(machine)]
        for machine in drained:
            instance = machine.instance
            assert instance is not None
            self._remove(machine, max(machine.last_s, instance.changed_s))
        if drained:
            self._use()

    def _held(self, machine: _Machine) -> int:
        return 0 if machine.instance is None else machine.instance.held

    def _remove(self, machine: _Machine, at_s: float) -> None:
        self._machines.remove(machine)
        self._removed_s += at_s - machine.allocated_s

    def _use(self) -> None:
        booted = [(machine.draining, machine.instance) for machine in self._machines if machine.instance is not None]
        self.sharing.use([one for draining, one in booted if not draining], [one for _, one in booted])


def autoscale(
    work: Work,
    curve: ServiceCurve,
    policy: ScalePolicy,
    slos: Sequence[Slo],
    *,
    span_s: float,
    routing: Routing = Routing.LEAST_LOADED,
    gap_spread: float = 1.0,
    seed: int = 1,
) -> AutoscaleResult:
    """Send the work to a fleet that the rules scale; bill it until `span_s`. Raises ConfigError for a rule amiss."""
    fleet = ScaledFleet(curve, work, policy, routing=routing, seed=seed)
    timeline = _play(fleet, work, policy, span_s)
    billed_s = fleet.billed_s(span_s)
    fleet.sharing.run(math.inf)
    requests = len(work.at_s)
    return AutoscaleResult(
        rules=policy.rules,
        min_instances=policy.min_instances,
        max_instances=policy.max_instances,
        start_instances=policy.start_instances,
        boot_s=policy.boot_s,
        span_s=span_s,
        requests=requests,
        refused=fleet.refused,
        refused_share=fleet.refused / requests if requests else 0.0,
        attainment=attainment(Outcomes(work, fleet.sharing.served, gap_spread=gap_spread), slos),
        events=tuple(
            Scaling(at_s=event.at_ns / NS_PER_S, before=event.before, after=event.after, why=event.why)
            for event in fleet.events
        ),
        most_instances=fleet.most,
        instance_hours=billed_s / 3_600,
        mean_instances=billed_s / span_s if span_s else float(policy.start_instances),
        timeline=timeline,
    )


def _play(fleet: ScaledFleet, work: Work, policy: ScalePolicy, span_s: float) -> tuple[FleetAt, ...]:
    """To the end of the span; a row of the timeline a grain, or for each so many grains that MOST_ROWS are enough."""
    every_s = policy.grain_s * max(1, math.ceil(span_s / policy.grain_s / MOST_ROWS))
    rows: list[FleetAt] = []
    refused = 0

    def act_until(until_s: float) -> None:
        nonlocal refused
        while fleet.next_s <= until_s:
            at_s = fleet.next_s
            fleet.act()
            if at_s >= (len(rows) + 1) * every_s:
                in_flight, ready = fleet.sharing.in_flight, len(fleet.sharing.ready)
                now_refused = fleet.refused - refused
                rows.append(
                    FleetAt(at_s=at_s, ready=ready, billed=fleet.allocated, in_flight=in_flight, refused=now_refused)
                )
                refused = fleet.refused

    for row, at_s in enumerate(work.at_s):
        if fleet.next_s <= at_s:
            act_until(at_s)
        fleet.arrive(at_s, row)
    act_until(span_s)
    fleet.sharing.run(span_s)
    return tuple(rows)
