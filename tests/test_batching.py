"""One instance that batches continuously: on a virtual clock, against a token-by-token reference and against theory."""

import math
import random
from collections import deque
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.simulator.batching import BatchingModel, Instance, Outcome, Sequence

MS = 1_000_000
PLAIN = {"iteration_base_ms": 10, "iteration_per_sequence_ms": 0, "prefill_per_token_ms": 0, "kv_tokens": 10**9}


def model_of(**parameters):
    return BatchingModel(**(PLAIN | parameters))


def play(model, arrivals, cancels=(), *, stepping=False):
    """Submit (at_ns, prompt, completion) ascending, cancel (at_ns, index), and run to the end; the sequences."""
    instance, sequences = Instance(model), []
    due = sorted(
        [(at_ns, 0, (prompt, completion)) for at_ns, prompt, completion in arrivals]
        + [(at_ns, 1, index) for at_ns, index in cancels],
        key=lambda event: event[:2],
    )
    for at_ns, is_cancel, what in due:
        run_to(instance, at_ns, stepping)
        if not is_cancel:
            sequences.append(Sequence(*what, at_ns))
            instance.submit(at_ns, sequences[-1])
        elif what < len(sequences) and sequences[what].outcome is None:
            instance.cancel(at_ns, sequences[what])
    while (end_ns := instance.next_ns()) is not None:
        run_to(instance, end_ns if stepping else instance.change_ns, stepping)
    assert instance.held == instance.running == instance.queued == 0
    return sequences, instance.running_ns(10**15)


def run_to(instance, now_ns, stepping):
    while stepping and (end_ns := instance.next_ns()) is not None and end_ns <= now_ns:
        instance.advance(end_ns)
    instance.advance(now_ns)


def fate(sequence):
    return (
        sequence.started_ns,
        sequence.first_token_ns,
        sequence.done_ns,
        sequence.outcome,
        sequence.generated_tokens,
    )


# What an iteration takes, step by step


def test_a_lone_request_takes_its_prefill_and_one_iteration_for_each_later_token():
    model = model_of(iteration_base_ms=10, iteration_per_sequence_ms=2, prefill_per_token_ms=0.5)
    ((sequence,), _) = play(model, [(7, 100, 4)])
    assert (sequence.started_ns, sequence.first_token_ns) == (7, 7 + 62 * MS)
    assert sequence.done_ns == 7 + (62 + 3 * 12) * MS
    assert (sequence.outcome, sequence.outcome.status, sequence.generated_tokens) == (Outcome.OK, 200, 4)


def test_who_arrives_in_an_iteration_waits_for_its_end_and_slows_the_next_ones():
    model = model_of(iteration_base_ms=10, iteration_per_sequence_ms=2)
    (first, second), _ = play(model, [(0, 1, 5), (13 * MS, 1, 2)])
    # Iterations end at 12, 24 (the second is admitted), 38, 52 (the second is complete), 64.
    assert (second.started_ns, second.first_token_ns, second.done_ns) == (24 * MS, 38 * MS, 52 * MS)
    assert first.done_ns == 64 * MS


def test_an_arrival_at_the_end_of_an_iteration_waits_for_the_next_end():
    (_, second), _ = play(model_of(), [(0, 1, 5), (20 * MS, 1, 1)])
    assert second.started_ns == 30 * MS


def test_a_long_prompt_is_prefilled_in_chunks_that_the_next_prompt_fills_up():
    model = model_of(prefill_per_token_ms=1, prefill_chunk_tokens=10)
    (tiny, long, short), _ = play(model, [(0, 1, 9), (1, 25, 1), (2, 3, 1)])
    # 11 ms for the tiny one; then 10, 10, 5 of the long prompt and, with its last 5, the 3 of the short one.
    assert long.first_token_ns == (11 + 20 + 20 + 18) * MS
    assert short.first_token_ns == long.first_token_ns
    assert tiny.generated_tokens == 9


def test_the_exponent_bends_the_time_of_an_iteration():
    model = model_of(iteration_per_sequence_ms=3, iteration_exponent=0.5)
    assert model.iteration_ns(16) == (10 + 12) * MS
    assert model_of(iteration_per_sequence_ms=3, iteration_exponent=2).iteration_ns(4, 7) == (10 + 48) * MS
    assert model_of(iteration_base_ms=0).iteration_ns(1) == 1  # time goes on


def test_no_more_than_max_running_run_at_once():
    sequences, _ = play(model_of(max_running=2), [(0, 1, 10), (1, 1, 3), (2, 1, 1)])
    assert [sequence.started_ns for sequence in sequences] == [0, 10 * MS, 40 * MS]


def test_the_head_of_the_queue_blocks_until_its_tokens_fit():
    sequences, _ = play(model_of(kv_tokens=100), [(0, 50, 10), (1, 30, 20), (2, 1, 1)])
    assert [sequence.started_ns for sequence in sequences] == [0, 100 * MS, 100 * MS]  # the last would have fitted
    sequences, _ = play(model_of(kv_tokens=110), [(0, 50, 10), (1, 30, 20), (2, 1, 1)])
    assert [sequence.started_ns for sequence in sequences] == [0, 10 * MS, 100 * MS]  # to the last token
    sequences, _ = play(model_of(kv_tokens=110), [(0, 50, 10), (25 * MS, 30, 20)])
    assert sequences[1].started_ns == 30 * MS  # so too when nothing else was about to change


def test_a_request_without_completion_ends_with_its_prefill():
    ((sequence,), _) = play(model_of(prefill_per_token_ms=1), [(0, 5, 0)])
    assert (sequence.done_ns, sequence.first_token_ns, sequence.generated_tokens) == (15 * MS, None, 0)


def test_tokens_are_counted_when_somebody_looks():
    instance, sequence = Instance(model_of()), Sequence(1, 100, 0)
    instance.submit(0, sequence)
    for now_ms, tokens in ((5, 0), (10, 1), (19, 1), (20, 2), (555, 55)):
        instance.advance(now_ms * MS)
        assert sequence.generated_tokens == tokens
        assert instance.next_ns() == (now_ms // 10 + 1) * 10 * MS


# Leaving and dying


def test_who_leaves_is_done_at_once_and_gives_its_place_back_when_the_iteration_ends():
    instance, leaver, waiting = Instance(model_of(max_running=1)), Sequence(1, 100, 0), Sequence(1, 1, 0)
    instance.submit(0, leaver)
    instance.submit(0, waiting)
    instance.advance(25 * MS)
    instance.cancel(25 * MS, leaver)
    assert (leaver.outcome, leaver.done_ns, leaver.generated_tokens) == (Outcome.LEFT, 25 * MS, 2)
    assert (instance.held, instance.running) == (1, 1)
    assert instance.advance(40 * MS) == [waiting]  # the leaver is never reported
    assert waiting.started_ns == 30 * MS
    assert instance.next_ns() is None


def test_who_leaves_the_queue_lets_the_next_one_fit():
    instance = Instance(model_of(kv_tokens=100))
    running, big, small = Sequence(50, 10, 0), Sequence(30, 20, 0), Sequence(1, 1, 0)
    for sequence in (running, big, small):
        instance.submit(0, sequence)
    instance.advance(25 * MS)
    instance.cancel(25 * MS, big)
    instance.advance(40 * MS)
    assert (small.started_ns, small.outcome) == (30 * MS, Outcome.OK)


def test_a_killed_instance_gives_up_all_it_held_and_can_be_used_again():
    instance = Instance(model_of(max_running=2))
    held = [Sequence(1, 100, 0), Sequence(1, 100, 0), Sequence(1, 100, 0)]
    for sequence in held:
        instance.submit(0, sequence)
    instance.advance(35 * MS)
    assert instance.kill(35 * MS) == held
    assert [sequence.generated_tokens for sequence in held] == [3, 2, 0]
    assert {(sequence.outcome, sequence.done_ns) for sequence in held} == {(Outcome.FAILED, 35 * MS)}
    assert (instance.next_ns(), instance.held, instance.running_ns(10**12)) == (None, 0, (10 + 25 * 2) * MS)
    again = Sequence(1, 1, 40 * MS)
    instance.submit(40 * MS, again)
    assert instance.advance(50 * MS) == [again]


def test_who_left_before_a_kill_is_not_among_the_killed_and_leaves_nothing_behind():
    instance = Instance(model_of(kv_tokens=10))
    leaver, big, small = Sequence(1, 9, 0), Sequence(1, 9, 0), Sequence(1, 1, 0)
    instance.submit(0, leaver)
    instance.advance(25 * MS)
    instance.cancel(25 * MS, leaver)
    assert instance.kill(26 * MS) == []
    for sequence in (big, small):
        instance.submit(30 * MS, sequence)
    instance.advance(10**9)
    assert (big.started_ns, big.done_ns, small.started_ns) == (30 * MS, 120 * MS, 120 * MS)  # one at a time, as before


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iteration_base_ms", -1),
        ("iteration_per_sequence_ms", math.nan),
        ("prefill_per_token_ms", math.inf),
        ("iteration_exponent", -0.5),
        ("prefill_chunk_tokens", 0),
        ("max_running", 1.5),
        ("kv_tokens", 0),
    ],
)
def test_a_parameter_that_cannot_be_used_is_named(field, value):
    with pytest.raises(ValueError, match=field):
        model_of(**{field: value})


def test_a_request_that_can_never_fit_is_not_taken():
    with pytest.raises(ValueError, match="kv_tokens"):
        Instance(model_of(kv_tokens=9)).submit(0, Sequence(5, 5, 0))


# Jumping, stepping and a reference that knows no short cut

MODELS = st.builds(
    BatchingModel,
    iteration_base_ms=st.sampled_from([0.0, 1e-6, 0.37, 6.5]),
    iteration_per_sequence_ms=st.sampled_from([0.0, 0.0003, 0.11, 1.7]),
    iteration_exponent=st.sampled_from([0.0, 0.65, 1.0, 1.9]),
    prefill_per_token_ms=st.sampled_from([0.0, 0.001, 0.05]),
    prefill_chunk_tokens=st.integers(1, 40),
    max_running=st.integers(1, 8),
    kv_tokens=st.integers(80, 200),
)
SIZES = st.tuples(st.integers(0, 40), st.integers(0, 40))
GAPS = st.one_of(st.just(0), st.integers(0, 5 * MS), st.integers(0, 200 * MS))


def after_one_another(gaps_and_rest):
    now_ns, events = 0, []
    for gap_ns, rest in gaps_and_rest:
        now_ns += gap_ns
        events.append((now_ns, *rest))
    return events


ARRIVALS = st.lists(st.tuples(GAPS, SIZES), min_size=1, max_size=25).map(after_one_another)
CANCELS = st.lists(st.tuples(GAPS, st.tuples(st.integers(0, 24))), max_size=15).map(after_one_another)


class Reference:
    """The rules, token by token: lists, no heap, no phases."""

    def __init__(self, model):
        self.p = asdict(model)
        self.queue, self.running = deque(), []  # running: [sequence, prompt tokens left, tokens made], as admitted
        self.plan, self.end_ns = {}, None

    def begin(self, now_ns):
        while self.queue and len(self.running) < self.p["max_running"]:
            used = sum(one["prompt"] + one["completion"] for one, *_ in self.running)
            first = self.queue[0]
            if used + first["prompt"] + first["completion"] > self.p["kv_tokens"]:
                break
            first["started"] = now_ns
            self.running.append([self.queue.popleft(), first["prompt"], 0])
        self.plan, room = {}, self.p["prefill_chunk_tokens"]
        blocked = False
        for place, (_, left, made) in enumerate(self.running):
            if made == 0 and not blocked:
                self.plan[place] = min(left, room)
                room -= self.plan[place]
                blocked = self.plan[place] < left
        n, base = len(self.running), self.p["iteration_base_ms"]
        grown_ms = base + self.p["iteration_per_sequence_ms"] * math.pow(n, self.p["iteration_exponent"])
        prefill_ns = self.p["prefill_per_token_ms"] * MS * sum(self.plan.values())
        self.end_ns = now_ns + max(1, round(grown_ms * MS + prefill_ns)) if n else None

    def end(self):
        now_ns = self.end_ns
        for place, row in enumerate(self.running):
            one, left, made = row
            if made:
                row[2] += 1
            elif place in self.plan:
                row[1] = left - self.plan[place]
                if row[1] == 0:
                    row[2] = 1
                    if one["outcome"] is None and one["completion"]:
                        one["first"] = now_ns
            if one["outcome"] is None:
                one["made"] = min(row[2], one["completion"])
        for one, _, made in self.running:
            if one["outcome"] is None and made and made >= one["completion"]:
                one["outcome"], one["done"] = Outcome.OK, now_ns
        self.running = [row for row in self.running if row[0]["outcome"] is None]
        self.begin(now_ns)

    def run(self, arrivals, cancels):
        events = sorted([(at, 0, i) for i, (at, *_) in enumerate(arrivals)] + [(at, 1, i) for at, i in cancels])
        fates = []
        for at_ns, is_cancel, index in events:
            while self.end_ns is not None and self.end_ns <= at_ns:
                self.end()
            if not is_cancel:
                _, prompt, completion = arrivals[index]
                one = {"prompt": prompt, "completion": completion, "started": None, "first": None}
                fates.append(one | {"done": None, "outcome": None, "made": 0})
                self.queue.append(fates[-1])
                if self.end_ns is None:
                    self.begin(at_ns)
            elif index < len(fates) and fates[index]["outcome"] is None:
                fates[index] |= {"outcome": Outcome.LEFT, "done": at_ns}
                self.queue = deque(one for one in self.queue if one["outcome"] is None)
        while self.end_ns is not None:
            self.end()
        return [tuple(one[key] for key in ("started", "first", "done", "outcome", "made")) for one in fates]


@settings(max_examples=300)
@given(MODELS, ARRIVALS, CANCELS)
def test_jumping_stepping_and_the_reference_agree_to_the_nanosecond(model, arrivals, cancels):
    jumped, jumped_ns = play(model, arrivals, cancels)
    stepped, stepped_ns = play(model, arrivals, cancels, stepping=True)
    assert [fate(sequence) for sequence in jumped] == [fate(sequence) for sequence in stepped]
    assert jumped_ns == stepped_ns
    assert [fate(sequence) for sequence in jumped] == Reference(model).run(arrivals, cancels)


@settings(max_examples=100)
@given(MODELS, ARRIVALS, st.lists(GAPS, min_size=1, max_size=8))
def test_tokens_seen_on_the_way_do_not_depend_on_how_one_got_there(model, arrivals, gaps):
    jumping, stepping = Instance(model), Instance(model)
    ours, theirs = ([Sequence(prompt, completion, 0) for _, prompt, completion in arrivals] for _ in range(2))
    for sequence, other in zip(ours, theirs, strict=True):
        jumping.submit(0, sequence)
        stepping.submit(0, other)
    now_ns = 0
    for gap_ns in gaps:
        now_ns += gap_ns
        jumping.advance(now_ns)
        run_to(stepping, now_ns, True)
        assert [one.generated_tokens for one in ours] == [one.generated_tokens for one in theirs]
        assert jumping.next_ns() == stepping.next_ns()
        if (end_ns := jumping.next_ns()) is not None:
            assert end_ns > now_ns


@settings(max_examples=60)
@given(MODELS, ARRIVALS, CANCELS)
def test_the_integral_of_running_is_the_time_the_sequences_were_in_the_batch(model, arrivals, cancels):
    """Little's law for the batch; who leaves stays in it until the iteration ends."""
    sequences, running_ns = play(model, arrivals, cancels)
    in_batch = sum(one.done_ns - one.started_ns for one in sequences if one.started_ns is not None)
    if all(one.outcome is Outcome.OK for one in sequences):
        assert running_ns == in_batch
    else:
        assert running_ns >= in_batch


def test_the_draws_of_the_properties_reach_what_they_are_for():
    """Random runs with chunked prompts, waiting and blocking, so that the properties above are not about nothing."""
    rng, waited, chunked = random.Random(1), 0, 0
    model = model_of(max_running=3, kv_tokens=120, prefill_chunk_tokens=10)
    arrivals = after_one_another([(rng.randrange(50 * MS), (rng.randrange(40), rng.randrange(40))) for _ in range(200)])
    for sequence in play(model, arrivals)[0]:
        waited += sequence.started_ns > sequence.arrived_ns + 10 * MS
        chunked += sequence.first_token_ns is not None and sequence.first_token_ns > sequence.started_ns + 10 * MS
    assert waited > 50
    assert chunked > 50
