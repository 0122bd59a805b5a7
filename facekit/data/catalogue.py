"""Every set of real photos that the course uses, one row each, and one way to get it by its name."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from facekit import settings
from facekit.data.pack import pack
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet, read_manifest
from facekit.errors import ConfigError, DataError
from facekit.files import pasted_path


@dataclass(frozen=True)
class Entry:
    """A set of photos. Two entries of one name stand in for each other, the first being the one to get.

    name: what it is asked for by. kind: of the reader, and its folder in `FACEKIT_DATA`. packed: folder in the cache.
    sheet: the datasheet, `datasets/SHEET.md`. files: what is to be put into the folder. size: side in pixels that
    photos are packed at, None for the set's own. only: pattern of the file that is read, "" for the whole folder.
    """

    name: str
    kind: str
    packed: str
    sheet: str
    files: str
    size: int | None = None
    only: str = ""


FAIRFACE = "fairface-img-margin025-trainval.zip and both label files from github.com/joojs/fairface (CC BY 4.0)"
UTKFACE = "UTKFace's crops, crop_part1.tar.gz as it is"
CATALOGUE = (
    Entry("fairface", "fairface", "fairface-160", "FAIRFACE", FAIRFACE, size=160),
    Entry("utkface", "utkface", "utkface-160", "UTKFACE", UTKFACE, size=160, only="*.tar.gz"),
    Entry("lesions", "isic", "isic-128", "ISIC", "ISIC's photos of lesions in nine classes"),
    Entry("lesions", "dermamnist", "dermamnist", "ISIC", "DermaMNIST's npz"),
    Entry("objects", "cifar10", "cifar10-32", "CIFAR10", "CIFAR-10's pictures"),
    Entry("words", "captcha", "captcha-50x200", "CAPTCHA", "the pictures of captchas"),
)
NAMES = tuple(dict.fromkeys(entry.name for entry in CATALOGUE))


@cache
def photos(name: str) -> FaceSet:
    """A set of real photos with its fixed splits: the packed one in the cache, else packed now from `FACEKIT_DATA`.

    name: of `CATALOGUE`. Raises ConfigError for an unknown name, DataError that says what to get, from where and where
    to put it.
    """
    if name not in NAMES:
        raise ConfigError(f"unknown set of photos {name!r}; use {', '.join(NAMES)}.")
    entries, data = [entry for entry in CATALOGUE if entry.name == name], settings.data_dir()
    for entry in entries:
        if (settings.cache_dir() / entry.packed / "manifest.json").exists():
            return FaceSet.load(settings.cache_dir() / entry.packed)
    for folder, entry in [(data / entry.kind, entry) for entry in entries] if data else []:
        found = sorted(folder.glob(entry.only)) if entry.only else [folder]
        if found and found[0].exists():
            return pack(found[0], settings.cache_dir() / entry.packed, size=entry.size, kind=entry.kind)
    raise DataError(
        f"profile full needs the photos of {name!r}: {entries[0].files}. Put this into a folder {entries[0].kind!r}, "
        f"and set FACEKIT_DATA to the folder that contains it. datasets/{entries[0].sheet}.md says where to get it and "
        "on which terms, step by step."
    )


def stored(data: Path | str, portraits: int = 1000) -> FaceSet | FeatureSet:
    """A packed set of photos or embeddings from its folder, as it is pasted; `portraits` renders so many faces.

    Raises DataError for a folder that is no such set, or a damaged one.
    """
    if str(data) == "portraits":
        return render_portraits(portraits)
    kinds: dict[str, type[FaceSet] | type[FeatureSet]] = {cls.kind: cls for cls in (FaceSet, FeatureSet)}
    folder = pasted_path(data)
    if (kind := read_manifest(folder)["kind"]) not in kinds:
        raise DataError(f"{data} holds a {kind!r}; here a {' or a '.join(kinds)} is needed.")
    return kinds[kind].load(folder)
