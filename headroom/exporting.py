"""A workload as Azure Load Testing takes it: one folder with a locustfile, what it sends, and the test's YAML.

That service puts all files into one folder beside the locustfile, gives the secrets that the YAML names in Key Vault to
the script as environment variables, and installs requirements.txt; Headroom itself is not there. Keys of the YAML:
https://learn.microsoft.com/azure/load-testing/reference-test-config-yaml
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

from headroom.capturing import Captured, captured
from headroom.failure_criteria import criteria_of, quoted, yaml_lines
from loadgen.config import SIMULATED, RunConfig
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, RunFolderError
from loadgen.target import KEY_VARIABLES, address_of

POOL = 64  # requests of each scenario
MOST_BYTES = 20 << 20  # of them all; the service takes files of 50 MB
PACE_S = 20.0  # between a user's requests: so many seconds may an answer take before it delays the next
RAMP_STEP_S = 2.0
MOST_USERS_PER_ENGINE = 250  # as advised
MOST_RATE_PER_S = 500.0  # 45 engines have 11,250 users
NO_VAULT = "KEY-VAULT-NAME"
TEMPLATE = Path(__file__).parent / "templates" / "locustfile.py"


def export(config: RunConfig, places: Mapping[str, str], out: Path, *, key_vault: str | None) -> None:
    """Write the folder. Raises ConfigError for what cannot be exported, RunFolderError where it cannot be written."""
    _check(config, out)
    stages, pace_s = stages_of(config)
    pools = _bounded(captured(config, places, POOL))
    lines = [orjson.dumps({"settings": settings_of(config, stages, pace_s)})]
    lines += [
        orjson.dumps({"scenario": name, "path": each.path, "stream": each.stream, "body": each.body.decode()})
        for name, pool in pools.items()
        for each in pool
    ]
    streamed = [name for name, pool in pools.items() if any(each.stream for each in pool)]
    files = {
        "locustfile.py": TEMPLATE.read_bytes(),
        "workload.jsonl": b"\n".join(lines) + b"\n",
        "requirements.txt": f"locust=={version('locust')}\n".encode(),
        "config.yaml": yaml_of(config, streamed, max(users for _, users in stages), key_vault or NO_VAULT).encode(),
    }
    try:
        out.mkdir(parents=True)
        for name, content in files.items():
            publish_bytes(out / name, content)
    except OSError as error:
        raise RunFolderError(f"cannot write {out}: {error.strerror}; choose another --out") from None


def _check(config: RunConfig, out: Path) -> None:
    if out.exists():
        raise RunFolderError(f"{out} exists already, and is not overwritten: choose a new --out")
    if len(config.targets) > 1:
        raise ConfigError("the exported test has one target: name one")
    if config.target.url == SIMULATED:
        raise ConfigError("the service cannot reach a deployment that is simulated here: give --target URL")
    address_of(config.target.url or "")
    if config.target.key == "entra":
        raise ConfigError("the exported file sends a key and fetches no token: give --key env:NAME instead of entra")
    if config.load.trace is not None:
        raise ConfigError("a trace cannot be exported: give --rate, --stages or --users")
    if config.load.thinking is not None:
        raise ConfigError("users who think cannot be exported: leave out --think-time")
    if config.load.open_loop:
        most_per_s = max(max(piece.first_per_s, piece.last_per_s) for piece in config.load.shape.pieces)
        if most_per_s > MOST_RATE_PER_S:
            raise ConfigError(f"{most_per_s:g}/s is more than the service's engines reach: {MOST_RATE_PER_S:g}/s")


def stages_of(config: RunConfig) -> tuple[list[tuple[float, int]], float | None]:
    """Users until so many seconds, stage by stage, and the mean time between a user's requests; None: a closed loop.

    A ramp becomes stairs of at most RAMP_STEP_S.
    """
    load = config.load
    if load.users is not None:
        return [(load.duration, load.users)], None
    constant_per_s = load.shape.constant_per_s
    if constant_per_s is not None:
        users = max(1, math.ceil(constant_per_s * PACE_S))
        return [(load.duration, users)], users / constant_per_s
    stages, at_s = [], 0.0
    for piece in load.shape.pieces:
        parts = 1 if piece.first_per_s == piece.last_per_s else math.ceil(piece.duration_s / RAMP_STEP_S)
        for part in range(parts):
            middle = piece.first_per_s + (piece.last_per_s - piece.first_per_s) * (part + 0.5) / parts
            until_s = at_s + piece.duration_s * (part + 1) / parts
            stages.append((round(until_s, 3), round(middle * PACE_S)))
        at_s += piece.duration_s
    return stages, PACE_S


def settings_of(config: RunConfig, stages: Sequence[tuple[float, int]], pace_s: float | None) -> dict[str, Any]:
    """The first line of workload.jsonl."""
    load, target = config.load, config.target
    return {
        "url": target.url,
        "dialect": target.dialect.value,
        "key_variable": key_variable(target.key),
        "stages": stages,
        "pace_s": pace_s,
        "spawn_rate": load.spawn_rate,
        "arrivals": load.arrivals.value,
        "gamma_shape": load.gamma_shape,
        "weights": config.scenarios,
        "seed": load.seed,
        "timeout_s": config.timeouts.first_byte,
        "drain_s": load.drain,
    }


def key_variable(reference: str | None) -> str:
    """The environment variable that holds the key there."""
    return (
        reference.removeprefix("env:") if reference is not None and reference.startswith("env:") else KEY_VARIABLES[0]
    )


def _bounded(pools: Mapping[str, Sequence[Captured]]) -> dict[str, list[Captured]]:
    """As many of each scenario as fit: one of each in turn, so that large requests do not crowd out the others."""
    kept: dict[str, list[Captured]] = {name: list(pool[:1]) for name, pool in pools.items()}
    size = sum(len(each.body) for pool in kept.values() for each in pool)
    for place in range(1, POOL):
        for name, pool in pools.items():
            if place < len(pool) and size + len(pool[place].body) <= MOST_BYTES:
                kept[name].append(pool[place])
                size += len(pool[place].body)
    return kept


def yaml_of(config: RunConfig, streamed: Sequence[str], users: int, key_vault: str) -> str:
    """config.yaml; every text in it is quoted."""
    variable = key_variable(config.target.key)
    model = config.target.model or address_of(config.target.url or "").host
    secret = f"https://{key_vault}.vault.azure.net/secrets/{re.sub('[^A-Za-z0-9-]', '-', variable)}"
    criteria, unsaid = criteria_of(config.thresholds, list(config.scenarios), streamed)
    lines = [
        "version: v0.1",
        f"testId: {test_id(model)}",
        f"displayName: {quoted(f'Headroom: {model}'[:50])}",
        f"description: {quoted(_described(config)[:100])}",
        "testType: Locust",
        "testPlan: locustfile.py",
        f"engineInstances: {math.ceil(users / MOST_USERS_PER_ENGINE)}",
        "configurationFiles:",
        "  - workload.jsonl",
        "  - requirements.txt",
        "env:",
        "  - name: LOCUST_HOST",
        f"    value: {quoted(config.target.url or '')}",
        "secrets:",
        f"  - name: {quoted(variable)}",
        f"    value: {quoted(secret)}",
        *(f"# not said here, since the service does not measure it: {quoted(text)}" for text in unsaid),
        *yaml_lines(criteria),
        "autoStop:",
        "  errorPercentage: 90",
        "  timeWindow: 60",
    ]
    return "\n".join(lines) + "\n"


def test_id(model: str) -> str:
    """2 to 50 of a-z, 0-9, _ and -."""
    return ("headroom-" + re.sub("[^a-z0-9_-]+", "-", model.lower()).strip("-"))[:50]


def _described(config: RunConfig) -> str:
    load = config.load
    expected = 0 if load.users is not None else load.shape.area
    much = f"{expected / load.duration:.3g} requests/s" if load.users is None else f"{load.users} users"
    return f"{much} for {load.duration:g} s: {', '.join(config.scenarios)}"
