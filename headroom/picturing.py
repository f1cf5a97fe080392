"""Figures written as PNG files, painted by a Chromium that is here, or by kaleido where that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from dashboards.drawings import Drawing
from dashboards.pictures import SCALE, painted, painting_page, standing_alone
from loadgen.durable import publish_bytes
from loadgen.errors import ConfigError, RunFolderError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
ON_A_MAC = ("Google Chrome", "Chromium", "Microsoft Edge")
PAINTED_WITHIN_S = 120
VIRTUAL_MS = 60_000  # of the page's own clock, which runs as fast as the painting does
QUIET = (
    "--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-extensions", "--mute-audio",
)  # fmt: skip


def write_pngs(drawings: Mapping[str, Sequence[Drawing]], folder: Path) -> list[Path]:
    """Write each figure of all sections to `folder`/NAME.png; the files, in their order.

    Raises ConfigError where nothing here can paint, and RunFolderError where a file cannot be written.
    """
    images = _painted([each for section in drawings.values() for each in section])
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, image in images.items():
            publish_bytes(folder / f"{name}.png", image)
            written.append(folder / f"{name}.png")
    except OSError as error:
        raise RunFolderError(f"cannot write figures to {folder}: {error.strerror}") from None
    return written


def _painted(drawings: Sequence[Drawing]) -> dict[str, bytes]:
    browser = find_browser()
    if browser is not None:
        return _by_browser(browser, drawings)
    if find_spec("kaleido") is not None:
        try:
            return {each.name: standing_alone(each).to_image(format="png", scale=SCALE) for each in drawings}
        except RuntimeError:  # kaleido is here, its browser is not
            pass
    raise ConfigError(
        "--png: no Chromium, Chrome or Edge is here to paint the figures: install one (apt install chromium), or "
        "kaleido with a browser of its own (pip install kaleido, then plotly_get_chrome); or save a figure from the "
        "report with the camera above it"
    )


def find_browser() -> str | None:
    """The program of a browser that can paint, by its usual names."""
    found = (shutil.which(name) for name in BROWSERS)
    mac = (Path(f"/Applications/{name}.app/Contents/MacOS/{name}") for name in ON_A_MAC)
    return next((path for path in found if path), None) or next((str(path) for path in mac if path.exists()), None)


def _by_browser(browser: str, drawings: Sequence[Drawing]) -> dict[str, bytes]:
    """One browser for all of them: it opens a page that paints them, and prints the page as it then stands."""
    with tempfile.TemporaryDirectory(prefix="headroom-png-") as scratch:
        page = Path(scratch) / "figures.html"
        page.write_text(painting_page(drawings), "utf-8")
        own = [f"--user-data-dir={scratch}/profile", f"--virtual-time-budget={VIRTUAL_MS}"]
        if os.geteuid() == 0:
            own.append("--no-sandbox")  # Chromium will not start as root with it
        command = [browser, *QUIET, *own, "--dump-dom", page.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PAINTED_WITHIN_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"--png: {browser} did not paint the figures: {error}") from None
    images = painted(done.stdout)
    missing = [each.name for each in drawings if each.name not in images]
    if missing:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ConfigError(f"--png: {browser} painted no {', '.join(missing)} (exit code {done.returncode}: {said})")
    return {each.name: images[each.name] for each in drawings}
