"""What all the processes of the tests share, and which tests run aside."""

import ast
import os
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings

# As in the Makefile: where containers forbid bytecode, each of hundreds of processes would compile all it imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

settings.register_profile("any machine", deadline=None)  # how long an example takes is no property of it
settings.load_profile("any machine")

# What a test file imports, itself or by another file of the tests, whose outcome may depend on when things happen.
TIMED = {
    "asyncio", "azure", "concurrent", "gevent", "httpx", "locust", "multiprocessing", "openai", "playwright", "signal",
    "socket", "ssl", "starlette", "subprocess", "threading", "time", "uvicorn",
}  # fmt: skip


def pytest_ignore_collect(collection_path, config):
    """What runs alone need not read what runs aside, nor the other way round. A file that was named is read."""
    chosen = config.option.markexpr
    if "aside" not in chosen or not collection_path.match("test_*.py"):
        return None
    if "not aside" in chosen:
        return _computes(collection_path) or None
    return not (_computes(collection_path) or "mark.aside" in collection_path.read_text()) or None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if _computes(item.path):
            item.add_marker("aside")


@cache
def _computes(path: Path) -> bool:
    names = set(_imported(ast.parse(path.read_text())))
    ours = {Path(__file__).parent / f"{name.split('.')[1]}.py" for name in names if name.startswith("tests.")}
    return TIMED.isdisjoint(name.split(".")[0] for name in names) and all(_computes(each) for each in ours - {path})


def _imported(tree: ast.Module):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "tests":
            yield from (f"tests.{name.name}" for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


@pytest.fixture(scope="module")
def browser():
    """A browser without a page."""
    from tests.browsers import launched

    with launched() as started:
        yield started
