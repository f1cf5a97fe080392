"""Runs that are played alike several times, for a comparison: of one deployment, or of two in turns."""

from __future__ import annotations

import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from dashboards.text import digits, readable
from headroom import comparing, gating, planning, run_sets
from headroom.audience import Audience
from headroom.commands.app import INTERRUPTED, INVALID, REGRESSED
from headroom.gating import Outputs
from headroom.run_sets import RunSet
from headroom.running import ready, run_folder
from headroom.series import Player
from headroom.targets import check
from loadgen.config import SIMULATED, RunConfig, TargetConfig
from loadgen.errors import ConfigError, Interrupted, RunFolderError
from loadgen.samples import Run
from loadgen.target import KEY_VARIABLES, address_of
from planner.generator import generator_reasons
from planner.metrics import ALL
from planner.plan import Plan
from planner.thresholds import Judgement

MOST_RUNS = 100
LEAST_SPARE = 3  # runs that may be spoiled and are played again; as many as are asked for, if that is more
ARMS = ("a", "b")
KEY_FLAGS = ("--a-key", "--b-key")


def repeat(
    config: RunConfig, places: Mapping[str, str], runs: int, *, quiet: bool, outputs: Outputs, audience: Audience
) -> int:
    """Play a run so many times, with a load process of its own each; leaves a folder of them, each of them judged.

    Returns the exit code: of an early end, else of the worst verdict.
    """
    _check_number("--repeat", runs, config)
    check(config)
    folder = run_folder(config)
    with ready(config) as (settled, environment, deployments):
        player = Player(places, environment, deployments, whole="repetition", audience=audience)
        arm = _Arm(folder, settled, player, runs)
        end = _played([arm], runs, quiet=quiet or outputs.to_stdout)
    code = 0 if end is None else end.code
    if not outputs.to_stdout:
        sys.stdout.write(f"{folder}\n" if quiet else f"\nruns     {folder}\n")
    ended = [] if not code else [gating.cut_short(folder, arm.set.reason or "", code)]
    gate = gating.gate_of([*arm.judgements, *ended])
    if code:
        gate = replace(gate, exit_code=code)
    gating.tell(gate, outputs, quiet=quiet)
    return gate.exit_code


def compare_in_turns(
    config: RunConfig,
    places: Mapping[str, str],
    targets: Sequence[tuple[str, str | None]],
    pairs: int,
    *,
    terms: comparing.Terms,
    confirm: bool,
    outputs: Outputs,
    quiet: bool,
    audience: Audience,
) -> int:
    """Play pairs of runs on two deployments, in the order A B, B A, A B, and compare them. Returns the exit code.

    `targets`: the URL of each, and where its key is. With `confirm` a regression must show in a second set of pairs
    too.
    """
    _check_number("--pairs", pairs, config)
    folder = run_folder(config)
    subject = f"{folder / ARMS[1]} against {folder / ARMS[0]}"
    keyed = [
        (_at(config, url, key), each) for (url, key), each in zip(targets, environments(config, targets), strict=True)
    ]
    for each, environment in keyed:
        check(each, environment)
    used: Counter[str] = Counter()
    with (
        comparing.refusing(subject, outputs),
        ready(*keyed[0]) as first,
        ready(*keyed[1]) as second,
    ):

        def in_turns(place: Path) -> tuple[_End | None, _Arm, _Arm]:
            arms = []
            for name, (settled, its_environment, deployments) in zip(ARMS, (first, second), strict=True):
                player = Player(places, its_environment, deployments, whole="comparison", used=used, audience=audience)
                arms.append(_Arm(place / name, settled, player, pairs))
            _join(arms)
            return _played(arms, pairs, quiet=quiet or outputs.to_stdout), arms[0], arms[1]

        end, a, b = in_turns(folder)
        found = None if end else comparing.compared(a.folder, b.folder, terms)
        if found is not None and found.code == REGRESSED and confirm:
            end, a, b = in_turns(folder / "confirm")
            found = None if end else comparing.compared(a.folder, b.folder, terms, confirming=found)
    if found is not None:
        comparing.tell(found, outputs, quiet=quiet)
    elif end is not None:
        comparing.tell_invalid(subject, end.reason, end.code, outputs)
    if not outputs.to_stdout:
        sys.stdout.write(f"{folder}\n" if quiet else f"\nruns     {folder}\n")
    return found.code if found is not None else end.code if end is not None else 0


def environments(config: RunConfig, targets: Sequence[tuple[str, str | None]]) -> list[Mapping[str, str]]:
    """What each target's key may come from.

    A key that is named for neither is one deployment's: where the two are on two hosts, it goes to none. Raises
    ConfigError where the config names it, and does not say whose it is.
    """
    unnamed = [flag for flag, (url, key) in zip(KEY_FLAGS, targets, strict=True) if not key and url != SIMULATED]
    origins = {address_of(url).origin for url, _ in targets if url != SIMULATED}
    if len(origins) < 2 or not unnamed:
        return [os.environ for _ in targets]
    if config.target.key is not None:
        raise ConfigError(
            f"the key {config.target.key} is one deployment's, and --a and --b are on two hosts: name each key, with "
            f"{KEY_FLAGS[0]} env:NAME and {KEY_FLAGS[1]} env:NAME"
        )
    held = [name for name in KEY_VARIABLES if os.environ.get(name)]
    if held:
        sys.stderr.write(
            f"headroom: --a and --b are on two hosts, so the key in {held[0]} goes to none that it is not named for: "
            f"{' and '.join(f'{flag} env:{held[0]}' for flag in unnamed)} would\n"
        )
    kept = [{name for name in KEY_VARIABLES if key == f"env:{name}"} for _, key in targets]
    return [{k: v for k, v in os.environ.items() if k not in KEY_VARIABLES or k in named} for named in kept]


def _check_number(flag: str, runs: int, config: RunConfig) -> None:
    if not 1 <= runs <= MOST_RUNS:
        raise ConfigError(f"{flag} {runs} is not between 1 and {MOST_RUNS}")
    if config.load.master:
        raise ConfigError(f"--master: workers come for one run, and {flag} plays several: leave one of them out")


def _at(config: RunConfig, url: str, key: str | None) -> RunConfig:
    if len(config.targets) > 1:
        raise ConfigError("ab compares two deployments, --a and --b: leave [[target]] out of the file")
    named = {} if key is None else {"key": key}
    try:
        target = TargetConfig.model_validate({**config.target.model_dump(), "url": url, **named})
    except ValidationError as error:
        raise ConfigError(f"{' and '.join(KEY_FLAGS)} {error.errors()[0]['msg']}") from None
    return config.model_copy(update={"targets": (target,)})


class _Arm:
    """The runs of one deployment while they are played, and their record, written anew after each."""

    def __init__(self, folder: Path, config: RunConfig, player: Player, asked: int) -> None:
        self.folder, self._config, self._player = folder, config, player
        self.judgements: list[Judgement] = []  # of the runs that count
        self.set = RunSet(
            format=run_sets.FORMAT,
            series=uuid.uuid4().hex,
            arm=None,
            state="running",
            reason=None,
            asked=asked,
            runs=(),
            spoiled=(),
        )
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise RunFolderError(f"cannot write {folder}: {error.strerror}; choose another --out") from None

    def play(self, say: Callable[[str, Plan], None]) -> None:
        """The next run, and again, so often at most, where the load generator spoiled it: that is no one's speed."""
        while True:
            name = f"{len(self.set.runs) + len(self.set.spoiled) + 1:02d}"
            folder = self.folder / name
            output = self._config.output.model_copy(update={"dir": folder, "report": False})
            config = self._config.model_copy(update={"output": output})
            self._player.play(config, folder)
            plan = planning.write(folder, config)
            say(name, plan)
            if not (_is_spoiled(folder, plan) and len(self.set.spoiled) < max(LEAST_SPARE, self.set.asked)):
                break
            self.write(spoiled=(*self.set.spoiled, name))
        self.judgements.append(gating.judgement_of(Run.open(folder), plan, config.thresholds))
        self.write(runs=(*self.set.runs, name))

    def write(self, **changes: object) -> None:
        self.set = replace(self.set, **changes)  # type: ignore[arg-type]
        run_sets.write(self.folder, self.set)


def _join(arms: list[_Arm]) -> None:
    series = uuid.uuid4().hex
    for name, arm in zip(ARMS, arms, strict=True):
        arm.write(series=series, arm=name)


@dataclass(frozen=True, slots=True)
class _End:
    """Why it ended early."""

    reason: str
    code: int


def _played(arms: list[_Arm], runs: int, *, quiet: bool) -> _End | None:
    """Play so many of each arm; every second time the last goes first. Returns an early end."""
    console = Console(stderr=True)

    def say(arm: _Arm, name: str, plan: Plan) -> None:
        if not quiet:
            console.print(_line(arm, name, plan), markup=False, highlight=False, soft_wrap=True)

    with _recorded(arms) as ended:
        for number in range(runs):
            for arm in arms if number % 2 == 0 else reversed(arms):
                arm.play(partial(say, arm))
                if arm.judgements[-1].verdict == "invalid" and len(arms) > 1:
                    raise Interrupted(
                        f"{arm.folder / arm.set.runs[-1]} is INVALID: there is nothing to compare", INVALID
                    )
    return ended[0] if ended else None


@contextmanager
def _recorded(arms: list[_Arm]) -> Iterator[list[_End]]:
    """The sets' files say how it ended, whatever ends it."""
    ended: list[_End] = []
    try:
        for arm in arms:
            arm.write()
        yield ended
    except Interrupted as end:
        _end(arms, "interrupted", str(end))
        ended.append(_End(str(end), end.exit_code))
    except KeyboardInterrupt:
        _end(arms, "interrupted", "stopped by hand")
        ended.append(_End("stopped by hand", INTERRUPTED))
    except BaseException as failure:
        _end(arms, "interrupted", str(failure))
        raise
    else:
        _end(arms, "complete", None)


def _end(arms: list[_Arm], state: str, reason: str | None) -> None:
    for arm in arms:
        arm.write(state=state, reason=reason)
    if reason:
        sys.stderr.write(f"headroom: {readable(reason)}\n")


def _is_spoiled(folder: Path, plan: Plan) -> bool:
    """By the load generator, and by nothing else."""
    latency = {row.metric: row for row in plan.latency if row.scenario == ALL}
    return not plan.validity.valid and {*plan.validity.reasons} <= {*generator_reasons(Run.open(folder), latency)}


def _line(arm: _Arm, name: str, plan: Plan) -> str:
    """`a/03  TTFT p50 201 ms, p95 361 ms; response time p50 812 ms, p95 1,204 ms; 400 ok`."""
    rows = {row.metric: row for row in plan.latency if row.scenario == ALL}
    parts = [
        f"{label} p50 {digits(rows[metric].p50.value_ms)} ms, p95 {digits(rows[metric].p95.value_ms)} ms"
        for metric, label in (("ttft", "TTFT"), ("response_time", "response time"))
        if rows[metric].n
    ]
    number = name if arm.set.arm is None else f"{arm.set.arm}/{name}"
    parts.append(
        f"{plan.traffic.outcomes['ok']:,} ok" if plan.validity.valid else "INVALID: " + plan.validity.reasons[0]
    )
    return readable(f"{number}  {'; '.join(parts)}")
