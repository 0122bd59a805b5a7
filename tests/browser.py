"""JupyterLab as `make lab` starts it, and a Chromium to look at it with, where the machine has one."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", f"--IdentityProvider.token={token}"]
    own = {name: str(folder / ".own" / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    log = folder / "lab.log"
    with log.open("w") as said:
        lab = subprocess.Popen(command, env=doctor.lab_environment() | own, stdout=said, stderr=said)
    try:
        while "is running at" not in log.read_text():
            assert lab.poll() is None, log.read_text()
            try:
                lab.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?token={token}&reset"
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
