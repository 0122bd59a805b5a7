"""Packing: photos in a folder or an archive become a FaceSet on disk, decoded once and never again.

Files are read one after another, decoded and resized in a few threads (the image library releases the interpreter
lock), and appended in the source's order. Only a bounded number of photos is in memory; what grows with the source
is one hash and one label row for each photo. Every file that is not packed is named in the manifest with its reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from facekit import settings
from facekit.data.growing import UNFINISHED, GrowingSet, Outcome
from facekit.data.readers.archives import Problem, Sample, open_source
from facekit.data.readers.decode import Unusable, decode, decoder, quiet, resize
from facekit.data.readers.fairface import LABEL_FILES, label_files
from facekit.data.readers.folder import has_table
from facekit.data.readers.labels import NUMBER
from facekit.data.readers.table import Reader, readers
from facekit.data.sets import STORED, FaceSet, finish_set, read_manifest
from facekit.data.splits import split_by_content
from facekit.errors import ConfigError, DataError
from facekit.files import MARKER, pasted_path, refuse_others, told, writing
from facekit.settings import cores

FOUND = "photo files in the source, plus label rows that stand for no photo of their own; packed + rejected"
# A task for a thread: enough photos that handing it over costs nothing, few enough bytes that several fit in memory.
_TASK_PHOTOS = 32
_TASK_BYTES = 8 * 2**20
_TASKS_AHEAD = 2
_BYTES_AHEAD = 256 * 2**20

Decoded = tuple[str, np.ndarray | Problem]
Made = TypeVar("Made")


def pack(
    source: Path,
    dest: Path,
    size: int | Sequence[int] | None = None,
    kind: str = "auto",
    labels: Path | None = None,
    align: bool = False,
    workers: int | None = None,
    numbers: Sequence[str] = (),
    classes: Sequence[str] = (),
) -> FaceSet:
    """Packs photos with their labels into a FaceSet at `dest` and returns it, memory-mapped.

    source: FairFace's zip, UTKFace's tar, any zip or tar, or a folder. size: side in pixels, or (height, width); the
    whole photo is resized to it with Lanczos. By default 160 for faces, and for other things the size that their set
    has. kind: the reader; `auto` goes by label files and file names. labels: the label table or its folder, where it
    does not stand beside the photos. align: crop the largest face that MTCNN finds
    (photos without one are rejected) instead of taking the whole photo. workers: decoding threads, by default one for
    each core. numbers, classes: label columns that hold numbers (photos with another text there are rejected), and that
    do not; what nobody says is as the reader finds it, and stands in the manifest under `columns`.

    Splits: FairFace's official validation photos are `test`, a twentieth of its training photos `validation`; other
    sources go by content 80/10/10 unless their table has a column `split`. Of photos with the same bytes only the
    first is packed. A run that was interrupted is continued by the same call and ends in the same bytes. A complete
    set of the same request is returned as it is. Raises DataError if the source is missing or damaged, nothing
    could be packed, the disk is full, or `dest` holds another set or is the folder of the photos; OutputError if
    another process writes `dest`, or if somebody else's files are in the way there.
    """
    source, dest = pasted_path(source), pasted_path(dest)
    labels = None if labels is None else pasted_path(labels)
    if workers is not None and workers < 1:
        raise ConfigError(f"workers is {workers}; it must be at least 1.")
    try:
        reader = make_reader(source, kind, labels)
        size, (height, width) = _shape(reader.size if size is None else size)
        if align and height != width:
            raise ConfigError(f"faces are aligned in squares; {size} is none.")
        request: dict = {
            "source": reader.fingerprint(),
            "kind": reader.kind,
            "size": size,
            "align": align,
            "decoder": decoder(),
        }
        said = {"numbers": sorted(set(numbers)), "classes": sorted(set(classes))}
        request |= {name: columns for name, columns in said.items() if columns}
        measured = _numbers(reader, numbers, classes)
        refuse_others(dest, STORED)
        if (dest / "manifest.json").exists():
            if read_manifest(dest).get("request") != request:
                raise DataError(f"{dest} holds a set of other photos or settings; delete it or choose another folder.")
            if any((dest / name).exists() for name in (MARKER, *UNFINISHED)):  # killed when all was done but for this
                with writing(dest, *UNFINISHED):
                    for name in UNFINISHED:
                        (dest / name).unlink(missing_ok=True)
            return FaceSet.load(dest)
        if source.is_dir() and dest.is_dir() and source.samefile(dest):
            raise DataError(f"{dest} is the folder of the photos; name another folder for the set.")
        with (
            writing(dest, *STORED, *UNFINISHED),
            GrowingSet(dest, (3, height, width), request, reader.total) as growing,
            quiet(),
        ):
            return _fill(growing, reader, request, dest, (height, width), workers or cores(), measured)
    except OSError as error:
        raise DataError(
            f"packing stopped, {told(error, dest)}. No set was made; what is done is kept, and the same command "
            "continues there once that is mended."
        ) from None


def _shape(size: int | Sequence[int]) -> tuple[int | list[int], tuple[int, int]]:
    """A size as the request names it (one number for a square), and its height and width."""
    sides = (size, size) if isinstance(size, int | np.integer) else tuple(size)
    if len(sides) != 2 or min(sides) < 1:
        raise ConfigError(f"size is {size}; use a number of pixels, at least 1, or a height and a width.")
    height, width = map(int, sides)
    return (height if height == width else [height, width]), (height, width)


def _numbers(reader: Reader, numbers: Sequence[str], classes: Sequence[str]) -> list[str]:
    """The label columns that hold numbers; raises ConfigError for one that is not there, or said to be both."""
    if unknown := sorted({*numbers, *classes} - {*reader.columns}):
        raise ConfigError(
            f"there is no label column {unknown[0]!r} to be numbers or classes; there are {', '.join(reader.columns)}."
        )
    if both := sorted({*numbers} & {*classes}):
        raise ConfigError(f"column {both[0]!r} holds numbers or classes, not both; name it once.")
    return sorted({*reader.numbers} & {*reader.columns} - {*classes} | {*numbers})


def make_reader(source: Path, kind: str = "auto", labels: Path | None = None) -> Reader:
    """The reader for a source; raises DataError if there is nothing to read, ConfigError for an unknown kind."""
    if not source.exists():
        raise DataError(f"{source} does not exist; give the folder, zip or tar with the photos.")
    if labels is not None and not labels.exists():
        raise DataError(f"{labels} does not exist; give the label table, or the folder that it is in.")
    if kind == "auto":
        kind = _kind_of(source, labels)
    if kind not in readers():
        raise ConfigError(f"unknown kind {kind!r}; use auto, {', '.join(readers())}.")
    return readers()[kind].reader(source, labels)


def _kind_of(source: Path, labels: Path | None) -> str:
    """The kind that a source shows; `folder`, which needs a label table, where it shows none.

    labels: a label table makes a source a `folder`, unless it is FairFace's own or the folder of these.
    """
    if labels is not None:
        official = labels.is_dir() or labels.name in LABEL_FILES
        return "fairface" if official and label_files(source, labels) else "folder"
    rows = readers().values()
    if kind := next((row.name for row in rows if row.path_shows and row.path_shows(source)), None):
        return kind
    names, table = open_source(source).names(50), has_table(source)
    return next((row.name for row in rows if (row.beside_table or not table) and row.shown_by(names)), "folder")


class _Ledger:
    """What was packed and what was rejected so far, in order."""

    def __init__(self, columns: tuple[str, ...], numbers: Sequence[str]) -> None:
        self._columns = columns
        self._numbers = numbers
        self._row_of: dict[bytes, int] = {}
        self.rows: list[tuple[str, tuple[str, ...], str | None]] = []  # file, labels, wanted split
        self._shared: dict[tuple[str, ...], tuple[str, ...]] = {}  # many rows have the same labels: kept once
        self.rejected: list[dict[str, str]] = []

    def judge(self, record: Sample, decoded: Decoded) -> Outcome:
        """The outcome of the next record: its own problem or the decoder's, a duplicate, or packed."""
        sha256, pixels = decoded
        if isinstance(pixels, Problem):
            return Outcome(record.name, problem=pixels)
        for column in self._numbers:
            if (text := record.labels.get(column)) and not NUMBER.fullmatch(text):
                return Outcome(
                    record.name, problem=Problem("unknown label", f"{column} is {text!r}, expected a number")
                )
        earlier = self._row_of.get(bytes.fromhex(sha256))
        if earlier is None:
            return Outcome(record.name, sha256)
        name, theirs, _ = self.rows[earlier]
        pairs = zip(self._columns, theirs, self._values(record), strict=True)
        differing = [column for column, one, other in pairs if one != other]
        conflict = f"; its labels differ in {', '.join(differing)}" if differing else ""
        return Outcome(record.name, problem=Problem("duplicate", f"same bytes as {name}{conflict}"))

    def enter(self, record: Sample, outcome: Outcome) -> None:
        """Books an outcome, of this run or of an earlier one."""
        if outcome.problem is not None:
            self.rejected.append({"file": record.name, **vars(outcome.problem)})
            return
        self._row_of[bytes.fromhex(outcome.sha256)] = len(self.rows)
        self.rows.append((record.name, self._values(record), record.split))

    def _values(self, record: Sample) -> tuple[str, ...]:
        values = tuple(record.labels.get(column, "") for column in self._columns)
        return self._shared.setdefault(values, values)

    def table(self, fractions: tuple[float, float, float]) -> pd.DataFrame:
        """Label rows in packing order, with the split: the wanted one, else by content."""
        by_content = split_by_content((digest.hex() for digest in self._row_of), fractions)
        table = pd.DataFrame([values for _, values, _ in self.rows], columns=list(self._columns))
        table.insert(0, "file", [name for name, _, _ in self.rows])
        table["split"] = [wanted or drawn for (_, _, wanted), drawn in zip(self.rows, by_content, strict=True)]
        return table


def _fill(
    growing: GrowingSet,
    reader: Reader,
    request: dict,
    dest: Path,
    size: tuple[int, int],
    workers: int,
    numbers: Sequence[str],
) -> FaceSet:
    """Runs the records through the decoders into the growing set, then finishes it."""
    align = request["align"]
    ledger = _Ledger(reader.columns, numbers)
    records = reader.records(skip=len(growing.done))
    for outcome in growing.done:
        record = next(records, None)
        if record is None or record.name != outcome.name:
            growing.discard()
            raise DataError(f"{dest} was begun with other photos than {reader.about['source']} has; run it again.")
        ledger.enter(record, outcome)
    with settings.progress(total=reader.total, desc="packing", unit="photo") as bar:
        bar.update(len(growing.done))
        for record, decoded in _decoded(records, size, align, workers):
            outcome = ledger.judge(record, decoded)
            ledger.enter(record, outcome)
            growing.append(outcome, None if outcome.problem or isinstance(decoded[1], Problem) else decoded[1])
            bar.update()
    counts = dict(sorted(Counter(rejection["reason"] for rejection in ledger.rejected).items()))
    if not ledger.rows:
        growing.discard()
        first = ledger.rejected[0] if ledger.rejected else {"file": "nothing", "reason": "no photo found", "detail": ""}
        raise DataError(
            f"nothing of {reader.about['source']} could be packed: {counts or 'no photo found'}. "
            f"First: {first['file']}: {first['reason']}, {first['detail']}."
        )
    growing.finish()
    about = {
        **reader.about,
        "reader": reader.kind,
        "request": request,
        "pixels": f"{'largest face found by MTCNN' if align else 'whole photo'}, {size[0]} × {size[1]}, Lanczos",
        "found": len(ledger.rows) + len(ledger.rejected),
        "found_means": FOUND,
        "packed": len(ledger.rows),
        "rejected_by_reason": counts,
        "rejected": ledger.rejected,
        "notes": list(reader.notes),
    }
    finish_set(dest, FaceSet.kind, ledger.table(reader.fractions), about, growing.sha256, numbers)
    growing.discard_journal()
    return FaceSet.load(dest, verify=False)


def _tasks(records: Iterable[Sample], photos: int = _TASK_PHOTOS) -> Iterator[list[Sample]]:
    """Records in groups bounded by number and by bytes."""
    group: list[Sample] = []
    held = 0
    for record in records:
        group.append(record)
        held += len(record.data or b"")
        if len(group) == photos or held >= _TASK_BYTES:
            yield group
            group, held = [], 0
    if group:
        yield group


def in_threads(
    records: Iterable[Sample], work: Callable[[Sample], Made], workers: int, photos: int = _TASK_PHOTOS
) -> Iterator[tuple[Sample, Made]]:
    """Records with what `work` makes of each, in order.

    A thread takes up to `photos` at a time. At most `workers` + `_TASKS_AHEAD` such groups are under way, fewer where
    their files are large.
    """

    def done(group: list[Sample]) -> list[tuple[Sample, Made]]:
        return [(record, work(record)) for record in group]

    waiting: deque[tuple[Future, int]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for group in _tasks(records, photos):
            waiting.append((pool.submit(done, group), sum(len(record.data or b"") for record in group)))
            while len(waiting) >= workers + _TASKS_AHEAD or sum(size for _, size in waiting) > _BYTES_AHEAD:
                yield from waiting.popleft()[0].result()
        while waiting:
            yield from waiting.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(
    records: Iterable[Sample], size: tuple[int, int], align: bool, workers: int
) -> Iterator[tuple[Sample, Decoded]]:
    """Records with decoded photos or problems, in order."""

    def work(record: Sample) -> Decoded:
        return ("", record.problem) if record.problem else _decode_one(record.data or b"", size, align)

    return in_threads(records, work, workers)


def _decode_one(data: bytes, size: tuple[int, int], align: bool) -> Decoded:
    """Hash of a file's bytes, and its pixels uint8 (3, *size) or the reason why there are none."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        if not align:
            return sha256, resize(decode(data, at_least=max(size)), *size)
        from facekit.data.align import align_faces  # the detector is loaded by those who ask for it

        crops, table = align_faces([decode(data)], size=size[0])
        return sha256, crops[0] if len(crops) else Problem("no face", str(table["reason"].iloc[0]))
    except Unusable as error:
        return sha256, error.problem
