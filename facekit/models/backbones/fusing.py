"""Networks that only compute embeddings: BatchNorm folded into the convolution before it, channels last."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from facekit.models.backbones.base import Backbone

AnyBackbone = TypeVar("AnyBackbone", bound=Backbone)


def fused_copy(backbone: AnyBackbone, channels_last: bool = True) -> AnyBackbone:
    """A copy for inference alone: in evaluation mode, without gradients, every convolution fused with its BatchNorm.

    In evaluation mode BatchNorm is an affine map per channel, so that weight · γ/√(σ² + ε) and a bias give the same
    output with one pass over the memory less. Embeddings agree with those of `backbone` to about 1e-6. Fused are
    modules that hold a convolution named `conv` and a BatchNorm2d named `bn` (all of FaceNet's and facenet-mini's).
    `backbone` itself is left as it is. channels_last: store the weights NHWC, which CPU and GPU kernels prefer.
    """
    fused = copy.deepcopy(backbone).eval().requires_grad_(False)
    for module in fused.modules():
        conv, bn = getattr(module, "conv", None), getattr(module, "bn", None)
        if isinstance(conv, nn.Conv2d) and isinstance(bn, nn.BatchNorm2d):
            module.conv = fuse_conv_bn_eval(conv, bn)
            module.bn = nn.Identity()
    if channels_last:
        fused.to(memory_format=torch.channels_last)
    return fused.requires_grad_(False)
