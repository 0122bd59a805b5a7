"""facenet-mini: a small convolutional network that was taught FaceNet's embeddings, for machines without a GPU."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from facekit.errors import WeightsError
from facekit.files import sha256_of_file
from facekit.models.backbones.base import Pretrained
from facekit.models.weights import TERMS, load_into, read_weights, told_of

PACKAGED_WEIGHTS = Path(__file__).parents[1] / "facenet_mini.safetensors"
PACKAGED_SHA256 = "b8453d3228c33f3833e1f5ee1fc5ff495ca2da4a22900cd23cc3005fa3835fd4"

PACKAGED = (
    "comes with facekit; taught FaceNet's embeddings of FairFace's photos and of rendered portraits",
    "photos under CC BY 4.0; of its teacher FaceNet: " + TERMS,
)


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution ('same' padding) and BatchNorm, neighbours in a Sequential so that they can be fused."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions with a shortcut (ResNet's basic block); the shortcut pools instead of skipping pixels."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = conv_bn(inputs, outputs, 3, stride)
        self.conv_2 = conv_bn(outputs, outputs, 3)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.shortcut = conv_bn(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place: the gradients of sums and BatchNorms do not need what they gave.
        out = self.conv_2(F.relu_(self.conv_1(x)))
        return F.relu_(out.add_(self.shortcut(self.pool(x))))


class SpatialWeights(nn.Module):
    """A learned weight per place and channel: global depthwise convolution (MobileFaceNet, Chen et al. 2018).

    In an aligned face every place means something else, which average pooling forgets. Maps of another size than
    `size` × `size` are first averaged or repeated to it, so that other image sizes work (a little less well).
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.conv = nn.Conv2d(channels, channels, size, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (self.size, self.size):
            x = F.adaptive_avg_pool2d(x, self.size)
        return self.bn(self.conv(x)).flatten(1)


class FaceNetMini(Pretrained):
    """A small residual network with embeddings in FaceNet's space; below 2.5 M parameters (5 MB as float16).

    Wide and shallow: with the few steps that a CPU has time for, more blocks at 1/16 of the size learned more slowly.

    `forward`: uint8 (N, 3, H, W), at least 32 × 32, best 96 × 96, to float32 (N, 512) of length 1.
    """

    name = "facenet-mini"
    image_size = 96
    smallest_size = 32
    embedding_dim = 512

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 32, 3, stride=2), nn.ReLU(inplace=True))
        self.stage_1 = BasicBlock(32, 64, stride=2)
        self.stage_2 = BasicBlock(64, 128, stride=2)
        self.stage_3 = BasicBlock(128, 320, stride=2)
        self.spatial = SpatialWeights(320, self.image_size // 16)
        self.linear = nn.Linear(320, self.embedding_dim)

    @classmethod
    def from_pretrained(cls, path: Path | str | None = None) -> Self:
        """facenet-mini with the weights that come with facekit (or those in `path`), in evaluation mode.

        Raises WeightsError if the file is missing, damaged or of another network. The packaged file is compared with
        its SHA-256, which takes 3 ms.
        """
        file = Path(path) if path is not None else PACKAGED_WEIGHTS
        if path is None and not (file.is_file() and sha256_of_file(file) == PACKAGED_SHA256):
            raise WeightsError(
                f"facenet-mini's weights are {'damaged' if file.is_file() else 'not where they belong'} ({file}); "
                "install facekit again. If you have made other ones with `python -m facekit distill`, name their file "
                f"or put their SHA-256 into PACKAGED_SHA256 ({__name__})."
            )
        model = cls()
        load_into(model, read_weights(file), file)
        return model.eval()

    @classmethod
    def weights_from(cls, path: Path | str | None = None) -> dict[str, str]:
        """File, SHA-256, source and licence of the weights that `from_pretrained` takes."""
        return told_of(PACKAGED_WEIGHTS, *PACKAGED) if path is None else told_of(Path(path))

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """Stem, three residual blocks (at 1/4, 1/8 and 1/16 of the image's size) and the embedding."""
        return {
            "stem": [self.stem],
            "stage_1": [self.stage_1],
            "stage_2": [self.stage_2],
            "stage_3": [self.stage_3],
            "embedding": [self.spatial, self.linear],
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to unit-length embeddings float32 (N, 512)."""
        x = self.prepare(images)
        for module in (self.stem, self.stage_1, self.stage_2, self.stage_3, self.spatial):
            x = module(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.linear(x.float()))
