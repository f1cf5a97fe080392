"""What looks after a run from one place: its parent, the file STOP, too many errors, and the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import monotonic_ns
from typing import Any

import gevent
import gevent.os

from loadgen.autostop import ErrorWindow
from loadgen.guards import STOP_FILE, StopCause
from loadgen.player import Player

STOP_LOOK_S = 0.2

Halt = Callable[[str, StopCause], None]


def watch_parent(stop: Callable[[str], None]) -> None:
    """Standard input is held open by the process that started this one, and ends with it."""
    gevent.os.make_nonblocking(0)
    while gevent.os.nb_read(0, 1024):
        pass
    stop("the process that started the load is gone")


def watch_stop_file(folder: Path) -> None:
    """Return when there is a file STOP in the run folder: it ends the load at once, whoever put it there."""
    while not (folder / STOP_FILE).exists():
        gevent.sleep(STOP_LOOK_S)


def watch_errors(player: Player, outcomes: Callable[[], Mapping[str, int]], halt: Halt) -> None:
    """Halt the run when hardly anything but errors comes back."""
    window = ErrorWindow()
    while True:
        gevent.sleep(1)
        at_s = (monotonic_ns() - player.start_ns) / 1e9
        if (reason := window.look(at_s, outcomes())) is not None:
            halt(reason, StopCause.AUTO_STOP)
            return


def watch_wall(player: Player, halt: Halt) -> None:
    """Halt the run when its budget of time is used up."""
    wall_s = player.config.budget.wall or 0.0
    player.alarm.wait_until(player.start_ns + round(wall_s * 1e9))
    reason = f"the budget of {wall_s:g} s is used up"
    assert player.guards.budget is not None
    player.guards.budget.close(reason)
    halt(reason, StopCause.BUDGET)


def budget_use(player: Player) -> dict[str, Any]:
    """By resource, what is used and the limit; wall time in seconds."""
    budget, wall_s = player.guards.budget, player.config.budget.wall
    use: dict[str, Any] = {} if budget is None else dict(budget.use())
    if wall_s is not None:
        used_s = (monotonic_ns() - player.start_ns) / 1e9
        use["wall_s"] = {"used": round(min(max(0.0, used_s), wall_s), 3), "limit": wall_s}  # nothing is sent after it
    return use
