"""From a model and a machine to a BatchingModel, by stated arithmetic. An estimate to start from, not a measurement.

Weights are fp16 and split over all GPUs of a machine, which work as one instance. Per iteration:

    iteration_base         = weight bytes / (memory bandwidth x BANDWIDTH_EFFICIENCY)
    iteration_per_sequence = KV bytes of TYPICAL_CONTEXT_TOKENS / the same bandwidth + SEQUENCE_OVERHEAD_MS
    prefill_per_token      = 2 x active parameters / (FLOP/s x FLOPS_EFFICIENCY)
    kv_tokens              = (memory x MEMORY_SHARE - weight bytes) / KV bytes of a token
    KV bytes of a token    = 2 (key and value) x layers x KV dimension x 2 bytes

The efficiencies, the typical context, `max_running` and the chunk are assumptions: measure a deployment instead.
All weights of a mixture of experts are taken to be read in each iteration, as they are when many sequences run: alone a
sequence is faster than this says. The time that GPUs spend on each other is within the efficiencies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TypeVar

from loadgen.errors import ConfigError
from loadgen.simulator.batching import BatchingModel

BYTES_PER_WEIGHT = 2
GIB = 1 << 30
BANDWIDTH_EFFICIENCY = 0.6
FLOPS_EFFICIENCY = 0.5
MEMORY_SHARE = 0.9  # what a serving engine takes of a GPU's memory, by vLLM's default
TYPICAL_CONTEXT_TOKENS = 1_200
SEQUENCE_OVERHEAD_MS = 0.02  # scheduling and sampling
Known = TypeVar("Known")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """As its data sheet says; FLOP/s are fp16 tensor FLOP/s without sparsity."""

    memory_gib: int
    bandwidth_gb_per_s: float
    fp16_tflop_per_s: float


V100_PCIE = Gpu(memory_gib=16, bandwidth_gb_per_s=900, fp16_tflop_per_s=112)
V100_SXM = Gpu(memory_gib=32, bandwidth_gb_per_s=900, fp16_tflop_per_s=125)
A100_40 = Gpu(memory_gib=40, bandwidth_gb_per_s=1_555, fp16_tflop_per_s=312)
A100_PCIE = Gpu(memory_gib=80, bandwidth_gb_per_s=1_935, fp16_tflop_per_s=312)
A100_SXM = Gpu(memory_gib=80, bandwidth_gb_per_s=2_039, fp16_tflop_per_s=312)
H100_NVL = Gpu(memory_gib=94, bandwidth_gb_per_s=3_900, fp16_tflop_per_s=835)
H100_SXM = Gpu(memory_gib=80, bandwidth_gb_per_s=3_350, fp16_tflop_per_s=989)


@dataclass(frozen=True, slots=True)
class Sku:
    """A virtual machine for managed compute."""

    cores: int
    gpus: int
    gpu: Gpu

    @property
    def memory_bytes(self) -> int:
        return self.gpus * self.gpu.memory_gib * GIB

    @property
    def bytes_per_ms(self) -> float:
        """What it reads from its GPUs' memory, after the efficiency."""
        return self.gpus * self.gpu.bandwidth_gb_per_s * 1e6 * BANDWIDTH_EFFICIENCY

    @property
    def flop_per_ms(self) -> float:
        return self.gpus * self.gpu.fp16_tflop_per_s * 1e9 * FLOPS_EFFICIENCY


SKUS = {  # as Azure names them, without the prefix Standard_
    "NC6s_v3": Sku(6, 1, V100_PCIE),
    "NC12s_v3": Sku(12, 2, V100_PCIE),
    "NC24s_v3": Sku(24, 4, V100_PCIE),
    "ND40rs_v2": Sku(40, 8, V100_SXM),
    "NC24ads_A100_v4": Sku(24, 1, A100_PCIE),
    "NC48ads_A100_v4": Sku(48, 2, A100_PCIE),
    "NC96ads_A100_v4": Sku(96, 4, A100_PCIE),
    "ND96asr_v4": Sku(96, 8, A100_40),
    "ND96amsr_A100_v4": Sku(96, 8, A100_SXM),
    "NC40ads_H100_v5": Sku(40, 1, H100_NVL),
    "NC80adis_H100_v5": Sku(80, 2, H100_NVL),
    "ND96isr_H100_v5": Sku(96, 8, H100_SXM),
}
_A100_ND = ("ND96asr_v4", "ND96amsr_A100_v4")
_A100_80 = ("NC24ads_A100_v4", "NC48ads_A100_v4", "NC96ads_A100_v4", "ND96amsr_A100_v4")
_ANY_PHI_3_MINI = ("NC6s_v3", "NC12s_v3", "NC24s_v3", "ND40rs_v2", *_A100_80, "ND96asr_v4")
_TWO_A100 = ("NC48ads_A100_v4", "NC96ads_A100_v4", "ND96amsr_A100_v4")
_H100 = ("NC40ads_H100_v5", "NC80adis_H100_v5", "ND96isr_H100_v5")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """As its configuration file says. `skus` is what Azure's catalogue recommends; empty: it is not known here."""

    parameters_b: float  # billions
    active_b: float
    layers: int
    kv_dimension: int  # KV heads x head dimension
    skus: tuple[str, ...] = ()

    @property
    def weight_bytes(self) -> float:
        return self.parameters_b * 1e9 * BYTES_PER_WEIGHT

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_dimension * BYTES_PER_WEIGHT


SHAPES = {
    "Phi-3-mini-4k-instruct": ModelShape(3.82, 3.82, 32, 3_072, _ANY_PHI_3_MINI),
    "Phi-3-mini-128k-instruct": ModelShape(3.82, 3.82, 32, 3_072, _A100_80),
    "Phi-3-small-8k-instruct": ModelShape(7.39, 7.39, 32, 1_024, _A100_80),
    "Phi-3-small-128k-instruct": ModelShape(7.39, 7.39, 32, 1_024, _A100_80),
    "Phi-3-medium-4k-instruct": ModelShape(13.96, 13.96, 40, 1_280, ("ND40rs_v2", *_A100_80, "ND96asr_v4")),
    "Phi-3-medium-128k-instruct": ModelShape(13.96, 13.96, 40, 1_280, _TWO_A100),
    "Phi-3-vision-128k-instruct": ModelShape(4.15, 4.15, 32, 3_072, _TWO_A100),
    "Phi-3.5-mini-instruct": ModelShape(3.82, 3.82, 32, 3_072, _A100_80),
    "Phi-3.5-vision-instruct": ModelShape(4.15, 4.15, 32, 3_072, _A100_80),
    "Phi-3.5-MoE-instruct": ModelShape(41.9, 6.6, 32, 1_024, _TWO_A100),
    "Phi-4": ModelShape(14.7, 14.7, 40, 1_280, (*_A100_80, *_H100)),
    "Mistral-7B-Instruct": ModelShape(7.25, 7.25, 32, 1_024),
    "Mistral-Nemo-Instruct": ModelShape(12.2, 12.2, 40, 1_024),
    "Mixtral-8x7B-Instruct": ModelShape(46.7, 12.9, 32, 1_024, ("NC96ads_A100_v4", *_A100_ND)),
    "Mixtral-8x22B-Instruct": ModelShape(140.6, 39.1, 56, 1_024, ("ND96amsr_A100_v4",)),
    "Meta-Llama-3-8B-Instruct": ModelShape(8.03, 8.03, 32, 1_024),
    "Meta-Llama-3-70B-Instruct": ModelShape(70.6, 70.6, 80, 1_024),
    "Llama-2-7b-chat": ModelShape(6.74, 6.74, 32, 4_096, ("NC12s_v3", "NC24s_v3", "ND40rs_v2", *_A100_ND)),
    "Llama-2-13b-chat": ModelShape(13.0, 13.0, 40, 5_120, ("NC24s_v3", "ND40rs_v2", *_A100_ND)),
    "Llama-2-70b-chat": ModelShape(69.0, 69.0, 80, 1_024, ("ND40rs_v2", "NC96ads_A100_v4", *_A100_ND)),
}


def batching_of(model: str, sku: str, overrides: Mapping[str, float] | None = None) -> BatchingModel:
    """How the model is served on that machine; `overrides` are fields of BatchingModel that are known better.

    Names are compared without regard to case, a SKU with or without `Standard_`. Raises ConfigError for a SKU that is
    not in the table or not recommended for the model, a model that does not fit, an override that cannot be used, and a
    model that is not in the table unless the overrides state every field that has no default.
    """
    given = dict(overrides or {})
    _check_names(given)
    sku_name, machine = sku_of(sku)
    known = _find(SHAPES, model)
    return _made(_stated(model, given) if known is None else _estimated(*known, sku_name, machine) | given)


def usual_sku(model: str) -> str:
    """The smallest A100 machine that the model is offered on and fits, else the first; for any other NC24ads."""
    known = _find(SHAPES, model)
    if known is None:
        return _A100_80[0]
    offered = known[1].skus or _A100_80
    fitting = (sku for sku in _A100_80 if sku in offered and _room_bytes(known[1], SKUS[sku]) > 0)
    return next(fitting, offered[0])


def sku_of(name: str) -> tuple[str, Sku]:
    """The SKU under its name in the table. Raises ConfigError naming those there are."""
    found = _find(SKUS, name.strip().removeprefix("Standard_").removeprefix("standard_"))
    if found is None:
        raise ConfigError(f"SKU {name} is not in the table; take one of {', '.join(SKUS)}")
    return found


def _estimated(model: str, shape: ModelShape, sku_name: str, sku: Sku) -> dict[str, float]:
    if shape.skus and sku_name not in shape.skus:
        raise ConfigError(f"{model} is not offered on {sku_name}; take one of {', '.join(shape.skus)}")
    kv_tokens = int(_room_bytes(shape, sku) / shape.kv_bytes_per_token)
    if kv_tokens < 1:
        raise ConfigError(
            f"{model} needs {shape.weight_bytes / GIB:.1f} GiB for its weights; {sku_name} has "
            f"{sku.memory_bytes / GIB * MEMORY_SHARE:.1f} GiB to give; take a SKU with more GPU memory"
        )
    kv_read_ms = TYPICAL_CONTEXT_TOKENS * shape.kv_bytes_per_token / sku.bytes_per_ms
    return {
        "iteration_base_ms": shape.weight_bytes / sku.bytes_per_ms,
        "iteration_per_sequence_ms": kv_read_ms + SEQUENCE_OVERHEAD_MS,
        "prefill_per_token_ms": 2 * shape.active_b * 1e9 / sku.flop_per_ms,
        "kv_tokens": kv_tokens,
    }


def _room_bytes(shape: ModelShape, sku: Sku) -> float:
    """What the weights leave for the KV cache."""
    return sku.memory_bytes * MEMORY_SHARE - shape.weight_bytes


def _stated(model: str, given: dict[str, float]) -> dict[str, float]:
    """The parameters of a model of which only those are known."""
    needed = [entry.name for entry in fields(BatchingModel) if entry.default is MISSING]
    missing = [name for name in needed if name not in given]
    if missing:
        flags = " ".join(f"--serving {name}=NUMBER" for name in missing)
        raise ConfigError(f"model {model} is not in the table ({', '.join(SHAPES)}); state how it is served: {flags}")
    return given


def _check_names(given: Mapping[str, float]) -> None:
    names = [entry.name for entry in fields(BatchingModel)]
    for name in given:
        if name not in names:
            raise ConfigError(f"--serving {name}: the model of managed compute has {', '.join(names)}")


def _made(values: Mapping[str, float]) -> BatchingModel:
    """Counts may come as floats, from a command line."""
    whole = {"prefill_chunk_tokens", "max_running", "kv_tokens"}
    typed = {
        name: int(value) if name in whole and float(value).is_integer() else value for name, value in values.items()
    }
    try:
        return BatchingModel(**typed)  # type: ignore[arg-type]
    except ValueError as error:
        raise ConfigError(f"--serving {error}") from None


def _find(table: Mapping[str, Known], name: str) -> tuple[str, Known] | None:
    return next(((known, entry) for known, entry in table.items() if known.lower() == name.lower()), None)
