"""Random changes of photos that keep their labels, drawn for every photo on its own, on the device of the photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from facekit.errors import ConfigError
from facekit.tasks import Task


def augment_for(tasks: Sequence[Task]) -> Augment:
    """The usual changes, without those that make a label of these tasks wrong: a mirrored text is another one."""
    return Augment(**dict.fromkeys({change for task in tasks for change in task.spoiled_by}, 0.0))


@dataclass(frozen=True)
class Augment:
    """What may change, and how much; 0 switches a change off.

    flip: probability of a mirror image. shift: largest move along each axis, as a fraction of the side; the border is
    repeated. brightness: largest change of the mean, as a fraction of 255. contrast: the distance of a pixel to its
    photo's mean is multiplied by a factor between 1 - contrast and 1 + contrast. erase: probability of a square
    (a fifth to two fifths of the side) of the photo's mean colour (random erasing, Zhong et al. 2020, 1708.04896).
    """

    flip: float = 0.5
    shift: float = 0.06
    brightness: float = 0.15
    contrast: float = 0.2
    erase: float = 0.0

    def __post_init__(self) -> None:
        for name, top in (("flip", 1), ("shift", 0.5), ("brightness", 1), ("contrast", 1), ("erase", 1)):
            if not 0 <= getattr(self, name) <= top:
                raise ConfigError(f"augment: {name} must be from 0 to {top}, got {getattr(self, name)}.")

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """uint8 (N, 3, H, W) to new images of the same dtype and shape; all draws come from `generator`."""
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ConfigError(f"augmentation takes uint8 images (N, 3, H, W), got {images.dtype} {images.ndim}-d.")
        # One draw of all numbers, whatever is switched on: a photo's shift does not depend on whether it may flip.
        draws = torch.rand(8, len(images), device=images.device, generator=generator)
        images = self._moved(images, draws[0], draws[1:3])
        if self.brightness or self.contrast:
            images = self._relit(images, draws[3], draws[4])
        return self._erased(images, draws[5], draws[6:8]) if self.erase else images

    def _moved(self, images: torch.Tensor, flip: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        """Mirror and shift in one gather, in whole pixels, so that no pixel is interpolated."""
        if not (self.flip or self.shift):
            return images
        n, channels, height, width = images.shape
        sizes = torch.tensor([[height], [width]], device=images.device)
        offset = ((2 * shift - 1) * self.shift * sizes).round().long()
        rows = (torch.arange(height, device=images.device) + offset[0, :, None]).clamp(0, height - 1)
        columns = (torch.arange(width, device=images.device) + offset[1, :, None]).clamp(0, width - 1)
        columns = torch.where((flip < self.flip)[:, None], width - 1 - columns, columns)
        index = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1).expand(-1, channels, -1)
        return images.flatten(2).gather(2, index).view(images.shape)

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
