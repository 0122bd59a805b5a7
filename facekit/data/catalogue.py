"""The three domains beside faces, packed from photos."""

from __future__ import annotations

from functools import cache

from facekit import settings
from facekit.data.drawn import DomainName
from facekit.data.pack import pack
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError

# Where the real set is: folder in FACEKIT_DATA (which is also the kind to pack it with) and folder in the cache.
SOURCES: dict[str, dict[str, str]] = {
    "lesions": {"isic": "isic-128", "dermamnist": "dermamnist"},
    "objects": {"cifar10": "cifar10-32"},
    "words": {"captcha": "captcha-50x200"},
}
SHEETS = {"isic": "ISIC", "cifar10": "CIFAR10", "captcha": "CAPTCHA"}


@cache
def domain(name: DomainName) -> FaceSet:
    """The real photos of a domain: ISIC (or DermaMNIST), CIFAR-10 or captchas, with their fixed splits.

    The packed set in the cache, else packed now from `FACEKIT_DATA`. Raises DataError that says what to get and where
    to put it, ConfigError for an unknown domain.
    """
    if name not in SOURCES:
        raise ConfigError(f"unknown domain {name!r}; use {', '.join(SOURCES)}.")
    for folder in SOURCES[name].values():
        if (settings.cache_dir() / folder / "manifest.json").exists():
            return FaceSet.load(settings.cache_dir() / folder)
    data = settings.data_dir()
    for kind, folder in SOURCES[name].items():
        if data is not None and (data / kind).is_dir():
            return pack(data / kind, settings.cache_dir() / folder, kind=kind)
    kind = next(iter(SOURCES[name]))
    raise DataError(
        f"profile full needs the photos of the domain {name}: put them into a folder {kind!r} and set FACEKIT_DATA to "
        f"the folder that contains it. datasets/{SHEETS[kind]}.md says where to get them, on which terms, step by step."
    )
