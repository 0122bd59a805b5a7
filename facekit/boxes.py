"""Boxes: tensors (N, 4) of left, top, right, bottom in fractions of the picture's sides; a row of NaN is no box."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

BETA = 0.1  # errors of a side below this fraction count squared


def tidy(outputs: torch.Tensor) -> torch.Tensor:
    """Four free numbers a row, (N, 4), to a box inside the picture: cut off at 0 and 1, sides in order, float32."""
    pairs = outputs.float().clamp(0, 1).unflatten(1, (2, 2)).sort(1).values
    return pairs.flatten(1)


def areas(boxes: torch.Tensor) -> torch.Tensor:
    """Areas (N,), 0 for a box whose sides are in the wrong order."""
    width, height = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).unbind(1)
    return width * height


def iou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each pair of boxes, (N, 4) and (N, 4) to (N,), 0 to 1; 0 where both are empty."""
    inside, union = _overlap(boxes, others)
    return inside / union.clamp_min(torch.finfo(union.dtype).tiny)


def giou(boxes: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Generalised IoU of each pair (Rezatofighi et al. 2019, 1902.09630), (N,), -1 to 1.

    The IoU, less the share of the smallest box around both that neither covers: where two boxes do not meet their IoU
    is 0 however far apart they are, and only this has a gradient.
    """
    inside, union = _overlap(boxes, others)
    hull = torch.cat([torch.minimum(boxes[:, :2], others[:, :2]), torch.maximum(boxes[:, 2:], others[:, 2:])], 1)
    tiny = torch.finfo(union.dtype).tiny
    around = areas(hull)
    return inside / union.clamp_min(tiny) - (around - union) / around.clamp_min(tiny)


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


def box_loss(outputs: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Loss of every row (N,): smooth L1 summed over the four sides (Girshick 2015), plus 1 - GIoU.

    The first tells each side where to go from anywhere, the second is what is scored, independent of the box's size.
    """
    sides = F.smooth_l1_loss(outputs, boxes, reduction="none", beta=BETA).sum(1)
    return sides + 1 - giou(outputs, boxes)


def _overlap(boxes: torch.Tensor, others: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Areas (N,) of what two boxes have in common and of what they cover together."""
    corners = torch.maximum(boxes[:, :2], others[:, :2]), torch.minimum(boxes[:, 2:], others[:, 2:])
    inside = areas(torch.cat(corners, 1))
    return inside, areas(boxes) + areas(others) - inside
