"""Domain adaptation in the loop: statistics by domain, distances, a reversed gradient, each by another way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import COLOUR, LEVEL, TinyNet, classifier, faces, features
from torch import nn

from facekit.errors import ConfigError
from facekit.models.embedding import state_hash
from facekit.models.heads import Classifier, Heads
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import plan as make_plan
from facekit.transfer.alignment import (
    Alignment,
    DomainAdversarial,
    coral_distance,
    kernel_mean_distance,
    with_statistics_of,
)


def unlabelled(n: int, seed: int):
    data = faces(n, seed)
    return replace(data, labels=data.labels[["split"]])


# --- statistics by domain ---------------------------------------------------------------------------------------------


def test_the_statistics_are_those_of_the_photos():
    """By hand for the first BatchNorm: mean and variance of what the convolution before it gives."""
    torch.manual_seed(0)
    network, photos = TinyNet().eval(), faces(64)
    before = state_hash(network)
    adapted = with_statistics_of(network, photos, batch_size=64)
    with torch.no_grad():
        maps = network.stem[0](network.prepare(torch.from_numpy(photos.images)))
    torch.testing.assert_close(adapted.stem[1].running_mean, maps.mean((0, 2, 3)))
    torch.testing.assert_close(adapted.stem[1].running_var, maps.var((0, 2, 3)), rtol=1e-4, atol=1e-6)
    assert state_hash(network) == before and not adapted.training
    assert adapted.stem[1].momentum == network.stem[1].momentum
    for (name, one), other in zip(network.named_parameters(), adapted.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_a_change_of_contrast_is_taken_out_by_the_statistics_of_the_photos():
    """Half the distance to the middle grey, which a convolution without bias only scales: BatchNorm puts it right."""
    torch.manual_seed(0)
    network, photos = TinyNet().eval(), faces(256)
    weaker = replace(photos, inputs=((photos.images.astype(np.float64) - 127.5) * 0.5 + 127.5).round().astype(np.uint8))

    def apart(networks) -> float:
        with torch.no_grad():
            one, other = (
                each(torch.from_numpy(part.images)) for each, part in zip(networks, (photos, weaker), strict=True)
            )
        return 1 - (one * other).sum(1).mean().item()

    own = apart([with_statistics_of(network, part, 256) for part in (photos, weaker)])
    assert own < 0.01 < 0.1 < apart([with_statistics_of(network, photos, 256)] * 2)


def test_statistics_need_photos_and_a_norm():
    class Bare(TinyNet):
        def __init__(self) -> None:
            super().__init__()
            self.stem = self.block = self.linear = nn.Identity()

    for network, n in ((TinyNet(), 1), (Bare(), 8)):
        with pytest.raises(ConfigError, match="BatchNorm"):
            with_statistics_of(network, faces(n))


# --- distances --------------------------------------------------------------------------------------------------------


def two(n: int = 40, m: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    return torch.randn(n, 5), 2 * torch.randn(m, 5) + 1


def test_corals_distance_by_numpy():
    one, other = two()
    wanted = np.square(np.cov(one.numpy().T) - np.cov(other.numpy().T)).sum() / (4 * 25)
    assert coral_distance(one, other).item() == pytest.approx(wanted, rel=1e-5)
    assert coral_distance(one, one + 7).item() == pytest.approx(0, abs=1e-9), "means do not count"


def test_kernel_means_by_a_double_loop():
    one, other = two(7, 9)
    rows = torch.cat([one, other]).double()
    middle = torch.stack([(a - b).square().sum() for a in rows for b in rows]).mean()

    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(math.exp(-(a - b).square().sum() / (2 * w * w * middle)) for w in (0.5, 1.0, 2.0))

    def mean(some: torch.Tensor, others: torch.Tensor) -> float:
        return float(np.mean([kernel(a.double(), b.double()) for a in some for b in others]))

    wanted = mean(one, one) + mean(other, other) - 2 * mean(one, other)
    assert kernel_mean_distance(one, other).item() == pytest.approx(wanted, rel=1e-4)
    assert kernel_mean_distance(one, one).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", [coral_distance, kernel_mean_distance])
def test_training_brings_the_embeddings_together(distance):
    """With the distance in the loss the two sets end nearer than without."""
    found = {}
    for strength in (0.0, 10.0):
        model = classifier()
        method = Alignment((COLOUR,), strength, distance=distance)
        sets = {"source": faces(48), "target": unlabelled(48, 1)}
        sets["target"] = replace(sets["target"], inputs=sets["target"].images // 3)
        fit(model, method, sets, None, make_plan("scratch", list(model.stages), 6, 0.02), TrainConfig(32))
        with torch.no_grad():
            one, other = (model.embed(torch.from_numpy(part.images)) for part in sets.values())
        found[strength] = distance(one, other).item()
    assert found[10.0] < 0.5 * found[0.0]


# --- the reversed gradient --------------------------------------------------------------------------------------------


class OneLayer(Classifier):
    """A linear layer and heads on features, in any precision."""

    def __init__(self) -> None:
        super().__init__(None, Heads(6, (COLOUR,)))
        self.first = nn.Linear(6, 6)

    @property
    def stages(self):
        return {"first": [self.first], "heads": [self.heads]}

    def embed(self, inputs):
        return F.normalize(self.first(inputs))


def test_the_reversed_gradient_by_finite_differences():
    """Of the tasks' loss less 0.7 times the discriminator's for what embeds, of their sum for everything else."""
    torch.manual_seed(0)
    model, method = OneLayer().double(), DomainAdversarial((COLOUR,), 6, 0.7, hidden=8).double()
    sets = {"source": features(6), "target": features(5, seed=1)}
    batches = {name: next(Batches(part, method.tasks_of(name), 6, name=name).epoch()) for name, part in sets.items()}
    batches = {name: replace(batch, inputs=batch.inputs.double()) for name, batch in batches.items()}
    method.loss_together(model, batches)[0].backward()

    def loss(sign: float) -> float:
        with torch.no_grad():
            logs = method.loss_together(model, batches)[1]
        return (logs["colour"] + sign * logs["discriminator"]).item()

    for sign, module in ((-0.7, model.first), (1.0, method.discriminator), (1.0, model.heads)):
        for parameter in module.parameters():
            numeric, flat = torch.zeros_like(parameter), parameter.data.view(-1)
            for i in range(len(flat)):
                flat[i] += 1e-6
                above = loss(sign)
                flat[i] -= 2e-6
                numeric.view(-1)[i] = (above - loss(sign)) / 2e-6
                flat[i] += 1e-6
            torch.testing.assert_close(parameter.grad, numeric, atol=1e-7, rtol=1e-5)


def test_the_strength_grows_along_the_ramp_and_stays():
    method = DomainAdversarial((COLOUR,), 6, 0.5, ramp=10)
    found = [method._now().item() for _ in range(14)]
    wanted = [0.5 * (2 / (1 + math.exp(-step)) - 1) for step in range(10)] + [0.5] * 4
    assert found == pytest.approx(wanted, rel=1e-6)
    assert DomainAdversarial((COLOUR,), 6, 0.5)._now().item() == 0.5, "without a ramp at once"


@pytest.mark.parametrize("make", [lambda tasks: DomainAdversarial(tasks, 6, 0.7), lambda tasks: Alignment(tasks, 0.7)])
def test_an_unlabelled_set_takes_part_and_a_stopped_run_goes_on(make, tmp_path):
    """Twice the same weights; and a run that was stopped after two of four epochs ends in them, too."""
    sets = {"source": faces(24), "target": unlabelled(40, 1)}

    def trained(epochs: int, folder=None, resume: bool = False) -> tuple[str, object]:
        torch.manual_seed(5)
        model, method = classifier((COLOUR, LEVEL)), make((COLOUR, LEVEL))
        recipe = make_plan("scratch", list(model.stages), 4, 0.02)
        if epochs < 4:
            real = method.loss_together
            left = iter(range(epochs * 7))

            def stopping(*given):
                if next(left, None) is None:
                    raise KeyboardInterrupt
                return real(*given)

            method.loss_together = stopping
        result = fit(model, method, sets, {"source": faces(9, 2)}, recipe, TrainConfig(12), folder, resume)
        return state_hash(model) + state_hash(method), result

    whole, result = trained(4)
    assert "validation_source_colour" in result.history and result.moved["stem"]
    with pytest.raises(KeyboardInterrupt):
        trained(2, tmp_path / "run")
    again, _ = trained(4, tmp_path / "run", resume=True)
    assert again == whole


def test_apart_each_domain_is_normalised_by_its_own_batch():
    """Training on photos and on the same photos in weaker contrast: apart they have one covariance, together two."""
    photos = faces(48)
    weaker = replace(photos, inputs=((photos.images.astype(np.float64) - 127.5) * 0.3 + 127.5).round().astype(np.uint8))
    found = {}
    for separate in (True, False):
        method = Alignment((COLOUR,), 0.0, separate=separate)
        model = classifier().train()
        model.backbone.linear[0].p = 0.0  # dropout would differ from pass to pass
        sets = {"source": photos, "target": replace(weaker, labels=weaker.labels[["split"]])}
        batches = {
            name: next(Batches(part, method.tasks_of(name), 48, shuffle=False, name=name).epoch())
            for name, part in sets.items()
        }
        found[separate] = method.loss_together(model, batches)[1]["distance"].item()
    assert found[True] < 0.05 * found[False]


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"strength": math.nan}, {"ramp": -1}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ConfigError, match="0 or more"):
        Alignment((COLOUR,), **wrong)
