"""How fast networks are trained, and how fast the batches are made that they are trained on."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from facekit import settings
from facekit.errors import ConfigError
from facekit.experiments.speed import TASKS, PhotoByPhoto, bench_training, fastest, figures, loader, noise
from facekit.training.augment import Augment
from facekit.training.batches import Batches


def bench_finetuning(
    batch_size: int | None = None,
    steps: int | None = None,
    rounds: int = 2,
    compile: bool | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Measures fine-tuning the whole FaceNet with three heads at 160 pixels, with each switch alone and all together.

    Beside facenet-pytorch's own loop, a plain loop and the bare step, see `facekit.experiments.speed.bench_training`.

    Args:
        batch_size: Photos a step; by default 32, on a GPU 256.
        steps: Steps of one measurement; by default 4, on a GPU 20.
        rounds: Measurements per row; the fastest counts.
        compile: Also tries torch.compile, which takes minutes on a CPU; by default on a GPU only.
        device: Where to compute, by default as everywhere in facekit.
    """
    return bench_training("facenet", batch_size, steps, rounds, compile, device)


def bench_mini(
    batch_size: int | None = None,
    steps: int | None = None,
    rounds: int = 3,
    compile: bool = True,
    device: str | None = None,
) -> pd.DataFrame:
    """Measures training facenet-mini with three heads at 96 pixels, with each switch alone and all together.

    Beside a plain loop and the bare step, see `facekit.experiments.speed.bench_training`.

    Args:
        batch_size: Photos a step; by default 32, on a GPU 256.
        steps: Steps of one measurement; by default 8, on a GPU 20.
        rounds: Measurements per row; the fastest counts.
        compile: Also tries torch.compile, which takes a minute on a CPU.
        device: Where to compute, by default as everywhere in facekit.
    """
    if steps is None and settings.device(device).type == "cpu":
        steps = 8
    return bench_training("mini", batch_size, steps, rounds, compile, device)


def bench_data(
    photos: int = 512, size: int = 160, batch_size: int = 64, rounds: int = 3, device: str | None = None
) -> pd.DataFrame:
    """Measures how fast augmented batches are made and brought to the device, without training on them.

    The same changes (mirror image, shift, light) photo by photo with torchvision in a DataLoader, without helper
    processes and with as many as there are cores, and in whole batches on the device. Photos are noise.

    Args:
        photos: Photos in an epoch.
        size: Their side in pixels.
        batch_size: Photos a batch.
        rounds: Epochs of each row; the fastest counts.
        device: Where to, by default as everywhere in facekit.
    """
    if min(photos, size, batch_size) < 2 or rounds < 1:
        raise ConfigError("photos, size and batch_size must be 2 or more, rounds 1 or more.")
    place = settings.device(device)
    faces = noise(photos, size, TASKS)
    resident = Batches(faces, TASKS, batch_size, device=place, augment=Augment())
    bare = Batches(faces, TASKS, batch_size, device=place)

    def usual(workers: int, augment: bool = True) -> Callable[[], None]:
        loading = loader(PhotoByPhoto(faces, TASKS, augment), batch_size, place, workers)

        def run() -> None:
            for images, targets in loading:
                images.to(place, non_blocking=True)
                for values in targets.values():
                    values.to(place, non_blocking=True)

        return run

    def ours(batches: Batches) -> Callable[[], None]:
        def run() -> None:
            for _ in batches.epoch():
                pass

        return run

    rows = {
        "DataLoader with torchvision's transforms": usual(0),
        f"the same, {settings.cores()} helper processes": usual(settings.cores()),
        "facekit's batches": ours(resident),
        "DataLoader without changes": usual(0, augment=False),
        "facekit's batches without changes": ours(bare),
    }
    for run in rows.values():
        run()
    return figures({name: photos / seconds for name, seconds in fastest(rows, rounds, place).items()})
