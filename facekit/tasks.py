"""What is predicted: the label column, how it becomes a target, its loss, and how outputs become predictions.

Targets are one tensor per task: int64 class indices with -1 where the label is missing, or float32 with NaN
where it is missing; of boxes float32 (N, 4), of texts int64 (N, L), padded with -1. A missing label never contributes
to a loss (`Task.loss` masks it).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from facekit.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch  # inside the methods, too: what only reads or draws labels must not wait for it

Kind = Literal["multiclass", "ordinal", "expectation", "regression", "box", "string"]
KINDS: tuple[Kind, ...] = ("multiclass", "ordinal", "expectation", "regression", "box", "string")
MISSING = -1


@dataclass(frozen=True)
class Task:
    """One thing to predict from a picture.

    name: the label column, of a box the beginning of its four columns' names (see `columns`). classes: the label texts
    in order. midpoints: for classes that are bands of a number (age bands), the number that stands for each band, in
    the number's unit, so that a mean absolute error can be computed. scale: divisor for regression targets. kind, how
    it is asked:

    - `multiclass`: softmax over `classes`, which have no order; two classes are the binary case.
    - `ordinal`: is the label above the first class, above the second, …? CORAL (Cao, Mirjalili & Raschka 2020,
      1901.07884): K - 1 yes-no questions with one common weight vector and a bias each, so that at the
      minimum no answer contradicts another; the prediction is the class whose rank is the number of yeses.
    - `expectation`: softmax over `classes` as above, but the prediction is the mean of `midpoints` under it, a number.
      DEX (Rothe, Timofte & Van Gool 2018).
    - `regression`: one number, Huber loss on the label divided by `scale`; with classes and midpoints a label that is
      a band counts as its midpoint.
    - `box`: where something is, as left, top, right and bottom in fractions of the picture's sides; smooth L1 and
      generalised IoU (see `boxes`). Missing where there is nothing to find.
    - `string`: a text of unknown length over the characters `classes`, read from a row of positions with CTC (see
      `ctc`). An empty text counts as missing.

    The same labels can be asked in several ways: `dataclasses.replace(AGE_BAND, kind="ordinal")`.
    """

    name: str
    kind: Kind
    classes: tuple[str, ...] = ()
    midpoints: tuple[float, ...] = ()
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ConfigError(f"task {self.name!r}: unknown kind {self.kind!r}; use {', '.join(KINDS)}.")
        if self.kind not in ("regression", "box") and len(set(self.classes)) != max(len(self.classes), 2):
            raise ConfigError(f"task {self.name!r}: needs at least two different classes, got {self.classes}.")
        if self.midpoints and len(self.midpoints) != len(self.classes):
            raise ConfigError(f"task {self.name!r}: {len(self.midpoints)} midpoints for {len(self.classes)} classes.")
        if self.kind == "string" and (odd := [text for text in self.classes if len(text) != 1]):
            raise ConfigError(f"task {self.name!r}: the classes of a text are single characters, not {odd[0]!r}.")
        if self.kind == "expectation" and not self.midpoints:
            raise ConfigError(f"task {self.name!r}: an expectation is taken over midpoints; give one for each class.")

    @property
    def n_outputs(self) -> int:
        """Length of the output vector that a head must produce; of a text, at each of its positions."""
        if self.kind in ("regression", "box"):
            return 4 if self.kind == "box" else 1
        return len(self.classes) + {"ordinal": -1, "string": 1}.get(self.kind, 0)

    @property
    def columns(self) -> tuple[str, ...]:
        """The label columns: the name, or `<name>_left`, `_top`, `_right` and `_bottom` of a box."""
        sides = ("left", "top", "right", "bottom")
        return tuple(f"{self.name}_{side}" for side in sides) if self.kind == "box" else (self.name,)

    def encode(self, labels: pd.Series | pd.DataFrame) -> torch.Tensor:
        """Label column (N,) to targets (N,): int64 with -1 for missing, or float32 with NaN for missing.

        Ordinal tasks and expectations also take numbers, which become the class with the nearest midpoint. A box takes
        a table with its four columns and gives (N, 4), a text gives (N, L), where L is the positions that the
        longest needs (`ctc.positions_needed`). Raises DataError naming the first row whose label is neither missing
        nor known.
        """
        import torch

        if self.kind == "box":
            return torch.from_numpy(_box_targets(self, labels))
        if self.kind == "string":
            return torch.from_numpy(_text_targets(self, labels))
        if self.kind == "regression":
            numbers = dict(zip(self.classes, self.midpoints, strict=False))  # bands, if it has any
            values = pd.to_numeric(labels.map(lambda label: numbers.get(label, label)), errors="coerce")
            bad = values.isna() & labels.notna()
            targets = torch.from_numpy(values.to_numpy(np.float32, copy=True))
        else:
            codes = pd.Index(self.classes, dtype=object).get_indexer(labels.astype(object))
            if self.kind != "multiclass" and self.midpoints:
                numbers = pd.to_numeric(labels.astype(object), errors="coerce").to_numpy(np.float64)
                codes = np.where(codes == MISSING, nearest_class(self.midpoints, numbers), codes)
            bad = pd.Series(codes == MISSING, index=labels.index) & labels.notna()
            targets = torch.from_numpy(codes.astype(np.int64))
        if bad.any():
            row = bad.idxmax()
            wanted = "a number" if self.kind == "regression" else f"one of {', '.join(self.classes)}"
            raise DataError(
                f"row {row}, column {self.name!r}: unknown label {labels[row]!r}; expected {wanted}, or empty."
            )
        return targets

    def known(self, targets: torch.Tensor) -> torch.Tensor:
        """Boolean mask (N,): which targets are not missing."""
        if self.kind == "box":
            return ~targets.isnan().any(1)
        if self.kind == "string":
            return targets[:, 0] != MISSING
        return ~targets.isnan() if self.kind == "regression" else targets != MISSING

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean loss over the known targets, a scalar; exactly 0 (with a gradient of 0) where none is known.

        outputs: (N, n_outputs), of a text (N, positions, n_outputs), any floating dtype; computed in float32 at least.
        No host synchronisation (but CTC's own, on a GPU).
        """
        import torch
        import torch.nn.functional as F

        from facekit import boxes, ctc

        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))  # bf16 goes up, float64 stays
        known = self.known(targets)
        if self.kind == "regression":
            safe = torch.where(known, targets, torch.zeros_like(targets)).to(outputs.dtype) / self.scale
            each = F.huber_loss(outputs.squeeze(1), safe, reduction="none")
        elif self.kind == "box":
            each = boxes.box_loss(outputs, torch.where(known[:, None], targets, 0.0).to(outputs.dtype))
        elif self.kind == "string":
            each = ctc.ctc_loss(outputs, targets)
        elif self.kind == "ordinal":
            above = (targets[:, None] > torch.arange(self.n_outputs, device=targets.device)).to(outputs.dtype)
            each = F.binary_cross_entropy_with_logits(outputs, above, reduction="none").sum(1)
        else:
            each = F.cross_entropy(outputs, targets.clamp_min(0), reduction="none")
        # where, not a product: the loss of a row without a label may be infinite or NaN, and 0 * inf is NaN.
        return torch.where(known, each, torch.zeros_like(each)).sum() / known.sum().clamp_min(1)

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """(N, n_outputs) to (N,): class indices (int64), or numbers in the label's own unit (float32).

        A box becomes (N, 4), in order and inside the picture; a text its characters' indices (N, positions), padded
        with -1, by greedy decoding (`ctc.beam_search` looks further; `texts` makes strings of either).
        """
        from facekit import boxes, ctc

        if self.kind == "box":
            return boxes.tidy(outputs)
        if self.kind == "string":
            return ctc.greedy(outputs)
        if self.kind == "multiclass":
            return outputs.argmax(1)
        if self.kind == "ordinal":
            return (outputs > 0).sum(1)
        if self.kind == "expectation":
            return outputs.float().softmax(1) @ outputs.new_tensor(self.midpoints).float()
        return outputs.squeeze(1).float() * self.scale

    def texts(self, indices: torch.Tensor) -> list[str]:
        """Predictions or targets (N, L) of a text as strings; a missing one is empty."""
        return ["".join(self.classes[i] for i in row if i != MISSING) for row in indices.tolist()]

    def constant(self, targets: torch.Tensor) -> torch.Tensor:
        """The outputs (n_outputs,), float32, that fit the known targets (N,) best without a look at the faces.

        Log frequencies of the classes (their loss is the entropy of the labels), log odds of being above each class,
        or the median (of a box, of each side); classes that do not occur count as a thousandth of a label. Raises
        DataError without any label, ConfigError for texts, which no constant row of scores can spell.
        """
        import torch

        if self.kind == "string":
            raise ConfigError(f"task {self.name!r}: a text has no constant outputs; compare with its commonest label.")
        targets = targets[self.known(targets)]
        if not len(targets):
            raise DataError(f"no row has a label for {self.name!r}; at least one is needed.")
        if self.kind == "regression":
            return targets.float().median().view(1) / self.scale
        if self.kind == "box":
            return targets.float().median(0).values
        counts = torch.bincount(targets, minlength=len(self.classes)).float()
        if self.kind != "ordinal":
            return counts.clamp_min(1e-3).log()
        above = len(targets) - counts.cumsum(0)[:-1]
        return above.clamp_min(1e-3).log() - (len(targets) - above).clamp_min(1e-3).log()


def _box_targets(task: Task, labels: pd.DataFrame) -> np.ndarray:
    """Four columns to float32 (N, 4), NaN where there is no box; raises DataError naming the first row that is none."""
    table = labels[list(task.columns)]
    numbers = table.apply(pd.to_numeric, errors="coerce")
    known = table.notna().to_numpy()
    sides = numbers.to_numpy(np.float64)
    left, top, right, bottom = sides.T
    inside = (sides >= 0).all(1) & (sides <= 1).all(1) & (left < right) & (top < bottom)
    bad = known.any(1) & ~inside
    if bad.any():
        at = int(bad.argmax())
        raise DataError(
            f"row {labels.index[at]}, columns {', '.join(task.columns)}: {table.iloc[at].tolist()} is no box; give "
            "left < right and top < bottom as fractions of the picture's width and height, 0 to 1, or leave all empty."
        )
    return sides.astype(np.float32)


def _text_targets(task: Task, labels: pd.Series) -> np.ndarray:
    """Texts to int64 (N, L), padded with -1; raises DataError naming the first row that the alphabet cannot spell."""
    from facekit.ctc import positions_needed

    index = {character: i for i, character in enumerate(task.classes)}
    rows = []
    for row, label in labels.items():
        if not isinstance(label, str) and pd.notna(label):
            raise DataError(
                f"row {row}, column {task.name!r}: {label!r} is a {type(label).__name__}, not a text (the zeros at its "
                f"beginning would be lost); read the table with dtype={{{task.name!r}: str}}."
            )
        text = label if isinstance(label, str) else ""
        if unknown := sorted(set(text) - set(index)):
            raise DataError(
                f"row {row}, column {task.name!r}: {text!r} has {unknown[0]!r}, which is not in the alphabet "
                f"{''.join(task.classes)!r}; add it to the task's classes, or correct or empty the label."
            )
        rows.append([index[character] for character in text])
    needed = max(map(positions_needed, rows), default=0)
    targets = np.full((len(rows), max(needed, 1)), MISSING, np.int64)
    for target, row in zip(targets, rows, strict=True):
        target[: len(row)] = row
    return targets


def nearest_class(midpoints: Sequence[float], numbers: np.ndarray) -> np.ndarray:
    """Numbers (N,) to the indices of the nearest midpoints, int64; -1 for NaN."""
    numbers = np.asarray(numbers, np.float64)
    distance = np.abs(numbers[:, None] - np.asarray(midpoints, np.float64))
    return np.where(np.isnan(numbers), MISSING, distance.argmin(1))


@dataclass(frozen=True)
class Joint:
    """Several tasks asked as one question, with a class for every combination of their classes.

    A joint task can learn that two answers depend on each other, which heads side by side cannot; it has as many
    classes as the product of the parts', each with fewer examples, and a row counts only when all its labels are known.
    parts: tasks with a softmax (multiclass or expectation), at least two.
    """

    parts: tuple[Task, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        names = [part.name for part in self.parts]
        if len(names) < 2 or len(set(names)) != len(names):
            raise ConfigError(f"a joint task needs two or more different parts, got {names}.")
        if odd := [part.name for part in self.parts if part.kind not in ("multiclass", "expectation")]:
            raise ConfigError(f"only tasks with a softmax over classes can be joined; {', '.join(odd)} has none.")

    @property
    def task(self) -> Task:
        """The joint task; its column is called after the parts, `gender_age`, its classes are `Male, 0-2` and so on."""
        classes = [", ".join(combination) for combination in product(*(part.classes for part in self.parts))]
        return Task("_".join(part.name for part in self.parts), "multiclass", tuple(classes))

    def add_to(self, labels: pd.DataFrame) -> pd.DataFrame:
        """A copy of the label table with the joint task's column, missing (None) where any part is missing.

        Raises DataError as `encode_all` does.
        """
        codes = [targets.numpy() for targets in encode_all(self.parts, labels).values()]
        known = np.min(codes, axis=0) != MISSING
        sizes = [len(part.classes) for part in self.parts]
        index = np.ravel_multi_index([np.maximum(code, 0) for code in codes], sizes)
        texts = np.array(self.task.classes, object)[index]
        return labels.assign(**{self.task.name: np.where(known, texts, None)})

    def marginals(self, outputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Outputs of the joint task (N, classes) to outputs of each part, by name: log probabilities (N, its classes).

        A part's probability is the sum over the combinations that contain it; `Task.loss` and `Task.predict` of the
        part take these outputs as they take a head's.
        """
        table = outputs.float().log_softmax(1).unflatten(1, [len(part.classes) for part in self.parts])
        axes = range(1, len(self.parts) + 1)
        return {
            part.name: table.logsumexp([axis for axis in axes if axis != own])
            for own, part in zip(axes, self.parts, strict=True)
        }


AGE_BANDS = ("0-2", "3-9", "10-19", "20-29", "30-39", "40-49", "50-59", "60-69", "more than 70")
RACES = ("White", "Black", "Latino_Hispanic", "East Asian", "Southeast Asian", "Indian", "Middle Eastern")

# FairFace's columns (Kärkkäinen & Joo, WACV 2021): labels as annotators perceived them.
GENDER = Task("gender", "multiclass", ("Male", "Female"))
RACE = Task("race", "multiclass", RACES)
AGE_BAND = Task("age", "multiclass", AGE_BANDS, midpoints=(1, 6, 14.5, 24.5, 34.5, 44.5, 54.5, 64.5, 75))


def encode_all(tasks: Sequence[Task], labels: pd.DataFrame) -> dict[str, torch.Tensor]:
    """Targets of every task, by name; raises DataError if a label column is missing."""
    for task in tasks:
        for column in task.columns:
            if column not in labels:
                raise DataError(f"no label column {column!r}; the table has {', '.join(map(str, labels.columns))}.")
    return {task.name: task.encode(labels if task.kind == "box" else labels[task.name]) for task in tasks}


def age_band(years: pd.Series) -> pd.Series:
    """Ages in years to FairFace's nine bands (text); missing stays missing."""
    edges = [-np.inf, 3, 10, 20, 30, 40, 50, 60, 70, np.inf]
    return pd.cut(years, edges, right=False, labels=AGE_BANDS).astype(object)


# Rendered portraits have a skin tone (Monk scale, 10 steps), never a race; the error is counted in steps.
SKIN_TONE = Task("skin_tone", "multiclass", tuple(str(step) for step in range(1, 11)), midpoints=tuple(range(1, 11)))


def age_in_years(kind: Kind = "expectation", oldest: int = 100, name: str = "age_years") -> Task:
    """Age in years: a class for every year from 0 to `oldest` (older counts as `oldest`), or a regression in decades.

    As an expectation it is DEX with its 101 classes (Rothe et al. 2018).
    """
    years = range(oldest + 1)
    if kind == "regression":
        return Task(name, kind, scale=10.0)
    return Task(name, kind, tuple(map(str, years)), tuple(map(float, years)))
