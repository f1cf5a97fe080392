"""Several runs, one after the other, each with a load process of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headroom.aborting import Watch
from headroom.audience import NOBODY, Audience
from headroom.commands.app import BUDGET_USED
from headroom.running import EXIT_CODES, begin, close, play
from loadgen.config import RunConfig
from loadgen.errors import HeadroomError, Interrupted


class Player:
    """Plays one run after the other on a deployment; their budgets together are one."""

    def __init__(
        self,
        places: Mapping[str, str],
        environment: Mapping[str, str],
        deployments: Sequence[dict[str, Any]],
        *,
        whole: str,
        used: Counter[str] | None = None,
        audience: Audience = NOBODY,
    ) -> None:
        """`whole` is what the runs are together, in words; `used` is of the budget, by all that share it."""
        self._whole, self._audience = whole, audience.of_series()
        self._places, self._environment, self._deployments = places, environment, deployments
        self._used: Counter[str] = Counter() if used is None else used

    def play(self, config: RunConfig, folder: Path) -> None:
        """One run to its end, and its record closed. Raises Interrupted, before its load began too,
        and HeadroomError where it crashed."""
        manifest = begin(folder, self._within_budget(config), self._deployments)
        watch = Watch(folder, config)
        played = play(
            folder, manifest, self._places, self._environment, audience=self._audience, each_second=watch.look
        )
        reason = close(folder, played)
        if played.exit_code:
            raise HeadroomError(f"{reason}; what was recorded until then is in {folder}\n{played.last_words}")
        if reason is not None:
            raise Interrupted(reason, EXIT_CODES[played.cause])
        self._used.update({name.removesuffix("_s"): use["used"] for name, use in played.budget.items()})

    def _within_budget(self, config: RunConfig) -> RunConfig:
        """The run may use what is left. Raises Interrupted where nothing is."""
        left = {}
        for name, limit in config.budget.model_dump(exclude_none=True).items():
            left[name] = limit - self._used[name]
            if left[name] <= 0:
                raise Interrupted(f"the {self._whole}'s budget ({name}) is used up", BUDGET_USED)
        return config.model_copy(update={"budget": config.budget.model_copy(update=left)})
