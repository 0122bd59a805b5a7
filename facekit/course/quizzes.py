"""Quizzes as data: one JSON file, shown as a widget that works with the keyboard and as plain Markdown.

{"questions": [
  {"question": "What does a frozen backbone learn?", "choices": [
    {"text": "Nothing.", "right": true, "why": "Its weights and statistics stay as they are."},
    {"text": "The last layer.", "why": "The head learns, and it is not part of the backbone."}]}]}
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

import ipywidgets as widgets

from facekit.course import folders
from facekit.errors import LessonError
from facekit.files import read_json
from facekit.show import plots
from facekit.show.widgets import Chooser, publish_widget, radio_buttons, status_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

LETTERS = "ABCDEF"
MAX_CHOICE = 110  # a radio button's label does not wrap
Read = TypeVar("Read", bound="DataclassInstance")


@dataclass(frozen=True)
class Choice:
    """One choice of a question: its text, why it is right or wrong, and whether it is right."""

    text: str
    why: str
    right: bool = False


@dataclass(frozen=True)
class Question:
    """A question with two to six choices, exactly one of them right."""

    question: str
    choices: tuple[Choice, ...]

    def __post_init__(self) -> None:
        check_choices([choice.text for choice in self.choices])
        right = sum(choice.right for choice in self.choices)
        if right != 1:
            raise LessonError(f'{right} choices are marked right; mark exactly one with "right": true.')

    @property
    def answer(self) -> int:
        """Index of the right choice."""
        return next(i for i, choice in enumerate(self.choices) if choice.right)


@dataclass
class Quiz:
    """The questions of one lesson, whose number is not part of the file."""

    questions: tuple[Question, ...]
    lesson: str = field(default="", init=False)

    def markdown(self) -> str:
        """The quiz as Markdown, folded, each answer folded once more below its question."""
        parts = ["<details><summary>The quiz as plain text, answers folded</summary>"]
        for n, question in enumerate(self.questions, 1):
            choices = list(zip(LETTERS, question.choices, strict=False))
            parts += [
                f"**{n}. {question.question}**",
                "\n".join(f"- {letter}. {c.text}" for letter, c in choices),
                f"<details><summary>Answer to question {n}</summary>",
                "\n".join(f"- {letter} is {'right' if c.right else 'wrong'}: {c.why}" for letter, c in choices),
                "</details>",
            ]
        return "\n\n".join([*parts, "</details>"]) + "\n"

    def show(self) -> None:
        """Shows the Markdown, then the widget; a notebook opened without a kernel keeps the first."""
        words = f"Quiz of lesson {self.lesson}, {len(self.questions)} questions: run this cell to answer it."
        show_with_text(QuizView(self).box, self.markdown(), words)


class QuizView:
    """The widget: for each question radio buttons, a button and the explanation of the choice."""

    def __init__(self, quiz: Quiz) -> None:
        self.quiz = quiz
        self.radios: list[Chooser] = []
        self.buttons: list[widgets.Button] = []
        self.explanations = [widgets.HTML() for _ in quiz.questions]
        self.score = widgets.HTML()
        self._right = [False] * len(quiz.questions)
        children: list[widgets.Widget] = []
        for n, question in enumerate(quiz.questions):
            texts = [f"{LETTERS[i]}. {_plain(c.text)}" for i, c in enumerate(question.choices)]
            self.radios.append(radio_buttons(texts, f"Question {n + 1}. {_plain(question.question)}"))
            self.buttons.append(small_button(f"Check answer {n + 1}"))
            self.buttons[n].on_click(lambda _, n=n: self.check(n))
            title = widgets.HTML(f"<b>{n + 1}. {_inline_html(question.question)}</b>")
            children += [title, self.radios[n], self.buttons[n], self.explanations[n]]
        self.box = widgets.VBox([*children, self.score])

    def check(self, n: int) -> None:
        """Judges the choice made in question `n` (0 is the first) and explains it."""
        chosen, question = self.radios[n].value, self.quiz.questions[n]
        if chosen is None:
            self.explanations[n].value = status_line("Choose an answer first.", escape=False)
            return
        choice = question.choices[chosen]
        self._right[n] = choice.right
        verdict = "Right" if choice.right else "Not right"
        self.explanations[n].value = status_line(f"<b>{verdict}.</b> {_inline_html(choice.why)}", escape=False)
        self.score.value = status_line(f"{sum(self._right)} of {len(self._right)} right.", escape=False)


def quiz(lesson: str) -> Quiz:
    """The quiz of a lesson ('03'); raises LessonError when there is none or its file breaks the rules."""
    return read_quiz(folders.lesson(lesson).folder / "quiz.json")


def read_quiz(path: Path) -> Quiz:
    """Reads and checks the quiz.json of a lesson's folder; raises LessonError naming file, question and choice."""
    made = read_file(Quiz, path)
    made.lesson = path.parent.name[:2]
    return made


# --- for every widget that asks: what its file must have, and its parts -------------------------------------------


def read_file(kind: type[Read], path: Path) -> Read:
    """The dataclass that a JSON file holds; raises LessonError naming file and entry for one that breaks a rule.

    A list of objects is a field `tuple[Part, ...]`, an object of objects `dict[str, Part]`, and both have an entry at
    least; texts are not empty. Fields with a default may be missing. Other rules are those of the dataclasses: they
    raise LessonError when they are made.
    """
    where = f"{path.parent.name}/{path.name}"
    try:
        data = read_json(path, LessonError, "mend it.", {})
    except FileNotFoundError as error:
        raise LessonError(f"{where}: not readable as JSON: {error}") from error
    return _read(kind, data, where)


def _read(kind: type[Read], data: Any, where: str) -> Read:
    known = {each.name: each.default for each in fields(kind) if each.init}
    if not isinstance(data, dict):
        raise LessonError(f"{where}: expected an object with {', '.join(known)}.")
    for key in data:
        if key not in known:
            raise LessonError(f"{where}: unknown key {key!r}; allowed are {', '.join(known)}.")
    for key, default in known.items():
        if default is MISSING and key not in data:
            raise LessonError(f"{where}: {key!r} is missing.")
    types, values = get_type_hints(kind), {}
    for key, value in data.items():
        origin, part = get_origin(types[key]), get_args(types[key])
        wanted = {None: types[key], tuple: list}.get(origin, origin)
        if not isinstance(value, wanted):
            raise LessonError(f"{where}: {key!r} must be a {wanted.__name__}, not {type(value).__name__}.")
        if wanted is not bool and not (value.strip() if wanted is str else value):
            raise LessonError(f"{where}: {key!r} is empty.")
        one = f"{where}, {key.removesuffix('s')}"
        if wanted is list:
            value = tuple(_read(part[0], each, f"{one} {n}") for n, each in enumerate(value, 1))
        elif wanted is dict and part[1] is not str:
            value = {name: _read(part[1], each, f"{one} {name!r}") for name, each in value.items()}
        elif wanted is dict and (odd := [name for name, each in value.items() if not isinstance(each, str)]):
            raise LessonError(f"{one} {odd[0]!r} must be a str.")
        values[key] = value
    try:
        return kind(**values)
    except LessonError as error:
        raise LessonError(f"{where}: {error}") from None


def check_choices(texts: Sequence[str]) -> None:
    """Raises LessonError unless there are two to six different texts, short enough for radio buttons."""
    if not 2 <= len(texts) <= 6:
        raise LessonError(f"has {len(texts)} choices; write two to six.")
    if len(set(texts)) < len(texts):
        raise LessonError("two choices have the same text.")
    if long := [text for text in texts if len(text) > MAX_CHOICE]:
        raise LessonError(f"{long[0]!r} has {len(long[0])} characters; at most {MAX_CHOICE}.")


def small_button(text: str) -> widgets.Button:
    """A button as wide as its text."""
    return widgets.Button(description=text, layout=widgets.Layout(width="max-content"))


def show_with_text(box: widgets.Widget, markdown: str, words: str) -> None:
    """Shows the Markdown, then the widget, in words; a notebook opened without a kernel keeps the first."""
    plots.publish({"text/markdown": markdown, "text/plain": markdown})
    publish_widget(box, words)


def _plain(text: str) -> str:
    """Inline Markdown without its marks, for labels that show text as it is."""
    return re.sub(r"[`*]([^`*]+)[`*]", r"\1", text)


def _inline_html(text: str) -> str:
    """Inline Markdown (`code`, *emphasis*) as HTML."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
