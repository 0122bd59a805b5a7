"""`python -m facekit pack`: photos with their labels become a set on disk, decoded once."""

from __future__ import annotations

from pathlib import Path

from facekit.data import pack as packing


def pack(
    source: Path,
    dest: Path,
    size: int | list[int] | None = None,
    kind: str = "auto",
    labels: Path | None = None,
    align: bool = False,
    workers: int | None = None,
) -> int:
    """Packs photos with their labels into a folder that facekit reads: decoded once, split, every reject named.

    Args:
        source: FairFace's zip, UTKFace's tar, any zip or tar, a folder with photos, or DermaMNIST's npz.
        dest: Folder for the set; an interrupted packing is continued by the same command.
        size: Side in pixels, or '[height, width]'; by default 160 for faces, else the size that the set has.
        kind: Which reader (auto, fairface, utkface, folder, classes, isic, dermamnist, cifar10, captcha); auto goes by
            label files and file names.
        labels: CSV with the labels (or its folder) where it does not stand beside the photos.
        align: Crop the largest face that MTCNN finds instead of taking the whole photo.
        workers: Decoding threads; one for each core by default.

    Examples:
        python -m facekit pack photos/fairface packed/fairface-160
        python -m facekit pack photos.zip packed/mine --labels photos.csv --size 96
    """
    faces = packing.pack(source, dest, size, kind, labels, align, workers)
    about = faces.manifest
    splits = ", ".join(f"{count} {name}" for name, count in faces.labels["split"].value_counts(sort=True).items())
    print(f"{about['source']} ({about['reader']}): found {about['found']}, packed {about['packed']} ({splits})")
    for reason, count in about["rejected_by_reason"].items():
        print(f"  rejected {count}: {reason}")
    print(f"{dest}: {faces.images.nbytes / 2**20:,.0f} MiB, every reject with its reason in manifest.json")
    return 0
