"""A pretrained network tuned on photos that change in every pass, as the command `train` does it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch

from facekit import settings
from facekit.data.sets import FaceSet
from facekit.models.backbones.base import Backbone
from facekit.models.heads import Classifier, Heads
from facekit.studies.common import TASKS
from facekit.studies.runner import fingerprint, source_hash
from facekit.training.augment import STRONG, Augment
from facekit.training.batches import seed_for
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan


@dataclass(frozen=True)
class Tuning:
    """How a network is tuned from the stage `since` up, all tasks together, with the plan `discriminative`.

    passes: over the photos, in each of the cycles in which the rates rise and fall (SGDR, Loshchilov & Hutter 2017).
    lr: peak rate of the heads; each stage learns `factor` times slower than the one above it. The rest as in
    `TrainConfig` and `Supervised`.
    """

    passes: tuple[int, ...]
    lr: float = 3e-3
    factor: float = 2.6
    since: str = "mixed_6a"
    smoothing: float = 0.1
    batch_size: int = 32
    weight_decay: float = 0.05
    augment: Augment = STRONG


def trained(
    network: Backbone, learn: FaceSet, validation: FaceSet, how: Tuning, seed: int
) -> tuple[Classifier, float, int]:
    """Everything from a stage up tuned on photos with their labels, and the seconds and steps that it took.

    network: pretrained, it is left as it is. A cycle begins with the best epoch of the one before, by the loss on
    validation. The run of each is kept beside the blocks: one that was stopped goes on, and a further cycle is added
    without the first ones being trained again.
    """
    torch.manual_seed(seed)
    model = Classifier(copy.deepcopy(network), Heads(network.embedding_dim, TASKS))
    stages, method = list(model.stages), Supervised(TASKS, smoothing=how.smoothing)
    seconds, steps = 0.0, 0
    for cycle, passes in enumerate(how.passes):
        recipe = plan("discriminative", stages, passes, how.lr, how.factor).since(how.since, stages)
        config = TrainConfig(
            how.batch_size,
            how.weight_decay,
            precision="bf16",
            channels_last=True,
            augment=how.augment,
            seed=seed_for(seed, cycle),
        )
        so_far = replace(how, passes=how.passes[: cycle + 1])
        key = fingerprint([source_hash(__name__), network, learn, validation, so_far, seed])
        folder = settings.cache_dir() / "recording" / "runs" / key[:16]
        result = fit(model, method, learn, validation, recipe, config, folder, resume=True)
        seconds, steps = seconds + result.seconds, steps + result.steps
    return model, seconds, steps
