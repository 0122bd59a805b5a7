"""Embeddings of a whole set of faces: computed once, fast, and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from facekit import settings
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError, WeightsError
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.fusing import fused_copy

Precision = Literal["auto", "fp32", "bf16"]
CACHE_FORMAT = 2  # raise it when embeddings of the same weights and photos change


def embed(
    backbone: Backbone,
    faces: FaceSet,
    batch_size: int = 128,
    flip: bool = False,
    device: torch.device | str | None = None,
    cache: bool = True,
    precision: Precision = "auto",
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
    device: None takes `settings.device()`.
    cache: read from and write to `settings.cache_dir()/embeddings`, keyed by the content of weights and photos,
    image size, mirroring and precision; labels are not part of it. The mean of `flip` is made of two such entries.
    A damaged entry is computed again.
    precision: `fp32`; `bf16`, the trunk in bfloat16 (8 bits of mantissa) and the last layer, its BatchNorm and the
    length in float32; `auto`, float32 in the laptop profile, so that outputs are the same everywhere, else bf16 where
    the hardware computes it natively. On 200 photos of FairFace the cosine between FaceNet's embeddings in bf16 and in
    fp32 was 0.9998 on average and 0.9989 at the least (two persons: 0.09 on average). On a GPU `fp32` follows torch's
    own settings, which let convolutions use TF32.

    Raises ConfigError for arguments it cannot use or a cache that cannot be written, WeightsError when the network
    gives numbers that are not finite.
    """
    device = torch.device(device) if device is not None else settings.device()
    bf16 = uses_bf16(precision, device)
    if batch_size < 1:
        raise ConfigError(f"batch_size must be 1 or more, got {batch_size}.")
    size = size or backbone.image_size
    if stage is not None and stage not in backbone.stages:
        raise ConfigError(f"{backbone.name} has no stage {stage!r}; its stages are {', '.join(backbone.stages)}.")
    prefix = _key(backbone, faces, size, stage, bf16) if cache else None
    views = []
    for view in (False, True) if flip else (mirrored,):
        folder = settings.cache_dir() / "embeddings" / f"{prefix}{'-mirrored' * view}" if cache else None
        features = _cached(folder, len(faces)) if folder else None
        if features is None:
            if folder:
                with _writing(folder):  # before the work, so that a folder that cannot be written costs no time
                    folder.mkdir(parents=True, exist_ok=True)
            features = _compute(backbone, faces, size, stage, batch_size, view, device, bf16)
            if folder:
                with _writing(folder):
                    FeatureSet(features, faces.labels[["split"]]).save(folder)
        views.append(features)
    features = _mean_direction(*views) if flip else views[0]
    kept = {key: faces.manifest[key] for key in ("source", "licence") if key in faces.manifest}
    return FeatureSet(features, faces.labels, {**kept, "backbone": backbone.name})


def uses_bf16(precision: Precision, device: torch.device) -> bool:
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


def _mean_direction(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The mean of two sets of unit vectors (N, D), brought back to length 1."""
    total = one + other
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)


def _key(backbone: Backbone, faces: FaceSet, size: int, stage: str | None, bf16: bool) -> str:
    """Name of the cache entry, before its view: changes with all that the embeddings depend on, and nothing else."""
    parts = [CACHE_FORMAT, backbone.name, size, state_hash(backbone), faces.content_hash(), bf16]
    parts += [stage] if stage else []
    return hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:40]


def _cached(folder: Path, rows: int) -> np.ndarray | None:
    """Memory-mapped features of a whole cache entry, checksums compared; None where it is missing or damaged."""
    try:
        features = FeatureSet.load(folder, verify=True).features
    except (DataError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return features if len(features) == rows and features.dtype == np.float32 else None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turns the system's refusal to write into ConfigError with the remedy."""
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"embeddings cannot be kept in {folder} ({error.strerror or error}); set FACEKIT_CACHE to a folder with "
            "room that you may write to, or pass cache=False."
        ) from None


def _compute(
    backbone: Backbone,
    faces: FaceSet,
    size: int,
    stage: str | None,
    batch_size: int,
    mirrored: bool,
    device: torch.device,
    bf16: bool,
) -> np.ndarray:
    """Features float32 (N, D); raises as `embed`."""
    parts: list[np.ndarray] = []
    model = fused_copy(backbone).to(device)
    forward = model if stage is None else _averaged(model, stage)
    waiting: torch.Tensor | None = None
    bar = settings.progress(total=len(faces), desc=f"embed with {backbone.name}", unit="photo")
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16)
    try:
        with bar, torch.inference_mode(), autocast:
            for start in range(0, len(faces), batch_size):
                rows = slice(start, min(start + batch_size, len(faces)))
                images = _photos(faces, rows, size).to(device, non_blocking=True)
                embeddings = forward(images.flip(3) if mirrored else images).float()
                # One batch late, so that a GPU computes while the next photos are read and resized.
                parts += _finished(waiting, backbone.name)
                waiting = embeddings
                bar.update(rows.stop - rows.start)
            parts += _finished(waiting, backbone.name)
    except torch.OutOfMemoryError:
        raise ConfigError(
            f"{device} has too little memory for batches of {batch_size} photos; pass a smaller batch_size."
        ) from None
    return np.concatenate(parts) if parts else np.empty((0, backbone.embedding_dim), np.float32)


def _averaged(model: Backbone, stage: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network up to a stage, whose output (n, C, h, w) becomes means over places, of length 1: (n, C)."""
    found: list[torch.Tensor] = []
    model.stages[stage][-1].register_forward_hook(lambda module, inputs, output: found.append(output))

    def forward(images: torch.Tensor) -> torch.Tensor:
        model(images)
        output = found.pop().float()
        return F.normalize(output.flatten(2).mean(2) if output.ndim > 2 else output)

    return forward


def _photos(faces: FaceSet, rows: slice, size: int) -> torch.Tensor:
    """uint8 (n, 3, size, size), channels last."""
    part = faces.select(range(rows.start, rows.stop)).resized(size)
    return torch.from_numpy(np.ascontiguousarray(part.images)).contiguous(memory_format=torch.channels_last)


def _finished(waiting: torch.Tensor | None, name: str) -> list[np.ndarray]:
    """The features that the device was computing, if any; raises WeightsError for NaN or infinity."""
    if waiting is None:
        return []
    values = waiting.cpu().numpy()
    if not np.isfinite(values).all():
        raise WeightsError(f"{name} gives embeddings that are not finite; its weights are damaged or diverged.")
    return [values]
