"""What may end a run before its schedule does: its budget, what its answers say, and a hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from loadgen.autostop import DENIED, denial
from loadgen.budget import Budget
from loadgen.config import BudgetConfig
from loadgen.samples import Sample

STOP_FILE = "STOP"  # in the run folder
STOPPED_BY_FILE = f"stopped by the file {STOP_FILE}"


class StopCause(StrEnum):
    """Why a run ended early; the command line has an exit code for each."""

    HAND = "hand"  # Ctrl-C, SIGTERM, the file STOP, or the end of the process that had started the load
    BUDGET = "budget"
    AUTO_STOP = "auto_stop"
    THRESHOLD = "threshold"  # one that may end it was missed


class Guards:
    """One for a run. Lanes ask it before and after each send; `halt` is what ends the run."""

    def __init__(self, budget: BudgetConfig, *, auto_stop: bool) -> None:
        limited = budget.bounds_use or budget.wall is not None
        self.budget = Budget(requests=budget.requests, tokens=budget.tokens, usd=budget.usd) if limited else None
        self.auto_stop = auto_stop
        self.keys: Mapping[str, str] = {}  # what each target's key is called; set by who reads them
        self.halt: Callable[[str, StopCause], None] = lambda *_: None  # set by who can end it

    def reserve(self, tokens: int, usd: float) -> bool:
        """Whether the budget admits the request; the first that it does not ends the run."""
        if self.budget is None or self.budget.reserve(tokens, usd):
            return True
        self.halt(self.budget.used_up or "the budget is used up", StopCause.BUDGET)
        return False

    def see(self, sample: Sample) -> None:
        """An attempt has ended."""
        if sample.status in DENIED and self.auto_stop:
            self.halt(denial(sample.target, sample.status or 0, self.keys.get(sample.target)), StopCause.AUTO_STOP)
