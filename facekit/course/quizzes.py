"""Quizzes as data: one JSON file, shown as a widget that works with the keyboard and as plain Markdown.

{"questions": [
  {"question": "What does a frozen backbone learn?", "choices": [
    {"text": "Nothing.", "right": true, "why": "Its weights and statistics stay as they are."},
    {"text": "The last layer.", "why": "The head learns, and it is not part of the backbone."}]}]}
"""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import ipywidgets as widgets

from facekit.course import folders
from facekit.errors import LessonError
from facekit.show.plots import publish
from facekit.show.widgets import publish_widget, radio_buttons, status_line

MAX_CHOICE = 110  # a radio button's label does not wrap


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

    @property
    def answer(self) -> int:
        """Index of the right choice."""
        return next(i for i, choice in enumerate(self.choices) if choice.right)


@dataclass(frozen=True)
class Quiz:
    """The questions of one lesson."""

    lesson: str
    questions: tuple[Question, ...]

    def markdown(self) -> str:
        """The quiz as Markdown, folded, each answer folded once more below its question."""
        parts = ["<details><summary>The quiz as plain text, answers folded</summary>"]
        for n, question in enumerate(self.questions, 1):
            parts.append(f"**{n}. {question.question}**")
            parts.append("\n".join(f"- {_letter(i)}. {c.text}" for i, c in enumerate(question.choices)))
            parts.append(f"<details><summary>Answer to question {n}</summary>")
            parts.append(
                "\n".join(
                    f"- {_letter(i)} is {'right' if c.right else 'wrong'}: {c.why}"
                    for i, c in enumerate(question.choices)
                )
            )
            parts.append("</details>")
        return "\n\n".join([*parts, "</details>"]) + "\n"

    def show(self) -> None:
        """Shows the Markdown, then the widget; a notebook opened without a kernel keeps the first."""
        text = self.markdown()
        publish({"text/markdown": text, "text/plain": text})
        n = len(self.questions)
        publish_widget(QuizView(self).box, f"Quiz of lesson {self.lesson}, {n} questions: run this cell to answer it.")


@dataclass
class QuizView:
    """The widget: for each question radio buttons, a button and the explanation of the choice."""

    quiz: Quiz
    radios: list[widgets.RadioButtons] = field(default_factory=list)
    buttons: list[widgets.Button] = field(default_factory=list)
    explanations: list[widgets.HTML] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._right = [False] * len(self.quiz.questions)
        self.score = widgets.HTML()
        children: list[widgets.Widget] = []
        for n, question in enumerate(self.quiz.questions):
            radio = radio_buttons([f"{_letter(i)}. {_plain(c.text)}" for i, c in enumerate(question.choices)])
            button = widgets.Button(description=f"Check answer {n + 1}", layout=widgets.Layout(width="max-content"))
            explanation = widgets.HTML()
            button.on_click(lambda _, n=n: self.check(n))
            self.radios.append(radio)
            self.buttons.append(button)
            self.explanations.append(explanation)
            title = widgets.HTML(f"<b>{n + 1}. {_inline_html(question.question)}</b>")
            children += [title, radio, button, explanation]
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
    where = f"{path.parent.name}/{path.name}"
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LessonError(f"{where}: not readable as JSON: {error}") from error
    data = _object(data, where, needs={"questions": list})
    if not data["questions"]:
        raise LessonError(f"{where}: 'questions' is empty; write at least one.")
    questions = tuple(_question(q, f"{where}, question {n}") for n, q in enumerate(data["questions"], 1))
    return Quiz(path.parent.name[:2], questions)


def _question(data: object, where: str) -> Question:
    data = _object(data, where, needs={"question": str, "choices": list})
    choices = tuple(_choice(c, f"{where}, choice {n}") for n, c in enumerate(data["choices"], 1))
    if not 2 <= len(choices) <= 6:
        raise LessonError(f"{where}: has {len(choices)} choices; write two to six.")
    right = sum(choice.right for choice in choices)
    if right != 1:
        raise LessonError(f'{where}: {right} choices are marked right; mark exactly one with "right": true.')
    if len({choice.text for choice in choices}) < len(choices):
        raise LessonError(f"{where}: two choices have the same text.")
    return Question(data["question"], choices)


def _choice(data: object, where: str) -> Choice:
    data = _object(data, where, needs={"text": str, "why": str}, may={"right": bool})
    if len(data["text"]) > MAX_CHOICE:
        raise LessonError(f"{where}: the text has {len(data['text'])} characters; at most {MAX_CHOICE}.")
    return Choice(**data)


def _object(data: object, where: str, needs: dict[str, type], may: dict[str, type] | None = None) -> dict:
    """`data` if it is a JSON object with exactly the keys asked for, of the right types, no text empty."""
    if not isinstance(data, dict):
        raise LessonError(f"{where}: expected an object with {', '.join(needs)}.")
    allowed = needs | (may or {})
    for key in data:
        if key not in allowed:
            raise LessonError(f"{where}: unknown key {key!r}; allowed are {', '.join(allowed)}.")
    for key in needs:
        if key not in data:
            raise LessonError(f"{where}: {key!r} is missing.")
    for key, value in data.items():
        if not isinstance(value, allowed[key]):
            raise LessonError(f"{where}: {key!r} must be a {allowed[key].__name__}, not {type(value).__name__}.")
        if isinstance(value, str) and not value.strip():
            raise LessonError(f"{where}: {key!r} is empty.")
    return data


def _letter(index: int) -> str:
    return "ABCDEF"[index]


def _plain(text: str) -> str:
    """Inline Markdown without its marks, for labels that show text as it is."""
    return re.sub(r"[`*]([^`*]+)[`*]", r"\1", text)


def _inline_html(text: str) -> str:
    """Inline Markdown (`code`, *emphasis*) as HTML."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", text)
