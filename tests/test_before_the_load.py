"""A run of several processes that has not begun: where it listens, and how it is stopped."""

from __future__ import annotations

import re
import time

import pytest

from tests.commands import deployment, start
from tests.servers import Server


@pytest.mark.long
def test_a_master_listens_at_a_free_port_and_says_which_and_the_file_stop_ends_it_with_105_and_no_folder(tmp_path):
    with Server(deployment) as server:
        master = start(tmp_path, "run", "--target", server.url, "--master", "--bind", "127.0.0.1:0", "--out", "run")
        try:
            said = master.stderr.readline()
            assert re.search(r"headroom worker --connect HOST:[1-9]\d{3,4}", said), said
            (tmp_path / "run" / "STOP").touch()
            began = time.monotonic()
            _, rest = master.communicate(timeout=20)
        finally:
            master.kill()
    assert (master.returncode, rest) == (
        105,
        "headroom: stopped by the file STOP before the load began; nothing was sent\n",
    )
    assert time.monotonic() - began < 5
    assert not (tmp_path / "run").exists()
    assert server.calls == []
