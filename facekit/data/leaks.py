"""How a score rises without a better model: noise that tells the class, copies on both sides, a test that was altered.

Everything here does on purpose what happens by accident between a set of photos and a score, so that its effect can be
measured: what is learnt from and what is scored are made from the same rows, by one `Protocol` or another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar, get_args

import numpy as np

from facekit.data.sets import FaceSet, LabelledSet
from facekit.data.splits import split_by_content
from facekit.errors import ConfigError, DataError

Data = TypeVar("Data", bound=LabelledSet)
Sides = Literal["nothing", "training", "both sides", "before the split"]


def with_noise(faces: FaceSet, mask: np.ndarray | Sequence[bool], amount: float, seed: int) -> FaceSet:
    """The same photos, with Gaussian noise on every colour value of the rows in `mask` (N,), and of no other row.

    This is what augmenting only some classes does to them. amount: standard deviation as a fraction of 255, 0 to 1;
    values are rounded and clipped to 0 … 255. A row's noise depends on the seed and the row alone, not on which others
    get some. Raises ConfigError for another amount, DataError for a mask that does not say of each row yes or no.
    """
    mask = _mask(mask, len(faces))
    if not 0 <= amount <= 1:
        raise ConfigError(f"the amount of noise is a fraction of 255, from 0 to 1; got {amount}.")
    images = np.array(faces.images)
    for row in np.flatnonzero(mask).tolist() if amount else []:
        noise = np.random.default_rng([seed, row]).standard_normal(images.shape[1:], np.float32)
        images[row] = np.clip(np.rint(images[row] + 255 * amount * noise), 0, 255)
    return replace(faces, inputs=images)


def oversampled(data: Data, column: str, seed: int) -> tuple[Data, np.ndarray]:
    """Rows of rare classes repeated until every class of `column` is as frequent as the most frequent one.

    Returns the larger set, which begins with all rows of `data` in their order, and for each of its rows the row of
    `data` that it is a copy of, int64. No row of a class has more than one copy more than another; which those are is
    drawn with `seed`. Rows without a label are kept and not repeated. Raises DataError for an unknown column or one
    without any label.
    """
    if column not in data.labels or data.labels[column].isna().all():
        raise DataError(f"no label column {column!r}; the table has {', '.join(map(str, data.labels.columns))}.")
    labels = data.labels[column]
    counts = labels.value_counts()
    rng = np.random.default_rng(seed)
    rows = [np.arange(len(data))]
    for label in sorted(counts.index, key=str):
        own = np.flatnonzero(labels == label)
        whole, rest = divmod(int(counts.max()), len(own))
        rows += [np.tile(own, whole - 1), rng.permutation(own)[:rest]]
    found = np.concatenate(rows)
    return data.select(found), found


@dataclass(frozen=True)
class Protocol:
    """What is done to a set before a model learns from one side of it and is scored on the other.

    oversample: where rows of rare classes are repeated. "before the split" puts copies of a photo on both sides.
    change: where some rows are replaced by changed photos (noisy, say); not "before the split", which is the same as
    "both sides". By itself a protocol does neither and splits by content: a photo and its copies are on one side.
    """

    name: str
    oversample: Sides = "nothing"
    change: Literal["nothing", "training", "both sides"] = "nothing"

    def __post_init__(self) -> None:
        for what, known in {"oversample": get_args(Sides), "change": get_args(Sides)[:3]}.items():
            if (value := getattr(self, what)) not in known:
                raise ConfigError(f"protocol {self.name!r}: {what} is {value!r}; use one of {', '.join(known)}.")


HONEST = Protocol("honest")


@dataclass(frozen=True, eq=False)
class Sided(Generic[Data]):
    """A set divided by a protocol: `train` and `scored`, and for each of their rows the row it was made from, (n,)."""

    train: Data
    scored: Data
    train_rows: np.ndarray
    scored_rows: np.ndarray

    @property
    def leaked(self) -> float:
        """Share of the scored rows of which a copy was learnt from."""
        return float(np.isin(self.scored_rows, self.train_rows).mean())


def divide(
    data: Data,
    protocol: Protocol,
    column: str,
    seed: int,
    held_out: float = 0.1,
    mask: np.ndarray | Sequence[bool] | None = None,
    changed: Sequence[Data] = (),
) -> Sided[Data]:
    """Divides all rows of `data`, whatever their `split`, as the protocol says.

    column: whose classes are made equally frequent. held_out: share of the rows that is scored, about. seed: of the
    split, so that protocols that do not oversample before it divide the rows in the same way. mask: rows that may be
    changed, (N,), and changed: one or more sets of the same N photos after a change; each copy of such a row comes from
    one of them, drawn anew. Works on photos and on features. Raises ConfigError where a protocol needs changed photos
    and there are none, or where a side is empty; DataError where rows do not match.
    """
    if not 0 < held_out < 1:
        raise ConfigError(f"held_out must be between 0 and 1, got {held_out}.")
    if protocol.change != "nothing" and not changed:
        raise ConfigError(f"protocol {protocol.name!r} changes rows; pass the changed photos.")
    if odd := [len(other) for other in changed if len(other) != len(data)]:
        raise DataError(f"changed photos must be the same {len(data)} rows, got {odd[0]}.")
    may_change = _mask(np.zeros(len(data), bool) if mask is None else mask, len(data))
    rng = np.random.default_rng(seed)
    if protocol.oversample == "before the split":
        rows = rng.permutation(oversampled(data, column, seed)[1])
        cut = round(len(rows) * held_out)
        sides = {"training": rows[cut:], "both sides": rows[:cut]}
    else:
        keys = (hashlib.sha256(np.ascontiguousarray(row).data).hexdigest() for row in data.inputs)
        scored = split_by_content(keys, (1 - held_out, 0.0, held_out), salt=f"protocol {seed}") == "test"
        sides = {"training": np.flatnonzero(~scored), "both sides": np.flatnonzero(scored)}
    if not all(map(len, sides.values())):
        raise ConfigError(f"{len(data)} rows are too few to hold out {held_out:g} of them.")
    made = []
    for where, rows in sides.items():
        if protocol.oversample in ("both sides", where):
            rows = rows[oversampled(data.select(rows), column, seed)[1]]
        side = data.select(rows)
        if protocol.change in ("both sides", where):
            side = _changed(side, rows, may_change[rows], changed, rng)
        made.append((side, rows))
    (train, train_rows), (scored_set, scored_rows) = made
    return Sided(train, scored_set, train_rows, scored_rows)


def _changed(side: Data, rows: np.ndarray, mask: np.ndarray, changed: Sequence[Data], rng: np.random.Generator) -> Data:
    """`side`, made of these rows, with those in `mask` taken from one of the changed sets each."""
    inputs = np.array(side.inputs)
    which = rng.integers(0, len(changed), len(rows))
    for k, other in enumerate(changed):
        chosen = np.flatnonzero(mask & (which == k))
        inputs[chosen] = other.inputs[rows[chosen]]
    return replace(side, inputs=inputs)


def _mask(mask: np.ndarray | Sequence[bool], n: int) -> np.ndarray:
    """A mask as an array; raises DataError unless it is boolean (n,)."""
    mask = np.asarray(mask)
    if mask.shape != (n,) or mask.dtype != bool:
        raise DataError(f"a mask says true or false of each of the {n} rows; got {mask.dtype} {mask.shape}.")
    return mask
