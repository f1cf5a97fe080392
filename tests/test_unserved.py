"""A scenario that was never served is the first doubt of a run that is valid without it."""

from __future__ import annotations

import pytest

from loadgen.samples import Outcome, Phase
from planner.assemble import plan_run
from tests.runs import answered, make_run

OTHERS = "all latencies and answers are of the other scenarios: mend it, or leave it out of the mix (--scenario)"
NO_IMAGES = {"outcome": Outcome.REJECTED, "status": 400, "error": "invalid_request: this model takes no images"}


def judged(tmp_path, vision):
    """Four hundred good answers of chat, and these of vision; its doubts."""
    rows = [answered(i, i / 8) for i in range(400)]
    rows += [answered(400 + i, i, **({"scenario": "vision"} | each)) for i, each in enumerate(vision)]
    found = plan_run(make_run(tmp_path, sorted(rows, key=lambda row: row.due_ns))).validity
    assert found.valid
    return found.doubts


@pytest.mark.parametrize(
    ("vision", "says"),
    [
        pytest.param(
            [NO_IMAGES] * 20,
            "every request of the scenario vision was rejected (20), with 400: invalid_request: this model takes no images",
            id="all rejected: with what the server says",
        ),
        pytest.param([NO_IMAGES], "every request of the scenario vision was rejected (1), with 400", id="even one"),
        pytest.param(
            [NO_IMAGES] * 9 + [{"outcome": Outcome.TIMEOUT, "status": None}],
            "no request of the scenario vision was answered (9 rejected, 1 timeout)",
            id="failed in several ways",
        ),
        pytest.param(
            [{"outcome": Outcome.THROTTLED, "status": 429}] * 12,
            "no request of the scenario vision was answered (12 throttled)",
            id="always refused, as larger than what is left",
        ),
        pytest.param(
            [NO_IMAGES] * 10 + [{"phase": Phase.WARMUP}],
            "no request of the scenario vision was answered (10 rejected)",
            id="answered in the warm-up alone",
        ),
    ],
)  # fmt: skip
def test_a_scenario_without_one_answer_is_the_first_doubt(tmp_path, vision, says):
    first, *others = judged(tmp_path, vision)
    assert first.startswith(says) and first.endswith(f"; {OTHERS}")
    assert not any(OTHERS in each for each in others)


@pytest.mark.parametrize(
    "vision",
    [
        pytest.param([{"outcome": Outcome.TIMEOUT, "status": None}] * 9, id="nine may all fail by chance"),
        pytest.param([NO_IMAGES] * 20 + [{}], id="one was answered"),
        pytest.param([{"outcome": Outcome.FILTERED, "status": 400}] * 20, id="the filter was meant to stop it"),
        pytest.param(
            [{"outcome": Outcome.CANCELLED, "status": None}] * 20, id="it was in flight when the run was stopped"
        ),
    ],
)
def test_nothing_is_said_of_a_scenario_that_is_served_or_was_hardly_tried(tmp_path, vision):
    assert not any(OTHERS in each for each in judged(tmp_path, vision))
