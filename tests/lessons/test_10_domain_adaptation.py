"""The picture of lesson 10: what stands below a face can be read without the code."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from facekit.course import lesson
from facekit.data.sets import FaceSet


@pytest.mark.parametrize(
    ("column", "labels", "wanted"),
    [("glasses", ("no", "yes"), {"no glasses", "glasses"}), ("gender", ("Male", "Female"), {"Male", "Female"})],
)
def test_captions_name_what_is_seen(column, labels, wanted):
    rows = 32
    faces = FaceSet(
        np.zeros((rows, 3, 8, 8), np.uint8),
        pd.DataFrame({column: np.repeat(np.tile(labels, rows // 8), 4), "split": "train"}),
    )
    figure = lesson("10").figures.two_domains(faces, faces, column)
    captions = [text.get_text().splitlines() for axis in figure.axes for text in axis.texts]
    assert [name for name, _ in captions] == ["source"] * 8 + ["target"] * 8
    assert {label for _, label in captions} == wanted
