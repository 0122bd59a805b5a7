"""Tails: maps and tail together are the whole network; what is frozen stays; a cache that is right or not used."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import COLOUR, SIDE, ChainNet, faces

from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.models import embedding
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed, state_hash
from facekit.models.multitask import CrossStitch, SharedNet, Stack, stack_of
from facekit.models.tail import MapSet, maps, mirrored_too, tail_of
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.sharing import train_shared

TASKS = (COLOUR, SIDE)


@pytest.fixture
def chain() -> ChainNet:
    """With BatchNorm statistics and weights as after training."""
    torch.manual_seed(0)
    model = ChainNet().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
    return model


@torch.no_grad()
def through(stack: Stack, data: MapSet) -> torch.Tensor:
    x = stack.inputs(torch.from_numpy(np.array(data.maps)).float())
    for stage in stack.stages.values():
        x = stage.eval()(x)
    return x


@pytest.mark.parametrize("after", ["stem", "block"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_maps_and_tail_together_are_the_whole_network(chain, after, mirrored):
    photos = faces(9)
    stack = tail_of(chain, after)
    found = through(stack, maps(chain, photos, after, batch_size=4, mirrored=mirrored))
    images = photos.images[..., ::-1].copy() if mirrored else photos.images
    with torch.no_grad():
        whole = chain(torch.from_numpy(images))
    assert stack.width == 6 and list(stack.stages)[-1] == "embedding"
    torch.testing.assert_close(found, whole * 6**0.5, atol=4e-3, rtol=0)  # float16 in between


def test_a_tail_until_a_stage_gives_its_averaged_output(chain):
    photos = faces(9)
    stack = tail_of(chain, "stem", until="block")
    found = through(stack, maps(chain, photos, "stem"))
    expected = embed(chain, photos, cache=False, stage="block").features * 8**0.5
    assert stack.width == 8 and list(stack.stages) == ["block"]
    np.testing.assert_allclose(found.numpy(), expected, atol=4e-3)


def test_facenet_in_two_parts():
    torch.manual_seed(0)
    facenet = FaceNet().eval()
    rng = np.random.default_rng(0)
    photos = FaceSet(rng.integers(0, 256, (2, 3, 160, 160), dtype=np.uint8), pd.DataFrame({"split": ["test"] * 2}))
    data = maps(facenet, photos, "mixed_7a", cache=False)
    assert data.maps.shape == (2, 1792, 3, 3) and data.maps.dtype == np.float16
    whole = embed(facenet, photos, cache=False).features
    np.testing.assert_allclose(through(tail_of(facenet, "mixed_7a"), data).numpy() / 512**0.5, whole, atol=1e-3)
    last = embed(facenet, photos, cache=False, stage="repeat_3").features
    cut = through(tail_of(facenet, "mixed_7a", "repeat_3"), data).numpy()
    np.testing.assert_allclose(cut / 1792**0.5, last, atol=1e-3)


def test_training_a_tail_is_training_the_network_with_its_first_stages_frozen(chain):
    """The same network on photos with a frozen stem, and as a tail on maps: weights after training agree."""
    photos = faces(24)
    data = maps(chain, photos, "stem", cache=False, precision="fp32")
    exact = torch.nn.Sequential(*chain.stages["stem"])
    with torch.no_grad():  # without the rounding to float16
        values = exact(chain.prepare(torch.from_numpy(photos.images))).numpy()
    np.testing.assert_allclose(data.maps, values, atol=2e-3)
    torch.manual_seed(1)
    whole = SharedNet(stack_of(chain), TASKS)
    torch.manual_seed(1)
    part = SharedNet(tail_of(chain, "stem"), TASKS)
    recipe = plan("last_block", list(whole.stages), epochs=2, lr=1e-2)
    fit(whole, Supervised(TASKS), photos, None, recipe)
    fit(part, Supervised(TASKS), MapSet(values, photos.labels), None, plan("everything", list(part.stages), 2, 1e-2))
    for name, value in part.trunk.state_dict().items():
        torch.testing.assert_close(value, whole.trunk.state_dict()[name], atol=1e-4, rtol=1e-4, msg=name)
    assert state_hash(whole.trunk["stem"]) == state_hash(stack_of(chain).stages["stem"])
    before = tail_of(chain, "stem").stages["block"][0][1].running_mean
    assert not torch.equal(part.trunk["block"][0][1].running_mean, before), "trained stages move their statistics"


def test_frozen_stages_of_a_tail_keep_weights_and_statistics(chain):
    data = maps(chain, faces(24), "stem", cache=False)
    net = SharedNet(tail_of(chain, "stem"), TASKS)
    before = state_hash(net.trunk["block"])
    fit(net, Supervised(TASKS), data, None, plan("last_layer", list(net.stages), 1, 1e-2))
    assert state_hash(net.trunk["block"]) == before and net.frozen == {"block"}


@pytest.mark.parametrize("kind", [SharedNet, CrossStitch])
def test_every_kind_of_sharing_is_made_from_a_tail(chain, kind):
    data = maps(chain, faces(24), "stem", cache=False)
    stack = tail_of(chain, "stem", "block", dropout=0.2)
    net = train_shared(kind(stack, TASKS, shared=0), Supervised(TASKS), data, steps=4, seed=0, batch_size=8)
    outputs = predict(net, data)
    assert {name: tuple(values.shape) for name, values in outputs.items()} == {"colour": (24, 2), "side": (24, 2)}
    for name, value in chain.state_dict().items():
        assert torch.isfinite(value).all(), name
    torch.testing.assert_close(through(tail_of(chain, "stem", "block"), data), through(stack, data))


def test_both_views_one_after_the_other(chain):
    photos = faces(5)
    plain, mirrored = (maps(chain, photos, "stem", mirrored=view) for view in (False, True))
    both = mirrored_too(plain, mirrored)
    np.testing.assert_array_equal(both.maps, np.concatenate([plain.maps, mirrored.maps]))
    assert both.labels["colour"].tolist() == 2 * photos.labels["colour"].tolist()
    assert not np.array_equal(plain.maps, mirrored.maps)


def test_maps_are_computed_once_for_the_same_photos_and_weights(chain, monkeypatch):
    photos, calls = faces(5), []
    real = embedding._compute
    monkeypatch.setattr(embedding, "_compute", lambda *args: calls.append(args[0].name) or real(*args))
    first = maps(chain, photos, "stem").maps
    again = maps(chain, photos, "stem")
    np.testing.assert_array_equal(again.maps, first)
    assert calls == ["chain"] and "colour" in again.labels
    maps(chain, photos, "block")
    maps(chain, photos, "stem", mirrored=True)
    maps(chain, faces(5, seed=1), "stem")
    assert len(calls) == 4
    with torch.no_grad():
        chain.linear[-1].weight.add_(1)
    maps(chain, photos, "stem")
    assert len(calls) == 4, "later stages have no part in the maps"
    with torch.no_grad():
        chain.stem[0].weight.add_(1)
    maps(chain, photos, "stem")
    assert len(calls) == 5


def test_damaged_maps_are_computed_again(chain, tmp_path, monkeypatch):
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path))
    photos = faces(5)
    first = np.array(maps(chain, photos, "stem").maps)
    (file,) = (tmp_path / "maps").glob("*/inputs.npy")
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    np.testing.assert_array_equal(maps(chain, photos, "stem").maps, first)


def test_bad_input(chain, tmp_path, monkeypatch):
    photos = faces(3)
    for after in ("embedding", "mixed_7a"):
        with pytest.raises(ConfigError, match="stem, block"):
            maps(chain, photos, after)
    for after, until in (("block", "stem"), ("block", "block"), ("embedding", None), ("stem", "top"), ("top", None)):
        with pytest.raises(ConfigError, match="its stages are"):
            tail_of(chain, after, until)
    with pytest.raises(ConfigError, match="maps \\(N, 4, h, w\\)"):
        tail_of(chain, "stem").inputs(torch.zeros(2, 8, 3, 3))
    with pytest.raises(ConfigError, match="batch_size"):
        maps(chain, photos, "stem", batch_size=0)
    with pytest.raises(DataError, match="no photos"):
        maps(chain, photos.select([]), "stem", cache=False)
    with pytest.raises(DataError, match="float"):
        MapSet(np.zeros((2, 3, 4, 4), np.uint8), photos.labels[:2])
    with torch.no_grad():
        chain.stem[1].weight.fill_(1e9)
    with pytest.raises(WeightsError, match="float16"):
        maps(chain, photos, "stem", cache=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="FACEKIT_CACHE"):
        maps(ChainNet().eval(), photos, "stem")
