"""UTKFace (Zhang, Song & Qi, CVPR 2017): the labels are in the names, `[age]_[gender]_[race]_[date].jpg.chip.jpg`.

Some official names lack a field; how many depends on the release. They are rejected, never guessed.
"""

from __future__ import annotations

import re

import pandas as pd

from facekit.data.readers.archives import Problem, Sample
from facekit.data.readers.table import PhotoReader, Row
from facekit.tasks import Task, age_band

GENDERS = ("Male", "Female")
UTK_RACES = ("White", "Black", "Asian", "Indian", "Other")
OLDEST = 116
UTK_RACE = Task("utk_race", "multiclass", UTK_RACES)  # not FairFace's groups; "Other" is whatever fits none
ABOUT = {
    "name": "UTKFace",
    "licence": "non-commercial research use only; the photos belong to their owners",
    "citation": "Z. Zhang, Y. Song and H. Qi. Age Progression/Regression by Conditional Adversarial Autoencoder. "
    "CVPR 2017.",
    "home": "https://susanqq.github.io/UTKFace/",
    "labels": "age estimated by an algorithm and checked by annotators; gender and race as perceived",
}
# The time stamp has 17 digits, in a few official names 18; dots and blanks after it vary.
_NAME = re.compile(r"(\d{1,3})_(\d)_(\d)_(\d{14,20})\D.*", re.ASCII)


def parse_name(name: str) -> dict[str, str] | Problem:
    """Labels from a file name: `age_years`, `age` (band), `gender`, `utk_race`; or the reason why there are none."""
    base = name.rsplit("/", 1)[-1]
    match = _NAME.fullmatch(base)
    if match is None:
        return Problem("malformed name", "expected [age]_[gender]_[race]_[date and time].jpg.chip.jpg")
    years, gender, race = (int(match.group(part)) for part in (1, 2, 3))
    if years > OLDEST or gender >= len(GENDERS) or race >= len(UTK_RACES):
        return Problem("unknown label", f"age {years}, gender {gender}, race {race}; at most {OLDEST}, 1 and 4")
    return {
        "age_years": str(years),
        "age": _BANDS[years],
        "gender": GENDERS[gender],
        "utk_race": UTK_RACES[race],
    }


_BANDS = tuple(age_band(pd.Series(range(OLDEST + 1))))


class UTKFaceReader(PhotoReader):
    """The official tar (`crop_part1.tar.gz`, `UTKFace.tar.gz` …) or the folder it unpacks to."""

    kind = "utkface"
    columns = ("age_years", "age", "gender", "utk_race")
    set_about = ABOUT

    def labels_of(self, entry: Sample) -> dict[str, str] | Problem:
        return parse_name(entry.name)


ROW = Row("utkface", UTKFaceReader, name_shows=lambda name: isinstance(parse_name(name), dict), beside_table=True)
