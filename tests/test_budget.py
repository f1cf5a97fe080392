"""The budget and the auto-stop, on a virtual clock: what they let pass, and when they end a run."""

from __future__ import annotations

import heapq
import random

import pytest

from loadgen.autostop import ErrorWindow, denial
from loadgen.backoff import Patience
from loadgen.budget import Budget, Price
from loadgen.config import BudgetConfig, RunConfig
from loadgen.errors import ConfigError, TargetRefused
from loadgen.guards import Guards, StopCause
from loadgen.loadtest import load_config
from loadgen.samples import Outcome, Sample
from loadgen.target import address_of, check_budgeted

PRICE = Price(input_usd_per_1k=0.00013, output_usd_per_1k=0.00052)
LARGEST_ERROR = 40  # tokens by which the estimate of a prompt may be too low


def play(seed: int) -> None:
    """One schedule: arrivals, answers that cost more or less than estimated, and answers that never say."""
    dice = random.Random(seed)
    limits = {"requests": dice.randint(1, 40), "tokens": dice.randint(1, 20_000), "usd": dice.uniform(0, 0.005)}
    limits = {name: limit for name, limit in limits.items() if dice.random() < 0.7}
    budget = Budget(**limits)  # type: ignore[arg-type]
    at, mean_s = 0.0, dice.choice([0.01, 0.5, 5.0])
    answers: list[tuple[float, int, int, float, int, float]] = []  # when, number, estimate, real usage
    used_tokens, used_usd, sent, most_in_flight, refused = 0, 0.0, 0, 0, False
    for number in range(50):
        at += dice.expovariate(2.0)
        while answers and answers[0][0] <= at:
            _, _, tokens, usd, real_tokens, real_usd = heapq.heappop(answers)
            budget.settle(real_tokens - tokens, real_usd - usd)
        prompt, most = dice.randint(1, 400), dice.randint(1, 800)
        tokens, usd = prompt + most, PRICE.usd(prompt, most)
        if not budget.reserve(tokens, usd):
            refused = True
            continue
        assert not refused, "after the first refusal nothing passes, however small"
        sent += 1
        real_prompt, completion = max(1, prompt + dice.randint(-LARGEST_ERROR, LARGEST_ERROR)), dice.randint(0, most)
        real_tokens, real_usd = real_prompt + completion, PRICE.usd(real_prompt, completion)
        if dice.random() < 0.1:  # no usage was said: what it cost is taken to be the estimate
            real_tokens, real_usd = tokens, usd
        used_tokens, used_usd = used_tokens + real_tokens, used_usd + real_usd
        heapq.heappush(answers, (at + dice.expovariate(1 / mean_s), number, tokens, usd, real_tokens, real_usd))
        most_in_flight = max(most_in_flight, len(answers))
    assert sent <= limits.get("requests", 50)
    assert used_tokens <= limits.get("tokens", 1 << 62) + most_in_flight * LARGEST_ERROR
    assert used_usd <= limits.get("usd", 1e9) + most_in_flight * PRICE.usd(LARGEST_ERROR, 0) + 1e-9
    assert (budget.used_up is not None) == refused


def test_in_5_000_schedules_no_budget_is_passed_by_more_than_the_estimates_of_what_is_in_flight_are_wrong() -> None:
    for seed in range(5_000):
        play(seed)


def test_what_is_given_back_can_be_used_and_what_is_never_known_stays_spent() -> None:
    budget = Budget(tokens=1_000)
    assert budget.reserve(600, 0.0)
    budget.settle(-500, 0.0)  # 100 really
    assert budget.reserve(600, 0.0)  # of which the usage never becomes known
    assert budget.use() == {"tokens": {"used": 700.0, "limit": 1_000.0}}
    assert not budget.reserve(301, 0.0)
    assert budget.used_up == "the next request might have passed the budget of 1,000 tokens"
    assert not budget.reserve(1, 0.0)


@pytest.mark.parametrize(
    ("budget", "tokens", "usd", "complaint"),
    [
        (Budget(tokens=100), 101, 0.0, r"is estimated at 101 tokens, .* 100 tokens: raise --budget-tokens"),
        (Budget(usd=0.01), 5, 0.02, r"is estimated at \$0.020000, .* \$0.01: raise --budget-usd"),
    ],
)
def test_a_budget_that_does_not_reach_for_one_request_is_an_error(
    budget: Budget, tokens: int, usd: float, complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        budget.check_fits(tokens, usd, "a request of scenario chat")


def test_the_first_refusal_ends_the_run_and_a_401_does_unless_it_is_told_not_to() -> None:
    ended: list[tuple[str, StopCause]] = []
    guards = Guards(BudgetConfig(requests=1), auto_stop=True)
    guards.halt = lambda reason, cause: ended.append((reason, cause))
    assert guards.reserve(5, 0.0) and not guards.reserve(5, 0.0)
    assert ended == [("the budget of 1 requests is used up", StopCause.BUDGET)]
    refused = Sample(seq=0, scenario="chat", target="https://x", due_ns=0, status=403, outcome=Outcome.REJECTED.value)
    guards.see(refused)
    assert ended[1] == (denial("https://x", 403), StopCause.AUTO_STOP)
    assert "none was given" in denial("https://x", 401)
    guards.keys = {"https://x": "the key from the environment variable MY_KEY"}
    guards.see(refused)
    assert ended.pop()[0].endswith("answered 403: the key from the environment variable MY_KEY may not do this")
    unarmed = Guards(BudgetConfig(), auto_stop=False)
    unarmed.halt = guards.halt
    unarmed.see(refused)
    assert len(ended) == 2 and unarmed.budget is None


def counts(ok: int = 0, **others: int) -> dict[str, int]:
    return {"ok": ok, **others}


@pytest.mark.parametrize(
    ("looks", "stops"),
    [
        pytest.param([(10.0, counts(server_error=20))], True, id="twenty errors in the first ten seconds"),
        pytest.param([(9.9, counts(server_error=500))], False, id="too early to tell"),
        pytest.param([(10.0, counts(server_error=19))], False, id="too few to tell"),
        pytest.param([(30.0, counts(ok=2, timeout=18))], True, id="nine in ten"),
        pytest.param([(30.0, counts(ok=3, timeout=17))], False, id="less than nine in ten"),
        pytest.param([(30.0, counts(rejected=10, network=5, broken_stream=5))], True, id="every kind of error"),
        pytest.param([(30.0, counts(throttled=900, server_error=30))], False, id="a 429 is an answer"),
        pytest.param([(30.0, counts(filtered=40))], False, id="content safety is no error"),
        pytest.param([(30.0, counts(dropped=99, cancelled=99, server_error=19))], False, id="what never ended is none"),
        pytest.param(
            [(100.0, counts(ok=5_000)), (160.0, counts(ok=5_002, network=18))], True, id="only the last minute counts"
        ),
        pytest.param(
            [(100.0, counts(ok=5_000)), (130.0, counts(ok=5_000, network=30))], False, id="all of the last minute"
        ),
        pytest.param(
            [(1.0, counts(network=500)), (62.0, counts(network=500, ok=25))], False, id="what was before it is over"
        ),
    ],
)
def test_the_auto_stop_judges_what_finished_in_the_last_minute(
    looks: list[tuple[float, dict[str, int]]], stops: bool
) -> None:
    window = ErrorWindow()
    reasons = [window.look(at_s, outcomes) for at_s, outcomes in looks]
    assert reasons[:-1] == [None] * (len(looks) - 1)
    assert (reasons[-1] is not None) == stops


@pytest.mark.parametrize("users", [1, 2, 5, 10, 19])
@pytest.mark.parametrize("asked_s", [None, 0.0, 30.0, 60.0])
def test_users_that_hold_back_from_a_dead_deployment_are_stopped_in_two_minutes(
    users: int, asked_s: float | None
) -> None:
    patience, window, failed = Patience(seed=1), ErrorWindow(), 0
    due = [(0.0, user) for user in range(users)]
    for second in range(1, 300):
        while due[0][0] + 0.002 <= second:
            at_s, user = heapq.heappop(due)
            heapq.heappush(due, (at_s + 0.002 + patience.failure_s(user, failed, asked_s), user))
            failed += 1
        if window.look(float(second), counts(server_error=failed)) is not None:
            break
    assert second <= 122


@pytest.mark.parametrize(
    ("looks", "reason"),
    [
        pytest.param(
            [(1, 0, 1), (60, 0, 4), (61, 0, 5)], "all 5 attempts of the last 61 s failed", id="five in a minute"
        ),
        pytest.param([(1, 0, 1), (50, 0, 4), (59, 0, 9)], None, id="less than a minute"),
        pytest.param(
            [(1, 0, 1), (100, 0, 2), (121, 0, 3)], "all 3 attempts of the last 121 s failed", id="three in two"
        ),
        pytest.param([(1, 0, 1), (121, 0, 2)], None, id="two may be chance"),
        pytest.param([(1, 0, 3), (60, 1, 3), (61, 1, 9)], None, id="an answer in between"),
        pytest.param([(1, 0, 5), (61, 0, 5)], None, id="the last is long ago: others take their time"),
        pytest.param([(1, 1, 0), (200, 1, 0), (201, 1, 9)], None, id="what was quiet has not failed"),
    ],
)
def test_few_attempts_end_a_run_where_all_of_them_failed(looks: list[tuple[int, int, int]], reason: str | None) -> None:
    window = ErrorWindow()
    said = [window.look(float(at_s), counts(ok=ok, timeout=failed)) for at_s, ok, failed in looks]
    assert said[:-1] == [None] * (len(looks) - 1)
    assert said[-1] == (reason and f"auto-stop: {reason}")


def test_a_look_costs_the_same_after_an_hour_as_after_a_minute() -> None:
    window = ErrorWindow()
    for second in range(1, 3_600):
        window.look(float(second), counts(ok=second * 100))
    assert len(window._looks) <= 62


def test_load_on_another_machine_must_have_a_budget_of_what_it_uses() -> None:
    other, own = address_of("https://x.inference.ai.azure.com"), address_of("http://127.0.0.1:9")
    for limits in ({"requests": 1}, {"tokens": 1}, {"usd": 1}):
        check_budgeted(other, BudgetConfig.model_validate(limits))
    check_budgeted(own, BudgetConfig())
    with pytest.raises(TargetRefused, match="--budget-requests N, --budget-tokens N or --budget-usd N. Nothing"):
        check_budgeted(other, BudgetConfig(wall=60))


def test_dollars_are_no_budget_for_a_deployment_paid_by_the_hour() -> None:
    with pytest.raises(ConfigError, match="--budget-wall or --budget-requests instead"):
        load_config(None, {"target.kind": "managed", "budget.usd": 5}, {})
    config = load_config(None, {"target.kind": "managed", "budget.wall": "10m"}, {})
    assert isinstance(config, RunConfig) and config.budget.wall == 600
