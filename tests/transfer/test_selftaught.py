"""Features without labels: principal components and sparse codes against scikit-learn and their own conditions."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.decomposition import PCA, sparse_encode

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.tasks import Task
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe
from facekit.transfer.selftaught import components, learn_dictionary, sparse_codes

SIGN = Task("sign", "multiclass", ("minus", "plus"))


def rows(n: int = 200, dim: int = 6, seed: int = 0) -> FeatureSet:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) * np.arange(dim, 0, -1) + 1
    sign = np.where(x[:, 0] + rng.normal(size=n) < 1, "minus", "plus")
    return FeatureSet((x / 10).astype(np.float32), pd.DataFrame({"sign": sign, "split": "train"}))


def problem(n: int = 30, dim: int = 8, n_atoms: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    atoms = rng.normal(size=(n_atoms, dim))
    return rng.normal(size=(n, dim)) * 2, atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def objective(x: np.ndarray, codes: np.ndarray, atoms: np.ndarray, penalty: float) -> float:
    return 0.5 * np.square(x - codes @ atoms).sum() + penalty * np.abs(codes).sum()


@pytest.mark.parametrize("k", [1, 3, 6])
def test_the_components_are_those_of_scikit_learn(k):
    data = rows()
    ours, theirs = components(data, k), PCA(k).fit(data.features.astype(np.float64))
    assert np.allclose(np.abs(ours.axes @ theirs.components_.T), np.eye(k), atol=1e-5)
    assert ours.share == pytest.approx(theirs.explained_variance_ratio_.sum(), abs=1e-6)
    places = theirs.transform(data.features.astype(np.float64)) * np.sqrt(6 / k)
    assert np.allclose(np.abs(ours(data).features), np.abs(places), atol=1e-4)


def test_a_probe_cannot_tell_all_components_from_the_features():
    data = rows()
    turned = components(data, 6)(data)
    before, after = (predict(linear_probe(each, [SIGN], 10), each)["sign"].softmax(1) for each in (data, turned))
    assert np.allclose(before, after, atol=1e-4)


@pytest.mark.parametrize("k", [0, 7])
def test_a_number_of_components_that_there_is_not(k):
    with pytest.raises(ConfigError, match="k must be from 1 to 6"):
        components(rows(), k)


@pytest.mark.parametrize("penalty", [0.1, 0.7])
def test_sparse_codes_are_those_of_scikit_learn(penalty):
    x, atoms = problem()
    ours = sparse_codes(x, atoms, penalty, steps=2000)
    theirs = sparse_encode(x, atoms, algorithm="lasso_cd", alpha=penalty, max_iter=100_000)
    # The minimum of the objective is one; more atoms than dimensions can reach it by several codes.
    assert objective(x, ours, atoms, penalty) <= objective(x, theirs, atoms, penalty) * (1 + 1e-4)
    assert np.allclose(ours @ atoms, theirs @ atoms, atol=0.02)


def test_sparse_codes_meet_the_conditions_of_a_minimum():
    x, atoms = problem()
    codes = sparse_codes(x, atoms, 0.5, steps=3000)
    slope = (codes @ atoms - x) @ atoms.T  # gradient of the smooth part
    used = np.abs(codes) > 1e-6
    assert 0.05 < used.mean() < 0.95
    assert np.allclose(slope[used], -0.5 * np.sign(codes[used]), atol=1e-3)
    assert np.abs(slope[~used]).max() <= 0.5 + 1e-3


def test_the_gradient_that_the_codes_follow_is_that_of_the_objective():
    x, atoms = problem(2)
    codes = np.random.default_rng(2).normal(size=(2, 12))
    slope, step = (codes @ atoms - x) @ atoms.T, 1e-6
    for place in [(0, 0), (1, 7)]:
        moved = codes.copy()
        moved[place] += step
        numeric = (objective(x, moved, atoms, 0) - objective(x, codes, atoms, 0)) / step
        assert numeric == pytest.approx(slope[place], abs=1e-4)


def test_a_large_penalty_leaves_nothing_and_atoms_at_right_angles_only_shrink():
    x, atoms = problem()
    assert not sparse_codes(x, atoms, 1e3).any()
    codes = sparse_codes(x, np.eye(8), 0.5, steps=5)
    assert np.allclose(codes, np.sign(x) * np.maximum(np.abs(x) - 0.5, 0))


def test_every_round_makes_the_dictionary_no_worse_and_atoms_stay_short():
    data = rows(150)
    x = (data.features.astype(np.float64) - data.features.mean(0, np.float64)) * np.sqrt(6)
    values = []
    for rounds in (0, 1, 3, 8):
        found = learn_dictionary(data, 9, 0.05, rounds=rounds, steps=500, seed=1)
        assert np.linalg.norm(found.atoms, axis=1).max() <= 1 + 1e-9
        values.append(objective(x, sparse_codes(x, found.atoms, 0.05, 500), found.atoms, 0.05))
    assert all(after <= before * (1 + 1e-6) for before, after in zip(values, values[1:], strict=False))
    assert values[-1] < 0.97 * values[0]


def test_the_dictionary_encodes_new_rows_for_a_probe():
    found = learn_dictionary(rows(150), 9, 0.05, rounds=2)
    new = rows(20, seed=5)
    codes = found(new)
    assert codes.features.shape == (20, 9) and codes.labels is not None and (codes.features == 0).any()
    x = (new.features.astype(np.float64) - found.mean) * np.sqrt(6)
    assert np.allclose(codes.features * 3, sparse_codes(x, found.atoms, 0.05), atol=1e-4)


def test_bad_input_is_refused():
    with pytest.raises(ConfigError, match="penalty must be positive"):
        sparse_codes(*problem(), penalty=0)
    with pytest.raises(DataError, match="as many rows"):
        learn_dictionary(rows(5), 6, 1.0)
