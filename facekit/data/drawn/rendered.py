"""What the commands that render sets share: a new set is written whole or not at all, and so is a contact sheet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from facekit.data.sets import FaceSet
from facekit.errors import DataError
from facekit.files import atomic_path


def render_into(dest: Path, render: Callable[[], FaceSet]) -> tuple[FaceSet, str]:
    """Writes what `render` returns to a new folder; the set, and how many pictures each split has, as text.

    Raises DataError, before anything is rendered, for a folder that holds a set already, and for one that cannot be
    written.
    """
    if (dest / "manifest.json").exists():
        raise DataError(f"{dest} already holds a set; delete it or choose another folder.")
    rendered = render()
    try:
        rendered.save(dest)
    except OSError as error:
        raise DataError(f"{error.filename or dest}: {error.strerror or error}. No set was made.") from None
    return rendered, ", ".join(f"{count} {name}" for name, count in rendered.labels["split"].value_counts().items())


def write_sheet(image: Image.Image, content: str, path: Path) -> int:
    """Writes a contact sheet as PNG, with `content` as its text `Content`, and says so; returns 0.

    Raises DataError where it cannot be written.
    """
    about = PngInfo()
    about.add_text("Content", content)
    try:
        with atomic_path(path) as temporary:
            image.save(temporary, format="PNG", optimize=True, pnginfo=about)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}.") from None
    print(f"{path}: {image.width} × {image.height} pixels, {path.stat().st_size / 1e3:,.0f} kB")
    return 0
