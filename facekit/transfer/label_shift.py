"""Label shift: the classes are mixed otherwise in the target, while each looks as it did in the source.

p(x | y) is the same, p(y) is not: a school has more children than the training photos. A classifier's probabilities
carry the source's mixture with them; what the target's is can be read off its answers, without one label of the
target. Both ways below need probabilities that are calibrated on the source.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from scipy.optimize import nnls

from facekit.errors import ConfigError, DataError
from facekit.transfer.table import Parameter, Row

ROUNDS, CLOSE = 1000, 1e-8


def reweighted(probabilities: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) for the mixture `after` (K,) instead of `before` (K,), by Bayes' rule; float64 (N, K).

    Saerens, Latinne & Decaestecker (Neural Computation 2002), equation 2.4.
    """
    probabilities, before = checked(probabilities, before)
    changed = probabilities * (np.asarray(after, np.float64) / before)
    return changed / changed.sum(1, keepdims=True)


def estimated_mixture(
    probabilities: np.ndarray, before: np.ndarray, rounds: int = ROUNDS, close: float = CLOSE
) -> np.ndarray:
    """The target's mixture of classes (K,), by EM from the probabilities of its rows (N, K).

    before: the source's mixture (K,), all above 0. In turns: probabilities for the mixture of now, their mean is the
    next one (Saerens et al. 2002, section 2.2). It ends when no share moves by more than `close`. Raises ConfigError
    for anything that is no probabilities.
    """
    probabilities, before = checked(probabilities, before)
    now = before
    for _ in range(rounds):
        following = reweighted(probabilities, before, now).mean(0)
        moved = np.abs(following - now).max()
        now = following
        if moved < close:
            break
    return now


def mixture_by_confusion(
    probabilities: np.ndarray, held_out: np.ndarray, labels: np.ndarray, before: np.ndarray
) -> np.ndarray:
    """The target's mixture (K,) from the answers to its rows (N, K) and to held-out source rows (M, K) with `labels`.

    Black box shift estimation (Lipton, Wang & Smola, ICML 2018): how often each answer is given to each class is
    known from the source; which mixture of classes gives the answers that the target gets? Shares of 0 or more by
    non-negative least squares, brought to the sum 1. labels: int (M,), -1 where not known. Raises DataError for a class
    that is missing among the labels.
    """
    probabilities, before = checked(probabilities, before)
    held_out, _ = checked(held_out, before)
    labels = np.asarray(labels)
    missing = [name for name in range(len(before)) if not (labels == name).any()]
    if missing:
        raise DataError(f"the held-out rows have no label of the classes {missing}; hold out more of the source.")
    by_class = np.stack([held_out[labels == name].mean(0) for name in range(len(before))])  # class to mean answer
    shares, _ = nnls(by_class.T, probabilities.mean(0))
    return shares / shares.sum()


def checked(probabilities: np.ndarray, mixture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64; raises ConfigError unless they are probabilities (N, K) and a mixture (K,) without zeros."""
    rows, shares = np.asarray(probabilities, np.float64), np.asarray(mixture, np.float64)
    fits = rows.ndim == 2 and shares.shape == rows.shape[1:] and len(rows) > 0
    if not fits or not (np.isfinite(rows).all() and (rows >= 0).all() and np.allclose(rows.sum(1), 1, atol=1e-4)):
        raise ConfigError(f"needs probabilities (N, K) whose rows sum to 1 and a mixture (K,), got {rows.shape}.")
    if not (np.isfinite(shares).all() and (shares > 0).all()):
        raise ConfigError(f"every class needs a share above 0 in the source, got {shares.tolist()}.")
    return rows, shares / shares.sum()


_row = partial(Row, acts="after", sets="source, and the target's scores", labels="of the source alone")
ROWS = (
    _row(
        name="mixture by em",
        about="label shift: the target's mixture of classes from its probabilities by EM (Saerens et al. 2002)",
        parameters={"rounds": Parameter(ROUNDS, "at most")},
    ),
    _row(
        name="mixture by confusion",
        about="label shift: the target's mixture from its answers and the confusion matrix (Lipton et al. 2018)",
    ),
)
