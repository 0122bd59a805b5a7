"""Boxes on a photo: each is outlined and named, inside the picture, and the photo itself is left as it is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from facekit.show.boxes import labelled


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    """Which pixels (H, W) are others."""
    return (np.asarray(before) != np.asarray(after)).any(2)


@pytest.mark.parametrize("box", [(60, 50, 140, 130), (-20, -30, 90, 80), (150, 120, 260, 220), (0, 0, 200, 160)])
def test_a_box_is_outlined_and_its_text_is_in_the_picture(box):
    photo = Image.new("RGB", (200, 160), "grey")
    plain, told = labelled(photo, [box], [[]]), labelled(photo, [box], [["gender Female 90%"]])
    assert told.size == photo.size and not changed(photo, Image.new("RGB", (200, 160), "grey")).any()
    left, top, right, bottom = box
    edges = [(y, x) for y in (top, bottom) for x in range(max(left, 0), min(right, 199)) if 0 <= y < 160]
    drawn = changed(photo, told)
    assert sum(drawn[y, x] for y, x in edges) >= 0.7 * len(edges)
    more = changed(plain, told)
    assert more.sum() > 100, "the text is seen"
    white = (np.asarray(told) == 255).all(2)
    assert white.sum() > 500, "on white"


def test_boxes_are_numbered_and_a_whole_photo_has_no_outline():
    photo = Image.new("RGB", (300, 200), "grey")
    boxes = [(10, 10, 60, 60), (200, 10, 260, 60)]
    one, other = labelled(photo, boxes, [["a"], ["a"]]), labelled(photo, boxes[::-1], [["a"], ["a"]])
    assert changed(one, other).any(), "each has its own number and colour"
    whole = changed(photo, labelled(photo, [None], [["no face"]]))
    assert whole[:40, :150].any() and not whole[60:].any() and not whole[:, 200:].any()
    assert not changed(photo, labelled(photo, [], [])).any()
