"""The modules that turn features or maps into a task's outputs; the only file of this folder that loads torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Thresholds(nn.Module):
    """The last layer of an ordinal task: one score of the input and a bias for each question, (N, D) to (N, K - 1).

    The common weights make the answers consistent (Cao et al. 2020, theorem 1). At the start all K ranks are equally
    probable.
    """

    def __init__(self, in_features: int, questions: int) -> None:
        super().__init__()
        self.score = nn.Linear(in_features, 1, bias=False)
        above = 1 - torch.arange(1, questions + 1) / (questions + 1)
        self.bias = nn.Parameter(above.logit())

    @property
    def weight(self) -> torch.Tensor:
        """(1, D)."""
        return self.score.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.score(x) + self.bias


class PooledHead(nn.Module):
    """Classes and numbers: the mean of a map (N, C, H, W), or an embedding (N, C), through a task's `last` layer."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(x.mean((2, 3)) if x.ndim == 4 else x)


class BoxHead(nn.Module):
    """A box from a map (N, C, H, W): where `points` learnt patterns are, then a linear layer to its four sides.

    The place of a pattern is the mean of the pixels' coordinates under the softmax of its scores over the map (spatial
    softmax; Levine et al. 2016, 1504.00702). At the start the box is about the middle half of the picture.
    """

    def __init__(self, channels: int, points: int = 16) -> None:
        super().__init__()
        self.scores = nn.Conv2d(channels, points, 1, bias=False)  # the softmax knows no bias
        self.last = nn.Linear(2 * points, 4)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([0.25, 0.25, 0.75, 0.75]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.scores(x).float().flatten(2).softmax(2).view(len(x), -1, *x.shape[2:])
        across, down = ((torch.arange(n, device=x.device) + 0.5) / n - 0.5 for n in (x.shape[3], x.shape[2]))
        places = torch.cat([weights.sum(2) @ across, weights.sum(3) @ down], 1)
        return self.last(places)


class SequenceHead(nn.Module):
    """A text from a map (N, C, H, W): scores (N, W, K + 1) at every column, for CTC.

    The map's height is averaged to `rows` bands, so that pictures of any height fit; two convolutions along the width
    then see a column with its neighbours. Without the BatchNorm between them CTC can stay for long at what it learns
    first, blanks in every column.
    """

    def __init__(self, channels: int, n_outputs: int, hidden: int = 64, rows: int = 4) -> None:
        super().__init__()
        self.rows = rows
        self.layers = nn.Sequential(
            nn.Conv1d(channels * rows, hidden, 3, padding=1, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, n_outputs, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bands = F.adaptive_avg_pool2d(x, (self.rows, x.shape[3])).flatten(1, 2)
        return self.layers(bands).transpose(1, 2)
