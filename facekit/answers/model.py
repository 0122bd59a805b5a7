"""A trained model, loaded from the folder that `train` leaves: `facekit.load("run")`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.calibration import temperature_scaled
from facekit.evaluation.thresholds import decide
from facekit.files import pasted_path
from facekit.models.build import BACKBONES, sized
from facekit.models.folder import Part, Stored, read
from facekit.models.staged import Staged
from facekit.models.weights import load_into
from facekit.tasks import Task
from facekit.training.scoring import predict
from facekit.transfer.table import Row, row

if TYPE_CHECKING:
    from facekit.answers.faces import Photos, Way

BATCH = 256  # rows that go through the network together, as when a training is scored
AT_ONCE = 4 * BATCH  # rows that are resized and held in memory at a time


@dataclass(frozen=True, eq=False)
class Model:
    """A network that answers questions, with everything that is known about it.

    folder: where it was loaded from. network: in evaluation mode, all of it frozen; of a model for several domains, as
    it answers for one of them (`only`). tasks: what it answers, each with its classes in order. sets: the names of the
    domains, where there are several; then `only("name")` is the model of one. temperatures: by task, what outputs are
    divided by to be probabilities; None where none could be fitted. thresholds: by task, what `train --equal` fitted:
    the rate that is equal, the groups' column, and the thresholds by group. scores: on validation and test when it was
    trained, columns set (where it has a name), split, task, metric, group, value, low, high, n. about: all of
    `model.json`, see `facekit.models.folder`. device: where it computes, by default as everywhere in facekit.
    """

    folder: Path
    network: nn.Module
    tasks: tuple[Task, ...]
    sets: tuple[str, ...]
    temperatures: dict[str, float | None]
    thresholds: dict[str, dict[str, Any] | None]
    scores: pd.DataFrame
    about: dict[str, Any]
    device: str | None
    _stored: Stored
    _part: Part

    def only(self, name: str) -> Model:
        """The model of one domain; raises ConfigError where there is none of this name."""
        if name not in self.sets:
            raise ConfigError(f"{self.folder} has no domain {name!r}; it has {', '.join(self.sets) or 'no names'}.")
        part = next(part for part in self._stored.parts if part.name == name)
        return _model(self._stored, cast(Staged, self.network), part, self.device)

    @property
    def learnt_from(self) -> dict[str, Any]:
        """What `model.json` says of the set that it answers for: tasks, input, framing, data."""
        return next(each for each in self.about["sets"] if each["name"] == self._part.name)

    def predict(
        self, photos: Photos, faces: Way = "as_trained", backbone: str | None = None, progress: bool = True
    ) -> pd.DataFrame:
        """The answers for photos: a row a face, and a row with its reason for every photo without one.

        photos: the path of a photo, a folder, an archive or a packed set; a set; or photos in memory, one or several
        (PIL images, uint8 arrays, bytes or paths of files). faces: how they are cut: `as_trained`, as those that the
        model learnt from; `cropped`, the photos are cut already; `fairface`, eyes, nose and mouth are brought to where
        FairFace's photos have them; `box`, as `pack --align` does. backbone: `facenet` or `mini`, what embeds photos
        for a model of embeddings, by default what embedded those that it learnt from. progress: with a bar, where
        somebody watches.

        Columns: `file`, `face` (its number in the photo, the largest first), `left`, `top`, `right`, `bottom` (in
        pixels of the upright photo) and `confidence` of the detector, missing where none was asked; of each task the
        answer, as a label or a number; where the network scores classes also `<task>_probability` of the most probable
        one, with the temperature that was fitted on validation, `<task>_second` and `<task>_second_probability`, and
        `<task>_class` where the answer is no class; then `reason`, empty where there is a face. A column whose name is
        taken is called `<name>_answer`.

        It is all in memory; `python -m facekit predict` writes a table while it goes on. Nothing of the photos is kept.
        Raises as `facekit.answers.predict.Answers`.
        """
        from facekit.answers.predict import Answers  # the detector is loaded by those who ask for it

        answers = Answers(self, photos, faces, backbone)
        return answers.frame([row for rows, _ in answers.groups(progress=progress) for row in rows])

    def batches(self, data: FaceSet | FeatureSet) -> Iterator[tuple[slice, dict[str, torch.Tensor]]]:
        """The raw outputs of all rows, a thousand at a time: the rows, and task name to float32 (n, …) on the CPU.

        Photos are brought to the size that those in training had. What is in memory does not grow with the set. Raises
        ConfigError for photos where the model takes embeddings, embeddings where it takes photos or others of another
        length, and for a model of several domains; DataError for a set without rows.
        """
        self.check(data)
        keeps_form, backbone = _row(self._stored).names is None, self._stored.backbone
        network = BACKBONES[backbone] if backbone is not None else None
        how = self.about["recipe"]["precision"]
        for start in range(0, len(data), AT_ONCE):
            rows = slice(start, min(start + AT_ONCE, len(data)))
            part = sized(data.select(range(rows.start, rows.stop)), network, self._part.size, keeps_form)
            yield rows, predict(self.network, part, BATCH, self.device, how)

    def outputs(self, data: FaceSet | FeatureSet) -> dict[str, torch.Tensor]:
        """Raw outputs of all rows, in order: task name to float32 (N, …) on the CPU, see `Task`; raises as `batches`.

        These are, bit for bit on the same machine, what the scores of the training were computed from.
        """
        parts = [outputs for _, outputs in self.batches(data)]
        return {task.name: torch.cat([part[task.name] for part in parts]) for task in self.tasks}

    def probabilities(self, data: FaceSet | FeatureSet) -> dict[str, torch.Tensor]:
        """Of every task whose outputs are scores of classes, the probability of each: float32 (N, classes), on the CPU.

        The outputs are divided by the task's temperature, fitted on validation (Guo et al. 2017, 1706.04599), so that
        an answer given with 0.8 is right in about 8 of 10 cases on rows like those of validation. Without one the
        softmax is as it is, and often too sure. Raises as `batches`.
        """
        return self.calibrated(self.outputs(data))

    def calibrated(self, outputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """As `probabilities`, of outputs that are there."""
        found = {}
        for task in self.tasks:
            if task.softmax:
                found[task.name] = torch.from_numpy(self._scaled(task, outputs)).float()
        return found

    def decided(
        self, task: str, outputs: dict[str, torch.Tensor], groups: pd.Series | Sequence[str | None]
    ) -> np.ndarray:
        """Classes of a task of two, int64 (N,), by the thresholds of the rows' groups.

        outputs: of `outputs` or `batches`. groups: of each row, by the names in `thresholds`, None where it is not
        known. The second class is the answer where its probability is above the group's threshold; a group without one
        (too few rows in validation) or unknown has 0.5, which is the answer of `Task.predict`. The rate that was made
        equal on validation is only nearly so elsewhere, and other rates are not. Raises ConfigError where there are no
        thresholds, DataError where lengths differ.
        """
        found = self.thresholds.get(task)
        if found is None:
            raise ConfigError(f"{self.folder} has no thresholds for {task!r}; train it with --equal and --groups.")
        asked = next(each for each in self.tasks if each.name == task)
        names = pd.Series(groups, dtype=object).reset_index(drop=True)
        if len(names) != len(outputs[task]):
            raise DataError(f"{len(names)} groups for {len(outputs[task])} rows; they must match.")
        cuts = pd.Series(found["by_group"], dtype=float)
        known = names.where(names.isin(cuts.index), "")
        return decide(self._scaled(asked, outputs)[:, 1], known, pd.concat([cuts, pd.Series({"": 0.5})]))

    def _scaled(self, task: Task, outputs: dict[str, torch.Tensor]) -> np.ndarray:
        return temperature_scaled(outputs[task.name], self.temperatures[task.name] or 1.0)

    def __repr__(self) -> str:
        asked = [f"{task.name} ({', '.join(task.classes) or task.kind})" for task in self.tasks]
        domains = f" for {', '.join(self.sets)}" if self.sets else ""
        return f"Model {self.folder}{domains}: {'; '.join(asked)}"

    def check_domain(self) -> None:
        """Raises ConfigError for a model of several domains, of which one has to be chosen."""
        if self.sets:
            raise ConfigError(
                f"{self.folder} answers for {', '.join(self.sets)}, each with its own tasks; choose one: "
                f"only({self.sets[0]!r})."
            )

    def check(self, data: FaceSet | FeatureSet) -> None:
        """Raises as `batches` where these rows cannot be answered."""
        self.check_domain()
        shape = self._part.shape
        photos = len(shape) == 3
        wanted = "photos, a FaceSet" if photos else f"embeddings of {shape[0]} numbers, a FeatureSet"
        if photos != isinstance(data, FaceSet) or not photos and data.inputs.shape[1:] != shape:
            given = f"a {data.kind} of shape {data.inputs.shape}"
            said = self.learnt_from["framing"].get("backbone")
            remedy = (
                f" Embed the photos with {said} first, or use predict." if said and isinstance(data, FaceSet) else ""
            )
            raise ConfigError(f"{self.folder} takes {wanted}, got {given}.{remedy}")
        if not len(data):
            raise DataError(f"this {data.kind} has no rows; there is nothing to answer.")


def load(folder: Path | str, device: str | None = None) -> Model:
    """The model in a folder that `python -m facekit train` has left, on any machine: nothing but the folder is needed.

    Only `model.json` and `best.safetensors` are read, and compared with their checksums; neither can run code. The
    random state is left as it was. Raises DataError where there is no model, it is damaged, or another version wrote
    it, WeightsError where the weights are those of another network, and ConfigError for a model without tasks.
    """
    stored = read(pasted_path(folder))
    path = stored.path
    if not any(part.tasks for part in stored.parts):
        raise ConfigError(
            f"{path} has no answers: {stored.method} learns without labels. Train a model that starts from it: "
            f"--weights {stored.weights}"
        )
    how = _row(stored)
    tasks: dict[Any, tuple[Task, ...]] = {part.name: part.tasks for part in stored.parts if part.tasks}
    every = [task for part in tasks.values() for task in part]
    try:
        how.check_sets([part.name for part in stored.parts if part.name is not None])
        with torch.random.fork_rng(devices=[]):
            base = stored.base()
            wanted: Any = tasks.get(None, tasks)
            classifier = partial(base.classifier, every)
            network = how.build(base.stack, classifier, wanted, base.backbone, **stored.parameters)
    except (ConfigError, TypeError, MemoryError, RuntimeError) as error:
        raise DataError(f"the network of {path} cannot be built ({error}); copy it again, or train again.") from error
    load_into(network, stored.state(), stored.weights)
    if stored.about["recipe"]["channels_last"]:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.freeze()
    network.eval()
    answering = [part for part in stored.parts if part.tasks]
    several = how.names is None and len(answering) > 1
    return _model(stored, network, None if several else answering[0], device)


def _row(stored: Stored) -> Row:
    """The method of a stored model; raises DataError for one that this facekit does not train with."""
    try:
        found = row(stored.method)
    except ConfigError as error:
        raise DataError(f"{stored.path} was trained by another facekit: {error}") from None
    if not found.trains:
        raise DataError(f"{stored.path} is damaged (the method {stored.method} trains no network); copy it again.")
    return found


def _model(stored: Stored, network: Staged, part: Part | None, device: str | None) -> Model:
    """The model as it answers for one of its sets, or None for several domains of which none is chosen."""
    scores = pd.DataFrame(stored.about["scores"])
    if part is None:
        tasks = tuple(task for each in stored.parts for task in each.tasks)
        sets = tuple(str(each.name) for each in stored.parts)
        return Model(stored.path, network, tasks, sets, {}, {}, scores, stored.about, device, stored, stored.parts[0])
    one = network.only(part.name) if part.name is not None else network
    if one is not network and "set" in scores:
        scores = scores[scores["set"] == part.name].reset_index(drop=True)
    found = stored.about
    heat, cuts = part.temperatures, part.thresholds
    return Model(stored.path, one, part.tasks, (), heat, cuts, scores, found, device, stored, part)
