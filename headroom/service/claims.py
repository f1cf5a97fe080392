"""The proof that a job's process began, and that it lives: a file that it makes once and holds locked until it ends.

The file appears at once with its lock held and its process named, so whoever sees it knows; it is made by a link, which
only one can make, so a launch is either begun by its process or revoked by the service, and never both.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Claim:
    pid: int
    started_ticks: int  # of the kernel's clock since boot: with the pid it names a process for good


def take(path: Path) -> bool:
    """In the job's process, which holds it from now on, its children included; False where the launch was revoked."""
    return _make(path, json.dumps({"pid": os.getpid(), "started_ticks": started_ticks(os.getpid())}), hold=True)


def revoke(path: Path) -> bool:
    """No process can begin this launch any more; False where one has."""
    return _make(path, "{}", hold=False)


def _make(path: Path, content: str, *, hold: bool) -> bool:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, content.encode())
    os.fsync(descriptor)
    try:
        os.link(draft, path)
        made = True
    except FileExistsError:
        made = False
    draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    os.fsync(directory)  # after a power cut, too, it is known that the job began
    os.close(directory)
    if hold and made:
        os.set_inheritable(descriptor, True)  # what a killed process leaves behind for a moment counts as its life
    else:
        os.close(descriptor)
    return made


def lives(path: Path) -> bool:
    """Whether the process that made the claim, or a child that inherited it, has not ended."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def tell(path: Path, number: signal.Signals) -> bool:
    """Send a signal to the process of a claim, and to no other that has got its pid; False where it has ended."""
    claim = read(path)
    if claim is None or not lives(path):
        return False
    try:
        process = os.pidfd_open(claim.pid)
    except OSError:
        return False
    try:
        if started_ticks(claim.pid) != claim.started_ticks:
            return False
        signal.pidfd_send_signal(process, number)
    except OSError:
        return False
    finally:
        os.close(process)
    return True


def kill_holders(path: Path) -> int:
    """Kill every process that holds the claim, a child that hangs after its parent's death too; how many there were.

    Whoever asks must hold no descriptor of it. Raises nothing for one that ends meanwhile, or is another user's.
    """
    try:
        claim = path.stat()
    except OSError:
        return 0
    killed = 0
    for pid in sorted(int(each.name) for each in Path("/proc").iterdir() if each.name.isdigit()):
        if pid == os.getpid():
            continue
        with suppress(OSError):
            process = os.pidfd_open(pid)  # first, so that what is found to hold the claim is what is killed
            try:
                if _holds(pid, claim):
                    signal.pidfd_send_signal(process, signal.SIGKILL)
                    killed += 1
            finally:
                os.close(process)
    return killed


def _holds(pid: int, file: os.stat_result) -> bool:
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            if os.path.samestat(descriptor.stat(), file):
                return True
    return False


def read(path: Path) -> Claim | None:
    """None where there is none, or it was revoked."""
    try:
        found = json.loads(path.read_bytes())
        return Claim(int(found["pid"]), int(found["started_ticks"]))
    except (OSError, ValueError, KeyError):
        return None


def started_ticks(pid: int) -> int | None:
    """None of a process that is not there."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])  # field 22 of proc(5); the name in brackets may hold blanks
