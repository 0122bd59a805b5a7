"""Calibration: parity with a plain computation, a grid and another minimiser, and what must not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special

from facekit.errors import ConfigError, DataError
from facekit.evaluation.calibration import (
    HIGHEST,
    LOWEST,
    calibration_curve,
    calibration_error,
    fit_temperature,
    fit_temperatures,
    temperature_scaled,
)
from facekit.tasks import GENDER, RACE, Task


def rows(seed: int, n: int = 400, classes: int = 3, scale: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels that are drawn from the softmax of the logits / scale: the best temperature is near it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 3
    chances = special.softmax(logits / scale, axis=1)
    return logits, np.array([rng.choice(classes, p=row) for row in chances])


def log_loss(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    chances = special.log_softmax(logits / temperature, axis=1)
    return -chances[np.arange(len(targets)), targets].mean()


def test_the_calibration_error_of_a_few_rows_by_hand():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55], [0.5, 0.5]])
    targets = np.array([0, 1, 1, 1, -1])
    # Two bins, up to 0.5 and above it: the four known rows lie in the second, three right, mean confidence 0.7375.
    assert calibration_error(probabilities, targets, bins=2) == pytest.approx(abs(0.75 - 0.7375))
    # Ten: (0.8, 0.9] one right; (0.7, 0.8] one wrong; (0.6, 0.7] one right; (0.5, 0.6] one right.
    assert calibration_error(probabilities, targets, bins=10) == pytest.approx((0.1 + 0.8 + 0.3 + 0.45) / 4)
    curve = calibration_curve(probabilities, targets, bins=10)
    assert list(curve.index) == pytest.approx([0.1 * i for i in range(1, 11)]) and curve["n"].sum() == 4
    assert curve.loc[0.8].tolist() == [1, pytest.approx(0.8), 0] and np.isnan(curve.loc[0.1, "accuracy"])


@given(st.integers(0, 10**6), st.integers(1, 30))
@settings(max_examples=30)
def test_the_calibration_error_is_that_of_a_loop_over_bins(seed, bins):
    logits, targets = rows(seed, 60)
    probabilities = special.softmax(logits, axis=1)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == targets
    expected = 0.0
    for i in range(bins):
        inside = (confidence > i / bins) & (confidence <= (i + 1) / bins)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert calibration_error(torch.from_numpy(probabilities), targets, bins) == pytest.approx(expected)


def test_sure_and_right_is_calibrated_sure_and_wrong_is_not_and_nothing_known_is_nan():
    sure = np.eye(3)
    assert calibration_error(sure, [0, 1, 2]) == 0 and calibration_error(sure, [1, 2, 0]) == 1
    assert np.isnan(calibration_error(sure, [-1, -1, -1])) and np.isnan(calibration_error(sure, [np.nan] * 3))


def test_50_rows_of_perfect_probabilities_look_miscalibrated():
    found = []
    for seed in range(100):
        logits, targets = rows(seed, 50, scale=1.0)
        found.append(calibration_error(special.softmax(logits, axis=1), targets))
    assert 0.05 < np.mean(found) < 0.15


@given(st.integers(0, 10**6), st.floats(0.3, 5))
@settings(max_examples=30)
def test_the_temperature_is_the_minimum_that_others_find(seed, scale):
    logits, targets = rows(seed, 300, scale=scale)
    temperature = fit_temperature(logits, targets)
    other = optimize.minimize_scalar(
        lambda log: log_loss(logits, targets, np.exp(log)), bounds=np.log([LOWEST, HIGHEST]), method="bounded"
    )
    assert temperature == pytest.approx(np.exp(other.x), rel=1e-3)
    grid = np.geomspace(LOWEST, HIGHEST, 500)
    assert all(log_loss(logits, targets, temperature) <= log_loss(logits, targets, each) + 1e-12 for each in grid)
    step = 1e-4  # the derivative by 1 / T is zero
    inverse = [log_loss(logits, targets, 1 / (1 / temperature + sign * step)) for sign in (1, -1)]
    assert (inverse[0] - inverse[1]) / (2 * step) == pytest.approx(0, abs=1e-6)


@given(st.integers(0, 10**6), st.floats(0.3, 3), st.floats(-5, 5))
@settings(max_examples=30)
def test_scaling_the_logits_scales_the_temperature_and_a_shift_does_nothing(seed, factor, shift):
    logits, targets = rows(seed, 200)
    temperature = fit_temperature(logits, targets)
    assert fit_temperature(logits * factor + shift, targets) == pytest.approx(temperature * factor, rel=1e-8)
    hidden = np.where(np.arange(200) < 150, targets, -1)
    assert fit_temperature(logits, hidden) == pytest.approx(fit_temperature(logits[:150], targets[:150]), rel=1e-8)
    scaled = temperature_scaled(logits, temperature)
    np.testing.assert_array_equal(scaled.argmax(1), logits.argmax(1))
    np.testing.assert_allclose(scaled.sum(1), 1)
    np.testing.assert_allclose(temperature_scaled(logits, 1.0), special.softmax(logits, axis=1))


def test_a_temperature_mends_overconfidence():
    logits, targets = rows(0, 3000, scale=3.0)
    fit, test = slice(0, 1500), slice(1500, None)
    temperature = fit_temperature(torch.from_numpy(logits[fit]), torch.from_numpy(targets[fit]))
    before = calibration_error(temperature_scaled(logits[test], 1), targets[test])
    after = calibration_error(temperature_scaled(logits[test], temperature), targets[test])
    assert temperature == pytest.approx(3, rel=0.15) and before > 0.2 and after < 0.05


def test_every_task_with_a_softmax_gets_its_temperature():
    pairs = {"gender": rows(0, 200, 2, 0.5), "race": rows(1, 200, 7, 3.0)}
    outputs = {name: torch.from_numpy(logits) for name, (logits, _) in pairs.items()} | {"years": torch.zeros(200, 1)}
    targets = {name: torch.from_numpy(labels) for name, (_, labels) in pairs.items()} | {"years": torch.zeros(200)}
    found = fit_temperatures([GENDER, RACE, Task("years", "regression")], outputs, targets)
    assert found == {name: fit_temperature(*pair) for name, pair in pairs.items()}


def test_where_there_is_no_best_temperature_it_stays_within_its_bounds():
    assert fit_temperature(np.eye(3) * 4, [0, 1, 2]) == LOWEST  # always right
    assert fit_temperature(np.eye(3) * 4, [1, 2, 0]) == HIGHEST  # always wrong
    assert fit_temperature(np.zeros((4, 2)), [0, 1, 0, 1]) == 1


def test_what_has_no_temperature_is_refused():
    logits = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(DataError, match="no known label"):
        fit_temperature(logits, [-1, -1, -1, -1])
    with pytest.raises(DataError, match="class 2 alone"):
        fit_temperature(logits, [2, 2, -1, 2])
    with pytest.raises(DataError, match="row 1 of the logits is not finite"):
        fit_temperature(np.where(np.arange(4)[:, None] == 1, np.inf, logits), [0, 1, 2, 0])
    with pytest.raises(DataError, match=r"must be \(N, classes\)"):
        fit_temperature(logits, [0, 1])
    with pytest.raises(DataError, match="class index is 3"):
        fit_temperature(logits, [0, 1, 2, 3])
    with pytest.raises(DataError, match="row 2 of the probabilities sums to"):
        calibration_error(np.array([[0.5, 0.5], [9, 9], [2, 1]]), [0, -1, 1])
    with pytest.raises(ConfigError, match="bins is 0"):
        calibration_error(np.eye(2), [0, 1], bins=0)
    for temperature in (0, -1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="temperature"):
            temperature_scaled(logits, temperature)
