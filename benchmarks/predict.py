"""How fast photos are answered, beside the detector and the network alone."""

from __future__ import annotations

import io
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from benchmarks.packing import _timed
from facekit import settings
from facekit.answers.model import Model, load
from facekit.answers.predict import Answers, write_answers
from facekit.commands.train import train
from facekit.data.align import MIN_FACE, Framing, cut
from facekit.data.portraits import render_portraits
from facekit.data.readers.archives import open_source
from facekit.errors import ConfigError, DataError
from facekit.files import pasted_path
from facekit.models.build import BACKBONES

BATCH = 64
PART = 50  # photos that are timed together: the shorter, the more alike is what the machine does beside


def bench_predict(
    source: Path | None = None, photos: int = 500, rounds: int = 3, backbone: str = "mini", model: Path | None = None
) -> int:
    """Measures `predict` against a plain loop of the detector and the network, on photos that show one face each.

    Both rates are taken in this run, on the same photos, in turns, so that a machine that is busy with something else
    slows both. The loop starts from bytes in memory: Pillow opens a photo,
    facenet-pytorch's MTCNN finds the face, it is cut, and the network answers 64 faces together; nothing is written.
    predict reads a zip, checks each photo, writes the table and what it needs to go on after a stop; it searches a
    photo in each core at a time.

    Args:
        source: Folder, zip or tar to take the photos from; those in which the detector sees one face are taken. Without
            it portraits are rendered.
        photos: How many photos.
        rounds: How often each of the two is timed.
        backbone: Network of the model (facenet, mini), with heads for gender and age as they are drawn.
        model: Instead, a model that `train` has left.
    """
    if photos < 1 or rounds < 1:
        raise ConfigError(f"photos and rounds must be 1 or more, got {photos} and {rounds}.")
    detector = MTCNN(min_face_size=MIN_FACE, keep_all=True, post_process=False, device=settings.device()).eval()
    every = (
        _portraits(photos) if source is None else (entry.data for entry in open_source(pasted_path(source)).entries())
    )
    taken = list(islice(_with_one_face(filter(None, every), detector), photos))
    if len(taken) < photos:
        raise DataError(f"{source or 'the portraits'}: {len(taken)} photos with one face, {photos} are wanted.")
    parts = [taken[start : start + PART] for start in range(0, photos, PART)]
    alone, whole, rows = Clock(), Clock(), 0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        loaded = load(model) if model else _drawn_model(home / "run", backbone)
        zips = [_zipped(home / f"{place}.zip", part) for place, part in enumerate(parts)]
        for turn in range(rounds):
            for place, part in enumerate(parts):

                def plain(part: list[bytes] = part) -> None:
                    _alone(part, detector, loaded)

                def ours(place: int = place) -> None:
                    write_answers(Answers(loaded, zips[place], "fairface"), home / f"{place}.csv")

                # In turns, and each as often first: what runs beside them on the machine comes and goes.
                for work, clock in ((plain, alone), (ours, whole))[:: 1 if (turn + place) % 2 else -1]:
                    clock.measure(work)
        rows = sum(len((home / f"{place}.csv").read_text().splitlines()) - 1 for place in range(len(parts)))
    kind = f"photos of {source}" if source else "rendered portraits"
    network, threads = loaded.about["network"]["backbone"], f"{settings.cores()} cores"
    print(f"{photos} {kind} with one face, {network}, {threads}, {rounds} rounds in parts of {PART}")
    for name, clock in (("detector and network alone", alone), (f"predict, {rows} rows", whole)):
        wall, cpu = (rounds * photos / sum(each) for each in (clock.wall, clock.cpu))
        print(f"  {name:28}{wall:8.1f} photos/s{cpu:8.1f} a second of one core")
    shares = [np.divide(one, other) for one, other in ((alone.wall, whole.wall), (alone.cpu, whole.cpu))]
    print(
        f"  share of it: {np.sum(alone.wall) / np.sum(whole.wall):.1%} (median of {len(shares[0])} pairs "
        f"{np.median(shares[0]):.1%}); by processor time {np.sum(alone.cpu) / np.sum(whole.cpu):.1%} "
        f"(median {np.median(shares[1]):.1%})"
    )
    return 0


class Clock:
    """Seconds by the clock, and of the processor in all threads, of one work after another."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def measure(self, work: Callable[[], object]) -> None:
        """Times a work."""
        cpu = time.process_time()
        self.wall.append(_timed(work))
        self.cpu.append(time.process_time() - cpu)


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


def _drawn_model(out: Path, backbone: str) -> Model:
    """A model with heads that have learnt next to nothing."""
    if backbone not in BACKBONES:
        raise ConfigError(f"backbone is {backbone!r}; use {' or '.join(BACKBONES)}.")
    with redirect_stdout(io.StringIO()):
        train("portraits", out, "gender,age", backbone=backbone, epochs=1, steps=1, batch_size=8, portraits=16)
    return load(out)


@torch.inference_mode()
def _alone(photos: list[bytes], detector: MTCNN, model: Model) -> None:
    """The least that has to be done: find the face, cut it, and ask the network; nothing kept."""
    network, size = model.network, model.about["sets"][0]["input"]["shape"][1]
    place = settings.device()
    crops: list[np.ndarray] = []
    for number, data in enumerate(photos, 1):
        image, points = _seen(detector, _opened(data))
        crops += [cut(image, face, size, Framing()) for face in points]
        if len(crops) >= BATCH or number == len(photos):
            network(torch.from_numpy(np.stack(crops)).to(place))
            crops = []
