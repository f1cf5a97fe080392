"""The targets of a run: checked before anything is sent, simulated where that is asked for, and probed."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from headroom.processes import serving
from headroom.scheduling import forget_trace, stated_rows
from loadgen.config import SIMULATED, Kind, RunConfig, TargetConfig, ThrottleMode
from loadgen.errors import ConfigError, HeadroomError, RunFolderError
from loadgen.pictures import pictures_in
from loadgen.probe import probe
from loadgen.prompts import Prompts, read_prompts
from loadgen.proxy import proxy_of
from loadgen.quota import admitting
from loadgen.schedule import TraceRow
from loadgen.slo import COST
from loadgen.target import Credential, address_of, check_allowed, check_budgeted, check_encrypted, credential_of
from planner.prices import TokenPrice, read_prices

SIMULATED_KEY = "HEADROOM_SIMULATED_KEY"
SIMULATED_MODEL = "Phi-3-mini-4k-instruct"
SIMULATED_VISION_MODEL = "Phi-3.5-vision-instruct"  # reads pictures, and costs as much a token
SIMULATED_TOOL_MODEL = "Mistral-Large"  # calls tools and writes JSON
SIMULATED_EMBEDDING_MODEL = "Cohere-embed-v3-multilingual"
SIMULATED_ALL_ROUND_MODEL = "all-round"
VECTOR_SCENARIOS = {"embeddings", "image_embeddings"}
TOOL_SCENARIOS = {"tools", "json_output"}
PICTURE_SCENARIOS = {"vision", "replay"}  # a trace may hold pictures
ANY_CONTEXT_TOKENS = 1_000_000  # a trace of another model's traffic is answered whole


def check(config: RunConfig, environment: Mapping[str, str] | None = None) -> None:
    """All that can be checked without sending anything. Raises ConfigError, RunFolderError or TargetRefused.

    `environment` holds the keys, by default the process's own.
    """
    if config.load.master and any(target.url == SIMULATED for target in config.targets):
        raise ConfigError(
            "--master: workers cannot reach the deployment that a run simulates for itself: give a --target that they "
            "can reach, or let --processes N make the load on this machine"
        )
    for target in config.targets:
        with naming(config, target):
            _check_target(config, target, os.environ if environment is None else environment)
    if config.output.dir is not None and config.output.dir.exists():
        raise RunFolderError(f"{config.output.dir} exists already; a run never overwrites another: choose a new --out")
    stated = stated_rows(config)
    for target in config.targets:
        with naming(config, target):
            _check_requests_fit(config, target, stated)
    Prompts(config.prompts, max_tokens=config.load.max_tokens)
    read_prices(config.plan.prices)


def forget_files() -> None:
    """Of what was read to check a config, which a process of many of them would hold against later ones."""
    forget_trace()
    read_prompts.cache_clear()
    pictures_in.cache_clear()


@contextmanager
def naming(config: RunConfig, target: TargetConfig) -> Iterator[None]:
    """What goes wrong with one of several targets says which."""
    try:
        yield
    except HeadroomError as error:
        if len(config.targets) == 1:
            raise
        raise type(error)(f"target {target.name}: {error}") from None


def _check_target(config: RunConfig, target: TargetConfig, environment: Mapping[str, str]) -> None:
    if target.url == SIMULATED:
        return
    address = address_of(target.url or "")
    check_allowed(address, target.allow_hosts)
    check_budgeted(address, config.budget)
    check_encrypted(address, credential_of(target, environment, alone=len(config.targets) == 1))
    proxy_of(address, environment)


def _check_requests_fit(config: RunConfig, target: TargetConfig, rows: Iterable[TraceRow]) -> None:
    if target.kind is not Kind.SERVERLESS:
        return
    quota = config.quota_of(target)
    cost = quota.admission.cost
    for limiter in admitting(quota, paced=config.load.throttle is not ThrottleMode.OFF):
        limiter.check_fits(cost(prompt_tokens=1, max_tokens=config.load.max_tokens), "every request")
        for row in rows:
            if row.prompt_tokens is not None and row.completion_tokens is not None:
                tokens = cost(prompt_tokens=row.prompt_tokens, max_tokens=max(1, row.completion_tokens))
                limiter.check_fits(tokens, f"{config.load.trace}, {row.place},")


def probed(config: RunConfig, target: TargetConfig, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a target says of itself, and the proxy on the way to it."""
    address = address_of(target.url or "")
    credential = credential_of(target, environment, alone=len(config.targets) == 1)
    proxy = proxy_of(address, environment)
    deployment = _redacted(probe(target, address, credential, proxy), credential)
    if proxy is not None:
        deployment["proxy"] = proxy.origin
        sys.stderr.write(f"through the proxy {proxy.origin}\n")
    return deployment


def prices_of(config: RunConfig, deployments: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """What a budget in US dollars is kept at, or a threshold is about, by target. Raises ConfigError for a model that
    has none."""
    priced = next((threshold.text for threshold in config.thresholds if threshold.metric == COST), None)
    what = priced if config.budget.usd is None else "--budget-usd"
    if what is None:
        return {}
    book, prices = read_prices(config.plan.prices), {}
    for target, deployment in zip(config.targets, deployments, strict=True):
        with naming(config, target):
            model = target.model or str(deployment.get("model_name") or "")
            name = target.name or address_of(target.url or "").origin
            prices[name] = _price_of(target, book.token_price(model), model, what)
    return prices


def _price_of(target: TargetConfig, listed: TokenPrice | None, model: str, what: str) -> dict[str, float]:
    if target.usd_per_1k_prompt is not None and target.usd_per_1k_completion is not None:
        return {"input_usd_per_1k": target.usd_per_1k_prompt, "output_usd_per_1k": target.usd_per_1k_completion}
    if listed is None:
        raise ConfigError(
            f"the price book has no serverless price for {model or 'this model'}, so {what} cannot be kept: give "
            "--model with a name that `headroom prices show` lists, or --prices FILE with its price"
            + (", or --budget-tokens" if what == "--budget-usd" else "")
        )
    return {"input_usd_per_1k": listed.input_usd_per_1k, "output_usd_per_1k": listed.output_usd_per_1k}


def _redacted(deployment: dict[str, Any], credential: Credential | None) -> dict[str, Any]:
    """What a server says of itself may repeat the key, and holds what it likes."""
    return json.loads(credential.redact(json.dumps(deployment))) if credential is not None else deployment


@contextmanager
def simulated(config: RunConfig, environment: dict[str, str]) -> Iterator[RunConfig]:
    """The config with the URLs of the simulated deployments that it asks for, while they are needed."""
    targets = list(config.targets)
    environment[SIMULATED_KEY] = secrets.token_hex(16)
    with ExitStack() as running:
        for place, target in enumerate(targets):
            if target.url == SIMULATED:
                command = [sys.executable, "-m", "loadgen.simulator", *_simulator_flags(config, target)]
                url = running.enter_context(serving("the simulated deployment", command, environment))
                targets[place] = target.model_copy(update={"url": url, "key": f"env:{SIMULATED_KEY}"})
        yield config.model_copy(update={"targets": tuple(targets)})


def _simulator_flags(config: RunConfig, target: TargetConfig) -> list[str]:
    flags = {
        "--port": 0,
        "--key-env": SIMULATED_KEY,
        "--kind": target.kind,
        "--model": target.model or simulated_model(config.scenarios, target.kind),
        "--seed": config.load.seed,
    }
    quota = config.quota_of(target)
    if target.kind is Kind.SERVERLESS:
        flags |= {
            "--tpm": quota.tokens_per_minute,
            "--rpm": quota.requests_per_minute,
            "--window": quota.window,
            "--admission": quota.admission,
            "--burst-s": quota.burst_s,
            "--request-slice-s": quota.request_slice_s,
        }
        if quota.concurrency is not None:
            flags["--concurrency"] = quota.concurrency
    elif target.instances is not None:
        flags["--instances"] = target.instances
    if config.load.trace is not None or flags["--model"] == SIMULATED_ALL_ROUND_MODEL:
        flags["--context-tokens"] = ANY_CONTEXT_TOKENS
    return ["--until-eof", *(str(part) for flag in flags.items() for part in flag)]


def simulated_model(scenarios: Iterable[str], kind: Kind = Kind.SERVERLESS) -> str:
    """The model to simulate where none is named: one that can do what the mix asks for.

    Of those that are known none is both: one that reads pictures and one that calls tools, or the latter on instances
    of one's own. What stands in for them has no price.
    """
    mix = set(scenarios)
    if mix <= VECTOR_SCENARIOS:
        return SIMULATED_EMBEDDING_MODEL
    pictures, tools = bool(mix & PICTURE_SCENARIOS), bool(mix & TOOL_SCENARIOS)
    if tools and (pictures or kind is Kind.MANAGED):
        return SIMULATED_ALL_ROUND_MODEL
    if tools:
        return SIMULATED_TOOL_MODEL
    return SIMULATED_VISION_MODEL if pictures else SIMULATED_MODEL
