"""The folder that is a model: whole or absent, the same for the same command, and whatever is wrong with it is said."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from damage import accidents, odd_json
from safetensors.torch import load_file, save_file
from tiny import SIDE, TinyNet, faces, features

from facekit.answers.model import load
from facekit.commands.cli import main
from facekit.commands.train import train
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import DataError, FacekitError, WeightsError
from facekit.files import sealed_json, sha256_of_file
from facekit.models.embedding import origin
from facekit.models.folder import FORMAT, MODEL, WEIGHTS, described, read
from facekit.training.methods import Supervised

OPTIONS = {"tasks": ["side", "level"], "backbone": "none", "epochs": 2, "lr": 0.05, "batch_size": 16, "hidden": 4}


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Embeddings with all three splits, on disk."""
    parts = [features(60), features(24, seed=1, split="validation"), features(24, seed=2, split="test")]
    labels = pd.concat([part.labels for part in parts])
    folder = tmp_path_factory.mktemp("stored") / "set"
    return FeatureSet(np.concatenate([part.features for part in parts]), labels, {"source": "noise"}).save(folder)


@pytest.fixture(scope="module")
def whole(stored, tmp_path_factory) -> Path:
    """A trained model."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert train(str(stored), out, method="soft", parameters={"strength": 0.5}, plan="everything", **OPTIONS) == 0
    return out


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy of it, to be damaged."""
    return shutil.copytree(whole, tmp_path / "run")


def about(folder: Path) -> dict:
    return json.loads((folder / MODEL).read_text(encoding="utf-8"))


def put(folder: Path, value: dict) -> None:
    """Writes `model.json` as facekit would: with its checksum."""
    (folder / MODEL).write_text(json.dumps(sealed_json(value)), encoding="utf-8")


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_it_says_everything_about_the_model(whole, stored):
    found, manifest = about(whole), json.loads((stored / "manifest.json").read_text())
    assert found["format"] == FORMAT and found["method"] == "soft" and found["parameters"] == {"strength": 0.5}
    assert found["network"] == {"backbone": None, "width": 6, "hidden": 4, "dropout": 0.0, "started_from": None}
    [part] = found["sets"]
    assert [(task["name"], task["classes"]) for task in part["tasks"]] == [("side", ["left", "right"]), ("level", [])]
    assert part["data"]["rows"] == {"train": 60, "validation": 24, "test": 24} and part["data"]["source"] == "noise"
    assert part["data"]["sha256"] == {name: file["sha256"] for name, file in manifest["files"].items()}
    assert part["input"] == {"kind": "feature set", "size": None, "shape": [6]}
    recipe = found["recipe"]
    assert (recipe["plan"], recipe["epochs"], recipe["lr"], recipe["seed"], recipe["processes"]) == (
        *("everything", 2, 0.05, 0),
        1,
    )
    assert set(recipe["moved"]) == {"layer_1", "heads"} and recipe["steps"] == 8
    assert found["weights"]["sha256"] == sha256_of_file(whole / WEIGHTS)
    assert found["versions"]["torch"] == torch.__version__
    scores = pd.DataFrame(found["scores"])
    assert (scores["low"] <= scores["value"]).all() and (scores["value"] <= scores["high"]).all()
    assert set(scores["split"]) == {"validation", "test"} and (scores["n"] == 24).all()


def test_weights_of_a_backbone_are_named_with_their_terms(tmp_path):
    from facekit.models.backbones.mini import PACKAGED_SHA256, PACKAGED_WEIGHTS

    short = {"tasks": "gender", "portraits": 16, "epochs": 1, "steps": 1, "batch_size": 4, "size": 32}
    train(out=tmp_path / "run", **short)
    shutil.copy(PACKAGED_WEIGHTS, tmp_path / "mine.safetensors")
    train(out=tmp_path / "mine", weights=tmp_path / "mine.safetensors", **short)
    one, other = (about(tmp_path / name)["network"]["started_from"] for name in ("run", "mine"))
    assert one["sha256"] == other["sha256"] == PACKAGED_SHA256
    assert one["file"] == PACKAGED_WEIGHTS.name and "non-commercial research" in one["licence"]
    assert other["file"] == "mine.safetensors" and other["licence"] == "not stated"
    [part] = about(tmp_path / "run")["sets"]
    assert part["framing"]["how"] == "rendered" and part["data"]["licence"] == "MIT"
    assert part["data"]["request"]["n"] == 16 and part["data"]["sha256"].keys() == {"inputs", "labels"}


@pytest.mark.parametrize(
    ("manifest", "how"),
    [
        ({}, "not known"),
        ({"request": {"align": True, "size": 96}, "reader": "folder"}, "aligned"),
        ({"request": {"align": False, "size": 160}, "reader": "fairface", "pixels": "whole photo, 160"}, "whole photo"),
        ({"request": {"n": 3}, "generator": {"name": "x", "version": 1}}, "rendered"),
        ({"drawn_with_seed": 4, "backbone": "facenet"}, "drawn embeddings"),
    ],
)
def test_it_says_how_the_faces_were_cut(manifest, how):
    found = described(
        None, FeatureSet(features(5).features, features(5).labels, manifest), [SIDE], {}, None, features(5)
    )
    told = {key: manifest.get(key) for key in ("reader", "pixels", "backbone", "embedded")}
    assert found["framing"] == {"how": how, **told, "stored": [6]}
    photos = FaceSet(faces(5).images, faces(5).labels, manifest)
    embedded = described(None, replace(photos, manifest=origin(photos, TinyNet())), [], {}, None, photos)["framing"]
    assert embedded["how"] == ("not known" if "drawn" in how else how) and embedded["backbone"] == "tiny"
    assert ("request" in found["data"]) == (how == "rendered"), "a packed set's request names its source's files"


def test_the_same_command_leaves_the_same_model(whole, stored, tmp_path):
    again = {"method": "soft", "parameters": {"strength": 0.5}, "plan": "everything", **OPTIONS}
    train(str(stored), tmp_path / "other", **again)
    for name in (MODEL, WEIGHTS):
        assert (whole / name).read_bytes() == (tmp_path / "other" / name).read_bytes(), name
    before = (tmp_path / "other" / MODEL).read_bytes()
    train(str(stored), tmp_path / "other", resume=True, **again)
    assert (tmp_path / "other" / MODEL).read_bytes() == before, "resuming what is done changes nothing"


def test_a_stopped_run_is_no_model_until_it_is_resumed(whole, stored, tmp_path, monkeypatch):
    steps, loss = iter(range(6)), Supervised.loss

    def stopping(*arguments):
        if next(steps, None) is None:
            raise KeyboardInterrupt
        return loss(*arguments)

    given = {"method": "soft", "parameters": {"strength": 0.5}, "plan": "everything", **OPTIONS}
    with monkeypatch.context() as patched:
        patched.setattr(Supervised, "loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            train(str(stored), tmp_path / "run", **given)
    assert not (tmp_path / "run" / MODEL).exists()
    with pytest.raises(DataError, match="training was stopped. To go on, give the same train command .*--resume true"):
        load(tmp_path / "run")
    train(str(stored), tmp_path / "run", resume=True, **given)
    assert (tmp_path / "run" / MODEL).read_bytes() == (whole / MODEL).read_bytes()


def test_any_accident_to_its_description_is_seen(folder):
    data = features(9, seed=5)
    outputs = load(folder).outputs(data)
    for accident in accidents(folder / MODEL, 200):
        try:
            found = load(folder)
        except DataError as error:
            assert MODEL in str(error) and len(str(error)) < 700, accident
        else:  # other blanks, the same values
            assert same(found.outputs(data), outputs) and found.about == load(folder).about, accident
    assert same(load(folder).outputs(data), outputs)


def test_whatever_a_description_says_is_used_or_refused_by_name(folder):
    """Its checksum is right: somebody wrote it by hand."""
    data, changed = features(9, seed=5), 0
    for value in odd_json(about(folder)):
        put(folder, value)
        try:
            model = load(folder)
            model.probabilities(data)
            repr(model)
        except FacekitError as error:
            assert str(folder) in str(error), error
            changed += 1
    assert changed > 500


@pytest.mark.parametrize("name", sorted({"method", "network", "sets", "recipe", "scores", "versions", "weights"}))
def test_every_entry_must_be_there(folder, name):
    value = about(folder)
    del value[name]
    put(folder, value)
    with pytest.raises(DataError, match=f"{MODEL} is damaged \\('{name}' is missing\\)"):
        read(folder)


def cuts(by_group, equal="selection_rate"):
    """A change of model.json: thresholds by group for its first task."""
    found = {"equal": equal, "groups": "kind", "by_group": by_group}
    return lambda a: a["sets"][0]["tasks"][0].update(thresholds=found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.update(format=FORMAT + 1), "has format 2, this facekit reads 1; install a newer facekit"),
        (lambda a: a.update(format=0), "has format 0, this facekit reads 1; train the model again"),
        (lambda a: a.update(method="magic"), "trained by another facekit: there is no method 'magic'; use one of"),
        (lambda a: a.update(method="coral"), "the method coral trains no network"),
        (lambda a: a.update(parameters={"x": 1}), "cannot be built .*soft has no parameter x"),
        (
            lambda a: a["network"].update(backbone="resnet"),
            "the backbone 'resnet': there is no network 'resnet'.*; this facekit has facenet, mini",
        ),
        (lambda a: a["network"].update(hidden=10**12), "larger than its weights"),
        (lambda a: a["sets"][0]["tasks"][0].update(kind="magic"), "unknown kind 'magic'; use .*multiclass"),
        (lambda a: a["sets"][0]["tasks"][0].update(classes=["left"]), "needs at least two different classes"),
        (lambda a: a["sets"][0]["tasks"][0].update(temperature=0), "a temperature is not above 0"),
        (cuts({"a": 0.5, "b": float("nan")}), "thresholds of side cannot be"),
        (cuts({"a": 0.5}, equal="luck"), "thresholds of side cannot be"),
        (cuts({}), "thresholds of side cannot be"),
        (lambda a: a["sets"][0]["tasks"][0].update(thresholds={"equal": "selection_rate"}), "'groups' is missing"),
        (lambda a: a["sets"][0]["input"].update(shape=[7]), r"inputs of \[7\]"),
        (lambda a: a["sets"].append(a["sets"][0]), r"sets are called \[None, None\]"),
        (lambda a: a.update(sets=[]), "sets are called"),
        (lambda a: a["weights"].update(file="../x"), "the weights are in '../x'"),
    ],
)
def test_what_this_facekit_does_not_know_is_named(folder, change, message):
    value = about(folder)
    change(value)
    put(folder, value)
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a["sets"][0]["tasks"][0].update(classes=["left", "right", "middle"]),
        lambda a: a["sets"][0]["tasks"][0].update(name="other"),
        lambda a: a["sets"][0]["tasks"].pop(),
        lambda a: a["network"].update(hidden=5),
        lambda a: a.update(method="hard", parameters={}),
    ],
)
def test_classes_and_layers_that_do_not_match_the_weights_are_named(folder, change):
    value = about(folder)
    change(value)
    put(folder, value)
    with pytest.raises(WeightsError, match="holds weights of another network than .*(missing|unknown|another shape)"):
        load(folder)


def test_other_weights_and_none_are_seen(folder):
    weights, whole = folder / WEIGHTS, (folder / WEIGHTS).read_bytes()
    for accident in accidents(weights, 40):
        with pytest.raises(DataError, match=rf"{WEIGHTS}(: | is not the file)"):
            load(folder)
            pytest.fail(accident)
    tensors = load_file(weights)
    save_file({name: value + 1 for name, value in tensors.items()}, weights)
    with pytest.raises(DataError, match="is not the file that model.json speaks of.*--resume true"):
        load(folder)
    weights.write_bytes(whole[:-8])
    put(folder, about(folder) | {"weights": {**about(folder)["weights"], "bytes": len(whole) - 8}})
    with pytest.raises(DataError, match="is not the file"):
        load(folder)
    value = about(folder)
    value["weights"]["sha256"] = sha256_of_file(weights)
    put(folder, value)
    with pytest.raises(WeightsError, match="cannot be read"):
        load(folder)


def test_what_is_no_model_is_told_apart(whole, folder, tmp_path):
    for place, message in {
        tmp_path / "nothing": "does not exist: a model is the folder that",
        folder / MODEL: "is a file; name the folder that it lies in",
        tmp_path: "holds a model for each set; name one of them: run",
    }.items():
        with pytest.raises(DataError, match=message):
            load(place)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no model"):
        load(tmp_path / "empty")
    (folder / MODEL).rename(folder / "metrics.json")
    with pytest.raises(DataError, match="trained by an older facekit.*--resume true, and it is added"):
        load(folder)


def test_somebody_elses_file_is_not_replaced(stored, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / MODEL).write_text("mine")
    options = [f"--{name}={value if name != 'tasks' else 'side'}" for name, value in OPTIONS.items()]
    assert main(["train", "--data", str(stored), *options, "--out", str(tmp_path / "run")]) == 2
    assert f"{tmp_path / 'run' / MODEL} is in the way" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [MODEL]
