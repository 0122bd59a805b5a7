"""JupyterLab as `make lab` starts it, and a Chromium to look at it with, where the machine has one."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from facekit.course import doctor

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on this machine")
WAIT = 120_000  # milliseconds, for what takes seconds: a test does not ask how many


@contextmanager
def jupyterlab(folder: Path) -> Iterator[str]:
    """Serves a folder, with settings of its own; yields the address of a notebook, with {} for its name."""
    token = secrets.token_hex(8)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", f"--IdentityProvider.token={token}"]
    # Files in place of TCP ports that kernels of other tests may be given too (facekit.course.build.kernel_channels).
    command += ["--KernelManager.transport=ipc"] if sys.platform == "linux" else []
    own = {name: str(folder / ".own" / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    log = folder / "lab.log"
    with tempfile.TemporaryDirectory(prefix="lab-") as runtime, log.open("w") as said:
        own["JUPYTER_RUNTIME_DIR"] = runtime  # a short path: that of a file for messages has at most 107 characters
        lab = subprocess.Popen(command, env=doctor.lab_environment() | own, stdout=said, stderr=said)
        try:
            while not (found := re.search(r"http://127\.0\.0\.1:(\d+)/lab", log.read_text())):
                assert lab.poll() is None, log.read_text()
                with suppress(subprocess.TimeoutExpired):
                    lab.wait(0.2)
            yield f"http://127.0.0.1:{found[1]}/lab/tree/{{}}?token={token}&reset"
        finally:
            lab.terminate()
            try:
                lab.wait(20)
            except subprocess.TimeoutExpired:
                lab.kill()
                lab.wait()


@contextmanager
def chromium() -> Iterator:
    """A Chromium without a window; a test that needs it is skipped without the library that drives it."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield found
        found.close()


def run_first_cell(page) -> None:
    """Runs the first cell of a notebook that was just opened, and waits for its number.

    Where no kernel listens yet, JupyterLab leaves the cell as it was, or asks which kernel to take.
    """
    from playwright.sync_api import TimeoutError

    prompt, asked = page.locator(".jp-Notebook .jp-InputPrompt").first, page.locator("dialog .jp-mod-accept")
    for _ in range(WAIT // 1000):
        with suppress(TimeoutError):  # the question may come, or go, before the click
            if asked.count():
                asked.first.click(timeout=1000)
            elif prompt.inner_text() == "[ ]:":
                page.locator(".jp-Notebook .cm-content").first.click(timeout=1000)
                page.keyboard.press("Control+Enter")
            elif re.fullmatch(r"\[\d+\]:", prompt.inner_text()):
                return
        page.wait_for_timeout(1000)
    raise AssertionError(f"the first cell was not run: {page.inner_text('body')[-2000:]}")
