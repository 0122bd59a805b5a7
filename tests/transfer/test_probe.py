"""The probes: parity with scikit-learn, missing labels, and what the pixel baseline keeps of a photo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.tasks import Task
from facekit.training.loop import predict
from facekit.transfer.probe import centred, hidden_probe, linear_probe, pixel_features, tuned_probe

COLOUR = Task("colour", "multiclass", ("red", "green", "blue"))
SIZE = Task("size", "regression", scale=10.0)


def features(n: int = 120, dim: int = 12, seed: int = 0) -> FeatureSet:
    """Unit vectors around one direction a class, a second label that is a number, all rows in train."""
    rng = np.random.default_rng(seed)
    classes = rng.integers(0, 3, n)
    x = np.eye(3, dim)[classes] + rng.normal(0, 0.4, (n, dim))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    colours = np.array(COLOUR.classes, dtype=object)[classes]
    labels = pd.DataFrame({"colour": colours, "size": 10 * x[:, 3] + 5, "split": "train"})
    return FeatureSet(x.astype(np.float32), labels)


@pytest.mark.parametrize("prior", [1.0, 100.0])
def test_the_linear_probe_is_the_logistic_regression_of_scikit_learn(prior):
    data = features()
    ours = predict(linear_probe(data, [COLOUR], prior), data)["colour"].double()
    x = np.asarray(data.features, np.float64) * np.sqrt(data.features.shape[1])
    theirs = LogisticRegression(C=1 / prior, tol=1e-10, max_iter=10_000).fit(x, COLOUR.encode(data.labels["colour"]))
    expected = torch.from_numpy(theirs.predict_proba(x))
    assert torch.allclose(ours.softmax(1), expected, atol=1e-4)


def test_rows_without_a_label_do_not_count_for_its_task():
    data = features()
    holes = data.labels.copy()
    holes.loc[::3, "colour"] = None
    with_holes = FeatureSet(data.features, holes)
    known = data.select((holes["colour"].notna()).to_numpy())
    one, other = (predict(linear_probe(rows, [COLOUR]), data)["colour"] for rows in (with_holes, known))
    assert torch.allclose(one, other, atol=1e-5)


def test_tasks_do_not_disturb_each_other():
    data = features()
    both = predict(linear_probe(data, [COLOUR, SIZE]), data)
    for task in (COLOUR, SIZE):
        alone = predict(linear_probe(data, [task]), data)[task.name]
        assert torch.allclose(both[task.name], alone, atol=1e-6)


def test_a_huge_prior_leaves_only_the_frequencies():
    data = features()
    outputs = predict(linear_probe(data, [COLOUR], prior=1e6), data)["colour"].softmax(1)
    shares = data.labels["colour"].value_counts(normalize=True)[list(COLOUR.classes)]
    assert torch.allclose(outputs, torch.tensor(shares.to_numpy(), dtype=outputs.dtype).expand_as(outputs), atol=1e-3)


def test_a_weighted_row_counts_like_so_many_copies_of_it():
    data = features(60)
    copies = np.random.default_rng(0).integers(0, 4, 60)
    repeated = data.select(np.repeat(np.arange(60), copies))
    # The penalty is prior / 2n: with 60 rows (less those without a copy) instead of all copies, another prior fits.
    prior = 5 * (copies > 0).sum() / copies.sum()
    weighted = predict(linear_probe(data, [COLOUR], prior, weights=copies * 0.7), data)["colour"]
    assert torch.allclose(weighted, predict(linear_probe(repeated, [COLOUR], 5), data)["colour"], atol=1e-4)
    even, plain = (predict(linear_probe(data, [COLOUR], weights=w), data)["colour"] for w in (np.full(60, 3.0), None))
    assert torch.allclose(even, plain, atol=1e-5)


@pytest.mark.parametrize("weights", [np.ones(59), np.full(60, -1.0), np.full(60, np.nan)])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ConfigError, match="weights must be 60"):
        linear_probe(features(60), [COLOUR], weights=weights)


def test_weights_need_classes_and_something_above_zero():
    with pytest.raises(ConfigError, match="multiclass"):
        linear_probe(features(60), [SIZE], weights=np.ones(60))
    with pytest.raises(ConfigError, match="not all 0"):
        linear_probe(features(60), [COLOUR], weights=np.zeros(60))
    data = features(60)
    holes = replace(data, labels=data.labels.assign(colour=data.labels["colour"].where(np.arange(60) > 0)))
    with pytest.raises(DataError, match="'colour'"):
        linear_probe(holes, [COLOUR], weights=np.eye(60)[0])


@pytest.mark.parametrize("prior", [0.0, -1.0, float("nan")])
def test_a_prior_that_is_not_positive_is_refused(prior):
    with pytest.raises(ConfigError, match="prior must be positive"):
        linear_probe(features(), [COLOUR], prior)


def test_a_task_without_any_label_is_named():
    data = features()
    with pytest.raises(DataError, match="'colour'"):
        linear_probe(FeatureSet(data.features, data.labels.assign(colour=None)), [COLOUR])


def test_the_hidden_probe_learns_what_no_line_can_and_repeats_itself():
    rng = np.random.default_rng(1)
    x = rng.choice([-1.0, 1.0], (400, 2)) + rng.normal(0, 0.1, (400, 2))
    same = (x[:, 0] * x[:, 1] > 0).astype(int)  # exclusive or: no line separates it
    x = np.hstack([x, rng.normal(0, 0.1, (400, 6))])
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    task = Task("same", "multiclass", ("no", "yes"))
    labels = pd.DataFrame({"same": np.array(task.classes, dtype=object)[same], "split": "train"})
    data = FeatureSet(x.astype(np.float32), labels)
    found = {name: task.predict(predict(fit(data, [task]), data)["same"]).numpy() for name, fit in PROBES.items()}
    assert (found["linear"] == same).mean() < 0.75 and (found["hidden"] == same).mean() > 0.95
    again = predict(hidden_probe(data, [task], hidden=64, seed=3), data)["same"]
    assert torch.equal(again, predict(hidden_probe(data, [task], hidden=64, seed=3), data)["same"])


PROBES = {"linear": linear_probe, "hidden": lambda data, tasks: hidden_probe(data, tasks, hidden=64)}


def test_pixel_features_keep_brightness_and_colour_and_are_about_as_long_as_embeddings():
    rng = np.random.default_rng(2)
    images = rng.integers(0, 256, (5, 3, 40, 40), dtype=np.uint8)
    faces = FaceSet(images, pd.DataFrame({"split": ["train"] * 5}))
    found = pixel_features(faces, size=8)
    assert found.features.shape == (5, 3 * 8 * 8) and found.features.dtype == np.float32
    back = found.features * 64 * np.sqrt(3 * 8 * 8) + 128
    assert np.allclose(back, faces.resized(8).images.reshape(5, -1), atol=1e-3)
    noise = pixel_features(faces, size=40)
    assert np.all((np.linalg.norm(noise.features, axis=1) > 0.5) & (np.linalg.norm(noise.features, axis=1) < 2))
    with pytest.raises(ConfigError, match="at least 1 pixel"):
        pixel_features(faces, size=0)


@pytest.mark.parametrize("n", [30, 120])  # fewer rows than features, and more
def test_a_tuned_probe_is_the_linear_probe_with_the_best_prior_on_a_fifth(n):
    data, task = features(n, 60), COLOUR
    order = np.random.default_rng(3).permutation(n)
    held_out, learn = data.select(order[: n // 5]), data.select(order[n // 5 :])
    losses = {}
    for prior in (1.0, 10.0, 100.0):
        outputs = predict(linear_probe(learn, [task], prior), held_out)[task.name]
        losses[prior] = task.loss(outputs, held_out.targets([task])[task.name]).item()
    expected = predict(linear_probe(data, [task], min(losses, key=losses.get)), data)[task.name]
    found = predict(tuned_probe(data, task, (1.0, 10.0, 100.0), seed=3), data)[task.name]
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_a_tuned_probe_needs_labels():
    data = features(20)
    labels = data.labels.assign(colour=[None] * 16 + list(data.labels["colour"][16:]))
    few = replace(data, labels=labels)
    with pytest.raises(DataError, match="4 rows with a label"):
        tuned_probe(few, COLOUR)


def test_centred_features_have_no_common_part_and_one_length():
    data = features(50, 7)
    moved = replace(data, inputs=5 + 3 * data.features)
    for each in (data, moved):
        found = centred(each)(each).features
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-6)
        assert (found**2).sum(1).mean() == pytest.approx(1)
    np.testing.assert_allclose(centred(data)(data).features, centred(moved)(moved).features, atol=1e-5)
    with pytest.raises(DataError, match="same features"):
        centred(data.select([0, 0, 0]))
