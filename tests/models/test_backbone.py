"""Laws that every backbone keeps, shown on facenet-mini (FaceNet's own tests repeat the costly ones)."""

from __future__ import annotations

import pytest
import torch
from backbones import noise, stage_hashes, train_step
from torch import nn

from facekit.errors import ConfigError, TrainingError
from facekit.models.backbones.base import Backbone, fused_copy
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.backbones.small import SmallNet
from facekit.models.embedding import state_hash
from facekit.models.heads import Classifier, Heads, parameter_counts
from facekit.tasks import GENDER


@pytest.fixture(scope="module", params=[FaceNet, FaceNetMini, SmallNet], ids=["facenet", "mini", "small"])
def backbone(request) -> Backbone:
    torch.manual_seed(0)
    return request.param().eval()


def test_stages_hold_every_parameter_and_statistic_once(backbone):
    held = [id(p) for modules in backbone.stages.values() for m in modules for p in [*m.parameters(), *m.buffers()]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in [*backbone.parameters(), *backbone.buffers()]}
    counts = parameter_counts(backbone)
    assert list(counts.index) == list(backbone.stages)
    assert counts["parameters"].sum() == sum(p.numel() for p in backbone.parameters())


def test_embeddings_are_float32_of_length_one(backbone):
    with torch.inference_mode():
        embeddings = backbone(noise(2, backbone.smallest_size))
    assert embeddings.dtype == torch.float32 and embeddings.shape == (2, backbone.embedding_dim)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_embedding_keeps_float32_length_under_autocast(backbone):
    images = noise(2, backbone.smallest_size)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        embeddings = backbone(images)
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_unsuitable_photos_are_refused(backbone):
    size = backbone.smallest_size
    with pytest.raises(ConfigError, match="uint8"):
        backbone(noise(1, size).float())
    with pytest.raises(ConfigError, match="uint8"):
        backbone(noise(1, size)[0])
    with pytest.raises(ConfigError, match=f"at least {size}"):
        backbone(noise(1, size - 1))


def test_one_photo_cannot_train_the_last_batchnorm(backbone):
    backbone.train()
    try:
        with pytest.raises(TrainingError, match="at least two"):
            backbone(noise(1, backbone.smallest_size))
        backbone.freeze()
        assert backbone(noise(1, backbone.smallest_size)).shape == (1, backbone.embedding_dim)
    finally:
        backbone.freeze([])
        backbone.eval()


def test_unknown_stage_is_refused_and_changes_nothing(backbone):
    with pytest.raises(ConfigError, match="no stage .*stem"):
        backbone.freeze(["stem", "stern"])
    assert backbone.frozen == frozenset()
    assert all(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("backbone", [FaceNet, FaceNetMini], ids=["facenet", "mini"], indirect=True)  # named layers
def test_fused_copy_agrees_and_leaves_the_original_alone(backbone):
    with torch.no_grad():  # statistics as of a trained network, so that fusing has something to do
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    before = state_hash(backbone)
    fused = fused_copy(backbone.train())
    assert backbone.training and not fused.training and state_hash(backbone) == before
    assert not any(isinstance(m, torch.nn.BatchNorm2d) and "spatial" not in n for n, m in fused.named_modules())
    images = noise(2, backbone.smallest_size)
    with torch.inference_mode():
        torch.testing.assert_close(fused(images), backbone.eval()(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize("backbone", [FaceNet, FaceNetMini], ids=["facenet", "mini"], indirect=True)
def test_what_a_copy_for_bf16_simplifies_changes_no_stage(backbone):
    before, images = state_hash(backbone), noise(2, backbone.smallest_size)
    fused = fused_copy(backbone.eval())
    with torch.inference_mode():
        expected = {name: x.clone() for name, x in fused.walk(fused.prepare(images))}
        fused.simplify()
        for name, x in fused.walk(fused.prepare(images)):
            torch.testing.assert_close(x, expected[name], atol=1e-5, rtol=1e-4, msg=name)
        with torch.autocast("cpu", torch.bfloat16):
            fast = fused_copy(backbone, bf16=True)
            assert torch.equal(fast(images), fused(images)), "autocast rounds the same weights, batch by batch"
    *trunk, last = (nn.ModuleList(modules) for modules in fast.stages.values())
    convs = [m for modules in trunk for m in modules.modules() if isinstance(m, nn.Conv2d)]
    assert convs and all(m.weight.dtype == m.bias.dtype == torch.bfloat16 for m in convs)
    assert all(p.dtype == torch.float32 for p in last.parameters()) and state_hash(backbone) == before


def test_biases_of_facenets_stem_lose_nothing_in_bf16():
    torch.manual_seed(0)
    facenet = FaceNet()
    for layer in facenet.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.bias)
    fused = fused_copy(facenet)
    fused.simplify()
    *chain, last = [layer.conv.bias for layer in fused.stages["stem"] if hasattr(layer, "conv")]
    assert len(chain) == 5 and all(torch.equal(bias.bfloat16().float(), bias) for bias in chain)
    assert not torch.equal(last.bfloat16().float(), last), "the blocks that read it add to it, so it keeps its scale"


@pytest.mark.parametrize("frozen", [["stem"], ["stem", "stage_1", "stage_2", "stage_3"], ["embedding"], []])
def test_frozen_means_frozen(frozen):
    torch.manual_seed(0)
    model = FaceNetMini()
    model.freeze(frozen)
    before = stage_hashes(model)
    train_step(model, noise(4, 32))
    after = stage_hashes(model)
    assert {name for name in before if before[name] == after[name]} == set(frozen)
    assert model.frozen == set(frozen)


def test_all_frozen_computes_as_in_evaluation():
    model = FaceNetMini()
    model.freeze()
    images = noise(3, 32)
    expected = model.eval()(images)
    assert torch.equal(model.train()(images), expected)


def test_freezing_again_thaws_the_others():
    model = FaceNetMini().train()
    model.freeze(["stem"])
    model.freeze(["embedding"])
    assert model.stem.training and not model.linear.training
    assert all(p.requires_grad for p in model.stem.parameters())
    assert not any(p.requires_grad for p in model.linear.parameters())


@pytest.mark.parametrize("frozen", [["heads"], ["stem", "embedding"], ["stem", "heads"]])
def test_classifier_freezes_by_the_same_law(frozen):
    torch.manual_seed(0)
    model = Classifier(FaceNetMini(), Heads(512, [GENDER], hidden=4, dropout=0.5))
    model.freeze(frozen)
    before = stage_hashes(model)
    train_step(model, noise(4, 32))
    after = stage_hashes(model)
    assert {name for name in before if before[name] == after[name]} == set(frozen)
    assert model.frozen == set(frozen)


def test_mini_accepts_other_sizes_and_is_small():
    model = FaceNetMini().eval()
    with torch.inference_mode():
        for size in (32, 64, 112):
            assert model(noise(1, size)).shape == (1, 512)
    assert parameter_counts(model)["parameters"].sum() < 2_500_000
