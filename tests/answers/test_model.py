"""A trained model that is loaded gives what it was scored by, on any machine, and says what it cannot answer."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from tiny import faces, features

import facekit
from facekit.answers import model as module
from facekit.answers.model import Model, load
from facekit.commands import train as command
from facekit.commands.cli import main
from facekit.commands.train import train
from facekit.course.profiles import SMALL_RENDERERS
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.calibration import fit_temperature
from facekit.evaluation.metrics import evaluate
from facekit.models.embedding import state_hash
from facekit.transfer.table import ALONE, table

TRAINED = {key: each for key, each in table().items() if each.trains}
EMBEDDINGS = {"tasks": ["side", "level"], "backbone": "none", "epochs": 2, "lr": 0.05, "batch_size": 16, "hidden": 4}
DOMAINS = {"skin": "lesion,box", "words": "text"}


def joined(kind: type, *parts):
    """Parts of a set as one."""
    return kind(np.concatenate([part.inputs for part in parts]), pd.concat([part.labels for part in parts]))


def with_all_splits(make, kind: type):
    return joined(kind, make(60), make(40, seed=1, split="validation"), make(28, seed=2, split="test"))


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Sets on disk: embeddings, photos, two domains, and photos beside sketches."""
    home = tmp_path_factory.mktemp("sets")
    with_all_splits(features, FeatureSet).save(home / "features")
    with_all_splits(faces, FaceSet).resized(40).save(home / "faces")
    for name in DOMAINS:
        SMALL_RENDERERS[name]((20, 8, 8), 0).save(home / name)
    for seed, (name, style) in enumerate({"source": "photo", "target": "sketch"}.items()):
        render_portraits((24, 8, 8), seed, 32, style).save(home / name)
    return home


def options_for(key: str, home: Path) -> dict:
    """How `train` is called for a method of the table, whatever it learns from."""
    each = TRAINED[key]
    short = {"method": key, "epochs": 1, "steps": 2, "lr": 0.01}
    if each.names == () and ALONE not in each.unlabelled:
        groups = {"groups": "colour"} if each.grouped else {}
        return {**EMBEDDINGS, **groups, "method": key, "data": str(home / "features"), "plan": "everything"}
    if each.names == ():
        return {**short, "data": str(home / "faces"), "tasks": [], "size": 32, "batch_size": 8}
    if each.names is None:
        return {**short, "data": {name: str(home / name) for name in DOMAINS}, "tasks": DOMAINS, "batch_size": 12}
    data = {name: str(home / name) for name in each.names}
    return {**short, "data": data, "tasks": {"source": "gender"}, "size": 32, "batch_size": 16}


@pytest.fixture
def seen(monkeypatch) -> list:
    """What every scoring of the command gave: its rows and its outputs."""
    found, scored = [], command.predict

    def spy(model, data, **how):
        found.append((data, scored(model, data, **how)))
        return found[-1][1]

    monkeypatch.setattr(command, "predict", spy)
    return found


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def check(model: Model, data, seen: list, name: str | None = None) -> None:
    """Outputs are those of the scoring bit for bit, and the stored scores come of them."""
    scores = model.scores if name is None else model.scores[model.scores["set"] == name]
    for split in ("validation", "test"):
        part = data.split(split)
        outputs = model.outputs(part)
        assert any(same(outputs, before) for _, before in seen), split
        assert all(values.dtype == torch.float32 and len(values) == len(part) for values in outputs.values())
        found = evaluate(model.tasks, outputs, part.targets(model.tasks))
        stored = scores[scores["split"] == split].reset_index(drop=True)
        pd.testing.assert_frame_equal(stored[found.columns], found, check_exact=True, check_dtype=False)


@pytest.mark.parametrize("key", TRAINED)
def test_what_is_loaded_answers_as_it_was_scored_bit_for_bit(key, home, tmp_path, seen):
    options, each = options_for(key, home), TRAINED[key]
    assert train(out=tmp_path / "run", **options) == 0
    if ALONE in each.unlabelled:
        with pytest.raises(ConfigError, match="has no answers: contrastive learns without labels.*--weights"):
            load(tmp_path / "run")
        return
    if each.names == ():
        return check(load(tmp_path / "run"), FeatureSet.load(home / "features"), seen)
    if each.names is not None:
        return check(load(tmp_path / "run"), FaceSet.load(home / "source"), seen, "source")
    if getattr(each, "together", True):
        whole = load(tmp_path / "run")
        assert whole.sets == tuple(DOMAINS) and "only('skin')" in error_of(whole.outputs, FaceSet.load(home / "skin"))
    else:
        assert "a model for each set; name one of them: skin, words" in error_of(load, tmp_path / "run")
    for name in DOMAINS:
        model = whole.only(name) if getattr(each, "together", True) else load(tmp_path / "run" / name)
        assert [task.name for task in model.tasks] == DOMAINS[name].split(",")
        check(model, FaceSet.load(home / name), seen, name)


def error_of(function, *arguments) -> str:
    with pytest.raises((ConfigError, DataError)) as found:
        function(*arguments)
    return str(found.value)


@pytest.mark.parametrize(
    "options",
    [
        {"plan": "last_layer", "hidden": 3, "dropout": 0.2},
        {"method": "soft", "plan": "everything"},
        {"method": "cross_stitch", "plan": "everything", "precision": "bf16", "channels_last": True},
        {"plan": "scratch", "size": [32, 48], "tasks": "level", "augment": True},
    ],
)
def test_photos_are_answered_as_they_were_scored(options, home, tmp_path, seen):
    given = {"tasks": "colour,side", "epochs": 1, "steps": 2, "batch_size": 8, "lr": 0.01} | options
    train(str(home / "faces"), tmp_path / "run", **given)
    model, data = load(tmp_path / "run"), FaceSet.load(home / "faces")
    check(model, data, seen)
    part = data.split("test")
    wide = F.interpolate(torch.from_numpy(np.array(part.images)).float(), (80, 80), mode="nearest")
    doubled = replace(part, inputs=wide.to(torch.uint8).numpy())
    shape = model.about["sets"][0]["input"]["shape"][1:]
    assert same(model.outputs(doubled), model.outputs(doubled.resized(tuple(shape)))), "photos are resized"


@pytest.fixture(scope="module")
def trained(home, tmp_path_factory) -> Path:
    """A model of embeddings, of classes and of numbers."""
    out = tmp_path_factory.mktemp("models") / "run"
    train(str(home / "features"), out, **{**EMBEDDINGS, "epochs": 12})
    return out


def test_nothing_but_two_files_is_needed_and_nothing_of_the_caller_changes(trained, home, tmp_path):
    (tmp_path / "moved").mkdir()
    for name in ("model.json", "best.safetensors"):
        shutil.copy(trained / name, tmp_path / "moved")
    assert str(home) not in (trained / "model.json").read_text() and str(trained) not in json.dumps(load(trained).about)
    state = torch.get_rng_state()
    model = facekit.load(str(tmp_path / "moved"))
    assert torch.equal(state, torch.get_rng_state())
    assert not model.network.training and not any(p.requires_grad for p in model.network.parameters())
    data = FeatureSet.load(home / "features")
    assert same(model.outputs(data), load(trained).outputs(data))
    assert state_hash(model.network) == state_hash(load(trained).network)


def test_facekit_alone_loads_nothing():
    code = (
        "import sys, facekit\n"
        "assert not [name for name in sys.modules if name.startswith(('torch', 'facekit.'))]\n"
        "assert 'load' in dir(facekit) and not hasattr(facekit, 'save')\n"
        "assert facekit.load.__module__ == 'facekit.answers.model'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_set_of_any_size_goes_through_in_parts(trained, home, monkeypatch):
    model, data = load(trained), FeatureSet.load(home / "features")
    many = data.select(np.arange(1000) % len(data))
    whole = model.outputs(many)
    rows, predict = [], module.predict
    monkeypatch.setattr(module, "predict", lambda net, part, *how: rows.append(len(part)) or predict(net, part, *how))
    monkeypatch.setattr(module, "AT_ONCE", module.BATCH)
    assert same(model.outputs(many), whole) and rows == [256, 256, 256, 232]
    assert [place for place, _ in model.batches(many)][-1] == slice(768, 1000)


def test_probabilities_are_outputs_by_the_temperature_that_fits_validation(trained, home):
    model, data = load(trained), FeatureSet.load(home / "features")
    part, side = data.split("validation"), model.tasks[0]
    outputs, targets = model.outputs(part)["side"], part.targets([side])["side"]
    heat = model.temperatures["side"]
    assert heat == pytest.approx(fit_temperature(outputs, targets)) and model.temperatures["level"] is None
    found = model.probabilities(part)
    assert found.keys() == {"side"} and found["side"].dtype == torch.float32
    assert torch.allclose(found["side"], (outputs / heat).softmax(1), atol=1e-6)
    assert torch.equal(found["side"].argmax(1), side.predict(outputs)), "no answer changes"
    loss = partial(F.cross_entropy, target=targets)
    assert loss(outputs / heat) <= min(loss(outputs), loss(outputs / (1.1 * heat)), loss(outputs / (0.9 * heat)))


@pytest.mark.parametrize("rows", [0, 19, 20])
def test_no_temperature_is_fitted_on_a_few_labels(rows, home, tmp_path):
    data = FeatureSet.load(home / "features")
    place = np.flatnonzero(data.labels["split"] == "validation")
    data.labels.loc[place[rows:], "split"] = "test"
    data.save(tmp_path / "set")
    train(str(tmp_path / "set"), tmp_path / "run", **EMBEDDINGS)
    model = load(tmp_path / "run")
    assert (model.temperatures["side"] is not None) == (rows == 20)
    part = data.split("test")
    if rows < 20:
        assert torch.allclose(model.probabilities(part)["side"], model.outputs(part)["side"].softmax(1), atol=1e-6)


def test_what_it_cannot_answer_is_said(trained, home):
    model, data = load(trained), FeatureSet.load(home / "features")
    assert "takes embeddings of 6 numbers, a FeatureSet, got a face set" in error_of(model.outputs, faces(3))
    assert "got a feature set of shape (5, 7)" in error_of(model.outputs, features(5, dim=7))
    assert "has no rows" in error_of(model.outputs, data.select([]))
    assert "has no domain 'skin'; it has no names" in error_of(model.only, "skin")
    assert repr(model) == f"Model {trained}: side (left, right); level (regression)"


def test_a_model_of_photos_takes_no_embeddings(home, tmp_path):
    options = {"tasks": "colour", "plan": "scratch", "epochs": 1, "steps": 1, "size": 32}
    train(str(home / "faces"), tmp_path / "run", **options)
    model = load(tmp_path / "run")
    assert "takes photos, a FaceSet, got a feature set" in error_of(model.probabilities, features(3))
    assert model.about["network"]["started_from"] is None, "with scratch nothing was there before"


def test_thresholds_by_group_are_fitted_on_validation_kept_and_used(tmp_path, capsys):
    rng = np.random.default_rng(0)
    n = 1200
    side, kind = rng.integers(0, 2, n), rng.choice(["a", "b", "rare"], n, p=[0.6, 0.39, 0.01])
    inputs = rng.normal(size=(n, 6)).astype(np.float32)
    inputs[:, 0] += np.where(kind == "a", 1.5, 0.4) * (2 * side - 1) + np.where(kind == "b", 0.8, 0.0)
    labels = pd.DataFrame({"side": np.array(["left", "right"])[side], "kind": kind})
    labels["split"] = rng.choice(["train", "validation", "test"], n, p=[0.4, 0.3, 0.3])
    labels.loc[:2, "kind"] = None
    FeatureSet(inputs, labels).save(tmp_path / "set")
    run = ["train", "--data", str(tmp_path / "set"), "--backbone", "none", "--tasks", "side", "--epochs", "4"]
    run += ["--lr", "0.05", "--out", str(tmp_path / "run")]
    assert main([*run, "--equal", "true_positive_rate"]) == 2 and "name the label column" in capsys.readouterr().err
    assert main([*run, "--groups", "kind"]) == 2 and "looks at none" in capsys.readouterr().err
    assert main([*run, "--groups", "kind", "--equal", "true_positive_rate"]) == 0
    assert "0.5 for rare" in capsys.readouterr().out

    model = load(tmp_path / "run")
    found = model.thresholds["side"]
    assert (found["equal"], found["groups"], set(found["by_group"])) == ("true_positive_rate", "kind", {"a", "b"})
    held = FeatureSet.load(tmp_path / "set").split("validation")
    outputs, targets = model.outputs(held), held.targets(model.tasks)["side"].numpy()
    groups = held.labels["kind"].reset_index(drop=True)
    said = model.decided("side", outputs, groups)
    plain = model.tasks[0].predict(outputs["side"]).numpy()
    rates = {name: [x[(groups == name) & (targets == 1)].mean() for x in (plain, said)] for name in ("a", "b")}
    assert abs(rates["a"][0] - rates["b"][0]) > 0.05 > 0.02 > abs(rates["a"][1] - rates["b"][1])
    other = ~groups.isin(["a", "b"]).to_numpy()
    assert other.sum() >= 3 and (said[other] == plain[other]).all(), "without a threshold the answer is the usual one"
    with pytest.raises(DataError, match="must match"):
        model.decided("side", outputs, groups[1:])
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "set"), "--out", str(tmp_path / "answers.csv")]) == 0
    assert "keeps thresholds of side by kind" in capsys.readouterr().out, "answers for photos do not use them"
    main([*run[:-1], str(tmp_path / "plain")])
    with pytest.raises(ConfigError, match="has no thresholds"):
        load(tmp_path / "plain").decided("side", outputs, groups)
