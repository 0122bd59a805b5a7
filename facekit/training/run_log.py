"""What a run shows and leaves behind: progress bar, CSV log, TensorBoard, checkpoints; all of it by process 0."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from facekit import settings
from facekit.errors import TrainingError
from facekit.training import checkpoint
from facekit.training.distributed import ProcessGroup


class RunLog:
    """What the loop tells about a run; folder: None keeps nothing."""

    def __init__(self, folder: Path | str | None, world: ProcessGroup) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.world = world
        self.bar: Any = None
        self.board: Any = None

    def previous(self, fingerprint: dict[str, str], resume: bool) -> checkpoint.Found | None:
        """The checkpoint to go on from, or None; see `checkpoint.load`. Raises TrainingError if it is in the way."""
        if self.folder is None:
            return None
        if not resume and (self.folder / checkpoint.STATE).exists():
            raise TrainingError(
                f"{self.folder} already holds a run. Resume it, train into another folder, or delete it first."
            )
        found = checkpoint.load(self.folder, fingerprint, self.world.device)
        self.world.wait()  # nobody writes while others read
        return found

    @contextmanager
    def open(self, state: dict, steps: int) -> Iterator[None]:
        """Shows the bar and opens TensorBoard's file while the run lasts; steps: of the whole run."""
        if not self.world.first:
            yield
            return
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise TrainingError(f"cannot make the folder {self.folder}: {error.strerror}.") from error
            self.board = _tensorboard(self.folder)
        with settings.progress(total=steps, desc="training", unit="step") as self.bar:
            if state["history"]:
                self.bar.update(state["history"][-1]["step"])
            try:
                yield
            finally:
                if self.board is not None:
                    self.board.close()

    def step(self) -> None:
        """One step is done."""
        if self.world.first:
            self.bar.update()

    def epoch(self, state: dict, weights: nn.Module, best: checkpoint.Weights | None) -> None:
        """One epoch is done: state["history"][-1] tells about it. weights: model and method; best: only if new."""
        if not self.world.first:
            return
        row = state["history"][-1]
        self.bar.set_postfix({key: f"{value:.4f}" for key, value in row.items() if key.endswith("_loss")})
        if self.board is not None:
            for key, value in row.items():
                if isinstance(value, float):
                    self.board.add_scalar(key, value, row["step"])
        if self.folder is not None:
            checkpoint.save(self.folder, state, weights.state_dict(), best, pd.DataFrame(state["history"]))


def _tensorboard(folder: Path):
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
