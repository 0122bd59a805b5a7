"""`python -m facekit portraits …`: portraits as a set on disk, and the contact sheet of the datasheet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from facekit.data.drawn.rendered import render_into, write_sheet
from facekit.data.portraits.render import render_portraits
from facekit.data.sets import FaceSet


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {"render": "facekit.commands.portraits:render", "sheet": "facekit.commands.portraits:sheet"}


# Contact sheet: pictures in a row, and their side in pixels.
COLUMNS, SIDE = 8, 128


def render(
    dest: Path,
    n: int = 1000,
    seed: int = 0,
    size: int = 160,
    style: Literal["photo", "sketch"] = "photo",
    attributes: dict | None = None,
    per_person: int = 4,
    workers: int | None = None,
) -> int:
    """Renders portraits into a folder that facekit reads: pixels, labels, splits, manifest.

    Args:
        dest: Folder for the set.
        n: How many portraits.
        seed: Other seeds give other people.
        size: Side of the square portraits in pixels.
        style: How they are painted.
        attributes: What to draw, for instance '{"gender": "Female", "age": {"20-29": 3, "60-69": 1}}'.
        per_person: Portraits of each person.
        workers: Processes; one for each core by default.

    Examples:
        python -m facekit portraits render faces --n 2000 --size 96
    """
    faces, splits = render_into(dest, lambda: render_portraits(n, seed, size, style, attributes, per_person, workers))
    print(f"{dest}: {len(faces)} portraits of {faces.labels['identity'].nunique()} people ({splits})")
    return 0


def sheet(path: Path = Path("datasets/portraits/contact_sheet.png"), seed: int = 0) -> int:
    """Writes the contact sheet: portraits in both styles with their labels.

    Args:
        path: The PNG to write.
        seed: Which people.

    Examples:
        python -m facekit portraits sheet
    """
    people = render_portraits(2 * COLUMNS, seed, SIDE, per_person=1)
    one = render_portraits(COLUMNS, seed=seed + 1, size=SIDE, per_person=COLUMNS)
    rows = [
        ("Eight people, style photo", people.select(range(COLUMNS))),
        ("The same eight, style sketch", render_portraits(COLUMNS, seed, SIDE, "sketch", per_person=1)),
        ("Eight more people", people.select(range(COLUMNS, 2 * COLUMNS))),
        ("One person, eight pictures", one),
    ]
    shown = [(heading, faces.images, [caption(faces, row) for row in range(COLUMNS)]) for heading, faces in rows]
    return write_sheet(path, shown, [faces for _, faces in rows], heading=20, foot=30, levels=32)


def caption(faces: FaceSet, row: int) -> str:
    """The labels of one portrait in two short lines."""
    label = faces.labels.iloc[row]
    glasses = ", glasses" if label["glasses"] == "yes" else ""
    return f"{label['gender']}, {label['age_years']:.0f}, tone {label['skin_tone']}\n{label['expression']}{glasses}"
