"""Distillation: a small network learns to give the embeddings of a large one (Hinton et al. 2015, 1503.02531).

The student sees each photo as it is or mirrored, at random, and its target is the teacher's embedding of the very same
view: the consistent teacher of Beyer et al. 2022 ("Knowledge distillation: a good teacher is patient and consistent",
2106.05237). The pictures need no label, so anything that the teacher can look at may be learnt from: besides photos,
rendered portraits, and blends of two pictures, as in the same paper. The teacher's embeddings are computed once, before
the training.

Most of an embedding's length says who somebody is; race, gender and age are a few directions of it. So that the student
does not lose these, it may also be asked to give classifiers of the teacher's embeddings the same answers (reused
classifiers: Chen et al. 2022, "Knowledge distillation with the reused teacher classifier", 2203.14001).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from facekit import settings
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.files import atomic_path
from facekit.models.backbones.base import Backbone
from facekit.models.embedding import embed, has_fast_bf16
from facekit.models.heads import Heads
from facekit.training.batches import Batch
from facekit.training.methods import Method
from facekit.transfer.table import Row

LARGEST_WEIGHTS = 5_000_000  # bytes; they travel with the package
# Portraits are rendered from other seeds than those of lessons and records (all below), so that nobody is met twice.
_PORTRAIT_SEED = 10_000


def cosine_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean of 1 - cosine over the rows of two (N, D), a scalar: 0 where all directions agree, 1 where unrelated."""
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


def same_view(images: torch.Tensor, targets: torch.Tensor, mirror: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Photos (n, 3, H, W), mirrored where `mirror` (n,) is true, and the teacher's embeddings (n, D) of these views.

    targets: (2, n, D), of the photos and of their mirror images.
    """
    views = torch.where(mirror[:, None, None, None], images.flip(3), images)
    return views, torch.where(mirror[:, None], targets[1], targets[0])


def different_answers(heads: Heads, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence in nats from the answers of `heads` for one (N, D) to those for the other, a scalar.

    The mean over rows and tasks of Σ p log(p / q), p the classes' probabilities given the teacher's embeddings, q given
    the student's: 0 where both get the same answers.
    """
    with torch.autocast(student.device.type, enabled=False):
        answers = zip(heads(student.float()).values(), heads(teacher.float()).values(), strict=True)
    each = [F.kl_div(q.log_softmax(1), p.log_softmax(1), reduction="batchmean", log_target=True) for q, p in answers]
    return torch.stack(each).mean()


class Distillation(Method):
    """Cosine distance between the student's embedding of a view and the teacher's embedding of the same view.

    The model that it trains is a backbone. targets: the teacher's embeddings float32 (2, N, D) of the training photos
    (row i is photo i) and of their mirror images. Which photos are mirrored is drawn anew in every step; a batch must
    therefore not be mirrored already (`Augment(flip=0)`). The targets are no part of the checkpoints, their hash is.

    heads: classifiers of the teacher's embeddings, with multiclass tasks; they stay as they are, and `weight` times
    `different_answers` is added to the loss. Raises ConfigError for other tasks and for a negative weight.
    """

    needs_labels = False
    targets: torch.Tensor  # float32 (2, N, D)

    def __init__(self, targets: torch.Tensor, heads: Heads | None = None, weight: float = 0.5) -> None:
        super().__init__(())
        if heads is not None and (weight < 0 or not all(task.argmax for task in heads.tasks)):
            raise ConfigError(
                f"reused classifiers have multiclass tasks and a weight of 0 or more, got {weight} and "
                f"{[task.kind for task in heads.tasks]}."
            )
        if targets.ndim != 3 or len(targets) != 2 or targets.dtype != torch.float32:
            raise ConfigError(
                f"distillation takes float32 targets (2, N, D), of photos and mirror images, got {targets.dtype} "
                f"{tuple(targets.shape)}."
            )
        if not targets.isfinite().all():
            raise DataError("the teacher's embeddings are not finite; compute them again.")
        self.register_buffer("targets", targets, persistent=False)
        digest = hashlib.sha256(np.ascontiguousarray(targets.cpu().numpy()).data).digest()
        self.register_buffer("digest", torch.tensor(list(digest), dtype=torch.uint8))
        self.heads = None if heads is None else heads.eval().requires_grad_(False)
        self.weight = weight

    def loss(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """See Method; logs the mean cosine, and how different the answers are where there are reused classifiers."""
        device = batch.inputs.device
        rows = torch.from_numpy(batch.rows).to(device, non_blocking=True)
        mirror = torch.rand(len(rows), device=device) < 0.5
        views, targets = same_view(batch.inputs, self.targets[:, rows], mirror)
        embeddings = model(views)
        loss = cosine_loss(embeddings, targets)
        logs = {"cosine": 1 - loss.detach()}
        if self.heads is not None:
            logs["difference"] = different_answers(self.heads, embeddings, targets)
            loss = loss + self.weight * logs["difference"]
        return loss, logs


def teacher_views(
    teacher: Backbone, faces: FaceSet, precision: Literal["auto", "fp32", "bf16"] = "auto", **options
) -> tuple[FeatureSet, FeatureSet]:
    """The teacher's embeddings of the photos and of their mirror images, from the cache where they are known.

    precision, options: as `embed` takes them; here `auto` is bf16 wherever the hardware computes it natively.
    """
    if precision == "auto":
        precision = "bf16" if has_fast_bf16(settings.device(options.get("device"))) else "fp32"
    one, other = (embed(teacher, faces, precision=precision, mirrored=view, **options) for view in (False, True))
    return one, other


def unlabelled(pictures: np.ndarray) -> FaceSet:
    """Pictures uint8 (N, 3, H, W) as a set in `train` that has no label."""
    return FaceSet(pictures, pd.DataFrame({"split": ["train"] * len(pictures)}))


def blends(number: int, seed: int, *sets: FaceSet) -> FaceSet:
    """So many pictures w · one + (1 - w) · another, rounded, of any two in `sets`; w is uniform in 0 … 1.

    Mixup (Zhang et al. 2018, 1710.09412) without its labels: the teacher says what a blend is. Raises DataError with
    fewer than two pictures to blend.
    """
    ends = np.cumsum([len(faces) for faces in sets])
    if ends[-1] < 2:
        raise DataError(f"a blend needs two pictures, got {ends[-1]}.")
    rng = np.random.default_rng(seed)

    def drawn(row: int) -> np.ndarray:
        which = np.searchsorted(ends, row, side="right")
        return sets[which].images[row - ends[which]].astype(np.float32)

    pictures = np.empty((number, *sets[0].images.shape[1:]), np.uint8)
    for picture in pictures:
        one, other = map(drawn, rng.choice(ends[-1], 2, replace=False, shuffle=False))
        weight = np.float32(rng.random())
        picture[:] = np.rint(weight * one + (1 - weight) * other)
    return unlabelled(pictures)


def more_pictures(photos: FaceSet, portraits: int, blended: int, seed: int) -> list[FaceSet]:
    """What the student learns from besides photos: rendered portraits, half in each style, and blends of any two."""
    size = photos.images.shape[-1]
    halves = {"photo": portraits - portraits // 2, "sketch": portraits // 2}
    rendered = [
        render_portraits((number, 0, 0), seed=_PORTRAIT_SEED + seed, size=size, style=style, per_person=1)
        for style, number in halves.items()
        if number
    ]
    return [*rendered, blends(blended, seed, photos, *rendered)] if blended else rendered


def agreement(student: FeatureSet, teacher: FeatureSet) -> float:
    """Mean cosine between two networks' embeddings of the same photos, row by row."""
    if student.features.shape != teacher.features.shape:
        raise DataError(
            f"embeddings {student.features.shape} and {teacher.features.shape} are not of the same photos and space."
        )
    one, other = (torch.from_numpy(np.array(found.features)) for found in (student, teacher))
    return float(F.cosine_similarity(one, other).mean())


def export(model: nn.Module, path: Path | str, about: Mapping[str, object] | None = None) -> Path:
    """Writes weights as they are packaged: parameters float16, BatchNorm's statistics as they are; returns the path.

    about: goes into the file's metadata as JSON under `about`. Raises WeightsError when a value is not finite as
    float16, or when the file would be larger than 5 MB.
    """
    parameters = dict(model.named_parameters())
    state = {}
    for name, value in model.state_dict().items():
        value = value.detach().cpu()
        state[name] = (value.half() if name in parameters else value).contiguous()
        if not state[name].isfinite().all():
            raise WeightsError(f"{name} has values that are not finite as float16; these weights cannot be packaged.")
    content = save(state, {"about": json.dumps(about or {}, sort_keys=True)})
    if len(content) > LARGEST_WEIGHTS:
        raise WeightsError(f"the weights take {len(content):,} bytes, more than the {LARGEST_WEIGHTS:,} of a package.")
    path = Path(path)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path


def about_weights(path: Path | str) -> dict:
    """What `export` wrote into the metadata of a file of weights; raises WeightsError where there is nothing."""
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads(file.metadata()["about"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        raise WeightsError(f"{path} does not say how it was made; write it with `python -m facekit distill`.") from None


ROWS = (
    Row(
        name="distillation",
        about="a small network learns a large one's embeddings (Hinton et al. 2015): `python -m facekit distill`",
        acts="during",
        sets="unlabelled photos, and the teacher's embeddings of them",
        labels="none",
    ),
)
