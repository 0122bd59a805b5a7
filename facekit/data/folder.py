"""Readers: photos joined with their labels, one record at a time. Here any folder, zip or tar with a label table.

A reader yields exactly one record for every photo file of its source and one for every label row that stands for no
photo of its own, so that `packed + rejected = found` can be checked to the last file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pandas as pd

from facekit.data.archives import Entry, Problem, Source, clean_name, is_archive, open_source
from facekit.data.sets import SPLITS
from facekit.errors import DataError
from facekit.tasks import AGE_BAND, GENDER, RACE, SKIN_TONE

FILE_COLUMNS = ("file", "path", "image", "filename")
# Columns that mean the same in every set, with the texts that they may hold (empty: not known).
KNOWN_LABELS = {task.name: task.classes for task in (GENDER, RACE, AGE_BAND, SKIN_TONE)}


@dataclass(frozen=True)
class Record:
    """One photo with its labels. split: the side it must be on, None to let its content decide."""

    name: str
    data: bytes | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    split: str | None = None
    problem: Problem | None = None


class Reader(Protocol):
    """Photos with labels, in an order that is the same every time."""

    kind: str
    columns: tuple[str, ...]
    fractions: tuple[float, float, float]
    about: dict
    total: int | None

    def fingerprint(self) -> str:
        """Changes when the photos or the labels do."""

    def records(self, skip: int = 0) -> Iterator[Record]:
        """All records in order; the first `skip` come without their bytes."""


@dataclass
class LabelTable:
    """Label rows by file name. rows: cleaned name to labels. repeated: names of further rows for the same file."""

    path: Path
    columns: tuple[str, ...]
    rows: dict[str, dict[str, str]]
    repeated: list[str]

    def find(self, name: str) -> str | None:
        """The key of the row for a file: its whole name, else the longest tail of it that the table names."""
        parts = name.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((tail for tail in tails if tail in self.rows), None)


def read_label_table(path: Path, required: tuple[str, ...] = ()) -> LabelTable:
    """Reads a CSV (UTF-8, comma) with a column that names the file (`file`, `path`, `image` or `filename`).

    required: further columns that must be there. All values stay text, stripped. Raises DataError for a missing or
    unreadable table and for a wrong header.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the CSV with the labels.") from None
    except (OSError, UnicodeDecodeError, ValueError) as error:  # pandas' parser errors are ValueErrors
        told = " ".join(str(error).split())
        raise DataError(f"{path} is no readable CSV in UTF-8 ({told}); save it again as such.") from None
    columns = [str(column).strip() for column in table.columns]
    naming = next((column for column in FILE_COLUMNS if column in columns), None)
    missing = [column for column in required if column not in columns]
    if naming is None or missing or len(set(columns)) < len(columns):
        wanted = ", ".join(required) if required else f"one of {', '.join(FILE_COLUMNS)}, each column once"
        raise DataError(f"{path}: the header is {', '.join(columns)!r}; it must have {wanted}.")
    table.columns = columns
    rows: dict[str, dict[str, str]] = {}
    repeated: list[str] = []
    for row in table.to_dict("records"):
        name = clean_name(str(row.pop(naming)).strip())
        if name in rows:
            repeated.append(name)
        else:
            rows[name] = {column: str(value).strip() for column, value in row.items()}
    return LabelTable(Path(path), tuple(column for column in columns if column != naming), rows, repeated)


def unknown_label(labels: Mapping[str, str]) -> Problem | None:
    """The first label that its column does not know; empty texts are missing labels and fine."""
    for column, known in KNOWN_LABELS.items():
        value = labels.get(column, "")
        if value and value not in known:
            hint = "; ages in years belong in a column age_years" if column == "age" and value.isdecimal() else ""
            return Problem("unknown label", f"{column} is {value!r}, expected {', '.join(known)}{hint}")
    years = labels.get("age_years", "")
    try:
        known_age = not years or 0 <= float(years) <= 130
    except ValueError:
        known_age = False
    return None if known_age else Problem("unknown label", f"age_years is {years!r}, expected 0 to 130")


def join(
    source: Source,
    find: Callable[[str], str | None],
    rows: Mapping[str, Mapping[str, str]],
    repeated: list[str],
    skip: int = 0,
    first: Callable[[str], bool] | None = None,
) -> Iterator[Record]:
    """One record for each photo and each label row left over. find: file name to the key of its row, if any."""
    seen: set[str] = set()
    for entry in source.entries(skip, first):
        key = find(entry.name) if entry.problem is None or entry.problem.reason != "unsafe name" else None
        yield _matched(entry, key, rows, seen)
    for key in rows:
        if key not in seen:
            yield Record(key, problem=Problem("label without file", "the label table names it, the source lacks it"))
    for key in repeated:
        yield Record(key, problem=Problem("repeated label row", "the first row for this file was taken"))


def _matched(entry: Entry, key: str | None, rows: Mapping[str, Mapping[str, str]], seen: set[str]) -> Record:
    if key is not None and key in seen:
        return Record(entry.name, problem=Problem("repeated file", f"an earlier file has the label row {key!r}"))
    if key is not None:
        seen.add(key)
    if entry.problem is not None:
        return Record(entry.name, problem=entry.problem)
    if key is None:
        return Record(entry.name, problem=Problem("file without label", "the label table does not name it"))
    labels = rows[key]
    return Record(entry.name, entry.data, labels, labels.get("split") or None, unknown_label(labels))


class FolderReader:
    """Any folder, zip or tar with a CSV: a column naming the file, label columns, optionally `split`.

    labels: the CSV; without it, the only CSV inside the folder, or the one beside the archive with its name. Columns
    called gender, race, age and skin_tone must hold the texts of facekit's tasks; any other column may hold anything.
    """

    kind = "folder"
    fractions = (0.8, 0.1, 0.1)

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        self._source = open_source(path)
        self._table = read_label_table(labels or _only_csv(Path(path)))
        self.columns = tuple(column for column in self._table.columns if column != "split")
        self.total = self._source.total
        self.about = {"source": Path(path).name, "licence": "not stated; ask whoever gave you the photos"}

    def fingerprint(self) -> str:
        return f"{self._source.fingerprint()} {self._table.path.stat().st_size} {self._table.path.stat().st_mtime_ns}"

    def records(self, skip: int = 0) -> Iterator[Record]:
        for record in join(self._source, self._table.find, self._table.rows, self._table.repeated, skip):
            if record.problem is None and record.split is not None and record.split not in SPLITS:
                problem = Problem("unknown split", f"split is {record.split!r}, expected {', '.join(SPLITS)}")
                record = Record(record.name, problem=problem)
            yield record


def _only_csv(path: Path) -> Path:
    """The label table that needs no telling; raises DataError when there is none or more than one."""
    if path.is_dir():
        found = sorted(path.glob("*.csv"))
        where = f"{path}"
    else:
        base = path.name
        while is_archive(Path(base)) or base.endswith((".gz", ".tar")):
            base = base.rsplit(".", 1)[0]
        found = [file for file in sorted(path.parent.glob("*.csv")) if file.stem == base]
        where = f"beside {path} under its name"
    if len(found) != 1:
        raise DataError(
            f"{where}: {len(found) or 'no'} CSV files; name the label table with --labels. "
            f"It needs a column {', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]}."
        )
    return found[0]
