"""What a run leaves behind and shows. A killed run goes on as if it had not been killed, never as part of another run.

A run's folder holds `best.safetensors` (the model at its best epoch), `last-NNNN.safetensors` (model and method after
epoch NNNN), `last.pt` (optimiser, history; written last, it names the weights it belongs to), `log.csv` and
TensorBoard's file. Random numbers need no state: every epoch starts from a seed made of the run's seed and the epoch.
Process 0 writes all of it, and shows the progress bar.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import torch as safetensors
from torch import nn

from facekit import settings
from facekit.data.sets import LabelledSet
from facekit.errors import TrainingError
from facekit.files import atomic_path, seal, unseal, wrong_fields
from facekit.models.embedding import state_hash
from facekit.training.config import TrainConfig
from facekit.training.distributed import ProcessGroup
from facekit.training.methods import Method
from facekit.training.plans import Plan

STATE = "last.pt"
BEST = "best.safetensors"
LOG = "log.csv"
FIELDS = {"epoch": int, "best_epoch": int, "best_loss": float, "seconds": float, "history": list, "optimiser": dict} | {
    "fingerprint": dict,
    "weights": str,
}
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
            _write(folder / BEST, best, state["fingerprint"])
        _write(folder / name, last, state["fingerprint"])
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

    Raises TrainingError if it is damaged or was changed, or belongs to a run with another fingerprint (and says what
    differs). Checksums are compared at each load: of FaceNet's three files, 450 MB, in half a second.
    """
    path = folder / STATE
    if not path.exists():
        return None
    try:
        with zipfile.ZipFile(path) as file:  # torch.load does not compare the checksums that torch.save writes
            wrong = file.testzip()
        state: dict = {} if wrong else torch.load(path, map_location="cpu", weights_only=True)
        if wrong := wrong or wrong_fields(state, FIELDS):
            raise ValueError(wrong)
    # Bytes of any origin: the readers raise a dozen kinds of errors on damaged files, none of them a bug of ours.
    except Exception as error:
        said = error if isinstance(error, ValueError) else type(error).__name__
        raise TrainingError(f"{path} is damaged ({said}); delete the folder and train again.") from error
    found = state["fingerprint"]
    different = [name for name, value in expected.items() if found.get(name) != value]
    if different:
        raise TrainingError(
            f"{folder} holds a checkpoint of another run: the {', '.join(different)} differ. Train into another "
            "folder, or restore what was used then."
        )
    return state, read(folder / state["weights"], device, found), read(folder / BEST, device, found)


def read(
    path: Path, device: torch.device | str = "cpu", of: Mapping[str, str] | None = None
) -> dict[str, torch.Tensor]:
    """Weights by name from a safetensors file; of: fingerprint of the run that must have written it under this name.

    Raises TrainingError if it is missing, damaged or was changed.
    """
    try:
        content = path.read_bytes()
        about = unseal(content)
        if of is not None and ("sha256" not in about or about.get("run") != _run(of, path.name)):
            raise ValueError("another run wrote it, or facekit did not")
        weights = safetensors.load(content)
    except Exception as error:  # bytes of any origin, see `load`
        raise TrainingError(f"{path} is missing or damaged ({error}); delete its folder and train again.") from error
    return {name: value.to(device) for name, value in weights.items()}


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


def _write(path: Path, weights: Weights, fingerprint: Mapping[str, str]) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    content = seal(safetensors.save(tensors, {"run": _run(fingerprint, path.name)}))
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _run(fingerprint: Mapping[str, str], name: str) -> str:
    """What tells a run's file of this name from those of other runs, and from its others."""
    return _hash(json.dumps([dict(fingerprint), name], sort_keys=True))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
