"""Contrastive learning: the loss by a double loop, views that stay photos, training that finds the pairs."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from tiny import TinyNet, faces

from facekit.commands.cli import main
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.files import sha256_of_file
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.folder import began_with
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import plan as make_plan
from facekit.transfer.contrastive import Contrastive, Views, dead_dimensions, nt_xent
from facekit.transfer.table import row as method_of


def test_the_loss_by_a_double_loop():
    torch.manual_seed(0)
    one, other = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    rows = [row / row.norm() for row in torch.cat([one, other])]
    total = 0.0
    for i, row in enumerate(rows):
        pair = (i + 5) % 10
        below = sum(math.exp(row @ rows[j] / 0.2) for j in range(10) if j != i)
        total -= math.log(math.exp(row @ rows[pair] / 0.2) / below)
    assert nt_xent(one, other, 0.2).item() == pytest.approx(total / 10, rel=1e-5)


def test_the_losses_bounds():
    """Where all vectors are one, every guess is as good: log(2 N − 1). Where pairs stand apart, nearly nothing."""
    same = torch.ones(6, 3)
    assert nt_xent(same, same).item() == pytest.approx(math.log(11), rel=1e-6)
    apart = torch.eye(6)
    assert nt_xent(apart, apart, 0.05).item() < 1e-6
    torch.manual_seed(1)
    some, more = torch.randn(6, 4), torch.randn(6, 4)
    order = torch.randperm(6)
    assert nt_xent(some, more).item() == pytest.approx(nt_xent(more[order], some[order]).item(), rel=1e-5)


def test_views_keep_shape_and_range_and_are_drawn_again():
    images = torch.from_numpy(faces(8).images)
    one = Views()(images, torch.Generator().manual_seed(0))
    again = Views()(images, torch.Generator().manual_seed(0))
    other = Views()(images, torch.Generator().manual_seed(1))
    assert one.dtype == torch.uint8 and one.shape == images.shape
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_with_nothing_to_change_a_view_is_the_photo_or_its_mirror_image():
    images = torch.from_numpy(faces(32).images)
    seen = Views(smallest=1.0, light=0.0, grey=0.0)(images, torch.Generator().manual_seed(0))
    mirrored = [torch.equal(view, photo.flip(2)) for view, photo in zip(seen, images, strict=True)]
    kept = [torch.equal(view, photo) for view, photo in zip(seen, images, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True)) and 4 < sum(mirrored) < 28
    grey = Views(smallest=1.0, light=0.0, grey=1.0)(images, torch.Generator().manual_seed(0))
    assert (grey == grey[:, :1]).all()


def test_training_finds_the_pairs_and_a_run_is_repeated():
    photos, found = faces(48), []
    for _ in range(2):
        torch.manual_seed(0)
        network = TinyNet()
        method = Contrastive(6, 0.2, Views(0.8, 0.0, 0.0), hidden=16, out=8)
        history = fit(
            network, method, photos, None, make_plan("scratch", list(network.stages), 12, 0.02), TrainConfig(24)
        )
        found.append(history.history["train_loss"].tolist())
    assert found[0] == found[1]
    assert found[0][-1] < found[0][0] - 0.3
    assert history.history["train_found"].iloc[-1] > 2 / 24


def test_dead_dimensions():
    rng = np.random.default_rng(0)

    def rows(x: np.ndarray) -> FeatureSet:
        return FeatureSet(x.astype(np.float32), pd.DataFrame({"split": ["train"] * len(x)}))

    assert dead_dimensions(rows(rng.normal(size=(2000, 8)))) == 0
    line = rng.normal(size=(50, 1)) * np.ones((1, 8))
    assert dead_dimensions(rows(line)) == 7
    assert dead_dimensions(rows(np.ones((50, 8)))) == 8, "a point has no direction at all"


@pytest.mark.parametrize("wrong", [{"smallest": 0.0}, {"smallest": 1.5}, {"light": -0.1}, {"grey": 2.0}])
def test_impossible_views_are_refused(wrong):
    with pytest.raises(ConfigError, match="views"):
        Views(**wrong)


def test_impossible_losses_are_refused():
    for one, other, temperature in (
        (torch.ones(1, 3), torch.ones(1, 3), 0.5),
        (torch.ones(2, 3), torch.ones(3, 3), 0.5),
    ):
        with pytest.raises(ConfigError, match="two views"):
            nt_xent(one, other, temperature)
    with pytest.raises(ConfigError, match="temperature"):
        Contrastive(6, 0.0)


def unlabelled_photos(folder) -> str:
    """Small photos on disk, with a split and nothing else."""
    data = faces(24).resized(32)
    labels = pd.DataFrame({"split": ["train"] * 20 + ["validation"] * 4})
    return str(FaceSet(data.images, labels, data.manifest).save(folder))


def test_the_command_trains_on_one_set_without_labels(tmp_path, monkeypatch, capsys):
    mini = FaceNetMini()
    monkeypatch.setattr(FaceNetMini, "from_pretrained", lambda path=None: copy.deepcopy(mini))
    data, seen = unlabelled_photos(tmp_path / "photos"), tmp_path / "seen"
    options = ["--data", data, "--size=32", "--epochs=2", "--batch_size=10"]
    assert main(["train", "--method=contrastive", *options, f"--out={seen}", "--temperature=0.2"]) == 0
    log = pd.read_csv(seen / "log.csv")
    assert {"train_loss", "train_found"} <= set(log) and not any("validation" in name for name in log)
    assert json.loads((seen / "model.json").read_text())["scores"] == []
    found, before = load_file(seen / "best.safetensors"), mini.state_dict()
    assert not found.keys() ^ before.keys(), "the network alone, without what stood behind it"
    assert all(not torch.equal(found[name], before[name]) for name in found if name.endswith("weight"))
    capsys.readouterr()
    again = ["train", "--method=contrastive", *options, f"--out={seen}", "--resume=true"]
    assert main([*again, "--temperature=0.3"]) == 2 and "another run" in capsys.readouterr().err
    assert main([*again, "--temperature=0.2"]) == 0


def test_what_it_leaves_behind_another_run_starts_from(tmp_path):
    data, seen = unlabelled_photos(tmp_path / "photos"), tmp_path / "seen"
    options = ["--size=32", "--epochs=1", "--batch_size=10"]
    alone = ["--method=contrastive", "--plan=scratch", f"--data={data}", f"--out={seen}"]
    assert main(["train", *alone, *options]) == 0
    used = ["--weights", str(seen / "best.safetensors"), "--portraits=60", f"--out={tmp_path / 'run'}"]
    assert main(["train", *used, *options]) == 0
    one, other = load_file(seen / "best.safetensors"), load_file(tmp_path / "run" / "best.safetensors")
    kept = {name.removeprefix("backbone."): value for name, value in other.items() if "heads" not in name}
    assert all(torch.equal(one[name], value) for name, value in kept.items())
    began = json.loads((tmp_path / "run" / "model.json").read_text())["network"]["started_from"]
    assert began["source"] == "facekit's train, method contrastive, on not stated" and began["started_from"] is None
    assert began["sha256"] == sha256_of_file(seen / "best.safetensors")
    (seen / "model.json").unlink()
    assert began_with("mini", seen / "best.safetensors")["source"] == "a file of one's own"


def test_features_and_heads_are_refused():
    with pytest.raises(ConfigError, match="learns from photos"):
        method_of("contrastive").trained(None, None, [], 1)
    with pytest.raises(ConfigError, match="temperature of the method contrastive"):
        method_of("contrastive").trained(None, None, [], 1, TinyNet(), temperature="warm")


def test_hidden_layers_of_heads_that_are_not_there_are_refused(tmp_path, capsys):
    command = ["train", "--method=contrastive", "--portraits=20", f"--out={tmp_path / 'run'}"]
    assert main([*command, "--hidden=8"]) == 2
    assert "contrastive has no heads" in capsys.readouterr().err
