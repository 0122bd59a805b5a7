"""Random changes of photos that keep their labels, drawn for every photo on its own, on the device of the photos."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from facekit.errors import ConfigError
from facekit.models.backbones.base import numbers_on
from facekit.tasks import Task

_MOST = {"flip": 1, "shift": 0.5, "brightness": 1, "contrast": 1, "erase": 1, "turn": 180, "scale": 1}


def augment_for(tasks: Sequence[Task], strong: bool = False) -> Augment:
    """The usual changes, or the strong ones, without those that make a label of these tasks wrong.

    A mirrored text is another one, and a box is elsewhere in a photo that was moved.
    """
    spoiled = {change for task in tasks for change in task.spoiled_by}
    return replace(STRONG if strong else Augment(), **dict.fromkeys(spoiled, 0.0))


@dataclass(frozen=True)
class Augment:
    """What may change, and how much; 0 switches a change off.

    flip: probability of a mirror image. shift: largest move along each axis, as a fraction of the side; the border is
    repeated. brightness: largest change of the mean, as a fraction of 255. contrast: the distance of a pixel to its
    photo's mean is multiplied by a factor between 1 - contrast and 1 + contrast. erase: probability of a square
    (a fifth to two fifths of the side) of the photo's mean colour (random erasing, Zhong et al. 2020, 1708.04896).
    turn: largest angle in degrees, to both sides. scale: what is seen grows or shrinks by a factor of up to 1 + scale,
    as often the one as the other. With these two photos are interpolated (bilinearly), else moved by whole pixels.
    """

    flip: float = 0.5
    shift: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.2
    erase: float = 0.0
    turn: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        for name, top in _MOST.items():
            if not 0 <= getattr(self, name) <= top:
                raise ConfigError(f"augment: {name} must be from 0 to {top}, got {getattr(self, name)}.")

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 (N, 3, H, W) to new images of the same dtype and shape; all draws come from `generator`."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ConfigError(f"augmentation takes uint8 images (N, 3, H, W), got {images.dtype} {images.ndim}-d.")
        # One draw of all numbers, whatever is switched on: a photo's shift does not depend on whether it may flip.
        draws = torch.rand(8, len(images), device=images.device, generator=generator)
        if self.turn or self.scale:  # drawn after the others, which are then the same with and without them
            more = torch.rand(2, len(images), device=images.device, generator=generator)
            images = self._turned(images, draws[0], draws[1:3], *more)
        else:
            images = self._moved(images, draws[0], draws[1:3])
        if self.brightness or self.contrast:
            images = self._relit(images, draws[3], draws[4])
        return self._erased(images, draws[5], draws[6:8]) if self.erase else images

    def _moved(self, images: torch.Tensor, flip: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Mirror and shift in one gather, in whole pixels, so that no pixel is interpolated."""
        if not (self.flip or self.shift):
            return images
        n, channels, height, width = images.shape
        sizes = numbers_on(images.device, height, width)[:, None]
        offset = ((2 * shift - 1) * self.shift * sizes).round().long()
        rows = (torch.arange(height, device=images.device) + offset[0, :, None]).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) + offset[1, :, None]).clamp(0, width - 1)
        columns = torch.where((flip < self.flip)[:, None], width - 1 - columns, columns)
        index = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(-1, channels, -1)
        return images.flatten(2).gather(2, index).view(images.shape)

    def _turned(
        self, images: torch.Tensor, flip: torch.Tensor, shift: torch.Tensor, turn: torch.Tensor, scale: torch.Tensor
    ) -> torch.Tensor:
        """Mirror, shift, turn and scale in one interpolation; the border is repeated."""
        height, width = images.shape[2:]
        angle = math.radians(self.turn) * (2 * turn - 1)
        grown = torch.exp(-math.log1p(self.scale) * (2 * scale - 1))
        side = torch.where(flip < self.flip, -1.0, 1.0)
        sizes = numbers_on(images.device, height, width)[:, None]
        offset = 2 * ((2 * shift - 1) * self.shift * sizes).round() / sizes  # of a side of length 2
        cos, sin, form = grown * angle.cos(), grown * angle.sin(), height / width
        rows = torch.stack([side * cos, -side * sin * form, sin / form, cos], 1).view(-1, 2, 2)
        move = rows @ offset.flip(0).T.unsqueeze(2)
        grid = F.affine_grid(torch.cat([rows, move], 2), list(images.shape), align_corners=False)
        moved = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
        return moved.round_().to(torch.uint8)

    def _relit(self, images: torch.Tensor, brightness: torch.Tensor, contrast: torch.Tensor) -> torch.Tensor:
        x = images.float()
        mean = x.mean((1, 2, 3), keepdim=True)
        factor = (1 + self.contrast * (2 * contrast - 1)).view(-1, 1, 1, 1)
        offset = (255 * self.brightness * (2 * brightness - 1)).view(-1, 1, 1, 1)
        return ((x - mean) * factor + mean + offset).round_().clamp_(0, 255).to(torch.uint8)

    def _erased(self, images: torch.Tensor, draw: torch.Tensor, centre: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        # The draw that decides also gives the size: below the probability it is uniform again.
        half = (0.1 + 0.1 * draw / self.erase) * (draw < self.erase)
        y = (torch.arange(height, device=images.device) + 0.5) / height
        x = (torch.arange(width, device=images.device) + 0.5) / width
        inside_y = (y - centre[0, :, None]).abs() < half[:, None]
        inside_x = (x - centre[1, :, None]).abs() < half[:, None]
        mask = (inside_y[:, :, None] & inside_x[:, None, :]).unsqueeze(1)
        colour = images.float().mean((2, 3), keepdim=True).round().to(torch.uint8)
        return torch.where(mask, colour, images)


STRONG = Augment(shift=0.08, brightness=0.25, contrast=0.3, erase=0.25, turn=15, scale=0.15)
