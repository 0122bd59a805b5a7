"""How to train, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from facekit.errors import ConfigError
from facekit.training.augment import Augment
from facekit.training.shares import Sampling

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class TrainConfig:
    """How to train, whatever is trained.

    batch_size: rows a step, of all sets and all processes together. weight_decay: AdamW's, on weight matrices and
    kernels only. precision: bf16 computes in bfloat16 where torch's autocast finds it safe; weights stay float32.
    channels_last: memory layout of the convolutions. compile: torch.compile. augment: for photos; of several sets for
    all, or by name (a mirrored text is another one). seed: of order, augmentation and dropout. device: default
    `settings.device()`; under torchrun each process takes its own GPU.

    sampling: how several sets share a step (see `domain_shares`). steps: of an epoch; by default as many as it takes
    to see every row once, of the set that takes most; the others begin again.
    """

    batch_size: int = 64
    weight_decay: float = 0.01
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    augment: Augment | Mapping[str, Augment] | None = None
    seed: int = 0
    device: str | None = None
    sampling: Sampling = "uniform"
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.seed < 2**63 or not 0 <= self.weight_decay < float("inf"):
            raise ConfigError(
                f"batch_size must be 1 or more, seed from 0 to 2^63 - 1 and weight_decay 0 or more; got "
                f"{self.batch_size}, {self.seed}, {self.weight_decay}."
            )
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"steps must be 1 or more, got {self.steps}.")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"precision is {self.precision!r}; use fp32 or bf16.")


@dataclass(frozen=True)
class Recipe:
    """What networks that are compared with each other have in common: how they are built and trained.

    lr: peak rate, of heads (and what else is new) beside layers that are not `heads_lr`. dropout: of the hidden layers,
    which have `hidden` units each. steps: of AdamW, of up to `few` labelled rows `few_steps`; 0 where passes over the
    rows are counted instead. batch_size, weight_decay, augment: as in `TrainConfig`.
    """

    lr: float
    dropout: float = 0.0
    steps: int = 0
    few_steps: int | None = None
    few: int = 2000
    hidden: int = 128
    batch_size: int = 128
    weight_decay: float = 0.5
    heads_lr: float | None = None
    augment: Mapping[str, Augment] | None = None

    def at(self, n: int) -> int:
        """Steps for n labels."""
        return self.few_steps if self.few_steps is not None and n <= self.few else self.steps


@dataclass(frozen=True)
class FitResult:
    """history: one row an epoch: epoch (from 1), phase, step (optimiser steps so far), lr (of the fastest stage, in the
    epoch's last step), train_loss and train_<what the method logs>, then, with a validation set, validation_loss,
    validation_<task> and accuracy_<task>, and seconds; of several sets train_<set>_<what the method logs> and so on.
    best_epoch: whose weights the model now has (0: those it came with). seconds: wall clock of all epochs. steps: of
    the optimiser. moved: stage to the number of its parameters whose value is no longer what it was before training.
    """

    history: pd.DataFrame
    best_epoch: int
    seconds: float
    steps: int
    moved: dict[str, int]
