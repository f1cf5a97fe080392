"""`headroom run --check` says what a user's own scenario would say only when the load begins; nothing is sent."""

from __future__ import annotations

import pytest

from tests.commands import told

MINE = """from loadgen.users import DeploymentUser
from loadgen.requests import chat
print("a scenario prints")

class Mine(DeploymentUser):
    def request(self, arrival):
        return chat(self.scenario, [{"role": "user", "content": "x"}], max_tokens=self.max_tokens(arrival))
"""
CASES = {
    "a class that is not there": (MINE, "mine.py:Other", "mine.py has no class Other that is a DeploymentUser"),
    "a request that fails": (
        MINE.replace("return chat", "return self.nothing or chat"),
        "mine.py:Mine",
        "request() raised AttributeError: 'mine.py:Mine' object has no attribute 'nothing' (mine.py, line 7)",
    ),
    "a file that ends the process, as if all were well": (
        f"{MINE}\nimport os\nos._exit(0)\n",
        "mine.py:Mine",
        "scenario mine.py:Mine: loading it ended the process with 0",
    ),
}


@pytest.mark.parametrize(
    ("source", "place", "complaint"),
    [pytest.param(*CASES[name], id=name, marks=() if "class" in name else pytest.mark.long) for name in CASES],
)
def test_what_is_wrong_with_a_scenario_is_told_before_a_run(tmp_path, source, place, complaint):
    (tmp_path / "mine.py").write_text(source)
    done = told(tmp_path, "run", "--check", "--target", "sim", "--scenario", place)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_one_that_is_right_is_printed_as_it_was_and_its_own_words_are_no_part_of_the_json(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    key = {"AZURE_INFERENCE_CREDENTIAL": "no-secret"}
    remote = ["--target", "https://host.example", "--yes-target", "host.example", "--budget-requests", "5"]
    done = told(tmp_path, "run", "--check", *remote, "--scenario", "mine.py:Mine", **key)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    assert ("a scenario prints" in done.stdout, "a scenario prints" in done.stderr) == (False, True)
