"""Pretrained weights: where they are looked for, how they are downloaded, and how they are read safely.

A weights file is safetensors, or a `.pt` file of plain tensors: a pickle that would run code is refused unread.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import pooch
import requests
import torch
from safetensors.torch import load_file
from torch import nn

from facekit import settings
from facekit.errors import WeightsError
from facekit.files import sha256_of_file

# facenet-pytorch's release; the checksum is the one that several projects pin for this file.
OFFICIAL = "20180402-114759-vggface2.pt"
OFFICIAL_URL = f"https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/{OFFICIAL}"
OFFICIAL_SHA256 = "281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b"
NAMES = ("facenet-vggface2-fp16.safetensors", OFFICIAL)

ATTEMPTS = 5
TIMEOUT = (10, 60)  # seconds: to connect, and between two pieces


def find_weights(path: Path | str | None = None) -> Path:
    """The file with FaceNet's weights: `path`, else one in `FACEKIT_DATA`, else in the cache, else downloaded.

    In `FACEKIT_DATA` the folder `weights` is looked through first, then the folder itself; in the cache it is
    `weights`. A file with the official name must also have the official SHA-256. Raises WeightsError with what to
    get, from where, under which terms and where to put it.
    """
    file = Path(path) if path is not None else local_weights()
    if file is not None:
        return file
    kept = settings.cache_dir() / "weights"
    try:
        return download(OFFICIAL_URL, kept / OFFICIAL, OFFICIAL_SHA256)
    except WeightsError as error:
        raise WeightsError(f"FaceNet's weights are not on this machine, and {error}\n{_instructions(kept)}") from None


def local_weights() -> Path | None:
    """FaceNet's weights in `FACEKIT_DATA` or the cache, None where there are none; never downloads."""
    data = settings.data_dir()
    for folder in [*([data / "weights", data] if data else []), settings.cache_dir() / "weights"]:
        for name in NAMES:
            file = folder / name
            if file.is_file():
                if name == OFFICIAL and sha256_of_file(file) != OFFICIAL_SHA256:
                    raise WeightsError(f"{file} is damaged: its SHA-256 is not that of the release. Delete it.")
                return file
    return None


def _instructions(folder: Path) -> str:
    """What a person does by hand where the download fails."""
    return (
        f"Get {OFFICIAL_URL}\n"
        f"  (112 MB; code under the MIT licence by David Sandberg and Tim Esler; trained on VGGFace2, whose terms are "
        f"non-commercial research; SHA-256 {OFFICIAL_SHA256})\n"
        f"and put it into {folder}, or into the folder weights of the folder that FACEKIT_DATA names. "
        "Without it facenet-mini, which comes with facekit, works offline."
    )


def download(url: str, dest: Path, sha256: str) -> Path:
    """Downloads a file to `dest`, with a progress bar, and returns `dest`, which is whole and checked or absent.

    What has arrived is kept beside it as `NAME.partial`: a cut connection is continued from there, at once (up to
    five times in a row without a byte of progress in between ends it) and also by a later call. Raises WeightsError
    when the server cannot be reached or refuses, when the disk is full, and when the bytes have another SHA-256 (the
    partial file is removed then, for it is worth nothing).
    """
    partial = dest.with_name(dest.name + ".partial")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # the old part may be of another file, or not be continued by the server: once more, afresh
            _receive(url, partial)
            if sha256_of_file(partial) == sha256:
                return partial.replace(dest)
            partial.unlink()
    except requests.RequestException as error:
        raise WeightsError(f"{url} could not be downloaded ({_reason(error)}); try again to continue.") from None
    except OSError as error:
        raise WeightsError(f"{dest} could not be written ({error.strerror or error}).") from None
    raise WeightsError(f"what {url} sent is not the expected file (its SHA-256 differs); try again later.")


def _reason(error: requests.RequestException) -> str:
    """One line that a person understands, without the library's nested reprs."""
    if error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return "the server did not answer in time"
    return "no connection, or it broke off"


def _receive(url: str, partial: Path) -> None:
    """Fetches the rest of `url` into `partial`; returns when the server has sent all, raises after futile attempts."""
    futile = 0
    while True:
        start = partial.stat().st_size if partial.exists() else 0
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        try:
            with settings.progress(total=1, desc=partial.stem, unit="B") as bar, open(partial, "ab") as file:
                fetch = pooch.HTTPDownloader(bar, chunk_size=1 << 16, headers=headers, timeout=TIMEOUT)
                return fetch(url, file, None)
        except requests.RequestException as error:
            if error.response is not None and error.response.status_code == 416:
                return  # nothing from there on: the file was whole, which the checksum will tell
            grown = partial.stat().st_size > start
            futile = 0 if grown else futile + 1
            if not (start or grown):
                partial.unlink()
            if not (start or grown) or futile >= ATTEMPTS or isinstance(error, requests.HTTPError):
                raise


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """State dict of a safetensors or `.pt` file on the CPU, floating-point values as float32, without `logits`.

    Raises WeightsError when the file is missing, damaged, holds numbers that are not finite, or is a pickle of
    anything but tensors. Such a pickle could run code when loaded; it is refused before it runs anything.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; name a file of weights, or leave the path away.")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on old forms of pickles
            state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    # Bytes of any origin: both readers raise a dozen kinds of errors on damaged files, none of them a bug of ours.
    except Exception as error:
        raise WeightsError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}): it is damaged, or it contains Python "
            "objects, which facekit never loads because they can run code. Delete it and get it again."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise WeightsError(
            f"{path} holds a {type(state).__name__}, not a state dict of tensors; save model.state_dict()."
        )
    state = {key: value for key, value in state.items() if not str(key).startswith("logits.")}
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = value.float()
            if not state[key].isfinite().all():
                raise WeightsError(f"{path} is damaged: {key} has values that are not finite. Get the file again.")
    return state


def load_into(module: nn.Module, state: dict[str, torch.Tensor], path: Path | str) -> None:
    """Copies `state` into `module`; raises WeightsError naming keys and shapes that do not fit, and copies nothing."""
    expected = module.state_dict()
    problems = {
        "missing": [key for key in expected if key not in state],
        "unknown": [str(key) for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
            for key, value in expected.items()
            if key in state and state[key].shape != value.shape
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys)
        raise WeightsError(f"{path} holds weights of another network than {type(module).__name__} ({said}).")
    module.load_state_dict(state)


def _some(keys: list[str], most: int = 3) -> str:
    """The first keys, and that there are more."""
    return ", ".join(keys[:most]) + (" …" if len(keys) > most else "")
