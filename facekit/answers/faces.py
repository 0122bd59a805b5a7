"""Faces out of photos, one photo after another: where photos come from, and how a model wants its faces cut.

A network knows faces in the framing in which it learnt them, so photos are cut as its training photos were;
`model.json` says how. Nothing of a photo is kept but its faces, and these only until they are answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from facekit.data import portraits
from facekit.data.align import PORTRAIT_POINTS, Framing, Photo, cut, cut_square, find_faces, opened
from facekit.data.catalogue import stored
from facekit.data.pack import in_threads
from facekit.data.readers.archives import Problem, Sample, clean_name, is_archive, is_photo, open_source
from facekit.data.readers.decode import Unusable, as_file, decode, file_bytes, quiet, resize
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.files import json_sha256, pasted_path, sha256_of_file
from facekit.settings import cores

Way = Literal["as_trained", "cropped", "fairface", "box"]
WAYS: tuple[Way, ...] = ("as_trained", "cropped", "fairface", "box")
Photos = Path | str | FaceSet | FeatureSet | Photo | bytes | Sequence[Photo | bytes]
CHOOSE = (
    "Say it yourself: --faces cropped if your photos are cut as those were, --faces fairface or box if the faces are "
    "to be found in them."
)
SHOWN_SIDE = 1024  # of the picture on which answers are drawn
_TOGETHER = 4  # photos that a thread takes at a time: finding the faces of one costs much more than handing it over


@dataclass(frozen=True)
class Cut:
    """How faces get out of a photo, as uint8 (3, height, width).

    framing: how a found face lies in its crop; None for the square around its box, wider by a margin.
    whole: no face is looked for, the photo is one and is taken as it is. device: of the detector.
    """

    height: int
    width: int
    framing: Framing | None = None
    whole: bool = False
    device: str | None = None

    def __call__(self, image: Image.Image) -> tuple[np.ndarray, list[tuple[float | None, ...]]]:
        """The faces of an upright RGB image, largest first: uint8 (M, 3, height, width), and where they were found.

        That is left, top, right and bottom in pixels of the image, and the detector's confidence; all of them None for
        a whole photo. Raises Unusable for an image that is too small for a face, or in which there is none.
        """
        if self.whole:
            return resize(image, self.height, self.width)[None], [(None,) * 5]
        found = find_faces(image, device=self.device)
        if not found:
            raise Unusable(Problem("no face"))
        size = max(self.height, self.width)
        crops = [
            cut(image, face.points, size, self.framing) if self.framing else cut_square(image, face.box, size)
            for face in found
        ]
        return np.stack(crops), [(*face.box, face.probability) for face in found]


@dataclass(frozen=True)
class Found:
    """What was found in one photo. crops: uint8 (M, 3, H, W). boxes: see `Cut`. reason: why there is no face, or "".

    picture: of at most `SHOWN_SIDE` pixels a side, and what its boxes are to be multiplied by, where it was asked for.
    """

    file: str
    crops: np.ndarray
    boxes: Sequence[tuple[float | None, ...]]
    reason: str = ""
    picture: Image.Image | None = None
    scale: float = 1.0


@dataclass(frozen=True)
class Listed:
    """Photos in an order that is the same every time.

    total: how many, None where that is only known at the end. fingerprint: a text that changes when they do. entries:
    all of them, the first so many without their bytes. packed: the set that they are of, if they are of one.
    """

    total: int | None
    fingerprint: Callable[[], str]
    entries: Callable[[int], Iterator[Sample]]
    packed: FaceSet | FeatureSet | None = None


def listed(photos: Photos) -> Listed:
    """Photos at a path (a photo, a folder, an archive, a packed set), of a set, or as they are in memory.

    Raises DataError where there is nothing to read, and for something that is no photo.
    """
    if isinstance(photos, str | Path):
        photos = pasted_path(photos)
        if (photos / "manifest.json").is_file():
            photos = stored(photos)
        elif photos.is_file() and not is_archive(photos) and is_photo(clean_name(photos.name)):
            path = photos
            return Listed(1, lambda: sha256_of_file(path), lambda skip: _in_memory([path], skip))
        else:
            source = open_source(photos)
            return Listed(source.total, source.fingerprint, source.entries)
    if isinstance(photos, FaceSet | FeatureSet):
        return _of_set(photos)
    several = photos if isinstance(photos, Sequence) and not isinstance(photos, bytes) else [photos]
    return Listed(len(several), lambda: "", lambda skip: _in_memory(several, skip))


def _of_set(data: FaceSet | FeatureSet) -> Listed:
    """The rows of a set as photos, each as bytes that give back its pixels."""
    names = [str(name) for name in (data.labels["file"] if "file" in data.labels else range(len(data)))]

    def entries(skip: int) -> Iterator[Sample]:
        for row, name in enumerate(names):
            yield Sample(name, None if row < skip else as_file(data.inputs[row].transpose(1, 2, 0)))

    return Listed(len(data), lambda: json_sha256(data.manifest), entries, data)


def _in_memory(photos: Sequence[Any], skip: int) -> Iterator[Sample]:
    """Photos that somebody has opened, or paths of photos; a path is named as its file, others by their place."""
    for place, photo in enumerate(photos):
        name = clean_name(Path(photo).name) if isinstance(photo, str | Path) else str(place)
        try:
            if place < skip:
                yield Sample(name)
            elif isinstance(photo, str | Path):
                yield Sample(name, file_bytes(photo))
            elif isinstance(photo, bytes | bytearray | memoryview):
                yield Sample(name, bytes(photo))
            else:
                yield Sample(name, as_file(np.asarray(opened(photo, place))))
        except Unusable as error:
            yield Sample(name, problem=error.problem)


def found(photos: Listed, how: Cut, skip: int = 0, pictures: bool = False) -> Iterator[Found]:
    """What is found in each photo, in order, without the first `skip`; pictures: with a small one of each.

    Photos are decoded and searched in a thread for each core; what is in memory does not grow with their number.
    """

    def work(sample: Sample) -> Found:
        nothing = np.empty((0, 3, how.height, how.width), np.uint8)
        if sample.problem:
            return Found(sample.name, nothing, [], told(sample.problem))
        picture, scale = None, 1.0
        try:
            image = decode(sample.data or b"", at_least=max(how.height, how.width) if how.whole else None)
            if pictures:
                scale = min(1.0, SHOWN_SIDE / max(image.size))
                width, height = (max(1, round(side * scale)) for side in image.size)
                picture = image.resize((width, height), Image.Resampling.BOX) if scale < 1 else image
            crops, boxes = how(image)
        except Unusable as error:
            return Found(sample.name, nothing, [], told(error.problem), picture, scale)
        return Found(sample.name, crops, boxes, "", picture, scale)

    with quiet():
        for _, each in in_threads(islice(photos.entries(skip), skip, None), work, cores(), _TOGETHER):
            yield each


def told(problem: Problem) -> str:
    """A problem in one text."""
    return f"{problem.reason}: {problem.detail}" if problem.detail else problem.reason


def cut_for(entry: Mapping[str, Any], faces: Way, usual: int, named: object, device: str | None = None) -> Cut:
    """How photos are cut for a model, by an entry of `sets` of its `model.json`.

    faces: `as_trained`, as its training photos were; else `cropped`, photos are taken whole; `fairface`, eyes, nose and
    mouth are brought to where FairFace's photos have them; `box`, as `pack --align` cuts. usual: side of a crop where
    nothing says it. named: the model, for errors. Raises ConfigError where nobody knows how they were cut.
    """
    if faces not in WAYS:
        raise ConfigError(f"faces is {faces!r}; use one of {', '.join(WAYS)}.")
    framing: Mapping[str, Any] = entry["framing"]
    shape, embedded = framing["stored"], framing.get("embedded") or {}
    height, width = shape[1:] if len(shape) == 3 else embedded.get("photos", [usual, usual])
    one = Cut(height, width, device=device)
    ways = {"cropped": replace(one, whole=True), "fairface": replace(one, framing=Framing()), "box": one}
    return ways[faces] if faces != "as_trained" else _as_trained(framing, entry["data"], ways, named)


def _as_trained(framing: Mapping[str, Any], data: Mapping[str, Any], ways: Mapping[str, Cut], named: object) -> Cut:
    """How the training photos of a model were cut."""
    how, reader = framing.get("how"), framing.get("reader")
    if how == "rendered":
        if data.get("generator", {}).get("name") == portraits.__name__:
            return replace(ways["fairface"], framing=Framing(landmarks=PORTRAIT_POINTS))
        return ways["cropped"]
    if how == "aligned":
        return ways["box"]
    if how == "drawn embeddings" or (how == "whole photo" and reader == "fairface"):
        return ways["fairface"]
    if how == "whole photo" and reader != "utkface":
        return ways["cropped"]
    what = "are UTKFace's own crops, which facekit cannot make of a photo" if reader == "utkface" else "are not known"
    raise ConfigError(f"{named}: how the faces of its training photos were cut: they {what}. {CHOOSE}")


def same_cut(entry: Mapping[str, Any], data: FaceSet | FeatureSet) -> bool:
    """Whether the photos of a set were cut as those that a model learnt from, as far as both say."""
    request: Mapping[str, Any] = data.manifest.get("request", {})
    framing: Mapping[str, Any] = entry["framing"]
    if "align" not in request or framing.get("how") not in ("aligned", "whole photo"):
        return True
    readers = {framing.get("reader"), data.manifest.get("reader")}
    same_reader = len(readers) == 1 or not readers & {"fairface", "utkface"}
    return request["align"] == (framing["how"] == "aligned") and (request["align"] or same_reader)
