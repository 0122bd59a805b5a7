"""How far probabilities may be believed, and the temperature that mends them (Guo et al., ICML 2017).

Probabilities and logits are tensors or arrays (N, classes), targets (N,) class indices; a missing label (-1, or NaN)
is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import optimize, special

from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import Values, as_array
from facekit.tasks import Task

BINS = 15
LOWEST, HIGHEST = 0.01, 100.0  # between these a temperature is looked for


def calibration_error(probabilities: Values, targets: Values, bins: int = BINS) -> float:
    """Expected calibration error: the mean distance of confidence and accuracy (Guo et al. 2017, section 3).

    probabilities: (N, classes), rows that sum to 1. targets: (N,). Confidence is the highest probability of a row; the
    rows are sorted into `bins` of equal width by it, and each bin's |accuracy - confidence| counts with its share of
    the rows. NaN where no label is known. With few rows it is above 0 even for perfect probabilities: about 0.1 with
    50 rows. Raises DataError for values that are no probabilities, ConfigError for fewer than one bin.
    """
    curve = calibration_curve(probabilities, targets, bins)
    if not (n := curve["n"].sum()):
        return float("nan")
    return float((curve["n"] * (curve["accuracy"] - curve["confidence"]).abs()).sum() / n)


def calibration_curve(probabilities: Values, targets: Values, bins: int = BINS) -> pd.DataFrame:
    """What a reliability diagram draws: a row a bin of confidence, with n, mean confidence and accuracy.

    Takes what `calibration_error` takes. Index `bin` is the bin's upper end, which belongs to it; confidence and
    accuracy of an empty bin are NaN.
    """
    confidence, right = confidences(probabilities, targets)
    if bins < 1:
        raise ConfigError(f"bins is {bins}; at least one is needed.")
    where = in_bin(confidence, bins)
    n = np.bincount(where, minlength=bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(where, each, bins) / n for each in (confidence, right)]
    ends = pd.Index(np.arange(1, bins + 1) / bins, name="bin")
    return pd.DataFrame({"n": n, "confidence": means[0], "accuracy": means[1]}, ends)


def confidences(probabilities: Values, targets: Values) -> tuple[np.ndarray, np.ndarray]:
    """Of the rows with a known label: the highest probability, float64, and whether its class is right, boolean.

    Raises DataError naming the first row that holds no probabilities.
    """
    probabilities, targets, rows = _scores_and_targets(probabilities, targets, "probabilities")
    wrong = (probabilities < -1e-6).any(1) | (np.abs(probabilities.sum(1) - 1) > 1e-3)
    if wrong.any():
        first = int(wrong.argmax())
        raise DataError(
            f"row {rows[first]} of the probabilities sums to {probabilities[first].sum():.4g} or has a value below 0; "
            "give probabilities, the softmax of a network's outputs."
        )
    return probabilities.max(1).clip(0, 1), probabilities.argmax(1) == targets


def in_bin(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Which of `bins` parts of equal width a number in 0 to 1 lies in, int64; an upper end belongs to its part."""
    return (np.ceil(confidence * bins) - 1).clip(0, bins - 1).astype(np.int64)


def fit_temperature(logits: Values, targets: Values) -> float:
    """The temperature T > 0 for which softmax(logits / T) has the lowest log loss on these rows (Guo et al., 4.2).

    logits: (N, classes), outputs before the softmax (log probabilities do as well). targets: (N,), of rows that the
    network was not trained on. The loss is convex in 1 / T, so its minimum is where its derivative is 0; T stays within
    0.01 and 100, which it reaches where every row is right (then no T is low enough) or where the logits say less than
    nothing. T = 1 where each row's logits are equal. Above 1 the network was overconfident. Raises DataError without a
    known label, for labels all of one class, or for logits that are not finite.
    """
    logits, targets, _ = _scores_and_targets(logits, targets, "logits")
    if len(np.unique(targets)) < 2:
        seen = "no known label" if not len(targets) else f"known labels of class {targets[0]} alone"
        raise DataError(f"{seen} among {len(targets)} rows; a temperature is fitted on labels of at least two classes.")
    logits = logits - logits.max(1, keepdims=True)
    true = np.take_along_axis(logits, targets[:, None], 1).mean()

    def slope(log_inverse: float) -> float:
        """The derivative of the log loss by 1 / T, at 1 / T = exp(log_inverse)."""
        return float((special.softmax(logits * np.exp(log_inverse), axis=1) * logits).sum(1).mean() - true)

    if not logits.any():
        return 1.0
    hottest, coldest = -np.log(HIGHEST), -np.log(LOWEST)
    if slope(hottest) >= 0:
        return HIGHEST
    if slope(coldest) <= 0:
        return LOWEST
    return float(np.exp(-optimize.brentq(slope, hottest, coldest, xtol=1e-12)))


def fit_temperatures(
    tasks: Sequence[Task], outputs: Mapping[str, Values], targets: Mapping[str, Values]
) -> dict[str, float]:
    """`fit_temperature` of every task with a softmax, by name. outputs, targets: as `metrics.evaluate` takes them."""
    return {task.name: fit_temperature(outputs[task.name], targets[task.name]) for task in tasks if task.softmax}


def temperature_scaled(logits: Values, temperature: float) -> np.ndarray:
    """softmax(logits / temperature), float64 (N, classes): each row's order of the classes stays.

    Raises ConfigError for a temperature that is not above 0 and finite.
    """
    if not (temperature > 0 and np.isfinite(temperature)):
        raise ConfigError(f"the temperature is {temperature}; it must be above 0.")
    return special.softmax(as_array(logits).astype(np.float64) / temperature, axis=1)


def _scores_and_targets(scores: Values, targets: Values, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows with a known label: scores float64 (n, classes), class indices and row numbers int64 (n,)."""
    scores, targets = as_array(scores), as_array(targets)
    if scores.ndim != 2 or targets.shape != scores.shape[:1]:
        raise DataError(f"{what} {scores.shape} must be (N, classes) and targets {targets.shape} (N,).")
    known = ~np.isnan(targets) & (targets >= 0) if targets.dtype.kind == "f" else targets >= 0
    scores, targets, rows = scores[known].astype(np.float64), targets[known].astype(np.int64), np.flatnonzero(known)
    if not np.isfinite(scores).all():
        first = int((~np.isfinite(scores)).any(1).argmax())
        raise DataError(f"row {rows[first]} of the {what} is not finite; the model that made it is broken.")
    if len(targets) and targets.max() >= scores.shape[1]:
        raise DataError(f"a class index is {targets.max()}, but the {what} have {scores.shape[1]} classes.")
    return scores, targets, rows
