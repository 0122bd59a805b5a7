"""Which network to start from: the records `networks_real` and `networks_cost`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from facekit.data.catalogue import photos
from facekit.data.readers.classes import class_task
from facekit.data.sets import FaceSet, FeatureSet
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.efficientnet_lite import EfficientNetLite0
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.studies.common import TASKS, fairface, rows_of
from facekit.tasks import Task
from facekit.transfer.probe import pixel_features

N_TEST, N_POOL = 4000, 5000  # FairFace's training photos: scored, and to draw labels from
CALIBRATED = 512  # pictures that BatchNorm's statistics of an untrained network are made of

FORMS: Mapping[str, type[FaceNet | EfficientNetLite0 | FaceNetMini]] = {
    "FaceNet": FaceNet,
    "ImageNet": EfficientNetLite0,
    "facenet-mini": FaceNetMini,
}


@dataclass(frozen=True, eq=False)
class Target:
    """Pictures to learn from and pictures to score, by what they are, with their tasks."""

    name: str
    tasks: tuple[Task, ...]
    pool: FaceSet
    tests: Mapping[str, FaceSet]


def real_targets() -> tuple[Target, ...]:
    """FairFace (two test parts: held-out training photos, and the official ones that are here), CIFAR-10, ISIC."""
    faces = fairface()
    order = np.random.default_rng(0).permutation(rows_of(faces, "train", "validation"))
    held_out, drawn = np.sort(order[:N_TEST]), np.sort(order[N_TEST : N_TEST + N_POOL])
    tests = {"held-out training photos": faces.select(held_out), "official test photos here": faces.split("test")}
    found = [Target("faces", TASKS, faces.select(drawn), tests)]
    for name, column in (("objects", "object"), ("lesions", "diagnosis")):
        data = photos(name)
        pool = data.select(rows_of(data, "train", "validation"))
        found.append(Target(name, (class_task(data, column),), pool, {"test": data.split("test")}))
    return tuple(found)


@torch.no_grad()
def untrained(form: Callable[[], Backbone], pictures: FaceSet, seed: int = 0) -> Backbone:
    """A network with random weights and BatchNorm's statistics of CALIBRATED pictures, without which it says little."""
    torch.manual_seed(seed)
    network = form().train()
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # the mean over all batches
        if isinstance(module, nn.Dropout):
            module.eval()
    some = pictures.select(np.random.default_rng(seed).permutation(len(pictures))[:CALIBRATED])
    for start in range(0, len(some), 64):
        part = some.select(range(start, min(start + 64, len(some)))).resized(network.image_size)
        network(torch.from_numpy(np.array(part.images)))
    return network.eval()


def ways(target: Target) -> dict[str, Callable[[FaceSet], FeatureSet]]:
    """What turns pictures into features, by name: three taught networks, their untrained twins, and pixels."""
    taught = {name: partial(embed, form.from_pretrained()) for name, form in FORMS.items()}
    fresh = {f"{name}, untrained": partial(embed, untrained(form, target.pool)) for name, form in FORMS.items()}
    return {**taught, **fresh, "pixels": pixel_features}
