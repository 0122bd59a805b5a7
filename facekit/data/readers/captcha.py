"""Captchas (zip, tar or folder): the file name is the string that the picture shows."""

from __future__ import annotations

from pathlib import Path

from facekit.data.readers.archives import Problem, Sample
from facekit.data.readers.table import PhotoReader, Row
from facekit.data.sets import STRING
from facekit.errors import DataError

# The 19 symbols of the captcha set: none that is easily taken for another.
ALPHABET = "2345678bcdefgmnpwxy"


class CaptchaReader(PhotoReader):
    """Captchas (zip, tar or folder): 200 × 50 pixels, the file name is the string, five symbols of ALPHABET.

    A name with another number of symbols, or one outside the alphabet, is rejected and not guessed; so is an image of
    another size. Sides are 80 / 10 / 10 by content. Raises DataError for a source without images, or in which no name
    is a string.
    """

    kind = "captcha"
    columns = (STRING,)
    size = (50, 200)  # height, width
    photo_size = (200, 50)
    length = 5
    set_about = {
        "name": "captcha images v2",
        "licence": "none is stated",
        "labels": "the string, from the file name",
        "datasheet": "datasets/CAPTCHA.md",
        "alphabet": ALPHABET,
    }

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        super().__init__(path, labels)
        names = self.source.names(100)
        if not names:
            raise DataError(f"{path} holds no image; give the captchas as they come, in a zip, a tar or a folder.")
        if not any(map(is_string, names)):
            raise DataError(f"{path}: no file name is a string of {self.length} of {ALPHABET!r}; first: {names[0]!r}.")

    def labels_of(self, entry: Sample) -> dict[str, str] | Problem:
        read = read_name(entry.name)
        return read if isinstance(read, Problem) else {STRING: read}


def read_name(name: str) -> str | Problem:
    """The string of a captcha from its file name, or the reason why it is none."""
    text = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    if len(text) != CaptchaReader.length:
        return Problem("malformed name", f"{len(text)} symbols, a captcha has {CaptchaReader.length}")
    strange = next((place for place, symbol in enumerate(text) if symbol not in ALPHABET), None)
    if strange is not None:
        return Problem("unknown label", f"{text[strange]!r} at place {strange + 1} is none of {ALPHABET}")
    return text


def is_string(name: str) -> bool:
    """Whether a file name is the string of a captcha."""
    return isinstance(read_name(name), str)


ROW = Row("captcha", CaptchaReader, name_shows=is_string)
