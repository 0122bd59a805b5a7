"""What a trained network is built from, and its photos as it takes them: the same when it is trained and when it is
loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import PREFIX, Backbone, Pretrained, check_size
from facekit.models.backbones.efficientnet_lite import EfficientNetLite0
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import Stack, mlp, stack_of
from facekit.tasks import Task


class Backbones(dict[str, type[Pretrained]]):
    """Networks with weights by the name that the command line takes; any of torchvision as well, `torchvision:NAME`.

    Looking one up raises ConfigError, with names that are near, where there is none.
    """

    def __missing__(self, name: str) -> type[Pretrained]:
        from facekit.models.backbones.torchvision_nets import names, torchvision_network  # loads all of torchvision

        if name.startswith(PREFIX):
            return torchvision_network(name.removeprefix(PREFIX))
        if PREFIX + name in names():
            raise ConfigError(f"there is no network {name!r}; that of torchvision is {PREFIX}{name}.")
        near = get_close_matches(name, [*self, *names()], cutoff=0.7)
        raise ConfigError(
            f"there is no network {name!r}{f' (near is {near[0]})' if near else ''}; this facekit has {self.told()}."
        )

    def told(self) -> str:
        """The names, in words."""
        return f"{', '.join(self)}, torchvision:NAME (as {PREFIX}resnet18)"


BACKBONES = Backbones({"facenet": FaceNet, "mini": FaceNetMini, "efficientnet-lite0": EfficientNetLite0})
MOST_PIXELS = 4096  # a side of a photo


@dataclass(frozen=True)
class Base:
    """What a method's network is built from.

    backbone: None where the inputs are embeddings. width: length D of the embeddings. hidden: units of the heads'
    hidden layer, without a backbone of the layer that tasks share; 0 for linear heads. dropout: in the heads.
    """

    backbone: Backbone | None
    width: int
    hidden: int = 0
    dropout: float = 0.0

    def stack(self) -> Stack:
        """The backbone as a stack, or a hidden layer on embeddings."""
        if self.backbone is None:
            return mlp(self.width, (self.hidden,), self.dropout)
        return stack_of(self.backbone)

    def classifier(self, tasks: Sequence[Task]) -> Classifier:
        """The backbone, or nothing, with a head for each task."""
        return Classifier(self.backbone, Heads(self.width, tasks, self.hidden, self.dropout))


def sized(
    data: FaceSet | FeatureSet,
    network: Backbone | type[Backbone] | None,
    size: int | Sequence[int] | None,
    keeps_form: bool,
) -> FaceSet | FeatureSet:
    """Photos at that size, by default the network's; those that keep their form with a shorter side of at most that."""
    if network is None or not isinstance(data, FaceSet):
        return data
    if size is None:
        side, shape = network.image_size, data.images.shape[2:]
        scale = min(1.0, side / min(shape))
        size = [round(scale * length) for length in shape] if keeps_form else side
    sides = [size, size] if isinstance(size, int) else list(size)
    if len(sides) != 2 or not all(0 < side <= MOST_PIXELS for side in sides):
        raise ConfigError(f"size is a side or [height, width], each from 1 to {MOST_PIXELS} pixels; got {size}.")
    check_size(network, sides[0], sides[1])
    return data.resized((sides[0], sides[1]))
