"""What lesson 15 does around a folder of photos and a table: it writes one as people do, runs commands, hands in."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facekit.answers import card as cards
from facekit.answers import report
from facekit.answers.evaluate import Evaluation
from facekit.answers.words import plain
from facekit.commands import cli
from facekit.commands.train import task_of
from facekit.course.exercises import is_missing
from facekit.data.readers.decode import as_file
from facekit.data.readers.folder import FolderReader
from facekit.data.sets import SPLITS, FaceSet
from facekit.data.splits import split_by_content
from facekit.errors import FacekitError, LessonError
from facekit.files import atomic_path, writing
from facekit.models.backbones.base import Backbone
from facekit.models.build import BACKBONES
from facekit.show import plots
from facekit.tasks import Task

PAGE, CARD = "project.html", "model_card.md"
# How a spreadsheet writes two of the age bands: it takes them for days.
AS_DATES = {"3-9": "9-Mar", "10-19": "19-Oct"}


# --- photos and a table as people have them --------------------------------------------------------------------------


def written(faces: FaceSet, home: Path, columns: Sequence[str] = ("gender", "age"), seed: int = 0) -> tuple[Path, Path]:
    """Writes faces into `home/photos` and a table `home/labels.csv`, with what goes wrong where people do this by hand.

    The table has semicolons, a mark at its beginning, and columns photo, gender and age. Some labels are missing, some
    ages have become dates, some names have lost their suffix (all of which `pack` reads); three genders are spelt
    otherwise, two rows have no photo, four photos no row, one photo is there twice under other labels, one of a row is
    broken, one was saved again a little brighter. Raises LessonError for fewer than 40 faces.
    """
    if len(faces) < 40:
        raise LessonError(f"{len(faces)} faces are too few for a folder in which so much goes wrong; give 40 or more.")
    folder, rng = home / "photos", np.random.default_rng(seed)
    folder.mkdir(parents=True)
    if home.parent == Path(tempfile.gettempdir()) and home.name.startswith(tempfile.gettempprefix()):
        atexit.register(shutil.rmtree, home, ignore_errors=True)  # as `mkdtemp` made it: it goes with the kernel
    names = [f"IMG_{number:04d}.bmp" for number in range(1, len(faces) + 1)]
    pixels = [np.ascontiguousarray(image.transpose(1, 2, 0)) for image in faces.images]
    files = {name: as_file(image) for name, image in zip(names, pixels, strict=True)}
    odd = rng.permutation(len(faces))
    spelt, alone, (broken, copied, brighter) = odd[:3], odd[3:7], odd[7:10]
    table = faces.labels[list(columns)].astype(object).where(lambda labels: labels.notna(), "")
    table.insert(0, "photo", names)
    for column in columns:
        table.loc[rng.random(len(table)) < 0.03, column] = ""
    as_date = rng.random(len(table)) < 0.3
    table["age"] = table["age"].where(~as_date, table["age"].replace(AS_DATES))
    table.loc[spelt, "gender"] = ["female", "m", "?"]
    files[names[broken]] = files[names[broken]][:2000]
    files["copy of " + names[copied]] = files[names[copied]]
    files["edited " + names[brighter]] = _edited(pixels[brighter])
    more = table.loc[[copied, brighter]].assign(photo=["copy of " + names[copied], "edited " + names[brighter]])
    more.loc[copied, "age"] = "30-39" if more.loc[copied, "age"] != "30-39" else "40-49"
    lost = table.iloc[:2].assign(photo=["IMG_9998.bmp", "IMG_9999.bmp"])
    table = pd.concat([table.drop(index=alone), more, lost], ignore_index=True)
    bare = table["photo"].str.startswith("IMG") & (rng.random(len(table)) < 0.05)
    table["photo"] = table["photo"].where(~bare, table["photo"].str.removesuffix(".bmp"))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    rows = table.to_csv(index=False, sep=";", lineterminator="\r\n")
    (home / "labels.csv").write_bytes(rows.encode("utf-8-sig"))
    return folder, home / "labels.csv"


def _edited(photo: np.ndarray) -> bytes:
    """The photo a little brighter: by so much that `pack`, which goes by content, puts it on another side."""

    def side(content: bytes) -> str:
        return split_by_content([hashlib.sha256(content).hexdigest()], FolderReader.fractions)[0]

    ways = (as_file(np.clip(photo * (1 + much / 100), 0, 255).astype(np.uint8)) for much in range(5, 60))
    return next(content for content in ways if side(content) != side(as_file(photo)))


# --- commands, and what they leave -----------------------------------------------------------------------------------


def run(home: Path, command: str, *words: object) -> None:
    """Runs `python -m facekit COMMAND …` in the folder `home`, which a first line shows as it would be typed there.

    Raises the error that the command would print, such as DataError.
    """
    shown = [str(_seen_from(home, word) if isinstance(word, Path) else word) for word in words]
    print("$ python -m facekit", command, *shown)
    with contextlib.chdir(home):
        cli.run(cli.load(f"facekit.commands.{command}:{command}"), shown, f"{cli.PROGRAM} {command}")


def _seen_from(home: Path, path: Path) -> Path:
    return path.relative_to(home) if path.is_relative_to(home) else path.resolve()


def opened(folder: Path, columns: Sequence[str]) -> tuple[FaceSet, list[Task]]:
    """A packed set and the tasks of its label columns; raises LessonError for a column of numbers."""
    faces = FaceSet.load(folder)
    tasks = [task_of(name, faces) for name in columns]
    if numbers := [task.name for task in tasks if not task.argmax]:
        raise LessonError(f"column {numbers[0]!r} is a number; this lesson is about classes. Cut it into bands.")
    return faces, tasks


def key_of(network: Backbone) -> str:
    """The name by which `train --backbone` knows a network; raises LessonError for one that it does not know."""
    for key, kind in BACKBONES.items():
        if type(network) is kind:
            return key
    raise LessonError(f"train has no network {network.name!r}; it has {BACKBONES.told()}.")


def near_copies(features: np.ndarray, pairs: int = 3) -> pd.DataFrame:
    """The most alike rows, the most alike first: columns one, other (rows, one < other), alike.

    That is their correlation, which light and contrast do not change. features: (N, D), at least two rows. Each row is
    paired with the one that is most like it.
    """
    unit = features - features.mean(axis=1, keepdims=True)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    best, alike = np.zeros(len(unit), int), np.zeros(len(unit))
    for start in range(0, len(unit), 1024):
        cosine = unit[start : start + 1024] @ unit.T
        rows = np.arange(len(cosine))
        cosine[rows, start + rows] = -1
        best[start + rows], alike[start + rows] = cosine.argmax(axis=1), cosine.max(axis=1)
    rows = np.arange(len(unit))
    found = pd.DataFrame({"one": np.minimum(rows, best), "other": np.maximum(rows, best), "alike": alike})
    found = found.drop_duplicates(["one", "other"]).sort_values("alike", ascending=False, kind="stable")
    return found.head(pairs).reset_index(drop=True)


# --- what goes wrong -------------------------------------------------------------------------------------------------


def mishaps(faces: FaceSet, home: Path) -> dict[str, tuple[object, ...]]:
    """Folders as nobody should have them, below `home`, by what is wrong: the words of `pack` that would read each."""
    found: dict[str, tuple[object, ...]] = {}
    genders = ["Male" if number % 3 else "Female" for number in range(40)]
    tables = {
        "no photos": (0, genders),
        "labels of ten faces": (40, [*genders[:10], *[""] * 30]),
        "one value for all": (40, ["Male"] * 40),
        "half of the names match": (40, genders),
    }
    for name, (photos, labels) in tables.items():
        folder = _photos(faces, home / name, photos)
        wrong = ["other" * (name.startswith("half") and number % 2) for number in range(40)]
        sides = [SPLITS[max(number % 5 - 2, 0)] for number in range(40)]
        table = zip(range(40), wrong, labels, sides, strict=True)
        rows = [f"{odd}{number:02d}.bmp,{label},{side}" for number, odd, label, side in table]
        (folder / "labels.csv").write_text("\n".join(["file,gender,split", *rows]) + "\n", encoding="utf-8")
        found[name] = (folder, "--size", 32)
    _photos(faces, home / "one class" / "cat", 12)
    found["one class"] = (home / "one class", "--size", 32, "--kind", "classes")
    return found


def _photos(faces: FaceSet, folder: Path, n: int) -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(faces.images[:n]):
        (folder / f"{number:02d}.bmp").write_bytes(as_file(image.transpose(1, 2, 0)))
    return folder


def told(home: Path, words: Sequence[object]) -> list[str]:
    """What `pack` and then `train` say of such a folder: the error, or their lines on rejects and on few labels."""
    said, stopped = io.StringIO(), []
    packed, model = f"packed {Path(str(words[0])).name}", f"model {Path(str(words[0])).name}"
    try:
        with contextlib.redirect_stdout(said):
            run(home, "pack", words[0], packed, *words[1:])
            quick = ("--epochs", 1, "--steps", 1, "--plan", "probe", "--size", 32)
            run(home, "train", "--data", packed, "--tasks", "gender", "--out", model, *quick)
    except FacekitError as error:
        stopped = [f"error: {error}".replace(f"{home}/", "")]
    lines = [line.strip() for line in said.getvalue().splitlines()]
    return [*(line for line in lines if line.startswith(("rejected", "note:"))), *stopped]


# --- the report ------------------------------------------------------------------------------------------------------


def hand_in(
    folder: Path,
    said: Mapping[str, Any],
    found: Evaluation,
    tables: Mapping[str, pd.DataFrame],
    figures: Mapping[str, Figure],
) -> Path:
    """Writes the project as one page that needs nothing else, and the model card beside it; returns the page.

    said: the learner's sentences by their place; those of the card's owner go into the card as well. What is not said
    yet is asked for on the page, and counted in the line that is printed. tables, figures: by what they show. A page
    that another run wrote here is replaced, and nothing else is. Raises OutputError as `facekit.files.writing`.
    """
    place = {name: None if is_missing(text) else str(text) for name, text in said.items()}
    waiting = [name for name, text in place.items() if text is None]
    words = [f"{plain(name)}: {text or '(not written yet)'}" for name, text in place.items()]
    owner = {name: text for name, text in place.items() if name in cards.OWNER and text}
    with writing(folder, PAGE, CARD) as at:
        made = cards.card(found, owner)
        parts = {
            "What the project says": words,
            "What was tried": [
                *((name, _flat(table)) for name, table in tables.items()),
                *((alt, plots.png(figure)) for alt, figure in figures.items()),
            ],
            "The model card": [made],
        }
        page = report.html(found, "A classifier of my own", parts)
        for name, text in ((CARD, made), (PAGE, page)):
            with atomic_path(at / name) as path:
                path.write_bytes(text.encode("utf-8", "backslashreplace"))
    still = f"; still to write: {', '.join(waiting)}" if waiting else ""
    print(f"{PAGE}: {len(place) - len(waiting)} of {len(place)} places are filled{still}")
    return folder / PAGE


def _flat(table: pd.DataFrame) -> pd.DataFrame:
    """A table with its index as first column, one row of headings, and numbers as texts of three decimals."""
    shown = table.map(lambda value: f"{value:.3f}" if isinstance(value, float) else str(value))
    shown.columns = [" ".join(map(str, name)) if isinstance(name, tuple) else str(name) for name in table]
    return shown.rename_axis(table.index.name or "row").reset_index()
