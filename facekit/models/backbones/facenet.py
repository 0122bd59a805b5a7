"""FaceNet: facenet-pytorch's Inception-ResNet-v1 behind the `Backbone` contract."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import nn

from facekit.models.backbones.base import Pretrained
from facekit.models.weights import NAMES, OFFICIAL_URL, TERMS, find_weights, load_into, read_weights, told_of


class FaceNet(Pretrained):
    """Inception-ResNet-v1 (Szegedy et al., AAAI 2017) trained as FaceNet (Schroff et al., CVPR 2015).

    `forward`: uint8 (N, 3, H, W), at least 75 × 75, best 160 × 160, to float32 (N, 512) of length 1. The layers are
    those of `facenet_pytorch.InceptionResnetV1` (in `net`, with its state-dict keys), without its class logits. The
    sum, the BatchNorm and the length of the embedding are always computed in float32, also under autocast.

    dropout: probability before the last layer while training (facenet-pytorch's default 0.6).
    """

    name = "facenet"
    image_size = 160
    smallest_size = 75  # smaller photos leave no pixel for the strides of mixed_7a
    embedding_dim = 512

    def __init__(self, dropout: float = 0.6) -> None:
        from facenet_pytorch import InceptionResnetV1  # loads all of torchvision: not for who does not need it

        super().__init__()
        self.net = InceptionResnetV1(classify=False, dropout_prob=dropout)
        for module in self.net.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = True  # of sums and BatchNorms, whose gradients do not need what they gave: less memory
        self.flatten = nn.Flatten()

    @classmethod
    def from_pretrained(cls, path: Path | str | None = None) -> Self:
        """FaceNet with its VGGFace2 weights, in evaluation mode.

        path: a file of weights; None looks in `FACEKIT_DATA` and the cache, then downloads (see `weights`). Raises
        WeightsError when there are none, or they are damaged or of another network.
        """
        file = find_weights(path)
        model = cls()
        load_into(model.net, read_weights(file), file)
        return model.eval()

    @classmethod
    def weights_from(cls, path: Path | str | None = None) -> dict[str, str]:
        """File, SHA-256, source and licence of the weights that `from_pretrained` takes."""
        file = find_weights(path)
        return told_of(file) if path is not None and file.name not in NAMES else told_of(file, OFFICIAL_URL, TERMS)

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """Seven stages; the last block8 belongs to `repeat_3`, pooling and dropout to `embedding`."""
        net = self.net
        return {
            "stem": [
                net.conv2d_1a,
                net.conv2d_2a,
                net.conv2d_2b,
                net.maxpool_3a,
                net.conv2d_3b,
                net.conv2d_4a,
                net.conv2d_4b,
            ],
            "repeat_1": [net.repeat_1],
            "mixed_6a": [net.mixed_6a],
            "repeat_2": [net.repeat_2],
            "mixed_7a": [net.mixed_7a],
            "repeat_3": [net.repeat_3, net.block8],
            "embedding": [net.avgpool_1a, self.flatten, net.dropout, net.last_linear, net.last_bn],
        }

    def simplify(self) -> None:
        """See `Backbone.simplify`: exact biases in the stem, the blocks' scale in their weights."""
        stem: list[Any] = [layer for layer in self.stages["stem"] if hasattr(layer, "conv")]
        _make_biases_exact([layer.conv for layer in stem])
        for blocks in (self.net.repeat_1, self.net.repeat_2, self.net.repeat_3):
            for i, block in enumerate(blocks):
                blocks[i] = _Block(block)
        self.net.block8 = _Block(self.net.block8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to unit-length embeddings float32 (N, 512)."""
        for _, output in self.walk(self.prepare(images)):
            x = output  # one at a time: all of them would take much memory
        return F.normalize(x)


class _Block(nn.Module):
    """A residual block of facenet-pytorch for inference: its scale is in the weights, sum and ReLU are in place."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.branches = nn.ModuleList(part for name, part in block.named_children() if name.startswith("branch"))
        self.conv2d: nn.Conv2d = block.conv2d
        self.relu = hasattr(block, "relu")
        for parameter in self.conv2d.parameters():
            parameter.mul_(block.scale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv2d(torch.cat([branch(x) for branch in self.branches], 1)).add_(x)
        return out.relu_() if self.relu else out


def _make_biases_exact(convs: Sequence[nn.Conv2d]) -> None:
    """Scales the channels between the convolutions of a chain so that the biases are numbers of bfloat16.

    ReLU and max pooling let a positive factor through, so the next layer's weights can take it back (Nagel et al., ICCV
    2019, section 4.1). A rounded bias errs in every pixel alike, which no averaging mends: with it the least cosine
    between FaceNet's embeddings in bfloat16 and in float32 was 0.9975 on 1,000 photos of FairFace.
    """
    for conv, following in pairwise(convs):
        bias = cast(torch.Tensor, conv.bias)  # fused with BatchNorm, so it has one
        exact = bias.bfloat16().float()
        factor = torch.where(exact == 0, 1.0, exact / bias)
        conv.weight.mul_(factor.view(-1, 1, 1, 1))
        bias.copy_(exact)
        following.weight.div_(factor.view(1, -1, 1, 1))
