"""Memory over time: 200 streams against the simulated deployment, for half an hour.

Prints the resident memory of the load process, its recorder and the simulated deployment each minute, and at the end
how much each grew a minute after the first two. Ends with 1 if the load process grew by a megabyte a minute or more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from headroom.processes import serving
from loadgen.slo import parse_duration_ns

LIMIT_MB_PER_MINUTE = 1.0
SETTLES_S = 120.0  # until then caches, connections and the allocator's pools fill
LOOK_S = 5.0
ROLES = {" -m loadgen.recorder ": "recorder", " -m loadgen.simulator ": "simulator", " -m loadgen ": "load"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--duration", default="30m", help="how long the load lasts, 4m at least")
    parser.add_argument("--streams", type=int, default=200)
    arguments = parser.parse_args()
    seconds = parse_duration_ns(arguments.duration) / 1e9
    if seconds < 2 * SETTLES_S:
        parser.error(f"{arguments.duration} is too short for a slope: 4m at least")
    with tempfile.TemporaryDirectory(prefix="headroom-soak-") as folder:
        run = Path(folder) / "run"
        simulator = [sys.executable, "-m", "loadgen.simulator", "--port", "0", "--until-eof"]
        simulator += ["--tpm", "1000000000", "--rpm", "1000000000"]
        with (
            serving("the simulated deployment", simulator) as url,
            load(url, run, seconds, arguments.streams) as process,
        ):
            looks = watch(process)
    return verdict(looks, process.returncode)


def load(url: str, run: Path, seconds: float, streams: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "headroom", "run", "--target", url, "--users", str(streams)]
    command += ["--scenario", "streaming", "--throttle", "off", "--duration", f"{seconds:g}s"]
    command += ["--no-report", "--quiet", "--out", str(run)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, text=True)


def watch(process: subprocess.Popen[str]) -> list[tuple[float, dict[str, float]]]:
    """Seconds since the load process was first seen, and MB by role; until the load process is gone."""
    looks: list[tuple[float, dict[str, float]]] = []
    began_s, printed_s = 0.0, -60.0
    while process.poll() is None:
        used = resident_mb()
        if "recorder" in used:
            began_s = began_s or time.monotonic()
            at_s = time.monotonic() - began_s
            looks.append((at_s, used))
            if at_s - printed_s >= 60:
                printed_s = at_s
                words = ", ".join(f"{role} {mb:.1f} MB" for role, mb in sorted(used.items()))
                print(f"{at_s / 60:5.1f} min: {words}", flush=True)
        time.sleep(LOOK_S)
    return looks


def resident_mb() -> dict[str, float]:
    """By role, of the processes that this one has started."""
    return {role: mb for pid in descendants("self") for role, mb in role_of(pid)}


def descendants(pid: str) -> Iterator[str]:
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # ended since
            continue
        for child in children:
            yield child
            yield from descendants(child)


def role_of(pid: str) -> Iterator[tuple[str, float]]:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return
    role = next((role for sign, role in ROLES.items() if sign in command), None)
    resident = next((line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:")), None)
    if role is not None and resident is not None:
        yield role, int(resident) / 1024


def verdict(looks: list[tuple[float, dict[str, float]]], code: int | None) -> int:
    ends_s = looks[-1][0] if looks else 0.0
    slopes = {}
    for role in ROLES.values():
        points = [(at_s / 60, used[role]) for at_s, used in looks if SETTLES_S <= at_s <= ends_s and role in used]
        if len(points) < 2:
            print(f"{role}: too few looks")
            return 1
        slopes[role] = slope(points)
        print(f"{role}: {slopes[role]:+.3f} MB a minute after the first two, {points[-1][1]:.1f} MB at the end")
    print(f"the run ended with {code}")
    return 0 if slopes["load"] < LIMIT_MB_PER_MINUTE else 1


def slope(points: list[tuple[float, float]]) -> float:
    """By least squares."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


if __name__ == "__main__":
    sys.exit(main())
