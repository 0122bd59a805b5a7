"""Sets of real photos by name: packed once, then read; what is missing is named with its datasheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from test_archives import write_folder
from test_domains import picture

from facekit import settings
from facekit.data.catalogue import CATALOGUE, NAMES, photos
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError

DATASHEETS = Path(__file__).resolve().parents[2] / "datasets"


@pytest.fixture(autouse=True)
def forgotten():
    """No set of another test is remembered."""
    photos.cache_clear()
    yield
    photos.cache_clear()


def test_a_set_is_packed_once_and_then_read_from_the_cache(tmp_path, monkeypatch):
    write_folder(tmp_path / "captcha", {"22222.png": picture(1, 200, 50), "33333.png": picture(2, 200, 50)})
    monkeypatch.setenv("FACEKIT_DATA", str(tmp_path))
    assert len(photos("words")) == 2
    photos.cache_clear()
    monkeypatch.delenv("FACEKIT_DATA")
    assert photos("words").labels["text"].tolist() == ["22222", "33333"]
    with pytest.raises(ConfigError, match="unknown set of photos 'faces'; use fairface"):
        photos("faces")


def test_what_is_missing_is_named_with_its_folder_and_its_datasheet(tmp_path, monkeypatch):
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    for data in (None, tmp_path):
        if data:
            monkeypatch.setenv("FACEKIT_DATA", str(data))
        for name in NAMES:
            entry = next(entry for entry in CATALOGUE if entry.name == name)
            with pytest.raises(DataError, match=f"{entry.kind!r}.*FACEKIT_DATA.*datasets/{entry.sheet}.md"):
                photos(name)
    (tmp_path / "utkface").mkdir()  # a folder without the file
    with pytest.raises(DataError, match="crop_part1.tar.gz"):
        photos("utkface")


def test_the_second_entry_of_a_name_stands_in_for_the_first():
    stored = FaceSet(np.zeros((1, 3, 4, 4), np.uint8), pd.DataFrame({"split": ["train"]}))
    stored.save(settings.cache_dir() / "dermamnist")
    assert len(photos("lesions")) == 1


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.kind)
def test_every_set_has_a_sheet_that_says_how_to_get_it(entry):
    text = (DATASHEETS / f"{entry.sheet}.md").read_text(encoding="utf-8")
    assert "python -m facekit pack" in text and entry.kind in text
