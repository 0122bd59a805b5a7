"""Readers: photos joined with their labels, one record at a time. Here any folder, zip or tar with a label table.

A reader yields exactly one record for every photo file of its source and one for every label row that stands for no
photo of its own, so that `packed + rejected = found` can be checked to the last file.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from facekit.data.readers.archives import Problem, Sample, clean_name, is_archive, is_safe
from facekit.data.readers.table import PhotoReader, Row
from facekit.data.sets import SPLITS
from facekit.errors import DataError
from facekit.files import sha256_of_file
from facekit.tasks import AGE_BAND, GENDER, RACE, SKIN_TONE

FILE_COLUMNS = ("file", "path", "image", "filename")
# Columns that mean the same in every set, with the texts that they may hold (empty: not known).
KNOWN_LABELS = {task.name: task.classes for task in (GENDER, RACE, AGE_BAND, SKIN_TONE)}


@dataclass
class LabelTable:
    """Label rows by file name. rows: cleaned file name to the values of `columns`; repeated: names of further rows for
    the same file; fingerprint: changes with the table's bytes."""

    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    repeated: list[str]
    fingerprint: str

    def find(self, name: str) -> str | None:
        """The key of the row for a file: its whole name, else the longest tail of it that the table names."""
        parts = name.split("/")
        tails = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((tail for tail in tails if tail in self.rows), None)

    def labels(self, key: str) -> dict[str, str]:
        """The row under a key as column to text, empty where the label is missing."""
        return dict(zip(self.columns, self.rows[key], strict=True))


def read_label_table(path: Path, required: tuple[str, ...] = ()) -> LabelTable:
    """Reads a CSV (UTF-8, comma) with a column that names the file (`file`, `path`, `image` or `filename`).

    required: further columns that must be there. All values stay text, stripped. Raises DataError for a missing or
    unreadable table, for a wrong header and for a row with another number of fields.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _parse(path, csv.reader(file, strict=True), required, sha256_of_file(path))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the CSV with the labels.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no readable CSV in UTF-8 ({error}); save it again as such.") from None


def _parse(path: Path, lines: Iterator[list[str]], required: tuple[str, ...], fingerprint: str) -> LabelTable:
    header = [column.strip() for column in next(lines, [])]
    naming = next((position for position, column in enumerate(header) if column in FILE_COLUMNS), None)
    if naming is None or not set(required) <= set(header) or len(set(header)) < len(header):
        wanted = ", ".join(required) if required else f"one of {', '.join(FILE_COLUMNS)}, each column once"
        raise DataError(f"{path}: the header is {', '.join(header)!r}; it must have {wanted}.")
    rows: dict[str, tuple[str, ...]] = {}
    repeated: list[str] = []
    for number, fields in enumerate(lines, start=2):
        if not fields:
            continue
        if len(fields) != len(header):
            raise DataError(f"{path}, row {number}: {len(fields)} fields, the header has {len(header)}; correct it.")
        name = clean_name(fields.pop(naming).strip())
        if name in rows:
            repeated.append(name)
        else:
            # The same few texts come again and again: interned, a row costs its name and one small tuple.
            rows[name] = tuple(sys.intern(value.strip()) for value in fields)
    columns = tuple(column for position, column in enumerate(header) if position != naming)
    return LabelTable(columns, rows, repeated, fingerprint)


def unknown_label(labels: Mapping[str, str]) -> Problem | None:
    """The first label that its column does not know, or an unknown side; empty texts are missing labels and fine."""
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
    if not known_age:
        return Problem("unknown label", f"age_years is {years!r}, expected 0 to 130")
    split = labels.get("split", "")
    known_side = split in ("", *SPLITS)
    return None if known_side else Problem("unknown split", f"split is {split!r}, expected {', '.join(SPLITS)}")


class TableReader(PhotoReader):
    """Photos whose labels are in `table`: one record for each photo, and one for each label row that is left over."""

    table: LabelTable

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.table.fingerprint}"

    def key_of(self, name: str) -> str | None:
        """The key of the row for a file, if there is one."""
        return self.table.find(name)

    def labels_of(self, entry: Sample) -> dict[str, str] | Problem:
        key = self.key_of(entry.name)
        if key is None:
            return Problem("file without label", "the label table does not name it")
        labels = self.table.labels(key)
        return unknown_label(labels) or labels

    def records(self, skip: int = 0) -> Iterator[Sample]:
        seen: set[str] = set()
        for entry in self.entries(skip):
            key = self.key_of(entry.name) if is_safe(entry.name) else None
            if key in seen:
                problem = Problem("repeated file", f"an earlier file has the label row {key!r}")
                entry = Sample(entry.name, problem=problem)
            elif key is not None:
                seen.add(key)
            yield self.sample(entry)
        unused = Problem("label without file", "the label table names it, the source lacks it")
        yield from (Sample(key, problem=unused) for key in self.table.rows if key not in seen)
        repeated = Problem("repeated label row", "the first row for this file was taken")
        yield from (Sample(key, problem=repeated) for key in self.table.repeated)


class FolderReader(TableReader):
    """Any folder, zip or tar with a CSV: a column naming the file, label columns, optionally `split`.

    labels: the CSV; without it, the only CSV inside the folder, or the one beside the archive with its name. Columns
    called gender, race, age and skin_tone must hold the texts of facekit's tasks; any other column may hold anything.
    """

    kind = "folder"
    set_about = {"source": "", "licence": "not stated; ask whoever gave you the photos"}  # so ordered in the manifest

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(path)
        self.path = Path(path)  # also where it is an archive inside that is read
        self.table = read_label_table(labels or _only_csv(self.path))
        self.columns = tuple(column for column in self.table.columns if column != "split")


def has_table(path: Path) -> bool:
    """Whether a label table stands where `FolderReader` looks for it."""
    try:
        _only_csv(Path(path))
    except DataError:
        return False
    return True


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


ROW = Row("folder", FolderReader)
