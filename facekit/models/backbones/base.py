"""The contract of every pretrained network in facekit: uint8 photos in, embeddings out, stages with names."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Self, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facekit.errors import ConfigError, TrainingError
from facekit.models.staged import Staged

PREFIX = "torchvision:"  # begins the name of a network of torchvision


class Backbone(Staged):
    """Base of FaceNet, facenet-mini and all others.

    `forward` takes uint8 (N, 3, H, W) RGB of any height and width that the network accepts (it resizes nothing) and
    returns float32 embeddings (N, embedding_dim) of length 1. Scaling to the network's input range happens inside,
    so it cannot be forgotten or done twice. `stages` names the parts in order from the input to the output.

    image_size: side in pixels that suits it best, or the only one that it takes (`one_size`). mean, std: of pixels from
    0 to 255, for all channels or for each; what is taken from them, and what they are then divided by.
    """

    name: str
    image_size: int
    smallest_size: int = 1
    one_size: bool = False
    embedding_dim: int
    mean: float | tuple[float, ...] = 127.5
    std: float | tuple[float, ...] = 128.0

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 (N, 3, H, W) as float32 in the network's input range, (x - mean) / std.

        Raises ConfigError for other images and for photos of a size that the network does not take, and TrainingError
        for a single photo while the last BatchNorm is being trained (it has no variance).
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(
                f"{self.name} takes uint8 images (N, 3, H, W) and scales them itself, got {images.dtype} "
                f"{tuple(images.shape)}; pass the pixels as they are, 0 to 255."
            )
        check_size(self, images.shape[2], images.shape[3])
        trained = self.training and list(self.stages)[-1] not in self._frozen
        if len(images) == 1 and trained and self._has_batchnorm():
            raise TrainingError(
                f"{self.name} cannot be trained on a batch of one photo: its last BatchNorm needs at least two. Drop "
                "the last incomplete batch or take another batch size; to compute embeddings call eval() first."
            )
        mean, std = (
            numbers_on(images.device, *value).view(3, 1, 1) if isinstance(value, tuple) else value
            for value in (self.mean, self.std)
        )
        return images.float().sub_(mean).div_(std)

    def _has_batchnorm(self) -> bool:
        return any(isinstance(module, _BatchNorm) for module in self.modules())

    def walk(self, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """One stage after another on prepared photos: its name and its output; the last one computes in float32."""
        *_, last = self.stages
        for name, modules in self.stages.items():
            x = x.float() if name == last else x
            with torch.autocast(x.device.type, enabled=False) if name == last else nullcontext():
                for module in modules:
                    x = module(x)
            yield name, x

    def simplify(self) -> None:
        """What else `fused_copy` can move into the weights for bfloat16; every stage's output stays what it was."""

    @torch.no_grad()
    def shapes(self, generator: torch.Generator | None = None) -> dict[str, tuple[int, ...]]:
        """Shape of every stage's output for one photo, found on two of noise from the generator (default: torch's).

        Raises ConfigError for a network that is more than its stages one after another.
        """
        noise = torch.randint(0, 256, (2, 3, *[self.image_size] * 2), dtype=torch.uint8, generator=generator)
        noise, network = noise.to(next(self.parameters()).device), copy.deepcopy(self).eval()
        found = dict(network.walk(network.prepare(noise)))
        *_, last = found.values()
        same = last.shape == (2, self.embedding_dim) and torch.allclose(F.normalize(last), network(noise), atol=1e-5)
        if not same:
            raise ConfigError(
                f"{self.name} is not the sequence of its stages, so it cannot be split between them or shared by "
                "domains."
            )
        return {name: tuple(x.shape[1:]) for name, x in found.items()}


class Pretrained(Backbone):
    """A backbone that there are weights of; the command line knows those in `models.build`."""

    @classmethod
    def from_pretrained(cls, path: Path | str | None = None) -> Self:
        """The network with its usual weights, or those of a file, in evaluation mode; raises WeightsError."""
        raise NotImplementedError

    @classmethod
    def weights_from(cls, path: Path | str | None = None) -> dict[str, str]:
        """File, SHA-256, source and licence of the weights that `from_pretrained` takes."""
        raise NotImplementedError


def check_size(network: Backbone | type[Backbone], height: int, width: int) -> None:
    """Raises ConfigError for photos of a size in pixels that the network does not take."""
    side, least = network.image_size, network.smallest_size
    if network.one_size and (height, width) != (side, side):
        raise ConfigError(
            f"{network.name} takes photos of exactly {side} × {side} pixels, since its weights know every place of "
            f"them, got {height} × {width}; resize them (train: --size {side})."
        )
    if min(height, width) < least:
        raise ConfigError(
            f"{network.name} needs photos of at least {least} × {least} pixels, got {height} × {width}; resize them, "
            f"best to {side}."
        )


AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


def numbers_on(device: torch.device, *numbers: float) -> torch.Tensor:
    """A few numbers as a tensor (n,) that is made on the device: `torch.tensor` would copy it there and wait."""
    return torch.stack([torch.full((), number, device=device) for number in numbers])


def directions(x: torch.Tensor) -> torch.Tensor:
    """Maps (N, C, h, w) as their means over places, or vectors (N, C) as they are, brought to length 1."""
    return F.normalize(x.flatten(2).mean(2) if x.ndim > 2 else x)


def fused_copy(backbone: AnyBackbone, channels_last: bool = True, bf16: bool = False) -> AnyBackbone:
    """A copy for inference alone: in evaluation mode, without gradients, every convolution fused with its BatchNorm.

    In evaluation mode BatchNorm is an affine map per channel, so that weight · γ/√(σ² + ε) and a bias give the same
    output with one pass over the memory less. Embeddings agree with those of `backbone` to about 1e-6. Fused are
    modules that hold a convolution named `conv` and a BatchNorm2d named `bn` (all of FaceNet's and facenet-mini's).
    `backbone` itself is left as it is. channels_last: store the weights NHWC, which CPU and GPU kernels prefer. bf16:
    for use under autocast to bfloat16; the network is simplified (see `Backbone.simplify`) and the convolutions of all
    stages but the last are stored as bfloat16, which autocast would otherwise make of them in every batch.
    """
    fused = copy.deepcopy(backbone).eval().requires_grad_(False)
    for module in fused.modules():
        conv, bn = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(conv, bn)
            module.bn = nn.Identity()
    fused.requires_grad_(False)
    if bf16:
        fused.simplify()
        *trunk, _ = fused.stages.values()
        for module in (part for modules in trunk for one in modules for part in one.modules()):
            if isinstance(module, nn.Conv2d):
                module.bfloat16()
    if channels_last:
        fused.to(memory_format=torch.channels_last)
    return fused
