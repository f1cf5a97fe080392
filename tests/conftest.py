"""What all the processes of the tests share."""

import os
import sys

import pytest

# As in the Makefile: where containers forbid bytecode, each of hundreds of processes would compile all it imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(scope="module")
def browser():
    """A browser without a page."""
    from tests.browsers import launched

    with launched() as started:
        yield started
