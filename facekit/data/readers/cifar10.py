"""CIFAR-10 as photos in class folders, or as the Python batches that torchvision downloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekit.data.readers.archives import TAR_SUFFIXES, tar_members
from facekit.data.readers.classes import ClassFolderReader, in_folder_of
from facekit.data.readers.pickles import read_plain
from facekit.data.readers.table import ArrayReader, ClassReader, Part, Row
from facekit.errors import DataError
from facekit.files import sha256_of_file

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = ("test_batch", *(f"data_batch_{number}" for number in range(1, 6)))
_BATCH_BYTES = 64 * 2**20  # more is no batch, and is not read
BATCH_FOLDER = "cifar-10-batches-py"


def cifar10_reader(path: Path, labels: Path | None = None) -> CIFAR10Folders | CIFAR10Batches:
    """CIFAR-10 in whichever of its two forms `path` holds."""
    return (CIFAR10Batches if holds_batches(Path(path)) else CIFAR10Folders)(path, labels)


class _CIFAR10(ClassReader):
    """What both forms of the set have in common."""

    kind = "cifar10"
    size = 32
    column = "object"
    classes = CIFAR10_CLASSES
    set_about = {
        "name": "CIFAR-10",
        "licence": "none is stated; the authors ask to cite their report",
        "citation": "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. "
        "University of Toronto, 2009.",
        "home": "https://www.cs.toronto.edu/~kriz/cifar.html",
        "labels": "the one thing that the image shows",
        "datasheet": "datasets/CIFAR10.md",
    }


class CIFAR10Folders(_CIFAR10, ClassFolderReader):
    """CIFAR-10 as image files: `train/airplane/0001.jpg` … `test/truck/…`, in a zip, a tar or a folder."""

    photo_size = (32, 32)


class CIFAR10Batches(_CIFAR10, ArrayReader):
    """CIFAR-10 as the authors publish it for Python: `cifar-10-python.tar.gz` or the folder that it unpacks to.

    The batches are pickles, and a pickle can call any function when it is read: `read_plain` runs none of it. A
    checksum in its place would trust MD5, and would refuse batches that were cut down. A tenth of the training images
    are validation images, by content.
    """

    fractions = (0.9, 0.1, 0.0)
    labels_in = "batches"

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(path, labels)
        self.path = _batch_place(self.path)
        self.parts = {name: _part(self.path, name, data) for name, data in _batch_files(self.path).items()}

    @property
    def about(self) -> dict:
        return {**super().about, "batches": list(self.parts)}

    def fingerprint(self) -> str:
        if self.path.is_dir():
            return " ".join(sha256_of_file(_batch_folder(self.path) / name) for name in self.parts)
        return super().fingerprint()


def holds_batches(path: Path) -> bool:
    """Whether a path is a folder with CIFAR-10's Python batches, a tar called like theirs, or a folder with it."""
    path = _batch_place(path)
    if path.is_dir():
        return any((_batch_folder(path) / name).is_file() for name in BATCHES)
    return _is_batch_tar(path)


def _batch_place(path: Path) -> Path:
    """The tar in a folder that has one, else the path itself."""
    tars = [file for file in sorted(path.iterdir()) if _is_batch_tar(file)] if path.is_dir() else []
    return tars[0] if len(tars) == 1 else path


def _is_batch_tar(path: Path) -> bool:
    return path.name.lower().startswith("cifar-10-python") and path.name.lower().endswith(TAR_SUFFIXES)


def _batch_folder(path: Path) -> Path:
    return path / BATCH_FOLDER if (path / BATCH_FOLDER).is_dir() else path


def _batch_files(path: Path) -> dict[str, bytes]:
    """Batch name to its bytes, the test batch first; raises DataError where there is none."""
    if path.is_dir():
        folder = _batch_folder(path)
        files = {name: folder / name for name in BATCHES if (folder / name).is_file()}
        for name, place in files.items():
            _check_size(path, name, place.stat().st_size)
        found = {name: place.read_bytes() for name, place in files.items()}
    else:
        read_all: dict[str, bytes] = {}
        for member, read in tar_members(path):
            if member.isfile() and (name := member.name.rsplit("/", 1)[-1]) in BATCHES:
                _check_size(path, name, member.size)
                read_all[name] = read()
        found = {name: read_all[name] for name in BATCHES if name in read_all}
    if not found:
        raise DataError(
            f"{path} holds none of {', '.join(BATCHES)}; give cifar-10-python.tar.gz or what it unpacks to."
        )
    return found


def _check_size(path: Path, name: str, size: int) -> None:
    """Raises DataError for a file that is too long to be a batch, before it is read."""
    if size > _BATCH_BYTES:
        raise DataError(f"{path}, {name}: {size:,} bytes, where a batch of CIFAR-10 has 31 million.")


def _part(path: Path, name: str, data: bytes) -> Part:
    """One batch as arrays; raises DataError naming the batch and the row."""
    try:
        batch = read_plain(data)
    except ValueError as error:
        raise DataError(f"{path}, {name}: no batch that can be read ({error}); download or copy it again.") from None
    keys = ("data", "labels", "filenames")
    if not isinstance(batch, dict) or not set(keys) <= set(batch):
        raise DataError(f"{path}, {name}: no batch of CIFAR-10, which has {', '.join(keys)}.")
    pixels, codes, names = (batch[key] for key in keys)
    if not isinstance(codes, list):
        raise DataError(f"{path}, {name}: labels must be a list of numbers.")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(codes), 3 * 32 * 32):
        raise DataError(f"{path}, {name}: data must be uint8 ({len(codes)}, 3072), a row for each label.")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{path}, {name}: filenames must be a list of texts.")
    if len(names) != len(codes):
        raise DataError(f"{path}, {name}: {len(names)} file names for {len(codes)} labels.")
    for row, code in enumerate(codes):
        if not isinstance(code, int) or not 0 <= code < len(CIFAR10_CLASSES):
            raise DataError(f"{path}, {name}, row {row}: label {str(code)[:20]}, the ten classes are 0 to 9.")
    images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Part(images, codes, names, "test" if name == "test_batch" else None)


ROW = Row("cifar10", cifar10_reader, holds_batches, in_folder_of(CIFAR10_CLASSES))
