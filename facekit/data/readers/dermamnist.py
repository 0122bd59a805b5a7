"""DermaMNIST: skin lesions of seven diagnoses, in the `.npz` of MedMNIST."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from facekit.data.readers.archives import archive_fingerprint
from facekit.data.readers.classes import FOLDERS_ONLY
from facekit.data.readers.decode import as_file
from facekit.data.readers.table import Row, Sample
from facekit.data.sets import Split
from facekit.errors import DataError

# The order of DermaMNIST's labels 0 … 6.
DERMAMNIST_CLASSES = (
    "actinic keratoses and intraepithelial carcinoma",
    "basal cell carcinoma",
    "benign keratosis-like lesions",
    "dermatofibroma",
    "melanoma",
    "melanocytic nevi",
    "vascular lesions",
)
_DERMAMNIST_SIDES: dict[str, Split] = {"test": "test", "val": "validation", "train": "train"}


class DermaMNISTReader:
    """DermaMNIST (Yang et al., MedMNIST v2, Scientific Data 2023): one `.npz` with images and labels of three sides.

    path: the file, at any of its resolutions, or a folder with one such file; it is held in memory (24 MB at 28 pixels,
    1.5 GB at 224). Test images come first, so that of copies the test keeps its own. Raises DataError for a file that
    is damaged or does not hold what it should.
    """

    kind = "dermamnist"
    columns = ("lesion", "diagnosis")
    fractions = (1.0, 0.0, 0.0)

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        if labels is not None:
            raise DataError(f"{labels}: {FOLDERS_ONLY.replace('names', 'npz')}")
        self._path = _npz(Path(path))
        self._arrays = {side: _side_arrays(self._path, side) for side in _DERMAMNIST_SIDES}
        self.size = self._arrays["train"][0].shape[1]
        self.total = sum(len(codes) for _, codes in self._arrays.values())
        self.about = {
            "name": "DermaMNIST",
            "licence": "CC BY-NC 4.0",
            "citation": "J. Yang et al. MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical "
            "image classification. Scientific Data 10, 41, 2023. Images of HAM10000: P. Tschandl, C. Rosendahl and "
            "H. Kittler. The HAM10000 dataset. Scientific Data 5, 180161, 2018.",
            "home": "https://medmnist.com",
            "labels": "seven diagnoses of HAM10000",
            "datasheet": "datasets/ISIC.md",
            "classes": {"diagnosis": list(DERMAMNIST_CLASSES)},
            "source": self._path.name,
        }

    def fingerprint(self) -> str:
        """Changes when the file does."""
        return archive_fingerprint(self._path)

    def records(self, skip: int = 0) -> Iterator[Sample]:
        """One record for each image."""
        done = 0
        for side, split in _DERMAMNIST_SIDES.items():
            for row, (pixels, code) in enumerate(zip(*self._arrays[side], strict=True)):
                data = as_file(pixels) if done >= skip else None
                labels = {"lesion": "yes", "diagnosis": DERMAMNIST_CLASSES[int(code)]}
                yield Sample(f"{side}/{row:05d}", data, labels, split)
                done += 1


def _npz(path: Path) -> Path:
    """The `.npz` itself, or the only one in a folder."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        raise DataError(f"{path} holds {len(found) or 'no'} .npz files; name the one with DermaMNIST.")
    return found[0]


def _side_arrays(path: Path, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 (N, H, H, 3) and label codes (N,) of one side; raises DataError for anything else."""
    try:
        with np.load(path, allow_pickle=False) as file:  # a pickle could run code of whoever made the file
            images, codes = file[f"{side}_images"], file[f"{side}_labels"]
    except KeyError as error:
        raise DataError(f"{path} has no array {error}; it must be DermaMNIST's own file from medmnist.com.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, MemoryError) as error:
        raise DataError(f"{path} is no readable .npz ({error}); download or copy it again.") from None
    wanted = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
    if not wanted or images.shape[1] != images.shape[2]:
        raise DataError(
            f"{path}, {side}_images: {images.dtype} {images.shape}, expected uint8 (N, side, side, 3) in colour."
        )
    if codes.dtype.kind not in "iu" or codes.size != len(images):
        raise DataError(f"{path}, {side}_labels: {codes.dtype} {codes.shape}, expected {len(images)} whole numbers.")
    codes = codes.reshape(-1)
    if len(bad := np.flatnonzero((codes < 0) | (codes >= len(DERMAMNIST_CLASSES)))):
        raise DataError(
            f"{path}, {side}_labels, row {bad[0]}: label {codes[bad[0]]}, DermaMNIST's seven classes are 0 to 6; "
            "this is the file of another set."
        )
    return images, codes


ROW = Row("dermamnist", DermaMNISTReader, path_shows=lambda path: path.suffix.lower() == ".npz")
