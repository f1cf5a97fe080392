"""Other people's words in a baseline reach no terminal, job or page as anything but words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.commands import told
from tests.compared_runs import several
from tests.test_hostile_names import is_plain, payloads

pytestmark = pytest.mark.aside

FORMS = {"--junit": "j.xml", "--markdown": "m.md", "--json": "c.json"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of three runs, and three runs that are slower."""
    cwd = tmp_path_factory.mktemp("compared")
    several(cwd, "base", range(1, 4))
    several(cwd, "new", range(11, 14), slower=1.5)
    assert told(cwd, "baseline", "save", "base", "--name", "main").returncode == 0
    return cwd


def with_words(document: dict[str, Any], text: str) -> dict[str, Any]:
    """The baseline with the text wherever others may have chosen it."""
    for run in document["runs"]:
        run["name"] = text + run["name"]
        run["outcomes"][text] = 50
        for key, value in run["circumstances"].items():
            run["circumstances"][key] = text if isinstance(value, str) else value
    return {**document, "name": text}


@pytest.mark.long
@payloads
def test_what_a_baseline_holds_is_shown_and_not_obeyed(saved: Path, payload: str) -> None:
    text = payload[:300].encode("utf-8", "replace").decode()
    file = saved / ".headroom" / "main.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps(with_words(json.loads(before), text)))
        forms = [part for flag, name in FORMS.items() for part in (flag, name)]
        for arguments in (["baseline", "show", "main"], ["baseline", "list"], ["compare", "main", "new", *forms]):
            done = told(saved, *arguments)
            assert is_plain(done.stdout) and is_plain(done.stderr.replace("headroom: ", "")), done.stdout + done.stderr
            assert "Traceback" not in done.stderr
        assert done.returncode == 98, done.stderr
        ET.fromstring((saved / "j.xml").read_bytes())
        for name in FORMS.values():
            assert is_plain((saved / name).read_text())
        assert not re.search(r"https?:|@\w|\[click\]|<h1>|<script", (saved / "m.md").read_text())
        github = told(saved, "compare", "main", "new", "--github", "--quiet", GITHUB_STEP_SUMMARY="")
        lines = github.stdout.splitlines()
        assert all(re.match(r"::(error|warning) title=[^:,]*::", line) for line in lines), lines
    finally:
        file.write_text(before)
