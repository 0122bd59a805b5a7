"""What a reader is, and the table of readers: each reader's file has its row in `ROW`."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Protocol

from facekit.data.readers.archives import Problem


@dataclass(frozen=True)
class Sample:
    """One photo with its labels. split: the side it must be on, None to let its content decide."""

    name: str
    data: bytes | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    problem: Problem | None = None


class Reader(Protocol):
    """Photos with labels, in an order that is the same every time."""

    @property
    def kind(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def fractions(self) -> tuple[float, float, float]: ...

    @property
    def about(self) -> dict: ...

    @property
    def total(self) -> int | None: ...

    def fingerprint(self) -> str:
        """Changes when the photos or the labels do."""

    def records(self, skip: int = 0) -> Iterator[Sample]:
        """All records in order; the first `skip` come without their bytes."""


@dataclass(frozen=True)
class Row:
    """One kind of source. name: as `pack --kind` takes it. reader: of a path, and of a label table or None.

    path_shows: whether a path itself shows this kind. names_show: whether its first file names do; asked where no path
    shows a kind. Neither where only the user can say so. beside_table: whether names count where a label table stands
    beside the photos, which else makes a source a `folder`.
    """

    name: str
    reader: Callable[[Path, Path | None], Reader]
    path_shows: Callable[[Path], bool] | None = None
    names_show: Callable[[list[str]], bool] | None = None
    beside_table: bool = False


@cache
def readers() -> dict[str, Row]:
    """Every row by its name, found in the files of this folder."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
        if any(isinstance(name, ast.Name) and name.id == "ROW" for name in names):
            row = import_module(f"facekit.data.readers.{path.stem}").ROW
            found[row.name] = row
    return found
