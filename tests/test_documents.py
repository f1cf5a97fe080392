"""Sets and sweeps on disk: read back whole, or refused by name and reason."""

import pytest

from headroom import run_sets
from loadgen.errors import RunFolderError
from planner import swept


@pytest.mark.parametrize("kind", [run_sets, swept], ids=["set", "sweep"])
@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(b"{", "cannot be read", id="half written"),
        pytest.param(b'{"format": 99}', "has format 99; this version of Headroom reads format 1", id="a later format"),
        pytest.param(b"[]", "has format None", id="no object"),
        pytest.param(b'{"format": 1}', "is damaged", id="nothing but its format"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_file_and_reason(tmp_path, kind, content, complaint):
    (tmp_path / kind.FILE).write_bytes(content)
    with pytest.raises(RunFolderError, match=rf"{kind.FILE} {complaint}"):
        kind.read(tmp_path)
