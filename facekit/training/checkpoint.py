"""Checkpoints: a killed run goes on as if it had not been killed, and never as part of another run.

A run's folder holds `best.safetensors` (the model at its best epoch), `last-NNNN.safetensors` (model and method after
epoch NNNN), `last.pt` (optimiser, history; written last, it names the weights it belongs to) and `log.csv`. Random
numbers need no state: every epoch starts from a seed made of the run's seed and the epoch.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from facekit.data.sets import LabelledSet
from facekit.errors import TrainingError
from facekit.files import atomic_path
from facekit.models.embedding import state_hash
from facekit.training.config import TrainConfig
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
    settings = {key: value for key, value in asdict(config).items() if key not in ("device", "compile")}
    about = [
        type(method).__name__,
        [asdict(task) for task in method.tasks],
        *method.set_weights.items(),
        state_hash(method),
    ]
    data = [[(name, _data_hash(part)) for name, part in sets.items()] for sets in (train, validation)]
    parts = {
        "model": state_hash(model),
        "method": about,
        "data": data,
        "plan": asdict(plan),
        "configuration": settings,
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


def _write(path: Path, weights: Weights) -> None:
    content = safetensors.save({name: value.detach().cpu().contiguous() for name, value in weights.items()})
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _data_hash(data: LabelledSet) -> str:
    return _hash(data.content_hash() + data.labels.to_csv(index=False))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
