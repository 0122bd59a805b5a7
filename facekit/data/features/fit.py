"""Fits the model of FaceNet's features to embeddings of real faces, so that no statistic rests on fewer than 20 faces.

A statistic is a number that goes into the model. The steps of `fit_features`, and how each holds the rule:

1. Faces without one of the three labels are left out, and so are the faces of a class that has too few.
2. Axes: the directions that hold 99.99 % of the squared length of all features.
3. Shares of the 126 cells (race, gender, age band): cells with too few faces are pooled, see `cell_shares`.
4. Means: what race, gender, age band and their pairs add to the overall mean, by ridge regression on all faces. A pair
   of classes with too few faces gets no term, and there is never a term for all three.
5. Scatter: the covariance of all faces around the means of step 4. In coordinates where it is I, the means differ in
   a few directions above all; what they add in others is chance, and is set to 0.
6. Scatter of the faces of each race and gender in those directions, drawn towards that of all; in the others all have
   the common one, and so has a race and gender with too few faces.
7. Looks: three constants, no statistics. `RACE_NOISE` of the faces look like a face of any race, `GENDER_NOISE` like
   one of the other gender, `AGE_NOISE` like the age band beside their own.

Without steps 6 and 7 classes are too easy to tell apart. A full covariance for each group, from a thousand faces,
differs from the next by chance alone in a thousand ways, which networks learn from drawn features and find in no real
face; and a Gaussian has no counterpart to the real faces that lie far from the centre of their label. RIDGE,
DIRECTIONS, PRIOR_FACES and the noises were chosen by three-fold cross-validation inside the training photos: a model of
two thirds of them should make linear and quadratic discriminants about as accurate, tested on drawn features and on
the last third, as real features do. Validation and test photos had no part in it.
"""

from __future__ import annotations

import math

import numpy as np

from facekit.data.features.model import COLUMNS, N_CELLS, SHAPE, TERMS, FeatureModel, tensor_shapes
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.tasks import MISSING, encode_all

MIN_FACES = 20
# Share of the squared length of all features that the axes hold.
KEPT = 0.9999
# Ridge penalties of main effects and of pairs, in faces: a term that rests on as many faces goes half of the way.
RIDGE = (1.0, 60.0)
# Directions in which the means of cells may differ.
DIRECTIONS = 24
# Faces' worth of the common covariance in the covariance of a race and gender.
PRIOR_FACES = 600.0
RACE_NOISE, GENDER_NOISE, AGE_NOISE = 0.06, 0.02, 0.09
# Columns of each term in the design.
SIZES = [math.prod(SHAPE[axis] for axis in axes) for axes in TERMS.values()]


def fit_features(
    features: FeatureSet, min_faces: int = MIN_FACES, kept: float = KEPT, directions: int = DIRECTIONS
) -> FeatureModel:
    """Fits a feature model to embeddings of length 1 with race, gender and age band.

    features: (N, D); rows with a missing label are left out, splits are ignored (pass the training split). min_faces:
    the fewest faces that a statistic may rest on. kept: share of the squared length that the axes hold. directions: in
    which the means of cells differ (all, where there are fewer axes). The same rows give the same model. Raises
    DataError for features that are not finite or not of length 1 and for too few faces, ConfigError for settings that
    it cannot use.
    """
    if min_faces < 2 or not 0 < kept < 1 or directions < 1:
        raise ConfigError(
            f"min_faces must be 2 or more, kept between 0 and 1, directions 1 or more; got {min_faces}, {kept}, "
            f"{directions}."
        )
    codes = np.stack([targets.numpy() for targets in encode_all(COLUMNS, features.labels).values()], axis=1)
    rows = _usable(codes, min_faces)
    codes = codes[rows]
    x = np.asarray(features.features[rows], np.float64)
    if not np.allclose(np.einsum("ij,ij->i", x, x), 1, atol=1e-3):
        raise DataError("features must be finite and of length 1; pass what `embed` gives.")
    axes = _axes(x, kept)
    if len(x) < max(min_faces, 3 * len(axes)):
        raise DataError(f"{len(x)} faces with all three labels are too few for features with {len(axes)} axes.")
    counts = np.bincount(np.ravel_multi_index(codes.T, SHAPE), minlength=N_CELLS).reshape(SHAPE)
    shares, _ = cell_shares(counts, min_faces)
    places = x @ axes.T
    mean = places.mean(axis=0)
    design = _columns(codes)
    design *= design.sum(axis=0) >= min_faces
    effects = _ridge(places - mean, design)
    root, effects, factors = _scatter(places - mean, design, effects, codes, directions, min_faces)
    parts = zip(TERMS, np.split(effects @ root.T, np.cumsum(SIZES)[:-1]), strict=True)
    shapes = tensor_shapes(*axes.shape)
    tensors = {
        "axes": axes,
        "mean": mean,
        **{name: part.reshape(shapes[name]) for name, part in parts},
        "looks_race": (1 - RACE_NOISE) * np.eye(SHAPE[0]) + RACE_NOISE * shares.sum(axis=(1, 2)),
        "looks_gender": _others(shares.sum(axis=(0, 2)) > 0),
        "looks_age": _neighbours(shares.sum(axis=(0, 1)) > 0),
        "factor": root @ factors,
    }
    about = {key: features.manifest[key] for key in ("source", "licence", "backbone") if key in features.manifest}
    about |= {"faces": len(x), "min_faces": min_faces}
    arrays = {name: np.ascontiguousarray(array, np.float32) for name, array in tensors.items()}
    return FeatureModel(shares.astype(np.float32), arrays, about)


def _others(occurs: np.ndarray) -> np.ndarray:
    """Looks of genders: `GENDER_NOISE` of a gender's faces look like the other one, if both occur, (2, 2)."""
    noise = GENDER_NOISE * occurs.all()
    return np.array([[1 - noise, noise], [noise, 1 - noise]])


def _neighbours(occurs: np.ndarray) -> np.ndarray:
    """Looks of age bands: `AGE_NOISE` of a band's faces look like one of the bands beside it that occur, (9, 9)."""
    looks = (1 - AGE_NOISE) * np.eye(len(occurs))
    for band in range(len(occurs)):
        for beside in (band - 1, band + 1):
            there = 0 <= beside < len(occurs) and occurs[beside]
            looks[band, beside if there else band] += AGE_NOISE / 2
    return looks


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


def _columns(codes: np.ndarray) -> np.ndarray:
    """One-hot columns of all classes and pairs of classes, in the order of TERMS; codes (N, 3) to float64 (N, 113)."""
    return np.hstack(
        [
            np.eye(size)[np.ravel_multi_index(codes[:, axes].T, [SHAPE[axis] for axis in axes])]
            for axes, size in zip(TERMS.values(), SIZES, strict=True)
        ]
    )


def _ridge(places: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Effects (113, K) by ridge regression; 0 where the design's column is."""
    penalties = np.repeat([RIDGE[len(axes) - 1] for axes in TERMS.values()], SIZES)
    return np.linalg.solve(design.T @ design + np.diag(penalties), design.T @ places)


def _scatter(
    places: np.ndarray, design: np.ndarray, effects: np.ndarray, codes: np.ndarray, directions: int, min_faces: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps 5 and 6: root (K, K), effects (113, K), factors (7, 2, K, K); a place is root @ (effects + factor @ ε).

    places: (N, K), the overall mean taken off.
    """
    rest = places - design @ effects
    n_axes = places.shape[1]
    root = np.linalg.cholesky(rest.T @ rest / len(rest) + 1e-12 * np.eye(n_axes))
    inverse = np.linalg.inv(root)
    rest, effects = rest @ inverse.T, effects @ inverse.T
    means = design @ effects
    _, vectors = np.linalg.eigh(means.T @ means)
    turn, q = vectors[:, ::-1], min(directions, n_axes)
    root, effects, rest = root @ turn, effects @ turn, (rest @ turn)[:, :q]
    effects[:, q:] = 0
    common = rest.T @ rest / len(rest)
    factors = np.tile(np.eye(n_axes), (*SHAPE[:2], 1, 1))
    for group in np.ndindex(SHAPE[:2]):
        part = rest[(codes[:, :2] == group).all(axis=1)]
        part = part[: len(part) if len(part) >= min_faces else 0]
        covariance = (part.T @ part + PRIOR_FACES * common) / (len(part) + PRIOR_FACES)
        factors[*group, :q, :q] = np.linalg.cholesky(covariance)
    return root, effects, factors


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
