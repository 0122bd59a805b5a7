"""The recorded dial: every method once for each size and seed, by the recipe of lesson 07; what ships is whole."""

import itertools
import re
from pathlib import Path

import pytest
from test_studies import TASKS, reference

from facekit.commands.cli import main
from facekit.records import REFERENCE, recorded
from facekit.studies import dial

assert reference  # the fixture of toy photos
METHODS = ["single", "hard", *(f"soft {value:g}" for value in dial.STRENGTHS), "cross-stitch"]
LESSON = Path(__file__).parents[2] / "lessons" / "source" / "07_soft_parameter_sharing" / "lesson.py"


def whole(rows, n, seeds) -> bool:
    """Whether each method has all accuracies and, but for hard sharing, both distances, each of them once only."""
    accuracies = rows[rows["metric"] == "accuracy"]
    distances = rows[rows["metric"] == "distance"]
    found = sorted(zip(*(accuracies[key] for key in ("method", "n", "seed", "task")), strict=True))
    apart = sorted(zip(*(distances[key] for key in ("method", "n", "seed", "task")), strict=True))
    own = [name for name in METHODS if name != "hard"]
    return found == sorted(itertools.product(METHODS, n, seeds, TASKS)) and apart == sorted(
        itertools.product(own, n, seeds, ("layer_1", "layer_2"))
    )


def test_the_whole_dial_is_recorded(reference, monkeypatch):
    monkeypatch.setattr(dial, "RECIPE", {"hidden": (4, 3), "dropout": 0.1, "steps": 3, "lr": 1e-2})
    assert main(["record", "dial", "--labels", "[15,30]", "--seeds", "[0,4]"]) == 0
    record = recorded("dial_fairface", reference)
    assert list(record.rows) == ["method", "n", "seed", "task", "metric", "value"]
    assert whole(record.rows, (15, 30), (0, 4))
    assert record.about["command"] == "python -m facekit record dial --labels [15,30] --seeds [0,4]"


def test_the_recipe_is_that_of_the_lesson():
    text = LESSON.read_text(encoding="utf-8")
    recipe = dial.RECIPE
    assert f"mlp(512, {recipe['hidden']}, dropout)" in text and f"dropout={recipe['dropout']}" in text
    assert f"steps={recipe['steps']}, seed=seed, lr={recipe['lr']:g}".replace("0.003", "3e-3") in text
    strengths = re.search(r"STRENGTHS = .*?, \(0, ([\d., ]+)\)", text)[1]
    assert tuple(map(float, strengths.split(","))) == dial.STRENGTHS


@pytest.mark.skipif(not (REFERENCE / "dial_fairface.json").exists(), reason="dial_fairface is not recorded yet")
def test_the_shipped_dial_is_whole():
    rows = recorded("dial_fairface").rows
    assert whole(rows, dial.LABELS, dial.SEEDS)
    assert rows["value"].between(0, 100).all()
