"""Captchas (zip, tar or folder): the file name is the string that the picture shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from facekit.data.readers.archives import Entry, Problem, open_source
from facekit.data.readers.classes import FOLDERS_ONLY
from facekit.data.readers.decode import other_size
from facekit.data.readers.table import Row, Sample
from facekit.data.sets import STRING
from facekit.errors import DataError

# The 19 symbols of the captcha set: none that is easily taken for another.
ALPHABET = "2345678bcdefgmnpwxy"


class CaptchaReader:
    """Captchas (zip, tar or folder): 200 × 50 pixels, the file name is the string, five symbols of ALPHABET.

    A name with another number of symbols, or one outside the alphabet, is rejected and not guessed; so is an image of
    another size. Sides are 80 / 10 / 10 by content. Raises DataError for a source without images, or in which no name
    is a string.
    """

    kind = "captcha"
    columns = (STRING,)
    fractions = (0.8, 0.1, 0.1)
    size = (50, 200)  # height, width
    length = 5

    def __init__(self, path: Path, labels: Path | None = None) -> None:
        if labels is not None:
            raise DataError(f"{labels}: {FOLDERS_ONLY}")
        self._source = open_source(Path(path))
        self.total = self._source.total
        names = self._source.names(100)
        if not names:
            raise DataError(f"{path} holds no image; give the captchas as they come, in a zip, a tar or a folder.")
        if all(isinstance(read_name(name), Problem) for name in names):
            raise DataError(f"{path}: no file name is a string of {self.length} of {ALPHABET!r}; first: {names[0]!r}.")
        self.about = {
            "name": "captcha images v2",
            "licence": "none is stated",
            "labels": "the string, from the file name",
            "datasheet": "datasets/CAPTCHA.md",
            "alphabet": ALPHABET,
            "source": self._source.path.name,
        }

    def fingerprint(self) -> str:
        """Changes when the images do."""
        return self._source.fingerprint()

    def records(self, skip: int = 0) -> Iterator[Sample]:
        """One record for each image."""
        for entry in self._source.entries(skip):
            read = read_name(entry.name)
            problem = self._problem(entry, read)
            labels = {} if isinstance(read, Problem) else {STRING: read}
            yield Sample(entry.name, problem=problem) if problem else Sample(entry.name, entry.data, labels)

    def _problem(self, entry: Entry, read: str | Problem) -> Problem | None:
        problem = entry.problem or (read if isinstance(read, Problem) else None)
        if problem is not None:
            return problem
        return other_size(entry.data, self.size[::-1]) if entry.data is not None else None


def read_name(name: str) -> str | Problem:
    """The string of a captcha from its file name, or the reason why it is none."""
    text = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    if len(text) != CaptchaReader.length:
        return Problem("malformed name", f"{len(text)} symbols, a captcha has {CaptchaReader.length}")
    strange = next((place for place, symbol in enumerate(text) if symbol not in ALPHABET), None)
    if strange is not None:
        return Problem("unknown label", f"{text[strange]!r} at place {strange + 1} is none of {ALPHABET}")
    return text


def looks_like_captcha(names: list[str]) -> bool:
    """Whether at least half of these file names are strings of captchas."""
    return bool(names) and sum(isinstance(read_name(name), str) for name in names) * 2 >= len(names)


ROW = Row("captcha", CaptchaReader, names_show=looks_like_captcha)
