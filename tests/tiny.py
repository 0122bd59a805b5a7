"""What the tests of training share: a network of a few hundred parameters and small labelled sets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from facekit.data.sets import FaceSet, FeatureSet
from facekit.models.backbones.base import Backbone
from facekit.models.heads import Classifier, Heads
from facekit.tasks import Task

COLOUR = Task("colour", "multiclass", ("dark", "bright"))
SIDE = Task("side", "multiclass", ("left", "right"))
LEVEL = Task("level", "regression", scale=50.0)
SIZE = 16


class TinyNet(Backbone):
    """Two convolutions and a linear layer, each with BatchNorm, and dropout."""

    name = "tiny"
    image_size = SIZE
    smallest_size = 4
    embedding_dim = 6

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.linear = nn.Sequential(nn.Dropout(0.1), nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6))

    @property
    def stages(self):
        return {"stem": [self.stem], "block": [self.block], "embedding": [self.linear]}

    def forward(self, images):
        x = self.block(self.stem(self.prepare(images)))
        return F.normalize(self.linear(x.mean((2, 3)))).float()


def classifier(tasks=(COLOUR,), seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(TinyNet(), Heads(6, tasks))


def faces(n: int = 24, seed: int = 0, split: str = "train") -> FaceSet:
    """Noise that is dark or bright, on the left or on the right."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(40, 200, n)
    left = rng.random(n) < 0.5
    images = np.clip(rng.normal(level[:, None, None, None], 20, (n, 3, SIZE, SIZE)), 0, 255).astype(np.uint8)
    for row, is_left in enumerate(left):
        images[row, 0, :, : SIZE // 2 if is_left else SIZE] //= 2
    labels = {"colour": np.where(level < 120, "dark", "bright"), "side": np.where(left, "left", "right")}
    return FaceSet(images, pd.DataFrame({**labels, "level": level, "split": split}))


def features(n: int = 40, dim: int = 6, seed: int = 0, split: str = "train") -> FeatureSet:
    """Unit vectors whose first coordinate decides the colour."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    side = np.where(x[:, 1] < 0, "left", "right")
    labels = {"colour": np.where(x[:, 0] < 0, "dark", "bright"), "side": side, "level": 50 + 40 * x[:, 2]}
    return FeatureSet(x, pd.DataFrame({**labels, "split": split}))


def probe(dim: int = 6, tasks=(COLOUR,), seed: int = 0) -> Classifier:
    """Heads on ready embeddings."""
    torch.manual_seed(seed)
    return Classifier(None, Heads(dim, tasks))


class ChainNet(TinyNet):
    """The tiny network with its layers one after another, the mean over places among them, and without dropout."""

    name = "chain"

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *self.linear[1:])

    def forward(self, images):
        return nn.functional.normalize(self.linear(self.block(self.stem(self.prepare(images)))))


def trunk(kind: type = ChainNet, seed: int = 0):
    """The tiny network with statistics and weights of BatchNorm that are nobody's default."""
    torch.manual_seed(seed)
    net = kind()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()
