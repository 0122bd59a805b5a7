"""Some kills of the campaign, and that it sees what is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from .__main__ import content, differences

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="a work is a fork of a process that has imported torch")
def test_some_kills_of_the_campaign_leave_nothing_behind():
    works = "pack,train,extend,predict,evaluate,study,download"
    command = [sys.executable, "-m", "tests.kills", "--kills", "7", "--only", works]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_it_sees_what_is_left_what_is_missing_and_what_differs(tmp_path):
    for name, files in {"one": {"a": "1", "b": "1", "c/d": "1"}, "other": {"a": "1", "b": "2", ".b.part": ""}}.items():
        for place, text in files.items():
            (tmp_path / name / place).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / place).write_text(text)
    one, other = content(tmp_path / "one"), content(tmp_path / "other")
    assert differences(one, one) == []
    assert differences(one, other) == [".b.part is left", "b differs", "c is missing", "c/d is missing"]
