"""Profile, folders, device, cores and seeds: the only module that reads facekit's environment variables.

| variable | meaning | default |
|---|---|---|
| `FACEKIT_PROFILE` | `laptop` (offline, CPU, small) or `full` (real photos, FaceNet, GPU if any) | `laptop` |
| `FACEKIT_DATA` | folder with photos and weights, searched before anything is downloaded | none |
| `FACEKIT_CACHE` | where packed sets, downloads and cached embeddings are kept | the user's cache folder |
| `FACEKIT_DEVICE` | `cpu`, `cuda`, `cuda:1`, `mps` … | the GPU in profile `full` if there is one, else `cpu` |
| `FACEKIT_PROGRESS` | `0` hides progress bars, `1` always shows them | shown on a terminal |
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pooch
from tqdm.auto import tqdm

from facekit.errors import ConfigError
from facekit.files import pasted_path

if TYPE_CHECKING:
    import torch  # inside the functions, too: commands that need no network must not wait for it

Profile = Literal["laptop", "full"]
PROFILES: tuple[Profile, ...] = ("laptop", "full")


def profile() -> Profile:
    """The profile named by `FACEKIT_PROFILE`; raises ConfigError for an unknown name."""
    name = os.environ.get("FACEKIT_PROFILE", "laptop")
    if name not in PROFILES:
        raise ConfigError(f"FACEKIT_PROFILE is {name!r}; set it to one of {', '.join(PROFILES)}.")
    return name  # type: ignore[return-value]


def data_dir() -> Path | None:
    """The folder named by `FACEKIT_DATA`, or None when it is not set; raises ConfigError if it is no folder."""
    value = os.environ.get("FACEKIT_DATA")
    if not value:
        return None
    folder = pasted_path(value).resolve()
    if not folder.is_dir():
        raise ConfigError(f"FACEKIT_DATA names {value!r}, which is not a folder; correct it or unset it.")
    return folder


def cache_dir() -> Path:
    """Folder for packed sets, downloads and embeddings (not created here); raises ConfigError if it cannot be one."""
    value = os.environ.get("FACEKIT_CACHE")
    folder = pasted_path(value) if value else Path(pooch.os_cache("facekit"))
    there = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), folder)
    if not os.path.isdir(there):
        name = f"FACEKIT_CACHE names {value!r}" if value else f"the cache is {str(folder)!r}"
        raise ConfigError(f"{name}, but {there} is not a folder; set FACEKIT_CACHE to another folder.")
    return folder


def device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name, else that of `FACEKIT_DEVICE`, else the GPU in profile full, else the CPU.

    The laptop profile stays on the CPU unless told otherwise, so that its outputs are the same everywhere. Raises
    ConfigError, with what there is, for a device that torch does not find on this machine.
    """
    import torch

    said = "device" if name is not None else "FACEKIT_DEVICE"
    wanted = str(name) if name is not None else os.environ.get("FACEKIT_DEVICE", "")
    usual = name is None and not wanted
    if wanted == "cpu" or usual and profile() == "laptop":
        return torch.device("cpu")
    gpu = torch.accelerator.current_accelerator(check_available=True)  # cuda, mps, xpu … or None
    if usual:
        return torch.device("cuda" if gpu is not None and gpu.type == "cuda" else "cpu")
    there = ["cpu"]
    if gpu is not None:
        there += [gpu.type, *(f"{gpu.type}:{index}" for index in range(torch.accelerator.device_count()))]
    if wanted not in there:
        raise ConfigError(f"{said} is {wanted!r}, which torch does not find here; use {', '.join(there)}.")
    return torch.device(wanted)


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seed_everything(seed: int) -> None:
    """Seeds Python, NumPy and torch (all devices)."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def progress(
    iterable=None, *, total: int | None = None, desc: str = "", unit: str = "it", hidden: bool = False
) -> tqdm:
    """A tqdm bar on stderr, silent where nobody watches (pipes, CI, notebooks under test), and where it is `hidden`.

    `FACEKIT_PROGRESS` of 0 or 1 overrides. Bars never enter a notebook's checked output.
    """
    wish = os.environ.get("FACEKIT_PROGRESS")
    shown = not hidden and (sys.stderr.isatty() if wish is None else wish != "0")
    return tqdm(iterable, total=total, desc=desc, unit=unit, disable=not shown, leave=False, dynamic_ncols=True)
