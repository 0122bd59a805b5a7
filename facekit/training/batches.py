"""Batches from a set that lies on the device: no files, no worker processes, no copies but the batch itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch

from facekit.data.sets import FaceSet, LabelledSet
from facekit.errors import ConfigError
from facekit.tasks import Task
from facekit.training.augment import Augment


@dataclass(frozen=True)
class Batch:
    """inputs: uint8 (n, 3, H, W) or float32 (n, D); targets: task name to (n,); both on the device.

    rows: (n,) int64 on the CPU, the rows of the set, for messages. share: n divided by the rows of this batch on all
    processes together (1 with one process). set: the name of the set, where a method learns from several.
    """

    inputs: torch.Tensor
    targets: dict[str, torch.Tensor]
    rows: np.ndarray
    share: float = 1.0
    set: str | None = None


def seed_for(*parts: int) -> int:
    """A seed for torch made of several numbers (seed, epoch, rank …), different for different numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def steps_of(rows: int, batch_size: int, smallest: int = 2) -> int:
    """Batches in an epoch: a last one of fewer rows than `smallest` is dropped, unless it is the only one."""
    full, tail = divmod(rows, batch_size)
    return full + bool(tail >= smallest or not full)


class Batches:
    """Cuts a set into batches; the order of epoch k depends on the seed and on k alone.

    data: FaceSet or FeatureSet. batch_size: rows of a batch on all `world` processes together; process `rank` gets
    every world-th row of each, so that the batches do not depend on the number of processes. shuffle: a new order each
    epoch, for training; a last batch with fewer than two rows a process is then dropped, because BatchNorm cannot
    train on one. augment: applied to photos on the device, with draws that depend on seed, epoch and rank. name: of
    the set, which the batches carry.

    The inputs are kept on the device when they take less than half of its free memory, else batches are copied there.
    """

    def __init__(
        self,
        data: LabelledSet,
        tasks: Sequence[Task],
        batch_size: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
        augment: Augment | None = None,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
        name: str | None = None,
    ) -> None:
        if batch_size < 1 or seed < 0 or not 0 <= rank < world:
            raise ConfigError(
                f"batch_size must be 1 or more, seed 0 or more and rank below world; got {batch_size}, {seed}, "
                f"{rank} of {world}."
            )
        if len(data) == 0:
            raise ConfigError(f"this {data.kind} has no rows to make batches of.")
        if augment is not None and not isinstance(data, FaceSet):
            raise ConfigError(f"augmentation changes photos, but this is a {data.kind}; pass augment=None.")
        smallest = 2 * world if shuffle else 1
        if world > 1 and shuffle and (few := min(batch_size, len(data))) < smallest:
            what = "batches of" if few == batch_size else f"a {data.kind} of"
            raise ConfigError(
                f"{world} processes need {what} at least {smallest} rows to train on, two each, got {few}; start fewer."
            )
        self.batch_size, self.seed, self.rank, self.world, self.name = batch_size, seed, rank, world, name
        self.device, self.augment, self.shuffle, self.rows = torch.device(device), augment, shuffle, len(data)
        self.steps = steps_of(self.rows, batch_size, smallest)
        self.targets = {name: values.to(self.device) for name, values in data.targets(tasks).items()}
        self.inputs = _resident(data.inputs, self.device)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.steps

    def order(self, epoch: int) -> np.ndarray:
        """The rows (N,) in the order of this epoch, before they are cut into batches."""
        if not self.shuffle:
            return np.arange(self.rows)
        return np.random.default_rng([self.seed, epoch]).permutation(self.rows)

    def batch_rows(self, epoch: int, step: int) -> np.ndarray:
        """The rows of one batch on all processes together."""
        return self.order(epoch)[step * self.batch_size : (step + 1) * self.batch_size]

    def not_finite(self, rows: np.ndarray) -> np.ndarray:
        """Those of the rows whose inputs hold NaN or infinity."""
        inputs = self.inputs[torch.from_numpy(rows).to(self.inputs.device)]
        return rows[~inputs.isfinite().flatten(1).all(1).cpu().numpy()]

    def epoch(self, k: int = 0) -> Iterator[Batch]:
        """The batches of epoch k for this process; waits for the device nowhere."""
        order = self.order(k)
        at = torch.from_numpy(order).to(self.device, non_blocking=True)
        # A generator of its own, seeded for the epoch: an epoch can be repeated without its predecessors.
        generator = torch.Generator(self.device).manual_seed(seed_for(self.seed, k, self.rank))
        for start in range(0, self.steps * self.batch_size, self.batch_size):
            part = slice(start + self.rank, min(start + self.batch_size, self.rows), self.world)
            rows, index = order[part], at[part]
            if len(rows) == 0:
                continue
            # A set that is too large for the device lies on the CPU, where its rows are known without waiting.
            here = self.inputs.device.type == self.device.type
            inputs = self.inputs[index if here else torch.from_numpy(rows)].to(self.device, non_blocking=True)
            inputs = inputs if inputs.dtype == torch.uint8 else inputs.float()
            if self.augment is not None:
                inputs = self.augment(inputs, generator)
            share = len(rows) / min(self.batch_size, self.rows - start)
            yield Batch(inputs, {task: values[index] for task, values in self.targets.items()}, rows, share, self.name)

    def endless(self, start: int = 0) -> Iterator[Batch]:
        """Epoch after epoch, from batch `start` on, counted from the first of epoch 0."""
        first, skipped = divmod(start, len(self))
        for k in count(first):
            yield from islice(self.epoch(k), skipped if k == first else 0, None)


def _resident(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array as a tensor on the device if it fits; on the CPU it is not copied (a memory-mapped set stays so)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read
        tensor = torch.from_numpy(np.asarray(array))
    if tensor.dtype == torch.float64 and device.type != "cpu":
        tensor = tensor.float()  # what a batch becomes anyway; not every device has float64
    too_large = device.type == "cuda" and tensor.nbytes > torch.cuda.mem_get_info(device)[0] // 2
    return tensor if too_large else tensor.to(device)
