"""Reader for photos that are sorted into a folder for each class, in a folder, a zip or a tar.

Above the class folders there may be folders for the sides: `train`, `val` (or `valid`, `validation`), `test`. A photo
that lies under two classes has no label that could be trusted: it is rejected under both.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import pandas as pd

from facekit.data.readers.archives import ESCAPED, Problem, Sample
from facekit.data.readers.table import ClassReader, PhotoReader, Row
from facekit.data.sets import LabelledSet
from facekit.errors import DataError
from facekit.tasks import Task

# Folder names that say a side; photos of `train` are divided into train and validation where there is no other.
SIDES = {
    "train": None,
    "training": None,
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
SHARE = 0.1  # of the photos for validation, and for test, where the source has no folder for them


def plain(name: str) -> str:
    """A class or folder name as names are compared: small letters, blanks for `_` and `-`."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


class ClassFolderReader(ClassReader, PhotoReader):
    """Photos below one folder for each class; the label is the folder's name, in column `class`.

    Sides: those of the folders above, else 80 / 10 / 10 by content; where there is a test folder and no validation
    folder, a tenth of the other photos are validation photos. Raises DataError for a source without photos, with fewer
    than two classes, or with a class folder that is empty.

    A subclass for one set names its `classes`; other folders are then rejected, and none of them may be missing.
    """

    kind = "classes"
    column = "class"
    name_is_identity = False  # whether photos with the same file name are the same photo
    set_about = {"licence": "not stated; ask whoever gave you the photos"}

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(path, labels)
        names = self.source.names()
        self._known = self._classes_of(Path(path), names)
        sides = {self.side_of(name) for name in names if self._class(name)}
        validation, test = (0.0 if side in sides else SHARE for side in ("validation", "test"))
        self.fractions = (1 - validation - test, validation, test)
        self.classes = self.classes or tuple(sorted(self._known.values()))

    def _classes_of(self, path: Path, names: list[str]) -> dict[str, str]:
        """Compared folder name to class; raises DataError where classes are too few, missing or empty."""
        if not names:
            raise DataError(f"{path} holds no photo; there must be a folder for each class with the photos in it.")
        same: dict[str, list[str]] = defaultdict(list)
        for folder in sorted({name.split("/")[-2] for name in names if "/" in name}):
            same[plain(folder)].append(folder)
        held = {form: folders[-1] for form, folders in same.items() if form not in SIDES}
        known = {plain(name): name for name in self.classes}
        missing = [name for name in self.classes if plain(name) not in held]
        if missing:
            raise DataError(
                f"{path}: photos of {len(self.classes) - len(missing)} of the set's {len(self.classes)} classes; "
                f"no photo in a folder {', '.join(map(repr, missing))}. Unpack or download it again, or read whatever "
                "classes there are with --kind classes."
            )
        if not known and len(held) < 2:
            raise DataError(f"{path}: photos of {len(held)} classes; put those of each class into a folder of its own.")
        if not known and (empty := self.source.empty_folders()):
            raise DataError(f"{path}: no photo in folder {', '.join(map(repr, empty))}; fill it or delete it.")
        classes = known or held
        merged = ((", ".join(map(repr, same[form])), name) for form, name in classes.items() if len(same[form]) > 1)
        self.notes = [f"the folders {folders} are one class, {name!r}" for folders, name in merged]
        odd = "has characters in its name that no line can show; they are written with %"
        self.notes += [f"the class {name!r} {odd}" for name in classes.values() if ESCAPED.search(name)]
        return classes

    def _class(self, name: str) -> str | None:
        parts = name.split("/")
        return self._known.get(plain(parts[-2])) if len(parts) > 1 else None

    def side_of(self, name: str) -> str | None:
        return next((SIDES[plain(part)] for part in name.split("/")[:-2] if plain(part) in SIDES), None)

    def _identities(self, name: str, data: bytes) -> list[str]:
        """What two files have in common when they are the same photo."""
        return [hashlib.sha256(data).hexdigest(), *([name.split("/")[-1]] if self.name_is_identity else [])]

    @cached_property
    def _other_classes(self) -> dict[str, list[str]]:
        """Classes by identity, of the photos that lie under more than one; the source is read for it once."""
        classes: dict[str, set[str]] = {}
        for entry in self.source.entries():
            if entry.data is not None and (own := self._class(entry.name)):
                for identity in self._identities(entry.name, entry.data):
                    classes.setdefault(identity, set()).add(own)
        return {identity: sorted(found) for identity, found in classes.items() if len(found) > 1}

    def labels_of(self, entry: Sample) -> dict[str, str] | Problem:
        own = self._class(entry.name)
        if own is None:
            return Problem("unknown class", f"the folder it is in is none of {', '.join(self._known.values())}")
        if entry.data is not None:  # what became of a skipped photo is known
            for identity in self._identities(entry.name, entry.data):
                if others := [name for name in self._other_classes.get(identity, []) if name != own]:
                    return Problem("several classes", f"the same photo is also under {', '.join(others)}")
        return self.row(own)


def in_folder_of(classes: tuple[str, ...]) -> Callable[[str], bool]:
    """Tells of a file name whether it lies in a folder that is called like one of the classes."""
    known = {plain(name) for name in classes}
    return lambda name: plain(name.split("/")[-2:][0]) in known


def class_task(data: LabelledSet, column: str) -> Task:
    """The task of a label column with all the classes that the set's manifest names, else those that occur.

    Raises DataError where there is no such column, or fewer than two classes.
    """
    if column not in data.labels:
        raise DataError(f"the labels have no column {column!r}, only {', '.join(data.labels.columns)}.")
    if pd.api.types.is_numeric_dtype(data.labels[column]):
        raise DataError(
            f"column {column!r} holds numbers, not texts; to tell them apart as classes, pack with --classes {column}."
        )
    named = data.manifest.get("classes", {}).get(column)
    classes = tuple(named or sorted(map(str, data.labels[column].dropna().unique())))
    if len(classes) < 2:
        raise DataError(f"column {column!r} has {len(classes)} classes; there is nothing to tell apart.")
    return Task(column, "multiclass", classes)


ROW = Row("classes", ClassFolderReader)
