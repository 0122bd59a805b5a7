"""What a reader is, the forms that readers share, and the table of readers: each reader's file has its row in `ROW`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import ClassVar

import numpy as np

from facekit.data.readers.archives import Problem, Sample, archive_fingerprint, clean_name, open_source
from facekit.data.readers.decode import as_file, other_size
from facekit.errors import DataError


class Reader(ABC):
    """Photos with labels, in an order that is the same every time.

    kind: as `pack --kind` takes it. columns: of the labels. fractions: shares of training, validation and test among
    photos of which nothing says the side. size: side in pixels, or (height, width), that they are packed at by default.
    set_about: what the manifest says of the set. path: the place that it names. total: of records, where it is known.
    labels_in: where the labels are, said to whoever gives a label table. numbers: columns that hold numbers unless the
    user says otherwise, as far as there are such; all others hold texts. notes: what was read as something else.
    """

    kind: ClassVar[str]
    columns: tuple[str, ...]
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    size: int | tuple[int, int] = 160
    set_about: ClassVar[Mapping[str, object]]
    labels_in: ClassVar[str] = "names"
    numbers: tuple[str, ...] = ("age_years",)
    notes: Sequence[str] = ()
    total: int | None = None

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        if labels is not None:
            where = f"the labels are in the {self.labels_in}"
            raise DataError(f"{labels}: {where}; leave out the label table, or use --kind folder.")
        self.path = Path(path)

    @property
    def about(self) -> dict:
        """What the manifest says of the set and of this source."""
        return {**self.set_about, "source": clean_name(self.path.name)}

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes when the photos or the labels do."""

    @abstractmethod
    def records(self, skip: int = 0) -> Iterator[Sample]:
        """All records in order; the first `skip` come without their bytes."""


class PhotoReader(Reader):
    """Photo files of a folder, a zip or a tar; a reader says what labels one has, `labels_of`, or why it has none.

    photo_size: width and height that every photo of the set has, None where they differ.
    """

    photo_size: ClassVar[tuple[int, int] | None] = None

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(path, labels)
        self.source = open_source(self.path)
        self.path, self.total = self.source.path, self.source.total

    def fingerprint(self) -> str:
        return self.source.fingerprint()

    @abstractmethod
    def labels_of(self, entry: Sample) -> Mapping[str, str] | Problem:
        """The labels of a photo by column, or the reason why it has none; its data is None where it was skipped."""

    def side_of(self, name: str) -> str | None:
        """The side that a file name shows, None for none. These photos come first: of copies they are kept."""
        return None

    def entries(self, skip: int = 0) -> Iterator[Sample]:
        """The photo files in order; the first `skip` come without their bytes."""
        return self.source.entries(skip, lambda name: self.side_of(name) is not None)

    def records(self, skip: int = 0) -> Iterator[Sample]:
        return map(self.sample, self.entries(skip))

    def sample(self, entry: Sample) -> Sample:
        """A photo file with its labels, or with the reason why it is not packed."""
        labels = entry.problem or self.labels_of(entry)
        if not isinstance(labels, Problem) and entry.data is not None and self.photo_size:
            labels = other_size(entry.data, self.photo_size) or labels
        if isinstance(labels, Problem):
            return Sample(entry.name, problem=labels)
        return replace(entry, labels=labels, split=labels.get("split") or self.side_of(entry.name))


class ClassReader(Reader):
    """Photos of which each shows one of `classes`, named in `column`. every: the labels that all of them have."""

    column: str
    classes: tuple[str, ...] = ()
    every: ClassVar[Mapping[str, str]] = {}

    @property
    def columns(self) -> tuple[str, ...]:  # type: ignore[override]
        """Label columns, the class last."""
        return (*self.every, self.column)

    @property
    def about(self) -> dict:
        return {**self.set_about, "classes": {self.column: list(self.classes)}, "source": clean_name(self.path.name)}

    def row(self, name: str) -> dict[str, str]:
        """The label row of a photo of this class."""
        return {**self.every, self.column: name}


@dataclass(frozen=True)
class Part:
    """Some images of a set: uint8 (N, H, W, 3), their class indices (N,), their names (N,), and their side, if any."""

    images: np.ndarray
    codes: Sequence[int] | np.ndarray
    names: Sequence[str]
    split: str | None = None


class ArrayReader(ClassReader):
    """Images that are held in memory, in `parts` by name: the test first, so that of copies the test keeps its own."""

    parts: Mapping[str, Part]

    @property
    def total(self) -> int:  # type: ignore[override]
        """How many images there are."""
        return sum(len(part.codes) for part in self.parts.values())

    def fingerprint(self) -> str:
        return archive_fingerprint(self.path)

    def records(self, skip: int = 0) -> Iterator[Sample]:
        done = 0
        for place, part in self.parts.items():
            for pixels, code, name in zip(part.images, part.codes, part.names, strict=True):
                data = as_file(pixels) if done >= skip else None
                yield Sample(f"{place}/{name}", data, self.row(self.classes[code]), part.split)
                done += 1


@dataclass(frozen=True)
class Row:
    """One kind of source. name: as `pack --kind` takes it. reader: of a path, and of a label table or None.

    path_shows: whether a path itself shows this kind. name_shows: whether a file name does; asked of the first ones
    where no path shows a kind. Neither where only the user can say so. beside_table: whether names count where a label
    table stands beside the photos, which else makes a source a `folder`.
    """

    name: str
    reader: Callable[[Path, Path | None], Reader]
    path_shows: Callable[[Path], bool] | None = None
    name_shows: Callable[[str], bool] | None = None
    beside_table: bool = False

    def shown_by(self, names: Sequence[str]) -> bool:
        """Whether at least half of some file names show this kind."""
        return self.name_shows is not None and 2 * sum(map(self.name_shows, names)) >= max(len(names), 1)


@cache
def readers() -> dict[str, Row]:
    """Every row by its name, found in the files of this folder."""
    modules = [import_module(f"{__package__}.{module.name}") for module in iter_modules([str(Path(__file__).parent)])]
    return {module.ROW.name: module.ROW for module in modules if hasattr(module, "ROW")}
