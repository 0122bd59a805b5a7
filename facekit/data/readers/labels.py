"""Label tables as programs write them: what has one meaning is read, what has none or several is told with its remedy.

Read are commas, semicolons and tabs, a first line `sep=`, UTF-8 and UTF-16, blank rows, empty columns at the end, names
of photos with other folders before them, without suffix or in other letters. Values stay the texts that they are.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TextIO

from facekit.data.readers.archives import PHOTO_SUFFIXES, Problem, Sample, clean_name, is_archive, is_photo
from facekit.data.sets import SPLITS
from facekit.errors import DataError
from facekit.files import sha256_of_file
from facekit.tasks import AGE_BAND, GENDER, RACE, SKIN_TONE, Task

FILE_COLUMNS = ("file", "path", "image", "filename")
# Columns that mean the same in every set, with the texts that they may hold (empty: not known).
KNOWN_LABELS = {task.name: task.classes for task in (GENDER, RACE, AGE_BAND, SKIN_TONE)}
NUMBER = re.compile(
    r"[+-]?(\d{1,15}(\.\d*)?|\.\d+)(e[+-]?\d{1,2})?", re.ASCII | re.IGNORECASE
)  # not `1_0`, `nan`, `inf`
MANY = 20  # a column of numbers with decimals and more different ones than this is no column of classes
SUFFIXES = (".csv", ".tsv")
REPEATED = Problem("repeated label row", "the first row for this file was taken")
# What a table may cost: the longest line, in characters, and the most columns.
LONGEST_LINE, MOST_COLUMNS = 2**20, 1000
SAVE_AGAIN = "save it as 'CSV UTF-8'"
# A spreadsheet takes 3-9 for a day in March or in September, and 10-19 for one in October.
_MONTHS = {
    **dict.fromkeys(("mar", "march", "mär", "mrz", "märz"), "3"),
    **dict.fromkeys(("sep", "sept", "september"), "9"),
    **dict.fromkeys(("oct", "october", "okt", "oktober"), "10"),
}
_DATE = re.compile(r"\d{1,2}-(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)", re.IGNORECASE)
_BANDS = {frozenset(re.findall(r"\d+", band)): band for band in AGE_BAND.classes if "-" in band}


@dataclass
class LabelTable:
    """Label rows by file name. rows: cleaned file name to the values of `columns`; unused: rows that stand for no photo
    of their own, with the reason; fingerprint: changes with the table's bytes; notes: what was read as something else.
    """

    columns: tuple[str, ...]
    rows: dict[str, tuple[str, ...]]
    unused: list[Sample]
    fingerprint: str
    notes: list[str] = field(default_factory=list)

    def find(self, name: str) -> str | None:
        """The key of the row for a file: its whole name, else the longest tail of it that the table names."""
        return next((tail for tail in _tails(name) if tail in self.rows), None)

    def alike(self, names: Iterable[str]) -> dict[str, list[str]]:
        """Keys of the rows that may mean a photo, for each of these photos that no row names; none for any other.

        The names are the same but for suffix, case, and folders that stand before one of the two.
        """
        found = {name: self.find(name) for name in names}
        named = set(found.values())
        rows, photos = defaultdict(list), defaultdict(list)
        for key in self.rows.keys() - named:
            rows[_folded(key)].append(key)
        for name in (name for name, key in found.items() if key is None):
            photos[_folded(name)].append(name)
        alike: dict[str, list[str]] = defaultdict(list)
        for form, same in photos.items():
            tail = next((tail for tail in _tails(form) if tail in rows), "")
            for name in same:
                alike[name] += rows.get(tail, [])
        for form, keys in rows.items():
            _, *shorter = _tails(form)
            tail = next((tail for tail in shorter if tail in photos), "")
            for name in photos.get(tail, []):
                alike[name] += keys
        return {name: sorted(keys) for name, keys in alike.items() if keys}

    def labels(self, key: str) -> dict[str, str]:
        """The row under a key as column to text, empty where the label is missing."""
        return dict(zip(self.columns, self.rows[key], strict=True))

    def texts(self) -> dict[str, set[str]]:
        """The different texts of each column; none of an empty table."""
        columns = zip(*self.rows.values(), strict=True)
        return {name: set(column) - {""} for name, column in zip(self.columns, columns, strict=bool(self.rows))}

    def measures(self) -> tuple[str, ...]:
        """The columns that can only be numbers: all texts are, some with decimals, and more than MANY differ.

        And the four columns of a box.
        """
        numeric = {name: found for name, found in self.texts().items() if found and all(map(NUMBER.fullmatch, found))}
        boxes = [Task(name.removesuffix("_left"), "box").columns for name in numeric if name.endswith("_left")]
        sides = {side for box in boxes if numeric.keys() >= {*box} for side in box}
        return tuple(
            name
            for name, found in numeric.items()
            if name in sides or (len(found) > MANY and any("." in text for text in found))
        )


def _tails(name: str) -> Iterator[str]:
    """The name, then what is left of it without its first folder, without its first two …"""
    parts = name.split("/")
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _folded(name: str) -> str:
    """A photo's name in small letters, without its suffix."""
    stem, dot, suffix = name.casefold().rpartition(".")
    return stem if dot + suffix in PHOTO_SUFFIXES else name.casefold()


def only_table(path: Path) -> Path:
    """The label table that needs no telling; raises DataError when there is none or more than one.

    It is the only CSV inside a folder, or the one beside an archive with its name.
    """
    folder, base, where = path, "", f"{path}"
    if not path.is_dir():
        folder, base, where = path.parent, path.name, f"beside {path} under its name"
        while is_archive(Path(base)) or base.endswith((".gz", ".tar")):
            base = base.rsplit(".", 1)[0]
    tables = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in SUFFIXES and file.name[0] != "."]
    found = [file for file in tables if base in ("", file.stem)]
    if len(found) != 1:
        names = f" ({', '.join(file.name for file in found[:3])}{' …' * (len(found) > 3)})" if found else ""
        raise DataError(
            f"{where}: {len(found) or 'no'} CSV files{names}; name the label table with --labels. "
            f"It needs a column {', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]}."
        )
    return found[0]


def read_label_table(
    path: Path, required: tuple[str, ...] = (), names: Callable[[], Sequence[str]] = tuple
) -> LabelTable:
    """Reads a table with a column that names the photo: `file`, `path`, `image` or `filename`, else the one that does.

    path: the table, or a folder with no other. required: columns that must be there, the first names the photo. names:
    gives photos of the source, which show the column where its own name does not. All values stay text, stripped; a
    column without a name that holds something is called `column_1`, `column_2` … by its place.

    Raises DataError for a table that is missing, unreadable, without header, in another encoding, with a line of more
    than LONGEST_LINE characters or more than MOST_COLUMNS columns, and for a row with another number of fields.
    """
    try:
        path = only_table(path) if path.is_dir() else path
        with open(path, "rb") as raw:
            start = raw.read(4)
        if start in (b"PK\x03\x04", b"\xd0\xcf\x11\xe0"):
            raise DataError(f"{path} is a workbook of a spreadsheet, no text; open it there and {SAVE_AGAIN}.")
        with open(path, encoding=_encoding(start), newline="") as file:
            return _parse(path, _lines(path, file), required, names)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; give the CSV with the labels.") from None
    except UnicodeDecodeError as error:
        begin = max(error.object.rfind(b"\n", 0, error.start) + 1, error.start - 20)
        text = error.object[begin : error.start + 20].split(b"\n")[0].strip()
        ways = " or ".join(f"{text.decode(way, 'replace')!r} in {way}" for way in ("cp1252", "cp949"))
        raise DataError(
            f"{path} is not in {error.encoding.upper()}: a text in it can mean {ways}. Open it where it was made and "
            f"{SAVE_AGAIN}, or convert it, naming its encoding: iconv -f cp1252 -t utf-8 OLD.csv > NEW.csv"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a CSV that you may read.") from None


def _encoding(start: bytes) -> str:
    """The encoding that the first bytes of a table show."""
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be" if start[:1] == b"\0" else "utf-8-sig"


def _lines(path: Path, file: TextIO) -> Iterator[str]:
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path} has a line of more than {LONGEST_LINE:,} characters; give a table of labels.")
        yield line


def _delimiter(first: str, required: tuple[str, ...]) -> str:
    """Comma, semicolon or tab: which makes the header that is looked for, else which divides the line most often."""

    def worth(delimiter: str) -> tuple[bool, int]:
        cells = [cell.strip() for cell in next(csv.reader([first[: 2**16]], delimiter=delimiter), [])]
        return (set(required) <= set(cells) if required else bool({*cells} & {*FILE_COLUMNS})), len(cells)

    return max(",;\t", key=worth)


def _rows(
    path: Path, lines: Iterator[str], required: tuple[str, ...], notes: list[str]
) -> Iterator[tuple[int, list[str]]]:
    """Number and stripped fields of each row that is not blank, the header first; notes what was stripped."""
    number, first, delimiter = 0, "", ""
    for first in lines:
        number += 1
        if said := re.fullmatch(r'"?sep=([,;|\t ])"?[\s,;]*', first):
            delimiter = said[1]
        elif first.strip(' \t\r\n,;"'):
            break
    try:
        rows = csv.reader(chain([first], lines), delimiter=delimiter or _delimiter(first, required), strict=True)
        for fields in rows:
            # The same few texts come again and again: interned, a row costs its name and one small tuple.
            cells = [sys.intern(value.strip()) for value in fields]
            if any(cells):
                if not notes and cells != fields:
                    stripped = next(value for value, cell in zip(fields, cells, strict=True) if value != cell)
                    notes.append(f"blanks around the texts were dropped, first in row {number}, {stripped[:40]!r}")
                yield number, cells
            number += 1
    except csv.Error as error:
        raise DataError(f"{path}, row {number}: {error}; correct the quotes or the text there.") from None


def _parse(
    path: Path, lines: Iterator[str], required: tuple[str, ...], names: Callable[[], Sequence[str]]
) -> LabelTable:
    notes: list[str] = []
    rows = _rows(path, lines, required, notes)
    _, header = next(rows, (0, []))
    shown = ", ".join(header)[:200]
    if len(header) > MOST_COLUMNS:
        raise DataError(
            f"{path} has {len(header):,} columns, {shown} …; keep the {MOST_COLUMNS} at most that you need."
        )
    if missing := sorted(set(required) - set(header)):
        raise DataError(
            f"{path}: the header is {shown!r}; it must have {', '.join(required)}; {missing[0]} is missing."
        )
    if twice := [column for column, count in Counter(filter(None, header)).items() if count > 1]:
        raise DataError(f"{path}: the header is {shown!r}, with {twice[0]!r} twice; give each column its own name.")
    named = max((position + 1 for position, column in enumerate(header) if column), default=0)
    body: deque[list[str]] = deque()
    numbers: deque[int] = deque()
    for number, fields in rows:
        while len(fields) > len(header) and not fields[-1]:  # what stands beside the table is empty
            fields.pop()
        if not named <= len(fields) <= len(header):
            raise DataError(f"{path}, row {number}: {len(fields)} fields, the header has {len(header)}; correct it.")
        body.append(fields + [""] * (len(header) - len(fields)))
        numbers.append(number)
    naming = header.index(required[0]) if required else _naming(path, header, body, names)
    kept = [at for at, column in enumerate(header) if at != naming and (column or any(row[at] for row in body))]
    columns = [header[at] or f"column_{at + 1}" for at in kept]
    table = LabelTable((), {}, [], sha256_of_file(path), notes)
    if "file" in columns:  # in a set, this column has the name that the photo has in its source
        columns[columns.index("file")] = "file_in_table"
        table.notes.append(f"the photos are named in column {header[naming]!r}; column 'file' is kept as file_in_table")
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: the header is {shown!r}; give every column a name of its own.")
    table.columns = tuple(columns)
    age = columns.index("age") if "age" in columns else None
    mended: Counter[tuple[str, str]] = Counter()
    while body:  # emptied on the way: the rows are in memory but once
        fields, number = body.popleft(), numbers.popleft()
        name, values = clean_name(fields[naming]), [fields[at] for at in kept]
        if age is not None and (band := _band(values[age])):
            mended[values[age], band] += 1
            values[age] = band
        if not name:
            table.unused.append(Sample(f"row {number}", problem=Problem("label without file", "it names no photo")))
        elif name in table.rows:
            table.unused.append(Sample(name, problem=REPEATED))
        else:
            table.rows[name] = tuple(values)
    for column, texts in table.texts().items():
        dates, bands = (sorted(filter(form.fullmatch, texts)) for form in (_DATE, re.compile(r"\d+-\d+")))
        if dates and bands:
            asked = "did a spreadsheet make a date of a band?"
            table.notes.append(f"{column} has {dates[0]!r} beside {bands[0]!r}; {asked}")
    table.notes += [f"age {old!r} was read as the band {new} in {count} rows" for (old, new), count in mended.items()]
    return table


def _naming(path: Path, header: list[str], body: Iterable[list[str]], names: Callable[[], Sequence[str]]) -> int:
    """The place of the column that names the photos: by its name, else by what stands in it."""
    said = [at for at, column in enumerate(header) if column in FILE_COLUMNS]
    if len(said) == 1:
        return said[0]
    photos = {_folded(name).split("/")[-1]: name for name in names()}
    worth = {}
    for at in range(len(header)):
        texts = {clean_name(fields[at]) for fields in body} - {""}
        stems = {_folded(text).split("/")[-1] for text in texts}
        found = len(stems & photos.keys())
        if found and 2 * found >= min(len(stems), len(photos)):
            worth[at] = found, at in said, len(texts)
    best = max(worth, key=lambda at: worth[at], default=said[0] if said else None)
    shown = ", ".join(header)[:200]
    top = header[best] if best is not None and best not in said else ""
    if any(map(is_photo, header)) or top.isdecimal() or _folded(top) in photos:
        raise DataError(
            f"{path} begins with {shown!r}: put a row with names of the columns above it, as in file,label."
        )
    if best is None:
        has = f"; the source has {next(iter(photos.values()))!r}" if photos else ""
        row = f", its first row {', '.join(next(iter(body)))[:200]!r}{has}" if body else ""
        wanted = f"{', '.join(FILE_COLUMNS[:-1])} or {FILE_COLUMNS[-1]}"
        raise DataError(f"{path}: the header is {shown!r}{row}; it must have a column that names the photos, {wanted}.")
    if same := [header[at] for at in worth if at != best and worth[at] == worth[best] and at not in said]:
        raise DataError(f"{path}: columns {header[best]!r} and {same[0]!r} both name photos; call the right one file.")
    return best


def _band(text: str) -> str | None:
    """The age band of a text that says its two numbers otherwise, as `9-Mar` does for 3-9; None for any other."""
    if text in AGE_BAND.classes:
        return None
    words = [word for word in re.findall(r"\d+|[^\W\d_]+", text) if word not in ("월", "일")]
    numbers = [_MONTHS.get(word.casefold(), word.lstrip("0") or "0") for word in words]
    return _BANDS.get(frozenset(numbers)) if len(numbers) == 2 else None


def unknown_label(labels: Mapping[str, str]) -> Problem | None:
    """The first label that its column does not know, or an unknown side; empty texts are missing labels and fine."""
    for column, known in KNOWN_LABELS.items():
        value = labels.get(column, "")
        if value and value not in known:
            hint = ""
            if column == "age" and any(map(str.isdecimal, value)):
                hint = "; ages in years belong in a column age_years, and a spreadsheet can make dates of bands"
            return Problem("unknown label", f"{column} is {value!r}, expected {', '.join(known)}{hint}")
    years = labels.get("age_years", "")
    if years and not (NUMBER.fullmatch(years) and 0 <= float(years) <= 130):
        return Problem("unknown label", f"age_years is {years!r}, expected 0 to 130")
    split = labels.get("split", "")
    known_side = split in ("", *SPLITS)
    return None if known_side else Problem("unknown split", f"split is {split!r}, expected {', '.join(SPLITS)}")
