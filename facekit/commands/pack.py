"""`python -m facekit pack`: photos with their labels become a set on disk, decoded once."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from facekit.data import pack as packing
from facekit.data.readers.labels import NUMBER


def pack(
    source: Path,
    dest: Path,
    size: int | list[int] | None = None,
    kind: str = "auto",
    labels: Path | None = None,
    align: bool = False,
    workers: int | None = None,
    numbers: str | list[str] = "",
    classes: str | list[str] = "",
) -> int:
    """Packs photos with their labels into a folder that facekit reads: decoded once, split, every reject named.

    Args:
        source: FairFace's zip, UTKFace's tar, any zip or tar, a folder with photos, or DermaMNIST's npz.
        dest: Folder for the set; an interrupted packing is continued by the same command.
        size: Side in pixels, or '[height, width]'; by default 160 for faces, else the size that the set has.
        kind: Which reader (auto, fairface, utkface, folder, classes, isic, dermamnist, cifar10, captcha); auto goes by
            label files and file names.
        labels: Table with the labels (or its folder) where it does not stand beside the photos: a row for each photo, a
            column with its name, and any others; commas, semicolons or tabs, in UTF-8.
        align: Crop the largest face that MTCNN finds instead of taking the whole photo.
        workers: Decoding threads; one for each core by default.
        numbers: Label columns that hold numbers, separated by commas; photos with another text there are rejected.
        classes: Label columns that hold texts, each a class, even where they look like numbers.

    Examples:
        python -m facekit pack photos/fairface packed/fairface-160
        python -m facekit pack photos.zip packed/mine --labels photos.csv --size 96 --numbers weight
    """
    said = [part.split(",") if isinstance(part, str) else part for part in (numbers, classes)]
    numbers, classes = ([name.strip() for name in names if name.strip()] for names in said)
    faces = packing.pack(source, dest, size, kind, labels, align, workers, numbers, classes)
    about = faces.manifest
    splits = ", ".join(f"{count} {name}" for name, count in faces.labels["split"].value_counts(sort=True).items())
    print(f"{about['source']} ({about['reader']}): found {about['found']}, packed {about['packed']} ({splits})")
    first = {each["reason"]: each for each in reversed(about["rejected"])}
    for reason, count in about["rejected_by_reason"].items():
        detail = f" ({first[reason]['detail']})" if first[reason]["detail"] not in ("", reason) else ""
        print(f"  rejected {count}: {reason}, first {first[reason]['file']}{detail}")
    for name, column in faces.labels.items():
        if name not in ("file", "split"):
            print(f"  column {name if name.isprintable() else repr(name)}: {_contents(name, column)}")
    for note in about.get("notes", []):
        print(f"  note: {note}")
    print(f"{dest}: {faces.images.nbytes / 2**20:,.0f} MiB, every reject with its reason in manifest.json")
    return 0


def _contents(name: str, column: pd.Series) -> str:
    """What a label column holds, in a few words: its span, or its commonest texts."""
    known = column.dropna()
    missing = f", {len(column) - len(known)} empty" if len(known) < len(column) else ""
    if pd.api.types.is_numeric_dtype(column):
        return f"numbers, {known.min():g} to {known.max():g}{missing}" if len(known) else "numbers, all empty"
    texts = known.astype(str).value_counts()
    first = ", ".join(f"{text[:40]!r} {count}" for text, count in texts.head(5).items())
    more = f" and {len(texts) - 5} more" if len(texts) > 5 else ""
    numeric = len(texts) > 0 and all(map(NUMBER.fullmatch, texts.index))
    hint = f"; to learn them as numbers pack with --numbers {name}" if numeric else ""
    return f"{len(texts)} classes, {first}{more}{missing}{hint}"
