"""`headroom run --check` says what a user's own scenario would say only when the load begins; nothing is sent."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.commands import told

MINE = """from loadgen.users import DeploymentUser
from loadgen.requests import chat
print("a scenario prints")

class Mine(DeploymentUser):
    def request(self, arrival):
        return chat(self.scenario, [{"role": "user", "content": "x"}], max_tokens=self.max_tokens(arrival))
"""
NOTHING = MINE.replace("return chat", "return self.nothing or chat")
CASES = {
    "a class that is not there": (MINE, "mine.py:Other", "mine.py has no class Other that is a DeploymentUser"),
    "a request that fails": (
        NOTHING,
        "mine.py:Mine",
        "request() raised AttributeError: 'mine.py:Mine' object has no attribute 'nothing' (mine.py, line 7)",
    ),
    "a request that fails where nothing limits it": (
        NOTHING,
        "mine.py:Mine",
        "request() raised AttributeError: 'mine.py:Mine' object has no attribute 'nothing' (mine.py, line 7)",
        "--kind",
        "managed",
    ),
    "a file that ends the process, as if all were well": (
        f"{MINE}\nimport os\nos._exit(0)\n",
        "mine.py:Mine",
        "scenario mine.py:Mine: loading it ended the process with 0",
    ),
}


@pytest.mark.parametrize(
    ("source", "place", "complaint", "flags"),
    [
        pytest.param(
            *case[:3],
            case[3:],
            id=name,
            marks=() if "class" in name or "limits" in name else pytest.mark.long,
        )
        for name, case in CASES.items()
    ],
)
def test_what_is_wrong_with_a_scenario_is_told_before_a_run(tmp_path, source, place, complaint, flags):
    (tmp_path / "mine.py").write_text(source)
    done = told(tmp_path, "run", "--check", "--target", "sim", "--scenario", place, *flags)
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


def test_what_a_scenario_prints_need_be_no_text_and_what_it_leaves_running_is_not_waited_for(tmp_path):
    started = "import subprocess\nleft = subprocess.Popen(['sleep', '30'])\nopen('left', 'w').write(str(left.pid))\n"
    (tmp_path / "mine.py").write_text(f"import os\nos.write(1, b'\\xff\\xfe here\\n')\n{started}{MINE}")
    began = time.monotonic()
    try:
        done = told(tmp_path, "run", "--check", "--target", "sim", "--scenario", "mine.py:Mine")
    finally:
        os.kill(int((tmp_path / "left").read_text()), signal.SIGKILL)
    assert done.returncode == 0, done.stderr
    assert "\ufffd\ufffd here\na scenario prints\n" in done.stderr
    assert time.monotonic() - began < 25
