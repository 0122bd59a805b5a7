"""Contrastive learning: two views of one photo belong together, those of two photos do not (SimCLR).

Chen, Kornblith, Norouzi & Hinton, ICML 2020, 2002.05709. No label is looked at. What is learnt shows only in what a
probe can do with it: the loss falls just as well towards features that are worth nothing, see `dead_dimensions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone, numbers_on
from facekit.models.staged import Staged
from facekit.training.batches import Batch
from facekit.training.methods import Loss, Method
from facekit.transfer.table import ALONE, Parameter, Row

TEMPERATURE = 0.5
GREY = (0.299, 0.587, 0.114)  # of red, green, blue (ITU-R BT.601)


@dataclass(frozen=True)
class Views:
    """What may differ between two views of a photo; drawn for every photo on its own, on the device of the photos.

    smallest: of a cut-out's sides, as a fraction of the photo's; the cut-out is brought back to the photo's size.
    light: largest change of a colour, as a fraction of it. grey: probability of a photo without colours. Half are
    mirrored.
    """

    smallest: float = 0.5
    light: float = 0.4
    grey: float = 0.2

    def __post_init__(self) -> None:
        if not (0 < self.smallest <= 1 and 0 <= self.light <= 1 and 0 <= self.grey <= 1):
            raise ConfigError(
                f"views: smallest must be above 0 and at most 1, light and grey from 0 to 1; got {self.smallest}, "
                f"{self.light}, {self.grey}."
            )

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 (N, 3, H, W) to other images of the same dtype and shape; draws from `generator` (default: torch's)."""
        n, device = len(images), images.device
        draws = torch.rand(8, n, device=device, generator=generator)
        side = self.smallest + (1 - self.smallest) * draws[0]
        mirrored = torch.where(draws[1] < 0.5, -1.0, 1.0)
        place = (2 * draws[2:4] - 1) * (1 - side)  # of the middle, where the photo reaches from -1 to 1
        zeros = torch.zeros_like(side)
        matrix = torch.stack([side * mirrored, zeros, place[0], zeros, side, place[1]], 1).view(n, 2, 3)
        grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
        x = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        weights = numbers_on(device, *GREY).view(1, 3, 1, 1)
        x = torch.where((draws[7] < self.grey).view(n, 1, 1, 1), (x * weights).sum(1, keepdim=True), x)
        gains = 1 + self.light * (2 * draws[4:7].T - 1)
        return (x * gains.view(n, 3, 1, 1)).round_().clamp_(0, 255).to(torch.uint8)


def nt_xent(one: torch.Tensor, other: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Normalised temperature-scaled cross entropy of two views (N, D) each, a scalar (Chen et al. 2020, equation 1).

    Row i of `one` and row i of `other` are a pair; among the 2 N − 1 other vectors each has to find its own, by the
    cosine. Raises ConfigError for views of different shape, fewer than two pairs or no positive temperature.
    """
    if one.shape != other.shape or len(one) < 2 or not temperature > 0:
        raise ConfigError(
            f"two views of at least two rows and a positive temperature are needed, got {tuple(one.shape)}, "
            f"{tuple(other.shape)} and {temperature}."
        )
    both = F.normalize(torch.cat([one, other]).float())
    alike = both @ both.T / temperature
    alike.fill_diagonal_(-torch.inf)  # a vector does not have to find itself
    n = len(one)
    partner = torch.arange(2 * n, device=both.device).roll(n)
    return F.cross_entropy(alike, partner)


class Contrastive(Method):
    """Trains a backbone on photos alone; behind it stands a head of its own, which is thrown away afterwards.

    dim: of the embedding. Each view goes through the network by itself, so that BatchNorm does not tell which views
    belong together. Logs the loss and how often a view is closest to its partner.
    """

    needs_labels = False

    def __init__(
        self, dim: int, temperature: float = TEMPERATURE, views: Views | None = None, hidden: int = 256, out: int = 64
    ) -> None:
        super().__init__(())
        if not temperature > 0:
            raise ConfigError(f"the temperature must be positive, got {temperature}.")
        self.temperature, self.views = float(temperature), views or Views()
        told = (self.temperature, self.views.smallest, self.views.light, self.views.grey)
        self.register_buffer("told", torch.tensor(told))  # buffers are a part of a run's fingerprint
        self.projection = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def loss(self, model: Staged, batch: Batch) -> Loss:
        """See Method."""
        one, other = (self.projection(model(self.views(batch.inputs))) for _ in range(2))
        with torch.no_grad():
            found = (F.normalize(one) @ F.normalize(other).T).argmax(1) == torch.arange(len(one), device=one.device)
        return nt_xent(one, other, self.temperature), {"found": found.float().mean()}


def dead_dimensions(data: FeatureSet, share: float = 0.99) -> int:
    """How many of the D directions are not needed for a `share` of the variance (Jing et al. 2022, 2110.09348).

    D − 1 or so where all rows have collapsed to a line, fewer the more the features are used.
    """
    values = np.linalg.eigvalsh(np.cov(np.asarray(data.features, np.float64), rowvar=False))[::-1].clip(0)
    if not values.sum() > 0:
        return len(values)
    return len(values) - 1 - int(np.searchsorted(values.cumsum() / values.sum(), share))


def _photos(backbone: Backbone | None) -> Backbone:
    """What the row trains; raises ConfigError for embeddings."""
    if backbone is None:
        raise ConfigError("contrastive learns from photos, of which it makes views; features have none.")
    return backbone


ROWS: Sequence[Row] = (
    Row(
        name="contrastive",
        about="self-taught learning: two views of a photo belong together, other photos apart (Chen et al. 2020)",
        acts="during",
        sets="unlabelled photos",
        unlabelled=(ALONE,),
        labels="none",
        parameters={"temperature": Parameter(TEMPERATURE, "divides the cosines, above 0")},
        loss=lambda net, temperature: Contrastive(net.embedding_dim, temperature),
        network=_photos,
        plan="everything",
    ),
)
