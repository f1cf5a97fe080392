"""A whole day of requests at a managed endpoint in seconds: nothing waits, time is what the arrivals say."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadgen.errors import ConfigError
from loadgen.simulator.autoscale import ScaleEvent
from loadgen.simulator.batching import STATUS_OF, BatchingModel, Sequence
from loadgen.simulator.endpoint import Endpoint, EndpointSettings, Refused
from loadgen.simulator.fleet import InstanceView
from loadgen.simulator.units import NEVER_NS

Arrival = tuple[int, int, int]  # at_ns, prompt_tokens, completion_tokens


@dataclass(slots=True, kw_only=True)
class Replay:
    """What became of each arrival, in columns of equal length, and of the fleet. Instants are of the arrivals' clock.

    A refused request is done when it arrives and has no instance; -1 stands for an instant or an instance there is not.
    """

    at_ns: array[int] = field(default_factory=lambda: array("q"))
    status: array[int] = field(default_factory=lambda: array("h"))  # 200, or 400, 408, 424, 429, 503
    first_token_ns: array[int] = field(default_factory=lambda: array("q"))
    done_ns: array[int] = field(default_factory=lambda: array("q"))
    instance: array[int] = field(default_factory=lambda: array("i"))
    refusals: Counter[str] = field(default_factory=Counter)  # by reason
    scale_events: list[ScaleEvent] = field(default_factory=list)
    instances: list[InstanceView] = field(default_factory=list)  # those there are at the end
    billed_ns: int = 0  # instance-ns from the start to the end, boots included
    end_ns: int = 0  # the last answer, or `until_ns`


def replay(
    arrivals: Iterable[Arrival],
    model: BatchingModel,
    settings: EndpointSettings,
    *,
    kills: Iterable[tuple[int, int]] = (),
    streamed: bool = False,
    start_ns: int = 0,
    until_ns: int = 0,
) -> Replay:
    """Send the arrivals, ascending by instant, to a fresh endpoint, ready at `start_ns`, and wait for the answers.

    `kills` are (at_ns, number of the instance), ascending; at one instant a kill comes before an arrival. With
    `streamed` the time limit ends with the first token. The fleet is billed and scaled until the last answer or kill,
    or `until_ns` where that is later. Raises ConfigError for arrivals or kills out of order and for the kill of an
    instance that is not there.
    """
    endpoint = Endpoint(model, settings, start_ns)
    result = Replay()
    deaths = _Kills(endpoint, kills, start_ns)
    now_ns = start_ns
    for at_ns, prompt_tokens, completion_tokens in arrivals:
        if at_ns < now_ns:
            raise ConfigError(
                f"arrival {len(result.at_ns)} at {at_ns} ns comes before {now_ns} ns: sort arrivals by instant"
            )
        now_ns = at_ns
        if deaths.next_ns <= at_ns:
            deaths.strike(at_ns)
        _send(endpoint, result, at_ns, prompt_tokens, completion_tokens, streamed=streamed)
        _enter(result, endpoint.take_ended())
    deaths.strike(NEVER_NS)
    result.end_ns = _finish(endpoint, result, max(now_ns, deaths.last_ns), until_ns)
    result.scale_events = endpoint.scale_events
    result.billed_ns = endpoint.billed_ns(result.end_ns)
    result.instances = endpoint.instances(result.end_ns)
    return result


class _Kills:
    """Instances that die at stated instants."""

    def __init__(self, endpoint: Endpoint, kills: Iterable[tuple[int, int]], start_ns: int) -> None:
        self.last_ns = start_ns
        self._endpoint, self._kills = endpoint, iter(kills)
        self._plan()

    def strike(self, until_ns: int) -> None:
        """All kills due by then."""
        while self.next_ns <= until_ns and self.next_ns < NEVER_NS:
            if self.next_ns < self.last_ns:
                raise ConfigError(
                    f"the kill of instance {self._number} at {self.next_ns} ns comes before {self.last_ns} ns: "
                    "sort kills by instant"
                )
            self._endpoint.kill(self.next_ns, self._number)
            self.last_ns = self.next_ns
            self._plan()

    def _plan(self) -> None:
        self.next_ns, self._number = next(self._kills, (NEVER_NS, -1))


def _send(
    endpoint: Endpoint, result: Replay, at_ns: int, prompt_tokens: int, completion_tokens: int, *, streamed: bool
) -> None:
    answer = endpoint.submit(at_ns, prompt_tokens, completion_tokens, streamed=streamed, number=len(result.at_ns))
    result.at_ns.append(at_ns)
    result.first_token_ns.append(-1)
    if isinstance(answer, Refused):
        result.status.append(answer.status)
        result.done_ns.append(at_ns)
        result.instance.append(-1)
        result.refusals[answer.reason] += 1
    else:
        result.status.append(0)
        result.done_ns.append(-1)
        result.instance.append(answer.instance)


def _enter(result: Replay, ended: list[Sequence]) -> None:
    """Complete the rows of what has ended."""
    for sequence in ended:
        row, outcome, done_ns = sequence.number, sequence.outcome, sequence.done_ns
        assert outcome is not None
        assert done_ns is not None
        result.status[row] = STATUS_OF[outcome]
        result.done_ns[row] = done_ns
        if sequence.first_token_ns is not None:
            result.first_token_ns[row] = sequence.first_token_ns


def _finish(endpoint: Endpoint, result: Replay, now_ns: int, until_ns: int) -> int:
    """Wait until everything has been answered; the instant at which the replay ends."""
    end_ns = now_ns
    _enter(result, endpoint.take_ended())
    while endpoint.in_flight:
        end_ns = endpoint.next_change_ns()
        _enter(result, endpoint.advance(end_ns))
    end_ns = max(end_ns, until_ns)
    _enter(result, endpoint.advance(end_ns))
    return end_ns
