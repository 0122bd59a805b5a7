"""What a run leaves behind and shows. A killed run goes on as if it had not been killed, never as part of another run.

A run's folder holds `best.safetensors` (the model at its best epoch), `last-NNNN.safetensors` (model and method after
epoch NNNN), `last.pt` (optimiser, history; written last, it names the weights it belongs to), `log.csv` and
TensorBoard's file. Random numbers need no state: every epoch starts from a seed made of the run's seed and the epoch.
Process 0 writes all of it, and shows the progress bar.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from facekit import settings
from facekit.data.sets import LabelledSet
from facekit.errors import TrainingError
from facekit.files import atomic_path
from facekit.models.embedding import state_hash
from facekit.training.config import TrainConfig
from facekit.training.distributed import ProcessGroup
from facekit.training.methods import Method
from facekit.training.plans import Plan

STATE = "last.pt"
BEST = "best.safetensors"
LOG = "log.csv"
Weights = Mapping[str, torch.Tensor]
Found = tuple[dict, Weights, Weights]


def fingerprint(
    model: nn.Module,
    method: Method,
    train: Mapping[str | None, LabelledSet],
    validation: Mapping[str | None, LabelledSet],
    plan: Plan,
    config: TrainConfig,
) -> dict[str, str]:
    """One hash a part of what decides a run's result; the device and torch.compile are not among them."""
    tasks = [asdict(task) for task in method.tasks]
    parts = {
        "model": state_hash(model),
        "method": [type(method).__name__, tasks, *method.set_weights.items(), state_hash(method)],
        "data": [
            [(name, _hash(part.content_hash() + part.labels.to_csv(index=False))) for name, part in sets.items()]
            for sets in (train, validation)
        ],
        "plan": asdict(plan),
        "configuration": {key: value for key, value in asdict(config).items() if key not in ("device", "compile")},
    }
    return {name: _hash(json.dumps(value, sort_keys=True, default=str)) for name, value in parts.items()}


def save(folder: Path, state: dict, last: Weights, best: Weights | None, history: pd.DataFrame) -> None:
    """Writes a checkpoint after state["epoch"]; best only when it is new. Raises TrainingError if it cannot."""
    name = f"last-{state['epoch']:04d}.safetensors"
    try:
        if best is not None:
            _write(folder / BEST, best)
        _write(folder / name, last)
        with atomic_path(folder / STATE) as path:
            torch.save({**state, "weights": name}, path)
        with atomic_path(folder / LOG) as path:
            history.to_csv(path, index=False)
        for old in folder.glob("last-*.safetensors"):
            if old.name != name:
                old.unlink()
    except OSError as error:
        raise TrainingError(
            f"cannot write the checkpoint to {folder}: {error.strerror or error}. Make room there, then run again "
            "with resume to go on from the last whole checkpoint."
        ) from error


def load(folder: Path, expected: Mapping[str, str], device: torch.device) -> Found | None:
    """State, last weights and best weights of the run in `folder`, or None where no checkpoint is yet.

    Raises TrainingError if it is damaged, or belongs to a run with another fingerprint (and says what differs).
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found = state["fingerprint"]
    except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
        raise TrainingError(f"{path} is damaged; delete the folder and train again.") from error
    different = [name for name, value in expected.items() if found.get(name) != value]
    if different:
        raise TrainingError(
            f"{folder} holds a checkpoint of another run: the {', '.join(different)} differ. Train into another "
            "folder, or restore what was used then."
        )
    return state, read(folder / state["weights"], device), read(folder / BEST, device)


def read(path: Path, device: torch.device | str = "cpu") -> dict[str, torch.Tensor]:
    """Weights by name from a safetensors file; raises TrainingError if it is missing or damaged."""
    try:
        return safetensors.load_file(path, device=str(device))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path} is missing or damaged; delete its folder and train again.") from error


class RunLog:
    """What the loop tells about a run; folder: None keeps nothing."""

    def __init__(self, folder: Path | str | None, world: ProcessGroup) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.world = world
        self.bar: Any = None
        self.board: Any = None

    def previous(self, fingerprint: dict[str, str], resume: bool) -> Found | None:
        """The checkpoint to go on from, or None; see `load`. Raises TrainingError if it is in the way."""
        if self.folder is None:
            return None
        if not resume and (self.folder / STATE).exists():
            raise TrainingError(
                f"{self.folder} already holds a run. Resume it, train into another folder, or delete it first."
            )
        found = load(self.folder, fingerprint, self.world.device)
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
            with suppress(ImportError):  # it may not be installed
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(self.folder))
        with settings.progress(total=steps, desc="training", unit="step") as self.bar, self.board or nullcontext():
            self.bar.update(sum(row["step"] for row in state["history"][-1:]))
            yield

    def step(self) -> None:
        """One step is done."""
        if self.world.first:
            self.bar.update()

    def epoch(self, state: dict, weights: nn.Module, best: Weights | None) -> None:
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
            save(self.folder, state, weights.state_dict(), best, pd.DataFrame(state["history"]))


def _write(path: Path, weights: Weights) -> None:
    content = safetensors.save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
