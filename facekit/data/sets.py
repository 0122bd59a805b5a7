"""Labelled inputs: FaceSet (photos, mostly of faces) and FeatureSet (embeddings), in memory and on disk.

On disk a set is a folder with `inputs.npy` (memory-mapped when read), `labels.csv` (one row per input, in order)
and `manifest.json` (size, sha256 of both files and of itself, licence, source, every rejected file with its reason).
The manifest is written last: a folder without one is not a set but the remains of an interrupted run.

`columns` in the manifest says of each label column whether it holds texts or numbers. A text comes back letter for
letter, whatever it looks like (`NA`, `001`, `True`); only an empty one is a missing label.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import numpy as np
import pandas as pd

from facekit import settings
from facekit.errors import DataError
from facekit.files import (
    atomic_path,
    json_sha256,
    read_json,
    sealed_json,
    sha256_of_file,
    write_json,
    writing,
    wrong_fields,
)
from facekit.tasks import SKIN_TONE, Task, encode_all

if TYPE_CHECKING:
    import torch  # inside the methods, too: making and storing a set must not wait for it

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
FORMAT = 1
STORED = ("inputs.npy", "labels.csv", "manifest.json")  # what a set on disk is written as
FILES = STORED[:2]
AGAIN = "delete the folder and make the set again."
STRING = "text"  # the label column with the string that a picture of text shows
COPIED = 2**30  # bytes of a selection from a memory-mapped set up to which it is copied into memory


class MappedRows(np.lib.mixins.NDArrayOperatorsMixin):
    """Rows (N, …) of a memory-mapped array, in any order, read when they are asked for.

    A row, or rows by a slice, indices or a mask, are read by themselves. Whatever else one does with an array, such as
    its mean, is done with a copy of all rows in memory.
    """

    def __init__(self, source: np.ndarray, rows: np.ndarray) -> None:
        self.source, self.rows = source, rows
        self.dtype, self.shape, self.ndim = source.dtype, (len(rows), *source.shape[1:]), source.ndim

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first is Ellipsis or first is None:
            return np.asarray(self)[key]
        found = np.asarray(self.source[self.rows[first]])
        return found[(*[slice(None)] * (found.ndim == self.ndim), *rest)] if rest else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.source[self.rows], dtype=dtype)

    def __array_ufunc__(self, function: np.ufunc, method: str, *inputs: Any, **how: Any) -> Any:
        arrays = [np.asarray(value) if isinstance(value, MappedRows) else value for value in inputs]
        return getattr(function, method)(*arrays, **how)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("source", "rows"):  # asked for while it is made or copied
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def _selected(inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rows of an array, copied, or still mapped where it is memory-mapped and they are many."""
    source, rows = (inputs.source, inputs.rows[rows]) if isinstance(inputs, MappedRows) else (inputs, rows)
    if isinstance(source, np.memmap) and len(rows) * source[:1].nbytes > COPIED:
        return cast(np.ndarray, MappedRows(source, rows))
    return source[rows]


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """Inputs (N, …) with a table of N label rows; the base of FaceSet and FeatureSet.

    inputs: array, possibly memory-mapped (or `MappedRows` of one); treat as read-only. labels: one row per input, index
    0 … N-1, missing labels allowed (NaN or None), column `split` with `train`, `validation` or `test`. manifest: where
    it comes from.
    """

    inputs: np.ndarray
    labels: pd.DataFrame
    manifest: dict = field(default_factory=dict)
    kind: ClassVar[str] = "labelled set"

    def __post_init__(self) -> None:
        if len(self.inputs) != len(self.labels):
            raise DataError(f"{len(self.inputs)} inputs but {len(self.labels)} label rows; they must match.")
        if "split" not in self.labels:
            raise DataError(f"the labels have no column 'split'; add one with {', '.join(SPLITS)}.")
        unknown = set(self.labels["split"].unique()) - set(SPLITS)
        if unknown:
            raise DataError(f"unknown split {sorted(map(str, unknown))}; use {', '.join(SPLITS)}.")
        object.__setattr__(self, "labels", self.labels.reset_index(drop=True))

    def __len__(self) -> int:
        return len(self.inputs)

    def select(self, rows: np.ndarray | Sequence[int]) -> Self:
        """The rows given by indices or by a boolean mask, as a new set.

        Inputs are copied; of a memory-mapped set more than 1 GiB of them stay where they are.
        """
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        return replace(self, inputs=_selected(self.inputs, rows), labels=self.labels.iloc[rows])

    def split(self, name: Split) -> Self:
        """The rows of one split; raises DataError if there is none."""
        mask = (self.labels["split"] == name).to_numpy()
        if not mask.any():
            raise DataError(f"this {self.kind} has no rows in split {name!r}.")
        return self.select(mask)

    def targets(self, tasks: Sequence[Task]) -> dict[str, torch.Tensor]:
        """Targets (N,) of every task, by task name (see `Task.encode`)."""
        return encode_all(tasks, self.labels)

    def content_hash(self) -> str:
        """Hex SHA-256 over dtype, shape and values of the inputs (not of the labels)."""
        digest = hashlib.sha256(f"{self.inputs.dtype} {self.inputs.shape}".encode())
        for start in range(0, len(self), 1024):
            digest.update(np.ascontiguousarray(self.inputs[start : start + 1024]).data)
        return digest.hexdigest()

    def save(self, folder: Path | str) -> Path:
        """Writes the set to `folder` (created), the manifest last; returns the folder.

        Raises OutputError where another process writes the folder, or files in it that are not of a set are in the way.
        """
        with writing(folder, *STORED) as folder:
            (folder / "manifest.json").unlink(missing_ok=True)
            # With w+ numpy writes through `write`, which says why it failed; with w that a number of bytes is missing.
            with atomic_path(folder / "inputs.npy") as path, open(path, "w+b") as file:
                np.save(file, self.inputs)
            finish_set(folder, self.kind, self.labels, self.manifest)
            return folder

    @classmethod
    def load(cls, folder: Path | str, verify: bool | None = None) -> Self:
        """Reads a stored set, memory-mapped, and compares its files with the checksums in its manifest.

        `labels.csv` is read for that at every load, `inputs.npy` only if it was not yet or has been written to since
        (see `has_sha256`): at 1 GB/s a core, 8 s for 100,000 photos of 160 pixels, once. What a disk changes by
        itself leaves no trace; verify: True reads the inputs in any case, False never, for who has just written them.

        Raises DataError if the folder is no complete set, of another kind, or does not match its manifest.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        if manifest["kind"] != cls.kind:
            raise DataError(f"{folder} holds a {manifest['kind']!r}, not a {cls.kind!r}.")
        for name, again in zip(FILES, (verify, True), strict=True):
            path, expected = folder / name, manifest["files"][name]
            try:
                size = path.stat().st_size
                same = size == expected["bytes"] and (again is False or has_sha256(path, expected["sha256"], again))
            except OSError as error:
                raise DataError(f"{path} cannot be read ({error.strerror or error}); {AGAIN}") from None
            if not same:
                raise DataError(f"{path} is not as it was written: its manifest has another size or sha256; {AGAIN}")
        try:
            inputs = np.lib.format.open_memmap(folder / "inputs.npy", mode="r")
            labels = read_labels(folder / "labels.csv", manifest.get("columns"))
            if manifest["rows"] != len(labels):
                raise DataError(f"its manifest speaks of {manifest['rows']} rows, its labels have {len(labels)}.")
            return cls(inputs, labels, manifest)
        # The bytes are what the manifest says, but who wrote that? The readers may raise anything, no bug of ours.
        except Exception as error:
            raise DataError(f"{folder} holds no {cls.kind} that can be read ({error}); {AGAIN}") from error


def read_labels(path: Path, columns: Mapping[str, str] | None) -> pd.DataFrame:
    """The label table of a set, by the kinds of its columns; None for a set that was stored before it named them."""
    if columns is not None:
        texts = {name: str for name, kind in columns.items() if kind == "text"}
        return pd.read_csv(
            path,
            header=0,
            names=list(columns),  # as they are: pandas would rename what has no name
            index_col=False,
            dtype=texts,
            keep_default_na=False,
            na_values=[""],
        )
    # Then texts that look like numbers are numbers, but for a few columns; and `NA` and the like are missing.
    labels = pd.read_csv(path, dtype=dict.fromkeys(("file", "identity", SKIN_TONE.name), str))
    if STRING in labels:  # what is written in a picture may be "nan" or "007"; only an empty text is missing
        strings = pd.read_csv(path, usecols=[STRING], dtype=str, keep_default_na=False)
        labels[STRING] = strings[STRING].replace("", np.nan)
    return labels


def _kind_of(column: pd.Series) -> str:
    """Whether a label column holds numbers or texts."""
    numbers = ("integer", "floating", "mixed-integer-float")
    return "number" if pd.api.types.infer_dtype(column, skipna=True) in numbers else "text"


def read_manifest(folder: Path) -> dict:
    """The manifest of a stored set; raises DataError with the remedy when it is missing or unreadable."""
    path = folder / "manifest.json"
    try:
        manifest = read_json(path, DataError, AGAIN, {"format": int})
    except FileNotFoundError:
        raise DataError(
            f"{folder} is not a complete set (no manifest.json); run `python -m facekit pack` again."
        ) from None
    if manifest["format"] != FORMAT:
        raise DataError(f"{path} has format {manifest['format']!r}, this facekit reads {FORMAT}; make the set again.")
    wrong = wrong_fields(manifest, {"kind": str, "rows": int, "files": dict})
    for name in () if wrong else FILES:
        wrong = wrong or wrong_fields(manifest["files"].get(name), {"bytes": int, "sha256": str})
    if not wrong and manifest.get("sha256", (found := json_sha256(manifest))) != found:  # sets of before have none
        wrong = "it was changed since it was written"
    if wrong:
        raise DataError(f"{path} is damaged ({wrong}); {AGAIN}")
    return manifest


def has_sha256(path: Path, sha256: str, again: bool | None = None) -> bool:
    """Whether a file's bytes have this SHA-256; what was found so is remembered in the user's cache.

    The file is read again once its size, inode, or time of the last change (which no program can set back) are others,
    or with `again`. A file that was changed in the last two seconds is read but not remembered, as the clocks of some
    disks are no finer. Raises OSError if it cannot be read.
    """
    now, found = time.time_ns(), path.stat()
    changed = (found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns)
    note = settings.cache_dir() / "checked" / hashlib.sha256(f"{sha256} {changed}".encode()).hexdigest()
    if not again and note.exists():
        return True
    if sha256_of_file(path) != sha256:
        return False
    if now - max(found.st_mtime_ns, found.st_ctime_ns) > 2e9:
        with suppress(OSError):  # it is only a note
            note.parent.mkdir(parents=True, exist_ok=True)
            note.touch()
    return True


def finish_set(
    folder: Path,
    kind: str,
    labels: pd.DataFrame,
    about: dict,
    inputs_sha256: str | None = None,
    numbers: Sequence[str] = (),
) -> dict:
    """Writes `labels.csv` and then the manifest beside an `inputs.npy` that is already whole.

    about: what the caller adds to the manifest (source, licence, rejected …). inputs_sha256: hash of `inputs.npy` from
    a writer that hashed on the way; without it the file is read once more. numbers: columns of texts that are to be
    read as numbers. Returns the manifest.
    """
    columns = {name: "number" if name in numbers else _kind_of(column) for name, column in labels.items()}
    with atomic_path(folder / "labels.csv") as path:
        labels.to_csv(path, index=False, lineterminator="\r\n")  # only so a carriage return in a text is quoted
    known = dict(zip(FILES, (inputs_sha256, None), strict=True))
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256 or sha256_of_file(folder / name)}
        for name, sha256 in known.items()
    }
    manifest = {
        **about,
        "columns": columns,
        "format": FORMAT,
        "kind": kind,
        "rows": len(labels),
        "files": files,
    }
    manifest = sealed_json(manifest)
    write_json(folder / "manifest.json", manifest)
    return manifest


@dataclass(frozen=True, eq=False)
class FaceSet(LabelledSet):
    """Photos, of faces or of whatever a reader takes: `images` uint8 (N, 3, H, W), RGB, with their labels."""

    kind: ClassVar[str] = "face set"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs.dtype != np.uint8 or self.inputs.ndim != 4 or self.inputs.shape[1] != 3:
            raise DataError(f"images must be uint8 (N, 3, H, W), got {self.inputs.dtype} {self.inputs.shape}.")

    @property
    def images(self) -> np.ndarray:
        """uint8 (N, 3, H, W)."""
        return self.inputs

    def resized(self, size: int | tuple[int, int]) -> FaceSet:
        """The same photos at `size` × `size` pixels, or at `size` = (height, width); antialiased bilinear.

        A side ratio is not kept. The set itself is returned where nothing changes.
        """
        height, width = (size, size) if isinstance(size, int | np.integer) else size
        if self.images.shape[2:] == (height, width):
            return self
        import torch
        import torch.nn.functional as F

        pixels = np.empty((len(self), 3, height, width), np.uint8)
        for start in range(0, len(self), 256):
            part = torch.from_numpy(np.array(self.images[start : start + 256]))  # a copy: the set may be read-only
            part = F.interpolate(part.float(), size=(height, width), mode="bilinear", antialias=True)
            pixels[start : start + 256] = part.round_().clamp_(0, 255).to(torch.uint8).numpy()
        return replace(self, inputs=pixels)


@dataclass(frozen=True, eq=False)
class FeatureSet(LabelledSet):
    """Embeddings of faces: `features` floating point (N, D), with their labels."""

    kind: ClassVar[str] = "feature set"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs.dtype.kind != "f" or self.inputs.ndim != 2:
            raise DataError(f"features must be floating point (N, D), got {self.inputs.dtype} {self.inputs.shape}.")

    @property
    def features(self) -> np.ndarray:
        """float (N, D)."""
        return self.inputs
