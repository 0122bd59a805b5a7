"""The folder that is a trained model: its weights (`best.safetensors`) and `model.json`, which says everything else.

`model.json` is written last, so a folder without one is what a stopped run left. It holds, in this order:

- `format`, the version of this list;
- `method` and `parameters`: of the table of methods;
- `network`: backbone, width, hidden, dropout (see `build.Base`), and `started_from`: the file of weights that the
  training began with (name, SHA-256, source, licence), null where they were random. The trained network is stored as a
  whole, with its frozen parts, so that file is not needed again;
- `sets`: what the model learnt from, each with its name (null where it has none), its `tasks` (all that a `Task` is,
  and the `temperature` that its outputs are divided by to be probabilities, null where none could be fitted; of a task
  of two classes perhaps `thresholds` by group, with the rate that they make equal and the groups' column), its
  `input` (kind and shape of an input, and the size that was asked for), its `framing` (how its faces were cut) and its
  `data` (source, licence, SHA-256, rows by split);
- `recipe`: plan, epochs and after how many of them the run was extended, rates, batches, augmentation, seed, the column
  of the groups that the method minded, the best epoch, how many parameters of each stage moved;
- `scores` on validation and test, each with its bootstrap interval and n;
- `versions` of facekit, torch and Python; `weights`: name, bytes and SHA-256 of the file; `sha256` of all of this.
"""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import UnionType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from facekit.data.sets import SPLITS, FaceSet, FeatureSet, LabelledSet
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.evaluation.thresholds import EQUAL
from facekit.files import json_sha256, read_json, sealed_json, sha256_of_file, told, write_json, wrong_fields
from facekit.models.build import BACKBONES, MOST_PIXELS, Base
from facekit.tasks import Task

FORMAT = 1
MODEL, WEIGHTS, STATE, OLD = "model.json", "best.safetensors", "last.pt", "metrics.json"
AGAIN = "copy the folder again from where it is whole, or train again."
RESUME = "give the same train command once more with --resume true"
TOLD = ("name", "source", "licence", "datasheet", "generator", "drawn_with_seed")  # of a set's manifest
Fields = Mapping[str, type | UnionType]
NUMBER = int | float
TOP: Fields = {
    **{"format": int, "method": str, "parameters": dict, "network": dict, "sets": list, "recipe": dict},
    **{"scores": list, "versions": dict, "weights": dict, "sha256": str},
}
NETWORK: Fields = {
    **{"backbone": str | None, "width": int, "hidden": int, "dropout": NUMBER, "started_from": dict | None},
}
SET: Fields = {"name": str | None, "tasks": list, "input": dict, "framing": dict, "data": dict}
TASK: Fields = {
    **{"name": str, "kind": str, "classes": list, "midpoints": list, "scale": NUMBER},
    **{"temperature": NUMBER | None, "thresholds": dict | None},
}
THRESHOLDS: Fields = {"equal": str, "groups": str, "by_group": dict}
FRAMING: Fields = {
    **{"how": str, "reader": str | None, "pixels": str | None, "backbone": str | None, "stored": list},
}
EMBEDDED: Fields = {"photos": list, "size": int, "stage": str | None, "flip": bool}
INPUT: Fields = {"kind": str, "size": int | list | None, "shape": list}
RECIPE: Fields = {
    **{"plan": str, "epochs": int, "lr": NUMBER, "batch_size": int, "precision": str, "channels_last": bool},
    **{"seed": int, "best_epoch": int, "steps": int, "moved": dict, "augment": dict | None},
    "groups": str | None,
}
SCORE: Fields = {
    **{"task": str, "metric": str, "group": str, "split": str, "n": int},
    **{"value": NUMBER | None, "low": NUMBER | None, "high": NUMBER | None},
}
DATA: Fields = {"sha256": dict, "rows": dict}
BEGAN: Fields = {"file": str, "sha256": str, "source": str, "licence": str}
FILE: Fields = {"file": str, "bytes": int, "sha256": str}


@dataclass(frozen=True)
class Part:
    """What a model learnt from one set.

    name: None where the set has none. tasks: with their classes in order. temperatures: by task, None where none could
    be fitted. thresholds: by task, None where none were asked for; else what `THRESHOLDS` lists. kind: of the set.
    shape: of an input, (3, height, width) or (D,). size: what `sized` was told.
    """

    name: str | None
    tasks: tuple[Task, ...]
    temperatures: dict[str, float | None]
    thresholds: dict[str, dict[str, Any] | None]
    kind: str
    shape: tuple[int, ...]
    size: int | tuple[int, int] | None


@dataclass(frozen=True)
class Stored:
    """A model folder as it was read. base: without the backbone's weights. about: all of `model.json`."""

    path: Path
    method: str
    parameters: dict[str, Any]
    backbone: str | None
    width: int
    hidden: int
    dropout: float
    parts: tuple[Part, ...]
    about: dict[str, Any]

    @property
    def weights(self) -> Path:
        """The file with the weights."""
        return self.path / WEIGHTS

    def state(self) -> dict[str, torch.Tensor]:
        """The weights; raises WeightsError where the file cannot be read."""
        try:
            return load_file(self.weights)
        except (OSError, SafetensorError) as error:
            raise WeightsError(f"{self.weights} cannot be read ({error}); {AGAIN}") from None

    def base(self) -> Base:
        """What the network is built from, with random weights."""
        network = BACKBONES[self.backbone]() if self.backbone is not None else None
        return Base(network, self.width, self.hidden, self.dropout)


def framing(data: LabelledSet) -> dict[str, Any]:
    """How the faces of a stored set were cut: how, reader, pixels, backbone (of embeddings), stored (their shape)."""
    manifest = data.manifest
    request = manifest.get("request", {})
    rendered, drawn = "generator" in manifest, "drawn_with_seed" in manifest
    cut = "not known" if "align" not in request else "aligned" if request["align"] else "whole photo"
    return {
        "how": "rendered" if rendered else "drawn embeddings" if drawn else cut,
        "reader": manifest.get("reader"),
        "pixels": manifest.get("pixels"),
        "backbone": manifest.get("backbone"),
        "embedded": manifest.get("embedded"),
        "stored": list(data.inputs.shape[1:]),
    }


def described(
    name: str | None,
    data: LabelledSet,
    tasks: Sequence[Task],
    fitted: Mapping[str, Mapping[str, Any]],
    size: int | Sequence[int] | None,
    learnt: LabelledSet,
) -> dict[str, Any]:
    """A set's entry of `model.json`.

    data: as it was stored. fitted: by task what was fitted on validation, a `temperature` and `thresholds`. size: what
    `sized` was told, and learnt: what it gave.
    """
    manifest, rendered = data.manifest, "generator" in data.manifest
    if files := manifest.get("files"):
        content = {file: about["sha256"] for file, about in files.items()}
    else:  # drawn just now
        table = hashlib.sha256(data.labels.to_csv(index=False).encode()).hexdigest()
        content = {"inputs": data.content_hash(), "labels": table}
    keys = (*TOLD, *(("request",) if rendered else ()))
    told = {key: manifest[key] for key in keys if key in manifest}
    shape = list(learnt.inputs.shape[1:])
    rows = {split: int((data.labels["split"] == split).sum()) for split in SPLITS}
    return {
        "name": name,
        "tasks": [
            asdict(task) | {"temperature": None, "thresholds": None, **fitted.get(task.name, {})} for task in tasks
        ],
        "input": {"kind": data.kind, "size": list(size) if isinstance(size, Sequence) else size, "shape": shape},
        "framing": framing(data),
        "data": {**told, "sha256": content, "rows": rows},
    }


def began_with(backbone: str, path: Path | None) -> dict[str, Any]:
    """The entry `started_from` of a training that begins with the weights of a file, by default the usual ones.

    Of what another training left it says on which data, under which terms, and what that one began with in turn.
    """
    found: dict[str, Any] = BACKBONES[backbone].weights_from(path)
    if path is None or path.name != WEIGHTS:
        return found
    try:
        run = read(path.parent).about
    except DataError:  # it lies there without a description
        return found
    told = {
        key: "; ".join(dict.fromkeys(str(part["data"].get(key, "not stated")) for part in run["sets"]))
        for key in ("source", "licence")
    }
    told["source"] = f"facekit's train, method {run['method']}, on {told['source']}"
    return found | told | {"started_from": run["network"]["started_from"]}


def write(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes `model.json` beside the weights. about: method, parameters, network, sets, recipe and scores.

    Raises DataError where there are no weights, or `about` is not what `read` would take.
    """
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise DataError(f"{weights} is not there; {RESUME}.")
    file = {"file": WEIGHTS, "bytes": weights.stat().st_size, "sha256": sha256_of_file(weights)}
    content = sealed_json({"format": FORMAT, **about, "versions": _versions(), "weights": file})
    parsed(folder / MODEL, content)
    write_json(folder / MODEL, content)


def read(folder: Path) -> Stored:
    """The model in a folder; every checksum in it is compared.

    Raises DataError that says what is wrong and what to do: no folder, a run that was stopped or is older than this
    file, a folder of several models, a damaged or changed `model.json` or one of another version, missing or other
    weights.
    """
    path = folder / MODEL
    if not folder.is_dir():
        problem = "is a file; name the folder that it lies in" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {problem}: a model is the folder that `python -m facekit train --out` names.")
    try:
        about = read_json(path, DataError, AGAIN, {"format": int})
    except FileNotFoundError:
        raise DataError(_absent(folder)) from None
    if about["format"] != FORMAT:
        newer = about["format"] > FORMAT
        remedy = "install a newer facekit" if newer else "train the model again"
        raise DataError(f"{path} has format {about['format']}, this facekit reads {FORMAT}; {remedy}.")
    if wrong := wrong_fields(about, TOP):
        raise DataError(f"{path} is damaged ({wrong}); {AGAIN}")
    if about["sha256"] != json_sha256(about):
        raise DataError(f"{path} is damaged (it was changed since it was written); {AGAIN}")
    stored = parsed(path, about)
    file, weights = about["weights"], stored.weights
    try:
        same = weights.stat().st_size == file["bytes"] and sha256_of_file(weights) == file["sha256"]
    except OSError as error:
        raise DataError(f"{told(error, weights)}; a model needs it: {AGAIN}") from None
    if not same:
        raise DataError(
            f"{weights} is not the file that {MODEL} speaks of: its size or SHA-256 differs. If the training went on "
            f"since, {RESUME}; else {AGAIN}"
        )
    return stored


def parsed(path: Path, about: Mapping[str, Any]) -> Stored:
    """What the entries of a `model.json` say; raises DataError, naming the entry, where one cannot be."""

    def check(where: str, value: object, fields: Fields) -> Mapping[str, Any]:
        if wrong := wrong_fields(value, fields):
            raise DataError(f"{path} is damaged ({where}: {wrong}); {AGAIN}")
        return value  # type: ignore[return-value]

    def need(fact: bool, said: str) -> None:
        if not fact:
            raise DataError(f"{path} is damaged ({said}); {AGAIN}")

    check("the whole", about, TOP)
    file = check("weights", about["weights"], FILE)
    need(file["file"] == WEIGHTS, f"the weights are in {file['file']!r}")
    network = check("network", about["network"], NETWORK)
    name, width, hidden = network["backbone"], network["width"], network["hidden"]
    try:
        known = BACKBONES[name] if name is not None else None
    except ConfigError as error:
        raise DataError(f"{path} names the backbone {name!r}: {error}") from None
    need(known is None or width == known.embedding_dim, f"network: {name} has no width of {width}")
    need(width > 0 <= hidden and 0 <= network["dropout"] < 1, "network: width, hidden or dropout cannot be")
    # Before it is built: what is larger than its own file was not written like that.
    need(name is not None or 4 * width * max(hidden, 1) <= file["bytes"], "network: it is larger than its weights")
    if network["started_from"] is not None:
        check("network, started_from", network["started_from"], BEGAN)
    need(all(map(_finite, about["parameters"].values())), "parameters: one is no number")
    recipe = check("recipe", about["recipe"], RECIPE)
    need(recipe["precision"] in ("fp32", "bf16"), f"recipe: precision {recipe['precision']!r}")
    for place, row in enumerate(about["scores"]):
        check(f"scores, row {place}", row, SCORE)
    parts = []
    for place, entry in enumerate(about["sets"]):
        where = f"sets, entry {place}"
        part = check(where, entry, SET)
        rows = check(f"{where}, data", part["data"], DATA)["rows"].values()
        need(all(isinstance(n, int) for n in rows), f"{where}: rows by split are {list(rows)}")
        kept = check(f"{where}, input", part["input"], INPUT)
        kind = FeatureSet.kind if name is None else FaceSet.kind
        need(kept["kind"] == kind, f"{where}: this network takes a {kind}, not a {kept['kind']}")
        shape, size = kept["shape"], kept["size"]
        fits = shape == [width] if name is None else len(shape) == 3 and all(map(_is_side, shape))
        need(fits, f"{where}: inputs of {shape}")
        pair = isinstance(size, list) and len(size) == 2 and all(map(_is_side, size))
        need(size is None or _is_side(size) or pair, f"{where}: photos of size {size}")
        cut = check(f"{where}, framing", part["framing"], FRAMING)
        stored = cut["stored"]
        fits = stored == shape if kind != FaceSet.kind else len(stored) == 3 and all(map(_is_side, stored))
        need(fits, f"{where}: inputs stored as {stored}")
        if cut.get("embedded") is not None:
            embedded = check(f"{where}, framing, embedded", cut["embedded"], EMBEDDED)
            sides = [*embedded["photos"], embedded["size"]]
            need(len(sides) == 3 and all(map(_is_side, sides)), f"{where}: photos of {sides} were embedded")
        drawn = part["data"].get("generator", {})
        need(isinstance(drawn, dict), f"{where}: its generator is {drawn!r}")
        tasks = [check(f"{where}, a task", task, TASK) for task in part["tasks"]]
        heat = {task["name"]: task["temperature"] for task in tasks}
        need(all(t is None or _finite(t) and t > 0 for t in heat.values()), f"{where}: a temperature is not above 0")
        cuts = {task["name"]: task["thresholds"] for task in tasks}
        for task in tasks:
            if (found := cuts[task["name"]]) is not None:
                by_group = check(f"{where}, thresholds of {task['name']}", found, THRESHOLDS)["by_group"].values()
                fits = (
                    found["equal"] in EQUAL and len(task["classes"]) == 2 and by_group and all(map(_finite, by_group))
                )
                need(bool(fits), f"{where}: thresholds of {task['name']} cannot be")
        asked = tuple(size) if isinstance(size, list) else size
        answered = tuple(_task(path, task) for task in tasks)
        parts.append(Part(part["name"], answered, heat, cuts, kind, tuple(shape), asked))
    names = [part.name for part in parts]
    need(0 < len(names) == len(set(names)) and (None not in names or len(names) == 1), f"sets are called {names}")
    return Stored(
        path=path.parent,
        method=about["method"],
        parameters=about["parameters"],
        backbone=name,
        width=width,
        hidden=hidden,
        dropout=network["dropout"],
        parts=tuple(parts),
        about=dict(about),
    )


def _task(path: Path, entry: Mapping[str, Any]) -> Task:
    """A task as it was stored; raises DataError where it cannot be asked."""
    classes, midpoints = tuple(entry["classes"]), tuple(entry["midpoints"])
    numbers = [*midpoints, entry["scale"]]
    if not all(isinstance(label, str) for label in classes) or not all(map(_finite, numbers)):
        raise DataError(f"{path} is damaged (task {entry['name']!r}: classes or numbers cannot be); {AGAIN}")
    try:
        return Task(entry["name"], entry["kind"], classes, midpoints, entry["scale"])
    except ConfigError as error:
        raise DataError(f"{path} cannot be used ({str(error).rstrip('.')}); {AGAIN}") from None


def _is_side(value: object) -> bool:
    """Whether this is a number of pixels that a photo may have."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MOST_PIXELS


def _finite(value: object) -> bool:
    return isinstance(value, NUMBER) and not isinstance(value, bool) and math.isfinite(value)


def _versions() -> dict[str, str]:
    try:
        own = version("facekit")
    except PackageNotFoundError:  # used as a folder of files
        own = "not installed"
    return {"facekit": own, "torch": torch.__version__, "python": platform.python_version()}


def _absent(folder: Path) -> str:
    """What to say of a folder without `model.json`."""
    if inner := sorted(path.parent.name for path in folder.glob(f"*/{MODEL}")):
        first = folder / inner[0]
        return f"{folder} holds a model for each set; name one of them: {', '.join(inner)} (as {first})."
    if (folder / OLD).is_file() and (folder / STATE).exists():
        return f"{folder} was trained by an older facekit, which wrote no {MODEL}; {RESUME}, and it is added."
    if (folder / STATE).exists():
        return f"{folder} has no {MODEL}: its training was stopped. To go on, {RESUME}."
    return f"{folder} holds no model (no {MODEL}); name a folder that `python -m facekit train --out` has made."
