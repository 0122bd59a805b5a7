"""The course around the lessons: what a notebook calls, how notebooks are made, and the doctor.

A notebook needs five names, each loaded when it is asked for:

    from facekit.course import exercise, lesson, quiz, start

start("03")       the data, the network and the sizes of the profile (profiles.py)
exercise("03.1")  an exercise that checks itself (exercises.py)
quiz("03")        the quiz (quizzes.py)
lesson("03")      the lesson's folder; its `figures` are the lesson's own plots and widgets (folders.py)
progress()        which exercises were correct, on the first page (tally.py)

build.py makes the notebooks from `lessons/source/NN_slug/`, rules.py says which rules of the course one breaks,
frame.py what the build puts around a lesson, workspace.py is the learner's place to work, doctor.py says what works on
this machine and starts JupyterLab; own_photo.py shows what a classifier says of a photo of one's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from facekit.course.exercises import exercise
    from facekit.course.folders import lesson
    from facekit.course.profiles import start
    from facekit.course.quizzes import quiz
    from facekit.course.tally import progress

_HOMES = {
    "exercise": "exercises",
    "lesson": "folders",
    "progress": "tally",
    "quiz": "quizzes",
    "start": "profiles",
}
__all__ = ["exercise", "lesson", "progress", "quiz", "start"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
