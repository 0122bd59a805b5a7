"""The contract of every pretrained network in facekit: uint8 photos in, embeddings out, stages with names."""

from __future__ import annotations

import torch

from facekit.errors import ConfigError, TrainingError
from facekit.models.staged import Staged


class Backbone(Staged):
    """Base of FaceNet and facenet-mini.

    `forward` takes uint8 (N, 3, H, W) RGB of any height and width that the network accepts (it resizes nothing) and
    returns float32 embeddings (N, embedding_dim) of length 1. Scaling to the network's input range happens inside,
    so it cannot be forgotten or done twice. `stages` names the parts in order from the input to the output.
    """

    name: str
    image_size: int
    smallest_size: int = 1
    embedding_dim: int

    def check_images(self, images: torch.Tensor) -> None:
        """Raises ConfigError unless images are uint8 (N, 3, H, W)."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(
                f"{self.name} takes uint8 images (N, 3, H, W) and scales them itself, got {images.dtype} "
                f"{tuple(images.shape)}; pass the pixels as they are, 0 to 255."
            )

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Checked images as float32 in the networks' input range, (x - 127.5) / 128, which is about -1 to 1.

        Raises ConfigError for what `check_images` rejects and for photos smaller than the network's strides need, and
        TrainingError for a single photo while the last BatchNorm is being trained (it has no variance).
        """
        self.check_images(images)
        if min(images.shape[2:]) < self.smallest_size:
            raise ConfigError(
                f"{self.name} needs photos of at least {self.smallest_size} × {self.smallest_size} pixels, got "
                f"{images.shape[2]} × {images.shape[3]}; resize them, best to {self.image_size}."
            )
        if len(images) == 1 and self.training and list(self.stages)[-1] not in self._frozen:
            raise TrainingError(
                f"{self.name} cannot be trained on a batch of one photo: its last BatchNorm needs at least two. Drop "
                "the last incomplete batch or take another batch size; to compute embeddings call eval() first."
            )
        return (images.float() - 127.5) / 128
