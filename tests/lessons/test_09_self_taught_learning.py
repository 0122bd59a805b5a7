"""Figures of lesson 09: a centroid is shown as its patch, a map beside its face, a run beside what it has to beat."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from tiny import faces

from facekit.course import lesson

FIGURES = lesson("09").figures


def test_a_centroid_is_shown_as_its_patch():
    """Whitened and brought back, an edge is the edge that it was, in its own contrast around grey."""
    torch.manual_seed(0)
    edge = torch.zeros(3, 4, 4)
    edge[:, :, 2:] = 1.0
    patch = (edge - edge.mean()).flatten()
    mean, whitening = torch.randn(48), torch.eye(48) + 0.1 * torch.randn(48, 48)
    found = ((patch - mean) @ whitening).repeat(20, 1)
    sheet = np.asarray(FIGURES.centroids(found, mean, whitening).axes[0].images[0].get_array())
    assert sheet.shape == (9, 16 * 5 - 1, 3)
    np.testing.assert_allclose(sheet[:4, :4], edge.permute(1, 2, 0).numpy(), atol=1e-3)
    np.testing.assert_allclose(sheet[5:9, 15:19], edge.permute(1, 2, 0).numpy(), atol=1e-3)
    assert (sheet[5:, 20:] == 1).all(), "where there is no centroid the sheet is white"


def test_each_face_has_its_maps_beside_it():
    maps = torch.rand(2, 5, 7, 7)
    maps[:, 4, :, :4] += 5  # half of the face, and half as clear
    maps[:, 1, :, :4] += 2
    fig = FIGURES.where_near(faces(2), maps, 2)
    shown = [np.asarray(axis.images[0].get_array()) for axis in fig.axes]
    assert len(shown) == 6 and fig.axes[1].get_title() == "centroid 4"
    np.testing.assert_array_equal(shown[0], faces(2).images[0].transpose(1, 2, 0))
    np.testing.assert_array_equal(shown[5], maps[1, 1].numpy())
    limits = fig.axes[1].images[0].get_clim()
    assert limits == fig.axes[4].images[0].get_clim() and limits[0] == 0, "one scale for a centroid in all faces"


def test_a_run_goes_over_its_steps_and_the_others_lie_level_with_names_that_do_not_touch():
    keys = [(step, seed, task) for step in (0, 10, 40) for seed in (0, 1) for task in ("gender", "skin_tone")]
    rows = pd.DataFrame(keys, columns=["step", "seed", "task"])
    rows["value"] = rows["step"] / 100 + rows["seed"] / 50 + (rows["task"] == "gender") / 4
    rows = rows.assign(n=20, metric="accuracy")
    beside = pd.DataFrame({"gender": [0.5, 0.7, 0.6, 0.4], "skin_tone": [0.301, 0.3, 0.2, 0.1]}, FIGURES.BESIDE)
    others = beside.melt(var_name="task", ignore_index=False).rename_axis("method").reset_index()
    others = pd.concat([others.assign(n=n, seed=seed, metric="accuracy") for n in (20, 50) for seed in (0, 1, 2)])
    others.loc[(others["n"] == 50) | (others["seed"] == 2), "value"] = 0.9  # of other labels: not shown
    fig = FIGURES.over_steps(rows, others)
    assert [axis.get_title() for axis in fig.axes] == ["gender", "skin tone"]
    for axis, base, task in zip(fig.axes, (0.25, 0.0), beside, strict=True):
        run, *level = (
            axis.lines[0],
            *(line for line in axis.lines if line.get_linestyle() == "--" and len(line.get_xdata()) == 2),
        )
        assert list(run.get_xdata()) == [0, 10, 40]
        np.testing.assert_allclose(run.get_ydata(), base + np.array([0.01, 0.11, 0.41]))
        assert [line.get_ydata()[0] for line in level] == list(beside[task])
        heights = {text.get_text(): text.get_position()[1] for text in axis.texts}
        assert abs(heights["pixels"] - heights["patches"]) > 0.01
        assert (heights["pixels"] > heights["patches"]) == (task == "skin_tone")
