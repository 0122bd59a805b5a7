"""Heads on top of embeddings, and the classifier made of a backbone and its heads."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn

from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone
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
        names = [task.name for task in tasks]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"heads need at least one task and each only once, got {names}.")
        if hidden < 0 or not 0 <= dropout < 1:
            raise ConfigError(f"hidden must be 0 or more and dropout in [0, 1), got {hidden} and {dropout}.")
        self.in_features = in_features
        self.tasks = tuple(tasks)
        self.layers = nn.ModuleDict()
        for task in self.tasks:
            first = [nn.Linear(in_features, hidden), nn.ReLU()] if hidden else []
            last = [nn.Dropout(dropout), task.layer(hidden or in_features)]
            try:
                self.layers[task.name] = nn.Sequential(*first, *last)
            except KeyError:  # torch's own rule: no dots, no names of ModuleDict's attributes
                raise ConfigError(f"a task cannot be named {task.name!r}; choose another column name.") from None

    def forward(self, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """Unit-length embeddings (N, D) to outputs (N, task.n_outputs) by task name."""
        if embeddings.ndim != 2 or embeddings.shape[1] != self.in_features:
            raise ConfigError(f"these heads take embeddings (N, {self.in_features}), got {tuple(embeddings.shape)}.")
        x = embeddings * math.sqrt(self.in_features)
        return {name: layers(x) for name, layers in self.layers.items()}


class Classifier(nn.Module):
    """A backbone with heads; `backbone=None` when the inputs are embeddings already.

    `stages`, `freeze` and `frozen` are those of the backbone with one stage more, `heads`.
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
        self._heads_frozen = False

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the heads, in order."""
        return self.heads.tasks

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """Stage name to its modules, from the input to the output; every parameter is in exactly one."""
        return {**(self.backbone.stages if self.backbone is not None else {}), "heads": [self.heads]}

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the stages that do not change in training."""
        below = self.backbone.frozen if self.backbone is not None else frozenset()
        return below | {"heads"} if self._heads_frozen else below

    def freeze(self, names: Sequence[str] | None = None) -> None:
        """Freezes exactly these stages (None: all) and unfreezes the others; see `Backbone.freeze`."""
        chosen = set(self.stages if names is None else names)
        unknown = chosen - set(self.stages)
        if unknown:
            raise ConfigError(f"this model has no stage {sorted(unknown)}; its stages are {list(self.stages)}.")
        self._heads_frozen = "heads" in chosen
        self.heads.requires_grad_(not self._heads_frozen)
        if self.backbone is not None:
            self.backbone.freeze(sorted(chosen - {"heads"}))
        self.train(self.training)

    def train(self, mode: bool = True) -> Classifier:
        """As `nn.Module.train`, but frozen stages stay in evaluation mode."""
        super().train(mode)
        if self._heads_frozen:
            self.heads.train(False)
        return self

    def forward(self, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8 photos (N, 3, H, W), or embeddings (N, D) without a backbone, to outputs by task name."""
        return self.heads(self.backbone(inputs) if self.backbone is not None else inputs)


def parameter_counts(model: Backbone | Classifier) -> pd.DataFrame:
    """Parameters by stage: index `stage` in order, int columns `parameters` and `trainable`."""
    rows = []
    for stage, modules in model.stages.items():
        parameters = [p for module in modules for p in module.parameters()]
        trainable = sum(p.numel() for p in parameters if p.requires_grad)
        rows.append({"stage": stage, "parameters": sum(p.numel() for p in parameters), "trainable": trainable})
    return pd.DataFrame(rows).set_index("stage")
