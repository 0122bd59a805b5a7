"""What a trained network is built from, and its photos as it takes them: the same when it is trained and when it is
loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import Stack, mlp, stack_of
from facekit.tasks import Task

BACKBONES: dict[str, type[FaceNet] | type[FaceNetMini]] = {"facenet": FaceNet, "mini": FaceNetMini}
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
    return data.resized((sides[0], sides[1]))
