"""Domain adaptation by moments: features of source and target that a linear look cannot tell apart.

The source has labels, the target only inputs, and the inputs differ: another camera, another light. CORAL moves the
source's features to where the target's lie, and a classifier is then trained there.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from facekit.data.leaks import with_noise
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.training.loop import predict
from facekit.transfer.selection import DOMAIN, domain_probe, two_sets
from facekit.transfer.table import Parameter

# Sun et al. add the identity to both covariances of features whose numbers are about 1 in size.
RIDGE = 1.0


def coral(source: FeatureSet, target: FeatureSet, ridge: float = RIDGE) -> Callable[[FeatureSet], FeatureSet]:
    """Correlation alignment (Sun, Feng & Saenko, AAAI 2016): whiten with the source, colour with the target.

    Returns the affine map x ↦ (x − mean of the source) @ matrix + mean of the target: of a set to the same rows with
    moved features, float32 (N, D), which need not have length 1 any more.

    matrix = (C_s + r I)^(−1/2) (C_t + r I)^(1/2), with C the covariances of the features times √D, r = `ridge`, and
    the means moved, too (the paper standardises both domains first). With r = 0 and enough rows the moved source has
    exactly the target's mean and covariance; with a large r only the means move. Looks at no label. Raises DataError
    for features of different length or fewer than two rows, ConfigError for a negative ridge.
    """
    if not ridge >= 0:
        raise ConfigError(f"the ridge must be 0 or more, got {ridge}; 1 is that of the paper.")
    xs, xt = (np.asarray(data.features, np.float64) for data in (source, target))
    if xs.shape[1] != xt.shape[1] or min(len(xs), len(xt)) < 2:
        raise DataError(f"two sets of at least two rows and one length of features, got {xs.shape} and {xt.shape}.")
    shift = ridge * np.eye(xs.shape[1])
    cs, ct = (xs.shape[1] * np.cov(x, rowvar=False) + shift for x in (xs, xt))
    matrix, source_mean, target_mean = _power(cs, -0.5) @ _power(ct, 0.5), xs.mean(0), xt.mean(0)

    def moved(data: FeatureSet) -> FeatureSet:
        features = (np.asarray(data.features, np.float64) - source_mean) @ matrix + target_mean
        return replace(data, inputs=features.astype(np.float32))

    return moved


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a symmetric matrix without negative eigenvalues; directions of no variance stay 0."""
    values, vectors = np.linalg.eigh(matrix)
    present = values > 1e-10 * values.max()
    powers = np.where(present, np.where(present, values, 1.0) ** exponent, 0.0)
    return (vectors * powers) @ vectors.T


def domain_accuracy(source: FeatureSet, target: FeatureSet, seed: int = 0) -> float:
    """How well a linear probe tells the domains apart: balanced accuracy on halves that it has not learnt from.

    0.5 or less means that it cannot; 4 (accuracy − 0.5) is the proxy A-distance of Ben-David et al. (Machine Learning
    2010). Raises DataError for fewer than two rows a domain.
    """
    if min(len(source), len(target)) < 2:
        raise DataError(f"needs at least two rows of each domain, got {len(source)} and {len(target)}.")
    rng = np.random.default_rng(seed)
    halves = []
    for data in (source, target):
        rows = rng.permutation(len(data))
        halves.append((data.select(rows[::2]), data.select(rows[1::2])))
    probe = domain_probe(halves[0][0], halves[1][0])
    right = [
        (predict(probe, held)[DOMAIN.name].argmax(1) == place).float().mean().item()
        for place, (_, held) in enumerate(halves)
    ]
    return sum(right) / 2


def low_light(faces: FaceSet, light: float = 0.25, noise: float = 0.04, seed: int = 0) -> FaceSet:
    """The photos as a dark room gives them: a share of the light, and normal noise of a share of the range (255).

    A made shift, too: values are rounded and clipped as a camera does. Raises ConfigError for a share outside 0 to 1.
    """
    if not 0 <= light <= 1:
        raise ConfigError(f"light is a share from 0 to 1, got {light}.")
    dark = replace(faces, inputs=np.rint(faces.images * np.float32(light)).astype(np.uint8))
    return with_noise(dark, np.ones(len(faces), bool), noise, seed)


def another_camera(data: FeatureSet, mixing: float = 0.8, offset: float = 0.35, seed: int = 0) -> FeatureSet:
    """The features as another camera might give them: gains, cross-talk and an offset, the same for every face.

    x ↦ x (I + mixing · S) + offset · b: S a symmetric random matrix with eigenvalues from about −1 to 1, b standard
    normal numbers (D,). A made shift, not a measured one: what is wrong is known, so one can see whether a method puts
    it right. The same seed is the same camera. Raises ConfigError for a negative mixing or offset.
    """
    if not (mixing >= 0 and offset >= 0):
        raise ConfigError(f"mixing and offset must be 0 or more, got {mixing} and {offset}.")
    dim = data.features.shape[1]
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((dim, dim))
    matrix = np.eye(dim) + mixing * (noise + noise.T) / math.sqrt(8 * dim)  # Wigner's law: edges at ±1
    moved = np.asarray(data.features, np.float64) @ matrix + offset * rng.standard_normal(dim)
    return replace(data, inputs=moved.astype(np.float32))


ROWS = (
    two_sets(
        name="coral",
        about="domain adaptation: the source's features are moved to where the target's lie (Sun, Feng & Saenko 2016)",
        parameters={"ridge": Parameter(RIDGE, "added to the covariances' diagonals, 0 or more")},
    ),
)
