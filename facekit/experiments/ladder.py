"""The transfer ladder: one network from frozen to wholly trained and from scratch, all at the same cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch

from facekit.data.sets import FaceSet
from facekit.experiments.curves import scores
from facekit.models.backbones.base import Backbone
from facekit.models.heads import Classifier, Heads
from facekit.tasks import Task
from facekit.training.config import FitResult, Precision, TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.fine_tuning import ROWS, Strategy

LADDER: tuple[Strategy, ...] = ROWS


def fine_tune(
    strategy: Strategy,
    backbone: Backbone,
    train: FaceSet,
    tasks: Sequence[Task],
    *,
    epochs: int,
    seed: int,
    batch_size: int = 32,
    **options: Any,
) -> tuple[Classifier, FitResult]:
    """Trains by one strategy on all rows of `train`: the classifier, in evaluation mode, and what `fit` says of it.

    backbone: a fresh copy, pretrained or not as the strategy says; it is trained in place. Heads of the same seed start
    from the same numbers, and the photos come in the same order, for every strategy. The last epoch's weights count:
    nothing is chosen on validation labels, so that `train` is all there is. options: as `TrainConfig` takes them.
    """
    torch.manual_seed(seed)
    model = Classifier(backbone, Heads(backbone.embedding_dim, tasks))
    steps = plan(strategy.plan, list(model.stages), epochs=epochs, lr=strategy.lr)
    config = TrainConfig(batch_size=min(batch_size, len(train)), seed=seed, **options)
    result = fit(model, Supervised(tasks), train, None, steps, config)
    return model.eval(), result


def fine_tune_and_score(
    strategy: Strategy,
    backbone: Backbone,
    train: FaceSet,
    test: FaceSet,
    tasks: Sequence[Task],
    *,
    epochs: int,
    seed: int,
    precision: Precision = "fp32",
    **options: Any,
) -> tuple[Classifier, pd.DataFrame]:
    """Trains by one strategy and scores it: the classifier, and a table of its scores.

    Columns task, metric, value, rung (the strategy), seed, moved, seconds, steps. moved: parameters whose value
    changed. seconds: of the training alone, wall clock. options: as `fine_tune` takes them. Strategies that are
    compared get the same photos, epochs and batch size, and so the same number of steps.
    """
    model, result = fine_tune(
        strategy, backbone, train, tasks, epochs=epochs, seed=seed, precision=precision, **options
    )
    rows = scores(model, test, tasks, precision)
    moved = sum(result.moved.values())
    return model, rows.assign(rung=strategy.name, seed=seed, moved=moved, seconds=result.seconds, steps=result.steps)
