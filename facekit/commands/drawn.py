"""`python -m facekit drawn …`: drawn pictures as a set on disk, and the contact sheet of the datasheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from facekit.data.drawn import RENDERERS, DomainName
from facekit.data.drawn.lesions import DIAGNOSES, render_lesions
from facekit.data.drawn.objects import THINGS, render_objects
from facekit.data.drawn.rendered import GAP, Row, render_into, write_sheet
from facekit.data.drawn.words import render_words
from facekit.data.sets import FaceSet

# Contact sheet: pictures in a row, and the side they are drawn in, in pixels.
COLUMNS, SIDE = 10, 72


def subcommands() -> dict[str, str]:
    """Name to function of every command of this group."""
    return {"render": "facekit.commands.drawn:render", "sheet": "facekit.commands.drawn:sheet"}


def render(domain: DomainName, dest: Path, n: int = 600, seed: int = 0) -> int:
    """Draws pictures of one domain into a folder that facekit reads: pixels, labels, splits, manifest.

    Args:
        domain: What is drawn: lesions, objects or words.
        dest: Folder for the set.
        n: How many pictures.
        seed: Other seeds give other pictures.

    Examples:
        python -m facekit drawn render words captchas --n 1000
    """
    drawn, splits = render_into(dest, lambda: RENDERERS[domain](n, seed))
    print(f"{dest}: {len(drawn)} {domain} ({splits})")
    return 0


def sheet(path: Path = Path("datasets/drawn/contact_sheet.png"), seed: int = 0) -> int:
    """Writes the contact sheet: a row for each kind of lesion, the ten things, and words.

    Args:
        path: The PNG to write.
        seed: Which pictures.

    Examples:
        python -m facekit drawn sheet
    """
    skin = render_lesions(200, seed, SIDE)
    kinds = [*DIAGNOSES, None]
    things = render_objects(200, seed, SIDE)
    words = render_words(3 * COLUMNS // 2, seed, size=(SIDE // 2, 2 * SIDE + GAP))
    rows = [(kind or "no lesion", _of(skin, "diagnosis", kind)) for kind in kinds]
    rows += [("things", np.concatenate([_of(things, "object", name, 1) for name in THINGS]))]
    rows += [("more of them", np.concatenate([_of(things, "object", name, 2)[1:] for name in THINGS]))]
    rows += [("words" if start == 0 else "", words.images[start : start + 5]) for start in range(0, len(words), 5)]
    shown: list[Row] = [(heading, images, []) for heading, images in rows]
    return write_sheet(path, shown, [skin, things, words], heading=18, foot=GAP, levels=16)


def _of(data: FaceSet, column: str, label: str | None, limit: int = COLUMNS) -> np.ndarray:
    """The first pictures with a label; without one for None."""
    values = data.labels[column]
    return data.images[np.flatnonzero(values.isna() if label is None else values == label)[:limit]]
