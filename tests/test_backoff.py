"""Users of a closed loop hold back after a failure: nothing else keeps them from thousands of requests a second."""

from __future__ import annotations

import pytest

from loadgen.backoff import LONGEST_BACKOFF_S, Patience
from loadgen.samples import Outcome, Run
from tests.commands import INTO_RUN, PLENTY, deployment, headroom
from tests.servers import Server, always, response

USERS, SECONDS = 5, 2


def test_what_a_user_waits_doubles_with_its_failures_in_a_row_and_ends_with_an_answer():
    patience = Patience(seed=1)
    waits = [patience.failure_s("one", seq, None) for seq in range(12)]
    bounds_s = [min(0.5 * 2**times, LONGEST_BACKOFF_S) for times in range(12)]
    assert all(0.75 * bound_s <= wait_s <= bound_s for wait_s, bound_s in zip(waits, bounds_s, strict=True))
    assert patience.failure_s("another", 99, None) <= 0.5
    patience.answer("one")
    assert patience.failure_s("one", 12, None) <= 0.5
    assert waits == [Patience(1).failure_s("x", 0, None), *waits[1:]]  # of the seed and the arrival alone


def test_what_the_server_asks_comes_before_what_is_usual_but_never_more_than_a_minute():
    patience = Patience(seed=1)
    assert [patience.failure_s("one", seq, asked_s) for seq, asked_s in enumerate((0.2, 3, 9_000))] == [0.2, 3, 60]


def test_who_asks_for_no_time_has_asked_for_nothing():
    """A closed loop of two users sent 13,667 requests in two seconds to a server that answered `Retry-After: 0`."""
    patience, unasked = Patience(seed=1), Patience(seed=1)
    for seq, asked_s in enumerate((0, 0.0, -1)):
        assert patience.failure_s("one", seq, asked_s) == unasked.failure_s("one", seq, None) > 0


async def failing_at_once(call, writer):
    """503 and closed connections by turns, each within a millisecond."""
    if call.number % 2:
        writer.close()
    else:
        await always(response(b"{}", "503 Service Unavailable"))(call, writer)


async def failing_then_well(call, writer):
    await (deployment if call.number >= USERS else always(response(b"{}", "503 Service Unavailable")))(call, writer)


def played(tmp_path, script, *flags):
    with Server(script) as server:
        closed = ["--users", USERS, "--scenario", "chat", "--throttle", "off", "--duration", f"{SECONDS}s"]
        command = [
            "run",
            "--target",
            server.url,
            *closed,
            "--warmup",
            "0s",
            "--no-auto-stop",
            *PLENTY,
            *INTO_RUN,
            *flags,
        ]
        done = headroom(tmp_path, *command)
    assert done.returncode in (0, 4), done.stderr
    return Run.open(tmp_path / "run").samples.sort("sent_ns").collect()


def test_a_deployment_that_fails_at_once_is_not_hammered(tmp_path):
    """5 users sent 6,000 requests in these two seconds; held back by 0.5, 1 and 2 s each sends 2 or 3."""
    rows = played(tmp_path, failing_at_once)
    assert {*rows["outcome"]} == {Outcome.SERVER_ERROR, Outcome.NETWORK}
    assert 2 * USERS <= rows.height <= 4 * USERS
    assert (rows["sent_ns"] - rows["due_ns"]).max() < 500_000_000  # what is held back is due later, and is not late


@pytest.mark.long
def test_what_is_answered_again_goes_on_at_once_and_a_longer_think_time_holds(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rows = played(tmp_path / "a", failing_then_well)
    assert rows.height > 5 * USERS
    thoughtful = played(tmp_path / "b", failing_at_once, "--think-time", "1.5s")
    assert thoughtful.height == 2 * USERS
