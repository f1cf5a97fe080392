"""The process of a job: it claims its launch, does what `headroom` does with its arguments, and writes the exit code.

    python -m headroom.service.job_process FOLDER LAUNCH ARGUMENT...

It belongs to nobody: a service that is killed leaves it alone, and the next one finds its claim and its exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path


def claim_path(folder: Path, launch: int) -> Path:
    return folder / f"claim-{launch}"


def exit_path(folder: Path, launch: int) -> Path:
    return folder / f"exit-{launch}.json"


def told_path(folder: Path, launch: int) -> Path:
    """There as soon as the process was told to end, by whichever service: a second signal would cut its work short."""
    return folder / f"told-{launch}"


def exit_code_of(folder: Path, launch: int) -> int | None:
    """None where the process has not come to its end by itself."""
    try:
        return int(json.loads(exit_path(folder, launch).read_bytes())["exit_code"])
    except (OSError, ValueError, KeyError):
        return None


def main(arguments: list[str]) -> int:
    from headroom.service import claims  # noqa: PLC0415 - the signal's answer comes first

    folder, launch = Path(arguments[0]), int(arguments[1])
    if not claims.take(claim_path(folder, launch)):
        return 0  # the service came back meanwhile, and will start it anew
    code = _headroom(arguments[2:])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _write(exit_path(folder, launch), code)
    return code


def _headroom(arguments: list[str]) -> int:
    from headroom.__main__ import main as headroom  # noqa: PLC0415

    sys.argv = ["headroom", *arguments]
    try:
        return headroom()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0 if ended.code is None else 1
    except KeyboardInterrupt:
        return 105
    except BaseException:  # whatever it was, the exit code is written
        traceback.print_exc()
        return 1


def _write(path: Path, code: int) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}")
    with draft.open("w") as file:
        json.dump({"exit_code": code}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
