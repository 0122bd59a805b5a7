"""A set of photos while it grows on disk: pixels appended to one file, and a journal of what is done with each file.

The journal is written after the pixels it speaks of, a line for each record, and a seal after every piece: a hash of
all lines and all pixels so far. A run that was killed leaves a journal that is true up to its last seal; the next run
compares the seals (it reads the pixels once, at one to two GB/s), cuts both files to the last one that is right, and
continues with the first record behind it. The order of records is fixed, so both ways end in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facekit.data.readers.archives import Problem

# The header of an .npy file names the number of rows, which is known last: its room is reserved at a fixed size.
HEADER_BYTES = 128
CHECKPOINT_ROWS = 512
UNFINISHED = (".pack.journal", ".pack.pixels")  # what lies in the folder while the set grows


@dataclass(frozen=True)
class Outcome:
    """What became of one record: packed (its content's sha256) or rejected (the problem)."""

    name: str
    sha256: str = ""
    problem: Problem | None = None

    def line(self) -> str:
        """One line of JSON."""
        became = vars(self.problem) if self.problem else {"sha256": self.sha256}
        return json.dumps({"name": self.name, **became}) + "\n"

    @staticmethod
    def parse(line: str) -> Outcome:
        """The inverse of `line`; ValueError or KeyError for anything else."""
        value = json.loads(line)
        if "sha256" in value:
            return Outcome(value["name"], value["sha256"])
        return Outcome(value["name"], problem=Problem(value["reason"], value["detail"]))


def npy_header(shape: tuple[int, ...]) -> bytes:
    """Header of an .npy file (format 1.0) with uint8 rows in C order, filled up to HEADER_BYTES."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": shape})
    room = HEADER_BYTES - 10
    return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + text.ljust(room - 1).encode() + b"\n"


class GrowingSet:
    """Writes rows of `row_shape` (uint8) to `folder`; continues where an interrupted run with this request stopped.

    request: what is packed and how; a journal of another request is discarded, and what of one was damaged or changed
    is made again. `done` holds the outcomes of the earlier run. expected: how many rows there will be if none is
    rejected; when that comes true, the file's hash is known without reading it again. Use as a context: leaving it
    closes the files, keeping what was journalled. That no other process writes the folder
    meanwhile is the caller's to see to (`files.writing`).
    """

    def __init__(self, folder: Path, row_shape: tuple[int, ...], request: dict, expected: int | None = None) -> None:
        self._folder = folder
        self._shape = row_shape
        self._row_bytes = int(np.prod(row_shape))
        self._pixel_path = folder / ".pack.pixels"
        self._journal_path = folder / ".pack.journal"
        folder.mkdir(parents=True, exist_ok=True)
        self._journal = open(self._journal_path, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 see __exit__
        self._expected = expected
        # The header comes first in the file and names the number of rows, so it has to be guessed to hash on the way.
        self._digest = hashlib.sha256(npy_header((expected or 0, *row_shape)))
        self._seal = ""
        try:
            self.done = self._recover(json.dumps(request, sort_keys=True))
            self.rows = sum(outcome.problem is None for outcome in self.done)
            self._pixels = open(self._pixel_path, "r+b")  # noqa: SIM115 closed by __exit__
        except BaseException:
            self._journal.close()
            raise
        self._pixels.truncate(HEADER_BYTES + self.rows * self._row_bytes)
        self._pixels.seek(0, os.SEEK_END)
        self._pending: list[str] = []
        self._syncing: Future | None = None
        self._sync_thread = ThreadPoolExecutor(1, thread_name_prefix="sync")

    def __enter__(self) -> GrowingSet:
        return self

    def __exit__(self, *_: object) -> None:
        self._sync_thread.shutdown()
        for file in (self._pixels, self._journal):
            with suppress(OSError):  # a full disk: what could not be flushed is not in the journal either
                file.close()

    def _recover(self, request: str) -> list[Outcome]:
        """The outcomes up to the journal's last seal that is right; leaves journal and pixel file consistent."""
        self._journal.seek(0)
        begun, *lines = self._journal.read().split("\n")
        if begun == request and not self._pixel_path.exists() and (self._folder / "inputs.npy").exists():
            # Killed after the pixels got their final name and before the manifest.
            os.replace(self._folder / "inputs.npy", self._pixel_path)
        if begun != request or not self._pixel_path.exists():
            lines = []
        kept: list[Outcome] = []
        sealed, piece = [request + "\n"], ""
        with open(self._pixel_path, "rb" if lines else "wb") as pixels:
            pixels.seek(HEADER_BYTES)
            for line in lines:
                if line.startswith("{"):
                    piece += line + "\n"
                    continue
                try:
                    outcomes = list(map(Outcome.parse, piece.splitlines()))
                except (ValueError, KeyError, TypeError, RecursionError):
                    break
                before = self._digest.copy()
                for outcome in outcomes:
                    if outcome.problem is None:
                        self._digest.update(pixels.read(self._row_bytes))
                if line != self._sealing(piece):
                    self._digest = before
                    break
                self._seal = line
                kept += outcomes
                sealed.append(f"{piece}{line}\n")
                piece = ""
        self._journal.seek(0)
        self._journal.truncate()
        self._journal.writelines(sealed)
        self._journal.flush()
        return kept

    def _sealing(self, piece: str) -> str:
        """The seal of the journal's next lines: a hash of them, of all pixels so far and of the seal before."""
        return hashlib.sha256(f"{self._seal}\n{piece}{self._digest.hexdigest()}".encode()).hexdigest()

    def append(self, outcome: Outcome, pixels: np.ndarray | None = None) -> None:
        """Adds the next outcome, with its row of pixels when it was packed."""
        if pixels is not None:
            self._pixels.write(pixels.data)
            self._digest.update(pixels.data)
            self.rows += 1
        self._pending.append(outcome.line())
        if len(self._pending) >= CHECKPOINT_ROWS:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Makes everything so far survive a kill: first the pixels, then the journal that speaks of them."""
        self._pixels.flush()
        if self._pending:
            piece = "".join(self._pending)
            self._seal = self._sealing(piece)
            self._journal.write(f"{piece}{self._seal}\n")
            self._journal.flush()
            self._pending.clear()
        # The disk works while the next photos are decoded; what it refuses is raised at the next checkpoint.
        if self._syncing is None or self._syncing.done():
            if self._syncing is not None:
                self._syncing.result()
            self._syncing = self._sync_thread.submit(os.fsync, self._pixels.fileno())

    @property
    def sha256(self) -> str | None:
        """Hash of the finished `inputs.npy`, None where it has to be read for that."""
        return self._digest.hexdigest() if self.rows == self._expected else None

    def finish(self) -> Path:
        """Writes the header, gives the pixels their final name `inputs.npy`, and returns it; the journal stays."""
        self.checkpoint()
        self._sync_thread.shutdown()
        self._pixels.seek(0)
        self._pixels.write(npy_header((self.rows, *self._shape)))
        self._pixels.flush()
        os.fsync(self._pixels.fileno())
        self._pixels.close()
        target = self._folder / "inputs.npy"
        os.replace(self._pixel_path, target)
        return target

    def discard_journal(self) -> None:
        """Removes the journal; to be called once the manifest stands."""
        self._journal.close()
        self._journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes everything that this run wrote."""
        self._sync_thread.shutdown()
        self._pixels.close()
        self._pixel_path.unlink(missing_ok=True)
        self.discard_journal()
