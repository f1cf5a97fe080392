"""Machines and models become serving parameters by the arithmetic that is stated, and refusals name what would do."""

from dataclasses import fields

import pytest

from loadgen.errors import ConfigError
from loadgen.simulator.batching import BatchingModel
from loadgen.simulator.hardware import SHAPES, SKUS, batching_of, sku_of, usual_sku
from loadgen.simulator.models import MODELS, Kind, model_of

STATED = {"iteration_base_ms": 9, "iteration_per_sequence_ms": 0.2, "prefill_per_token_ms": 0.04, "kv_tokens": 50_000}


def test_phi_3_mini_on_one_a100_by_hand():
    model = batching_of("Phi-3-mini-4k-instruct", "NC24ads_A100_v4")
    # 7.64 GB of weights at 60 % of 1,935 GB/s; a token's keys and values are 2 x 32 layers x 3,072 x 2 bytes = 393,216.
    assert model.iteration_base_ms == pytest.approx(6.5805, abs=1e-4)
    assert model.iteration_per_sequence_ms == pytest.approx(0.02 + 1_200 * 393_216 / 1.161e9, abs=1e-6)
    # 2 x 3.82 GFLOP a token at half of 312 TFLOP/s
    assert model.prefill_per_token_ms == pytest.approx(0.04897, abs=1e-5)
    # 72 of 80 GiB less the weights
    assert model.kv_tokens == int((72 * 2**30 - 7.64e9) / 393_216)
    assert (model.max_running, model.prefill_chunk_tokens, model.iteration_exponent) == (64, 2_048, 1)


def test_twice_the_gpus_take_half_the_time_and_hold_more_than_twice_the_tokens():
    one, two = (batching_of("Phi-4", sku) for sku in ("NC24ads_A100_v4", "NC48ads_A100_v4"))
    assert two.iteration_base_ms == pytest.approx(one.iteration_base_ms / 2)
    assert two.prefill_per_token_ms == pytest.approx(one.prefill_per_token_ms / 2)
    assert two.kv_tokens > 2 * one.kv_tokens


def test_a_mixture_of_experts_reads_all_its_weights_and_computes_with_the_active_ones():
    mixture, dense = (batching_of(name, "NC48ads_A100_v4") for name in ("Phi-3.5-MoE-instruct", "Phi-4"))
    assert mixture.iteration_base_ms > dense.iteration_base_ms
    assert mixture.prefill_per_token_ms < dense.prefill_per_token_ms


def test_every_model_fits_every_machine_it_is_offered_on_with_room_for_a_context():
    for name, shape in SHAPES.items():
        assert set(shape.skus) <= SKUS.keys(), name
        for sku in shape.skus:
            assert batching_of(name, sku).kv_tokens > 4_096, (name, sku)


@pytest.mark.parametrize(
    ("name", "cores", "gpus", "memory_gib"),
    [
        ("NC6s_v3", 6, 1, 16),
        ("NC24s_v3", 24, 4, 64),
        ("ND40rs_v2", 40, 8, 256),
        ("NC24ads_A100_v4", 24, 1, 80),
        ("NC96ads_A100_v4", 96, 4, 320),
        ("ND96asr_v4", 96, 8, 320),
        ("ND96amsr_A100_v4", 96, 8, 640),
        ("NC40ads_H100_v5", 40, 1, 94),
        ("ND96isr_H100_v5", 96, 8, 640),
    ],
)
def test_a_machine_has_the_cores_and_gpus_that_azure_lists(name, cores, gpus, memory_gib):
    found, sku = sku_of(f"Standard_{name}".lower())
    assert (found, sku.cores, sku.gpus, sku.memory_bytes) == (name, cores, gpus, memory_gib * 2**30)


def test_names_are_compared_without_case_and_prefix():
    assert batching_of("phi-4", "standard_nc24ads_a100_v4") == batching_of("Phi-4", "NC24ads_A100_v4")


def test_what_is_known_better_overrides_the_arithmetic():
    model = batching_of("Phi-4", "NC24ads_A100_v4", {"max_running": 7.0, "iteration_base_ms": 11.5})
    assert (model.max_running, model.iteration_base_ms) == (7, 11.5)
    assert isinstance(model.max_running, int)
    assert model.kv_tokens == batching_of("Phi-4", "NC24ads_A100_v4").kv_tokens


def test_a_model_that_is_not_in_the_table_is_served_as_stated():
    assert batching_of("mine", "NC6s_v3", STATED) == BatchingModel(**STATED)


@pytest.mark.parametrize(
    ("model", "sku", "overrides", "complaints"),
    [
        ("Phi-4", "NC7s", {}, ["SKU NC7s is not in the table", *SKUS]),
        ("Phi-4", "NC6s_v3", {}, ["Phi-4 is not offered on NC6s_v3", "NC24ads_A100_v4", "NC40ads_H100_v5"]),
        ("Mistral-Nemo-Instruct", "NC6s_v3", {}, ["needs 22.7 GiB", "NC6s_v3 has 14.4 GiB", "more GPU memory"]),
        ("mine", "NC6s_v3", {}, ["model mine is not in the table", *(f"--serving {name}=NUMBER" for name in STATED)]),
        ("mine", "NC6s_v3", STATED | {"speed": 1}, ["--serving speed", "max_running"]),
        ("mine", "nc9", STATED, ["SKU nc9"]),
        ("Phi-4", "NC24ads_A100_v4", {"max_running": 0.5}, ["--serving max_running must be at least 1, not 0.5"]),
        ("Phi-4", "NC24ads_A100_v4", {"kv_tokens": 9.5}, ["--serving kv_tokens must be a whole number, not 9.5"]),
        ("Phi-4", "NC24ads_A100_v4", {"iteration_base_ms": float("nan")}, ["--serving iteration_base_ms"]),
    ],
)
def test_what_cannot_be_served_is_refused_with_what_could(model, sku, overrides, complaints):
    with pytest.raises(ConfigError) as caught:
        batching_of(model, sku, overrides)
    assert all(complaint in str(caught.value) for complaint in complaints), str(caught.value)


def test_a_missing_parameter_of_an_unknown_model_is_asked_for_alone():
    given = {name: value for name, value in STATED.items() if name != "kv_tokens"}
    with pytest.raises(ConfigError) as caught:
        batching_of("mine", "NC6s_v3", given)
    assert str(caught.value).endswith("state how it is served: --serving kv_tokens=NUMBER")
    assert {field.name for field in fields(BatchingModel)} > STATED.keys()


@pytest.mark.parametrize("model", [model.name for model in MODELS if Kind.MANAGED in model.kinds])
def test_every_model_that_is_offered_managed_has_a_machine_that_holds_a_whole_context(model):
    batching = batching_of(model, usual_sku(model))
    assert batching.kv_tokens >= model_of(model, Kind.MANAGED).context_tokens


def test_the_usual_machine_is_the_smallest_a100_that_fits():
    assert usual_sku("phi-3-mini-4k-instruct") == "NC24ads_A100_v4"
    assert usual_sku("Phi-3-vision-128k-instruct") == "NC48ads_A100_v4"  # not offered on one GPU
    assert usual_sku("Meta-Llama-3-70B-Instruct") == "NC48ads_A100_v4"  # 141 GB of weights
    assert usual_sku("nobody's") == "NC24ads_A100_v4"
