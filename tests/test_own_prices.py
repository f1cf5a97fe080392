"""A model that the price book does not know is planned with a book of one's own, as the README has it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.commands import told
from tests.runs import synthetic_run

README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    target = {"dialect": "openai", "model": "my-model", "url": "http://127.0.0.1:9/v1"}
    return synthetic_run(tmp_path_factory.mktemp("own"), 300, target=target)


def test_the_price_book_of_the_readme_prices_its_model(run, tmp_path):
    (book,) = (block for block in re.findall(r"```toml\n(.*?)```", README, re.DOTALL) if "currency" in block)
    (tmp_path / "prices.toml").write_text(book)
    plan = json.loads(told(tmp_path, "plan", run.folder, "--prices", "prices.toml", "--json").stdout)
    assert (plan["serverless"]["input_usd_per_1k"], plan["serverless"]["output_usd_per_1k"]) == (0.0002, 0.0008)
    assert plan["ahead"]["recommendation"].startswith("Serverless with")
    assert "my-model" in told(tmp_path, "prices", "show", "--book", "prices.toml").stdout


def test_without_one_the_plan_says_how_to_give_it(run, tmp_path):
    plan = json.loads(told(tmp_path, "plan", run.folder, "--json").stdout)
    for text in (plan["ahead"]["recommendation"], " ".join(plan["assumptions"])):
        assert "plan with --prices FILE, a price book that has it under [serverless.models]" in text
