"""Every set of real photos that the course uses, one row each, and one way to get it by its name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from facekit import settings
from facekit.data.pack import pack
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError


@dataclass(frozen=True)
class Entry:
    """A set of photos. Two entries of one name stand in for each other, the first being the one to get.

    name: what it is asked for by. folder: in `FACEKIT_DATA`. kind: of the reader. packed: folder in the cache. sheet:
    the datasheet, `datasets/SHEET.md`. files: what is to be put into the folder. size: side in pixels that photos are
    packed at, None for the set's own. only: pattern of the file in the folder that is read, "" for the whole folder.
    """

    name: str
    folder: str
    kind: str
    packed: str
    sheet: str
    files: str
    size: int | None = None
    only: str = ""

    @property
    def stored(self) -> Path | None:
        """The packed set in the cache; None where it is not, or not whole."""
        folder = settings.cache_dir() / self.packed
        return folder if (folder / "manifest.json").exists() else None

    @property
    def source(self) -> Path | None:
        """What there is to pack in `FACEKIT_DATA`; None where there is nothing."""
        data = settings.data_dir()
        if data is None or not (data / self.folder).is_dir():
            return None
        return next(iter(sorted((data / self.folder).glob(self.only))), None) if self.only else data / self.folder


CATALOGUE = (
    Entry(
        "fairface",
        "fairface",
        "fairface",
        "fairface-160",
        "FAIRFACE",
        "fairface-img-margin025-trainval.zip and both label files from github.com/joojs/fairface (CC BY 4.0)",
        160,
    ),
    Entry(
        "utkface",
        "utkface",
        "utkface",
        "utkface-160",
        "UTKFACE",
        "UTKFace's crops, crop_part1.tar.gz as it is",
        160,
        "*.tar.gz",
    ),
    Entry("lesions", "isic", "isic", "isic-128", "ISIC", "ISIC's photos of lesions in nine classes"),
    Entry("lesions", "dermamnist", "dermamnist", "dermamnist", "ISIC", "DermaMNIST's npz"),
    Entry("objects", "cifar10", "cifar10", "cifar10-32", "CIFAR10", "CIFAR-10's pictures"),
    Entry("words", "captcha", "captcha", "captcha-50x200", "CAPTCHA", "the pictures of captchas"),
)
NAMES = tuple(dict.fromkeys(entry.name for entry in CATALOGUE))


def entries(name: str) -> Iterator[Entry]:
    """The entries of a name, in order; raises ConfigError where there is none."""
    if name not in NAMES:
        raise ConfigError(f"unknown set of photos {name!r}; use {', '.join(NAMES)}.")
    return (entry for entry in CATALOGUE if entry.name == name)


@cache
def photos(name: str) -> FaceSet:
    """A set of real photos with its fixed splits: the packed one in the cache, else packed now from `FACEKIT_DATA`.

    name: of `CATALOGUE`. Raises ConfigError for an unknown name, DataError that says what to get, from where and where
    to put it.
    """
    for entry in entries(name):
        if entry.stored is not None:
            return FaceSet.load(entry.stored)
    for entry in entries(name):
        if entry.source is not None:
            return pack(entry.source, settings.cache_dir() / entry.packed, size=entry.size, kind=entry.kind)
    entry = next(entries(name))
    raise DataError(
        f"profile full needs the photos of {name!r}: {entry.files}. Put this into a folder {entry.folder!r}, and set "
        f"FACEKIT_DATA to the folder that contains it. datasets/{entry.sheet}.md says where to get it and on which "
        "terms, step by step."
    )
