"""Simulated FaceNet features: a statistical model of embeddings of real faces, from which labelled features are drawn.

A face embedding is biometric data of a person, so facekit ships none. It ships statistics over many faces, each
resting on at least `min_faces` of them (20): how often a cell (race, gender, age band) occurs, where the features
of a cell lie on average, how they scatter around it, how often a face looks like another class than the one it was
given. `facekit.data.features.fit` computes them; `FeatureModel.draw` returns new feature vectors that belong to nobody.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import numpy as safetensors
from threadpoolctl import ThreadpoolController

from facekit.data.sets import SPLITS, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.files import atomic_path, seal, unseal
from facekit.tasks import AGE_BAND, GENDER, MISSING, RACE, Task, encode_all

# The columns whose combinations are the model's cells, in the order of the axes of the cell table.
COLUMNS: tuple[Task, ...] = (RACE, GENDER, AGE_BAND)
SHAPE: tuple[int, ...] = tuple(len(task.classes) for task in COLUMNS)
N_CELLS = int(np.prod(SHAPE))
LOOKS: tuple[str, ...] = tuple(f"looks_{task.name}" for task in COLUMNS)
# The axes of the cell table on which each part of a cell's mean depends.
TERMS = {"race": (0,), "gender": (1,), "age": (2,), "race_gender": (0, 1), "gender_age": (1, 2), "race_age": (0, 2)}
PACKAGED_MODEL = Path(__file__).with_name("fairface_features.safetensors")
FORMAT = 3
# Rows that one random stream fills; part of the meaning of a seed, so never change it.
CHUNK = 4096

# Equal intervals of [0, 1) for which `_Choice` looks up the class, and its mark for those that several classes share.
PIECES, SEVERAL = 4096, 255

_BLAS_LOCK = threading.Lock()

IMPOSSIBLE = (
    "mix: no population has these shares; entries contradict one another, or ask for faces that the model has none of."
)

# A wish for how often labels occur: a column, or several columns, with the share of each class (or combination).
Mix = Mapping[str | tuple[str, ...], Mapping]


def shares_for(base: np.ndarray, mix: Mix | None) -> np.ndarray:
    """Shares of the cells, float64 (7, 2, 9), that follow `mix` and otherwise stay as close to `base` as they can.

    Every entry of the mix names a column (or a tuple of columns) and the shares of its classes (or combinations, as
    tuples in the same order); shares need not sum to 1, classes that are not named get none. Several entries are
    reconciled by iterative proportional fitting (Deming & Stephan 1940): the result meets all of them and keeps the
    associations of `base`. Raises ConfigError for unknown columns or classes, negative shares, and entries that
    contradict one another.
    """
    shares = np.asarray(base, np.float64) / np.sum(base, dtype=np.float64)
    if not mix:
        return shares
    wishes = [_wish(columns, wanted) for columns, wanted in mix.items()]
    for _ in range(1000):
        for axes, target in wishes:
            present = shares.sum(axis=axes, keepdims=True)
            if (target[present == 0] > 0).any():
                raise ConfigError(IMPOSSIBLE)
            shares = shares * np.divide(target, present, out=np.zeros_like(present), where=present > 0)
        if all(np.abs(shares.sum(axis=axes, keepdims=True) - target).max() < 1e-6 for axes, target in wishes):
            return shares / shares.sum()
    raise ConfigError(IMPOSSIBLE)


def _wish(columns: str | tuple[str, ...], wanted: Mapping) -> tuple[tuple[int, ...], np.ndarray]:
    """An entry of a mix: the axes that it does not speak of, and its shares with those axes kept as length 1."""
    names = (columns,) if isinstance(columns, str) else tuple(columns)
    known = [task.name for task in COLUMNS]
    if not names or len(set(names)) != len(names) or not set(names) <= set(known):
        raise ConfigError(f"mix: {columns!r} is no column or tuple of columns; they are {', '.join(known)}.")
    if not isinstance(wanted, Mapping):
        raise ConfigError(f"mix: {columns!r} needs a share for each class, such as {{'Female': 0.8, 'Male': 0.2}}.")
    axes = [known.index(name) for name in names]
    target = np.zeros([size if axis in axes else 1 for axis, size in enumerate(SHAPE)])
    for key, share in wanted.items():
        classes = key if isinstance(key, tuple) else (key,)
        if len(classes) != len(axes):
            raise ConfigError(f"mix: {key!r} does not name one class for each of {', '.join(names)}.")
        place = [0] * len(SHAPE)
        for axis, name in zip(axes, classes, strict=True):
            if name not in COLUMNS[axis].classes:
                raise ConfigError(
                    f"mix: unknown {known[axis]} {name!r}; expected one of {', '.join(COLUMNS[axis].classes)}."
                )
            place[axis] = COLUMNS[axis].classes.index(name)
        try:
            share = float(share)
        except (TypeError, ValueError):
            share = float("nan")
        if not 0 <= share < float("inf"):
            raise ConfigError(f"mix: the share of {key!r} must be a number of 0 or more, got {wanted[key]!r}.")
        target[tuple(place)] = share
    if not target.sum() > 0:
        raise ConfigError(f"mix: the shares of {columns!r} sum to 0; at least one class needs some.")
    target /= target.sum()
    target[target < 1e-12] = 0  # no draw is so long that it would show, and smaller numbers vanish in products
    return tuple(axis for axis in range(len(SHAPE)) if axis not in axes), target


@dataclass(frozen=True, eq=False)
class FeatureModel:
    """How FaceNet's features of faces lie, by race, gender and age band as annotators perceived them.

    FaceNet's 512 numbers have only 49 degrees of freedom: the features of all faces lie, to 1 part in 10,000, in the
    subspace of the `axes`. A face is drawn in three steps:

    1. its labels (a cell: race, gender, age band), by the `shares`;
    2. which race, gender and age band it looks like: mostly those of its labels, sometimes others (`looks_race`,
       `looks_gender`, `looks_age`), for labels are what annotators perceived, and some faces' features tell otherwise;
    3. the unit vector along  mean + effects of the cell that it looks like + factor of that cell's race and gender @ ε,
       ε ~ N(0, I).

    shares: float32 (7, 2, 9), how often each cell occurs, sum 1. tensors: the statistics by name, float32, see
    `tensor_shapes`. about: where they come from. `facekit.data.features.fit` makes a model, `FeatureModel.load` reads
    one. Raises DataError when the arrays do not fit together.
    """

    shares: np.ndarray
    tensors: Mapping[str, np.ndarray]
    about: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        tensors = {"shares": self.shares, **self.tensors}
        shapes = {name: np.shape(array) for name, array in tensors.items()}
        axes = shapes.get("axes", ())
        if len(axes) != 2:
            raise DataError("no feature model: it has no axes (K, D).")
        for name, shape in tensor_shapes(*axes).items():
            if shapes.get(name) != shape:
                raise DataError(f"no feature model: {name} is {shapes.get(name, ())}, it must be {shape}.")
            if not np.isfinite(tensors[name]).all():
                raise DataError(f"no feature model: {name} has values that are not finite.")
        for name in ("shares", *LOOKS):
            sums = tensors[name].sum(axis=-1 if name.startswith("looks") else None)
            if tensors[name].min() < 0 or np.abs(sums - 1).max() > 1e-3:
                raise DataError(f"no feature model: {name} must be shares of 0 or more that sum to 1.")

    @property
    def dim(self) -> int:
        """D, the length of a feature vector."""
        return self.tensors["axes"].shape[1]

    @cached_property
    def cell_means(self) -> np.ndarray:
        """Mean on the axes of faces that look like each cell, float32 (126, K)."""
        race, gender, age = np.indices(SHAPE).reshape(3, -1)
        parts = self.tensors
        means = parts["mean"] + parts["race"][race] + parts["gender"][gender] + parts["age"][age]
        means += parts["race_gender"][race, gender] + parts["gender_age"][gender, age] + parts["race_age"][race, age]
        return means

    @cached_property
    def _looks(self) -> list[_Choice]:
        """For race, gender and age band: what the faces of each label look like."""
        return [_Choice(self.tensors[name]) for name in LOOKS]

    def draw(self, n: int, seed: int = 0, mix: Mix | None = None) -> FeatureSet:
        """Draws n labelled feature vectors, float32 (n, D) of length 1, with race, gender, age and split `train`.

        seed: the same seed gives the same rows whatever the number of threads, and the first rows of a longer draw
        are those of a shorter one. mix: how often labels shall occur (default: as among the photos that the model
        was fitted to), for instance {"gender": {"Female": 0.9, "Male": 0.1}} or
        {("race", "gender"): {("Black", "Female"): 1, ("White", "Male"): 3}}; see `shares_for`. Raises ConfigError for
        an n below 1, a negative seed, and a mix that cannot be met.
        """
        if n < 1 or seed < 0:
            raise ConfigError(f"n must be 1 or more and the seed 0 or more, got {n} and {seed}.")
        choice = _Choice(shares_for(self.shares, mix).reshape(1, -1))
        chunks = -(-n // CHUNK)
        # The last chunk, too, is drawn as a whole, so that no row depends on how many follow it.
        features = np.empty((chunks * CHUNK, self.dim), np.float32)
        cells = np.empty(chunks * CHUNK, np.uint8)
        workers = min(os.cpu_count() or 1, chunks)
        left = iter(range(chunks))

        def work(_: int) -> None:
            # The system must clear memory before its first use, so a worker uses its own again and again.
            scratch = np.empty((3, CHUNK, len(self.tensors["mean"])), np.float32)
            for chunk in left:
                rows = slice(chunk * CHUNK, (chunk + 1) * CHUNK)
                place, cells[rows] = self._chunk(np.random.SeedSequence(seed, spawn_key=(chunk,)), choice, scratch)
                np.matmul(place, self.tensors["axes"], out=features[rows])

        # BLAS would divide every small product among threads of its own, which wait for one another longer than they
        # count where several workers ask at once. The setting is the process's, hence the lock: the last one out must
        # not take another's 1 for what it found.
        with _BLAS_LOCK, _blas().limit(limits=1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
        kept = {key: self.about[key] for key in ("source", "licence", "backbone") if key in self.about}
        labels = _labels_of_cells().take(cells[:n]).reset_index(drop=True)
        return FeatureSet(features[:n], labels, {**kept, "drawn_with_seed": seed})

    def _chunk(
        self, seed: np.random.SeedSequence, choice: _Choice, scratch: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places on the axes, of length 1 (CHUNK, K), and cells (CHUNK,) of a whole chunk.

        choice: of a cell. scratch: float32 (3, CHUNK, K) to write to; the places are in it.
        """
        noise, sorted_rows, moved = scratch
        rng = np.random.Generator(np.random.SFC64(seed))
        cells = choice(np.zeros(CHUNK, np.intp), rng.random(CHUNK))
        labels = np.unravel_index(cells, SHAPE)
        looks = [look(label, rng.random(CHUNK)) for look, label in zip(self._looks, labels, strict=True)]
        # Rows of one factor are computed side by side and then brought to their places; their noise needs no moving.
        group = looks[0] * np.uint8(SHAPE[1]) + looks[1]
        order = np.argsort(group, kind="stable")
        rng.standard_normal(dtype=np.float32, out=noise)
        np.take(self.cell_means, np.ravel_multi_index(looks, SHAPE)[order], axis=0, out=sorted_rows, mode="clip")
        factors = self.tensors["factor"].reshape(-1, *self.tensors["factor"].shape[2:])
        ends = np.cumsum(np.bincount(group, minlength=len(factors)))
        for factor, start, stop in zip(factors, [0, *ends[:-1]], ends, strict=True):
            sorted_rows[start:stop] += np.matmul(noise[start:stop], factor.T, out=moved[start:stop])
        sorted_rows /= np.sqrt(np.einsum("ij,ij->i", sorted_rows, sorted_rows))[:, None]
        moved[order] = sorted_rows
        return moved, cells

    def log_density(self, features: FeatureSet) -> np.ndarray:
        """How likely the model finds each face given its labels: log density on the axes, float64 (N,).

        It is the density of step 3 before the length is set to 1. Raises DataError for features of another length and
        for rows without all three labels.
        """
        codes = np.stack([targets.numpy() for targets in encode_all(COLUMNS, features.labels).values()])
        if features.features.shape[1] != self.dim or (codes == MISSING).any():
            raise DataError(f"a density needs features of {self.dim} numbers with race, gender and age band.")
        parts = {name: values.astype(np.float64) for name, values in self.tensors.items()}
        place = np.asarray(features.features, np.float64) @ parts["axes"].T
        density = np.empty((len(place), *SHAPE))
        for group in np.ndindex(SHAPE[:2]):
            inverse = np.linalg.inv(parts["factor"][group])
            x, centres = place @ inverse.T, self.cell_means.reshape(*SHAPE, -1)[group] @ inverse.T
            square = (x**2).sum(1)[:, None] - 2 * x @ centres.T + (centres**2).sum(1)
            density[:, *group] = np.linalg.slogdet(inverse)[1] - square / 2
        with np.errstate(divide="ignore"):
            race, gender, age = (np.log(parts[name][code]) for name, code in zip(LOOKS, codes, strict=True))
        density += race[:, :, None, None] + gender[:, None, :, None] + age[:, None, None, :]
        constant = len(parts["mean"]) / 2 * np.log(2 * np.pi)
        return np.logaddexp.reduce(density.reshape(len(place), -1), axis=1) - constant

    def save(self, path: Path | str) -> Path:
        """Writes the model to a safetensors file, whole or not at all, and returns its path."""
        path = Path(path)
        about = {"about": json.dumps({**self.about, "format": FORMAT}, ensure_ascii=False)}
        # safetensors writes an array's memory as it lies, whatever its order.
        arrays = {name: np.ascontiguousarray(array) for name, array in {"shares": self.shares, **self.tensors}.items()}
        with atomic_path(path) as temporary:
            temporary.write_bytes(seal(safetensors.save(arrays, metadata=about)))
        return path

    @classmethod
    def load(cls, path: Path | str | None = None) -> FeatureModel:
        """Reads a model; without a path the one that comes with facekit, fitted to FaceNet's features of FairFace.

        Raises DataError when the file is missing, damaged, changed since it was saved, or no feature model of this
        format.
        """
        path = Path(path) if path is not None else PACKAGED_MODEL
        if not path.is_file():
            raise DataError(f"{path} does not exist; name a file that `python -m facekit features fit` has written.")
        try:
            content = path.read_bytes()
            about = json.loads(unseal(content).get("about", "{}"))
            tensors = safetensors.load(content)
        # Bytes of any origin: the reader raises several kinds of errors on damaged files, none of them a bug of ours.
        except Exception as error:
            raise DataError(
                f"{path} cannot be read ({error}): it is damaged, or no safetensors file. Restore it with git, or make "
                "it again with `python -m facekit features fit`."
            ) from None
        found = about.get("format") if isinstance(about, dict) else None
        if found != FORMAT or "shares" not in tensors:
            raise DataError(f"{path} has format {found!r}, this facekit reads {FORMAT}; fit it again.")
        return cls(tensors.pop("shares"), tensors, about)


def tensor_shapes(n_axes: int, dim: int) -> dict[str, tuple[int, ...]]:
    """The arrays of a feature model and their shapes.

    axes: orthonormal rows. mean, race … race_age: the overall mean on the axes and what classes and pairs of classes
    add. looks_race, looks_gender, looks_age: share of the faces of a label (row) that look like each class (column).
    factor: square roots of the covariances, by race and gender.
    """
    terms = {name: (*(SHAPE[axis] for axis in axes), n_axes) for name, axes in TERMS.items()}
    looks = {name: (size, size) for name, size in zip(LOOKS, SHAPE, strict=True)}
    factor = (*SHAPE[:2], n_axes, n_axes)
    return {"shares": SHAPE, "axes": (n_axes, dim), "mean": (n_axes,), **terms, **looks, "factor": factor}


@cache
def _labels_of_cells() -> pd.DataFrame:
    """The labels of rows of each cell, 126 rows."""
    codes = np.indices(SHAPE).reshape(len(SHAPE), -1)
    labels = {task.name: np.array(task.classes, object)[code] for task, code in zip(COLUMNS, codes, strict=True)}
    return pd.DataFrame({**labels, "split": SPLITS[0]})


@cache
def _blas() -> ThreadpoolController:
    """The BLAS libraries of this process (looking for them takes tens of milliseconds)."""
    return ThreadpoolController()


class _Choice:
    """A choice among classes by a number in [0, 1): each class has an interval as long as its share.

    shares: (rows, classes), each row with sum 1, at most 255 classes. Which class a number chooses is looked up for
    `PIECES` intervals of equal length; only numbers from one that several classes share are compared with the borders.
    """

    def __init__(self, shares: np.ndarray) -> None:
        self.borders = np.cumsum(shares, axis=1)
        # Rounding may leave a sliver above the last class that has a share.
        self.last = (self.borders < self.borders[:, -1:]).sum(axis=1)
        edges = np.arange(PIECES + 1) / PIECES
        low = np.stack([np.searchsorted(row, edges[:-1], side="right") for row in self.borders])
        high = np.stack([np.searchsorted(row, edges[1:], side="left") for row in self.borders])
        self.table = np.where(low == high, np.minimum(low, self.last[:, None]), SEVERAL).astype(np.uint8).ravel()

    def __call__(self, row: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Classes, uint8 (N,), that the numbers, float64 (N,), choose by the shares of a row each, intp (N,)."""
        chosen = self.table[row * PIECES + (number * PIECES).astype(np.intp)]
        near = np.flatnonzero(chosen == SEVERAL)
        beyond = (number[near, None] >= self.borders[row[near]]).sum(axis=1)
        chosen[near] = np.minimum(beyond, self.last[row[near]])
        return chosen
