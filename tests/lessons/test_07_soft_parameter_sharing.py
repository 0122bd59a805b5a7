"""Plots of lesson 07 and what they draw: the dial, gains within a seed, what two networks have in common."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import COLOUR, LEVEL, SIDE

from facekit.course import lesson
from facekit.errors import ConfigError
from facekit.models.multitask import SharedNet, mlp
from facekit.show import plots

FIGURES = lesson("07").figures


def dial(strength, places=(0.0, 0.1, 1.0)):
    """A dial of two tasks and two seeds, with accuracies and distances that are known."""
    runs = [(place, seed) for place in places for seed in (0, 1)]
    rows = [(s, task, 0.5 + 0.1 * s + 0.02 * seed) for s, seed in runs for task in ("age", "gender")]
    rows += [("hard", "age", 0.4), ("hard", "age", 0.6), ("hard", "gender", 0.7)]
    apart = [(s, stage, (1 - s) / 2) for s, _ in runs for stage in ("layer_1", "layer_2")]
    return FIGURES.sharing_dial(
        strength,
        pd.DataFrame(rows, columns=["method", "task", "value"]),
        pd.DataFrame(apart, columns=["method", "stage", "distance"]),
        {"layer_1": (np.array([0.1, -0.2]), np.array([0.3, 0.1]))},
        ("gender", "age"),
    )


def test_the_dial_marks_its_strength_and_draws_what_it_is_given():
    age, gender, distance, weights = (axis for axis in dial(0.1).axes if axis.axison)
    for axis in (age, gender, distance):
        assert [label.get_text() for label in axis.get_xticklabels()] == ["0", ".1", "1"]
        assert [1, 1] in [list(line.get_xdata()) for line in axis.lines]  # the mark, at the second of three places
    line = age.containers[0].lines[0]
    assert np.allclose(line.get_ydata(), [0.51, 0.52, 0.61])
    names = [text.get_text() for text in age.figure.legends[0].get_texts()]
    assert names == ["single", "hard", "soft"]
    bands = [(band.get_y(), band.get_height()) for band in age.patches]
    assert bands == [pytest.approx((0.5, 0.02)), pytest.approx((0.4, 0.2))]
    assert [np.allclose(bar.lines[0].get_ydata(), [0.5, 0.45, 0]) for bar in distance.containers] == [True, True]
    assert np.array_equal(weights.collections[0].get_offsets(), [[0.1, 0.3], [-0.2, 0.1]])
    assert (weights.get_xlabel(), weights.get_ylabel()) == ("weights for gender", "for age")
    with pytest.raises(ConfigError, match="no run at strength 5"):
        dial(5)


def test_gains_are_those_within_a_seed():
    table = pd.DataFrame({"single": [0.5, 0.6], "hard": [0.52, 0.61], "soft": [0.5, 0.58]})
    (axis,) = FIGURES.gain_panels({"age": table}, "single").axes
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([1.5, -1])
    dots = [line for line in axis.lines if line.get_marker() == "o"]
    assert [list(line.get_xdata()) for line in dots] == [pytest.approx([2, 1]), pytest.approx([0, -2])]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["hard", "soft"]
    assert [text.get_text() for text in axis.texts] == ["+1.5 ± 0.5", "-1.0 ± 1.0"]
    wide = FIGURES.gain_panels(dict.fromkeys("abcde", table), "single", columns=3)
    assert wide.get_figwidth() <= plots.WIDEST and len(wide.axes) == 5
    with pytest.raises(ConfigError, match="no column 'chance'"):
        FIGURES.gain_panels({"age": table}, "chance")


def test_curves_are_those_of_the_logs():
    logs = {0: pd.DataFrame({"age": [2.0, 1.0], "squared distance": [0.0, 4.0]}), 1: pd.DataFrame({"age": [2.0, 1.5]})}
    logs[1]["squared distance"] = 0.5
    fig = FIGURES.curves({strength: ("networks", "heads", log) for strength, log in logs.items()})
    age, distance = fig.axes
    assert [list(line.get_ydata()) for line in age.lines] == [[2, 1], [2, 1.5]]
    assert [list(line.get_ydata()) for line in distance.lines] == [[0, 4], [0.5, 0.5]]
    assert list(age.lines[0].get_xdata()) == [1, 2] and age.get_title() == "loss of age"
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["λ = 0", "λ = 1"]


def net():
    torch.manual_seed(1)
    return SharedNet(mlp(6, (5, 4)), (COLOUR, SIDE, LEVEL), 0)


def test_first_direction_is_all_of_equal_layers_and_a_third_of_three_perpendicular_ones():
    model = net()
    assert np.allclose(FIGURES.first_direction(model), 1)
    towers = list(model.towers.values())
    with torch.no_grad():
        for parameter in towers[1].parameters():
            parameter.mul_(-3)  # still one direction
    assert np.allclose(FIGURES.first_direction(model), 1)
    with torch.no_grad():
        for i, tower in enumerate(towers):
            for parameter in tower.parameters():
                parameter.zero_().view(-1)[i] = 1
    assert np.allclose(FIGURES.first_direction(model), 1 / 3)
    rows = np.random.default_rng(0).normal(size=(3, model.towers["side"]["layer_1"][0].weight.numel()))
    for row, tower in zip(rows, towers, strict=True):
        tower["layer_1"][0].bias.data.zero_()
        tower["layer_1"][0].weight.data = torch.from_numpy(row).float().view(5, 6)
    values = np.linalg.svd(rows, compute_uv=False)
    assert FIGURES.first_direction(model)["layer_1"] == pytest.approx(values[0] / values.sum(), abs=1e-5)


def test_corresponding_weights_are_those_at_one_place():
    model = net().start_apart()
    found = FIGURES.corresponding_weights(model, "level", "side")
    assert list(found) == ["layer_1", "layer_2"]
    for stage, pair in found.items():
        for task, values in zip(("level", "side"), pair, strict=True):
            layer = model.towers[task][stage][0]
            assert np.array_equal(values[: layer.weight.numel()], layer.weight.detach().flatten())
            assert np.array_equal(values[layer.weight.numel() :], layer.bias.detach())
    assert len(FIGURES.corresponding_weights(model, "level", "side", every=7)["layer_1"][0]) == 5
