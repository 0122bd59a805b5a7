"""The widgets in JupyterLab, in a Chromium, by keys alone: keys stay inside, groups and controls have names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from browser import WAIT, chromium, jupyterlab, needs_chromium, run_first_cell

from facekit.course.folders import find_lessons

pytestmark = needs_chromium

QUIZZES = "\n".join(
    ["from facekit.course import quiz", *(f'quiz("{lesson.number}").show()' for lesson in find_lessons())]
)
EXPLORE = """
import numpy as np
from facekit.show.widgets import explore

def square(side, colour):
    return np.full((side, side, 3), {"grey": 128, "white": 255}[colour], dtype=np.uint8)

explore(square, alt=lambda side, colour: f"A {colour} square of {side}.", side=[20, 40, 60], colour=["white", "grey"])
"""
GUIDE = """
from facekit.course import lesson
lesson("02").figures.guide().show()
"""
OWN_PHOTO = """
from facekit.course.own_photo import OwnPhoto
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.heads import Classifier, Heads
from facekit.tasks import GENDER
OwnPhoto(FaceNetMini.from_pretrained(), Classifier(None, Heads(512, [GENDER]))).show()
"""
CELLS = {"quizzes": QUIZZES, "explore": EXPLORE, "guide": GUIDE, "own photo": OWN_PHOTO}

FOCUSED = """() => { const it = document.activeElement; return {
    tag: it.tagName, type: it.type || "", name: it.ariaLabel || it.labels?.[0]?.textContent || it.textContent,
    group: it.closest("[role=radiogroup]")?.ariaLabel || "", said: it.getAttribute("aria-valuetext"),
    checked: it.checked || false, inside: !!it.closest(".jupyter-widgets") } }"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """The address of JupyterLab, and the folder that it serves."""
    folder = tmp_path_factory.mktemp("room")
    with jupyterlab(folder) as address:
        yield address, folder


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as found:
        yield found


@pytest.fixture
def page(request, server, browser) -> Iterator:
    """A page with a notebook of one cell that was run, and an empty one below; the focus is in the first."""
    address, folder = server
    cells = [nbformat.v4.new_code_cell(CELLS[request.param].strip()), nbformat.v4.new_code_cell("")]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    name = f"{request.param.replace(' ', '_')}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / name)
    page = browser.new_page(viewport={"width": 1024, "height": 3000})
    page.set_default_timeout(WAIT)
    page.goto(address.format(name))
    run_first_cell(page)
    page.locator(".jp-OutputArea .jupyter-widgets").first.wait_for()
    assert not page.locator(".jp-OutputArea-output[data-mime-type*=error]").count(), page.inner_text(".jp-OutputArea")
    yield page
    page.close()


def focus(page, **wanted: str) -> dict:
    """Presses Tab until an element with these properties has the focus; returns what is known of it."""
    for _ in range(60):
        page.keyboard.press("Tab")
        found = page.evaluate(FOCUSED)
        if all(str(found[key]).startswith(value) for key, value in wanted.items()):
            return found
    raise AssertionError(f"Tab does not reach {wanted}; it stands at {found}")


def cells(page) -> int:
    return page.locator(".jp-Notebook .jp-Cell").count()


def says(page, text: str) -> None:
    """Waits until a status line says this."""
    page.locator(".jp-OutputArea [role=status]", has_text=text).first.wait_for()


def letters_stay_inside(page) -> None:
    """Letters with which JupyterLab would cut, add or change cells do nothing while a control has the focus."""
    before, focused = cells(page), page.evaluate(FOCUSED)
    for key in "axbddcvmyr":
        page.keyboard.press(key)
    assert cells(page) == before == 2
    assert page.evaluate(FOCUSED)["name"] == focused["name"], "the focus stays"
    assert page.locator(".jp-Notebook .jp-mod-active .jupyter-widgets").count(), "the cell is still the chosen one"


def names_are_there(page) -> None:
    """Every control and picture has a name, radio buttons a group with one, and a slider says its value."""
    session = page.context.new_cdp_session(page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    by_id = {node["nodeId"]: node for node in nodes}

    def value(node: dict, key: str) -> str:
        return str(node.get(key, {}).get("value", ""))

    def groups(node: dict) -> Iterator[dict]:
        while node := by_id.get(node.get("parentId", "")):
            if value(node, "role") == "radiogroup":
                yield node

    asked = {"radio", "radiogroup", "slider", "combobox", "textbox", "checkbox", "spinbutton"}
    shown = [node for node in nodes if not node["ignored"] and value(node, "role") in asked]
    shown = [node for node in shown if value(node, "name") != "" or value(node, "role") != "textbox"]  # the editors
    assert {value(node, "role") for node in shown} & {"radio", "slider", "combobox"}
    for node in shown:
        assert value(node, "name"), node
        if value(node, "role") == "radio":
            assert any(value(group, "name") for group in groups(node)), node
        if value(node, "role") == "slider":
            said = {each["name"]: each["value"].get("value") for each in node["properties"]}
            assert said["valuetext"] == "20", "a slider says its value, not its place"
    pictures = page.locator(".jupyter-widgets img").evaluate_all("all => all.map(it => it.alt)")
    assert all(pictures), pictures
    if page.locator("[role=radiogroup]").count() > 1:
        names = [value(node, "name") for node in shown if value(node, "role") == "radiogroup"]
        assert all(re.match(r"Question \d+\. \S", name) for name in names), names


@pytest.mark.parametrize("page", ["quizzes"], indirect=True)
def test_a_quiz_by_keys_alone(page):
    names_are_there(page)
    first = focus(page, type="radio")
    assert not first["checked"] and first["group"].startswith("Question 1.")
    page.keyboard.press("Space")
    assert page.evaluate(FOCUSED)["checked"]
    page.keyboard.press("ArrowDown")
    second = page.evaluate(FOCUSED)
    assert second["checked"] and second["name"] != first["name"] and second["group"] == first["group"]
    page.keyboard.press("ArrowUp")
    assert page.evaluate(FOCUSED)["name"] == first["name"]
    letters_stay_inside(page)
    focus(page, tag="BUTTON", name="Check answer 1")
    page.keyboard.press("Enter")
    says(page, "ight.")
    says(page, " of ")
    assert page.evaluate(FOCUSED)["name"] == "Check answer 1", "the focus stays where it was"
    focus(page, type="radio", group="Question 2.")
    page.keyboard.press("Space")
    focus(page, tag="BUTTON", name="Check answer 2")
    page.keyboard.press("Space")
    assert cells(page) == 2


@pytest.mark.parametrize("page", ["explore"], indirect=True)
def test_a_picture_with_controls_by_keys_alone(page):
    names_are_there(page)
    slider = focus(page, type="range")
    assert (slider["name"], slider["said"]) == ("side", "20")
    page.keyboard.press("ArrowRight")
    says(page, "A white square of 40.")
    page.keyboard.press("End")
    says(page, "A white square of 60.")
    assert page.locator(".jupyter-widgets img").get_attribute("alt") == "A white square of 60."
    assert page.evaluate(FOCUSED)["said"] == "60"
    letters_stay_inside(page)
    focus(page, tag="SELECT", name="colour")
    page.keyboard.press("ArrowDown")
    says(page, "A grey square of 60.")
    assert cells(page) == 2


@pytest.mark.parametrize("page", ["guide"], indirect=True)
def test_the_guide_by_keys_alone(page):
    names_are_there(page)
    asked = []
    for _ in range(12):
        asked.append(focus(page, type="radio")["group"])
        assert len(set(asked)) == len(asked), "Tab goes from a question that was answered to the next"
        page.keyboard.press("Space")
        page.wait_for_function(
            "n => document.querySelectorAll('[role=radiogroup]').length > n"
            " || document.querySelector('.jp-OutputArea .jupyter-widgets [role=status] b')",
            arg=len(asked),
        )
        assert page.evaluate(FOCUSED)["group"] == asked[-1], "the focus stays at the question that was answered"
        if page.locator(".jp-OutputArea .jupyter-widgets [role=status] b").count():
            break
    says(page, "See ")
    letters_stay_inside(page)
    focus(page, tag="BUTTON", name="Start again")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelectorAll('[role=radiogroup]').length == 1")
    assert cells(page) == 2


@pytest.mark.parametrize("page", ["own photo"], indirect=True)
def test_a_photo_of_ones_own_by_keys_alone(page):
    names_are_there(page)
    focus(page, tag="SELECT", name="picture")
    before = page.locator(".jp-OutputArea [role=status]").first.inner_text()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("was => document.querySelector('.jp-OutputArea [role=status]').innerText != was", arg=before)
    focus(page, tag="BUTTON", name="remove the picture")
    letters_stay_inside(page)
    page.keyboard.press("Enter")
    says(page, "The picture is removed.")
    assert cells(page) == 2
