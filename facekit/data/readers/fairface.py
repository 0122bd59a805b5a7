"""FairFace (Kärkkäinen & Joo, WACV 2021, arXiv 1908.04913): photos with perceived gender, race and age band.

The official archive holds `train/N.jpg` and `val/N.jpg`; the label files stand beside it. The official validation
photos are the test split here; validation photos are a fixed twentieth of the training photos, by content.
"""

from __future__ import annotations

from pathlib import Path

from facekit.data.readers.archives import Sample, is_archive
from facekit.data.readers.folder import TableReader
from facekit.data.readers.labels import REPEATED, LabelTable, read_label_table
from facekit.data.readers.table import Row
from facekit.errors import DataError

COLUMNS = ("file", "age", "gender", "race", "service_test")
LABEL_FILES = ("fairface_label_train.csv", "fairface_label_val.csv")
ABOUT = {
    "name": "FairFace",
    "licence": "CC BY 4.0",
    "citation": "K. Kärkkäinen and J. Joo. FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age for "
    "Bias Measurement and Mitigation. WACV 2021.",
    "home": "https://github.com/joojs/fairface",
    "labels": "gender, race and age band as annotators perceived them from the photo",
}


def label_files(path: Path, labels: Path | None = None) -> list[Path]:
    """The official label files in `labels` (a folder or one file), else in or beside `path`; may be empty."""
    if labels is not None and labels.is_file():
        return [labels]
    folder = labels or (path if path.is_dir() else path.parent)
    return [folder / name for name in LABEL_FILES if (folder / name).is_file()]


def _official(name: str) -> str:
    """`train/3.jpg` of whatever stands before it: the form in which the label files name a photo."""
    return "/".join(name.split("/")[-2:])


def _photos(path: Path) -> Path:
    """Where the photos are: the path itself, or the one archive called fairface in a folder without photos."""
    if path.is_dir() and not (path / "train").is_dir() and not (path / "val").is_dir():
        archives = [file for file in sorted(path.iterdir()) if is_archive(file) and "fairface" in file.name.lower()]
        return archives[0] if len(archives) == 1 else path
    return path


class FairFaceReader(TableReader):
    """The official zip (or tar, or unpacked folder) with its label files.

    path: the archive, the folder with `train/` and `val/`, or the folder with the archive in it. labels: folder of the
    label files, or one of them; by default in or beside `path`. Raises DataError when a part is missing.
    """

    kind = "fairface"
    columns = COLUMNS[1:]
    fractions = (0.95, 0.05, 0.0)
    set_about = ABOUT

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(_photos(path))
        files = label_files(path, labels)
        if not files:
            raise DataError(
                f"no {LABEL_FILES[0]} or {LABEL_FILES[1]} for {path}; put them beside the photos "
                f"({ABOUT['home']}), or name their folder with --labels."
            )
        self.table = _merged([read_label_table(file, COLUMNS) for file in files])
        self.notes = self.table.notes

    def key_of(self, name: str) -> str | None:
        return official if (official := _official(name)) in self.table.rows else None

    def side_of(self, name: str) -> str | None:
        return "test" if _official(name).startswith("val/") else None


def _merged(tables: list[LabelTable]) -> LabelTable:
    """The rows of both label files in one table, whatever the order of their columns."""
    rows: dict[str, tuple[str, ...]] = {}
    unused: list[Sample] = []
    for table in tables:
        order = [table.columns.index(column) for column in COLUMNS[1:]]
        unused += [*table.unused, *(Sample(name, problem=REPEATED) for name in table.rows if name in rows)]
        for name, values in table.rows.items():
            rows.setdefault(name, tuple(values[position] for position in order))
    notes = [note for table in tables for note in table.notes]
    return LabelTable(COLUMNS[1:], rows, unused, " ".join(table.fingerprint for table in tables), notes)


ROW = Row("fairface", FairFaceReader, path_shows=lambda path: bool(label_files(path)))
