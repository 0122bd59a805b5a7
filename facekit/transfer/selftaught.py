"""Self-taught learning: features from inputs without labels, then a classifier on few labels (Raina et al., ICML 2007).

Two ways to learn features from unlabelled rows: the directions in which they vary most (principal components), and a
dictionary of which every row is a sum of few atoms (sparse coding, what Raina et al. used). Both encoders keep the
scale of their input in the sense of `linear_probe`: a rotation of the features changes nothing for a probe, and so a
difference in its score comes from what was left out or added, not from another strength of the penalty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.transfer.table import Parameter, Row


@dataclass(frozen=True, eq=False)
class Components:
    """Principal components: mean float64 (D,), orthonormal axes float64 (k, D), share of the variance kept."""

    mean: np.ndarray
    axes: np.ndarray
    share: float

    def __call__(self, data: FeatureSet) -> FeatureSet:
        """The rows on the axes, float32 (N, k), times √(D / k): a probe multiplies by √k and is then back at √D."""
        places = (np.asarray(data.features, np.float64) - self.mean) @ self.axes.T
        places *= math.sqrt(self.axes.shape[1] / len(self.axes))
        return replace(data, inputs=places.astype(np.float32))


def components(unlabelled: FeatureSet, k: int) -> Components:
    """The k directions in which the rows vary most (PCA; Jolliffe 2002). Looks at no label.

    Raises ConfigError unless 1 <= k <= min(N - 1, D).
    """
    x = np.asarray(unlabelled.features, np.float64)
    most = min(len(x) - 1, x.shape[1])
    if not 1 <= k <= most:
        raise ConfigError(f"k must be from 1 to {most} for features {x.shape}, got {k}.")
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x, rowvar=False).reshape(x.shape[1], -1))  # rising
    axes = vectors[:, ::-1][:, :k].T
    signs = np.sign(axes[np.arange(k), np.abs(axes).argmax(1)])  # an axis and its opposite are the same: fix one
    return Components(mean, axes * signs[:, None], float(values[::-1][:k].sum() / values.sum()))


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Atoms float64 (A, D) of length up to 1 around a mean (D,), in the units of features times √D, and the penalty."""

    mean: np.ndarray
    atoms: np.ndarray
    penalty: float
    steps: int = 100

    def __call__(self, data: FeatureSet) -> FeatureSet:
        """The rows' sparse codes, float32 (N, A): how much of each atom they are made of, mostly 0.

        Divided by √A, which a probe multiplies by.
        """
        x = (np.asarray(data.features, np.float64) - self.mean) * math.sqrt(len(self.mean))
        codes = sparse_codes(x, self.atoms, self.penalty, self.steps) / math.sqrt(len(self.atoms))
        return replace(data, inputs=codes.astype(np.float32))


def sparse_codes(x: np.ndarray, atoms: np.ndarray, penalty: float, steps: int = 100) -> np.ndarray:
    """Codes S (N, A) near the minimum of ½ ‖x − S @ atoms‖² + penalty · Σ|S|, a row at a time a lasso.

    FISTA (Beck & Teboulle, SIAM Journal on Imaging Sciences 2009): a gradient step, a shrinking of every code towards
    0, and momentum. x: (N, D). Raises ConfigError for a penalty that is not positive or no step.
    """
    if not penalty > 0 or steps < 1:
        raise ConfigError(f"the penalty must be positive and steps at least 1, got {penalty} and {steps}.")
    gram, answer = atoms @ atoms.T, x @ atoms.T
    rate = 1 / max(np.linalg.eigvalsh(gram)[-1], 1e-12)
    codes = ahead = np.zeros_like(answer)
    pace = 1.0
    for _ in range(steps):
        moved = ahead - rate * (ahead @ gram - answer)
        new = np.sign(moved) * np.maximum(np.abs(moved) - rate * penalty, 0)
        next_pace = (1 + math.sqrt(1 + 4 * pace**2)) / 2
        ahead = new + (pace - 1) / next_pace * (new - codes)
        codes, pace = new, next_pace
    return codes


def learn_dictionary(
    unlabelled: FeatureSet, n_atoms: int, penalty: float, rounds: int = 10, steps: int = 100, seed: int = 0
) -> Dictionary:
    """A dictionary for which the rows' codes are sparse (Raina et al. 2007, section 3). Looks at no label.

    Minimises ½ ‖x − S @ atoms‖² + penalty · Σ|S| over codes and atoms of length up to 1, in turns: `sparse_codes`, then
    each atom to its best place while the others stay (Mairal et al., JMLR 2010, algorithm 2). It starts from rows drawn
    with the seed. Raises DataError for fewer rows than atoms, ConfigError for no atom or as `sparse_codes`.
    """
    if not 1 <= n_atoms <= len(unlabelled):
        raise DataError(f"a dictionary of {n_atoms} atoms needs as many rows, and at least 1; got {len(unlabelled)}.")
    x = np.asarray(unlabelled.features, np.float64)
    mean = x.mean(0)
    x = (x - mean) * math.sqrt(x.shape[1])
    atoms = x[np.random.default_rng(seed).permutation(len(x))[:n_atoms]]
    atoms = atoms / np.maximum(np.linalg.norm(atoms, axis=1, keepdims=True), 1e-12)
    for _ in range(rounds):
        codes = sparse_codes(x, atoms, penalty, steps)
        atoms = _better_atoms(atoms, codes.T @ codes, codes.T @ x)
    return Dictionary(mean, atoms, penalty, steps)


def _better_atoms(atoms: np.ndarray, uses: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """One pass of block coordinate descent over the atoms; uses = SᵀS (A, A), sums = Sᵀx (A, D)."""
    atoms = atoms.copy()
    for atom in range(len(atoms)):
        if uses[atom, atom] > 1e-9:  # an atom that no row uses stays as it is
            atoms[atom] += (sums[atom] - uses[atom] @ atoms) / uses[atom, atom]
            atoms[atom] /= max(1.0, np.linalg.norm(atoms[atom]))
    return atoms


_row = partial(Row, acts="before", sets="unlabelled and labelled, features", labels="of the labelled set alone")
ROWS = (
    _row(
        name="components",
        about="self-taught learning: the directions in which unlabelled features vary most (PCA)",
        parameters={"k": Parameter(None, "how many directions")},
    ),
    _row(
        name="sparse codes",
        about="self-taught learning: few atoms of a dictionary that unlabelled features taught (Raina et al. 2007)",
        parameters={"penalty": Parameter(None, "weight of the codes' absolute sum, above 0")},
    ),
)
