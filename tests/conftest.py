"""Fixtures shared by the package tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# One thread: the nets here are tiny, and on a busy machine threads that wait for each other cost many times the work.
torch.set_num_threads(1)


# The same examples in every run, and no example fails for being slow on a busy machine.
settings.register_profile("facekit", deadline=None, derandomize=True, database=None)
settings.load_profile("facekit")


@pytest.fixture
def real_data() -> Path:
    """The folder with real photos and weights; skips where there is none."""
    value = os.environ.get("FACEKIT_DATA")
    if not value or not Path(value).is_dir():
        pytest.skip("needs real photos and weights: set FACEKIT_DATA to a folder that has them")
    return Path(value)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch) -> None:
    """Every test gets an empty cache folder and the default profile: none depends on who runs it or what ran before."""
    monkeypatch.delenv("FACEKIT_PROFILE", raising=False)
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
