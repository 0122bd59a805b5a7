"""How long each lesson computes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pandas as pd

from facekit.course.build import run_lesson
from facekit.course.folders import find_lessons
from facekit.course.frame import title_of
from facekit.errors import LessonError
from facekit.experiments.speed import figures


def bench_lessons(numbers: list[int] | None = None) -> pd.DataFrame:
    """Measures the seconds of every lesson in profile laptop, each in a fresh kernel, whose start is included.

    Args:
        numbers: Lessons, such as [3,4]; all of them by default.
    """
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for lesson in find_lessons(numbers):
            start = time.perf_counter()
            if failure := run_lesson(lesson, "laptop", Path(folder)):
                raise LessonError(f"lesson {lesson.number} fails: {failure.splitlines()[0]}")
            seconds[title_of(lesson)] = time.perf_counter() - start
    return figures(seconds, "s", compare=False)
