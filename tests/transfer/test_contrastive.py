"""Contrastive learning: the loss by a double loop, views that stay photos, training that finds the pairs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import TinyNet, faces

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import plan as make_plan
from facekit.transfer.contrastive import Contrastive, Views, dead_dimensions, nt_xent


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
