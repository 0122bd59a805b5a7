"""How fast training is: the loop's switches side by side, and batches from memory beside torch's DataLoader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from facekit import settings
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.experiments.speed import fastest, machine, rates
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.heads import Classifier, Heads
from facekit.records import hardware
from facekit.tasks import GENDER
from facekit.training.augment import Augment
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan

SWITCHES: dict[str, dict] = {
    "fp32": {},
    "channels_last": {"channels_last": True},
    "bf16": {"precision": "bf16"},
    "bf16, channels_last": {"precision": "bf16", "channels_last": True},
    "compile": {"compile": True},
    "bf16, channels_last, compile": {"precision": "bf16", "channels_last": True, "compile": True},
}


class PhotoByPhoto(Dataset):
    """The usual way: one photo at a time, augmented by itself, put into batches by a DataLoader."""

    def __init__(self, faces: FaceSet, augment: Augment) -> None:
        self.images, self.augment = faces.images, augment
        self.targets = GENDER.encode(faces.labels["gender"])
        self.generator = torch.Generator().manual_seed(0)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.augment(torch.from_numpy(self.images[row])[None], self.generator)[0], self.targets[row]


def bench_training(
    photos: int = 512, size: int = 96, batch_size: int = 64, epochs: int = 3, device: str | None = None
) -> int:
    """Measures photos per second of the training loop with each of its switches, and of making batches alone.

    facenet-mini with random weights, all stages trained, on photos of noise (the time does not depend on them). The
    first epoch warms up and does not count; of the others the fastest does.

    Args:
        photos: Photos in an epoch.
        size: Their side in pixels.
        batch_size: Photos a step.
        epochs: Epochs per row, two at least.
        device: Where to compute, by default as everywhere in facekit.
    """
    if min(photos, size, batch_size) < 2 or epochs < 2:
        raise ConfigError("photos, size, batch_size and epochs must be 2 or more.")
    place = settings.device(device)
    faces = _noise(photos, size)
    print(f"{photos} photos of {size} × {size} in batches of {batch_size} {machine(place)} ({hardware()})")
    base = TrainConfig(batch_size=batch_size, device=str(place))
    _print("training", {name: _training(faces, replace(base, **more), epochs) for name, more in SWITCHES.items()})
    makers = _batch_makers(faces, batch_size, place)
    for make in makers.values():
        make()
    least = fastest(makers, epochs - 1, place)
    _print("batches alone, augmented", {name: photos / seconds for name, seconds in least.items()})
    return 0


def _noise(photos: int, size: int) -> FaceSet:
    generator = np.random.default_rng(0)
    labels = pd.DataFrame({"gender": generator.choice(GENDER.classes, photos), "split": "train"})
    return FaceSet(generator.integers(0, 256, (photos, 3, size, size), dtype=np.uint8), labels)


def _training(faces: FaceSet, config: TrainConfig, epochs: int) -> float:
    """Photos per second; NaN where torch.compile finds no compiler."""
    torch.manual_seed(0)
    model = Classifier(FaceNetMini(), Heads(FaceNetMini.embedding_dim, [GENDER]))
    recipe = plan("everything", list(model.stages), epochs=epochs, lr=1e-3)
    try:
        result = fit(model, Supervised([GENDER]), faces, None, recipe, config)
    except torch._dynamo.exc.BackendCompilerFailed as error:
        print(f"torch.compile does not work here: {str(error.inner_exception).splitlines()[0]}")
        return float("nan")
    return len(faces) / result.history["seconds"][1:].min()


def _batch_makers(faces: FaceSet, batch_size: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """Name to a function that makes all batches of an epoch on the device."""
    augment = Augment()
    resident = Batches(faces, [GENDER], batch_size, device=device, augment=augment)

    def from_memory() -> None:
        for _ in resident.epoch(0):
            pass

    def loader(workers: int) -> Callable[[], None]:
        by_photo = PhotoByPhoto(faces, augment)
        loading = DataLoader(by_photo, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)

        def load() -> None:
            for images, targets in loading:
                images.to(device), targets.to(device)

        return load

    return {"DataLoader, no workers": loader(0), "DataLoader, 2 workers": loader(2), "set on the device": from_memory}


def _print(title: str, per_second: dict[str, float]) -> None:
    print(rates(title, per_second).to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
