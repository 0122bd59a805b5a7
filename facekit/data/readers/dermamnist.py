"""DermaMNIST: skin lesions of seven diagnoses, in the `.npz` of MedMNIST."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from facekit.data.readers.table import ArrayReader, Part, Row
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
_SIDES = {"test": "test", "val": "validation", "train": "train"}


class DermaMNISTReader(ArrayReader):
    """DermaMNIST (Yang et al., MedMNIST v2, Scientific Data 2023): one `.npz` with images and labels of three sides.

    path: the file, at any of its resolutions, or a folder with one such file; it is held in memory (24 MB at 28 pixels,
    1.5 GB at 224). Raises DataError for a file that is damaged or does not hold what it should.
    """

    kind = "dermamnist"
    column = "diagnosis"
    classes = DERMAMNIST_CLASSES
    every = {"lesion": "yes"}
    fractions = (1.0, 0.0, 0.0)
    labels_in = "npz"
    set_about = {
        "name": "DermaMNIST",
        "licence": "CC BY-NC 4.0",
        "citation": "J. Yang et al. MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical "
        "image classification. Scientific Data 10, 41, 2023. Images of HAM10000: P. Tschandl, C. Rosendahl and "
        "H. Kittler. The HAM10000 dataset. Scientific Data 5, 180161, 2018.",
        "home": "https://medmnist.com",
        "labels": "seven diagnoses of HAM10000",
        "datasheet": "datasets/ISIC.md",
    }

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(path, labels)
        self.path = _npz(self.path)
        self.parts = {side: _part(self.path, side, split) for side, split in _SIDES.items()}
        self.size = self.parts["train"].images.shape[1]


def _npz(path: Path) -> Path:
    """The `.npz` itself, or the only one in a folder."""
    if not path.is_dir():
        return path
    found = sorted(path.glob("*.npz"))
    if len(found) != 1:
        raise DataError(f"{path} holds {len(found) or 'no'} .npz files; name the one with DermaMNIST.")
    return found[0]


def _part(path: Path, side: str, split: str) -> Part:
    """Images uint8 (N, H, H, 3) and label codes (N,) of one side; raises DataError for anything else."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > max(2**28, 10 * path.stat().st_size):  # pixels hardly become smaller
            raise ValueError(f"its arrays would take {size:,} bytes, far more than photos in a file of this size")
        with np.load(path, allow_pickle=False) as file:  # a pickle could run code of whoever made the file
            images, codes = file[f"{side}_images"], file[f"{side}_labels"]
    except KeyError as error:
        raise DataError(f"{path} has no array {error}; it must be DermaMNIST's own file from medmnist.com.") from None
    except Exception as error:  # zipfile, the decompressors and numpy raise a dozen kinds
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
    return Part(images, codes, [f"{row:05d}" for row in range(len(codes))], split)


ROW = Row("dermamnist", DermaMNISTReader, path_shows=lambda path: path.suffix.lower() == ".npz")
