"""Pretrained weights: where they are looked for and how they are read without running code from the file."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from facekit import settings
from facekit.errors import WeightsError

NAMES = ("facenet-vggface2-fp16.safetensors", "20180402-114759-vggface2.pt")


def find_weights(path: Path | str | None = None) -> Path:
    """The file with FaceNet's weights: `path`, else a known name in `FACEKIT_DATA`."""
    if path is not None:
        return Path(path)
    folder = settings.data_dir()
    for name in NAMES:
        for place in [folder / "weights", folder] if folder else []:
            if (place / name).is_file():
                return place / name
    raise WeightsError("FaceNet's weights are not here; set FACEKIT_DATA to a folder that has them.")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """State dict in float32 from a safetensors file."""
    if not path.is_file():
        raise WeightsError(f"{path} does not exist.")
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is damaged or no safetensors file ({error}).") from None
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def load_into(module: nn.Module, state: dict[str, torch.Tensor], path: Path) -> None:
    """Copies `state` into `module`, all keys and shapes matching; raises WeightsError naming the file."""
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path} holds weights of another network: {error}") from None
