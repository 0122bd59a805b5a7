"""Answers of a model for photos: a row a face, and a row for every photo without one.

A group of photos is answered at a time, and written down before the next one begins: a run that was stopped goes on
behind the last whole group, and ends in the same file. No crop and no embedding is kept.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.answers.faces import Cut, Found, Photos, Way, cut_for, found, listed, same_cut
from facekit.data.readers.decode import decoder
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError, OutputError
from facekit.files import alone, atomic_path, may_replace, pasted_path, told, writing
from facekit.models.backbones.base import Backbone
from facekit.models.build import BACKBONES
from facekit.models.embedding import Embedder
from facekit.show.boxes import labelled
from facekit.tasks import Task

FACE = ("file", "face", "left", "top", "right", "bottom", "confidence")
REASON = "reason"
GROUP, MOST_FACES = 64, 256  # photos, or faces, after which a group is answered and written down
PICTURES = "[0-9]*.answers.jpg"
FORMAT = 1  # raise it when the same photos and the same model give other rows
Outputs = dict[str, torch.Tensor]
Row = list[Any]


class Answering(Protocol):
    """What is asked of a model; see `facekit.answers.model.Model`, which is one."""

    @property
    def folder(self) -> Path: ...
    @property
    def tasks(self) -> tuple[Task, ...]: ...
    @property
    def device(self) -> str | None: ...
    @property
    def about(self) -> dict[str, Any]: ...
    @property
    def learnt_from(self) -> dict[str, Any]: ...
    def check_domain(self) -> None: ...
    def outputs(self, data: FaceSet | FeatureSet) -> Outputs: ...
    def batches(self, data: FaceSet | FeatureSet) -> Iterator[tuple[slice, Outputs]]: ...
    def calibrated(self, outputs: Outputs) -> Outputs: ...


@dataclass(frozen=True, eq=False)
class Pipeline:
    """From a photo to the outputs of a network: faces are found and cut, and embedded where it takes embeddings.

    cut: of the faces. network: from photos uint8 (N, 3, H, W), or embeddings, to raw outputs by task. embedder: of the
    photos, where the network takes embeddings.
    """

    cut: Cut
    network: Callable[[FaceSet | FeatureSet], Outputs]
    embedder: Embedder | None = None

    def outputs(self, crops: np.ndarray) -> Outputs:
        """Raw outputs of faces that are cut, uint8 (M, 3, H, W): task name to float32 (M, …) on the CPU."""
        faces = FaceSet(crops, pd.DataFrame({"split": ["test"] * len(crops)}))
        return self.network(self.embedder(faces) if self.embedder else faces)


class Answers:
    """A model's answers for some photos, group by group.

    model: one that answers for one domain. photos: a path (a photo, a folder, an archive, a packed set), a set, or
    photos in memory. faces: how they are cut, see `faces.cut_for`; of packed photos `as_trained` takes them as they
    are. backbone: what embeds the photos for a model of embeddings (`facenet`, `mini`), by default the network that
    its embeddings were made with. notes: what is to be said of them.

    Raises ConfigError where it is not known how faces are to be cut or embedded, DataError without anything to read,
    WeightsError where the network that embeds has no weights here.
    """

    def __init__(
        self, model: Answering, photos: Photos, faces: Way = "as_trained", backbone: str | None = None
    ) -> None:
        model.check_domain()
        self.model, self.listed, self.faces, self.named = model, listed(photos), faces, backbone
        self.place = pasted_path(photos) if isinstance(photos, str | Path) else None
        self.columns, self._columns = _columns(model.tasks)
        self.notes: list[str] = []
        entry, packed = model.learnt_from, self.listed.packed
        self._ready = isinstance(packed, FeatureSet)  # there is nothing to find
        if packed is not None and not same_cut(entry, packed):
            self.notes.append(
                "these photos were packed otherwise than those that the model learnt from (see pack --align)"
            )
        if self._ready:
            if faces != "as_trained" or backbone:
                raise ConfigError("these are embeddings: no face is looked for in them, and nothing embeds them.")
            return
        embedder = None
        if entry["input"]["kind"] != FaceSet.kind:
            embedder = embedder_for(entry["framing"], backbone, model.folder, model.device)
        elif backbone:
            raise ConfigError(f"{model.folder} takes photos, so nothing embeds them; leave out the backbone.")
        usual = embedder.backbone.image_size if embedder else 160
        if isinstance(packed, FaceSet) and faces == "as_trained":
            faces = "cropped"
        cut = cut_for(entry, faces, usual, model.folder, model.device)
        if isinstance(packed, FaceSet) and cut.whole:
            height, width = packed.images.shape[2:]
            cut = Cut(height, width, whole=True)
        self._pipeline = Pipeline(cut, model.outputs, embedder)

    def request(self) -> dict[str, Any]:
        """What decides the rows, for the same machine."""
        about = self.model.about
        return {
            "facekit": "predict",
            "format": FORMAT,
            "model": about["sha256"],
            "set": self.model.learnt_from["name"],
            "photos": self.listed.fingerprint(),
            "faces": self.faces,
            "backbone": self.named,
            "decoder": decoder(),
        }

    def groups(
        self, skip: int = 0, pictures: bool = False, progress: bool = True
    ) -> Iterator[tuple[list[Row], list[Found]]]:
        """The rows of one group of photos after another, without the first `skip` photos, and what was found in them.

        skip: where a group ended. Rows have the columns `columns`, with None for what there is not.
        """
        bar = settings.progress(total=self.listed.total, desc="photos answered", unit="photo", hidden=not progress)
        with bar:
            bar.update(skip)
            for rows, group in self._embeddings(skip) if self._ready else self._photos(skip, pictures):
                yield rows, group
                bar.update(len(group))

    def _photos(self, skip: int, pictures: bool) -> Iterator[tuple[list[Row], list[Found]]]:
        group: list[Found] = []
        for each in found(self.listed, self._pipeline.cut, skip, pictures):
            group.append(each)
            if len(group) == GROUP or sum(len(one.crops) for one in group) >= MOST_FACES:
                yield self._rows(group), group
                group = []
        if group:
            yield self._rows(group), group

    def _embeddings(self, skip: int) -> Iterator[tuple[list[Row], list[Found]]]:
        data = self.listed.packed
        assert data is not None
        files = [sample.name for sample in self.listed.entries(len(data))]
        nothing = np.empty((0, 0, 0, 0), np.uint8)
        for rows, outputs in self.model.batches(data.select(range(skip, len(data)))) if skip < len(data) else ():
            group = [Found(name, nothing, [(None,) * 5]) for name in files[skip + rows.start : skip + rows.stop]]
            yield self._joined(group, self._said(outputs)), group

    def _rows(self, group: Sequence[Found]) -> list[Row]:
        crops = [each.crops for each in group if len(each.crops)]
        return self._joined(group, self._said(self._pipeline.outputs(np.concatenate(crops))) if crops else [])

    def _joined(self, group: Sequence[Found], said: Sequence[Row]) -> list[Row]:
        """The rows of photos and of the answers for their faces, in order."""
        rows, answers = [], iter(said)
        for each in group:
            for number, (*box, confidence) in enumerate(each.boxes, 1):
                place = [*(_rounded(side, 1) for side in box), _rounded(confidence, 4)]
                rows.append([each.file, number, *place, *next(answers), ""])
            if not each.boxes:
                rows.append([each.file, *[None] * (len(self.columns) - 2), each.reason])
        return rows

    def _said(self, outputs: Outputs) -> list[Row]:
        """The answers of every face, in the order of the columns."""
        probabilities = self.model.calibrated(outputs)
        table: dict[str, list] = {}
        for task in self.model.tasks:
            if not outputs[task.name].isfinite().all():
                raise DataError(f"{self.model.folder}: its outputs for {task.name!r} are not finite; train it again.")
            decoded = task.decode(task.predict(outputs[task.name]))
            table |= {column: [_short(value) for value in values] for column, values in decoded.items()}
            if task.name in probabilities:
                shares, places = probabilities[task.name].topk(2, 1)
                first, second = ([task.classes[place] for place in each] for each in places.T.tolist())
                table |= {} if task.argmax else {f"{task.name}_class": first}
                one, other = ([round(share, 4) for share in each] for each in shares.T.tolist())
                names = ("probability", "second", "second_probability")
                table |= {f"{task.name}_{name}": each for name, each in zip(names, (one, second, other), strict=True)}
        return [list(row) for row in zip(*(table[name] for name in self._columns), strict=True)]

    def frame(self, rows: Sequence[Row]) -> pd.DataFrame:
        """Rows as a table; what there is not is missing, numbers are numbers."""
        table = pd.DataFrame(rows, columns=list(self.columns), dtype=object)
        numbers = [name for name in table if pd.api.types.infer_dtype(table[name], skipna=True) == "floating"]
        table = table.astype({name: float for name in {*numbers, *FACE[2:]}} | {"face": "Int64"})
        return table.where(table.notna(), np.nan) if len(table) else table


def embedder_for(framing: Mapping[str, Any], backbone: str | None, named: object, device: str | None) -> Embedder:
    """What embeds photos as those were embedded that a model learnt from; raises ConfigError where nobody knows how."""
    known = {kind.name: key for key, kind in BACKBONES.items()} | {key: key for key in BACKBONES}
    said = backbone or framing.get("backbone")
    if said not in known:
        what = f"were made by {said!r}" if said else "were made by a network that it does not name"
        raise ConfigError(
            f"{named} takes embeddings, and its own {what}; name it: --backbone {' or '.join(BACKBONES)}."
        )
    how = framing.get("embedded") or {"flip": framing.get("how") == "drawn embeddings"}
    network: Backbone = BACKBONES[known[said]].from_pretrained()
    size = how.get("size") if known.get(framing.get("backbone") or "") == known[said] else None
    return Embedder(network, bool(how.get("flip")), size, how.get("stage"), device)


def _columns(tasks: Sequence[Task]) -> tuple[list[str], list[str]]:
    """The columns of the table, and what those of the answers are called before none has the name of another."""
    own: list[str] = []
    for task in tasks:
        own += task.columns
        if task.softmax:
            own += [f"{task.name}_class"] * (not task.argmax)
            own += [f"{task.name}_{name}" for name in ("probability", "second", "second_probability")]
    columns = list(FACE)
    for name in own:
        while name in columns or name == REASON:
            name += "_answer"
        columns.append(name)
    return [*columns, REASON], own


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(float(value), digits)


def _short(value: Any) -> Any:
    """A number with six figures, which is more than it is good for; anything else as it is."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


class Journal:
    """The rows so far of a run, in a file: a line a group, each with a seal over all that stands before it.

    path: of the file, made where there is none. request: see `Answers.request`; the rows of another one, and whatever
    follows a line that is not whole, are dropped. photos: how many are done. Raises OutputError for somebody else's
    file. To be used by one process at a time (`files.alone`).
    """

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        self.path, self.photos = path, 0
        self._seal, first = self._sealed("", json.dumps(request, sort_keys=True))
        self._file = open(path, "r+b")  # noqa: SIM115 see close
        begun = self._file.readline()
        if begun == first:
            whole = self._file.tell()
            while line := self._file.readline():
                text = line[65:-1].decode(errors="replace")
                seal, wanted = self._sealed(self._seal, text)
                if line != wanted:
                    break
                self._seal, self.photos, whole = seal, self.photos + json.loads(text)["photos"], self._file.tell()
            self._file.truncate(whole)
            self._file.seek(whole)
        else:
            self._file.seek(0)
            self._file.truncate()
            self._write(first)

    @staticmethod
    def _sealed(before: str, text: str) -> tuple[str, bytes]:
        """A seal, and the line that has it."""
        seal = hashlib.sha256(f"{before}\n{text}".encode()).hexdigest()
        return seal, f"{seal} {text}\n".encode()

    def _write(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()
        os.fsync(self._file.fileno())

    def append(self, photos: int, rows: Sequence[Row]) -> None:
        """Writes down the rows of a group of photos."""
        seal, line = self._sealed(self._seal, json.dumps({"photos": photos, "rows": rows}))
        self._write(line)
        self._seal, self.photos = seal, self.photos + photos

    def rows(self) -> Iterator[Row]:
        """All rows, group by group."""
        with open(self.path, "rb") as file:
            file.readline()
            for line in file:
                yield from json.loads(line[65:])["rows"]

    def close(self) -> None:
        """Closes the file, which stays."""
        self._file.close()


@dataclass(frozen=True)
class Written:
    """What a run has written. reasons: of the rows without a face, how often each. first: one of the files of each."""

    photos: int
    faces: int
    reasons: Counter[str]
    first: dict[str, str]


def write_answers(answers: Answers, out: Path, pictures: Path | None = None) -> Written:
    """Writes the table of answers to the CSV `out`, atomically, and pictures with boxes and answers into a folder.

    What is done is kept beside `out`, in a hidden file that ends in `.journal`, until the table stands: the same call
    goes on there, and ends in the same table. Raises OutputError where somebody else's file is in the way, another
    process writes the same table or the disk is full.
    """
    out = out.absolute()
    sign = ",".join(FACE).encode()
    if out.is_dir():
        raise OutputError(f"{out} is a folder; name the table that is to be written, as {out / 'answers.csv'}.")
    photos = answers.place
    if pictures is not None and photos is not None and pictures.absolute().is_relative_to(photos.absolute()):
        raise ConfigError(
            f"{pictures} lies in the folder of the photos, and would be read as some; name another folder."
        )
    journal_at = out.with_name(f".{out.name}.journal")
    request = answers.request() | {"pictures": None if pictures is None else os.fspath(pictures.absolute())}
    try:
        may_replace(out, sign)
        out.parent.mkdir(parents=True, exist_ok=True)
        _refuse_other(journal_at)
        with alone(journal_at), writing(pictures, PICTURES) if pictures else nullcontext() as folder:
            _refuse_other(journal_at)
            journal = Journal(journal_at, request)
            try:
                if folder and not journal.photos:
                    for old in folder.glob(PICTURES):
                        old.unlink()
                for rows, group in answers.groups(journal.photos, folder is not None):
                    if folder:
                        _draw(folder, journal.photos, group, rows, answers.columns)
                    journal.append(len(group), rows)
                if not journal.photos:
                    raise DataError("there is no photo; nothing was written.")
                with atomic_path(out) as path:
                    written = _write_table(path, answers.columns, journal)
            finally:
                journal.close()
                if not journal.photos:
                    journal_at.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                journal_at.unlink()
            return written
    except OSError as error:
        raise OutputError(
            f"the answers cannot be written: {told(error, out)}. What is done is kept, and the same command goes on "
            "there once that is mended."
        ) from None


def _refuse_other(journal: Path) -> None:
    """Raises OutputError where something else than a journal has its name."""
    if os.path.lexists(journal) and not (journal.is_file() and not journal.is_symlink() and _is_journal(journal)):
        may_replace(journal, b"\0 no file has this \0")


def _is_journal(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.readline(2**20)
    return not start or (start[64:65] == b" " and b'"facekit": "predict"' in start)


def _write_table(path: Path, columns: Sequence[str], journal: Journal) -> Written:
    photos, faces, reasons, first = 0, 0, Counter[str](), dict[str, str]()
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        for row in journal.rows():
            table.writerow(["" if value is None else value for value in row])
            photos += row[1] in (None, 1)
            faces += row[1] is not None
            if row[1] is None:
                reason = row[-1].partition(":")[0]
                reasons[reason] += 1
                first.setdefault(reason, row[0])
    return Written(photos, faces, reasons, first)


def _draw(folder: Path, done: int, group: Sequence[Found], rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Writes a picture of each photo that could be read, with a box and the answers for each face."""
    begin = 0
    for place, each in enumerate(group, done + 1):
        mine = rows[begin : begin + max(1, len(each.boxes))]
        begin += len(mine)
        if each.picture is None:
            continue
        boxes = [None if row[2] is None else tuple(side * each.scale for side in row[2:6]) for row in mine]
        texts = [_in_words(dict(zip(columns, row, strict=True))) for row in mine]
        name = re.sub(r"[^\w.-]+", "_", each.file)[-80:]
        with atomic_path(folder / f"{place:06d}-{name}.answers.jpg") as path, open(path, "wb") as file:
            labelled(each.picture, boxes, texts).save(file, "JPEG", quality=90)


def _in_words(row: Mapping[str, Any]) -> list[str]:
    """The answers for a face, a line each; the reason where there is none."""
    if row[REASON]:
        return [row[REASON].partition(":")[0]]
    lines = []
    for name in list(row)[len(FACE) : -1]:
        head, _, last = name.rpartition("_")
        if last in ("probability", "second", "class") and head in row or head.endswith("_second") or row[name] is None:
            continue
        share = row.get(f"{name}_probability")
        said = f"{row[name]:g}" if isinstance(row[name], float) else row[name]
        lines.append(f"{name} {said}" + (f" {share:.0%}" if share is not None else ""))
    return lines
