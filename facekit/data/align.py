"""Finding faces and cutting them out, with facenet-pytorch's MTCNN (Zhang et al., IEEE SPL 2016, arXiv 1604.02878).

Faces are cropped, not rotated: FaceNet was trained on such crops. FairFace and UTKFace photos are crops already and
need no alignment; this is for photos straight from a camera. A detector misses faces, and not equally often in all
groups: the table says for every photo whether a face was found, so that the misses can be counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from facekit import settings
from facekit.data.archives import Problem
from facekit.data.decode import Unusable, decode, resize, rgb
from facekit.errors import ConfigError, DataError

Photo = Image.Image | np.ndarray | Path | str
# A face smaller than this (pixels, in the image that is searched) is not looked for.
MIN_FACE = 20
# Bigger photos are searched at this longer side; the crop is then taken from the full photo.
SEARCH_SIDE = 1024
COLUMNS = ("row", "crop", "left", "top", "right", "bottom", "probability", "reason")


def align_faces(
    images: Sequence[Photo] | np.ndarray,
    size: int = 160,
    margin: float = 0.25,
    keep: Literal["largest", "all"] = "largest",
    min_probability: float = 0.9,
    device: torch.device | str | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Cuts the faces out of photos: crops uint8 (M, 3, size, size), and a table with a row for each face or miss.

    images: PIL images, uint8 arrays (grey H×W, or with 1, 3 or 4 channels first or last), or paths; of any and of
    different sizes. margin: how much wider than the detector's box on each side, as a share of its longer side
    (0.25 as in FairFace). keep: the largest face of each photo, or all, largest first.

    The table's columns: `row` (index of the photo), `crop` (index into the crops, -1 for none), `left`, `top`,
    `right`, `bottom` (the detector's box in pixels of the upright photo), `probability`, and `reason` (empty, or why
    there is no crop: `no face`, `unreadable`, `too small`, `too many pixels`, `empty`). The crop is the square around
    the box widened by the margin, moved and if need be shrunk to lie inside the photo.

    Raises ConfigError for impossible arguments and DataError for something that is no image at all.
    """
    if keep not in ("largest", "all"):
        raise ConfigError(f"keep is {keep!r}; use largest or all.")
    if size < 1 or margin < 0 or not 0 <= min_probability <= 1:
        raise ConfigError(f"size {size}, margin {margin}, min_probability {min_probability}: out of range.")
    if isinstance(images, (str, Path, Image.Image)):
        raise ConfigError("align_faces takes a sequence of photos; put the one photo in a list.")
    detector = _detector(str(settings.device() if device is None else device))
    crops: list[np.ndarray] = []
    rows: list[tuple] = []
    for row, photo in enumerate(settings.progress(images, total=len(images), desc="aligning", unit="photo")):
        try:
            image = _opened(photo, row)
            found = [face for face in _faces(detector, image) if face[1] >= min_probability]
        except Unusable as error:
            rows.append((row, -1, *[np.nan] * 5, error.problem.reason))
            continue
        for box, probability in found if keep == "all" else found[:1]:
            rows.append((row, len(crops), *box, probability, ""))
            crops.append(resize(image.crop(_square(box, margin, image.size)), size))
        if not found:
            rows.append((row, -1, *[np.nan] * 5, "no face"))
    pixels = np.stack(crops) if crops else np.empty((0, 3, size, size), np.uint8)
    return pixels, pd.DataFrame(rows, columns=list(COLUMNS)).astype({"probability": float})


@cache
def _detector(device: str) -> MTCNN:
    """The detector with its packaged weights; its thresholds are the defaults of facenet-pytorch."""
    return MTCNN(min_face_size=MIN_FACE, keep_all=True, post_process=False, device=torch.device(device)).eval()


def _opened(photo: Photo, row: int) -> Image.Image:
    """Any of the accepted forms as an upright RGB image; raises Unusable or DataError."""
    if isinstance(photo, Image.Image):
        return rgb(photo)
    if isinstance(photo, (str, Path)):
        try:
            return decode(Path(photo).read_bytes())
        except OSError as error:
            raise Unusable(Problem("unreadable", f"{photo}: {error.strerror}")) from None
    array = np.asarray(photo)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.dtype != np.uint8 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise DataError(
            f"photo {row} is an array {array.dtype} {array.shape}; give uint8 H×W, or with 1, 3 or 4 channels."
        )
    if array.size == 0:
        raise Unusable(Problem("empty", "an array without pixels"))
    return rgb(Image.fromarray(np.ascontiguousarray(array)))


def _faces(detector: MTCNN, image: Image.Image) -> Iterator[tuple[tuple[float, ...], float]]:
    """Boxes (left, top, right, bottom) in the image's pixels with their probabilities, largest first."""
    scale = min(1.0, SEARCH_SIDE / max(image.size))
    searched = image
    if scale < 1:
        smaller = tuple(max(1, round(side * scale)) for side in image.size)
        searched = image.resize(smaller, Image.Resampling.BOX)
    if min(searched.size) < MIN_FACE:
        raise Unusable(Problem("too small", f"{image.width} × {image.height} has no room for a face"))
    try:
        with torch.inference_mode():
            boxes, probabilities = detector.detect(searched)
    except RuntimeError as error:
        # The detector concatenates an empty list when all its candidates lie outside the photo.
        if "non-empty" not in str(error):
            raise
        boxes = None
    if boxes is None:
        return
    factors = np.array([image.width / searched.width, image.height / searched.height] * 2)
    boxes = np.asarray(boxes, dtype=np.float64) * factors
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for position in np.argsort(-areas, kind="stable"):
        yield tuple(float(side) for side in boxes[position]), float(probabilities[position])


def _square(box: tuple[float, ...], margin: float, photo: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square to cut: around the box, wider by the margin, inside the photo."""
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) * (1 + 2 * margin))
    side = max(1, min(side, *photo))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    x, y = (min(max(0, start), limit - side) for start, limit in zip((x, y), photo, strict=True))
    return x, y, x + side, y + side
