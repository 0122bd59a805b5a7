"""What a run shows and leaves behind: progress bar, CSV log, TensorBoard, checkpoints; all of it by process 0."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from torch import nn

from facekit import settings
from facekit.errors import TrainingError
from facekit.training import checkpoint
from facekit.training.distributed import World


class Journal:
    """Used by the loop as a context manager; folder: None keeps nothing."""

    def __init__(self, folder: Path | None, world: World, steps: int) -> None:
        self.folder, self.world = folder, world
        self.bar = settings.progress(total=steps, desc="training", unit="step") if world.first else None
        self.board = None

    def previous(self, fingerprint: dict[str, str], resume: bool):
        """The checkpoint to go on from, or None; see `checkpoint.load`. Raises TrainingError if it is in the way."""
        assert self.folder is not None
        if not resume and (self.folder / checkpoint.STATE).exists():
            raise TrainingError(
                f"{self.folder} already holds a run. Resume it, train into another folder, or delete it first."
            )
        found = checkpoint.load(self.folder, fingerprint, self.world.device)
        self.world.wait()  # nobody writes while others read
        return found

    def __enter__(self) -> Journal:
        if self.folder is not None and self.world.first:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise TrainingError(f"cannot make the folder {self.folder}: {error.strerror}.") from error
            self.board = _tensorboard(self.folder)
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.board is not None:
            self.board.close()

    def step(self) -> None:
        """One step is done."""
        if self.bar is not None:
            self.bar.update()

    def epoch(self, state: dict, step: nn.Module, best: checkpoint.Weights | None) -> None:
        """One epoch is done: state["history"][-1] tells about it."""
        if not self.world.first:
            return
        row = state["history"][-1]
        self.bar.set_postfix({key: f"{value:.4f}" for key, value in row.items() if key.endswith("_loss")})
        if self.board is not None:
            for key, value in row.items():
                if isinstance(value, float):
                    self.board.add_scalar(key, value, row["step"])
        if self.folder is not None:
            module = getattr(step, "module", step)  # inside DistributedDataParallel
            checkpoint.save(self.folder, state, module.state_dict(), best, pd.DataFrame(state["history"]))


def _tensorboard(folder: Path):
    """TensorBoard's writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
