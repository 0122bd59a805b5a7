"""Drawn features: laws of the draws, mixes, files, and the rule that no statistic rests on fewer than 20 faces."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from facekit.data import simulated
from facekit.data.fit_features import MIN_FACES, cell_shares, fit_features
from facekit.data.sets import FeatureSet
from facekit.data.simulated import CHUNK, COLUMNS, PACKAGED_MODEL, SHAPE, FeatureModel, shares_for
from facekit.errors import ConfigError, DataError
from facekit.tasks import AGE_BAND, GENDER, RACE

DIM, AXES = 12, 6
# 0.999 quantiles of chi-square: a law that holds fails one time in a thousand, and these draws are seeded.
CHI2 = {1: 10.8, 6: 22.5, 8: 26.1, 125: 182.0}


def codes(data: FeatureSet) -> np.ndarray:
    return np.stack([targets.numpy() for targets in data.targets(COLUMNS).values()], axis=1)


@cache
def toy(n: int = 6000, seed: int = 0) -> FeatureSet:
    """Faces of 126 cells, some of them rare, in 6 of 12 dimensions; what a cell adds is the sum of its classes."""
    rng = np.random.default_rng(seed)
    shares = [np.arange(size, 0, -1) ** 2.0 for size in SHAPE]
    cells = np.stack([rng.choice(size, n, p=share / share.sum()) for size, share in zip(SHAPE, shares, strict=True)], 1)
    world = np.random.default_rng(99)  # the same for every sample
    effects = [0.6 * world.normal(size=(size, AXES)) for size in SHAPE]
    axes = np.linalg.qr(world.normal(size=(DIM, AXES)))[0].T
    place = 1 + sum(effect[code] for effect, code in zip(effects, cells.T, strict=True))
    place = place + rng.normal(size=(n, AXES)) * np.linspace(0.4, 1, AXES)
    x = place @ axes
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    labels = {task.name: np.array(task.classes)[code] for task, code in zip(COLUMNS, cells.T, strict=True)}
    return FeatureSet(x.astype(np.float32), pd.DataFrame({**labels, "split": "train"}))


@cache
def toy_model() -> FeatureModel:
    return fit_features(toy())


@cache
def packaged() -> FeatureModel:
    return FeatureModel.load()


def chi_square(counts: np.ndarray, shares: np.ndarray) -> float:
    expected = counts.sum() * shares
    return float((np.square(counts - expected)[expected > 0] / expected[expected > 0]).sum())


def table(data: FeatureSet) -> np.ndarray:
    return np.bincount(np.ravel_multi_index(codes(data).T, SHAPE), minlength=np.prod(SHAPE)).reshape(SHAPE)


# Draws


def test_the_packaged_model_draws_what_lessons_ask_for():
    drawn = packaged().draw(8500, seed=0)
    assert drawn.features.shape == (8500, 512) and drawn.features.dtype == np.float32
    assert list(drawn.labels.columns) == ["race", "gender", "age", "split"]
    assert set(drawn.labels["split"]) == {"train"}
    np.testing.assert_allclose(np.linalg.norm(drawn.features, axis=1), 1, atol=1e-5)
    for task in (RACE, GENDER, AGE_BAND):
        assert task.known(task.encode(drawn.labels[task.name])).all()


@pytest.mark.parametrize("short,long", [(1, 7), (CHUNK, CHUNK + 1), (CHUNK + 3, 2 * CHUNK + 5)])
def test_a_shorter_draw_is_the_start_of_a_longer_one(short, long):
    few, many = toy_model().draw(short, seed=3), toy_model().draw(long, seed=3)
    np.testing.assert_array_equal(few.features, many.features[:short])
    pd.testing.assert_frame_equal(few.labels, many.labels[:short])


def test_a_seed_is_a_draw_whatever_the_number_of_threads(monkeypatch):
    model = toy_model()
    first = model.draw(3 * CHUNK, seed=5)
    monkeypatch.setattr(simulated.os, "cpu_count", lambda: 1)
    again = model.draw(3 * CHUNK, seed=5)
    np.testing.assert_array_equal(first.features, again.features)
    other = model.draw(3 * CHUNK, seed=6)
    assert not np.isclose(first.features, other.features).all(axis=1).any(), "two seeds share a row"
    assert len(np.unique(first.features, axis=0)) == len(first), "a row occurs twice in one draw"


def test_labels_occur_as_often_as_the_shares_say():
    drawn = packaged().draw(40_000, seed=1)
    assert chi_square(table(drawn), packaged().shares / packaged().shares.sum()) < CHI2[125]


def test_drawn_classes_lie_where_real_classes_lie():
    real, drawn = toy(), toy_model().draw(40_000, seed=2)
    for task in COLUMNS:
        for name in task.classes:
            rows = real.labels[task.name] == name
            near = drawn.features[(drawn.labels[task.name] == name).to_numpy()].mean(0)
            spread = real.features[rows.to_numpy()].std(0) / np.sqrt(rows.sum())
            assert np.abs(near - real.features[rows.to_numpy()].mean(0)).max() < 6 * spread.max() + 0.02


# Mixes


def test_a_mix_is_met_and_leaves_the_rest_alone():
    drawn = packaged().draw(40_000, seed=4, mix={"gender": {"Female": 0.9, "Male": 0.1}})
    counts = table(drawn)
    assert chi_square(counts.sum((0, 2)), np.array([0.1, 0.9])) < CHI2[1]
    base = packaged().shares.astype(float)
    wanted = base / base.sum((0, 2), keepdims=True) * np.array([0.1, 0.9])[:, None]
    assert chi_square(counts, wanted) < CHI2[125]


def test_a_mix_of_combinations_gives_these_and_no_others():
    mix = {("race", "gender"): {("Black", "Female"): 1, ("White", "Male"): 3}}
    labels = packaged().draw(8000, seed=0, mix=mix).labels
    counts = labels.groupby(["race", "gender"]).size()
    assert set(counts.index) == {("Black", "Female"), ("White", "Male")}
    assert chi_square(counts[[("Black", "Female"), ("White", "Male")]].to_numpy(), np.array([0.25, 0.75])) < CHI2[1]


def test_the_same_seed_with_another_mix_keeps_what_a_cell_looks_like():
    mix = {("race", "gender", "age"): {("Indian", "Female", "30-39"): 1}}
    drawn = toy_model().draw(20_000, seed=7, mix=mix)
    usual = toy_model().draw(60_000, seed=8)
    same = (usual.labels[["race", "gender", "age"]] == ["Indian", "Female", "30-39"]).all(axis=1).to_numpy()
    gap = np.abs(drawn.features.mean(0) - usual.features[same].mean(0))
    assert gap.max() < 6 * drawn.features.std(0).max() / np.sqrt(same.sum())


@given(
    st.lists(st.floats(0, 5), min_size=7, max_size=7).filter(lambda shares: sum(shares) > 0.1),
    st.lists(st.floats(0.01, 5), min_size=2, max_size=2),
)
def test_shares_meet_every_entry_of_a_mix(races, genders):
    base = np.random.default_rng(0).dirichlet(np.ones(np.prod(SHAPE))).reshape(SHAPE)
    mix = {
        "race": dict(zip(RACE.classes, races, strict=True)),
        "gender": dict(zip(GENDER.classes, genders, strict=True)),
    }
    shares = shares_for(base, mix)
    np.testing.assert_allclose(shares.sum((1, 2)), np.array(races) / sum(races), atol=1e-5)
    np.testing.assert_allclose(shares.sum((0, 2)), np.array(genders) / sum(genders), atol=1e-5)


@pytest.mark.parametrize(
    "mix,said",
    [
        ({"gender": {"female": 1}}, "unknown gender 'female'"),
        ({"sex": {"Female": 1}}, "no column"),
        ({"gender": {"Female": -1, "Male": 2}}, "0 or more"),
        ({"gender": {"Female": float("nan")}}, "0 or more"),
        ({"gender": {"Female": "many"}}, "0 or more"),
        ({"gender": {"Female": 0}}, "sum to 0"),
        ({"gender": "Female"}, "share for each class"),
        ({("race", "gender"): {"Black": 1}}, "one class for each"),
        ({("race", "race"): {("Black", "Black"): 1}}, "no column"),
        ({"gender": {"Female": 1}, ("race", "gender"): {("Black", "Male"): 1}}, "contradict"),
    ],
)
def test_a_mix_that_makes_no_sense_is_a_clear_error(mix, said):
    with pytest.raises(ConfigError, match=said):
        toy_model().draw(10, mix=mix)


@pytest.mark.parametrize("n,seed", [(0, 0), (-3, 0), (5, -1)])
def test_numbers_that_make_no_sense_are_a_clear_error(n, seed):
    with pytest.raises(ConfigError, match="1 or more"):
        toy_model().draw(n, seed)


# Files


def test_a_saved_model_draws_the_same(tmp_path):
    model = toy_model()
    back = FeatureModel.load(model.save(tmp_path / "toy.safetensors"))
    np.testing.assert_array_equal(back.draw(50, seed=1).features, model.draw(50, seed=1).features)
    assert back.about["faces"] == len(toy())


def test_the_packaged_file_is_small_and_says_where_it_comes_from():
    assert PACKAGED_MODEL.stat().st_size < 2e6
    about = packaged().about
    assert about["licence"] == "CC BY 4.0" and about["min_faces"] >= 20 and about["faces"] > 10_000


def test_a_damaged_file_is_a_clear_error(tmp_path):
    path = toy_model().save(tmp_path / "toy.safetensors")
    whole = path.read_bytes()
    for damaged in (b"", b"no model", whole[: len(whole) // 2], whole[:200]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="damaged"):
            FeatureModel.load(path)
    with pytest.raises(DataError, match="does not exist"):
        FeatureModel.load(tmp_path / "nothing.safetensors")


def test_a_file_of_something_else_is_a_clear_error(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": np.ones(3, np.float32)}, path)
    with pytest.raises(DataError, match="format"):
        FeatureModel.load(path)
    save_file({"shares": toy_model().shares}, path, metadata={"about": json.dumps({"format": simulated.FORMAT})})
    with pytest.raises(DataError, match="no feature model"):
        FeatureModel.load(path)


@pytest.mark.parametrize("name,value", [("mean", np.inf), ("shares", -1.0)])
def test_numbers_that_no_model_has_are_refused(name, value):
    model = toy_model()
    arrays = {"shares": model.shares, **model.tensors}
    arrays[name] = np.full_like(arrays[name], value)
    with pytest.raises(DataError, match="no feature model"):
        FeatureModel(arrays.pop("shares"), arrays)
