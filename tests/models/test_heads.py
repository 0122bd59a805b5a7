"""Heads and Classifier: shapes, gradients, the scale of their input."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from backbones import noise

from facekit.errors import ConfigError
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.heads import Classifier, Heads, parameter_counts
from facekit.tasks import AGE_BAND, GENDER, RACE, Task

AGE = Task("age_years", "regression", scale=10)


@pytest.fixture
def embeddings() -> torch.Tensor:
    return F.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("hidden", [0, 5])
def test_shapes_and_order(embeddings, hidden):
    tasks = [GENDER, RACE, AGE_BAND, AGE]
    outputs = Heads(16, tasks, hidden)(embeddings)
    assert list(outputs) == [task.name for task in tasks]
    assert [tuple(outputs[task.name].shape) for task in tasks] == [(6, task.n_outputs) for task in tasks]


def test_linear_head_is_a_linear_map_of_the_scaled_embedding(embeddings):
    heads = Heads(16, [RACE])
    linear = heads.layers["race"][-1]
    expected = (embeddings * math.sqrt(16)) @ linear.weight.T + linear.bias
    torch.testing.assert_close(heads(embeddings)["race"], expected)


@pytest.mark.parametrize("hidden", [0, 5])
def test_gradients_agree_with_finite_differences(embeddings, hidden):
    torch.manual_seed(0)
    heads = Heads(16, [GENDER, AGE], hidden).double()
    targets = {"gender": torch.tensor([0, 1, -1, 1, 0, -1]), "age_years": torch.tensor([3.0, 40, 70, math.nan, 22, 35])}

    def loss(inputs: torch.Tensor) -> torch.Tensor:
        # Task.loss computes in float32, too coarse for finite differences; the same losses in float64.
        outputs = heads(inputs)
        known = targets["gender"] >= 0
        gender = F.cross_entropy(outputs["gender"][known], targets["gender"][known])
        years = ~targets["age_years"].isnan()
        return gender + F.huber_loss(outputs["age_years"][years, 0], targets["age_years"][years].double() / 10)

    inputs = embeddings.double().requires_grad_()
    assert torch.autograd.gradcheck(loss, inputs)
    loss(inputs).backward()
    for parameter in heads.parameters():
        index = tuple(0 for _ in parameter.shape)
        with torch.no_grad():
            step, kept = 1e-6, parameter[index].clone()
            parameter[index] = kept + step
            above = loss(inputs)
            parameter[index] = kept - step
            below = loss(inputs)
            parameter[index] = kept
        torch.testing.assert_close(parameter.grad[index], (above - below) / (2 * step), atol=1e-6, rtol=1e-5)


def test_tasks_do_not_share_hidden_layers(embeddings):
    heads = Heads(16, [GENDER, RACE], hidden=4)
    heads(embeddings)["gender"].sum().backward()
    assert all(p.grad is not None for p in heads.layers["gender"].parameters())
    assert all(p.grad is None for p in heads.layers["race"].parameters())


def test_dropout_only_in_training(embeddings):
    heads = Heads(16, [GENDER], dropout=0.5)
    heads.train()
    assert not torch.equal(heads(embeddings)["gender"], heads(embeddings)["gender"])
    heads.eval()
    assert torch.equal(heads(embeddings)["gender"], heads(embeddings)["gender"])


def test_classifier_is_backbone_then_heads():
    model = Classifier(FaceNetMini(), Heads(512, [GENDER, RACE])).eval()
    images = noise(2, 32)
    outputs = model(images)
    expected = model.heads(model.backbone(images))
    assert all(torch.equal(outputs[name], expected[name]) for name in ("gender", "race"))
    assert list(model.stages) == [*model.backbone.stages, "heads"]
    assert parameter_counts(model)["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert model.tasks == (GENDER, RACE)


def test_classifier_of_embeddings(embeddings):
    model = Classifier(None, Heads(16, [GENDER]))
    assert list(model.stages) == ["heads"]
    assert torch.equal(model(embeddings)["gender"], model.heads(embeddings)["gender"])
    model.freeze()
    assert model.frozen == {"heads"} and parameter_counts(model)["trainable"].sum() == 0
    model.freeze([])
    assert model.frozen == frozenset() and parameter_counts(model)["trainable"].sum() == 34


def test_wrong_arguments(embeddings):
    for bad in ([], [GENDER, GENDER]):
        with pytest.raises(ConfigError, match="each only once"):
            Heads(16, bad)
    for options in ({"hidden": -1}, {"dropout": 1.0}):
        with pytest.raises(ConfigError, match="hidden must be"):
            Heads(16, [GENDER], **options)
    with pytest.raises(ConfigError, match="cannot be named"):
        Heads(16, [Task("a.b", "regression")])
    with pytest.raises(ConfigError, match=r"\(N, 8\)"):
        Heads(8, [GENDER])(embeddings)
    with pytest.raises(ConfigError, match=r"Heads\(512"):
        Classifier(FaceNetMini(), Heads(16, [GENDER]))
    with pytest.raises(ConfigError, match="no stage"):
        Classifier(None, Heads(16, [GENDER])).freeze(["stem"])
