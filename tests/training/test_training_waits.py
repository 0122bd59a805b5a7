"""On a GPU a step of training waits for nothing, and everything that meets in an operator is on it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretend import pretended_gpu

from facekit.models.backbones.base import numbers_on
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.heads import Classifier, Heads
from facekit.tasks import AGE_BAND, GENDER, RACE
from facekit.training.augment import STRONG, Augment
from facekit.training.batches import Batch
from facekit.training.methods import Supervised
from facekit.transfer.contrastive import Contrastive, Views

TASKS = (GENDER, RACE, AGE_BAND)


def photos(n: int = 4, side: int = 96) -> torch.Tensor:
    return torch.zeros(n, 3, side, side, dtype=torch.uint8)


def test_a_pretended_gpu_sees_what_waits_and_what_does_not_fit():
    with pretended_gpu() as waits:
        x = torch.ones(3)
        x + 1
        assert x.device.type == "cuda" and not waits
        torch.tensor([1, 2])
        assert len(waits) == 1
        with pytest.raises(RuntimeError, match="device"):
            x + torch.ones(3, device="cpu")


@pytest.mark.parametrize("change", [Augment(), STRONG, Augment(erase=0.5), Views()], ids=repr)
def test_photos_are_changed_without_waiting(change):
    with pretended_gpu() as waits:
        assert change(photos(), None).shape == (4, 3, 96, 96)
        assert not waits


@pytest.mark.parametrize("network", [FaceNetMini, FaceNet])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_step_with_three_heads_waits_for_nothing(network, smoothing):
    with pretended_gpu() as waits:
        model = Classifier(network(), Heads(network.embedding_dim, TASKS)).train()
        method = Supervised(TASKS, smoothing=smoothing)
        targets = {task.name: torch.zeros(4, dtype=torch.int64) for task in TASKS}
        waits.clear()
        loss, _ = method.loss(model, Batch(photos(side=network.image_size), targets, np.arange(4)))
        assert loss.device.type == "cuda" and not waits


def test_photos_scaled_channel_by_channel_wait_for_nothing():
    with pretended_gpu() as waits:
        network = FaceNetMini()
        network.mean, network.std = (1.0, 2.0, 3.0), (4.0, 5.0, 6.0)  # as networks for ImageNet have them
        waits.clear()
        assert network.prepare(photos()).device.type == "cuda" and not waits


def test_a_step_without_labels_waits_for_nothing():
    with pretended_gpu() as waits:
        network = FaceNetMini().train()
        contrastive = Contrastive(network.embedding_dim)
        waits.clear()
        contrastive.loss(network, Batch(photos(), {}, np.arange(4)))
        assert not waits


@pytest.mark.parametrize("numbers", [(96, 50), (0.299, 0.587)])
def test_numbers_made_on_the_device_are_those_of_torch(numbers):
    found, wanted = numbers_on(torch.device("cpu"), *numbers), torch.tensor(numbers)
    assert torch.equal(found, wanted) and found.dtype == wanted.dtype
