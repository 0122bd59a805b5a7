"""Spreading and self-training: the closed form, a loop by hand, and labels that are never looked at."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from tiny import COLOUR, LEVEL, features

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe
from facekit.transfer.spreading import label_spreading, self_training


def moons(n: int, seed: int = 0) -> FeatureSet:
    """Two half circles that no line parts; the colour says which."""
    rng = np.random.default_rng(seed)
    second, angle = rng.random(n) < 0.5, rng.uniform(0, math.pi, n)
    x = np.stack([np.cos(angle) + second, np.where(second, -1, 1) * np.sin(angle) + 0.4 * second], 1)
    labels = {"colour": np.where(second, "bright", "dark"), "split": "train"}
    return FeatureSet((x + rng.normal(0, 0.05, x.shape)).astype(np.float32), pd.DataFrame(labels))


def right(answers: np.ndarray, rows: FeatureSet) -> float:
    return float((answers.argmax(1) == rows.targets([COLOUR])["colour"].numpy()).mean())


def test_spreading_is_the_closed_form_of_its_paper():
    """F = (1 − α) (I − α S)⁻¹ Y with S = D^−½ W D^−½ and W = Wᵀ (Zhou et al. 2003), on the rows themselves."""
    few, many = moons(10), moons(80, 1)
    x = np.concatenate([few.features, many.features]).astype(np.float64) * math.sqrt(2)
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    near = (distances.argsort(1, kind="stable").argsort(1) <= 7) & ~np.eye(90, dtype=bool)  # the nearest is the row
    graph = (near | near.T).astype(float)
    degree = graph.sum(1)
    smooth = graph / np.sqrt(np.outer(degree, degree))
    known = np.zeros((90, 2))
    known[np.arange(10), few.targets([COLOUR])["colour"].numpy()] = 1
    wanted = np.linalg.solve(np.eye(90) - 0.5 * smooth, known)
    share = wanted / np.maximum(wanted.sum(1, keepdims=True), 1e-12)
    test = moons(40, 2)
    far = np.linalg.norm(test.features[:, None] * math.sqrt(2) - x[None], axis=2)
    means = share[far.argsort(1)[:, :7]].sum(1)
    found = label_spreading(few, many, COLOUR, neighbours=7, alpha=0.5)(test)
    np.testing.assert_allclose(found, means / means.sum(1, keepdims=True), atol=0.01)


def test_labels_spread_along_the_rows_without_labels():
    few, many, test = moons(12), moons(400, 1), moons(300, 2)
    spread = right(label_spreading(few, many, COLOUR, alpha=0.9)(test), test)
    assert spread > 0.95 > right(predict(linear_probe(few, [COLOUR]), test)["colour"].numpy(), test)


def test_self_training_by_a_loop():
    few, many, test = features(12), features(200, seed=1), features(100, seed=2)
    x = few
    rest = many
    for _ in range(10):
        sure = predict(linear_probe(x, [COLOUR]), rest)["colour"].double().softmax(1).numpy()
        chosen = sure.max(1) > 0.6
        if not chosen.any():
            break
        names = np.array(COLOUR.classes)[sure.argmax(1)[chosen]]
        labels = pd.DataFrame({"colour": [*x.labels["colour"], *names], "split": "train"})
        x = FeatureSet(np.concatenate([x.features, rest.features[chosen]]), labels)
        rest = rest.select(np.flatnonzero(~chosen))
        if not len(rest):
            break
    wanted = predict(linear_probe(x, [COLOUR]), test)["colour"].double().softmax(1).numpy()
    found = self_training(few, many, COLOUR, threshold=0.6)(test)
    assert len(x) > 50
    np.testing.assert_allclose(found, wanted, atol=0.02)


@pytest.mark.parametrize("learn", [label_spreading, self_training])
def test_labels_of_the_unlabelled_rows_do_not_count_and_unseen_classes_get_nothing(learn):
    few, many = features(20), features(100, seed=1)
    lied = FeatureSet(many.features, many.labels.assign(colour="dark"))
    one, other = (learn(few, rows, COLOUR)(many) for rows in (many, lied))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(one.sum(1), 1)
    with pytest.raises(DataError, match="at least two classes"):
        learn(lied, many, COLOUR)
    with pytest.raises(ConfigError, match="level has no classes"):
        learn(few, many, LEVEL)


def test_rows_that_no_label_reaches_get_every_class_alike():
    few, far = moons(12), moons(60, 1)
    far = FeatureSet(far.features + 50, far.labels)
    np.testing.assert_array_equal(label_spreading(few, far, COLOUR, neighbours=5)(far), 0.5)


def test_impossible_numbers_are_refused():
    few, many = features(20), features(100, seed=1)
    for wrong in ({"neighbours": 0}, {"neighbours": 500}, {"alpha": 1.0}):
        with pytest.raises(ConfigError, match="neighbours"):
            label_spreading(few, many, COLOUR, **wrong)
    for wrong in ({"threshold": 1.0}, {"rounds": 0}):
        with pytest.raises(ConfigError, match="threshold"):
            self_training(few, many, COLOUR, **wrong)
