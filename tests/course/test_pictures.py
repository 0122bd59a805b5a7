"""Pictures of cells carry their text alternative: in JupyterLab as `make lab` starts it, and in exported HTML."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import nbformat
from browser import WAIT, chromium, jupyterlab, needs_chromium

from facekit.course import build, doctor
from facekit.course.folders import find_lessons
from facekit.show import plots

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


@needs_chromium
def test_in_jupyterlab(tmp_path):
    with_pictures(tmp_path / "a.ipynb")
    with jupyterlab(tmp_path) as address, chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(WAIT)
        page.goto(address.format("a.ipynb"))
        page.locator(".jp-RenderedImage img").nth(1).wait_for()
        tell = "images => images.map(it => [it.alt, it.naturalWidth, it.width, it.getAttribute('class') || ''])"
        first, second = page.locator(".jp-RenderedImage img").evaluate_all(tell)
    own = plots.SHARP * plots.WIDTH * plots.DPI
    assert first == [ALT, own, 321, ""] and second[:2] == ["", own]


def test_the_users_own_folders_stay(monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", "own")
    first, *rest = doctor.lab_environment()["JUPYTER_PATH"].split(os.pathsep)
    assert rest == ["own"] and Path(first, "labextensions/facekit-pictures/package.json").is_file()
