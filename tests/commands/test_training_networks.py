"""`train` from networks of others: the folder is a model whatever it was built from, and names are checked first."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import faces
from torchvision import models

from facekit.answers.model import load
from facekit.commands.cli import main
from facekit.commands.train import train
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.files import sealed_json
from facekit.training.augment import STRONG

NAME = "torchvision:mobilenet_v3_small"
SHORT = {"tasks": "colour", "backbone": NAME, "epochs": 1, "steps": 2, "batch_size": 8, "size": 32}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Photos with all three splits, on disk."""
    parts = [faces(24), faces(20, seed=1, split="validation"), faces(20, seed=2, split="test")]
    labels = pd.concat([part.labels for part in parts])
    return FaceSet(np.concatenate([part.images for part in parts]), labels).save(
        tmp_path_factory.mktemp("photos") / "set"
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("file") / "mobile.pth"
    torch.save(models.mobilenet_v3_small(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"plan": "scratch"},
        {"plan": "last_block"},
        {"plan": "gradual", "epochs": 3},
        {"plan": "discriminative"},
        {"method": "soft", "plan": "everything", "tasks": "colour,side"},
        {"method": "contrastive"},
    ],
    ids=str,
)
def test_the_folder_is_the_model_again(photos, file, tmp_path, options):
    weights = None if options.get("plan") == "scratch" else file
    assert train(str(photos), tmp_path / "run", weights=weights, **SHORT | options) == 0
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    assert about["network"]["backbone"] == NAME and about["network"]["width"] == 1024
    assert (about["network"]["started_from"] or {}).get("file") == (weights and file.name)
    if options.get("method") == "contrastive":
        train(str(photos), tmp_path / "next", weights=tmp_path / "run" / "best.safetensors", **SHORT)
        about = json.loads((tmp_path / "next" / "model.json").read_text())
        assert "facekit's train" in about["network"]["started_from"]["source"]
        return
    model = load(tmp_path / "run")
    data = FaceSet.load(photos).split("test")
    scores = model.scores
    accuracy = scores[(scores["task"] == "colour") & (scores["split"] == "test") & (scores["metric"] == "accuracy")]
    answers = model.outputs(data)["colour"].argmax(1)
    truth = torch.tensor([model.tasks[0].classes.index(each) for each in data.labels["colour"]])
    assert (answers == truth).float().mean().item() == pytest.approx(accuracy["value"].item(), abs=1e-6)
    moved = about["recipe"]["moved"]
    if options["plan"] == "last_block":
        assert {stage for stage, count in moved.items() if count} == {"stage_4", "embedding", "heads"}


def test_rates_that_fall_by_a_factor_are_those_of_the_plan_that_is_made_so(photos, file, tmp_path):
    """`everything` with a factor is `discriminative` with it: the weights that come out are the same."""
    common = SHORT | {"weights": file, "lr": 0.01}
    train(str(photos), tmp_path / "a", plan="everything", factor=2.6, **common)
    train(str(photos), tmp_path / "b", plan="discriminative", **common)
    train(str(photos), tmp_path / "c", plan="everything", **common)
    a, b, c = (load_file(tmp_path / name / "best.safetensors") for name in "abc")
    assert all(torch.allclose(a[name], b[name], atol=1e-6) for name in a)
    assert not all(torch.allclose(a[name], c[name], atol=1e-6) for name in a)


def test_domains_have_adapters_in_it(photos, file, tmp_path):
    options = SHORT | {"tasks": {"a": "colour", "b": "side"}, "method": "parallel_adapters", "batch_size": 16}
    train({"a": str(photos), "b": str(photos)}, tmp_path / "run", weights=file, **options)
    assert load(tmp_path / "run").only("b").outputs(faces(3))["side"].shape == (3, 2)


def test_names_files_and_sizes_are_checked_first(photos, file, tmp_path, capsys):
    given = ["train", "--data", str(photos), "--tasks", "colour", "--out", str(tmp_path / "run")]
    for name, message in {
        "torchvision:mobilenet_v3": "torchvision has no network 'mobilenet_v3'; near are torchvision:mobilenet_v",
        "mobilenet_v3_small": "that of torchvision is torchvision:mobilenet_v3_small",
        "torchvision:inception_v3": "take one of another family",
        "minni": "near is mini",
    }.items():
        assert main([*given, "--backbone", name]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "run").exists()
    with pytest.raises(WeightsError, match="weights of another network than torchvision:resnet18"):
        train(str(photos), tmp_path / "run", weights=file, **SHORT | {"backbone": "torchvision:resnet18"})
    with pytest.raises(ConfigError, match=r"vit_b_32 takes photos of exactly 224 × 224.*--size 224"):
        train(str(photos), tmp_path / "run", plan="scratch", **SHORT | {"backbone": "torchvision:vit_b_32"})
    with pytest.raises(ConfigError, match="at least 32 × 32"):
        train(str(photos), tmp_path / "run", plan="scratch", **SHORT | {"size": 31})
    assert not list(tmp_path.glob("run/*")), "nothing is left"


def test_a_folder_of_a_network_that_is_not_known_says_so(photos, tmp_path):
    train(str(photos), tmp_path / "run", plan="scratch", **SHORT)
    path = tmp_path / "run" / "model.json"
    about = json.loads(path.read_text())
    wrong = {"torchvision:resnet19": "near are torchvision:resnet18", "torchvision:resnet18": "no width of 1024"}
    for name, message in wrong.items():
        about["network"]["backbone"] = name
        path.write_text(json.dumps(sealed_json(about)))
        with pytest.raises(DataError, match=message):
            load(tmp_path / "run")


def test_a_network_is_tuned_from_a_stage_up_on_strongly_changed_photos_with_smoothed_labels(photos, file, tmp_path):
    """Below the stage nothing moves; the folder says how it was made."""
    options = {"plan": "discriminative", "parameters": {"smoothing": 0.1}, "augment": "strong", "weights": file}
    assert train(str(photos), tmp_path / "run", since="stage_4", **SHORT | options) == 0
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    assert {stage for stage, n in about["recipe"]["moved"].items() if n} == {"stage_4", "embedding", "heads"}
    assert about["recipe"]["augment"] == asdict(STRONG) and about["parameters"]["smoothing"] == 0.1
    with pytest.raises(ConfigError, match="factor must be 1 or more"):
        train(str(photos), tmp_path / "other", factor=0, **SHORT | options)
    with pytest.raises(ConfigError, match="no stage 'top'"):
        train(str(photos), tmp_path / "other", since="top", **SHORT | options)
