"""The picture of lesson 10: faces of two domains."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from facekit.data.sets import FaceSet
from facekit.show import plots

SHOWN = 8


def two_domains(source: FaceSet, target: FaceSet, column: str) -> Figure:
    """Eight faces of the source above eight of the target, with their labels in one column (yes is its name)."""
    rows = range(0, 4 * SHOWN, 4)  # portraits come four of a person
    images = np.concatenate([part.select(rows).images for part in (source, target)])
    spoken = {"yes": column, "no": f"no {column}"}
    captions = [
        f"{name}\n{spoken.get(label, label)}"
        for name, part in (("source", source), ("target", target))
        for label in part.labels[column].iloc[list(rows)]
    ]
    return plots.image_grid(images, captions, columns=SHOWN, cell=0.9)
