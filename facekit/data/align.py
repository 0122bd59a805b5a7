"""Finding faces and cutting them out, with facenet-pytorch's MTCNN (Zhang et al., IEEE SPL 2016, arXiv 1604.02878).

By default faces are cropped, not rotated: FaceNet was trained on such crops. FairFace and UTKFace photos are crops
already and need no alignment; this is for photos straight from a camera. FairFace's are cut tighter and turned upright:
a network that has learnt from them alone, such as facenet-mini, wants its photos so, and a `Framing` cuts them so. A
detector misses faces, and not equally often in all groups: the table says for every photo whether a face was found, so
that the misses can be counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image

from facekit import settings
from facekit.data.readers.archives import Problem
from facekit.data.readers.decode import Unusable, decode_file, resize, rgb
from facekit.errors import ConfigError, DataError

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN  # in the function, too: it loads all of torchvision, which takes seconds

Photo = Image.Image | np.ndarray | Path | str
# A face smaller than this (pixels, in the image that is searched) is not looked for.
MIN_FACE = 20
# What the detector is less sure of than this is not taken for a face.
MIN_PROBABILITY = 0.9
# Bigger photos are searched at this longer side; the crop is then taken from the full photo.
SEARCH_SIDE = 1024
MARGIN = 0.25  # how much wider than the box, as a share of its longer side
COLUMNS = ("row", "crop", "left", "top", "right", "bottom", "probability", "reason")

# Where the detector sees both eyes, the nose and the corners of the mouth in FairFace's photos, x and y as shares of
# the side: medians over 197 of its training photos, made symmetric. Half of the photos are within 0.03 to 0.07 of them.
FAIRFACE_POINTS = ((0.313, 0.242), (0.687, 0.242), (0.5, 0.482), (0.335, 0.682), (0.665, 0.682))
# The same in facekit's rendered portraits in the style photo: medians over 235 of them, made symmetric. Their faces lie
# lower, and are smaller.
PORTRAIT_POINTS = ((0.388, 0.518), (0.612, 0.518), (0.5, 0.667), (0.408, 0.761), (0.592, 0.761))


@dataclass(frozen=True)
class Framing:
    """How a face lies in its crop: eyes, nose and mouth where FairFace's photos have them, or somewhat off.

    landmarks: where they are when nothing else is said, FairFace's or those of another set. wider: side of the crop as
    a multiple of theirs. turn: degrees by which the face is tilted, clockwise. shift:
    how far it lies to the right, as a share of the side. pixels: side to which the crop is made smaller before it is
    brought to its size, so that detail is lost; None for none.
    """

    wider: float = 1.0
    turn: float = 0.0
    shift: float = 0.0
    pixels: int | None = None
    landmarks: tuple[tuple[float, float], ...] = FAIRFACE_POINTS

    def __post_init__(self) -> None:
        finite = math.isfinite(self.wider + self.turn + self.shift)
        if not finite or self.wider <= 0 or (self.pixels is not None and self.pixels < 1):
            raise ConfigError(f"{self} is no framing: wider must be positive, pixels 1 or more, all of them finite.")

    @property
    def points(self) -> np.ndarray:
        """Where eyes, nose and mouth shall lie: (5, 2), as shares of the side."""
        angle = math.radians(self.turn)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        return (np.array(self.landmarks) - 0.5) / self.wider @ turn.T + 0.5 + np.array([self.shift, 0])


def align_faces(
    images: Sequence[Photo] | np.ndarray,
    size: int = 160,
    margin: float = MARGIN,
    keep: Literal["largest", "all"] = "largest",
    min_probability: float = MIN_PROBABILITY,
    framing: Framing | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Cuts the faces out of photos: crops uint8 (M, 3, size, size), and a table with a row for each face or miss.

    images: PIL images, uint8 arrays (grey H×W, or with 1, 3 or 4 channels first or last), or paths; of any and of
    different sizes. margin: how much wider than the detector's box on each side, as a share of its longer side
    (FairFace's photos are cut tighter than any such box). keep: the largest face of each photo, or all, largest first.
    framing: turns and scales the face so that eyes, nose and mouth lie where it says, instead of the margin; what
    lies outside of the photo is filled with its border.

    The table's columns: `row` (index of the photo), `crop` (index into the crops, -1 for none), `left`, `top`,
    `right`, `bottom` (the detector's box in pixels of the upright photo), `probability`, and `reason` (empty, or why
    there is no crop: `no face`, or a reason of `decode_file`). The crop is the square around
    the box widened by the margin, moved and if need be shrunk to lie inside the photo.

    Raises ConfigError for impossible arguments and DataError for something that is no image at all.
    """
    if keep not in ("largest", "all"):
        raise ConfigError(f"keep is {keep!r}; use largest or all.")
    if size < 1 or margin < 0 or not 0 <= min_probability <= 1:
        raise ConfigError(f"size {size}, margin {margin}, min_probability {min_probability}: out of range.")
    if isinstance(images, (str, Path, Image.Image)):
        raise ConfigError("align_faces takes a sequence of photos; put the one photo in a list.")

    def cutter(image: Image.Image, face: Face) -> np.ndarray:
        return cut(image, face.points, size, framing) if framing else cut_square(image, face.box, size, margin)

    crops, table = _cut_all(images, cutter, min_probability, keep)
    return np.array(crops, np.uint8).reshape(-1, 3, size, size), table


def cut_faces(
    images: Sequence[Photo] | np.ndarray, framings: Sequence[Framing], size: int
) -> tuple[np.ndarray, np.ndarray]:
    """The largest face of each photo in several framings: crops uint8 (F, M, 3, size, size), rows int (M,).

    rows: indices of the photos in which a face was found; the others are left out. images: as `align_faces` takes
    them. Every face is looked for once. Raises as `align_faces`, and ConfigError without framing.
    """
    if not framings or size < 1:
        raise ConfigError(f"cut_faces needs at least one framing and a size of 1 or more, got {size}.")
    crops, table = _cut_all(images, lambda image, face: [cut(image, face.points, size, each) for each in framings])
    pixels = np.array(crops, np.uint8).reshape(-1, len(framings), 3, size, size)
    return pixels.swapaxes(0, 1), table["row"][table["crop"] >= 0].to_numpy(np.int64)


def cut(image: Image.Image, points: np.ndarray, size: int, framing: Framing) -> np.ndarray:
    """A face of an RGB image in a framing: uint8 (3, size, size).

    points: (5, 2), pixels of eyes, nose and corners of the mouth in the image. The similarity (turn, scale, shift)
    that brings them closest to the framing's points, in the least squares sense (Umeyama, IEEE TPAMI 1991, without
    reflections), is applied in one step and without aliasing.
    """
    source, target = np.asarray(points, float) @ [1, 1j], size * framing.points @ [1, 1j]  # x + iy: a turn is a factor
    centred = source - source.mean()
    factor = np.vdot(centred, target - target.mean()) / max(np.vdot(centred, centred).real, 1e-9)
    least = size / (4 * max(image.size))
    if abs(factor) < least:  # points all but in one place: no face; a crop four times the photo is wide enough
        factor = least
    # From the crop back to the image, through a larger crop where the image has more pixels.
    larger = max(1, math.ceil(1 / abs(factor)))
    while larger > 1 and larger * size > 4096:
        larger -= 1
    back, start = 1 / factor, source.mean() - target.mean() / factor
    corners = start + back * np.array([0, size, size * 1j, size * (1 + 1j)])
    padded, left, top = _padded(image, corners)
    back, start = back / larger, start + complex(left, top)
    matrix = (back.real, -back.imag, start.real, back.imag, back.real, start.imag)
    side = larger * size
    crop = padded.transform((side, side), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    if framing.pixels and framing.pixels < size:
        crop = crop.resize((framing.pixels, framing.pixels), Image.Resampling.LANCZOS)
    return resize(crop, size)


def _padded(image: Image.Image, corners: np.ndarray) -> tuple[Image.Image, int, int]:
    """The part of the image that a crop with these corners (x + iy) needs, its border repeated where there is no more.

    Also returns what has to be added to x and y.
    """
    bounds = [corners.real.min() - 2, corners.imag.min() - 2, corners.real.max() + 2, corners.imag.max() + 2]
    left, top, right, bottom = (int(round(bound)) for bound in bounds)
    columns = np.arange(left, right).clip(0, image.width - 1)
    rows = np.arange(top, bottom).clip(0, image.height - 1)
    inner = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    pixels = np.asarray(image.crop(inner))
    pixels = pixels[np.ix_(rows - inner[1], columns - inner[0])]
    return Image.fromarray(np.ascontiguousarray(pixels)), -left, -top


def _cut_all(
    images: Sequence[Photo] | np.ndarray,
    cutter: Callable[[Image.Image, Face], Any],
    min_probability: float = MIN_PROBABILITY,
    keep: Literal["largest", "all"] = "largest",
) -> tuple[list, pd.DataFrame]:
    """What `cutter` makes of a photo and a face, for each face; and the table of `align_faces`."""
    crops: list = []
    rows: list[tuple] = []
    for row, photo in enumerate(settings.progress(images, total=len(images), desc="aligning", unit="photo")):
        try:
            image = opened(photo, row)
            found = find_faces(image, min_probability)
        except Unusable as error:
            rows.append((row, -1, *[np.nan] * 5, error.problem.reason))
            continue
        for face in found if keep == "all" else found[:1]:
            rows.append((row, len(crops), *face.box, face.probability, ""))
            crops.append(cutter(image, face))
        if not found:
            rows.append((row, -1, *[np.nan] * 5, "no face"))
    return crops, pd.DataFrame(rows, columns=list(COLUMNS)).astype({"probability": float})


@cache
def _detector(device: str) -> MTCNN:
    """The detector with its packaged weights; its thresholds are the defaults of facenet-pytorch."""
    from facenet_pytorch import MTCNN

    return MTCNN(min_face_size=MIN_FACE, keep_all=True, post_process=False, device=torch.device(device)).eval()


def opened(photo: Photo, row: int) -> Image.Image:
    """Any of the forms that `align_faces` takes as an upright RGB image; raises Unusable or DataError.

    row: said of an array that is no image.
    """
    if isinstance(photo, Image.Image):
        return rgb(photo)
    if isinstance(photo, (str, Path)):
        return decode_file(photo)
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


@dataclass(frozen=True)
class Face:
    """A face in an image.

    box: left, top, right, bottom, in pixels. points: (5, 2), eyes, nose and corners of the mouth. probability: how sure
    the detector is that it is one.
    """

    box: tuple[float, ...]
    probability: float
    points: np.ndarray


def find_faces(
    image: Image.Image, min_probability: float = MIN_PROBABILITY, device: str | torch.device | None = None
) -> list[Face]:
    """The faces of an upright RGB image, largest first; those that the detector is less sure of are left out.

    device: by default `settings.device()`. Raises Unusable for an image without room for a face.
    """
    scale = min(1.0, SEARCH_SIDE / max(image.size))
    searched = image
    if scale < 1:
        width, height = (max(1, round(side * scale)) for side in image.size)
        searched = image.resize((width, height), Image.Resampling.BOX)
    if min(searched.size) < MIN_FACE:
        raise Unusable(Problem("too small", f"{image.width} × {image.height} has no room for a face"))
    try:
        with torch.inference_mode():
            boxes, probabilities, points = _detector(str(settings.device(device))).detect(searched, landmarks=True)
    except RuntimeError as error:
        # The detector concatenates an empty list when all its candidates lie outside the photo.
        if "non-empty" not in str(error):
            raise
        boxes = None
    if boxes is None:
        return []
    factors = np.array([image.width / searched.width, image.height / searched.height] * 2)
    boxes = np.asarray(boxes, dtype=np.float64) * factors
    points = np.asarray(points, dtype=np.float64) * factors[:2]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    found = [
        Face(tuple(float(side) for side in boxes[place]), float(probabilities[place]), points[place])
        for place in np.argsort(-areas, kind="stable")
    ]
    return [face for face in found if face.probability >= min_probability]


def cut_square(image: Image.Image, box: tuple[float, ...], size: int, margin: float = MARGIN) -> np.ndarray:
    """The square around a box, wider by the margin on each side, inside the image: uint8 (3, size, size)."""
    return resize(image.crop(_square(box, margin, image.size)), size)


def _square(box: tuple[float, ...], margin: float, photo: tuple[int, int]) -> tuple[int, int, int, int]:
    """The square to cut: around the box, wider by the margin, inside the photo."""
    left, top, right, bottom = box
    side = round(max(right - left, bottom - top) * (1 + 2 * margin))
    side = max(1, min(side, *photo))
    x, y = round((left + right - side) / 2), round((top + bottom - side) / 2)
    x, y = (min(max(0, start), limit - side) for start, limit in zip((x, y), photo, strict=True))
    return x, y, x + side, y + side
