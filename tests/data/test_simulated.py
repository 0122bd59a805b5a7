"""Drawn features: laws of the draws, mixes, files, and the rule that no statistic rests on fewer than 20 faces."""

from __future__ import annotations

import json
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
from damage import accidents
from hypothesis import assume, example, given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score
from threadpoolctl import ThreadpoolController

from facekit.data.features import model as simulated
from facekit.data.features.fit import MIN_FACES, cell_shares, fit_features
from facekit.data.features.model import CHUNK, COLUMNS, PACKAGED_MODEL, SHAPE, FeatureModel, shares_for
from facekit.data.pack import pack
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.files import unseal
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.tasks import AGE_BAND, GENDER, RACE
from facekit.training.scoring import predict
from facekit.transfer.probe import linear_probe

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


@pytest.mark.parametrize("model", [toy_model, packaged])
def test_rows_are_those_of_a_draw_row_by_row(model):
    """The meaning of a seed, written down a second time and plainly: what lessons have stored rests on it."""
    model, seed, chunk = model(), 5, 1
    rng = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(chunk,))))

    def choose(shares: np.ndarray, number: float) -> int:
        borders = np.cumsum(shares)
        return int(np.argmax((borders > number) | (borders == borders[-1])))

    cells = [choose(shares_for(model.shares, None).ravel(), number) for number in rng.random(CHUNK)]
    label = np.stack(np.unravel_index(cells, SHAPE), axis=1)
    tables = [model.tensors[f"looks_{task.name}"] for task in COLUMNS]
    looks = np.array(
        [[choose(tables[i][k], u) for k, u in zip(label[:, i], rng.random(CHUNK), strict=True)] for i in range(3)]
    )
    noise = rng.standard_normal((CHUNK, len(model.tensors["mean"])), dtype=np.float32).astype(float)
    # The noise goes to the rows in the order of the race and gender that they look like.
    order = sorted(range(CHUNK), key=lambda row: (looks[0, row], looks[1, row]))
    drawn = model.draw(2 * CHUNK, seed=seed)
    np.testing.assert_array_equal(codes(drawn)[CHUNK:], label)
    for own, row in list(zip(noise, order, strict=True))[::7]:
        race, gender, age = looks[:, row]
        place = model.cell_means[np.ravel_multi_index((race, gender, age), SHAPE)].astype(float)
        place = place + model.tensors["factor"][race, gender].astype(float) @ own
        expected = place / np.linalg.norm(place) @ model.tensors["axes"].astype(float)
        np.testing.assert_allclose(drawn.features[CHUNK + row], expected, atol=2e-6)


@given(
    st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=4),
    st.lists(st.floats(0, 1, exclude_max=True), max_size=30),
)
def test_a_number_chooses_the_class_whose_interval_it_falls_into(shares, numbers):
    shares = np.array(shares)
    assume((shares.sum(axis=1) > 1e-3).all())
    shares /= shares.sum(axis=1, keepdims=True)
    borders = np.cumsum(shares, axis=1)
    pieces = np.floor(borders.ravel() * simulated.PIECES) / simulated.PIECES
    edges = np.concatenate([borders.ravel(), pieces, pieces + 1 / simulated.PIECES, [0, 1]])
    near = np.concatenate([edges, np.nextafter(edges, 0)])
    numbers = np.concatenate([numbers, near[(near >= 0) & (near < 1)]])
    choice = simulated._Choice(shares)
    for row, own in enumerate(borders):
        # A number above the last border, which rounding may leave, chooses the last class that has a share.
        expected = ((own > numbers[:, None]) | (own == own[-1])).argmax(axis=1)
        np.testing.assert_array_equal(choice(np.full(len(numbers), row), numbers), expected)


def test_a_draw_leaves_the_threads_of_matrix_products_as_they_were():
    def threads() -> list[int]:
        return [library["num_threads"] for library in ThreadpoolController().info() if library["user_api"] == "blas"]

    with ThreadpoolController().limit(limits=2, user_api="blas"):
        before = threads()
        with ThreadPoolExecutor(4) as pool:
            drawn = list(pool.map(lambda seed: toy_model().draw(2 * CHUNK, seed), [0, 1, 0, 1]))
        assert threads() == before
    for seed in (0, 1):
        np.testing.assert_array_equal(drawn[seed].features, drawn[seed + 2].features)
        np.testing.assert_array_equal(drawn[seed].features, toy_model().draw(2 * CHUNK, seed).features)


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


def test_faces_scatter_as_their_race_and_gender_do():
    """Every row gets the factor of the cell that it looks like: here every cell looks like itself, and scatters by
    an amount of its own so small that setting the length to 1 changes nothing."""
    model = toy_model()
    sizes = 1e-3 * np.arange(1, 15).reshape(SHAPE[:2])
    looks = {f"looks_{task.name}": np.eye(size, dtype=np.float32) for task, size in zip(COLUMNS, SHAPE, strict=True)}
    factor = (sizes[:, :, None, None] * np.eye(AXES)).astype(np.float32)
    model = FeatureModel(model.shares, {**model.tensors, **looks, "factor": factor})
    drawn = model.draw(30_000, seed=3)
    cells = codes(drawn)
    means = model.cell_means[np.ravel_multi_index(cells.T, SHAPE)].astype(float)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    away = (drawn.features @ model.tensors["axes"].T - means / length) * length
    for race, gender in np.ndindex(SHAPE[:2]):
        own = away[(cells[:, :2] == [race, gender]).all(axis=1)]
        # One of the dimensions, that of the length, is taken away.
        expected = sizes[race, gender] * np.sqrt(AXES - 1)
        assert np.sqrt((own**2).sum(1).mean()) == pytest.approx(expected, rel=4 / np.sqrt(2 * len(own) * (AXES - 1)))


@pytest.mark.parametrize("axis", range(3))
def test_some_faces_look_like_others_as_often_as_the_looks_say(axis):
    """Where nothing scatters, a drawn row shows which cell it looks like."""
    model, task = toy_model(), COLUMNS[axis]
    model = FeatureModel(model.shares, {**model.tensors, "factor": np.zeros_like(model.tensors["factor"])})
    drawn = model.draw(20_000, seed=4)
    means = model.cell_means / np.linalg.norm(model.cell_means, axis=1, keepdims=True)
    seen = np.unravel_index((drawn.features @ model.tensors["axes"].T @ means.T).argmax(1), SHAPE)[axis]
    label = codes(drawn)[:, axis]
    for code, shares in enumerate(model.tensors[f"looks_{task.name}"]):
        counts = np.bincount(seen[label == code], minlength=SHAPE[axis])
        assert not counts[shares == 0].any()
        assert np.abs(counts / counts.sum() - shares).max() < 4 * np.sqrt(0.25 / counts.sum())


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


@example(races=[0.0, 0.0, 0.0, 0.0, 1.0, 0.5, 5e-324], genders=[1.0, 1.0])
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


def test_whatever_happens_to_a_model_it_is_told_or_nothing_changes(tmp_path):
    path = toy_model().save(tmp_path / "toy.safetensors")
    before = FeatureModel.load(path)
    for what in accidents(path, 150):
        try:
            found = FeatureModel.load(path)
        except DataError as error:
            assert any(words in str(error) for words in ("features fit", "fit it again")), what
        else:
            assert found.about == before.about and np.array_equal(found.shares, before.shares), what
            assert all(np.array_equal(found.tensors[name], before.tensors[name]) for name in before.tensors), what


def test_the_packaged_model_carries_its_hash():
    assert len(unseal(PACKAGED_MODEL.read_bytes())["sha256"]) == 64


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


# Fitting, and the rule that no statistic rests on fewer than 20 faces


@given(st.lists(st.integers(0, 60), min_size=126, max_size=126))
def test_every_share_rests_on_enough_faces(numbers):
    counts = np.array(numbers).reshape(SHAPE)
    assume(counts.sum() >= MIN_FACES)  # `fit_features` drops classes with fewer, so there is no less
    shares, behind = cell_shares(counts, MIN_FACES)
    assert (behind >= MIN_FACES).all()
    np.testing.assert_allclose(shares.sum(), 1)
    own = behind == counts
    np.testing.assert_allclose(shares[own], counts[own] / counts.sum(), atol=1e-12)
    pool = ~own
    np.testing.assert_allclose(shares[pool].sum(), counts[pool].sum() / counts.sum(), atol=1e-12)


def test_the_counts_of_rare_cells_cannot_be_read_from_the_shares():
    counts = np.full(SHAPE, 40)
    counts[0, 0, :4] = 3, 9, 12, 0
    moved = counts.copy()
    moved[0, 0, :4] = 12, 3, 9, 0  # the same rare faces in other cells; margins of age bands change a little
    one, other = (cell_shares(table, MIN_FACES)[0] for table in (counts, moved))
    same = [0, 1, 2]
    assert np.ptp(one[0, 0, same]) / one[0, 0, same].mean() < 0.1, "a rare cell shows its own count"
    np.testing.assert_allclose(one[counts >= MIN_FACES], other[counts >= MIN_FACES])


def test_a_pair_of_classes_with_few_faces_adds_nothing_of_its_own():
    cells, model = codes(toy()), toy_model()
    few = 0
    for name, axes in {"race_gender": (0, 1), "gender_age": (1, 2), "race_age": (0, 2)}.items():
        sizes = [SHAPE[axis] for axis in axes]
        counts = np.bincount(np.ravel_multi_index(cells[:, axes].T, sizes), minlength=np.prod(sizes)).reshape(sizes)
        rare = counts < MIN_FACES
        few += rare.sum()
        assert not model.tensors[name][rare].any()
        assert np.abs(model.tensors[name][~rare]).max(axis=1).all()
    assert few > 10, "the toy must have rare pairs"


def test_a_race_and_gender_with_few_faces_scatters_as_one_without_any():
    group = codes(toy())[:, 0] * 2 + codes(toy())[:, 1]
    few, none = 4 * 2 + 1, 5 * 2 + 1
    dropped = np.flatnonzero(group == few)[MIN_FACES - 1 :]
    data = toy().select(np.setdiff1d(np.arange(len(toy())), [*dropped, *np.flatnonzero(group == none)]))
    factors = fit_features(data).tensors["factor"].reshape(14, AXES, AXES)
    np.testing.assert_array_equal(factors[few], factors[none])
    for other in np.flatnonzero(np.bincount(group, minlength=14) >= MIN_FACES):
        assert other in (few, none) or np.abs(factors[other] - factors[none]).max() > 1e-3


def test_one_face_of_a_rare_cell_moves_no_statistic_more_than_one_of_twenty_would():
    data, cells = toy(), codes(toy())
    counts = table(data)
    rare = np.flatnonzero(counts[tuple(cells.T)] < 5)[:8]
    assert len(rare) == 8
    model, share = toy_model(), toy_model().shares
    for row in rare:
        x = data.features.copy()
        x[row] = -x[row]  # as far away as a face can be: at a distance of 2
        changed = fit_features(replace(data, inputs=x))
        np.testing.assert_array_equal(changed.shares, share)
        for name in ("mean", "race", "gender", "age", "race_gender", "gender_age", "race_age"):
            # In the space of features, whatever the axes.
            now, before = (each.tensors[name] @ each.tensors["axes"] for each in (changed, model))
            assert np.linalg.norm(now - before, axis=-1).max() < 2 / MIN_FACES, name


def test_a_class_with_few_faces_is_not_in_the_model():
    data = toy()
    rare = np.flatnonzero((data.labels["race"] == "Indian").to_numpy())
    assert len(rare) > MIN_FACES
    kept = np.setdiff1d(np.arange(len(data)), rare[MIN_FACES - 1 :])
    model = fit_features(data.select(kept))
    without = fit_features(data.select(np.setdiff1d(kept, rare)))
    np.testing.assert_array_equal(model.shares, without.shares)
    for name, values in without.tensors.items():
        np.testing.assert_array_equal(model.tensors[name], values)
    assert model.shares[RACE.classes.index("Indian")].sum() == 0
    assert "Indian" not in set(model.draw(5000).labels["race"])
    with pytest.raises(ConfigError, match="no population"):
        model.draw(10, mix={"race": {"Indian": 1}})


def test_faces_without_a_label_do_not_count():
    data = toy()
    labels = data.labels.copy()
    labels.loc[:99, "age"] = None
    model = fit_features(replace(data, labels=labels))
    alone = fit_features(data.select(np.arange(100, len(data))))
    np.testing.assert_array_equal(model.draw(20).features, alone.draw(20).features)


def test_the_axes_hold_what_they_promise():
    axes = toy_model().tensors["axes"]
    np.testing.assert_allclose(axes @ axes.T, np.eye(AXES), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(toy().features @ axes.T, axis=1), 1, atol=1e-3)


@pytest.mark.parametrize("spoil", [lambda x: 2 * x, lambda x: x * np.nan])
def test_features_of_another_length_are_a_clear_error(spoil):
    with pytest.raises(DataError, match="length 1"):
        fit_features(replace(toy(), inputs=spoil(toy().features)))


def test_too_few_faces_are_a_clear_error():
    with pytest.raises(DataError, match="no face|too few"):
        fit_features(toy().select(range(30)))


@pytest.mark.parametrize("wrong", [{"min_faces": 1}, {"kept": 1.0}, {"directions": 0}])
def test_settings_that_make_no_sense_are_a_clear_error(wrong):
    with pytest.raises(ConfigError, match="min_faces"):
        fit_features(toy(), **wrong)


# What the model says about the faces it was fitted to


def test_the_density_is_that_of_a_mixture_of_normals():
    model, rows = toy_model(), toy().select(range(5))
    place = rows.features.astype(float) @ model.tensors["axes"].T.astype(float)
    looks = [model.tensors[f"looks_{task.name}"].astype(float) for task in COLUMNS]
    for x, label, value in zip(place, codes(rows), model.log_density(rows), strict=True):
        total = 0.0
        for cell, (race, gender, age) in enumerate(np.ndindex(SHAPE)):
            share = looks[0][label[0], race] * looks[1][label[1], gender] * looks[2][label[2], age]
            if share:
                factor = model.tensors["factor"][race, gender].astype(float)
                total += share * multivariate_normal(model.cell_means[cell], factor @ factor.T).pdf(x)
        assert value == pytest.approx(np.log(total), rel=1e-4)


def test_a_density_needs_labels_and_the_right_length():
    rows = toy().select(range(3))
    with pytest.raises(DataError, match="density"):
        toy_model().log_density(replace(rows, inputs=rows.features[:, :-1]))
    with pytest.raises(DataError, match="density"):
        toy_model().log_density(replace(rows, labels=rows.labels.assign(age=None)))


def test_the_model_does_not_tell_who_it_was_fitted_to():
    seen, unseen = toy_model().log_density(toy()), toy_model().log_density(toy(seed=1))
    area = roc_auc_score(np.repeat([1, 0], [len(seen), len(unseen)]), np.concatenate([seen, unseen]))
    assert abs(area - 0.5) < 0.02


def test_no_drawn_row_is_a_row_of_the_data():
    drawn = toy_model().draw(6000).features
    nearest = (drawn @ toy().features.T).max(1)
    usual = (toy(seed=1).features @ toy().features.T).max(1)
    assert nearest.max() < 1 - 1e-7
    # Drawn rows come no closer to the data than other people do.
    assert np.quantile(nearest, 0.99) <= np.quantile(usual, 0.99) + 1e-3


def test_what_is_learned_from_drawn_features_works_on_real_photos(real_data, tmp_path):
    """FaceNet's own embeddings of 200 photos that took no part in the fit."""
    source = real_data / "fairface"
    small = tmp_path / "small.zip"
    with zipfile.ZipFile(next(source.glob("*.zip"))) as archive, zipfile.ZipFile(small, "w") as some:
        for name in [name for name in archive.namelist() if "val/" in name and name.endswith(".jpg")][:200]:
            some.writestr(name, archive.read(name))
    faces = pack(small, tmp_path / "packed", kind="fairface", labels=source)
    features = embed(FaceNet.from_pretrained(), faces, flip=True)
    axes = packaged().tensors["axes"]
    assert np.linalg.norm(features.features @ axes.T, axis=1).min() > 0.9995
    probe = linear_probe(packaged().draw(4000), COLUMNS)
    for task, least in ((GENDER, 0.75), (RACE, 0.45), (AGE_BAND, 0.35)):  # a guess gets 0.53, 0.2 and 0.3
        predicted = task.predict(predict(probe, features)[task.name])
        assert (predicted == features.targets([task])[task.name]).float().mean() > least
