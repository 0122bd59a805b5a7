"""Plots of lesson 09: what centroids of patches look like, and where in a face they are near."""

from __future__ import annotations

import math

import numpy as np
import torch
from matplotlib.figure import Figure

from facekit.data.sets import FaceSet
from facekit.show import plots

COLUMNS = 16
BORDER = 1  # pixels between two patches


@plots.style()
def centroids(found: torch.Tensor, mean: torch.Tensor, whitening: torch.Tensor) -> Figure:
    """Centroids (K, D) of whitened patches as the patches that they stand for, each at its own contrast."""
    patches = (found @ torch.linalg.inv(whitening) + mean).numpy()
    side = math.isqrt(patches.shape[1] // 3)
    patches = patches.reshape(len(patches), 3, side, side).transpose(0, 2, 3, 1)
    patches = 0.5 + patches / (2 * np.abs(patches).max((1, 2, 3), keepdims=True))
    rows = -(-len(patches) // COLUMNS)
    sheet = np.ones((rows * (side + BORDER) - BORDER, COLUMNS * (side + BORDER) - BORDER, 3))
    for i, patch in enumerate(patches):
        y, x = (place * (side + BORDER) for place in divmod(i, COLUMNS))
        sheet[y : y + side, x : x + side] = patch
    fig, axis = plots.figure(size=(6.4, 6.4 * sheet.shape[0] / sheet.shape[1]))
    axis.set_axis_off()
    axis.imshow(sheet)
    return fig


@plots.style()
def where_near(faces: FaceSet, maps: torch.Tensor, n: int = 4) -> Figure:
    """Faces, and beside each where n centroids are nearer than on average: maps (faces, K, rows, columns).

    Shown are those centroids of which neighbouring places are most alike, which follow something in the face.
    """
    shown = smoothest(maps)[:n]
    fig, axes = plots.figure(len(faces), 1 + len(shown), size=(1.25 * (1 + len(shown)), 1.4 * len(faces)))
    for row, (picture, codes) in enumerate(zip(faces.images, maps.numpy(), strict=True)):
        axes[row, 0].imshow(np.asarray(picture).transpose(1, 2, 0))
        for axis, place in zip(axes[row, 1:], shown, strict=True):
            axis.imshow(codes[place], cmap="cividis", vmin=0, vmax=maps[:, place].max().item())
            if not row:
                axis.set_title(f"centroid {place}", fontsize=9)
    for axis in axes.flat:
        axis.set_axis_off()
    return fig


def smoothest(maps: torch.Tensor) -> list[int]:
    """The centroids by how alike their maps (faces, K, rows, columns) are at neighbouring places, most alike first."""
    centred = maps - maps.mean((2, 3), keepdim=True)
    alike = (centred[..., 1:] * centred[..., :-1]).sum((0, 2, 3)) / centred.square().sum((0, 2, 3)).clamp(min=1e-9)
    return alike.argsort(descending=True, stable=True).tolist()
