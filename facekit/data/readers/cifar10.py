"""CIFAR-10 as photos in class folders, or as the Python batches that torchvision downloads."""

from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facekit.data.readers.archives import TAR_SUFFIXES, archive_fingerprint
from facekit.data.readers.classes import FOLDERS_ONLY, ClassFolderReader, looks_like
from facekit.data.readers.decode import as_file
from facekit.data.readers.table import Row, Sample
from facekit.errors import DataError
from facekit.files import sha256_of_file
from facekit.tasks import Task

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10 = Task("object", "multiclass", CIFAR10_CLASSES)
CIFAR10_ABOUT = {
    "name": "CIFAR-10",
    "licence": "none is stated; the authors ask to cite their report",
    "citation": "A. Krizhevsky. Learning Multiple Layers of Features from Tiny Images. University of Toronto, 2009.",
    "home": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "labels": "the one thing that the image shows",
    "datasheet": "datasets/CIFAR10.md",
}
BATCHES = ("test_batch", *(f"data_batch_{number}" for number in range(1, 6)))
BATCH_FOLDER = "cifar-10-batches-py"


def cifar10_reader(path: Path, labels: Path | None = None) -> CIFAR10Folders | CIFAR10Batches:
    """CIFAR-10 in whichever of its two forms `path` holds."""
    return (CIFAR10Batches if holds_batches(Path(path)) else CIFAR10Folders)(path, labels)


class CIFAR10Folders(ClassFolderReader):
    """CIFAR-10 as image files: `train/airplane/0001.jpg` … `test/truck/…`, in a zip, a tar or a folder."""

    kind = "cifar10"
    size = 32
    column = "object"
    classes = CIFAR10_CLASSES
    photo_size = (32, 32)
    set_about = CIFAR10_ABOUT


class CIFAR10Batches:
    """CIFAR-10 as the authors publish it for Python: `cifar-10-python.tar.gz` or the folder that it unpacks to.

    The batches are pickles, and a pickle can call any function when it is read. These are read with an unpickler that
    knows three names, all of them numpy's and none able to do more than make an array; any other name is an error. A
    checksum in its place would trust MD5, and would refuse batches that were cut down. Test images come first, so that
    of copies the test keeps its own; a tenth of the training images are validation images, by content.
    """

    kind = "cifar10"
    size = 32
    columns = ("object",)
    fractions = (0.9, 0.1, 0.0)

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        if labels is not None:
            raise DataError(f"{labels}: {FOLDERS_ONLY.replace('names', 'batches')}")
        self._path = _batch_place(Path(path))
        self._batches = _read_batches(self._path)
        self.total = sum(len(codes) for _, codes, _ in self._batches.values())
        self.about = {
            **CIFAR10_ABOUT,
            "classes": {"object": list(CIFAR10_CLASSES)},
            "source": self._path.name,
            "batches": list(self._batches),
        }

    def fingerprint(self) -> str:
        """Changes when the batches do."""
        if self._path.is_dir():
            return " ".join(sha256_of_file(_batch_folder(self._path) / name) for name in self._batches)
        return archive_fingerprint(self._path)

    def records(self, skip: int = 0) -> Iterator[Sample]:
        """One record for each image, the test batch first."""
        done = 0
        for batch, (images, codes, names) in self._batches.items():
            split = "test" if batch == "test_batch" else None
            for pixels, code, name in zip(images, codes, names, strict=True):
                data = as_file(pixels.transpose(1, 2, 0)) if done >= skip else None
                yield Sample(f"{batch}/{name}", data, {"object": CIFAR10_CLASSES[code]}, split)
                done += 1


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


class _ArraysOnly(pickle.Unpickler):
    """Reads lists, dictionaries, texts, numbers and numpy arrays, and refuses whatever else a pickle may name."""

    def find_class(self, module: str, name: str) -> object:
        """One of three names of numpy; raises UnpicklingError for any other."""
        module = module.replace("numpy._core", "numpy.core")  # as numpy 2 calls it
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _empty_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise pickle.UnpicklingError(f"it names {module}.{name}, which has no place in a batch of images")


def _empty_array(kind: type, shape: tuple, code: bytes) -> np.ndarray:
    """What numpy's own `_reconstruct` makes: an empty array, whose content the pickle sets next."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


Batch = tuple[np.ndarray, list[int], list[str]]  # images (N, 3, 32, 32) uint8, class indices, file names


def _read_batches(path: Path) -> dict[str, Batch]:
    """All batches that are there, the test batch first; raises DataError where one is damaged or none is there."""
    found = {name: _checked_batch(path, name, data) for name, data in _batch_files(path).items()}
    if not found:
        raise DataError(
            f"{path} holds none of {', '.join(BATCHES)}; give cifar-10-python.tar.gz or what it unpacks to."
        )
    return {name: found[name] for name in BATCHES if name in found}


def _batch_files(path: Path) -> dict[str, bytes]:
    """Batch name to its bytes."""
    if path.is_dir():
        folder = _batch_folder(path)
        return {name: (folder / name).read_bytes() for name in BATCHES if (folder / name).is_file()}
    try:
        with tarfile.open(path) as archive:
            members = {member.name.rsplit("/", 1)[-1]: member for member in archive if member.isfile()}
            files = {name: archive.extractfile(members[name]) for name in BATCHES if name in members}
            return {name: file.read() for name, file in files.items() if file}
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} is no readable tar ({error}); download or copy it again.") from None


def _checked_batch(path: Path, name: str, data: bytes) -> Batch:
    """One batch as arrays; raises DataError naming the batch and the row."""
    try:
        batch = _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path}, {name}: no batch that can be read ({error}); download or copy it again.") from None
    keys = ("data", "labels", "filenames")
    if not isinstance(batch, dict) or not set(keys) <= set(batch):
        raise DataError(f"{path}, {name}: no batch of CIFAR-10, which has {', '.join(keys)}.")
    pixels, codes, names = (batch[key] for key in keys)
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(codes), 3 * 32 * 32):
        raise DataError(f"{path}, {name}: data must be uint8 ({len(codes)}, 3072), a row for each label.")
    if len(names) != len(codes):
        raise DataError(f"{path}, {name}: {len(names)} file names for {len(codes)} labels.")
    for row, code in enumerate(codes):
        if not isinstance(code, int) or not 0 <= code < len(CIFAR10_CLASSES):
            raise DataError(f"{path}, {name}, row {row}: label {code!r}, the ten classes are 0 to 9.")
    return pixels.reshape(-1, 3, 32, 32), codes, [str(text) for text in names]


ROW = Row("cifar10", cifar10_reader, holds_batches, lambda names: looks_like(CIFAR10_CLASSES, names))
