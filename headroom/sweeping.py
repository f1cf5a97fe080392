"""A sweep: the steps that the search asks for, played one after the other on one deployment, and what they came to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from dashboards.sweep import print_sweep, step_line
from dashboards.sweep_report import write_sweep_report
from headroom.audience import Audience
from headroom.commands.app import INTERRUPTED, INVALID, MISSED
from headroom.running import manifest_of, ready, run_folder
from headroom.series import Player
from headroom.targets import check
from loadgen.config import Kind, RunConfig, ThrottleMode
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, Interrupted, RunFolderError
from loadgen.fields import PerSecond, Seconds
from loadgen.samples import Run
from loadgen.slo import Slo
from planner import swept
from planner.assemble import plan_run
from planner.assemble import to_json as plan_json
from planner.steps import Step, quota_rate, step_of
from planner.sweep import Finding, Search, Stop, Trial, next_step, pooled_verdict
from planner.swept import QuotaRate, Sweep

DEFAULT_OBJECTIVES = ("ttft.p95<1s", "response_time.p95<10s")
QUOTA_SHARE = 0.9  # of the quota's rate: at the quota itself random arrivals queue without end
MOST_STEPS, WIDEST = 50, 10.0
WARMUP_SHARE, LONGEST_WARMUP_S = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Terms:
    """What a sweep is asked for, beside what each of its steps is."""

    search: Search
    step_s: float
    past_quota: bool

    @classmethod
    def parse(
        cls, *, from_rate: str, to_rate: str, steps: int, tolerance: str, step_duration: str, past_quota: bool
    ) -> Terms:
        """From the flags. Raises ConfigError that names one."""
        lowest, highest = _read("--from-rate", PerSecond, from_rate), _read("--to-rate", PerSecond, to_rate)
        if highest <= lowest:
            raise ConfigError(f"--to-rate {to_rate} is not above --from-rate {from_rate}")
        if not 2 <= steps <= MOST_STEPS:
            raise ConfigError(f"--steps: {steps} is not between 2 and {MOST_STEPS}")
        search = Search(from_per_s=lowest, to_per_s=highest, steps=steps, tolerance=_share(tolerance))
        return cls(search, _read("--step-duration", Seconds, step_duration), past_quota)

    def flags(self, *, warmup_given: bool) -> dict[str, Any]:
        """What they set of the config: an open loop that lasts as long as a step."""
        set_by_us: dict[str, Any] = {"load.rate": self.search.from_per_s, "load.duration": self.step_s}
        if not warmup_given:
            set_by_us["load.warmup"] = min(LONGEST_WARMUP_S, WARMUP_SHARE * self.step_s)
        return set_by_us


def _read(flag: str, kind: Any, text: str) -> float:
    try:
        return float(TypeAdapter(kind).validate_python(text))
    except (ValidationError, ValueError) as error:
        problem = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ConfigError(f"{flag}: {problem.removeprefix('Value error, ')}") from None


def _share(text: str) -> float:
    number, percent, _ = text.partition("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= WIDEST:
        raise ConfigError(f"--tolerance: {text!r} is no share; write it like 5% or 0.05")
    return share


def sweep(
    terms: Terms, config: RunConfig, places: Mapping[str, str], *, as_json: bool, quiet: bool, audience: Audience
) -> int:
    """Play steps until the search ends; leaves a folder of them. Returns the exit code, raises HeadroomError."""
    check(config)
    if len(config.targets) > 1:
        raise ConfigError("a sweep is of one deployment: name one target")
    asked, assumptions = settle(terms, config)
    console = Console(stderr=as_json)
    say: Callable[[Any], None] = (lambda _: None) if quiet else lambda line: console.print(line, soft_wrap=True)
    with ready(asked) as (settled, environment, (deployment,)):
        player = Player(places, environment, [deployment], whole="sweep", audience=audience)
        course = _Course(terms, settled, assumptions, deployment, player)
        say(f"{course.sweep.model} at {course.sweep.target}; {', '.join(settled.slo)}")
        code = course.run(say)
    _tell(course.folder, course.sweep, as_json=as_json, quiet=quiet, report=config.output.report)
    return code


def check_objectives(texts: Sequence[str]) -> None:
    """A sweep counts requests that keep an objective, of the whole mix. Raises ConfigError for one that is none."""
    for text in texts:
        slo = Slo.parse(text)
        if slo.scenario is not None or slo.target is not None:
            raise ConfigError(f"in {text!r}, a step is judged by all its requests; leave the filter out")


def _objectives(config: RunConfig) -> tuple[str, ...]:
    """Those of `slo` that a step can be judged by."""
    slos = [threshold.slo for threshold in config.thresholds[: len(config.slo)]]
    return tuple(slo.text for slo in slos if slo is not None and slo.scenario is None and slo.target is None)


def settle(terms: Terms, config: RunConfig) -> tuple[RunConfig, tuple[str, ...]]:
    """The config with what the sweep fills in, and each of that in words."""
    for shape in ("spike", "diurnal"):
        if getattr(config.load, shape) is not None:
            raise ConfigError(f"load.{shape}: each step of a sweep has one rate; leave it out")
    if config.load.master:
        raise ConfigError("load.master: each step of a sweep is made by this machine's processes; leave it out")
    assumptions: list[str] = []
    objectives = _objectives(config)
    changes: dict[str, Any] = {"slo": objectives, "threshold": ()}
    left = [threshold.text for threshold in config.thresholds if threshold.text not in objectives]
    if left:
        assumptions.append(f"No step is judged by {', '.join(left)}: that is for single runs.")
    if not objectives:
        changes["slo"] = DEFAULT_OBJECTIVES
        assumptions.append(f"No objective was given: {' and '.join(DEFAULT_OBJECTIVES)} are taken.")
    if config.target.kind is Kind.SERVERLESS:
        quota = config.quota_of(config.target)
        limits = f"{quota.tokens_per_minute:,} tokens and {quota.requests_per_minute:,} requests a minute"
        if terms.past_quota and config.load.throttle is ThrottleMode.PACE:
            changes["load"] = config.load.model_copy(update={"throttle": ThrottleMode.OFF})
            assumptions.append("Past the quota nothing is held back by our own throttle: the endpoint refuses.")
        elif not terms.past_quota:
            assumptions.append(
                f"The quota is taken to be {limits}; no step offers more than {QUOTA_SHARE:.0%} of it, since random "
                "arrivals at the quota itself would queue without end."
            )
    assumptions.append("A verdict takes the requests of a step to be independent of each other.")
    return config.model_copy(update=changes), tuple(assumptions)


class _Course:
    """A sweep while it lasts: the folder, and the record of it, which is written anew after each step."""

    def __init__(
        self,
        terms: Terms,
        config: RunConfig,
        assumptions: tuple[str, ...],
        deployment: dict[str, Any],
        player: Player,
    ) -> None:
        self._terms, self._config, self._player = terms, config, player
        self.folder = run_folder(config)
        try:
            (self.folder / "steps").mkdir(parents=True)
        except OSError as error:
            raise RunFolderError(f"cannot write {self.folder}: {error.strerror}; choose another --out") from None
        manifest = manifest_of(config, deployment)
        self.sweep = Sweep(
            format=swept.FORMAT,
            state="running",
            reason=None,
            started_utc=manifest.started_utc,
            target=config.target.url or "",
            model=config.target.model or str(deployment.get("model_name") or "unknown"),
            kind=config.target.kind.value,
            search=terms.search,
            step_s=terms.step_s,
            past_quota=terms.past_quota,
            objectives=config.slo,
            assumptions=assumptions,
            config=manifest.config,
        )

    def run(self, say: Callable[[Any], None]) -> int:
        """Returns the exit code."""
        try:
            self._write()
            while isinstance(step := self._next(), Trial):
                self._play(step)
                say(step_line(self.sweep))
            self._write(state="complete", result=step)
        except Interrupted as end:
            self._write(state="interrupted", reason=str(end))
            return end.exit_code
        except KeyboardInterrupt:
            self._write(state="interrupted", reason="stopped by hand")
            return INTERRUPTED
        except BaseException as failure:
            self._write(state="interrupted", reason=str(failure))
            raise
        return exit_code(step)

    def _next(self) -> Trial | Finding:
        quota = self.sweep.quota
        ceiling = None if quota is None or self._terms.past_quota else QUOTA_SHARE * quota.rate_per_s
        return next_step(self._terms.search, [step.measurement for step in self.sweep.steps], ceiling)

    def _play(self, trial: Trial) -> None:
        """Measure a step, and judge it together with those before at the same rate."""
        number = len(self.sweep.steps) + 1
        name = f"steps/{number:02d}"
        folder = self.folder / name
        self._player.play(self._config_of(trial, number, folder), folder)
        run = Run.open(folder)
        publish_bytes(folder / "summary.json", plan_json(plan_run(run)))
        self._add(step_of(run, self._config.slos, number=number, folder=name, rate_per_s=trial.rate_per_s))

    def _config_of(self, trial: Trial, number: int, folder: Path) -> RunConfig:
        load, output = self._config.load, self._config.output
        edges_s = load.warmup + load.cooldown
        changes = {
            "rate": trial.rate_per_s,
            "duration": edges_s + trial.times_as_long * (load.duration - edges_s),
            "seed": (load.seed + number - 1) % 2**63,  # other requests each time, so that no cache helps
        }
        return self._config.model_copy(
            update={
                "load": load.model_copy(update=changes),
                "output": output.model_copy(update={"dir": folder, "report": False}),
            }
        )

    def _add(self, step: Step) -> None:
        if not step.counts and not step.client_limited:
            raise ConfigError(
                f"no request of this mix has what {' or '.join(self._config.slo)} is about: name an objective that it "
                "has, like response_time.p95<5s"
            )
        before = [each.measurement for each in self.sweep.steps if each.rate_per_s == step.rate_per_s]
        if not step.client_limited:
            step = replace(step, verdict=pooled_verdict([*before, step.measurement]))
        steps = (*self.sweep.steps, step)
        rate = (
            quota_rate(steps, self._config.quota_of(self._config.target))
            if self._config.target.kind is Kind.SERVERLESS
            else None
        )
        self._write(steps=steps, quota=None if rate is None else QuotaRate(rate_per_s=rate[0], binds=rate[1]))

    def _write(self, **changes: Any) -> None:
        self.sweep = replace(self.sweep, **changes)
        self.sweep = replace(self.sweep, sentence=swept.sentence(self.sweep))
        swept.write(self.folder, self.sweep)


def exit_code(finding: Finding) -> int:
    if finding.stop is Stop.GENERATOR:
        return INVALID
    return MISSED if finding.met_at_per_s is None else 0


def _tell(folder: Path, sweep: Sweep, *, as_json: bool, quiet: bool, report: bool) -> None:
    where = {"record": folder, "steps": folder / swept.STEPS}
    if report and sweep.steps:
        where["report"] = folder / "report.html"
        try:
            write_sweep_report(sweep, where["report"])
        except OSError as error:
            raise RunFolderError(f"cannot write the report {where['report']}: {error.strerror}") from None
    if as_json:
        sys.stdout.buffer.write(swept.to_json(sweep))
        return
    if quiet:
        sys.stdout.write(f"{folder}\n")
        return
    console = Console()
    console.print()
    print_sweep(sweep, console)
    console.print()
    for name, path in where.items():
        console.print(f"{name:<9}{path}", markup=False, highlight=False, soft_wrap=True)
