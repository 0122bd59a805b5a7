"""The published model: its heads, its numbers, what its "noise" is; the commands that measure it, on toy photos."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from test_studies import TinyFace
from tiny import SIZE

from facekit.commands.cli import main
from facekit.data.catalogue import photos
from facekit.data.readers.utkface import UTK_RACE
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import DataError
from facekit.experiments import scores
from facekit.records import REFERENCE, recorded
from facekit.studies import reference, utkface
from facekit.tasks import GENDER, RACE
from facekit.transfer.probe import linear_probe

TASKS = (GENDER, UTK_RACE)
N = 150


def people(n: int = N, seed: int = 0) -> FeatureSet:
    """Features that tell gender and race, not perfectly, with the races as uneven as UTKFace's."""
    rng = np.random.default_rng(seed)
    race = rng.choice(5, n, p=[0.54, 0.06, 0.16, 0.14, 0.1])
    gender = rng.integers(0, 2, n)
    features = rng.normal(size=(n, 12)).astype(np.float32) * 0.7
    features[np.arange(n), race] += 1
    features[:, 6] += 1.5 * gender
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = {"gender": np.array(GENDER.classes)[gender], "utk_race": np.array(UTK_RACE.classes)[race]}
    years = rng.integers(1, 80, n)
    return FeatureSet(features, pd.DataFrame({**labels, "age_years": years, "split": "train"}))


def toy_photos(task) -> FaceSet:
    rng = np.random.default_rng(1)
    labels = people().labels.rename(columns={"utk_race": task.name})
    labels[task.name] = np.array(task.classes)[rng.integers(0, len(task.classes), N)]
    return FaceSet(rng.integers(0, 256, (N, 3, SIZE, SIZE), dtype=np.uint8), labels)


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Toy photos and a toy network instead of the real ones; records go to the folder that is returned."""
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    monkeypatch.setenv("FACEKIT_DEVICE", "cpu")
    monkeypatch.setattr("facekit.records.REFERENCE", tmp_path)
    sets = {"utkface": toy_photos(UTK_RACE), "fairface": toy_photos(RACE)}
    for module in (reference, utkface):
        monkeypatch.setattr(module, "photos", sets.__getitem__)
        monkeypatch.setattr(module, "FaceNet", TinyFace)
    monkeypatch.setattr(reference, "POOL", 120)
    return tmp_path


def test_outputs_are_normalised_over_the_batch_as_slim_does_it():
    torch.manual_seed(0)
    heads = reference.PublishedHeads(12, TASKS).train()
    x = F.normalize(torch.randn(200, 12))
    layer = heads.layers["utk_race"]
    with torch.no_grad():
        layer.bias.copy_(torch.arange(5.0))
        product = (x * 12**0.5).double() @ layer.linear.weight.double().T
        variance = product.var(0, correction=0)
        wanted = (product - product.mean(0)) / (variance + 0.001).sqrt() + torch.arange(5.0)
        assert torch.allclose(heads(x)["utk_race"].double(), wanted, atol=1e-5)
    # The moving averages move by 1 - 0.95 a batch, from 0 and 1 (of the variance by its unbiased estimate).
    assert torch.allclose(layer.norm.running_mean.double(), 0.05 * product.mean(0), atol=1e-6)
    assert torch.allclose(layer.norm.running_var.double(), 0.95 + 0.05 * product.var(0), atol=1e-5)


def test_a_hidden_layer_is_shared_by_the_tasks():
    torch.manual_seed(0)
    heads = reference.PublishedHeads(12, TASKS, hidden=6).eval()
    x = F.normalize(torch.randn(20, 12))
    added, own = heads.added[0], heads.layers["utk_race"]
    with torch.no_grad():
        hidden = (12**0.5 * x @ added.weight.T + added.bias).clamp_min(0)
        wanted = hidden @ own.linear.weight.T / (1 + 0.001) ** 0.5 + own.bias
        assert torch.allclose(heads(x)["utk_race"], wanted, atol=1e-5)
    assert heads.layers["gender"].linear.in_features == 6


def test_the_size_of_the_weights_does_not_matter_so_that_weight_decay_changes_only_the_step():
    torch.manual_seed(0)
    heads = reference.PublishedHeads(12, TASKS).train()
    x = F.normalize(torch.randn(64, 12))
    before = heads(x)["gender"]
    heads.layers["gender"].linear.weight.data *= 7
    assert torch.allclose(heads(x)["gender"], before, atol=0.02)


def test_the_softmax_is_never_sure():
    sides = torch.tensor([1.0, -1.0]).repeat(50)
    heads = reference.PublishedHeads(2, [GENDER]).train()
    heads.layers["gender"].linear.weight.data = torch.tensor([[1e3, 0.0], [-1e3, 0.0]])
    outputs = heads(torch.stack([sides, torch.zeros(100)], 1))["gender"]
    own = outputs.detach().softmax(1)[torch.arange(100), (sides < 0).long()]
    assert own.max() == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-3) and own.min() == pytest.approx(0.88, abs=5e-3)


def test_the_rebuilt_model_learns_what_a_linear_probe_learns():
    data = people(3000)
    train, test = data.select(range(2000)), data.select(range(2000, 3000))
    found = [
        scores(model, test, TASKS).query("metric == 'accuracy'").set_index("task")["value"]
        for model in (reference.train_published(train, TASKS, seed=0), linear_probe(train, TASKS, prior=1.0))
    ]
    assert (found[0] - found[1]).abs().max() < 0.03 and found[0]["gender"] > 0.8


def test_the_rebuilt_model_follows_its_seed():
    data = people(200)
    first, again, other = (
        reference.train_published(data, TASKS, seed, steps=4).heads.state_dict() for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["layers.gender.linear.weight"], other["layers.gender.linear.weight"])


def test_the_published_noise_is_gone_when_values_become_whole_numbers():
    values = np.arange(256)
    photo = FaceSet(np.tile(values.astype(np.uint8), (1, 3, 1, 1)), pd.DataFrame({"split": ["train"]}))
    dark = reference.darkened(photo).images[0, 0, 0]
    # cv2.addWeighted(image, 0.75, 0.25 * noise, 0.25, 0) with noise in [0, 1), then a cast to uint8
    for noise in np.random.default_rng(0).random((50, 256)):
        assert (dark == (0.75 * values + 0.25 * (0.25 * noise)).astype(np.uint8)).all()
    assert dark.max() == 191 and (photo.images == values).all()


def test_standardising_each_picture_takes_the_darkening_out_again():
    rng = np.random.default_rng(0)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(1, 3, 64, 64)), 2), 3)
    smooth = 255 * (smooth - smooth.min()) / (smooth.max() - smooth.min())
    photo = FaceSet(smooth.astype(np.uint8), pd.DataFrame({"split": ["train"]}))

    def standardised(images: np.ndarray) -> np.ndarray:
        return (images - images.mean()) / images.std()

    plain, dark = photo.images.astype(float), reference.darkened(photo).images.astype(float)
    assert np.abs(standardised(dark) - standardised(plain)).max() < 0.03
    assert np.abs(dark - plain).max() / 128 > 0.3, "with a fixed scaling it stays"


def test_what_is_said_of_the_published_figures_follows_from_its_counts():
    photos = {"White": 10078, "Black": 4528, "Asian": 3434, "Indian": 3976, "Other": 1692}
    repeated = sum(n * times for n, times in zip(photos.values(), (1, 2, 3, 3, 4), strict=True))
    assert (repeated, repeated * 8 // 10, repeated // 10) == (48132, 38505, 4813)
    for right, printed, name in ((1457, 0.906095, "gender"), (1352, 0.840796, "race")):
        share = right / (201 * 8)
        assert share == pytest.approx(printed, abs=1e-6) and round(share, 3) == reference.PUBLISHED[name]
        assert 0.014 < 1.96 * (share * (1 - share) / 1608) ** 0.5 < 0.0181


def test_changed_features_are_of_the_masked_photos_and_of_no_other(records):
    faces = toy_photos(UTK_RACE)
    features = reference.embed(TinyFace.from_pretrained(), faces)
    mask = np.arange(N) % 3 == 0
    changed = reference.changed_features(faces, features, mask)
    assert {name: len(several) for name, several in changed.items()} == {"noisy": 1, "darkened": 2}
    assert changed["darkened"][0] is features
    for several in changed.values():
        for other in several:
            if other is not features:
                assert np.isnan(other.features[~mask]).all() and np.isfinite(other.features[mask]).all()
                assert np.abs(other.features[mask] - features.features[mask]).max() > 1e-3
    dark = reference.embed(TinyFace.from_pretrained(), reference.darkened(faces))
    assert np.allclose(changed["darkened"][1].features[mask], dark.features[mask], atol=1e-5)


def test_a_change_of_some_races_on_both_sides_tells_the_race_and_in_training_only_it_misleads():
    data = people(1500)
    mask = data.labels["utk_race"].ne("White").to_numpy()
    sign = np.zeros_like(data.features)
    sign[:, 9] = 2.0  # an axis that has nothing to do with race
    other = FeatureSet(np.where(mask[:, None], data.features + sign, np.nan), data.labels)
    changed = {"noisy": [other], "darkened": [data, other]}
    rows = reference.measure_protocols(data, changed, TASKS, mask, seed=0, steps=150)
    accuracy = rows[rows["metric"] == "accuracy"].groupby(["protocol", "task"])["value"].mean()
    white = accuracy.xs("White", level="task")
    assert white["noise on both sides"] > 0.97 > white["honest"] + 0.05
    assert white["noise to learn from"] < white["honest"] - 0.1
    assert accuracy["noise on both sides", "race"] > accuracy["honest", "race"] + 0.03
    leaked = rows[rows["metric"] == "leaked"].groupby("protocol")["value"].mean()
    assert set(leaked[leaked > 0].index) == {"races repeated before the split", "repeated before, darkened"}
    assert leaked.max() > 0.7


def test_reference_records_every_protocol_on_both_sets(records):
    assert main(["record", "reference", "--steps", "3", "--seeds", "[0,3]"]) == 0
    record = recorded("reference_utkface", records)
    rows = record.rows
    assert list(rows.columns) == ["protocol", "data", "seed", "task", "metric", "value"]
    names = [protocol.name for protocol, _ in reference.PROTOCOLS]
    measures = {("White", "accuracy"), ("photos", "leaked")}
    measures |= set(itertools.product(["gender", "race"], ["accuracy", "balanced_accuracy"]))
    wanted = set(itertools.product(names, ["UTKFace", "FairFace"], [0, 3], measures))
    found = [(*key, measure) for *key, measure in _keys(rows, ["protocol", "data", "seed"])]
    assert len(found) == len(wanted) and set(found) == wanted
    assert rows["value"].between(0, 1).all()
    assert "150 photos" in record.about["data"] and "non-commercial" in record.about["data"]
    assert record.about["command"] == "python -m facekit record reference --steps 3 --seeds [0,3]"


def test_with_a_hidden_layer_it_is_another_record(records):
    options = ["--steps", "3", "--hidden", "4", "--data", '["UTKFace"]', "--seeds", "[0]"]
    assert main(["record", "reference", *options]) == 0
    record = recorded("reference_hidden", records)
    assert set(record.rows["data"]) == {"UTKFace"} and "shared layer of 4" in record.about["what"]
    assert """--hidden 4 --data '["UTKFace"]'""" in record.about["command"] and "FairFace" not in record.about["data"]
    assert main(["record", "reference", "--data", '["LFW"]']) == 2


def test_utkface_records_every_method_with_both_ways_to_ask_for_age(records):
    assert main(["record", "utkface", "--steps", "3", "--stages", '["block"]', "--seeds", "[0,1]"]) == 0
    record = recorded("utkface_tasks", records)
    rows = record.rows
    assert list(rows.columns) == ["features", "age", "method", "n", "seed", "task", "metric", "value", "seconds"]
    methods = ["single", "hard", "soft 0.01", "soft 0.1", "soft 1", "cross-stitch", "linear probe"]
    measures = {("age_years", "mae"), ("age_years", "mae_10_and_over")}
    metrics = ["accuracy", "balanced_accuracy", "accuracy_10_and_over"]
    measures |= set(itertools.product(["gender", "race"], metrics))
    by = ["features", "age", "method", "seed"]
    wanted = set(itertools.product(["embedding", "block"], ["regression", "expectation"], methods, [0, 1], measures))
    found = [(*key, measure) for *key, measure in _keys(rows, by)]
    assert len(found) == len(wanted) and set(found) == wanted
    assert rows.groupby("seed")["n"].nunique().eq(1).all() and (rows["n"] < N).all(), "the same rows for all"


def test_the_error_of_those_over_ten_is_that_of_those_over_ten():
    data = people(400)
    data.labels["age_years"] = np.where(np.arange(400) % 2, 5, 40)

    def always_forty(train, tasks, seed):
        class Constant(torch.nn.Module):
            def forward(self, x):
                return {task.name: torch.full((len(x), task.n_outputs), 4.0) for task in tasks}

        return Constant()

    rows = utkface.measure_ages(data, data, utkface.AGES["regression"], {"constant": always_forty}, seed=0)
    error = rows[rows["task"] == "age_years"].set_index("metric")["value"]
    assert error.to_dict() == pytest.approx({"mae": 35 / 2, "mae_10_and_over": 0}, abs=1e-4)
    first = rows[rows["task"] == "gender"].set_index("metric")["value"]  # equal outputs: always the first class
    grown = data.labels[data.labels["age_years"] == 40]["gender"]
    assert first["accuracy_10_and_over"] == pytest.approx(grown.eq("Male").mean())


@pytest.mark.parametrize("name", ["reference", "utkface"])
def test_without_real_photos_the_commands_say_what_is_missing(name, monkeypatch, capsys, tmp_path):
    photos.cache_clear()
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FACEKIT_DATA", str(tmp_path))
    assert main(["record", name]) == 2
    assert "UTKFACE.md" in capsys.readouterr().err
    monkeypatch.setenv("FACEKIT_PROFILE", "laptop")
    assert main(["record", name]) == 2
    assert "FACEKIT_PROFILE=full" in capsys.readouterr().err
    monkeypatch.delenv("FACEKIT_DATA")
    with pytest.raises(DataError, match="UTKFace's crops"):
        photos("utkface")


@pytest.mark.parametrize(
    "name, data", [("reference_utkface", {"UTKFace", "FairFace"}), ("reference_hidden", {"UTKFace"})]
)
def test_the_recorded_reference_is_whole(name, data):
    rows = recorded(name).rows
    names = {protocol.name for protocol, _ in reference.PROTOCOLS}
    assert set(rows["protocol"]) == names and set(rows["seed"]) == set(reference.SEEDS) and set(rows["data"]) == data
    assert rows.groupby(["data", "protocol", "seed"]).size().eq(6).all()
    leaked = rows[rows["metric"] == "leaked"].groupby("protocol")["value"].max()
    assert set(leaked[leaked > 0].index) == {"races repeated before the split", "repeated before, darkened"}


@pytest.mark.skipif(not (REFERENCE / "utkface_tasks.json").exists(), reason="not recorded yet")
def test_the_recorded_tasks_are_whole_and_sharing_was_given_the_same_rows():
    rows = recorded("utkface_tasks").rows
    assert rows.groupby(["features", "age", "method", "seed"]).size().eq(8).all()
    assert rows.groupby("seed")["n"].nunique().eq(1).all() and set(rows["seed"]) == set(reference.SEEDS)


def _keys(rows: pd.DataFrame, by: list[str]):
    measure = list(zip(rows["task"], rows["metric"], strict=True))
    return zip(*(rows[key] for key in by), measure, strict=True)
