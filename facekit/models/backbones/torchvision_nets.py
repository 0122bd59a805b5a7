"""Any classification network of torchvision behind the `Backbone` contract, without its layer of ImageNet's classes.

Networks come in families (`FAMILIES`); a family says which of a network's parts follow one another, up to the vector
that its last linear layer takes. Where the maps get smaller a new stage begins, so that all networks have the same
names: `stem`, `stage_1` … and `embedding`. A family that torchvision adds is one more function here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models
from torchvision.models import (
    convnext,
    densenet,
    efficientnet,
    maxvit,
    mobilenetv2,
    mobilenetv3,
    regnet,
    resnet,
    shufflenetv2,
    swin_transformer,
    vgg,
    vision_transformer,
)
from torchvision.models.alexnet import AlexNet

from facekit.errors import ConfigError
from facekit.models.backbones.base import PREFIX, Pretrained
from facekit.models.weights import fetched, load_into, read_weights, told_of

LICENCE = (
    "code of torchvision under the BSD 3-Clause licence; trained on ImageNet, whose terms are non-commercial research"
)
GROUPS = 4  # of a transformer's layers, which do not get smaller
# Names in files that are older than the code: torchvision renames them when it loads them itself.
OLD_NAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"(\.mlp)\.linear_1\."), r"\1.0."),
    (re.compile(r"(\.mlp)\.linear_2\."), r"\1.3."),
)


class Permute(nn.Module):
    """A view with the dimensions in another order."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(self.order)


class Tokens(nn.Module):
    """The first layers of a vision transformer: photos (N, 3, H, W) to tokens (N, T, C), the class token first."""

    def __init__(self, net: vision_transformer.VisionTransformer) -> None:
        super().__init__()
        self.patches, self.dropout = net.conv_proj, net.encoder.dropout
        self.class_token, self.positions = net.class_token, net.encoder.pos_embedding

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.dropout(torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.positions)


class FirstToken(nn.Module):
    """Tokens (N, T, C) to the class token (N, C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0]


@dataclass(frozen=True)
class Chain:
    """A network as parts one after another: `trunk`, cut into stages, and `tail`, which makes a vector (N, D) of it.

    enter, leave: what turns maps (N, C, h, w) into what the parts take between stages, and back. starts: places in the
    trunk where a stage begins; None: where the maps get smaller.
    """

    trunk: Sequence[nn.Module]
    tail: Sequence[nn.Module]
    enter: Sequence[nn.Module] = ()
    leave: Sequence[nn.Module] = ()
    starts: Sequence[int] | None = None


def _pooled(classifier: Sequence[nn.Module] = ()) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *classifier]


def _residual(net: Any) -> Chain:
    layers = [block for layer in (net.layer1, net.layer2, net.layer3, net.layer4) for block in layer]
    return Chain([net.conv1, net.bn1, net.relu, net.maxpool, *layers], _pooled())


def _regular(net: Any) -> Chain:
    return Chain([net.stem, *(block for stage in net.trunk_output for block in stage)], _pooled())


def _efficient(net: Any) -> Chain:
    return Chain([*net.features], _pooled(net.classifier))


def _convnext(net: Any) -> Chain:
    return Chain([*net.features], [net.avgpool, *net.classifier])


def _plain(net: Any) -> Chain:
    return Chain([*net.features], [net.avgpool, nn.Flatten(), *net.classifier])


def _dense(net: Any) -> Chain:
    return Chain([*net.features], [nn.ReLU(), *_pooled()])


def _shuffled(net: Any) -> Chain:
    return Chain([net.conv1, net.maxpool, *net.stage2, *net.stage3, *net.stage4, net.conv5], _pooled())


def _windows(net: Any) -> Chain:
    """Its maps are (N, h, w, C)."""
    first, last = Permute(0, 2, 3, 1), Permute(0, 3, 1, 2)
    return Chain([*net.features], [net.norm, last, *_pooled()], [first], [last])


def _axes(net: Any) -> Chain:
    return Chain([net.stem, *net.blocks], [*net.classifier])


def _transformer(net: Any) -> Chain:
    """Its tokens (N, T, C) are maps (N, C, T, 1) between stages."""
    layers = [*net.encoder.layers]
    starts = [1 + group * len(layers) // GROUPS for group in range(GROUPS)]
    enter, leave = [nn.Flatten(2), Permute(0, 2, 1)], [Permute(0, 2, 1), nn.Unflatten(2, (-1, 1))]
    return Chain([Tokens(net), *layers], [net.encoder.ln, FirstToken()], enter, leave, starts)


FAMILIES: dict[type[nn.Module], Callable[[Any], Chain]] = {
    resnet.ResNet: _residual,
    regnet.RegNet: _regular,
    efficientnet.EfficientNet: _efficient,
    mobilenetv2.MobileNetV2: _efficient,
    mobilenetv3.MobileNetV3: _efficient,
    convnext.ConvNeXt: _convnext,
    densenet.DenseNet: _dense,
    shufflenetv2.ShuffleNetV2: _shuffled,
    vgg.VGG: _plain,
    AlexNet: _plain,
    swin_transformer.SwinTransformer: _windows,
    maxvit.MaxVit: _axes,
    vision_transformer.VisionTransformer: _transformer,
}
ONE_SIZE = (vision_transformer.VisionTransformer, maxvit.MaxVit)  # their weights know every place of the photo


class TorchvisionNet(Pretrained):
    """A network of torchvision; `torchvision_network("resnet18")` makes the class of one of them.

    `forward`: uint8 (N, 3, H, W), best `image_size`, to float32 (N, embedding_dim) of length 1: what the network's last
    linear layer takes, scaled with the mean and the spread that its weights were trained with. The layers are those of
    torchvision (in `net`, with its state-dict keys), without that last one. Between stages there are maps (N, C, h, w);
    those of a vision transformer are its tokens, (N, C, T, 1). The stage `embedding` is what makes the vector of the
    last map; in a network that only takes the mean there, as residual ones do, the last block is a part of it.
    """

    weights: ClassVar[Any]  # torchvision's entry: address, size, how photos are prepared
    head: ClassVar[str]  # the last linear layer
    cuts: ClassVar[dict[str, slice]]  # stage to its places in the trunk; the embedding has the tail as well

    def __init__(self) -> None:
        super().__init__()
        self.net = _built(self.name.removeprefix(PREFIX), self.weights)
        self.net.set_submodule(self.head, nn.Identity())

    @classmethod
    def from_pretrained(cls, path: Path | str | None = None) -> Self:
        """The network with torchvision's weights for ImageNet, in evaluation mode.

        path: a file of weights of this network, with or without its last layer, for any number of classes; None looks
        in `FACEKIT_DATA` and the cache, then downloads (see `weights`). Raises WeightsError when there are none, or
        they are damaged or of another network.
        """
        file = cls._file(path)
        model = cls()
        state = {}
        for key, value in read_weights(file).items():
            key = renamed(key)
            if not re.search(rf"(^|\.){re.escape(cls.head)}\.(weight|bias)$", key):
                state[key] = value
        load_into(model.net, state, file, cls.name)
        return model.eval()

    @classmethod
    def weights_from(cls, path: Path | str | None = None) -> dict[str, str]:
        """File, SHA-256, source and licence of the weights that `from_pretrained` takes."""
        file = cls._file(path)
        told = told_of(file, cls.weights.url, cls._licence())
        if path is None or (file.name == Path(cls.weights.url).name and told["sha256"].startswith(cls._checksum())):
            return told
        return told_of(file)

    @classmethod
    def _file(cls, path: Path | str | None) -> Path:
        if path is not None:
            return Path(path)
        size = round(cls.weights.meta["_file_size"] * 2**20)
        return fetched(cls.weights.url, cls._checksum(), size, cls.name, cls._licence())

    @classmethod
    def _checksum(cls) -> str:
        """What torchvision tells of the SHA-256 in the file's name: its first digits."""
        found = re.search(r"-([0-9a-f]{8,64})\.pth$", cls.weights.url)
        return found[1] if found else ""

    @classmethod
    def _licence(cls) -> str:
        own = cls.weights.meta.get("license")
        return f"{LICENCE}; weights under the terms of {own}" if own else LICENCE

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """The stem, a stage for every size of the maps (of a transformer: four of its layers) and the embedding."""
        return _stages(_chain(self.net), self.cuts)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """uint8 (N, 3, H, W) to unit-length embeddings float32 (N, embedding_dim)."""
        for _, output in self.walk(self.prepare(images)):
            x = output
        return F.normalize(x)


def renamed(key: str) -> str:
    """The name of a weight in today's torchvision."""
    for old, new in OLD_NAMES:
        key = old.sub(new, key)
    return key


def names() -> list[str]:
    """The classification networks of torchvision, as `--backbone` takes them; of some there is no backbone."""
    return [PREFIX + name for name in models.list_models(module=models)]


@cache
def torchvision_network(name: str) -> type[TorchvisionNet]:
    """The class of a network of torchvision, which is built without memory here. Raises ConfigError for an unknown name
    and for a network of which nothing is known as a sequence of stages."""
    if PREFIX + name not in names():
        near = [PREFIX + each for each in get_close_matches(name, [each.removeprefix(PREFIX) for each in names()])]
        said = f"near are {', '.join(near)}" if near else "its networks are listed at pytorch.org/vision, as resnet18"
        raise ConfigError(f"torchvision has no network {name!r}; {said}.")
    weights = cast(Any, models.get_model_weights(name)).DEFAULT
    how = weights.transforms()
    net = _without_memory(name, weights)
    if type(net) not in FAMILIES:
        raise ConfigError(
            f"{PREFIX}{name} is not known as stages one after another that end in one vector ({type(net).__name__} has "
            f"further outputs, or no last linear layer); take one of another family, as {PREFIX}resnet18, "
            f"{PREFIX}efficientnet_b0, {PREFIX}convnext_tiny or {PREFIX}vit_b_16."
        )
    *_, (head, last) = [(path, part) for path, part in net.named_modules() if isinstance(part, nn.Linear)]
    net.set_submodule(head, nn.Identity())
    side = how.crop_size[0]
    windows = isinstance(net, swin_transformer.SwinTransformer)  # it pads what does not fill a window
    about = {
        "name": PREFIX + name,
        "image_size": side,
        "smallest_size": 32 if windows else max(32, weights.meta["min_size"][0]),
        "one_size": isinstance(net, ONE_SIZE),
        "embedding_dim": last.in_features,
        "mean": tuple(255 * value for value in how.mean),
        "std": tuple(255 * value for value in how.std),
        "weights": weights,
        "head": head,
        "cuts": _cuts(_chain(net.eval()), side),
        "__doc__": f"{name} of torchvision, see TorchvisionNet.",
        "__module__": __name__,
    }
    return type(name, (TorchvisionNet,), about)


def _built(name: str, weights: Any) -> nn.Module:
    """The network with random weights."""
    side = weights.transforms().crop_size[0]
    transformer = name.startswith("vit_")  # the size of the others does not depend on the photos'
    return models.get_model(name, weights=None, **({"image_size": side} if transformer else {}))


def _without_memory(name: str, weights: Any) -> nn.Module:
    """The network without values; the random state stays as it was."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):  # remarks on slow first weights
        try:
            with torch.device("meta"):
                return _built(name, weights)
        except NotImplementedError:  # RegNet computes its widths with tensors
            return _built(name, weights).to("meta")


def _chain(net: nn.Module) -> Chain:
    return FAMILIES[type(net)](net)


@torch.no_grad()
def _cuts(chain: Chain, side: int) -> dict[str, slice]:
    """Stage to its places in the trunk, found by a photo that goes through; every stage has parameters."""
    starts = chain.starts
    if starts is None:
        x = torch.empty(1, 3, side, side, device="meta")
        sides = [(x := part(x)).shape[-2] for part in chain.trunk]  # the width, also of maps (N, h, w, C)
        starts = [place for place in range(1, len(sides)) if sides[place] < sides[place - 1]]
    end = len(chain.trunk) if _has_parameters(chain.tail) else len(chain.trunk) - 1
    kept = [0]
    for start in [*(start for start in starts if start < end), end]:
        if _has_parameters(chain.trunk[kept[-1] : start]):
            kept.append(start)
    names = ["stem", *(f"stage_{place}" for place in range(1, len(kept) - 1)), "embedding"]
    return {name: slice(*ends) for name, *ends in zip(names, kept, [*kept[1:], len(chain.trunk)], strict=True)}


def _stages(chain: Chain, cuts: dict[str, slice]) -> dict[str, Sequence[nn.Module]]:
    """The modules of each stage, from maps to maps, the last one to a vector."""
    stages: dict[str, Sequence[nn.Module]] = {}
    for name, places in cuts.items():
        first = chain.enter if stages else ()
        last = chain.tail if name == "embedding" else chain.leave
        stages[name] = [*first, *chain.trunk[places], *last]
    return stages


def _has_parameters(parts: Sequence[nn.Module]) -> bool:
    return any(next(part.parameters(), None) is not None for part in parts)
