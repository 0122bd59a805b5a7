"""Some of FairFace's photos, to take along to a machine that not all of them can be brought to."""

from __future__ import annotations

import csv
from pathlib import Path
from zipfile import ZipFile

import numpy as np

from facekit import settings
from facekit.data.pack import make_reader
from facekit.data.readers.fairface import COLUMNS, LABEL_FILES
from facekit.errors import ConfigError
from facekit.files import atomic_path, may_replace, pasted_path

ARCHIVE = "fairface-part.zip"
SIDES = ("train", "val")  # of the label files, in their order


def bench_part(
    source: Path | None = None, out: Path = Path("runs/part"), megabytes: float = 30.0, test: int = 1000
) -> int:
    """Writes some of FairFace's photos, byte for byte, with their rows of the label files into a folder for `gpu`.

    The official validation photos come first, up to `test` of them, then training photos as far as there is room; which
    ones is drawn, always the same. The photos are not made smaller: at 160 pixels and quality 90 they would take as
    many bytes as they do.

    Args:
        source: Folder with the official zip and label files, by default `fairface` in FACEKIT_DATA.
        out: Folder for the part; never commit it.
        megabytes: Room, in millions of bytes.
        test: Most official validation photos.

    Examples:
        python -m benchmarks part --source ~/photos/fairface --megabytes 30
    """
    if megabytes <= 0 or test < 1:
        raise ConfigError(f"megabytes must be above 0 and test 1 or more, got {megabytes} and {test}.")
    folder = pasted_path(source) if source is not None else (settings.data_dir() or Path()) / "fairface"
    reader = make_reader(folder, "fairface")
    known = [each for each in reader.records() if each.data and not each.problem]
    order = [known[i] for i in np.random.default_rng(0).permutation(len(known))]
    held = [each for each in order if each.split == "test"][:test]
    room, taken = megabytes * 1e6, []
    for each in [*held, *(each for each in order if each.split != "test")]:
        # A row of the label file, the name twice in the zip, and the zip's own bytes.
        room -= len(each.data or b"") + 3 * len(each.name) + 160
        if room < 0:
            break
        taken.append(each)
    out = pasted_path(out)
    with atomic_path(may_replace(out / ARCHIVE, b"PK")) as path, ZipFile(path, "w") as archive:
        for each in taken:
            archive.writestr(each.name, each.data or b"")
    for side, name in zip(SIDES, LABEL_FILES, strict=True):
        with (
            atomic_path(may_replace(out / name, b"file,age,gender")) as path,
            open(path, "w", encoding="utf-8", newline="") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(COLUMNS)
            table.writerows(
                [each.name, *(each.labels[column] for column in COLUMNS[1:])]
                for each in taken
                if each.name.startswith(f"{side}/")
            )
    size = sum(path.stat().st_size for path in out.iterdir() if path.name in (ARCHIVE, *LABEL_FILES))
    print(f"{len(taken):,} photos, {min(len(held), len(taken)):,} of them to test, {size / 1e6:.1f} MB in {out}")
    return 0
