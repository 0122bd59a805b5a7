"""Figures of lesson 09: a centroid is shown as the patch it stands for, and a map beside its face."""

from __future__ import annotations

import numpy as np
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
