"""The pictures of lesson 10: faces of two domains, and an opponent in training."""

from __future__ import annotations

import numpy as np
import pandas as pd
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


def opponent(history: pd.DataFrame) -> Figure:
    """The discriminator's loss, in nats, over the epochs of a training, and that of one who guesses."""
    fig, axis = plots.figure()
    axis.plot(range(1, len(history) + 1), history["train_discriminator"], label="discriminator")
    with plots.style():
        axis.axhline(np.log(2), color="black", linestyle=":", marker="", label="a guess")
    axis.set(xlabel="epoch", ylabel="loss in nats", ylim=(0, None))
    axis.legend()
    return fig
