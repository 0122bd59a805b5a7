"""Batches from a set that lies on the device: no files, no worker processes, no copies but the batch itself.

Of a set that does not fit there, or not in memory, a thread reads the next batches while the device computes.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count, islice

import numpy as np
import torch

from facekit.data.sets import FaceSet, LabelledSet, MappedRows
from facekit.errors import ConfigError
from facekit.tasks import Task
from facekit.training.augment import Augment

AHEAD = 2  # batches that are read while the device computes
CHUNK = 1024  # rows that are copied to a device at once


@dataclass(frozen=True)
class Batch:
    """inputs: uint8 (n, 3, H, W) or float32 (n, D); targets: task name to (n,); both on the device.

    rows: (n,) int64 on the CPU, the rows of the set, for messages. share: n divided by the rows of this batch on all
    processes together (1 with one process). set: the name of the set, where a method learns from several. parts: of
    several processes, by task, this process's part of the batch's known labels, divided by share: times that, the mean
    over the known labels here becomes what the mean over all of them is made of, see `mean_loss`.
    """

    inputs: torch.Tensor
    targets: dict[str, torch.Tensor]
    rows: np.ndarray
    share: float = 1.0
    set: str | None = None
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def mean_loss(self, task: Task, outputs: torch.Tensor) -> torch.Tensor:
        """The task's loss, a scalar: times `share`, summed over all processes, the mean over all known labels."""
        return self.weighted(task, task.loss(outputs, self.targets[task.name]))

    def weighted(self, task: Task, mean: torch.Tensor) -> torch.Tensor:
        """As `mean_loss`, of another mean over the known labels here."""
        return mean * self.parts[task.name] if self.parts else mean


def share_of(batches: Iterable[Batch]) -> float:
    """This process's part of the rows of these batches on all processes together."""
    rows, wholes = zip(*[(len(batch.rows), len(batch.rows) / batch.share) for batch in batches], strict=True)
    return float(sum(rows) / sum(wholes))


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

    The inputs are kept on the device when they take less than half of its free memory. Else, and where they are
    memory-mapped, a thread reads the next batches meanwhile, for a GPU into pinned memory.
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
        targets = data.targets(tasks)
        self.known = {task.name: task.known(targets[task.name]).to(self.device) for task in tasks if world > 1}
        self.targets = {name: values.to(self.device) for name, values in targets.items()}
        self.inputs, self.places = _resident(data.inputs, self.device)
        mapped = isinstance(data.inputs, np.memmap | MappedRows) and self.device.type == "cpu"
        self.ahead = AHEAD if mapped or self.inputs.device.type != self.device.type else 0

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
        return rows[~self._read(rows).isfinite().flatten(1).all(1).cpu().numpy()]

    def epoch(self, k: int = 0) -> Iterator[Batch]:
        """The batches of epoch k for this process; waits for the device nowhere."""
        order = self.order(k)
        at = torch.from_numpy(order).to(self.device, non_blocking=True)
        # A generator of its own, seeded for the epoch: an epoch can be repeated without its predecessors.
        seed = seed_for(self.seed, k, self.rank)
        generator = None if self.augment is None else torch.Generator(self.device).manual_seed(seed)
        starts = range(0, self.steps * self.batch_size, self.batch_size)
        parts = [slice(n + self.rank, min(n + self.batch_size, self.rows), self.world) for n in starts]
        parts = [part for part in parts if part.start < part.stop]
        # A set on the device is read by an index there; one that is not, by rows that are known without waiting.
        read: Iterable[torch.Tensor] = (self.inputs[at[part]] for part in parts)
        if self.ahead:
            read = _ahead(self._read, (order[part] for part in parts), self.ahead)
        for part, inputs in zip(parts, read, strict=True):
            inputs = inputs.to(self.device, non_blocking=True)
            inputs = inputs if inputs.dtype == torch.uint8 else inputs.float()
            if self.augment is not None and generator is not None:
                inputs = self.augment(inputs, generator)
            rows, index, whole = order[part], at[part], slice(part.start - self.rank, part.stop)
            share = len(rows) / (whole.stop - whole.start)
            counts = {task: known[at[whole]].sum().clamp_min(1) for task, known in self.known.items()}
            each = {task: self.known[task][index].sum() / (total * share) for task, total in counts.items()}
            targets = {task: values[index] for task, values in self.targets.items()}
            yield Batch(inputs, targets, rows, share, self.name, each)

    def _read(self, rows: np.ndarray) -> torch.Tensor:
        """The inputs of these rows where they lie; pinned if they are to be copied to a GPU."""
        places = torch.from_numpy(rows if self.places is None else self.places[rows])
        inputs = self.inputs[places.to(self.inputs.device)]
        if self.device.type != "cuda" or inputs.device.type != "cpu":
            return inputs
        with torch.cuda.device(self.device):  # a new thread would be on the first
            return inputs.pin_memory()

    def endless(self, start: int = 0) -> Iterator[Batch]:
        """Epoch after epoch, from batch `start` on, counted from the first of epoch 0."""
        first, skipped = divmod(start, len(self))
        for k in count(first):
            yield from islice(self.epoch(k), skipped if k == first else 0, None)


def _ahead(read: Callable, parts: Iterable, ahead: int) -> Iterator:
    """What `read` makes of every part, in order; while one is used, a thread reads the next ones."""
    pool = ThreadPoolExecutor(1, "facekit-batches")
    waiting: deque[Future] = deque()
    try:
        for part in parts:
            waiting.append(pool.submit(read, part))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:  # also where nobody wants the rest, or reading failed
        pool.shutdown(cancel_futures=True)


def _resident(array: np.ndarray, device: torch.device) -> tuple[torch.Tensor, np.ndarray | None]:
    """The inputs as a tensor on the device if they fit, and None; else a tensor on the CPU and the places of the rows
    in it (None: as they are). On the CPU nothing is copied: a memory-mapped set stays so."""
    places = None
    if isinstance(array, MappedRows):
        array, places = array.source, array.rows
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # it is only read
        tensor = torch.from_numpy(np.asarray(array))
    if tensor.dtype == torch.float64 and device.type != "cpu":
        tensor = tensor.float()  # what a batch becomes anyway; not every device has float64
    size = (len(tensor) if places is None else len(places)) * tensor[:1].nbytes
    too_large = device.type == "cuda" and size > torch.cuda.mem_get_info(device)[0] // 2
    if too_large or device.type == "cpu":
        return tensor, places
    if places is None:
        return tensor.to(device), None
    there = torch.empty((len(places), *tensor.shape[1:]), dtype=tensor.dtype, device=device)
    for start in range(0, len(places), CHUNK):  # never all of them in memory
        there[start : start + CHUNK] = tensor[torch.from_numpy(places[start : start + CHUNK])].to(device)
    return there, None
