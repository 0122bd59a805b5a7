"""Pretrained weights: where they are looked for, how they are downloaded, and how they are read safely.

A weights file is safetensors, or a `.pt` file of plain tensors: a pickle that would run code is refused unread. Every
network reads its weights through `read_weights` and `load_into`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any

import requests
import torch
import urllib3
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
TERMS = (
    "code under the MIT licence by David Sandberg and Tim Esler; trained on VGGFace2, whose terms are non-commercial "
    "research"
)

LARGEST = 200_000_000  # bytes of a download: a server that sends more sends something else
ATTEMPTS = 5
PIECE = 1 << 16  # bytes
TIMEOUT = (10, 60)  # seconds: to connect, and for a piece to arrive

# What is around the weights in files of others: entries that hold the state dict, parts of names (DataParallel's,
# torch.compile's).
ENTRIES = ("state_dict", "model", "model_state_dict")
WRAPPERS = ("module", "_orig_mod")
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
NUMBERS = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)


def find_weights(path: Path | str | None = None) -> Path:
    """The file with FaceNet's weights: `path`, else one in `FACEKIT_DATA`, else in the cache, else downloaded.

    In `FACEKIT_DATA` the folder `weights` is looked through first, then the folder itself; in the cache it is
    `weights`. A file with the official name must also have the official SHA-256. Raises WeightsError with what to
    get, from where, under which terms and where to put it.
    """
    file = Path(path) if path is not None else local_weights()
    if file is not None:
        return file
    instead = "Without it facenet-mini, which comes with facekit, works offline."
    return _downloaded(OFFICIAL_URL, OFFICIAL, OFFICIAL_SHA256, LARGEST, "FaceNet", f"112 MB; {TERMS}", instead)


def local_weights() -> Path | None:
    """FaceNet's weights in `FACEKIT_DATA` or the cache, None where there are none; never downloads."""
    return _local({name: OFFICIAL_SHA256 if name == OFFICIAL else "" for name in NAMES})


def fetched(url: str, sha256: str, size: int, name: str, licence: str) -> Path:
    """The file of weights that lies at `url`: looked for as FaceNet's, else downloaded into the cache.

    sha256: its hex digits, or the first of them, as many as are known. size: about how many bytes it has. name: of the
    network. Raises WeightsError as `find_weights`.
    """
    file = Path(url).name
    found = _local({file: sha256})
    if found is not None:
        return found
    instead = "Or name a file that you have: --weights FILE."
    about = f"{size / 1e6:.0f} MB; {licence}"
    return _downloaded(url, file, sha256, size + size // 10 + 1_000_000, name, about, instead)


def _local(checksums: dict[str, str]) -> Path | None:
    """The first file of one of these names; raises WeightsError where it has another SHA-256 (its first digits)."""
    data = settings.data_dir()
    for folder in [*([data / "weights", data] if data else []), settings.cache_dir() / "weights"]:
        for name, sha256 in checksums.items():
            file = folder / name
            if file.is_file():
                if sha256 and not sha256_of_file(file).startswith(sha256):
                    raise WeightsError(f"{file} is damaged: its SHA-256 is not that of the release. Delete it.")
                return file
    return None


def _downloaded(url: str, file: str, sha256: str, largest: int, name: str, about: str, instead: str) -> Path:
    """See `fetched`; where it fails, the error says what a person does by hand."""
    folder = settings.cache_dir() / "weights"
    try:
        return download(url, folder / file, sha256, largest)
    except WeightsError as error:
        told = f"SHA-256 {sha256}" if len(sha256) == 64 else f"SHA-256 begins with {sha256}"
        raise WeightsError(
            f"{name}'s weights are not on this machine, and {error}\n"
            f"Get {url}\n"
            f"  ({about}; {told})\n"
            f"and put it into {folder}, or into the folder weights of the folder that FACEKIT_DATA names. {instead}"
        ) from None


def told_of(file: Path, source: str = "a file of one's own", licence: str = "not stated") -> dict[str, str]:
    """What is told of a file of weights that a training begins with: its name, SHA-256, source and licence."""
    return {"file": file.name, "sha256": sha256_of_file(file), "source": source, "licence": licence}


def download(url: str, dest: Path, sha256: str, largest: int | None = None) -> Path:
    """Downloads a file to `dest`, with a progress bar, and returns `dest`, which is whole and checked or absent.

    sha256: its hex digits, or the first of them where no more are known.

    What has arrived is kept beside it as `NAME.partial`: a cut connection is continued from there, at once (five times
    in a row with hardly any progress end it) and also by a later call. Two processes may ask for the same file: one
    downloads it, the other waits and finds it there. Raises WeightsError when the server cannot be reached, refuses,
    takes more than a minute for 64 KiB or sends more than `largest` bytes (by default `LARGEST`), when the disk is full
    (make room and call again), when the bytes have another SHA-256 (what has arrived is removed then, for it is worth
    nothing), and when there already is something else at `dest`.
    """
    partial = dest.with_name(dest.name + ".partial")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        with _alone(partial) as file:
            if os.path.lexists(dest):  # another process was quicker
                file.truncate(0)
                if not dest.is_file() or not sha256_of_file(dest).startswith(sha256):
                    raise WeightsError(f"{dest} is there already and is not what {url} should be; move it away.")
                return dest
            for _ in range(2):  # the old part may be of another file: once more, afresh
                _receive(url, file, largest or LARGEST)
                file.seek(0)
                if hashlib.file_digest(file, "sha256").hexdigest().startswith(sha256):
                    os.fsync(file.fileno())
                    if os.name == "nt":  # renames closed files only
                        file.close()
                    return partial.replace(dest)
                file.truncate(0)
    except (requests.RequestException, urllib3.exceptions.HTTPError, UnicodeError) as error:
        raise WeightsError(f"{url} could not be downloaded ({_reason(error)}); try again to continue.") from None
    except OSError as error:
        raise WeightsError(
            f"{dest} could not be written ({error.strerror or error}). Make room or mend the folder, then try again: "
            "what has arrived is kept."
        ) from None
    raise WeightsError(f"what {url} sent is not the expected file (its SHA-256 differs); try again later.")


@contextmanager
def _alone(partial: Path) -> Iterator[FileIO]:
    """The file `partial`, opened to read and write by one process at a time; if it is left empty it is removed."""
    with _locked(partial) as file:
        try:
            yield file
        finally:
            if not file.closed and not os.fstat(file.fileno()).st_size:
                if os.name == "nt":
                    file.close()
                partial.unlink()


def _locked(partial: Path) -> FileIO:
    """Opens `partial` when no other process holds it; the lock is on the file itself, so none is left by a kill.

    The name can be guessed, for a later run has to find the file: a link, a second name of another file or a pipe that
    waits there is removed and never written to.
    """
    flags = os.O_RDWR | os.O_CREAT | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_NOFOLLOW", "O_NONBLOCK"))
    while True:
        if partial.is_symlink():
            partial.unlink(missing_ok=True)
        file = FileIO(os.open(partial, flags, 0o666), "r+")
        with suppress(ImportError, OSError):  # Windows and some network drives have no advisory locks
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        about = os.fstat(file.fileno())
        with suppress(FileNotFoundError):  # the process before this one has renamed or removed it: once more
            if os.path.samestat(partial.lstat(), about):
                if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
                    return file
                partial.unlink()
        file.close()


def _reason(error: Exception) -> str:
    """One line that a person understands, without the library's nested reprs."""
    if isinstance(error, requests.TooManyRedirects):
        return "it leads from one address to the next without end"
    if isinstance(error, requests.RequestException) and error.response is not None:
        return f"the server answered {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError):
        return "the server did not answer in time"
    return "no connection, or it broke off"


def _receive(url: str, file: FileIO, largest: int) -> None:
    """Fetches the rest of `url` into `file`; returns when the server has sent all, raises after futile attempts."""
    futile, most = 0, 0
    while True:
        start = file.seek(0, os.SEEK_END)
        most = max(start, most)
        try:
            return _fetch(url, file, start, largest)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            # Measured by the most there ever was: a server that always begins anew would go on for ever.
            size = file.seek(0, os.SEEK_END)
            futile = 0 if size >= most + PIECE else futile + 1
            final = isinstance(error, requests.HTTPError | requests.TooManyRedirects)
            if final or futile >= ATTEMPTS or not (size or start):
                raise


def _fetch(url: str, file: FileIO, start: int, largest: int) -> None:
    """One request: appends what `url` sends from byte `start` on, or writes it from 0 where the server sends all."""
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
    with requests.get(url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
        if start and answer.status_code == 416:
            return  # nothing from there on: the file was whole, which the checksum will tell
        answer.raise_for_status()
        if start and answer.status_code != 206:
            file.truncate(file.seek(start := 0))
        total = start + (answer.raw.length_remaining or 0)
        with settings.progress(total=total or None, desc=Path(url).name, unit="B") as bar:
            bar.update(start)
            size = begun = start
            deadline = time.monotonic() + TIMEOUT[1]
            while total <= largest and (piece := memoryview(answer.raw.read1(PIECE))):
                size += len(piece)
                total = max(total, size)
                bar.update(len(piece))
                while piece:
                    piece = piece[file.write(piece) :]
                # The time-out of a connection is that of one byte; at a byte a minute it would never be over.
                if size >= begun + PIECE:
                    begun, deadline = size, time.monotonic() + TIMEOUT[1]
                elif time.monotonic() > deadline:
                    raise requests.ReadTimeout
        if total > largest:
            file.truncate(0)
            raise WeightsError(f"{url} sends more than {largest:,} bytes, so it is not the expected file; try later.")


def read_weights(path: Path | str) -> dict[str, torch.Tensor]:
    """State dict of a safetensors or `.pt` file on the CPU, floating-point values as float32, without `logits`.

    The state dict may lie in an entry `state_dict`, `model` or `model_state_dict` of what was saved. Raises
    WeightsError when the file is missing, damaged (a `.pt` file that torch has written since 2020 has checksums, which
    are compared; a safetensors file has none) or is a pickle of anything but tensors. Such a pickle could run code when
    loaded; it is refused before it runs anything. Refused by name are tensors with numbers that are not finite, and
    others than plain ones of real numbers: sparse, quantised, complex, without values, larger than what is stored.
    """
    path = Path(path)
    try:
        if not path.is_file():
            problem = "is no file" if path.exists() else "does not exist"
            raise WeightsError(f"{path} {problem}; name a file of weights, or leave the path away.")
        size = path.stat().st_size
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on old forms of pickles
            state = _state(load_file(path) if path.suffix == ".safetensors" else _unpickled(path))
    except WeightsError:
        raise
    # Bytes of any origin: both readers raise a dozen kinds of errors on damaged files, none of them a bug of ours.
    except Exception as error:
        if isinstance(error, PermissionError):
            raise WeightsError(f"{path} cannot be read ({error.strerror}); give yourself the permission.") from None
        raise WeightsError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}): it is damaged, or it contains Python "
            "objects, which facekit never loads because they can run code. Get it again; if you have made it, save "
            "model.state_dict()."
        ) from None
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        held = f" with {_some(list(map(str, state)))}" if isinstance(state, dict) else ""
        raise WeightsError(
            f"{path} holds a {type(state).__name__}{held}, not a state dict of tensors; save model.state_dict()."
        )
    state = {key: value.detach() for key, value in state.items() if "logits" not in key.split(".")[:-1]}
    for key, value in state.items():
        if fault := _fault(value):
            raise WeightsError(f"{path}: {_some([key])} is {fault}; save plain tensors of real numbers.")
        if (size := size - value.nbytes) < 0:
            raise WeightsError(f"{path} is damaged: {_some([key])} is larger than the file. Get the file again.")
        if value.dtype in FLOATS:
            state[key] = value.float()
            if not state[key].isfinite().all():
                raise WeightsError(
                    f"{path} is damaged: {_some([key])} has values that are not finite. Get the file again."
                )
    return state


def _unpickled(path: Path) -> Any:
    """What a `.pt` file holds; raises ValueError for what torch reads without a word: a wrong checksum, entries that
    unpack to many times the size of the file, and calls that make as large an object as they name."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        if re.search(rb"\n(bytearray|\w*Tensor)\n", whole):
            raise ValueError
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            size = sum(entry.file_size for entry in entries)
            packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
            if packed or size > path.stat().st_size or archive.testzip() is not None:
                raise ValueError
    return torch.load(path, "cpu", weights_only=True)


def _state(saved: Any) -> Any:
    """The state dict in what was saved; what was saved itself where that is not clear."""
    for _ in range(len(ENTRIES) ** 2):  # bounded, since a dict may hold itself
        inner = (
            [saved[name] for name in ENTRIES if isinstance(saved.get(name), dict)] if isinstance(saved, dict) else []
        )
        if len(inner) != 1:
            break
        [saved] = inner
    return saved


def _fault(value: torch.Tensor) -> str | None:
    """Why a tensor cannot be a network's, or None."""
    if value.layout != torch.strided or value.is_nested:
        return "sparse or nested"
    if value.is_meta:
        return "without values (on the device meta)"
    if value.dtype not in NUMBERS:
        return f"of {value.dtype}"
    return None


def load_into(module: nn.Module, state: dict[str, torch.Tensor], path: Path | str, name: str | None = None) -> None:
    """Copies `state` into `module`; raises WeightsError naming keys, shapes and dtypes that do not fit, and copies
    nothing then. name: what errors call the network, by default the module's class.

    Names may have what wrappers add to them: `module.` and `_orig_mod.` anywhere, and first parts that all names have
    (`net.` of FaceNet.state_dict(), `model.`). BatchNorm's counters may be missing, as in files before torch 0.4.1.
    """
    expected = module.state_dict()
    state = _renamed(state, expected)
    absent = [key for key in expected if key not in state]
    counters = {key: expected[key] for key in absent if key.endswith(".num_batches_tracked")}
    pairs = [(key, state[key], value) for key, value in expected.items() if key in state]
    problems = {
        "missing": [key for key in absent if key not in counters],
        "unknown": [key for key in state if key not in expected],
        "of another shape": [
            f"{key} {tuple(found.shape)} instead of {tuple(value.shape)}"
            for key, found, value in pairs
            if found.shape != value.shape
        ],
        "of another dtype": [
            f"{key} {found.dtype} instead of {value.dtype}"
            for key, found, value in pairs
            if found.dtype != value.dtype and not {found.dtype, value.dtype} <= set(FLOATS)
        ],
    }
    if any(problems.values()):
        said = "; ".join(f"{len(keys)} {what}: {_some(keys)}" for what, keys in problems.items() if keys)
        raise WeightsError(f"{path} holds weights of another network than {name or type(module).__name__} ({said}).")
    module.load_state_dict(state | counters)


def _renamed(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`state` with the names that it has without wrappers; as it is where two names would become one."""
    known = {part for key in expected for part in key.split(".")}
    names = [[part for part in key.split(".") if part not in WRAPPERS or part in known] for key in state]
    first = {key.partition(".")[0] for key in expected}
    while names and all(len(parts) > 1 and parts[0] == names[0][0] not in first for parts in names):
        names = [parts[1:] for parts in names]
    renamed = dict(zip(map(".".join, names), state.values(), strict=True))
    return renamed if len(renamed) == len(state) else state


def _some(keys: list[str], most: int = 3) -> str:
    """The first keys, printable and not too long, and that there are more."""
    shown = [key if key.isprintable() else ascii(key)[1:-1] for key in keys[:most]]
    return ", ".join(key if len(key) < 100 else key[:99] + "…" for key in shown) + (" …" if len(keys) > most else "")
