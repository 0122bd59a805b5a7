"""A network of four convolutions that learns small photos from nothing within seconds on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from facekit.models.backbones.base import Backbone


class SmallNet(Backbone):
    """Four convolutions with BatchNorm and a linear layer, 90,000 parameters; there are no pretrained weights.

    `forward`: uint8 (N, 3, 32, 32) to float32 (N, 64) of length 1.
    """

    name = "small"
    image_size = 32
    smallest_size = 32
    embedding_dim = 64

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 1 if i == 3 else 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in zip(widths[:-1], widths[1:], strict=True)
        )
        self.linear = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, self.embedding_dim))

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """Four blocks, at 1/1, 1/2, 1/4 and 1/8 of the photo's size, and the embedding."""
        blocks: dict[str, Sequence[nn.Module]] = {f"block_{place}": [part] for place, part in enumerate(self.blocks, 1)}
        return blocks | {"embedding": [self.linear]}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to unit-length embeddings float32 (N, 64)."""
        x = self.prepare(images)
        for block in self.blocks:
            x = block(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.linear(x.float()))
