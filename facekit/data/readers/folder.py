"""Readers: photos joined with their labels, one record at a time. Here any folder, zip or tar with a label table.

A reader yields exactly one record for every photo file of its source and one for every label row that stands for no
photo of its own, so that `packed + rejected = found` can be checked to the last file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path

from facekit.data.readers.archives import Problem, Sample, is_safe
from facekit.data.readers.labels import LabelTable, only_table, read_label_table, unknown_label
from facekit.data.readers.table import PhotoReader, Row
from facekit.errors import DataError


class TableReader(PhotoReader):
    """Photos whose labels are in `table`: one record for each photo, and one for each label row that is left over."""

    table: LabelTable

    def fingerprint(self) -> str:
        return f"{self.source.fingerprint()} {self.table.fingerprint}"

    def key_of(self, name: str) -> str | None:
        """The key of the row for a file, if there is one."""
        return self.table.find(name)

    def why_no_row(self, name: str) -> str:
        """Says of a file that no row is for, with an example of what there is."""
        example = next(iter(self.table.rows), None)
        return f"the label table does not name it{f'; it names {example!r}, for one' if example else ''}"

    def labels_of(self, entry: Sample) -> dict[str, str] | Problem:
        key = self.key_of(entry.name)
        if key is None:
            return Problem("file without label", self.why_no_row(entry.name))
        labels = self.table.labels(key)
        return unknown_label(labels) or labels

    def records(self, skip: int = 0) -> Iterator[Sample]:
        seen: set[str] = set()
        example = ""
        for entry in self.entries(skip):
            key = self.key_of(entry.name) if is_safe(entry.name) else None
            if key in seen:
                problem = Problem("repeated file", f"an earlier file has the label row {key!r}")
                entry = Sample(entry.name, problem=problem)
            elif key is not None:
                seen.add(key)
            example = example or f"; the source has {entry.name!r}, for one"
            yield self.sample(entry)
        unused = Problem("label without file", f"the label table names it, but no photo found has this name{example}")
        yield from (Sample(key, problem=unused) for key in self.table.rows if key not in seen)
        yield from self.table.unused


class FolderReader(TableReader):
    """Any folder, zip or tar with a CSV: a column naming the file, label columns, optionally `split`.

    labels: the CSV; without it, the only CSV inside the folder, or the one beside the archive with its name. Columns
    called gender, race, age and skin_tone must hold the texts of facekit's tasks; any other column may hold anything.
    A row whose name is no photo's stands for the one photo without a row that has the same name but for suffix, case
    and folders before one of the two.
    """

    kind = "folder"
    set_about = {"source": "", "licence": "not stated; ask whoever gave you the photos"}  # so ordered in the manifest

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(path)
        self.path = Path(path)  # also where it is an archive inside that is read
        self.table = read_label_table(labels or only_table(self.path), names=partial(self.source.names, 1000))
        self.columns = tuple(column for column in self.table.columns if column != "split")
        self.numbers = (*self.numbers, *self.table.measures())
        self.notes = self.table.notes

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        """For photos that no row names, the rows that may mean them."""
        return self.table.alike(filter(is_safe, self.source.names()))

    @cached_property
    def _meant(self) -> dict[str, str]:
        """The row for photos that no row names, where it can mean no other photo and no other row can mean this."""
        photos = Counter(key for keys in self._alike.values() for key in keys)
        meant = {name: keys[0] for name, keys in self._alike.items() if len(keys) == photos[keys[0]] == 1}
        if meant:
            name, key = next(iter(meant.items()))
            told = f"{len(meant)} rows were matched by the rest of their names, as {key!r} with {name!r}"
            self.notes = [*self.notes, told]
        return meant

    def key_of(self, name: str) -> str | None:
        return super().key_of(name) or self._meant.get(name)

    def why_no_row(self, name: str) -> str:
        if keys := self._alike.get(name):
            return f"{' or '.join(map(repr, keys[:2]))} in the label table may mean it or another photo; write its name"
        return super().why_no_row(name)


def has_table(path: Path) -> bool:
    """Whether a label table stands where `FolderReader` looks for it."""
    try:
        only_table(Path(path))
    except DataError:
        return False
    return True


ROW = Row("folder", FolderReader)
