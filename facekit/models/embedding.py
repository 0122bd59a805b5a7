"""Embeddings of a whole set of faces: computed once, fast, and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from facekit import settings
from facekit.data.sets import STORED, FaceSet, FeatureSet, LabelledSet
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.files import told, writing
from facekit.models.backbones.base import Backbone, directions, fused_copy

EmbeddingPrecision = Literal["auto", "fp32", "bf16"]
Forward = Callable[[Backbone, torch.Tensor], torch.Tensor]
BATCH = {"cpu": 32}  # what comes out of a layer then stays in the processor's cache
CACHE_FORMAT = 2  # raise it when embeddings of the same weights and photos change
BF16_FORMAT = 2  # the same for what is computed in bfloat16 alone


def embed(
    backbone: Backbone,
    faces: FaceSet,
    batch_size: int | None = None,
    flip: bool = False,
    device: torch.device | str | None = None,
    cache: bool = True,
    precision: EmbeddingPrecision = "auto",
    mirrored: bool = False,
    size: int | None = None,
    stage: str | None = None,
) -> FeatureSet:
    """Embeddings of all faces: features float32 (N, backbone.embedding_dim) of length 1, with the same labels.

    Photos of another size than `size` are resized (antialiased) batch by batch, so that a memory-mapped set is never
    read whole. The network runs in evaluation mode on a fused copy; `backbone` is not
    changed, whatever its mode and its frozen stages.

    flip: mean of the embeddings of the photo and of its mirror image, brought back to length 1 (twice the time).
    mirrored: of the mirror images of the photos instead of the photos.
    size: side in pixels that the network gets, by default `backbone.image_size`.
    stage: with the name of a stage, its output averaged over all places, brought to length 1, instead of the embedding:
    features (N, C) of an earlier layer.
    batch_size: photos at once; None takes 32 on a CPU, where more are slower, and 128 elsewhere.
    device: None takes `settings.device()`.
    cache: read from and write to `settings.cache_dir()/embeddings`, keyed by the content of weights and photos,
    image size, mirroring and precision; labels are not part of it. The mean of `flip` is made of two such entries.
    A damaged entry is computed again.
    precision: `fp32`; `bf16`, the trunk in bfloat16 (8 bits of mantissa) and the last layer, its BatchNorm and the
    length in float32; `auto`, float32 in the laptop profile, so that outputs are the same everywhere, else bf16 where
    the hardware computes it natively. On 1,000 photos of FairFace the cosine between FaceNet's embeddings in bf16 and
    in fp32 was 0.99995 on average and 0.9997 at the least (two persons: 0.09 on average). On a GPU `fp32` follows
    torch's own settings, which let convolutions use TF32.

    Raises ConfigError for arguments it cannot use or a cache that cannot be written, WeightsError when the network
    gives numbers that are not finite.
    """
    how, forward = _prepared(backbone, batch_size, device, precision, size, stage)
    key = None
    if cache:  # all that the embeddings depend on except their view, and nothing else
        about = [CACHE_FORMAT, backbone.name, how.size, state_hash(backbone), faces.content_hash()]
        about.append(how.bf16 and BF16_FORMAT)
        key = cache_key([*about, stage] if stage else about)

    def view(mirrored: bool) -> np.ndarray:
        folder = settings.cache_dir() / "embeddings" / f"{key}{'-mirrored' * mirrored}" if cache else None
        return through(backbone, faces, forward, replace(how, mirrored=mirrored), FeatureSet, folder)

    features = _both(view) if flip else view(mirrored)
    return FeatureSet(features, faces.labels, origin(faces, backbone) | _embedded(faces, flip, how.size, stage))


class Embedder:
    """A network that embeds one part of a set after another: what `embed` gives, without its cache and its bar.

    The network is made ready once. backbone, flip, size, stage, device, precision, batch_size: as `embed` takes them;
    raises as that does.
    """

    def __init__(
        self,
        backbone: Backbone,
        flip: bool = False,
        size: int | None = None,
        stage: str | None = None,
        device: torch.device | str | None = None,
        precision: EmbeddingPrecision = "auto",
        batch_size: int | None = None,
    ) -> None:
        self.backbone, self.flip, self._stage = backbone, flip, stage
        how, self._forward = _prepared(backbone, batch_size, device, precision, size, stage)
        self._how = replace(how, shown=False)
        self._network = _ready(backbone, how)

    def __call__(self, faces: FaceSet) -> FeatureSet:
        """Embeddings float32 (N, D) of length 1, with the same labels."""

        def view(mirrored: bool) -> np.ndarray:
            return _run(self._network, faces, self._forward, replace(self._how, mirrored=mirrored))

        features = _both(view) if self.flip else view(False)
        made = origin(faces, self.backbone) | _embedded(faces, self.flip, self._how.size, self._stage)
        return FeatureSet(features, faces.labels, made)


def _prepared(
    backbone: Backbone,
    batch_size: int | None,
    device: torch.device | str | None,
    precision: EmbeddingPrecision,
    size: int | None,
    stage: str | None,
) -> tuple[Pass, Forward]:
    """How photos go through a network, and what is taken from it."""
    if stage is not None and stage not in backbone.stages:
        raise ConfigError(f"{backbone.name} has no stage {stage!r}; its stages are {', '.join(backbone.stages)}.")
    place = settings.device(device)

    def forward(network: Backbone, images: torch.Tensor) -> torch.Tensor:
        if stage is None or stage == list(network.stages)[-1]:
            return network(images)
        return directions(output_of(stage, network, images).float())

    batch_size = batch_size if batch_size is not None else BATCH.get(place.type, 128)
    return Pass(size or backbone.image_size, batch_size, place, uses_bf16(precision, place)), forward


def _both(view: Callable[[bool], np.ndarray]) -> np.ndarray:
    """The mean over the photos and their mirror images, of length 1."""
    total = view(False) + view(True)
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _embedded(faces: FaceSet, flip: bool, size: int, stage: str | None) -> dict:
    """What a manifest says of how embeddings were made, so that those of other photos can be made alike."""
    return {"embedded": {"photos": list(faces.images.shape[2:]), "size": size, "stage": stage, "flip": flip}}


def uses_bf16(precision: EmbeddingPrecision, device: torch.device) -> bool:
    """Whether `embed` computes in bfloat16 (see there what `auto` means); raises ConfigError for an unknown name."""
    if precision not in ("auto", "fp32", "bf16"):
        raise ConfigError(f"precision is {precision!r}; use auto, fp32 or bf16.")
    if precision != "auto":
        return precision == "bf16"
    return settings.profile() == "full" and has_fast_bf16(device)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic of its own; elsewhere it is emulated, and slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        found: dict = getattr(torch.cpu, "get_capabilities", dict)()  # older torch does not tell
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def state_hash(module: torch.nn.Module) -> str:
    """Hex SHA-256 over names, dtypes, shapes and values of a network's state, wherever it lies."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def output_of(stage: str, network: Backbone, images: torch.Tensor) -> torch.Tensor:
    """What a stage gives for photos uint8 (N, 3, H, W); later stages are not run."""
    return next(x for name, x in network.walk(network.prepare(images)) if name == stage)


def cache_key(parts: Sequence[object]) -> str:
    """Name of a cache entry: 40 hex digits that change with any of the parts."""
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:40]


def origin(faces: FaceSet, backbone: Backbone) -> dict:
    """Manifest of what a network gives for photos: whence they are and how they were cut, and the network's name."""
    kept = ("source", "licence", "datasheet", "reader", "request", "pixels", "generator")
    return {key: faces.manifest[key] for key in kept if key in faces.manifest} | {"backbone": backbone.name}


@dataclass(frozen=True)
class Pass:
    """How photos go through a network: `size` pixels a side, `batch_size` at once; what comes out has `dtype`.

    shown: with a progress bar, where somebody watches.
    """

    size: int
    batch_size: int
    device: torch.device
    bf16: bool
    mirrored: bool = False
    dtype: torch.dtype = torch.float32
    shown: bool = True

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch_size must be 1 or more, got {self.batch_size}.")


def through(
    backbone: Backbone,
    faces: FaceSet,
    forward: Forward,
    how: Pass,
    kind: type[LabelledSet],
    folder: Path | None,
) -> np.ndarray:
    """What `forward` makes of a fused copy of the network and photos uint8 (n, 3, size, size): (N, …) of `how.dtype`.

    folder: the entry of the cache, a set of this kind; read (memory-mapped, checksums compared) where it is whole, else
    computed and written. None: no cache. Raises as `embed`.
    """
    if folder is None:
        return _compute(backbone, faces, forward, how)

    def kept() -> np.ndarray | None:
        # Whatever is missing or damaged there is computed again.
        with suppress(DataError):
            found = kind.load(folder, verify=True).inputs
            if len(found) == len(faces) and f"torch.{found.dtype}" == str(how.dtype):
                return found
        return None

    if (found := kept()) is not None:
        return found
    try:
        # Before the work: a folder in the way costs no time, and another process that does the same is waited for.
        with writing(folder, *STORED, cache=True):
            if (found := kept()) is None:
                found = _compute(backbone, faces, forward, how)  # which writes and reads no file
                kind(found, faces.labels[["split"]]).save(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder.parent.name} cannot be kept: {told(error, folder)}. Set FACEKIT_CACHE to a folder with room that "
            "you may write to, or pass cache=False."
        ) from None
    return found


def _compute(backbone: Backbone, faces: FaceSet, forward: Forward, how: Pass) -> np.ndarray:
    """See `through`."""
    return _run(_ready(backbone, how), faces, forward, how)


def _ready(backbone: Backbone, how: Pass) -> Backbone:
    return fused_copy(backbone, bf16=how.bf16).to(how.device)


def _run(network: Backbone, faces: FaceSet, forward: Forward, how: Pass) -> np.ndarray:
    """What `forward` makes of a fused network on the device and photos; see `through`."""
    found = torch.empty((0, network.embedding_dim), dtype=how.dtype)
    about = f"photos through {network.name}"
    bar = settings.progress(total=len(faces), desc=about, unit="photo", hidden=not how.shown)
    try:
        with bar, torch.inference_mode(), torch.autocast(how.device.type, torch.bfloat16, enabled=how.bf16):
            # One batch late, so that a GPU computes while the next photos are read and resized.
            for (start, values), _ in pairwise(chain(_batches(network, faces, forward, how), [(len(faces), found)])):
                found = found if start else torch.empty((len(faces), *values.shape[1:]), dtype=how.dtype)
                part = found[start : start + len(values)].copy_(values)
                if not part.isfinite().all():
                    raise WeightsError(
                        f"{network.name} gives numbers that are not finite as {how.dtype}; its weights are damaged or "
                        "diverged."
                    )
                bar.update(len(part))
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"{how.device} has too little memory for batches of {how.batch_size} photos; pass a smaller batch_size."
        ) from None
    return found.numpy()


def _batches(network: Backbone, faces: FaceSet, forward: Forward, how: Pass) -> Iterator[tuple[int, torch.Tensor]]:
    """The first row of every batch and what comes out for it, which the device may still be computing."""
    for start in range(0, len(faces), how.batch_size):
        some = faces.select(range(start, min(start + how.batch_size, len(faces)))).resized(how.size)
        images = torch.from_numpy(np.ascontiguousarray(some.images)).contiguous(memory_format=torch.channels_last)
        images = images.to(how.device, non_blocking=True)
        yield start, forward(network, images.flip(3) if how.mirrored else images).to(how.dtype)
