"""The transfer ladder: one network from frozen to wholly trained and from scratch, all at the same cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from facekit.data.sets import FaceSet
from facekit.experiments.curves import scores
from facekit.models.backbones.base import Backbone
from facekit.models.heads import Classifier, Heads
from facekit.tasks import Task
from facekit.training.augment import Augment
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan


@dataclass(frozen=True)
class Rung:
    """One step of the transfer ladder: which weights it starts from, which plan trains it, how fast.

    lr is the peak learning rate of the heads and of the last trained stage; the plan says the others'.
    """

    name: str
    plan: str
    lr: float
    pretrained: bool = True


LADDER = (
    Rung("frozen", "probe", 3e-3),
    Rung("new last layer", "last_layer", 1e-3),
    Rung("last block", "last_block", 1e-3),
    Rung("discriminative rates", "discriminative", 1e-3),
    Rung("probe, then all", "probe_then_fine_tune", 3e-4),
    Rung("everything", "everything", 1e-3),
    Rung("from scratch", "scratch", 3e-3, pretrained=False),
)


def train_rung(
    rung: Rung,
    backbone: Backbone,
    train: FaceSet,
    tasks: Sequence[Task],
    *,
    epochs: int,
    seed: int,
    batch_size: int = 32,
    precision: Precision = "fp32",
    channels_last: bool = False,
    augment: Augment | None = None,
) -> tuple[Classifier, FitResult]:
    """Trains one rung on all rows of `train`: the classifier, in evaluation mode, and what `fit` says of the training.

    backbone: a fresh copy, pretrained or not as the rung says; it is trained in place. Heads of the same seed start
    from the same numbers, and the photos come in the same order, on every rung. The last epoch's weights count:
    nothing is chosen on validation labels, so that `train` is all there is.
    """
    torch.manual_seed(seed)
    model = Classifier(backbone, Heads(backbone.embedding_dim, tasks))
    steps = plan(rung.plan, list(model.stages), epochs=epochs, lr=rung.lr)
    config = TrainConfig(
        batch_size=min(batch_size, len(train)),
        precision=precision,
        channels_last=channels_last,
        augment=augment,
        seed=seed,
    )
    result = fit(model, Supervised(tasks), train, None, steps, config)
    return model.eval(), result


def climb(
    rung: Rung,
    backbone: Backbone,
    train: FaceSet,
    test: FaceSet,
    tasks: Sequence[Task],
    *,
    epochs: int,
    seed: int,
    precision: Precision = "fp32",
    **options,
) -> tuple[Classifier, pd.DataFrame]:
    """Trains one rung and scores it: the classifier, and rows task, metric, value, rung, seed, moved, seconds, steps.

    moved: parameters whose value changed. seconds: of the training alone, wall clock. options: as `train_rung` takes
    them. Rungs that are compared get the same photos, epochs and batch size, and so the same number of steps.
    """
    how = {"epochs": epochs, "seed": seed, "precision": precision, **options}
    model, result = train_rung(rung, backbone, train, tasks, **how)
    rows = scores(model, test, tasks, precision)
    moved = sum(result.moved.values())
    return model, rows.assign(rung=rung.name, seed=seed, moved=moved, seconds=result.seconds, steps=result.steps)
