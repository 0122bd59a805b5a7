"""How fast photos are answered, beside the detector and the network alone."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterable
from contextlib import redirect_stdout
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from facekit import settings
from facekit.answers.model import Model, load
from facekit.answers.predict import Answers, write_answers
from facekit.commands.train import train
from facekit.data.align import MIN_FACE, Framing, cut
from facekit.data.portraits import render_portraits
from facekit.data.readers.archives import open_source
from facekit.errors import ConfigError, DataError
from facekit.experiments.speed import fastest, figures
from facekit.files import pasted_path
from facekit.models.build import BACKBONES

BATCH = 64
ALONE = "detector and network alone"


def bench_predict(
    source: Path | None = None,
    photos: int = 100,
    rounds: int = 3,
    backbone: str = "mini",
    model: Path | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Measures `predict` from photo to answer beside the detector and the network alone, on photos with one face each.

    Alone starts from bytes in memory: Pillow opens a photo, facenet-pytorch's MTCNN finds the face, it is cut, and the
    network answers 64 faces together; nothing is written. predict reads a zip, checks each photo, writes the table and
    what it needs to go on after a stop; it searches a photo in each core at a time.

    Args:
        source: Folder, zip or tar to take the photos from; those in which the detector sees one face are taken. Without
            it portraits are rendered.
        photos: How many photos.
        rounds: How often each of the two is timed; the fastest counts.
        backbone: Network of the model (facenet, mini), with heads for gender and age as they are drawn.
        model: Instead, a model that `train` has left.
        device: Where to compute, by default as everywhere in facekit.
    """
    if photos < 1 or rounds < 1:
        raise ConfigError(f"photos and rounds must be 1 or more, got {photos} and {rounds}.")
    place = settings.device(device)
    detector = MTCNN(min_face_size=MIN_FACE, keep_all=True, post_process=False, device=place).eval()
    every = (
        _portraits(photos) if source is None else (entry.data for entry in open_source(pasted_path(source)).entries())
    )
    taken = list(islice(_with_one_face(filter(None, every), detector), photos))
    if len(taken) < photos:
        raise DataError(f"{source or 'the portraits'}: {len(taken)} photos with one face, {photos} are wanted.")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        loaded = load(model or _drawn_model(home / "run", backbone), str(place))
        archive = _zipped(home / "photos.zip", taken)
        answers = (home / f"{number}.csv" for number in count())
        rows = {
            ALONE: lambda: _alone(taken, detector, loaded, place),
            "predict": lambda: write_answers(Answers(loaded, archive, "fairface"), next(answers)),
        }
        for run in rows.values():
            run()
        seconds = fastest(rows, rounds, place)
    return figures({name: photos / seconds[name] for name in rows}, limit=ALONE)


def _zipped(path: Path, photos: list[bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, data in enumerate(photos):
            archive.writestr(f"{number:05d}.jpg", data)
    return path


def _portraits(n: int) -> list[bytes]:
    found = []
    for pixels in render_portraits(2 * n, seed=0, size=224).images:
        file = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=90)
        found.append(file.getvalue())
    return found


def _with_one_face(photos: Iterable[bytes], detector: MTCNN) -> Iterable[bytes]:
    """Those in which the detector is sure of one face."""
    return (data for data in photos if len(_seen(detector, _opened(data))[1]) == 1)


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


@torch.inference_mode()
def _seen(detector: MTCNN, image: Image.Image) -> tuple[Image.Image, np.ndarray]:
    boxes, probabilities, points = detector.detect(image, landmarks=True)
    return image, points[probabilities >= 0.9] if boxes is not None else np.empty((0, 5, 2))


def _drawn_model(out: Path, backbone: str) -> Path:
    """The folder of a model with heads that have learnt next to nothing."""
    if backbone not in BACKBONES:
        raise ConfigError(f"backbone is {backbone!r}; use {' or '.join(BACKBONES)}.")
    with redirect_stdout(io.StringIO()):
        train("portraits", out, "gender,age", backbone=backbone, epochs=1, steps=1, batch_size=8, portraits=16)
    return out


@torch.inference_mode()
def _alone(photos: list[bytes], detector: MTCNN, model: Model, place: torch.device) -> None:
    """The least that has to be done: find the face, cut it, and ask the network; nothing kept."""
    network, size = model.network, model.about["sets"][0]["input"]["shape"][1]
    crops: list[np.ndarray] = []
    for number, data in enumerate(photos, 1):
        image, points = _seen(detector, _opened(data))
        crops += [cut(image, face, size, Framing()) for face in points]
        if len(crops) >= BATCH or number == len(photos):
            network(torch.from_numpy(np.stack(crops)).to(place))
            crops = []
