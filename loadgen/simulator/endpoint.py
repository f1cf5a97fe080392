"""A managed online endpoint over its instances, with time as an argument: whom it admits, where to, and what fails.

The limits and their defaults are those documented for Azure Machine Learning's managed online endpoints: 429 at once
when more than 2 x `max_concurrent_per_instance` x instances requests would be in flight, 429 above 500 requests a
second, 408 after `request_timeout_ms`, 424 when the container fails; traffic above the bandwidth is delayed. An
instance works on `max_concurrent_per_instance` requests at most, and on no more than its model runs.

Decided here, as it is not documented: a request waits in the queue of the instance that it was given to, and stays with
it; only ready instances count for the limit in flight; the requests a second are those of any second, without the ones
refused for their rate; a stream is not cut by 408 once its first token has left; a request that no instance could ever
hold is answered 400.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace
from enum import StrEnum
from operator import attrgetter

from loadgen.simulator.autoscale import GRAIN_S, WINDOW_S, Autoscaler, Meter, ScaleEvent, ScaleRule
from loadgen.simulator.batching import BatchingModel, Instance, Outcome, Sequence
from loadgen.simulator.fleet import Fleet, InstanceView
from loadgen.simulator.units import NEVER_NS, NS_PER_MS, NS_PER_S


class Routing(StrEnum):
    """Which ready instance gets a request."""

    LEAST_LOADED = "least_loaded"  # the fewest running and queued; of equals the oldest
    ROUND_ROBIN = "round_robin"


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSettings:
    """Raises ValueError naming the field that cannot be used. None for a bound of the profile: `instances`."""

    instances: int = 1
    max_concurrent_per_instance: int = 1
    request_timeout_ms: float = 5_000.0
    requests_per_second: int = 500
    bandwidth_bytes_per_s: int = 5_000_000
    routing: Routing = Routing.LEAST_LOADED
    boot_s: float = 900.0  # not documented; probes of catalogue models wait 1,000 s
    rules: tuple[ScaleRule, ...] = ()
    grain_s: float = GRAIN_S  # the rules look at the averages of so many seconds
    window_s: float = WINDOW_S  # and of them at so many; a multiple of the grain
    min_instances: int | None = None
    max_instances: int | None = None

    def __post_init__(self) -> None:
        for name in ("instances", "max_concurrent_per_instance", "requests_per_second", "bandwidth_bytes_per_s"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 < self.request_timeout_ms < math.inf:
            raise ValueError(f"request_timeout_ms must be above zero, not {self.request_timeout_ms}")
        if not 0 <= self.boot_s < math.inf:
            raise ValueError(f"boot_s must be zero or above, not {self.boot_s}")
        if not 0.001 <= self.grain_s < math.inf:
            raise ValueError(f"grain_s must be at least 0.001, not {self.grain_s}")
        if not self.grain_s <= self.window_s < math.inf or not math.isclose(
            self.window_grains * self.grain_s, self.window_s
        ):
            raise ValueError(f"window_s must be a multiple of grain_s ({self.grain_s:g}), not {self.window_s:g}")
        least, most = self.bounds
        if least < 1:
            raise ValueError(f"min_instances must be at least 1, not {least}")
        if least > most:
            raise ValueError(f"min_instances ({least}) must not be above max_instances ({most})")
        if not 0 < least <= self.instances <= most:
            raise ValueError(f"instances must lie within min_instances and max_instances: {self.instances}")

    @property
    def window_grains(self) -> int:
        return round(self.window_s / self.grain_s)

    @property
    def bounds(self) -> tuple[int, int]:
        least = self.instances if self.min_instances is None else self.min_instances
        return least, self.instances if self.max_instances is None else self.max_instances


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that was not admitted: its HTTP status and why."""

    status: int
    reason: str


TOO_FAST = Refused(429, "rate-limited")
TOO_MANY = Refused(429, "too many pending requests")
NOBODY_READY = Refused(503, "no instance is ready")
TOO_LONG = Refused(400, "prompt and completion exceed what an instance can hold")


class Endpoint:
    """Instants must not decrease. Each call processes what was due before it; `advance` reports it."""

    def __init__(self, model: BatchingModel, settings: EndpointSettings, now_ns: int = 0) -> None:
        self.settings = settings
        self.model = replace(model, max_running=min(model.max_running, settings.max_concurrent_per_instance))
        self.in_flight = 0
        self.scale_events: list[ScaleEvent] = []
        self._meter = Meter(now_ns)
        boot_ns = round(settings.boot_s * NS_PER_S)
        self._fleet = Fleet(self.model, settings.instances, boot_ns, self._meter, now_ns)
        least, most = settings.bounds
        self._autoscaler = Autoscaler(
            settings.rules, min_instances=least, max_instances=most, window_grains=settings.window_grains
        )
        self._grain_length_ns = round(settings.grain_s * NS_PER_S)
        self._grain_ns = now_ns + self._grain_length_ns if settings.rules else NEVER_NS  # when the grain that runs ends
        self._timeout_ns = round(settings.request_timeout_ms * NS_PER_MS)
        self._waiting: deque[Sequence] = deque()  # in the order of their deadlines; those that ended are dropped late
        self._passed_ns: deque[int] = deque(maxlen=settings.requests_per_second)  # the last requests let through
        self._ended: list[Sequence] = []
        self._turn = 0
        self._pipe_free_ns = now_ns
        self._now_ns = now_ns
        self._due_ns = self._grain_ns  # the next boot, deadline or grain

    def submit(
        self, now_ns: int, prompt_tokens: int, completion_tokens: int, *, streamed: bool = False, number: int = 0
    ) -> Sequence | Refused:
        """Admit a request or refuse it. `number` is the caller's."""
        self._run(now_ns)
        self._meter.arrived += 1
        refused = self._refusal(now_ns, prompt_tokens + completion_tokens)
        if refused is not None:
            return refused
        sequence = Sequence(prompt_tokens, completion_tokens, now_ns, streamed, number)
        self._choose().submit(now_ns, sequence)
        self.in_flight += 1
        self._meter.begin(now_ns)
        waiting = self._waiting
        while waiting and waiting[0].outcome is not None:
            waiting.popleft()
        waiting.append(sequence)
        if len(waiting) == 1:
            self._due_ns = min(self._due_ns, now_ns + self._timeout_ns)
        return sequence

    def next_ns(self) -> int | None:
        """When `advance` has something to do next: the end of an iteration, a deadline, a boot, a grain; or None."""
        if self._ended:
            return self._now_ns
        self._plan_due()
        ends = (end for instance in self._fleet.serving if (end := instance.next_ns()) is not None)
        due_ns = min(self._due_ns, min(ends, default=NEVER_NS))
        return None if due_ns == NEVER_NS else due_ns

    def next_change_ns(self) -> int:
        """As next_ns, without the iterations in which only tokens are added; NEVER_NS for none."""
        self._plan_due()
        changes = (instance.change_ns for instance in self._fleet.serving)
        return min(self._due_ns, min(changes, default=NEVER_NS))

    def advance(self, now_ns: int) -> list[Sequence]:
        """The sequences that ended by now and were not reported yet, in the order of their ends."""
        self._run(now_ns)
        for instance in self._fleet.serving:
            instance.advance(now_ns)
        return self.take_ended()

    def take_ended(self) -> list[Sequence]:
        """Those that ended by the last call's instant. For virtual time: it counts no tokens."""
        ended = self._ended
        if ended:
            self._ended = []
            if len(ended) > 1:
                ended.sort(key=attrgetter("done_ns"))
        return ended

    def leave(self, now_ns: int, sequence: Sequence) -> None:
        """The client is gone; `advance` will not report it. Of no effect on a sequence that has ended."""
        self._run(now_ns)
        if sequence.outcome is None:
            self._fleet.instance(sequence.instance).cancel(now_ns, sequence)
            self._count_end(sequence)

    def kill(self, now_ns: int, number: int) -> None:
        """An instance dies: what it held fails with 424, and it boots again. Raises ConfigError for none such."""
        self._run(now_ns)
        for sequence in self._fleet.kill(now_ns, number):
            self._count_end(sequence)
            self._ended.append(sequence)
        self._plan_due()

    def transfer(self, now_ns: int, n_bytes: int) -> int:
        """Send bytes through the endpoint's pipe, all requests and answers share it; the ns until they are through."""
        begin_ns = max(now_ns, self._pipe_free_ns)
        self._pipe_free_ns = begin_ns - (-n_bytes * NS_PER_S // self.settings.bandwidth_bytes_per_s)
        return self._pipe_free_ns - now_ns

    def instances(self, now_ns: int) -> list[InstanceView]:
        self._run(now_ns)
        return self._fleet.views(now_ns)

    def billed_ns(self, now_ns: int) -> int:
        """Instance-ns of all instances there were, from allocation (boot included) to removal or now."""
        self._run(now_ns)
        return self._fleet.billed_ns(now_ns)

    def _refusal(self, now_ns: int, tokens: int) -> Refused | None:
        passed_ns, settings = self._passed_ns, self.settings
        if len(passed_ns) == settings.requests_per_second and now_ns - passed_ns[0] < NS_PER_S:
            return TOO_FAST
        passed_ns.append(now_ns)
        if tokens > self.model.kv_tokens:
            return TOO_LONG
        ready = len(self._fleet.ready)
        if not ready:
            return NOBODY_READY
        return TOO_MANY if self.in_flight >= 2 * settings.max_concurrent_per_instance * ready else None

    def _choose(self) -> Instance:
        ready = self._fleet.ready
        if self.settings.routing is Routing.LEAST_LOADED:
            return min(ready, key=attrgetter("held"))
        self._turn += 1
        return ready[(self._turn - 1) % len(ready)]

    def _run(self, now_ns: int) -> None:
        """Process everything that is due by now, in its order."""
        assert now_ns >= self._now_ns, "time runs back"
        while (due_ns := self._due_ns) <= now_ns:
            self._work(due_ns)
            self._now_ns = due_ns
            if self._fleet.next_boot_ns <= due_ns:
                self._fleet.boot(due_ns)
            self._expire(due_ns)
            if self._grain_ns <= due_ns:
                self._scale(due_ns)
            self._plan_due()
        self._work(now_ns)
        self._now_ns = now_ns

    def _work(self, now_ns: int) -> None:
        """Let the instances work until now."""
        for instance in self._fleet.serving:
            if instance.change_ns <= now_ns:
                for sequence in instance.advance(now_ns):
                    self._count_end(sequence)
                    self._ended.append(sequence)
        if self._fleet.draining:
            self._fleet.retire(now_ns)

    def _expire(self, now_ns: int) -> None:
        """Answer 408 where the deadline has come."""
        self._drop_settled()
        while self._waiting and self._waiting[0].arrived_ns + self._timeout_ns <= now_ns:
            sequence = self._waiting.popleft()
            if not _settled(sequence):
                instance = self._fleet.instance(sequence.instance)
                instance.cancel(now_ns, sequence, Outcome.TIMED_OUT)
                self._count_end(sequence)
                self._ended.append(sequence)

    def _scale(self, now_ns: int) -> None:
        """The grain is over: let the rules decide."""
        self._fleet.meter_up(now_ns)
        self._grain_ns += self._grain_length_ns
        event = self._autoscaler.decide(now_ns, self._fleet.staying, self._meter.close_grain(now_ns))
        if event is None:
            return
        self.scale_events.append(event)
        if event.after > event.before:
            self._fleet.grow(now_ns, event.after - event.before)
        else:
            self._fleet.shrink(now_ns, event.before - event.after)

    def _plan_due(self) -> None:
        self._drop_settled()
        deadline_ns = self._waiting[0].arrived_ns + self._timeout_ns if self._waiting else NEVER_NS
        self._due_ns = min(self._fleet.next_boot_ns, self._grain_ns, deadline_ns)

    def _drop_settled(self) -> None:
        while self._waiting and _settled(self._waiting[0]):
            self._waiting.popleft()

    def _count_end(self, sequence: Sequence) -> None:
        assert sequence.done_ns is not None
        self.in_flight -= 1
        self._meter.end(sequence.arrived_ns, sequence.done_ns)


def _settled(sequence: Sequence) -> bool:
    """No deadline can end it any more."""
    return sequence.outcome is not None or (sequence.streamed and sequence.first_token_ns is not None)
