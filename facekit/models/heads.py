"""Heads on top of embeddings, and the classifier made of a backbone and its heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone
from facekit.models.staged import Staged, by_task
from facekit.tasks import Task


class Heads(nn.Module):
    """One small network per task on the same embedding: linear, or with one hidden layer of its own.

    in_features: D, length of the embedding. hidden: units of the hidden layer (ReLU), 0 for a linear head. dropout:
    probability on the input of the last layer.

    The embeddings have length 1, so that their coordinates are about 1/√D. They are multiplied by √D first: an
    ordinary initialisation, learning rate and weight decay then fit, as they would with standardised features.
    """

    def __init__(self, in_features: int, tasks: Sequence[Task], hidden: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden < 0 or not 0 <= dropout < 1:
            raise ConfigError(f"hidden must be 0 or more and dropout in [0, 1), got {hidden} and {dropout}.")
        self.in_features = in_features
        self.tasks = tuple(tasks)

        def head(task: Task) -> nn.Module:
            first = [nn.Linear(in_features, hidden), nn.ReLU()] if hidden else []
            return nn.Sequential(*first, nn.Dropout(dropout), task.layer(hidden or in_features))

        self.layers = by_task(self.tasks, head)

    def forward(self, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unit-length embeddings (N, D) to outputs (N, task.n_outputs) by task name."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.in_features:
            raise ConfigError(f"these heads take embeddings (N, {self.in_features}), got {tuple(embeddings.shape)}.")
        x = embeddings * math.sqrt(self.in_features)
        return {name: layers(x) for name, layers in self.layers.items()}


class Classifier(Staged):
    """A backbone with heads; `backbone=None` when the inputs are embeddings already.

    Its stages are those of the backbone with one more, `heads`.
    """

    def __init__(self, backbone: Backbone | None, heads: Heads) -> None:
        super().__init__()
        if backbone is not None and backbone.embedding_dim != heads.in_features:
            raise ConfigError(
                f"{backbone.name} gives embeddings of {backbone.embedding_dim} numbers, the heads take "
                f"{heads.in_features}; build them as Heads({backbone.embedding_dim}, …)."
            )
        self.backbone = backbone
        self.heads = heads

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the heads, in order."""
        return self.heads.tasks

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """See Staged."""
        return {**(self.backbone.stages if self.backbone is not None else {}), "heads": [self.heads]}

    def embed(self, inputs: torch.Tensor) -> torch.Tensor:
        """What the heads take: embeddings (N, D) of photos, or the inputs themselves without a backbone."""
        return self.backbone(inputs) if self.backbone is not None else inputs

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8 photos (N, 3, H, W), or embeddings (N, D) without a backbone, to outputs by task name."""
        return self.heads(self.embed(inputs))


def parameter_counts(model: Staged) -> pd.DataFrame:
    """Parameters by stage: index `stage` in order, int columns `parameters` and `trainable`."""
    rows = []
    for stage in model.stages:
        parameters = model.stage_parameters(stage)
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        rows.append({"stage": stage, "parameters": sum(p.numel() for p in parameters), "trainable": trainable})
    return pd.DataFrame(rows).set_index("stage")
