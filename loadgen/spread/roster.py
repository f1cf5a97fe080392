"""The workers of a run as their master knows them: who may join, who lives, what each has said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LEASE_NS = 2_500_000_000  # how long a worker may send after the beat that was answered, by its own clock
LOST_NS = 3_000_000_000  # without a beat for so long, by the master's: longer, so that it has stopped by then
GIVE_UP_NS = 5_000_000_000  # a worker without an answer for so long ends
SET_UP_NS = 30_000_000_000  # before the load: a scenario may take long to import
BEAT_S = 0.5
SUMMED = (
    *("sent", "in_flight", "waiting", "ok", "failed", "throttled", "dropped", "tokens"),
    *("tokens_per_minute", "requests_per_minute"),
)
OF_NOW = ("in_flight", "waiting", "tokens_per_minute", "requests_per_minute")  # of a lost worker they say nothing


def clock_of(trips: Iterable[tuple[int, int, int]]) -> dict[str, int]:
    """What the master's clock shows more than a worker's, and how well that is known, in ns.

    A round trip is when the worker asked, what the master's clock then showed, and when the answer was there; the
    shortest one says most.
    """
    sent_ns, master_ns, back_ns = min(trips, key=lambda trip: trip[2] - trip[0])
    return {"offset_ns": master_ns - (sent_ns + back_ns) // 2, "uncertainty_ns": (back_ns - sent_ns) // 2}


def own_ns(master_ns: int, offset_ns: int) -> int:
    """An instant of the master's clock on the clock of a worker that is so much behind it."""
    return master_ns - offset_ns


@dataclass(slots=True)
class Member:
    """One worker."""

    index: int
    client_id: str
    host: str
    pid: int
    seen_ns: int  # the master's clock at its last beat
    key: str | None = None  # of a child of the master's, which writes into the run folder itself
    ready: bool = False
    clock: dict[str, int] = field(default_factory=dict)  # offset_ns and uncertainty_ns against the master's
    progress: dict[str, Any] = field(default_factory=dict)
    finished: dict[str, Any] | None = None
    lost: str | None = None  # why

    @property
    def name(self) -> str:
        return f"worker {self.index} (process {self.pid} on {self.host})"

    @property
    def live(self) -> bool:
        return self.finished is None and self.lost is None


class Roster:
    """Who belongs to the run. `versions` are the master's own."""

    def __init__(self, wanted: int, versions: Mapping[str, str]) -> None:
        self.wanted = wanted
        self.members: list[Member] = []
        self.started = False
        self._by_id: dict[str, Member] = {}
        self._versions = versions

    def of(self, client_id: str) -> Member | None:
        return self._by_id.get(client_id)

    @property
    def live(self) -> list[Member]:
        return [member for member in self.members if member.live]

    @property
    def complete(self) -> bool:
        return len(self.members) == self.wanted and all(member.ready for member in self.members)

    def join(self, client_id: str, hello: Mapping[str, Any], now_ns: int, *, keys: Collection[str]) -> Member | str:
        """The new member, or in a sentence why it is none. A child says one of the `keys` that it was given."""
        host, pid = str(hello.get("host")), int(hello.get("pid") or 0)
        if (reason := self._refusal(client_id, hello, host)) is not None:
            return reason
        key = hello.get("key")
        member = Member(len(self.members), client_id, host, pid, now_ns, key if key in keys else None)
        self.members.append(member)
        self._by_id[client_id] = member
        return member

    def _refusal(self, client_id: str, hello: Mapping[str, Any], host: str) -> str | None:
        theirs = hello.get("versions") or {}
        for program, version in self._versions.items():
            if _minor(version) != _minor(str(theirs.get(program))):
                return f"the master runs {program} {version} and {host} {theirs.get(program)}: install the same"
        if self.of(client_id) is not None:
            return f"a worker named {client_id} is here already"
        if self.started:
            return "the load has begun: a worker must be there before it does"
        if len(self.members) >= self.wanted:
            return f"there are {self.wanted} workers already, as many as were asked for"
        return None

    def overdue(self, now_ns: int) -> list[Member]:
        """Those that live by what was said last, and have said nothing for too long."""
        patience_ns = LOST_NS if self.started else SET_UP_NS
        return [member for member in self.live if now_ns - member.seen_ns > patience_ns]

    def outcomes(self) -> dict[str, int]:
        """Of all attempts that the workers told of."""
        counts: Counter[str] = Counter()
        for member in self.members:
            counts.update(member.progress.get("outcomes", {}))
        return counts

    def progress(self) -> dict[str, Any]:
        """The sums of what the workers told last. The p50 of TTFT is the median of theirs: their shares are alike."""
        told = [member.progress for member in self.members if member.progress]
        sums = {
            key: sum(
                member.progress.get(key, 0)
                for member in self.members
                if member.lost is None or key not in OF_NOW
            )
            for key in SUMMED
        }  # fmt: skip
        medians = sorted(p50 for each in told if (p50 := each.get("ttft_p50_ms")) is not None)
        return {**sums, "ttft_p50_ms": medians[(len(medians) - 1) // 2] if medians else None}


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
