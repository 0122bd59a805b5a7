"""A pretrained network tuned on photos that change in every pass, as the command `train` does it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch

from facekit import settings
from facekit.data.sets import FaceSet
from facekit.models.backbones.base import Backbone
from facekit.models.heads import Classifier, Heads
from facekit.studies.common import TASKS
from facekit.studies.runner import fingerprint, source_hash
from facekit.training.augment import STRONG, Augment
from facekit.training.config import FitResult, TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned from the stage `since` up, all tasks together, with the plan `discriminative`.

    epochs: passes. lr: peak rate of the heads; each stage learns `factor` times slower than the one above it. The rest
    as in `TrainConfig` and `Supervised`.
    """

    epochs: int
    lr: float = 3e-3
    factor: float = 2.6
    since: str = "mixed_6a"
    smoothing: float = 0.1
    batch_size: int = 32
    weight_decay: float = 0.05
    augment: Augment = STRONG


def trained(
    network: Backbone, learn: FaceSet, validation: FaceSet, how: Tuning, seed: int
) -> tuple[Classifier, FitResult]:
    """Everything from a stage up tuned on photos with their labels; the epoch is chosen on validation.

    network: pretrained, it is left as it is. The run is kept beside the blocks, so that a stopped one goes on.
    """
    key = fingerprint([source_hash(__name__), network, learn, validation, how, seed])
    torch.manual_seed(seed)
    model = Classifier(copy.deepcopy(network), Heads(network.embedding_dim, TASKS))
    stages = list(model.stages)
    recipe = plan("discriminative", stages, how.epochs, how.lr, how.factor).since(how.since, stages)
    config = TrainConfig(
        how.batch_size, how.weight_decay, precision="bf16", channels_last=True, augment=how.augment, seed=seed
    )
    folder = settings.cache_dir() / "recording" / "runs" / key[:16]
    method = Supervised(TASKS, smoothing=how.smoothing)
    return model, fit(model, method, learn, validation, recipe, config, folder, resume=True)
