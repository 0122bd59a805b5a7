"""Boxes: tensors (N, 4) of left, top, right, bottom in fractions of the picture's sides; a row of NaN is no box."""

from __future__ import annotations

import numpy as np
import pandas as pd

from facekit.errors import DataError
from facekit.tasks.task import F, Task, heads, torch

SIDES = ("left", "top", "right", "bottom")
BETA = 0.1  # errors of a side below this fraction count squared


class Box(Task, kind="box"):
    """Where something is, missing where there is nothing; columns are `<name>_left`, `_top`, `_right`, `_bottom`."""

    needs_classes = False
    needs_map = True
    spoiled_by = ("flip", "shift", "turn", "scale")
    n_outputs = 4

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(f"{self.name}_{side}" for side in SIDES)

    def encode(self, labels: pd.DataFrame) -> torch.Tensor:
        """Four columns to float32 (N, 4), NaN where there is no box; raises DataError for the first that is none."""
        table = labels[list(self.columns)]
        sides = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
        left, top, right, bottom = sides.T
        inside = (sides >= 0).all(1) & (sides <= 1).all(1) & (left < right) & (top < bottom)
        bad = table.notna().to_numpy().any(1) & ~inside
        if bad.any():
            at = int(bad.argmax())
            raise DataError(
                f"row {labels.index[at]}, columns {', '.join(self.columns)}: {table.iloc[at].tolist()} is no box; give "
                "left < right and top < bottom as fractions of the picture's width and height, 0 to 1, or leave all "
                "empty."
            )
        return torch.from_numpy(sides.astype(np.float32))

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Smooth L1 summed over the four sides (Girshick 2015), plus 1 - GIoU.

        The first tells each side where to go from anywhere, the second is what is scored, independent of the size.
        """
        boxes = targets.nan_to_num().to(outputs.dtype)
        sides = F.smooth_l1_loss(outputs, boxes, reduction="none", beta=BETA).sum(1)
        return sides + 1 - overlaps(outputs, boxes)[1]

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Four free numbers a row, (N, 4), to a box inside the picture: cut off at 0 and 1, sides in order, float32."""
        pairs = outputs.float().clamp(0, 1).unflatten(1, (2, 2)).sort(1).values
        return pairs.flatten(1)

    def decode(self, predictions: torch.Tensor) -> dict[str, list]:
        sides = zip(self.columns, predictions.T.tolist(), strict=True)
        return {column: [None if value != value else value for value in values] for column, values in sides}

    def best(self, targets: torch.Tensor) -> torch.Tensor:
        """The median of each side."""
        return targets.float().median(0).values

    def scores(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        if predictions.shape != targets.shape or predictions.shape[1:] != (4,):
            raise DataError(f"predicted boxes {predictions.shape} and true ones {targets.shape} must both be (N, 4).")
        iou, _ = overlaps(torch.from_numpy(predictions).double(), torch.from_numpy(targets).double())
        return {"iou": np.where(np.isnan(targets).any(axis=1), np.nan, iou.numpy())}

    def head(self, channels: int) -> torch.nn.Module:
        return heads.BoxHead(channels)


def areas(boxes: torch.Tensor) -> torch.Tensor:
    """Areas (N,), 0 for a box whose sides are in the wrong order."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).unbind(1)
    return width * height


def overlaps(boxes: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Intersection over union of each pair of boxes, (N, 4) and (N, 4) to (N,), and their generalised IoU (N,).

    The IoU is 0 to 1, 0 where both are empty. The generalised one (Rezatofighi et al. 2019, 1902.09630), -1 to 1, is
    the IoU, less the share of the smallest box around both that neither covers: where two boxes do not meet their IoU
    is 0 however far apart they are, and only this has a gradient.
    """
    corners = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    inside = areas(torch.cat(corners, 1))
    union = areas(boxes) + areas(others) - inside
    hull = torch.cat([torch.minimum(boxes[:, :2], others[:, :2]), torch.maximum(boxes[:, 2:], others[:, 2:])], 1)
    tiny = torch.finfo(union.dtype).tiny
    around = areas(hull)
    iou = inside / union.clamp_min(tiny)
    return iou, iou - (around - union) / around.clamp_min(tiny)


def outlined(images: np.ndarray, boxes: torch.Tensor, value: int = 255) -> np.ndarray:
    """A copy of pictures uint8 (N, 3, H, W) with the outlines of their boxes (N, 4) in a grey value; NaN draws none."""
    drawn = np.array(images)
    height, width = drawn.shape[2:]
    for image, box in zip(drawn, boxes.tolist(), strict=True):
        if not any(side != side for side in box):
            left, right = (round(side * (width - 1)) for side in box[::2])
            top, bottom = (round(side * (height - 1)) for side in box[1::2])
            image[:, [top, bottom], left : right + 1] = value
            image[:, top : bottom + 1, [left, right]] = value
    return drawn
