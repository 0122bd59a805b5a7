"""Lesson 02: source and target as clouds of points, and the decision guide.

The guide is a few questions about source and target, and which kind of transfer fits, with its lesson.

The questions are data (`guide.json`): every answer leads to a question or to a recommendation. `read_guide` makes sure
that there is no circle, no dead end and nothing that cannot be reached. `Guide.show` shows the whole guide as text and
the same guide as a widget that asks one question after another.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from facekit.course.folders import find_lessons
from facekit.errors import LessonError
from facekit.show import plots
from facekit.show.widgets import publish_widget, radio_buttons, status_line

FILE = Path(__file__).with_name("guide.json")
MAX_ANSWER = 110  # a radio button's label does not wrap


@dataclass(frozen=True)
class Question:
    """A question and its answers: pairs of a text and the name of the question or recommendation that it leads to."""

    text: str
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Recommendation:
    """What the answers come to: the kind of transfer, its name in Pan & Yang's survey, what to do, and the lesson."""

    kind: str
    survey: str
    advice: str
    lesson: str


@dataclass(frozen=True)
class Route:
    """One way through the guide: the questions' names with the answers' texts, and the recommendation's name."""

    steps: tuple[tuple[str, str], ...]
    end: str


@dataclass(frozen=True)
class Guide:
    """Questions and recommendations by name, the name of the first question, and the lessons that are named.

    lessons: number to the title of a lesson that may still be planned; one that exists goes by its own title.
    """

    start: str
    questions: dict[str, Question]
    recommendations: dict[str, Recommendation]
    lessons: dict[str, str]

    def paths(self, name: str | None = None) -> Iterator[Route]:
        """Every way from question `name` (by default the first) to a recommendation, in the order of the answers."""
        name = name or self.start
        for text, to in self.questions[name].answers:
            if to in self.recommendations:
                yield Route(((name, text),), to)
            else:
                yield from (Route(((name, text), *path.steps), path.end) for path in self.paths(to))

    def follow(self, answers: Sequence[int]) -> Question | Recommendation:
        """Where the answers lead, each given as its number (0 is the first): the next question, or a recommendation.

        Raises LessonError for a number that is no answer and for answers after the recommendation.
        """
        name = self.start
        for number in answers:
            if name in self.recommendations:
                raise LessonError(f"the guide ends at {self.recommendations[name].kind!r}; {answers} goes on.")
            choices = self.questions[name].answers
            if not 0 <= number < len(choices):
                raise LessonError(f"{self.questions[name].text!r} has answers 0 to {len(choices) - 1}, not {number}.")
            name = choices[number][1]
        return self.recommendations.get(name) or self.questions[name]

    @cached_property
    def _existing(self) -> dict[str, tuple[str, str]]:
        """Notebook and title of the lessons that exist."""
        found = {}
        for lesson in find_lessons(root=FILE.parents[2]):
            if title := re.search(r"^# # \d\d · (.+)$", lesson.source.read_text(encoding="utf-8"), re.MULTILINE):
                found[lesson.number] = (lesson.learner.name, title[1])
        return found

    def lesson_text(self, number: str, link: bool = True) -> str:
        """'lesson 03, Feature extraction': as a Markdown link where the lesson exists, with '(planned)' where not."""
        name, title = self._existing.get(number, ("", self.lessons[number]))
        text = f"lesson {number}, {title}"
        return f"{text} (planned)" if not name else f"[{text}]({name})" if link else text

    def markdown(self) -> str:
        """The whole guide: a nested list of questions and answers, then a table of the recommendations."""
        parts = [
            "**The guide as text.** Follow the answers that fit; each ends in a kind of transfer.",
            "\n".join(self._branch(self.start, "")),
            "| Kind | In the survey's words | What to do | Where |\n|---|---|---|---|\n"
            + "\n".join(
                f"| {r.kind} | {r.survey} | {r.advice} | {self.lesson_text(r.lesson)} |"
                for r in self.recommendations.values()
            ),
        ]
        return "\n\n".join(parts) + "\n"

    def _branch(self, name: str, indent: str) -> Iterator[str]:
        yield f"{indent}- **{self.questions[name].text}**"
        for text, to in self.questions[name].answers:
            if to in self.recommendations:
                yield f"{indent}    - {text} → *{self.recommendations[to].kind}*"
            else:
                yield f"{indent}    - {text}"
                yield from self._branch(to, indent + "        ")

    def show(self) -> None:
        """Shows the guide as text, then the widget; a notebook opened without a kernel keeps the first."""
        text = self.markdown()
        plots.publish({"text/markdown": text, "text/plain": text})
        publish_widget(GuideView(self).box, "Decision guide: run this cell to answer it question by question.")


@dataclass
class GuideView:
    """The widget: radio buttons for one question, below them those of the next, at the end the recommendation.

    An answer that is changed takes back the questions below it. Works with the Tab and arrow keys alone.
    """

    guide: Guide
    radios: list[widgets.RadioButtons] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.result = widgets.HTML()
        self.again = widgets.Button(description="Start again", layout=widgets.Layout(width="max-content"))
        self.again.on_click(lambda _: self.restart())
        self.box = widgets.VBox()
        self.restart()

    @property
    def answers(self) -> list[int]:
        """The answers given so far, as numbers."""
        return [radio.value for radio in self.radios if radio.value is not None]

    def restart(self) -> None:
        """Takes all answers back."""
        self.radios = []
        self._go_on()

    def _go_on(self) -> None:
        """Shows the next question, or the recommendation."""
        where = self.guide.follow(self.answers)
        if isinstance(where, Question):
            radio = radio_buttons([text for text, _ in where.answers])
            place = len(self.radios)
            radio.observe(lambda _, place=place: self._answered(place), names="value")
            self.radios.append(radio)
            self._say("")
        else:
            lesson = self.guide.lesson_text(where.lesson, link=False)
            self._say(
                f"<b>{html.escape(where.kind)}.</b> {html.escape(where.advice)} "
                f"In the survey: {html.escape(where.survey)}. See {html.escape(lesson)}."
            )
        self._lay_out()

    def _answered(self, place: int) -> None:
        if self.radios[place].value is None:
            return
        del self.radios[place + 1 :]
        self._go_on()

    def _lay_out(self) -> None:
        rows = []
        for place, radio in enumerate(self.radios):
            question = self.guide.follow([each.value for each in self.radios[:place]])
            rows += [widgets.HTML(f"<b>{place + 1}. {html.escape(question.text)}</b>"), radio]
        self.box.children = [*rows, self.result, self.again]

    def _say(self, text: str) -> None:
        """Shows a text below the questions; screen readers announce it."""
        self.result.value = status_line(text, escape=False)


def domain_clouds(sources: Mapping[str, np.ndarray], target: np.ndarray) -> Figure:
    """One plot for each version of the source (by its title) with the target, all seen from the same side.

    sources, target: points (N, D). To the right goes the line from the mean of the first version to the target's, up
    the direction beside it in which the target varies most.
    """
    right = target.mean(0) - next(iter(sources.values())).mean(0)
    right = right / max(float(np.linalg.norm(right)), 1e-12)
    rest = target - target.mean(0)
    up = np.linalg.svd(rest - np.outer(rest @ right, right), full_matrices=False)[2][0]
    fig, axes = plots.figure(1, len(sources), size=(4.2 * len(sources), 4.4), squeeze=False, sharex=True, sharey=True)
    for axis, (title, source) in zip(axes[0], sources.items(), strict=True):
        names = np.repeat(["source", "target"], [len(source), len(target)])
        points = np.concatenate([source, target]) @ np.stack([right, up * np.sign(up.sum() or 1)], axis=1)
        plots.scatter_classes(axis, points, names, ["source", "target"])
        axis.set(title=title, xlabel="from mean to mean", ylabel="most variance beside it")
    return fig


def guide() -> Guide:
    """The decision guide of the course."""
    return read_guide(FILE)


def read_guide(path: Path) -> Guide:
    """Reads and checks a guide; raises LessonError that names the file and the entry that breaks a rule.

    Every answer leads somewhere, no way comes back to a question, everything is reached, every recommendation names a
    lesson that has a title.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        made = Guide(
            data["start"],
            {
                name: Question(entry["text"], tuple((answer["text"], answer["next"]) for answer in entry["answers"]))
                for name, entry in data["questions"].items()
            },
            {name: Recommendation(**entry) for name, entry in data["recommendations"].items()},
            data["lessons"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LessonError(f"{path.name}: not readable as a guide: {type(error).__name__}: {error}") from error
    _check(made, path.name)
    return made


def _check(made: Guide, where: str) -> None:
    """Raises LessonError for the first rule that the guide breaks."""
    for name, question in made.questions.items():
        texts = [text for text, _ in question.answers]
        if len(set(texts)) < max(len(texts), 2) or name in made.recommendations:
            raise LessonError(f"{where}: question {name!r} needs at least two different answers and a name of its own.")
        if long := [text for text in texts if len(text) > MAX_ANSWER]:
            raise LessonError(f"{where}: question {name!r}: at most {MAX_ANSWER} characters an answer: {long[0]!r}.")
    for name, recommendation in made.recommendations.items():
        if recommendation.lesson not in made.lessons:
            raise LessonError(f"{where}: {name!r} names lesson {recommendation.lesson!r}, which has no title here.")
    reached: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise LessonError(f"{where}: the answers go in a circle: {' → '.join((*above, name))}.")
        if name not in made.questions and name not in made.recommendations:
            raise LessonError(f"{where}: {name!r} is neither a question nor a recommendation.")
        reached.add(name)
        if name in made.questions:
            for _, to in made.questions[name].answers:
                visit(to, (*above, name))

    if made.start not in made.questions:
        raise LessonError(f"{where}: it starts at {made.start!r}, which is no question.")
    visit(made.start, ())
    if lost := sorted((set(made.questions) | set(made.recommendations)) - reached):
        raise LessonError(f"{where}: no answer leads to {', '.join(lost)}.")
