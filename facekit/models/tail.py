"""The later stages of a backbone, trained on what its earlier stages give: fine-tuning that never runs the whole net.

While a network's first stages are frozen, what they give for a photo never changes. `maps` computes it once for all
photos and keeps it; `tail_of` makes of the stages behind them a `Stack`, from which `SharedNet` and `CrossStitch` are
built as from any other. Of FaceNet behind `mixed_7a` that is a sixteenth of the arithmetic, and a photo in a few
views takes some kilobytes more than its pixels did.

What is given up: photos cannot be moved or relit any more, only views that were computed can be learnt from, such as
the mirror images.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn

from facekit import settings
from facekit.data.sets import FaceSet, LabelledSet
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.fusing import fused_copy
from facekit.models.embedding import Precision, state_hash, uses_bf16
from facekit.models.multitask import Stack, stack_of

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
    precision: Precision = "auto",
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
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
    device = torch.device(device) if device is not None else settings.device()
    bf16 = uses_bf16(precision, device)
    first = _first_stages(backbone, after)
    parts = [FORMAT, backbone.name, after, backbone.image_size, state_hash(nn.ModuleDict(first))]
    key = hashlib.sha256(" ".join(map(str, [*parts, faces.content_hash(), mirrored, bf16])).encode()).hexdigest()[:40]
    folder = settings.cache_dir() / "maps" / key
    found = _cached(folder, len(faces)) if cache else None
    if found is None:
        found = _compute(backbone, faces, after, batch_size, mirrored, device, bf16)
        if cache:
            try:
                MapSet(found, faces.labels[["split"]]).save(folder)
            except OSError as error:
                raise ConfigError(
                    f"maps cannot be kept in {folder} ({error.strerror or error}); set FACEKIT_CACHE to a folder with "
                    "room that you may write to, or pass cache=False."
                ) from None
    kept = {name: faces.manifest[name] for name in ("source", "licence") if name in faces.manifest}
    return MapSet(found, faces.labels, {**kept, "backbone": backbone.name, "after": after})


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
    end: list[nn.Module] = [] if last == names[-1] else [_Averaged()]
    end += [nn.Dropout(dropout)] if dropout else []
    if end:
        parts[last] = nn.Sequential(parts[last], *end)
    photo = torch.zeros(1, 3, *[backbone.image_size] * 2, dtype=torch.uint8, device=next(backbone.parameters()).device)
    with torch.no_grad():
        x = _run(whole, after, photo)
        channels = x.shape[1]
        for stage in parts.values():
            x = stage.eval()(x)
    return Stack(_Maps(channels), parts, x.shape[1])


def mirrored_too(plain: MapSet, mirrored: MapSet) -> MapSet:
    """The rows of both, one set after the other: a training set in which every photo occurs in two views."""
    labels = pd.concat([plain.labels, mirrored.labels], ignore_index=True)
    return MapSet(np.concatenate([plain.maps, mirrored.maps]), labels, plain.manifest)


def _run(stack: Stack, after: str, images: torch.Tensor) -> torch.Tensor:
    """uint8 photos through the stages of a stack up to `after`, in evaluation mode."""
    x = stack.inputs.eval()(images)
    for name, stage in stack.stages.items():
        x = stage(x)
        if name == after:
            break
    return x


def _first_stages(backbone: Backbone, after: str) -> dict[str, nn.Module]:
    """The stages up to `after`; raises ConfigError if there is none of this name or it is the last one."""
    names = list(backbone.stages)
    if after not in names[:-1]:
        raise ConfigError(f"{backbone.name} has no maps after {after!r}; choose one of {', '.join(names[:-1])}.")
    return {name: nn.ModuleList(backbone.stages[name]) for name in names[: names.index(after) + 1]}


def _cached(folder: Path, rows: int) -> np.ndarray | None:
    """Memory-mapped maps of a whole cache entry, checksums compared; None where it is missing or damaged."""
    try:
        found = MapSet.load(folder, verify=True).maps
    except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return found if len(found) == rows and found.dtype == np.float16 else None


def _compute(
    backbone: Backbone, faces: FaceSet, after: str, batch_size: int, mirrored: bool, device: torch.device, bf16: bool
) -> np.ndarray:
    """Maps float16 (N, C, h, w); raises WeightsError for what float16 cannot hold."""
    stack = stack_of(fused_copy(backbone).to(device))
    found: np.ndarray | None = None
    bar = settings.progress(total=len(faces), desc=f"{backbone.name} up to {after}", unit="photo")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    with bar, torch.inference_mode(), autocast:
        for start in range(0, len(faces), batch_size):
            some = faces.select(range(start, min(start + batch_size, len(faces)))).resized(backbone.image_size)
            images = torch.from_numpy(np.ascontiguousarray(some.images)).to(device)
            images = images.contiguous(memory_format=torch.channels_last)
            part = _run(stack, after, images.flip(3) if mirrored else images).half().cpu()
            if not part.isfinite().all():
                raise WeightsError(f"{backbone.name} gives maps that float16 cannot hold; its weights are damaged.")
            found = np.empty((len(faces), *part.shape[1:]), np.float16) if found is None else found
            found[start : start + len(part)] = part.numpy()
            bar.update(len(part))
    if found is None:
        raise DataError("there are no photos to compute maps of.")
    return found


class _Maps(nn.Module):
    """The input of a tail: checks the maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ConfigError(f"this network takes maps (N, {self.channels}, h, w), got {tuple(x.shape)}.")
        return x.contiguous(memory_format=torch.channels_last)


class _Averaged(nn.Module):
    """Maps (N, C, h, w) to their means over places, brought to length √C; always in float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            x = F.normalize(x.float().flatten(2).mean(2))
            return x * math.sqrt(x.shape[1])
