"""Pictures of cells carry their text alternative: in JupyterLab as `make lab` starts it, and in exported HTML."""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from html import unescape
from pathlib import Path

import nbformat
import pytest

from facekit.course import build, doctor
from facekit.course.folders import find_lessons
from facekit.show import plots

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
ALT = "Bars: \"A\" < 'B' & so on, 한국어"


def jupyter(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def with_pictures(path: Path) -> Path:
    """A notebook with a picture that has a text alternative and a size, and one that has neither."""
    figure, _ = plots.figure()
    data = {"image/png": base64.b64encode(plots.png(figure)).decode(), "text/plain": "Figure"}
    about = ({"image/png": {"alt": ALT, "width": 321}}, {})
    outputs = [nbformat.v4.new_output("display_data", data, metadata=each) for each in about]
    cell = nbformat.v4.new_code_cell("show()", outputs=outputs, execution_count=1)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    return path


def exported(notebook: Path, folder: Path) -> list[str]:
    """The pictures of a notebook's page, as `Save and Export Notebook As > HTML` writes it: each tag."""
    command = jupyter("nbconvert", "--to", "html", str(notebook), "--output-dir", str(folder))
    done = subprocess.run(command, env=doctor.lab_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (folder / f"{notebook.stem}.html").read_text(encoding="utf-8")
    return re.findall(r"<img\b[^>]*>", re.sub(r"(?s)<script.*?</script>", "", page))


def alts(tags: list[str]) -> list[str]:
    return [unescape(found[1]) if (found := re.search(r"\balt=\"([^\"]*)\"", tag)) else "" for tag in tags]


def test_in_exported_html(tmp_path):
    tags = exported(with_pictures(tmp_path / "a.ipynb"), tmp_path)
    assert alts(tags)[0] == ALT and alts(tags)[1] in ("", "No description has been provided for this image")
    assert re.search(r"width=\"?321\b", tags[0]) and "data:image/png;base64," in tags[1]


def test_in_exported_html_of_a_lesson(tmp_path):
    learner = find_lessons()[1].learner
    outputs = [output for cell in build.read_notebook(learner).cells for output in cell.get("outputs", [])]
    wanted = [output.metadata["image/png"]["alt"] for output in outputs if "image/png" in output.get("data", {})]
    found = alts(exported(learner, tmp_path))
    assert wanted and [each for each in found if each in wanted] == wanted
    assert all(len(each) > 10 and "No description" not in each for each in found), "drawn figures as well"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is on this machine")
def test_in_jupyterlab(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    with_pictures(tmp_path / "a.ipynb")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    token = secrets.token_hex(8)
    options = (f"--ServerApp.root_dir={tmp_path}", f"--ServerApp.port={port}", f"--IdentityProvider.token={token}")
    command = jupyter("jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", *options)
    own = {name: str(tmp_path / name) for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")}
    with open(tmp_path / "log", "w") as log:
        lab = subprocess.Popen(command, env=doctor.lab_environment() | own, stdout=log, stderr=log)
    try:
        while "is running at" not in (tmp_path / "log").read_text():
            assert lab.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        with playwright.sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/lab/tree/a.ipynb?token={token}&reset")
            page.locator(".jp-RenderedImage img").nth(1).wait_for(timeout=60_000)
            tell = "images => images.map(it => [it.alt, it.naturalWidth, it.width, it.getAttribute('class') || ''])"
            first, second = page.locator(".jp-RenderedImage img").evaluate_all(tell)
            browser.close()
    finally:
        lab.terminate()
        try:
            lab.wait(20)
        except subprocess.TimeoutExpired:
            lab.kill()
            lab.wait()
    assert first == [ALT, plots.WIDTH * plots.DPI, 321, ""] and second[:2] == ["", plots.WIDTH * plots.DPI]


def test_the_users_own_folders_stay(monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", "own")
    first, *rest = doctor.lab_environment()["JUPYTER_PATH"].split(os.pathsep)
    assert rest == ["own"] and Path(first, "labextensions/facekit-pictures/package.json").is_file()
