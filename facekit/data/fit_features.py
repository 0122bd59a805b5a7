"""Fits the model of FaceNet's features to embeddings of real faces, so that no statistic rests on fewer than 20 faces.

The steps of `fit_features`, and how each holds the rule (a statistic is a number that goes into the model):

1. Faces without one of the three labels are left out, and so are the faces of a class that has too few.
2. Axes: the directions that hold 99.99 % of the squared length of all features.
3. Shares of the 126 cells (race, gender, age band): cells with too few faces are pooled, see `cell_shares`.
4. Means: what race, gender, age band and their pairs add to the overall mean, by ridge regression on all faces. A pair
   of classes with too few faces adds nothing, there is never a term for all three, and the ridge draws small groups
   towards what the coarser terms say.
5. Scatter: the covariance of each race's faces around the means of their cells, drawn towards that of all races.
"""

from __future__ import annotations

import numpy as np

from facekit.data.sets import FeatureSet
from facekit.data.simulated import COLUMNS, N_CELLS, SHAPE, FeatureModel
from facekit.errors import ConfigError, DataError
from facekit.tasks import MISSING, encode_all

MIN_FACES = 20
# Share of the squared length of all features that the axes hold.
KEPT = 0.9999
# Ridge penalties of main effects and of pairs, in faces: a class with as many faces goes half of the way.
RIDGE = (1.0, 5.0)
# Faces' worth of the common covariance in the covariance of a race.
PRIOR_FACES = 20.0


def fit_features(features: FeatureSet, min_faces: int = MIN_FACES, kept: float = KEPT) -> FeatureModel:
    """Fits a feature model to embeddings of length 1 with race, gender and age band.

    features: (N, D); rows with a missing label are left out, splits are ignored (pass the training split). min_faces:
    the fewest faces that a statistic may rest on. kept: share of the squared length that the axes hold. Pure: the same
    rows give the same model. Raises DataError for features that are not finite or not of length 1 and for too few
    faces, ConfigError for settings that it cannot use.
    """
    if min_faces < 2 or not 0 < kept < 1:
        raise ConfigError(f"min_faces must be 2 or more and kept between 0 and 1, got {min_faces} and {kept}.")
    codes = np.stack([targets.numpy() for targets in encode_all(COLUMNS, features.labels).values()], axis=1)
    rows = _usable(codes, min_faces)
    codes = codes[rows]
    x = np.asarray(features.features[rows], np.float64)
    if not np.allclose(np.einsum("ij,ij->i", x, x), 1, atol=1e-3):
        raise DataError("features must be finite and of length 1; pass what `embed` gives.")
    axes = _axes(x, kept)
    if len(x) < max(min_faces, 3 * len(axes)):
        raise DataError(f"{len(x)} faces with all three labels are too few for features with {len(axes)} axes.")
    cells = np.ravel_multi_index(codes.T, SHAPE)
    counts = np.bincount(cells, minlength=N_CELLS).reshape(SHAPE)
    shares, _ = cell_shares(counts, min_faces)
    places = x @ axes.T
    mean, effects = _effects(places, codes, min_faces)
    model = {"axes": axes, "mean": mean, **effects}
    race, gender, age = codes.T
    rest = places - mean - effects["race"][race] - effects["gender"][gender] - effects["age"][age]
    rest -= effects["race_gender"][race, gender] + effects["gender_age"][gender, age] + effects["race_age"][race, age]
    common = rest.T @ rest / len(rest)
    factors = np.empty((SHAPE[0], 1, len(axes), len(axes)))
    for group in range(SHAPE[0]):
        part = rest[race == group]
        scatter = part.T @ part + PRIOR_FACES * common
        factors[group, 0] = np.linalg.cholesky(scatter / (len(part) + PRIOR_FACES) + 1e-9 * np.eye(len(axes)))
    model |= {"weights": np.ones((SHAPE[0], 1)), "shift": np.zeros((SHAPE[0], 1, len(axes))), "factor": factors}
    about = {key: features.manifest[key] for key in ("source", "licence", "backbone") if key in features.manifest}
    about |= {"faces": len(x), "min_faces": min_faces}
    tensors = {name: values.astype(np.float32) for name, values in model.items()}
    return FeatureModel(shares.astype(np.float32), tensors, about)


def _usable(codes: np.ndarray, min_faces: int) -> np.ndarray:
    """Indices of the rows that have all three labels, each of a class with at least `min_faces` such rows."""
    rows = np.flatnonzero((codes != MISSING).all(axis=1))
    while True:
        common = [np.bincount(codes[rows, axis], minlength=size) >= min_faces for axis, size in enumerate(SHAPE)]
        enough = np.logical_and.reduce([common[axis][codes[rows, axis]] for axis in range(len(SHAPE))])
        if enough.all():
            return rows
        rows = rows[enough]


def _axes(x: np.ndarray, kept: float) -> np.ndarray:
    """Orthonormal rows (K, D) that hold at least `kept` of the squared length of x (N, D), widest first."""
    if not len(x):
        raise DataError("no face has all three labels (race, gender, age) in a class with enough faces.")
    values, vectors = np.linalg.eigh(x.T @ x)
    values, vectors = values[::-1], vectors[:, ::-1]
    n_axes = int(np.searchsorted(np.cumsum(values), kept * values.sum())) + 1
    axes = vectors[:, :n_axes].T
    # The sign of an eigenvector is an accident of the library; this fixes it.
    return axes * np.sign(axes[np.arange(n_axes), np.abs(axes).argmax(axis=1)])[:, None]


def _effects(places: np.ndarray, codes: np.ndarray, min_faces: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The overall mean (K,) and the effects of classes and of pairs of classes, each (classes …, K)."""
    terms = {"race": (0,), "gender": (1,), "age": (2,), "race_gender": (0, 1), "gender_age": (1, 2), "race_age": (0, 2)}
    mean = places.mean(axis=0)
    columns, penalties = [], []
    for axes in terms.values():
        sizes = [SHAPE[axis] for axis in axes]
        code = np.ravel_multi_index(codes[:, axes].T, sizes)
        one_hot = np.eye(np.prod(sizes))[code]
        columns.append(one_hot * (one_hot.sum(axis=0) >= min_faces))
        penalties += [RIDGE[len(axes) - 1]] * one_hot.shape[1]
    design = np.hstack(columns)
    solved = np.linalg.solve(design.T @ design + np.diag(penalties), design.T @ (places - mean))
    effects, start = {}, 0
    for name, axes in terms.items():
        sizes = [SHAPE[axis] for axis in axes]
        effects[name] = solved[start : start + np.prod(sizes)].reshape(*sizes, -1)
        start += np.prod(sizes)
    return mean, effects


def cell_shares(counts: np.ndarray, min_faces: int = MIN_FACES) -> tuple[np.ndarray, np.ndarray]:
    """Shares of the cells, float64 (7, 2, 9) with sum 1, and the number of faces behind each share, int64 (7, 2, 9).

    counts: faces in each cell, every class with at least `min_faces` or none. A cell with at least `min_faces` faces
    has its own share. All others form one pool (the smallest of the former join it while it has fewer than
    `min_faces` itself), divided among its cells in proportion to the product of the classes' shares.
    """
    pooled = counts < min_faces
    while pooled.any() and counts[pooled].sum() < min_faces:
        pooled |= counts == counts[~pooled].min()
    margins = [counts.sum(axis=other, keepdims=True) for other in ((1, 2), (0, 2), (0, 1))]
    expected = np.prod(np.broadcast_arrays(*margins), axis=0, dtype=np.float64)
    shares = counts / counts.sum()
    if expected[pooled].any():
        shares[pooled] = counts[pooled].sum() / counts.sum() * expected[pooled] / expected[pooled].sum()
    return shares, np.where(pooled, counts[pooled].sum(), counts)
