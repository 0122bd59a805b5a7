"""The picture in docs/architecture.md shows the imports as they are: a staircase, and no arrow too many or too few."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import architecture
import pytest

SVG = "{http://www.w3.org/2000/svg}"
REMEDY = "draw it again: python tests/architecture.py"


def read(text: str) -> tuple[dict[str, tuple[float, float]], set[tuple[str, str]]]:
    """Steps by name with the place (x, y) of their box, and the arrows, of a picture."""
    groups = list(ET.fromstring(text).iter(f"{SVG}g"))
    boxes = {group.get("data-name"): group.find(f"{SVG}rect") for group in groups if group.get("class") == "step"}
    arrows = {(group.get("data-from"), group.get("data-to")) for group in groups if group.get("class") == "arrow"}
    return {name: (float(box.get("x")), float(box.get("y"))) for name, box in boxes.items()}, arrows


@pytest.fixture(scope="module")
def picture() -> str:
    return architecture.PICTURE.read_text(encoding="utf-8")


def test_every_part_of_the_package_has_a_step_in_the_order_of_the_contract(picture):
    steps, _ = read(picture)
    parts = {part for part, _ in architecture.modules()}
    present = {architecture.step_of(part) for part in parts}
    assert list(steps) == [step for step in architecture.layers() if step in present], REMEDY
    assert set(steps) == present, f"no layer in pyproject.toml for {sorted(present - set(steps))}"
    assert all(words in picture for words, _ in map(architecture.HOLDS.get, steps)), REMEDY


def test_an_arrow_for_each_pair_of_layers_that_import_and_no_other(picture):
    _, drawn = read(picture)
    real = architecture.pairs()
    assert not real - drawn, f"not drawn: {sorted(real - drawn)}; {REMEDY}"
    assert not drawn - real, f"drawn, but nothing imports so: {sorted(drawn - real)}; {REMEDY}"


def test_it_is_a_staircase(picture):
    steps, arrows = read(picture)
    places = list(steps.values())
    assert all(x > left and y < below for (left, below), (x, y) in zip(places, places[1:], strict=False))
    upwards = [(user, used) for user, used in arrows if steps[used][1] <= steps[user][1]]
    assert not upwards, "an import goes up"


def test_the_text_beside_the_picture_names_every_step(picture):
    text = (architecture.PICTURE.parent / "architecture.md").read_text(encoding="utf-8")
    assert "architecture.svg" in text
    assert not [step for step in read(picture)[0] if f"`{step}`" not in text and step != "base"]


def test_imports_are_found_wherever_they_stand(tmp_path):
    package = tmp_path / "facekit"
    (package / "data").mkdir(parents=True)
    (package / "show").mkdir()
    (package / "__init__.py").write_text("from facekit.data import sets\n")
    (package / "errors.py").touch()
    (package / "data/sets.py").write_text("import os\nfrom facekit import errors\nfrom facekit.data import x\n")
    (package / "show/plots.py").write_text("def f():\n    import facekit.data.sets\n")
    (package / "__main__.py").write_text("from facekit.show.plots import f\n")
    assert architecture.pairs(package) == {("data", "base"), ("show", "data"), ("commands", "show")}
    steps = ["base", "data", "show", "commands"]
    drawn, arrows = read(architecture.draw(steps, architecture.pairs(package)))
    assert list(drawn) == steps and arrows == architecture.pairs(package)
