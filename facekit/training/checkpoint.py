"""What a run leaves behind and shows. A killed run goes on as if it had not been killed, never as part of another run.

A run's folder holds `best.safetensors` (the model at its best epoch), `last-NNNN.safetensors` (model and method after
epoch NNNN), `last.pt` (optimiser, history; written last, it names the weights it belongs to), and what is made of the
history: `log.csv` and TensorBoard's file. Random numbers need no state: every epoch starts from a seed made of the
run's seed and the epoch.
Process 0 writes all of it, and shows the progress bar.

A run may go on with a longer plan, if that begins with all phases of its own (`Plan.extended`): it then ends as a run
that had the longer plan from the beginning. `last.pt` keeps the fingerprint that the run began with, which its files
are known by, and beside it that of its plan now, and how many epochs it was given each time.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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
from facekit.files import atomic_path, seal, told, unseal, wrong_fields
from facekit.models.embedding import state_hash
from facekit.training.config import TrainConfig
from facekit.training.distributed import ProcessGroup
from facekit.training.methods import Method
from facekit.training.plans import Plan

STATE = "last.pt"
BEST = "best.safetensors"
LAST = "last-[0-9]*.safetensors"
LOG = "log.csv"
EVENTS = "events.out.tfevents.facekit"
WRITTEN = (BEST, LAST, STATE, LOG, EVENTS)
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
    tasks = [asdict(task) for task in (*method.tasks, *([method.groups] if method.groups else []))]
    parts = {
        "model": state_hash(model),
        "method": [type(method).__name__, tasks, *method.set_weights.items(), state_hash(method)],
        "data": [[(name, _set_hash(part)) for name, part in sets.items()] for sets in (train, validation)],
        "configuration": {key: value for key, value in asdict(config).items() if key not in ("device", "compile")},
    }
    hashes = {name: _hash(json.dumps(value, sort_keys=True, default=str)) for name, value in parts.items()}
    return hashes | {"plan": plan_hash(plan)}


def plan_hash(plan: Plan) -> str:
    """The entry `plan` of a fingerprint."""
    return _hash(json.dumps(asdict(plan), sort_keys=True, default=str))


def given(folder: Path) -> list[int]:
    """How many epochs the run in a folder was given when it began and each time it was extended; [] where none is.

    Raises TrainingError as `load`.
    """
    path = folder / STATE
    lengths = _state(path).get("given", []) if path.exists() else []
    if not isinstance(lengths, list) or not all(isinstance(n, int) for n in lengths):
        raise TrainingError(f"{path} is damaged (epochs given: {lengths!r}); delete the folder and train again.")
    return lengths


def save(folder: Path, state: dict, last: Weights, best: Weights | None) -> None:
    """Writes a checkpoint after state["epoch"]; best only when it is new. Raises TrainingError if it cannot."""
    name = f"last-{state['epoch']:04d}.safetensors"
    with _told(folder):
        if best is not None:
            _write(folder / BEST, _content(best, state["fingerprint"], BEST))
        _write(folder / name, _content(last, state["fingerprint"], name))
        inner = _saved({**state, "weights": name}).getbuffer()
        sealed = {"state": torch.frombuffer(inner, dtype=torch.uint8), "sha256": hashlib.sha256(inner).hexdigest()}
        _write(folder / STATE, _saved(sealed).getbuffer())
        _show(folder, state["history"], name)
        _append(folder / EVENTS, state["history"][-1:])


def _show(folder: Path, history: list[dict], weights: str) -> None:
    """Writes the log of a checkpoint, and removes the weights of other epochs."""
    with atomic_path(folder / LOG) as path:
        pd.DataFrame(history).to_csv(path, index=False)
    for old in folder.glob(LAST):
        if old.name != weights:
            old.unlink()


def _append(path: Path, history: Sequence[dict]) -> None:
    """Adds these epochs to TensorBoard's file, where it is installed; it reads on where it was."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError:
        return
    with open(path, "ab") as file:
        for row in history:
            floats = {name: value for name, value in row.items() if isinstance(value, float)}
            values = [Summary.Value(tag=name, simple_value=value) for name, value in floats.items()]
            event = Event(wall_time=time.time(), step=row["step"], summary=Summary(value=values))
            RecordWriter(file).write(event.SerializeToString())


def _saved(value: dict) -> io.BytesIO:
    """What torch.save writes; written by torch itself, a full disk would be an internal error of torch's."""
    content = io.BytesIO()
    torch.save(value, content)
    return content


def _opened(content: bytes) -> dict:
    """What `_saved` made bytes of; raises ValueError for wrong checksums, which torch.load does not compare."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        if wrong := file.testzip():
            raise ValueError(wrong)
    found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(found, dict):
        raise ValueError("it holds no state of a run")
    return found


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Turns an OSError into a TrainingError."""
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"cannot write the run: {told(error, folder)}. With resume it goes on from the last whole checkpoint."
        ) from error


def load(
    folder: Path, expected: Mapping[str, str], device: torch.device, beginnings: Sequence[str] = ()
) -> Found | None:
    """State, last weights and best weights of the run in `folder`, or None where no checkpoint is yet.

    beginnings: hashes of plans that the expected one begins with, of which the run may have any. Raises TrainingError
    if it is damaged or was changed, or belongs to a run with another fingerprint (and says what differs). Checksums are
    compared at each load: of FaceNet's three files, 450 MB, in half a second.
    """
    path = folder / STATE
    if not path.exists():
        return None
    state = _state(path)
    found = state["fingerprint"]
    now = found | {"plan": state.get("plan", found.get("plan"))}
    different = [name for name, value in expected.items() if now.get(name) != value]
    if different and not (different == ["plan"] and now["plan"] in beginnings):
        raise TrainingError(
            f"{folder} holds a checkpoint of another run: the {', '.join(different)} differ. Train into another "
            "folder, or restore what was used then."
        )
    return state, read(folder / state["weights"], device, found), read(folder / BEST, device, found)


def _state(path: Path) -> dict:
    """The state in a file; raises TrainingError if it is damaged or was changed."""
    try:
        sealed = _opened(path.read_bytes())
        inner = sealed["state"].numpy().tobytes()
        if sealed["sha256"] != hashlib.sha256(inner).hexdigest():
            raise ValueError("it was changed")
        state = _opened(inner)
        if wrong := wrong_fields(state, FIELDS):
            raise ValueError(wrong)
    # Bytes of any origin: the readers raise a dozen kinds of errors on damaged files, none of them a bug of ours.
    except Exception as error:
        said = error if isinstance(error, ValueError) else type(error).__name__
        raise TrainingError(f"{path} is damaged ({said}); delete the folder and train again.") from error
    return state


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
    """What the loop tells about a run; folder: None keeps nothing. A context, in which nobody else writes the folder.

    Entering it raises OutputError where another process writes the folder, or somebody else's files are in the way.
    """

    def __init__(self, folder: Path | str | None, world: ProcessGroup) -> None:
        self.folder = Path(folder) if folder is not None else None
        self.world = world
        self.bar: Any = None
        self._stack = ExitStack()

    def __enter__(self) -> RunLog:
        if self.folder is not None:
            with _told(self.folder):
                self._stack.enter_context(self.world.writing(self.folder, *WRITTEN))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def previous(self, fingerprint: dict[str, str], resume: bool, plan: Plan) -> Found | None:
        """The checkpoint to go on from, or None; see `load`. Raises TrainingError if it is in the way."""
        if self.folder is None:
            return None
        if not resume and (self.folder / STATE).exists():
            raise TrainingError(
                f"{self.folder} already holds a run. Resume it, train into another folder, or delete it first."
            )
        found = load(self.folder, fingerprint, self.world.device, list(map(plan_hash, plan.beginnings())))
        self.world.wait()  # nobody writes while others read
        return found

    def begin(self, state: dict, steps: int) -> None:
        """Shows the bar of a run that begins or goes on at `state`; steps: of the whole run."""
        if not self.world.first:
            return
        if self.folder is not None:
            with _told(self.folder):
                if state["history"]:  # the run was perhaps killed before all of it was told
                    _show(self.folder, state["history"], state["weights"])
                (self.folder / EVENTS).unlink(missing_ok=True)
                _append(self.folder / EVENTS, state["history"])
        self.bar = self._stack.enter_context(settings.progress(total=steps, desc="training", unit="step"))
        self.bar.update(sum(row["step"] for row in state["history"][-1:]))

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
        if self.folder is not None:
            save(self.folder, state, weights.state_dict(), best)


def _content(weights: Weights, fingerprint: Mapping[str, str], name: str) -> bytes:
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    return seal(safetensors.save(tensors, {"run": _run(fingerprint, name)}))


def _write(path: Path, content: bytes | memoryview) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _run(fingerprint: Mapping[str, str], name: str) -> str:
    """What tells a run's file of this name from those of other runs, and from its others."""
    return _hash(json.dumps([dict(fingerprint), name], sort_keys=True))


def _set_hash(data: LabelledSet) -> str:
    """Hash of inputs and labels, of which never all are in memory as text."""
    digest = hashlib.sha256(data.content_hash().encode())
    for start in range(0, len(data), 10_000):
        part = data.labels.iloc[start : start + 10_000]
        digest.update(part.to_csv(index=False, header=start == 0).encode())
    return digest.hexdigest()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
