"""The pictures of the service's pages, of the live page and of a sweep, of real runs on the simulated deployment: eight
minutes.

    python docs/pictures.py [NAME ...]        # all of them, or those of these names, like service-queue

It starts a service of its own on loopback, has it play some jobs, and looks at its pages in a Chromium that is here. On
a machine that is busy the runs may be invalid: then so the pictures say, and they are made again. Of a sweep it prints
what the manual has beside its picture.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

DOCS = Path(__file__).parent
BROWSERS = ("chromium", "google-chrome")
HEADROOM = (sys.executable, "-m", "headroom")
MIX = {"chat": 6, "streaming": 13}
SLO = ["ttft.p95<400ms"]
LIVE_S = 45  # into a minute's run
SETTLED_S = 1.0
SWEEP = re.compile(r"^headroom (sweep (?:.*\\\n)*.*)$", re.MULTILINE)  # its command in the manual


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, _page() as page:
        if not names or any(name.startswith("service-") for name in names):
            with _service(Path(folder, "runs")) as client:
                for name, place, height, wait_s in _pages(client):
                    if not names or f"service-{name}" in names:
                        _take(page, f"{client.base_url}{place}", f"service-{name}", height, wait_s)
        if not names or "live" in names:
            with _live(Path(folder)) as url:
                _take(page, url, "live", 1050, LIVE_S)
        if not names or "sweep" in names:
            _take(page, _swept(Path(folder)), "sweep", 1140, SETTLED_S)


@contextmanager
def _page() -> Iterator[Page]:
    browser = next(path for path in map(shutil.which, BROWSERS) if path)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        yield started.new_page(color_scheme="light")
        started.close()


@contextmanager
def _service(runs: Path) -> Iterator[httpx.Client]:
    process = subprocess.Popen([*HEADROOM, "serve", "--runs", str(runs), "--port", "0"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    url = process.stdout.readline().decode().strip()
    with httpx.Client(base_url=url, trust_env=False, timeout=60) as client:
        try:
            yield client
        finally:
            for job in client.get("/api/jobs").json()["jobs"]:
                if job["ended_utc"] is None:
                    client.delete(f"/api/jobs/{job['id']}")
                    _wait(client, job["id"])
            process.terminate()
            process.wait()


def _pages(client: httpx.Client) -> Iterator[tuple[str, str, int, float]]:
    """Each page of the manual once it shows what it is for, its height, and for how long it is looked at first."""
    base, new, short = (
        _submit(client, *asked)
        for asked in (
            ("release 3", ["main", "nightly"], {"rate": "6/s", "duration": "1m"}, {}),
            ("release 4", ["main", "nightly"], {"rate": "6/s", "duration": "1m", "seed": 2}, {}),
            ("tight quota", [], {"rate": "6/s", "duration": "30s"}, {"tokens_per_minute": 120_000}),
        )
    )
    for job in (base, new, short):
        _wait(client, job)
    yield "runs", "/runs", 800, SETTLED_S
    yield "run", f"/runs/{new}", 800, SETTLED_S
    yield "compare", f"/compare?base={base}&new={new}", 800, SETTLED_S
    yield "plan", f"/plan?run={new}&growth=3x", 800, SETTLED_S
    yield "submit", "/jobs/new", 800, SETTLED_S
    running = _submit(client, "chat and streaming", ["nightly"], {"rate": "6/s", "duration": "1m"}, {})
    _submit(client, "vision burst", ["vision"], {"rate": "3/s", "duration": "40s"}, {}, scenarios={"vision": 1})
    client.post("/api/jobs", json={"name": "each night", "schedule": "0 2 * * *", "config": {"scenarios": MIX}})
    while client.get(f"/api/jobs/{running}").json()["progress"] is None:
        time.sleep(0.5)
    yield "job", f"/jobs/{running}", 800, LIVE_S
    yield "queue", "/", 980, 4 * SETTLED_S


def _submit(
    client: httpx.Client, name: str, tags: list[str], load: dict[str, Any], quota: dict[str, Any], **config: Any
) -> str:
    sections = {"load": {"max_tokens": 128, **load}, "quota": quota, "scenarios": MIX, "slo": SLO, **config}
    answer = client.post("/api/jobs", json={"name": name, "tags": tags, "config": sections}).raise_for_status()
    return str(answer.json()["job"]["id"])


def _wait(client: httpx.Client, job: str) -> None:
    while client.get(f"/api/jobs/{job}").json()["job"]["ended_utc"] is None:
        time.sleep(0.5)


@contextmanager
def _live(folder: Path) -> Iterator[str]:
    """The live page of a run whose quota is too small for it, now that it begins."""
    flags = ["--rate", "8/s", "--tpm", "90000", "--throttle", "off", "--budget-usd", "0.20", "--out", "runs/spike"]
    flags += ["--spike", "20/s:8s@28s"]
    said = folder / "said"
    with said.open("w") as words:
        process = subprocess.Popen([*HEADROOM, "run", "--live", *flags], cwd=folder, stderr=words, stdout=words)
    try:
        while (found := re.search(r"live at (\S+)", said.read_text())) is None:
            if process.poll() is not None:
                raise SystemExit(said.read_text())
            time.sleep(0.2)
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _swept(folder: Path) -> str:
    """The page of the first sweep that the manual has the command of."""
    command = SWEEP.search((DOCS.parent / "README.md").read_text("utf-8"))
    assert command is not None
    words = shlex.split(command[1].replace("\\\n", ""))
    if subprocess.run([*HEADROOM, *words, "--out", "swept"], cwd=folder, check=False).returncode:
        raise SystemExit("no rate was found: make it again where nothing else runs")
    return (folder / "swept" / "report.html").as_uri()


def _take(page: Page, url: str, name: str, height: int, wait_s: float) -> None:
    """As a PNG of 256 colours, which is half the size and looks the same."""
    page.set_viewport_size({"width": 1280, "height": height})
    page.goto(url)
    page.wait_for_timeout(wait_s * 1_000)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(DOCS / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
