"""What a load process keeps while it runs: rows for the recorder, counts for the live display, and notes."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from time import monotonic_ns
from typing import Any, Protocol

from loadgen.recorder import packed
from loadgen.samples import OK, Gaps, Outcome, Sample

NOTES_OF_A_KIND = 100
MINUTE_NS = 60_000_000_000
SLICE_NS = 100_000_000  # what the last minute is counted in: each request by itself would be hundreds of megabytes


class Sink(Protocol):
    def send(self, rows: Sequence[bytes], gaps: Sequence[Gaps]) -> None: ...


class Tally:
    """Rows since the last flush, counts since the start. Without a run folder it counts, and keeps nothing."""

    def __init__(self, start_ns: int, notes: Path | None) -> None:
        self.planned = 0  # arrivals that came due: the ledger's other side
        self.sent = 0
        self.outcomes: Counter[str] = Counter()
        self.tokens = 0
        self.start_ns = start_ns
        self._rows: list[bytes] = []
        self._gaps: list[Gaps] = []
        self._ttft_ms: list[float] = []
        self._admitted: deque[list[int]] = deque()  # [slice of time, requests, tokens] of the last minute
        self._notes = notes
        self._noted: Counter[str] = Counter()

    def add(self, sample: Sample, gaps_us: Sequence[int] = ()) -> None:
        """One attempt or one dropped arrival has come to its end."""
        self.outcomes[sample.outcome] += 1
        if self._notes is None:
            return
        self._rows.append(packed(sample))
        if gaps_us:
            self._gaps.append((sample.seq, sample.attempt, gaps_us))
        if sample.outcome == OK:
            self.tokens += (sample.prompt_tokens or 0) + (sample.completion_tokens or 0)
        if sample.first_token_ns is not None and sample.sent_ns is not None:
            self._ttft_ms.append((sample.first_token_ns - sample.sent_ns) / 1e6)

    def drop(self, sample: Sample, why: str) -> None:
        """An arrival came due and is not sent."""
        sample.outcome, sample.error, sample.admitted_ns = Outcome.DROPPED.value, why, None
        self.add(sample)

    def note_sent(self, now_ns: int, tokens: int) -> None:
        """A request leaves, counting so many tokens against the quota."""
        self.sent += 1
        if self._notes is None:
            return
        admitted, number = self._admitted, now_ns // SLICE_NS
        if not admitted or admitted[-1][0] != number:
            admitted.append([number, 0, 0])
        admitted[-1][1] += 1
        admitted[-1][2] += tokens

    def flush(self, sink: Sink) -> None:
        """Hand over the rows. They are kept until the sink has taken them."""
        rows, gaps = self._rows, self._gaps
        if rows:
            self._rows, self._gaps = [], []
            sink.send(rows, gaps)

    def progress(self, *, in_flight: int, waiting: int, duration_s: float) -> dict[str, Any]:
        """The live display's line, once a second; starts a new second for TTFT."""
        now_ns = monotonic_ns()
        while self._admitted and self._admitted[0][0] <= (now_ns - self.start_ns - MINUTE_NS) // SLICE_NS:
            self._admitted.popleft()
        ttft_ms, self._ttft_ms = sorted(self._ttft_ms), []
        failed = sum(self.outcomes.values()) - sum(
            self.outcomes[each] for each in (Outcome.OK, Outcome.THROTTLED, Outcome.DROPPED, Outcome.FILTERED)
        )
        return {
            "t_s": round((now_ns - self.start_ns) / 1e9, 3),
            "duration_s": duration_s,
            "sent": self.sent,
            "in_flight": in_flight,
            "waiting": waiting,
            "ok": self.outcomes[Outcome.OK],
            "failed": failed,
            "throttled": self.outcomes[Outcome.THROTTLED],
            "dropped": self.outcomes[Outcome.DROPPED],
            "tokens": self.tokens,
            "tokens_per_minute": sum(tokens for _, _, tokens in self._admitted),
            "requests_per_minute": sum(requests for _, requests, _ in self._admitted),
            "ttft_p50_ms": ttft_ms[(len(ttft_ms) - 1) // 2] if ttft_ms else None,
        }

    def note(self, kind: str, text: str) -> None:
        """Say in the run folder what may make its figures doubtful."""
        self._noted[kind] += 1
        if self._notes is None or self._noted[kind] > NOTES_OF_A_KIND:
            return
        line = {"at_s": round((monotonic_ns() - self.start_ns) / 1e9, 3), "kind": kind, "text": text}
        with self._notes.open("a") as file:
            file.write(json.dumps(line) + "\n")
