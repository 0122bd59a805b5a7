"""The later stages of a backbone, trained on what its earlier stages give: fine-tuning that never runs the whole net.

While a network's first stages are frozen, what they give for a photo never changes. `maps` computes it once for all
photos and keeps it; `tail_of` makes of the stages behind them a `Stack`, from which `SharedNet` and `CrossStitch` are
built as from any other. Of FaceNet behind `mixed_7a` that is a sixteenth of the arithmetic, and a photo in a few
views takes some kilobytes more than its pixels did.

What is given up: photos cannot be moved or relit any more, only views that were computed can be learnt from, such as
the mirror images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit import settings
from facekit.data.sets import FaceSet, LabelledSet
from facekit.errors import ConfigError, DataError
from facekit.models.backbones.base import Backbone
from facekit.models.embedding import (
    BF16_FORMAT,
    EmbeddingPrecision,
    Pass,
    cache_key,
    origin,
    output_of,
    state_hash,
    through,
    uses_bf16,
)
from facekit.models.multitask import Embedding, Ready, Stack, stack_of

FORMAT = 1  # raise it when maps of the same weights and photos change


@dataclass(frozen=True, eq=False)
class MapSet(LabelledSet):
    """What a stage gives for photos: `maps` floating point (N, C, h, w), with the photos' labels."""

    kind: ClassVar[str] = "map set"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs.dtype.kind != "f" or self.inputs.ndim != 4:
            raise DataError(f"maps must be floating point (N, C, h, w), got {self.inputs.dtype} {self.inputs.shape}.")

    @property
    def maps(self) -> np.ndarray:
        """float (N, C, h, w)."""
        return self.inputs


def maps(
    backbone: Backbone,
    faces: FaceSet,
    after: str,
    batch_size: int = 64,
    mirrored: bool = False,
    device: torch.device | str | None = None,
    cache: bool = True,
    precision: EmbeddingPrecision = "auto",
) -> MapSet:
    """The output of stage `after` for all faces, float16 (N, C, h, w), with their labels; later stages are not run.

    Photos are resized to `backbone.image_size`; the network runs in evaluation mode on a fused copy, `backbone` is not
    changed. float16 keeps 11 bits of every number, which is more than `bf16` computes with.

    mirrored: of the mirror images. device, precision: as in `embed`. cache: kept in `settings.cache_dir()/maps`, under
    a key of the content of weights and photos, stage, view and precision; a damaged entry is computed again. FaceNet's
    after `mixed_7a` take 32 kB a photo.

    Raises ConfigError for an unknown stage or one that gives no maps, WeightsError for numbers that are not finite or
    too large for float16.
    """
    names = list(backbone.stages)
    if after not in names[:-1]:
        raise ConfigError(f"{backbone.name} has no maps after {after!r}; choose one of {', '.join(names[:-1])}.")
    if not len(faces):
        raise DataError("there are no photos to compute maps of.")
    backbone.shapes(torch.Generator())
    place = settings.device(device)
    how = Pass(backbone.image_size, batch_size, place, uses_bf16(precision, place), mirrored, torch.float16)
    folder = None
    if cache:
        first = nn.ModuleDict({name: nn.ModuleList(backbone.stages[name]) for name in names[: names.index(after) + 1]})
        about = [FORMAT, backbone.name, after, how.size, state_hash(first), faces.content_hash(), mirrored]
        about.append(how.bf16 and BF16_FORMAT)
        folder = settings.cache_dir() / "maps" / cache_key(about)
    found = through(backbone, faces, partial(output_of, after), how, MapSet, folder)
    return MapSet(found, faces.labels, origin(faces, backbone) | {"after": after})


def tail_of(backbone: Backbone, after: str, until: str | None = None, dropout: float = 0.0) -> Stack:
    """The stages behind `after` as a stack on maps (N, C, h, w), with the same weights; `backbone` is not changed.

    until: the last stage to keep, by default all. The stack's last stage returns vectors of length √D, which is what
    heads compute on: the embedding, or the output of `until` averaged over places, as `embed(…, stage=until)` gives
    it at length 1. dropout: probability, before the heads, of numbers of that vector; the embedding's own dropout
    stays as it is. Raises ConfigError for stages that are not there or not behind one another.
    """
    whole = stack_of(backbone)
    names = list(whole.stages)
    last = until or names[-1]
    if not {after, last} <= set(names) or names.index(last) <= names.index(after):
        raise ConfigError(f"there is no {last!r} behind {after!r} in {backbone.name}; its stages are {names}.")
    parts = {name: whole.stages[name] for name in names[names.index(after) + 1 : names.index(last) + 1]}
    end: list[nn.Module] = [] if last == names[-1] else [Embedding()]
    end += [nn.Dropout(dropout)] if dropout else []
    if end:
        parts[last] = nn.Sequential(parts[last], *end).eval()
    shapes = backbone.shapes(torch.Generator())
    return Stack(Ready(shapes[after][0], 4), parts, shapes[last][0])


def mirrored_too(plain: MapSet, mirrored: MapSet) -> MapSet:
    """The rows of both, one set after the other: a training set in which every photo occurs in two views."""
    labels = pd.concat([plain.labels, mirrored.labels], ignore_index=True)
    return MapSet(np.concatenate([plain.maps, mirrored.maps]), labels, plain.manifest)
