"""How much a job may ask for: what it does not limit, the service does, and what goes beyond is refused."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headroom.scheduling import stated_rows
from headroom.service.settings import Caps
from loadgen.config import RunConfig
from loadgen.errors import ConfigError

FILE = Path("loadtest.toml")  # what messages call a job's configuration
LONGEST_ANSWER_S = 600.0
MOST_TARGETS = 8  # each is probed, and may be a process that is simulated
ARRIVALS_A_REQUEST = 10  # that may be scheduled: those beyond the budget are never sent, and still take time to draw
LARGEST_COUNTED = 10**15  # what is beyond is said to be
ANSWERS = ("n", "best_of")  # parameters that multiply what a request costs, past what is reserved for it
LIMITS = ("max_completion_tokens", "max_output_tokens", "max_new_tokens")  # other names of load.max_tokens


def complete_budget(values: dict[str, Any], caps: Caps) -> None:
    """What the job does not limit, the service does."""
    budget = values.setdefault("budget", {})
    if isinstance(budget, dict):
        for key, most in (("requests", caps.requests), ("tokens", caps.tokens), ("wall", caps.duration_s)):
            if budget.get(key) is None:
                budget[key] = most


def check_bounds(config: RunConfig, caps: Caps) -> None:
    """Raises ConfigError that names the key, what it asks for, and what may be."""
    budget, load = config.budget, config.load
    for place, asked, most, unit in (
        ("target", len(config.targets), MOST_TARGETS, "targets"),
        ("budget.requests", budget.requests, caps.requests, "requests"),
        ("budget.tokens", budget.tokens, caps.tokens, "tokens"),
        ("budget.wall", budget.wall, caps.duration_s, "s"),
        ("load.duration", load.duration, caps.duration_s, "s"),
        ("load.drain", load.drain, LONGEST_ANSWER_S, "s"),
        ("timeouts.total", config.timeouts.total, LONGEST_ANSWER_S, "s"),
        ("load.processes", load.processes, os.cpu_count() or 1, "processes"),
        ("load", arrivals_of(config), ARRIVALS_A_REQUEST * caps.requests, "arrivals"),
    ):
        if asked is None or not asked <= most:
            said = "unlimited" if asked is None else counted(asked)
            raise ConfigError(
                f"{FILE}: {place}: {said} {unit} are more than the {counted(most)} that this service allows a job"
            )
    _check_parameters(config.parameters, load.max_tokens)


def counted(number: float) -> str:
    """As people write it: with commas and no power of ten, to the thousandth where that says anything."""
    if abs(number) >= LARGEST_COUNTED:
        return f"more than {LARGEST_COUNTED:,}"
    text = f"{number:,.3f}".rstrip("0").rstrip(".")
    return text if number == 0 or float(text.replace(",", "")) else f"{number:g}"


def arrivals_of(config: RunConfig) -> float:
    """To be expected of an open loop, 0 of a closed one. Raises ConfigError for a trace that cannot be read."""
    load = config.load
    if not load.open_loop:
        return 0.0
    return load.shape.area if load.trace is None else len(stated_rows(config)) * load.scale


def _check_parameters(parameters: Mapping[str, Any], max_tokens: int) -> None:
    """Tokens are reserved by load.max_tokens, so no parameter may raise what a request is answered with."""
    for names, most in ((ANSWERS, 1), (LIMITS, max_tokens)):
        for name in names:
            asked = parameters.get(name)
            if asked is not None and (not isinstance(asked, int | float) or not asked <= most):
                raise ConfigError(f"{FILE}: parameters.{name}: must be at most {most:,}, for which tokens are reserved")
