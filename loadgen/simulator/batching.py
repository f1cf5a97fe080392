"""One instance of managed compute that batches continuously, with time as an argument (integer ns).

An iteration takes all running sequences one step on. Its composition is fixed when it begins:

    time = iteration_base + iteration_per_sequence * n^iteration_exponent + prefill_per_token * prompt tokens prefilled

for n sequences, rounded once to whole ns. At its end each decoding sequence has one token more, a sequence whose prompt
is through has its first token, those that are complete leave, the queue is admitted in its order, and the next
iteration begins at that instant.

While no prompt is prefilled and nobody can be admitted all iterations take the same time. Such a stretch is one phase:
it is crossed in one step, and tokens are counted only when somebody asks. Stepping through it gives the same instants.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, fields
from enum import StrEnum
from heapq import heapify, heappop, heappush

from loadgen.simulator.units import NEVER_NS, NS_PER_MS


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchingModel:
    """How fast one instance is and how much it holds. Raises ValueError naming the field that cannot be used."""

    iteration_base_ms: float
    iteration_per_sequence_ms: float
    iteration_exponent: float = 1.0
    prefill_per_token_ms: float
    prefill_chunk_tokens: int = 2_048  # most prompt tokens in one iteration, first come first served, over all prompts
    max_running: int = 64
    kv_tokens: int  # tokens of all running sequences together; prompt + completion are reserved when one is admitted

    def __post_init__(self) -> None:
        for entry in fields(self):
            value, least = getattr(self, entry.name), 0 if entry.name.endswith(("_ms", "_exponent")) else 1
            if not least <= value < math.inf:
                raise ValueError(f"{entry.name} must be at least {least}, not {value}")
            if least and value != int(value):
                raise ValueError(f"{entry.name} must be a whole number, not {value}")
        try:
            longest_ns = self.iteration_ns(self.max_running, self.prefill_chunk_tokens)
        except OverflowError:
            longest_ns = NEVER_NS
        if longest_ns >= NEVER_NS:
            raise ValueError("iteration_base_ms and the other times make an iteration of more than a century")

    def base_ns(self, running: int) -> float:
        """What an iteration of so many sequences takes without any prefill, not yet rounded."""
        return (
            self.iteration_base_ms + self.iteration_per_sequence_ms * math.pow(running, self.iteration_exponent)
        ) * NS_PER_MS

    def iteration_ns(self, running: int, prefilled_tokens: int = 0) -> int:
        """At least 1, so that time goes on even where every parameter is zero."""
        return _whole_ns(self.base_ns(running) + self.prefill_per_token_ms * NS_PER_MS * prefilled_tokens)


class Outcome(StrEnum):
    """How a sequence ended."""

    OK = "ok"
    TIMED_OUT = "timed_out"  # answered 408: the deployment's time limit
    FAILED = "failed"  # answered 424: its instance was killed
    LEFT = "left"  # the client closed the connection

    @property
    def status(self) -> int:
        """The HTTP status; 499, which nobody sends, for a client that left."""
        return STATUS_OF[self]


STATUS_OF = {Outcome.OK: 200, Outcome.TIMED_OUT: 408, Outcome.FAILED: 424, Outcome.LEFT: 499}


@dataclass(slots=True, eq=False)
class Sequence:
    """One request at an instance and what became of it; instants are None until they have come."""

    prompt_tokens: int
    completion_tokens: int  # with 0 it ends with its prefill
    arrived_ns: int
    streamed: bool = False
    number: int = 0  # whatever the caller tells it by
    instance: int = -1
    started_ns: int | None = None  # admitted to the batch
    first_token_ns: int | None = None
    done_ns: int | None = None
    outcome: Outcome | None = None
    _prefill_left: int = field(init=False, repr=False)
    _born: int = field(default=0, init=False, repr=False)  # iterations of the host before its first token
    _host: Instance | None = field(default=None, init=False, repr=False)  # while it decodes
    _generated: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._prefill_left = self.prompt_tokens

    @property
    def generated_tokens(self) -> int:
        """How many tokens exist, as of the last `advance` of its instance."""
        return self._generated if self._host is None else self._host.iterations - self._born


class Instance:
    """Call `advance(now_ns)` before anything else at that instant. Instants must not decrease."""

    __slots__ = (
        "_base_ns",
        "_decoding",
        "_duration_ns",
        "_iterations",
        "_kv_tokens",
        "_leaving",
        "_model",
        "_now_ns",
        "_phase_ns",
        "_prefill_ns",
        "_prefilled",
        "_prefilled_rest",
        "_prefilling",
        "_queue",
        "_running_ns",
        "_serial",
        "change_ns",
        "held",
        "number",
        "running",
    )

    def __init__(self, model: BatchingModel, number: int = 0, now_ns: int = 0) -> None:
        self.number = number
        self.held = 0  # running or queued, without those that left
        self.running = 0  # taking part in the iteration that runs
        self.change_ns = NEVER_NS  # when the phase ends: until then advance() has nothing to do but count
        self._model = model
        self._prefill_ns = model.prefill_per_token_ms * NS_PER_MS
        self._base_ns: list[float] = [0.0]  # by the number of sequences
        self._queue: deque[Sequence] = deque()
        self._prefilling: deque[Sequence] = deque()
        self._decoding: list[
            tuple[int, int, Sequence]
        ] = []  # heap of (iterations done when complete, serial, sequence)
        self._leaving: list[Sequence] = []  # still part of the running iteration
        self._kv_tokens = 0
        self._serial = 0
        self._iterations = 0  # done before the phase
        self._now_ns = self._phase_ns = now_ns
        self._duration_ns = 1  # of each iteration of the phase
        self._prefilled = 0  # how many prompts this iteration brings to their end,
        self._prefilled_rest = 0  # and how many tokens of the one behind them it takes
        self._running_ns = 0

    @property
    def iterations(self) -> int:
        """Iterations done, as of the last `advance`."""
        return self._iterations + ((self._now_ns - self._phase_ns) // self._duration_ns if self.running else 0)

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def idle_since_ns(self) -> int | None:
        return None if self.running else self._phase_ns

    def running_ns(self, now_ns: int) -> int:
        """The integral of `running` over time until now."""
        return self._running_ns + self.running * (now_ns - self._phase_ns)

    def next_ns(self) -> int | None:
        """The end of the running iteration; None when idle."""
        return self._iteration_end_ns() if self.running else None

    def submit(self, now_ns: int, sequence: Sequence) -> None:
        """Queue the sequence; an idle instance starts with it at once. Raises ValueError if it can never fit."""
        if sequence.prompt_tokens + sequence.completion_tokens > self._model.kv_tokens:
            raise ValueError(f"a sequence may have {self._model.kv_tokens} tokens at most: kv_tokens is what they fill")
        assert self._now_ns <= now_ns < self.change_ns
        self._now_ns = now_ns
        sequence.instance = self.number
        self.held += 1
        self._queue.append(sequence)
        if self.running:
            self._plan_admission()
        else:
            self._admit(now_ns)
            self._begin(now_ns)

    def advance(self, now_ns: int) -> list[Sequence]:
        """Process every iteration that ends by now; the sequences that became complete, in order."""
        finished: list[Sequence] = []
        while self.change_ns <= now_ns:
            self._end_phase(self.change_ns, finished)
        self._now_ns = now_ns
        return finished

    def cancel(self, now_ns: int, sequence: Sequence, outcome: Outcome = Outcome.LEFT) -> None:
        """Nobody waits for it any more: it is done now, and gives its place back when the running iteration ends."""
        assert self._now_ns <= now_ns < self.change_ns
        assert sequence.outcome is None
        self._now_ns = now_ns
        self._settle(sequence, now_ns, outcome)
        if sequence.started_ns is None:
            self._queue.remove(sequence)
            self._plan_admission()
        else:
            self._leaving.append(sequence)
            self.change_ns = min(self.change_ns, self._iteration_end_ns())

    def kill(self, now_ns: int) -> list[Sequence]:
        """All that it held, failed, in the order of their admission and arrival. It is empty then, and could go on."""
        assert self._now_ns <= now_ns < self.change_ns
        self._now_ns = now_ns
        decoding = [sequence for _, _, sequence in sorted(self._decoding, key=lambda entry: entry[1])]
        lost = [one for one in (*decoding, *self._prefilling, *self._queue) if one.outcome is None]
        for sequence in lost:
            self._settle(sequence, now_ns, Outcome.FAILED)
        self._running_ns = self.running_ns(now_ns)
        self._iterations = self.iterations
        self._queue.clear()
        self._prefilling.clear()
        self._decoding.clear()
        self._leaving.clear()
        self._kv_tokens = 0
        self._begin(now_ns)
        return lost

    def _settle(self, sequence: Sequence, now_ns: int, outcome: Outcome) -> None:
        sequence._generated = min(sequence.generated_tokens, sequence.completion_tokens)
        sequence._host = None
        sequence.done_ns = now_ns
        sequence.outcome = outcome
        self.held -= 1

    def _iteration_end_ns(self) -> int:
        duration_ns = self._duration_ns
        return self._phase_ns + ((self._now_ns - self._phase_ns) // duration_ns + 1) * duration_ns

    def _plan_admission(self) -> None:
        """Where the first of the queue fits now, it is admitted when the running iteration ends."""
        if self._queue and self.running < self._model.max_running:
            first = self._queue[0]
            if self._kv_tokens + first.prompt_tokens + first.completion_tokens <= self._model.kv_tokens:
                self.change_ns = min(self.change_ns, self._iteration_end_ns())

    def _end_phase(self, now_ns: int, finished: list[Sequence]) -> None:
        """The iteration that ends now changes who runs, or what is prefilled."""
        elapsed_ns = now_ns - self._phase_ns
        self._now_ns = now_ns
        iterations = self._iterations = self._iterations + elapsed_ns // self._duration_ns
        self._running_ns += self.running * elapsed_ns
        self._phase_ns = now_ns
        if self._prefilling:
            self._end_prefill(now_ns)
        if self._leaving:
            self._let_go()
        decoding = self._decoding
        while decoding and decoding[0][0] <= iterations:
            sequence = heappop(decoding)[2]
            self._kv_tokens -= sequence.prompt_tokens + sequence.completion_tokens
            sequence._generated = sequence.completion_tokens
            sequence._host = None
            sequence.done_ns = now_ns
            sequence.outcome = Outcome.OK
            self.held -= 1
            finished.append(sequence)
        if self._queue:
            self._admit(now_ns)
        self._begin(now_ns)

    def _end_prefill(self, now_ns: int) -> None:
        prefilling, iterations = self._prefilling, self._iterations
        for _ in range(self._prefilled):
            sequence = prefilling.popleft()
            if sequence.outcome is None and sequence.completion_tokens:
                sequence.first_token_ns = now_ns
                sequence._born = iterations - 1
                sequence._host = self
            self._serial += 1
            heappush(self._decoding, (iterations + sequence.completion_tokens - 1, self._serial, sequence))
        if self._prefilled_rest:
            prefilling[0]._prefill_left -= self._prefilled_rest

    def _let_go(self) -> None:
        for sequence in self._leaving:
            self._kv_tokens -= sequence.prompt_tokens + sequence.completion_tokens
        self._leaving.clear()
        self._prefilling = deque(one for one in self._prefilling if one.outcome is None)
        self._decoding = [entry for entry in self._decoding if entry[2].outcome is None]
        heapify(self._decoding)

    def _admit(self, now_ns: int) -> None:
        """From the head of the queue, while it fits; nobody overtakes."""
        model, queue, prefilling = self._model, self._queue, self._prefilling
        places = model.max_running - len(self._decoding) - len(prefilling)
        while queue and places > 0:
            sequence = queue[0]
            tokens = sequence.prompt_tokens + sequence.completion_tokens
            if self._kv_tokens + tokens > model.kv_tokens:
                return
            self._kv_tokens += tokens
            sequence.started_ns = now_ns
            prefilling.append(queue.popleft())
            places -= 1

    def _begin(self, now_ns: int) -> None:
        """Start the next phase with whoever is there."""
        decoding = self._decoding
        self._phase_ns = now_ns
        self.running = running = len(decoding) + len(self._prefilling)
        while running >= len(self._base_ns):
            self._base_ns.append(self._model.base_ns(len(self._base_ns)))
        if self._prefilling:
            tokens = self._plan_prefill()
            self._duration_ns = _whole_ns(self._base_ns[running] + self._prefill_ns * tokens)
            self.change_ns = now_ns + self._duration_ns
        elif running:
            self._duration_ns = _whole_ns(self._base_ns[running])
            self.change_ns = now_ns + (decoding[0][0] - self._iterations) * self._duration_ns
        else:
            self.change_ns = NEVER_NS

    def _plan_prefill(self) -> int:
        """Deal this iteration's chunk out in the order of admission; the prompt tokens it takes."""
        room = chunk = self._model.prefill_chunk_tokens
        self._prefilled = self._prefilled_rest = 0
        for sequence in self._prefilling:
            if sequence._prefill_left > room:
                self._prefilled_rest = room
                return chunk
            room -= sequence._prefill_left
            self._prefilled += 1
        return chunk - room


def _whole_ns(exact_ns: float) -> int:
    return round(exact_ns) or 1
