"""Who looks on while a load lasts: a person at a terminal, a program that reads lines of JSON, or nobody."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from rich.console import Console

from dashboards.live import About, LiveView, Progress
from loadgen.config import Kind, RunConfig
from loadgen.errors import ConfigError
from loadgen.samples import Manifest

AS_JSON = "json"
Show = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """One for a command, whatever it plays."""

    panel: bool = False  # on standard error: a panel on a terminal, else lines
    lines: bool = True  # such lines, too, where it is no terminal
    as_json: bool = False  # instead of both

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From a command's flags. Raises ConfigError."""
        how = given.get("progress")
        if how not in (None, AS_JSON):
            raise ConfigError(f"--progress {how}: there is {AS_JSON}, and without it a panel or lines for people")
        return cls(panel=not given["quiet"], as_json=how == AS_JSON)

    def of_series(self) -> Audience:
        """For one of several runs: of these a log has a line each, when it has ended."""
        return replace(self, lines=False)

    @contextmanager
    def watching(self, folder: Path, manifest: Manifest) -> Iterator[Show]:
        """Around one run; what is yielded takes its progress."""
        about = about_run(folder, manifest)
        if self.as_json:
            tell("started", **asdict(about))
            yield lambda progress: tell("progress", **progress)
            tell("ended", folder=about.folder)
            return
        console = Console(stderr=True)
        with LiveView(console, about, quiet=not self.panel or not (self.lines or console.is_terminal)) as view:
            yield view.show


NOBODY = Audience()


def about_run(folder: Path, manifest: Manifest) -> About:
    config = RunConfig.model_validate(manifest.config)
    limited = all(target.kind is Kind.SERVERLESS for target in config.targets)
    quotas = [config.quota_of(target) for target in config.targets]
    where = f"{len(quotas)} targets" if len(quotas) > 1 else config.target.url
    return About(
        folder=str(folder),
        title=f"{manifest.deployment.get('model_name', 'model')} at {where}"
        + ("" if config.load.open_loop else ", closed loop"),
        tokens_per_minute=sum(quota.tokens_per_minute for quota in quotas) if limited else None,
        requests_per_minute=sum(quota.requests_per_minute for quota in quotas) if limited else None,
    )


def tell(event: str, **values: Any) -> None:
    """One line of JSON on standard error, whole. A reader that is gone ends no run."""
    try:
        sys.stderr.write(json.dumps({"event": event, **values}) + "\n")
        sys.stderr.flush()
    except BrokenPipeError:
        pass
