"""The table of readers: which kinds of source there are, and how a source shows of which kind it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from facekit.data.readers.archives import open_source
from facekit.data.readers.captcha import CaptchaReader, looks_like_captcha
from facekit.data.readers.cifar10 import CIFAR10_CLASSES, cifar10_reader, holds_batches
from facekit.data.readers.classes import ClassFolderReader, looks_like
from facekit.data.readers.dermamnist import DermaMNISTReader
from facekit.data.readers.fairface import LABEL_FILES, FairFaceReader, label_files
from facekit.data.readers.folder import FolderReader, Reader, has_table
from facekit.data.readers.isic import ISIC_CLASSES, ISICReader
from facekit.data.readers.utkface import UTKFaceReader, looks_like_utkface

Names = Callable[[], list[str]]


@dataclass(frozen=True)
class Row:
    """One kind of source. reader: of a path, and of a label table where it is not the usual one.

    shows: whether a path is of this kind, by the path itself or by its first file names (read when they are asked for);
    None where only the user can say so.
    """

    reader: Callable[[Path, Path | None], Reader]
    shows: Callable[[Path, Names], bool] | None = None


# In the order in which a source is looked at. A label table beside the photos outweighs the names of class folders.
READERS: dict[str, Row] = {
    "fairface": Row(FairFaceReader, lambda path, names: bool(label_files(path))),
    "dermamnist": Row(DermaMNISTReader, lambda path, names: path.suffix.lower() == ".npz"),
    "cifar10": Row(
        cifar10_reader,
        lambda path, names: holds_batches(path) or (not has_table(path) and looks_like(CIFAR10_CLASSES, names())),
    ),
    "utkface": Row(UTKFaceReader, lambda path, names: looks_like_utkface(names())),
    "isic": Row(ISICReader, lambda path, names: not has_table(path) and looks_like(ISIC_CLASSES, names())),
    "captcha": Row(CaptchaReader, lambda path, names: not has_table(path) and looks_like_captcha(names())),
    "folder": Row(FolderReader),
    "classes": Row(ClassFolderReader),
}


def kind_of(source: Path, labels: Path | None = None) -> str:
    """The kind that a source shows; `folder`, which needs a label table, where it shows none.

    labels: a label table makes a source a `folder`, unless it is FairFace's own or the folder of these.
    """
    if labels is not None:
        official = labels.is_dir() or labels.name in LABEL_FILES
        return "fairface" if official and label_files(source, labels) else "folder"

    @cache
    def names() -> list[str]:
        return open_source(source).names(50)

    return next((kind for kind, row in READERS.items() if row.shows and row.shows(source, names)), "folder")
