"""The planner against published and independently computed figures."""

from pathlib import Path

import pytest

from loadgen.quota import Admission, Quota
from planner.cost import (
    Tokens,
    blended_usd_per_1k,
    break_even_output_share,
    break_even_tokens_per_hour,
    tokens_usd,
)
from planner.demand import demand_from_trace
from planner.prices import read_prices
from planner.quota import what_if

CONVERSATIONS = Path(__file__).parents[2] / "shared" / "data" / "AzureLLMInferenceTrace_conv.csv"
PHI_3_MINI = read_prices().token_price("Phi-3-mini-4k-Instruct")
OUTPUT_SHARE = 0.155  # of the tokens of the conversation trace
FULL_QUOTA = 200_000 * 60  # tokens an hour


@pytest.fixture(scope="module")
def conversations():
    if not CONVERSATIONS.exists():
        pytest.skip(f"{CONVERSATIONS.name} (Azure/AzurePublicDataset) is not here")
    return demand_from_trace(CONVERSATIONS)


def test_the_trace_is_the_one_that_the_figures_are_of(conversations):
    prompt, completion = (conversations.arrivals[name].sum() for name in ("prompt_tokens", "completion_tokens"))
    assert conversations.arrivals.height == 19_366
    assert completion / (prompt + completion) == pytest.approx(OUTPUT_SHARE, abs=0.0005)


@pytest.mark.parametrize(
    ("deployments", "minute", "bucket_60_s", "bucket_10_s"),
    [
        (1, "54.37", "33.60", "34.07"),
        (2, "15.91", "6.22", "7.22"),
        (3, "2.88", "0.56", "1.23"),
        (4, "0.07", "0.00", "0.01"),
        *((deployments, "0.00", "0.00", "0.00") for deployments in (5, 6, 10)),
    ],
)
def test_rejected_requests_of_the_conversation_trace(conversations, deployments, minute, bucket_60_s, bucket_10_s):
    """Percent refused of one hour at 200,000 tokens and 1,000 requests a minute, by tokens billed."""
    found = {
        window: what_if(conversations.arrivals, Quota(), deployments, admission=Admission.USAGE, window=window)
        for window in ("minute", "bucket 60 s", "bucket 10 s")
    }
    shares = [f"{table['refused_requests_share'].item():.2%}".rstrip("%") for table in found.values()]
    assert shares == [minute, bucket_60_s, bucket_10_s]


def test_rejected_tokens_of_the_conversation_trace_at_three_deployments(conversations):
    table = what_if(conversations.arrivals, Quota(), 3, admission="usage", window="minute")
    assert f"{table['refused_tokens_share'].item():.2%}" == "3.62%"


def test_a_full_quota_of_phi_3_mini_costs_less_than_one_gpu():
    prompt, completion = FULL_QUOTA * (1 - OUTPUT_SHARE), FULL_QUOTA * OUTPUT_SHARE
    per_hour_usd = tokens_usd(Tokens(prompt, completion), PHI_3_MINI)
    assert f"{per_hour_usd:.3f}" == "2.285"
    assert per_hour_usd < 3.06
    assert tokens_usd(Tokens(0, FULL_QUOTA), PHI_3_MINI) == pytest.approx(6.24)


@pytest.mark.parametrize(("sku", "share"), [("Standard_NC6s_v3", 0.32), ("Standard_NC24ads_A100_v4", 0.45)])
def test_the_output_share_at_which_a_gpu_costs_what_a_full_quota_does(sku, share):
    (found,) = (each for each in read_prices().skus_for("Phi-3-mini-4k", retired=True) if each.name == sku)
    usd_per_hour = found.usd_per_hour["eastus"]
    assert round(break_even_output_share(usd_per_hour, FULL_QUOTA, PHI_3_MINI), 2) == share


def test_the_volume_at_which_an_a100_costs_what_serverless_does_is_more_than_one_quota():
    assert blended_usd_per_1k(PHI_3_MINI, OUTPUT_SHARE) * 1_000 == pytest.approx(0.19045)
    volume = break_even_tokens_per_hour(3.673, PHI_3_MINI, OUTPUT_SHARE)
    assert f"{volume / 1e6:.1f}" == "19.3"
    assert round(volume / 60 / 1_000) == 321
