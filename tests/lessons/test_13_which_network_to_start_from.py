"""Lesson 13: what is built by hand is what facekit computes, on other rows than the lesson's; its figures."""

from __future__ import annotations

import ast

import numpy as np
import pandas as pd
import pytest
from tiny import COLOUR, faces, features

from facekit.course import lesson
from facekit.evaluation.transferability import logme
from facekit.show import plots

LESSON = lesson("13")
FIGURES = LESSON.figures
WAYS = ("a", "b", "c")


def by_hand(name: str):
    """A function of the lesson's source."""
    tree = ast.parse(LESSON.source.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    space: dict = {"np": np}
    exec(compile(ast.Module(found, []), "lesson 13", "exec"), space)
    return space[name]


@pytest.mark.parametrize("n, dim", [(60, 5), (20, 40)])
def test_logme_by_hand_is_that_of_facekit(n, dim):
    rows = features(n, dim)
    found = by_hand("logme_by_hand")(rows.features.astype(float), rows.targets([COLOUR])["colour"].numpy())
    assert found == pytest.approx(logme(rows, COLOUR), abs=1e-4)


def table(*means: float, spread: float = 0.01) -> pd.DataFrame:
    return pd.DataFrame([np.array(means) + spread * step for step in (-1, 0, 1)], columns=WAYS)


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def framed(axis) -> list[tuple[int, int]]:
    return [(round(each.get_x() + 0.46), round(each.get_y() + 0.43)) for each in axis.patches]


def test_the_heat_map_tells_every_mean_and_frames_the_best_and_what_cannot_be_told_from_it():
    noisy = table(0.5, 0.7, 0.6)
    noisy["c"] = [0.4, 0.69, 0.95]  # ahead once, behind once: not to be told from b
    fig = FIGURES.heat({"one": table(0.5, 0.7, 0.6), "two": noisy})
    (axis,) = fig.axes
    assert texts(axis)[:3] == ["50 ± 1", "70 ± 1", "60 ± 1"]
    assert framed(axis) == [(0, 1), (1, 1), (1, 2)]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["one", "two"] and plots.png(fig)


def test_places_start_at_the_highest_and_frame_what_is_two_or_more_off():
    measured, said = {"one": table(0.5, 0.7, 0.6)}, {"one": table(9.0, 2.0, 1.0)}
    fig = FIGURES.places({"measured": measured, "score": said})
    first, second = fig.axes
    assert texts(first) == ["3", "1", "2"] and not framed(first)
    assert texts(second) == ["1", "2", "3"] and framed(second) == [(0, 0)]


def test_examples_name_what_they_are():
    sets = {"spots": (faces(8), COLOUR)}
    fig = FIGURES.examples(sets, sets)
    told = [text.get_text() for axis in fig.axes for text in axis.texts]
    assert len(told) == 8 and told[0].startswith("source spots\n") and told[-1].startswith("target spots\n")


def recorded_rows() -> pd.DataFrame:
    """Two tasks, of which the second has 30 labels at most; of it the H-score says the opposite of what is true."""
    rows = []
    for task, sizes in (("one", (20, 50)), ("two", (20, 30))):
        for n in sizes:
            for seed in (0, 1):
                for way, value in zip(WAYS, (0.5, 0.6, 0.8), strict=True):
                    found = {"accuracy": value, "logme": value, "logme_bias": value, "guess": value}
                    found["h_score"] = value if task == "one" else -value
                    rows += [(task, n, seed, way, metric, each, 0.1) for metric, each in found.items()]
    return pd.DataFrame(rows, columns=["task", "n", "seed", "network", "metric", "value", "seconds"])


def test_of_the_record_each_task_is_shown_with_as_many_labels_as_it_has():
    found = FIGURES.by_task(recorded_rows(), 50)
    assert list(found) == ["one", "two"] and all(each.shape == (2, 3) for each in found.values())
    assert list(found["two"]) == list(WAYS) and plots.png(FIGURES.heat(found))


def test_what_scores_keep_is_the_mean_over_tasks_and_draws():
    found = FIGURES.kept(recorded_rows())
    assert found.index.unique("score").tolist() == ["LogME", "LogME, bias", "H-score", "trying"]
    assert found.loc["LogME"].index.tolist() == [20, 30, 50]
    logme, h_score = found.loc[("LogME", 20)], found.loc[("H-score", 20)]
    assert logme["rank correlation"] == 1 and logme["points lost"] == 0
    assert h_score["rank correlation"] == pytest.approx(0)  # right in one task, wrong in the other
    assert h_score[["points lost", "at most"]].tolist() == pytest.approx([15, 30])
