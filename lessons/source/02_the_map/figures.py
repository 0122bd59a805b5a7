"""Lesson 02: source and target as clouds of points, and the decision guide.

The guide is a few questions about source and target, and which kind of transfer fits, with its lesson.

The questions are data (`guide.json`): every answer leads to a question or to a recommendation. A `Guide` makes sure
that there is no circle, no dead end and nothing that cannot be reached. `Guide.show` shows the whole guide as text and
the same guide as a widget that asks one question after another.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from facekit.course.folders import find_lessons
from facekit.course.quizzes import check_choices, read_file, show_with_text, small_button
from facekit.errors import LessonError
from facekit.show import plots
from facekit.show.widgets import radio_buttons, status_line

FILE = Path(__file__).with_name("guide.json")


@dataclass(frozen=True)
class Answer:
    """An answer, and the name of the question or recommendation that it leads to."""

    text: str
    next: str


@dataclass(frozen=True)
class GuideQuestion:
    """A question and its answers."""

    text: str
    answers: tuple[Answer, ...]

    def __post_init__(self) -> None:
        check_choices([answer.text for answer in self.answers])


@dataclass(frozen=True)
class Recommendation:
    """What the answers come to: the kind of transfer, its name in Pan & Yang's survey, what to do, and the lesson."""

    kind: str
    survey: str
    advice: str
    lesson: str


@dataclass(frozen=True)
class Guide:
    """Questions and recommendations by name, the name of the first question, and the lessons that are named.

    lessons: number to the title of a lesson that may still be planned; one that exists goes by its own title.
    """

    start: str
    questions: dict[str, GuideQuestion]
    recommendations: dict[str, Recommendation]
    lessons: dict[str, str]

    def __post_init__(self) -> None:
        """Every answer leads somewhere, no way comes back, all is reached, and every lesson named has a title."""
        for name, recommendation in self.recommendations.items():
            if recommendation.lesson not in self.lessons:
                raise LessonError(f"{name!r} names lesson {recommendation.lesson!r}, which has no title here.")
        if self.start not in self.questions:
            raise LessonError(f"it starts at {self.start!r}, which is no question.")
        leads = {name: [answer.next for answer in question.answers] for name, question in self.questions.items()}
        named, known = {self.start}.union(*leads.values()), {*self.questions, *self.recommendations}
        if unknown := sorted(named - known) or sorted(set(self.questions) & set(self.recommendations)):
            raise LessonError(f"{unknown[0]!r} is neither a question nor a recommendation, or is both.")
        try:
            TopologicalSorter(leads).prepare()
        except CycleError as error:
            raise LessonError(f"the answers go in a circle: {' → '.join(reversed(error.args[1]))}.") from None
        if lost := sorted(known - named):
            raise LessonError(f"no answer leads to {', '.join(lost)}.")

    def follow(self, answers: Sequence[int]) -> GuideQuestion | Recommendation:
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
            name = choices[number].next
        return self.recommendations.get(name) or self.questions[name]

    def lesson_text(self, number: str, link: bool = True) -> str:
        """'lesson 03, Feature extraction': as a Markdown link where the lesson exists, with '(planned)' where not."""
        for lesson in find_lessons(root=FILE.parents[2]):
            head = re.search(rf"^# # {number} · (.+)$", lesson.source.read_text(encoding="utf-8"), re.MULTILINE)
            if head:
                text = f"lesson {number}, {head[1]}"
                return f"[{text}]({lesson.learner.name})" if link else text
        return f"lesson {number}, {self.lessons[number]} (planned)"

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
        for answer in self.questions[name].answers:
            if end := self.recommendations.get(answer.next):
                yield f"{indent}    - {answer.text} → *{end.kind}*"
            else:
                yield f"{indent}    - {answer.text}"
                yield from self._branch(answer.next, indent + "        ")

    def show(self) -> None:
        """Shows the guide as text, then the widget; a notebook opened without a kernel keeps the first."""
        words = "Decision guide: run this cell to answer it question by question."
        show_with_text(GuideView(self).box, self.markdown(), words)


class GuideView:
    """The widget: radio buttons for one question, below them those of the next, at the end the recommendation.

    An answer that is changed takes back the questions below it. Works with the Tab and arrow keys alone.
    """

    def __init__(self, guide: Guide) -> None:
        self.guide = guide
        self.result = widgets.HTML()
        self.again = small_button("Start again")
        self.again.on_click(lambda _: self.restart())
        self.box = widgets.VBox()
        self.restart()

    @property
    def answers(self) -> list[int]:
        """The answers given so far, as numbers."""
        return [radio.value for radio in self.radios if radio.value is not None]

    def restart(self) -> None:
        """Takes all answers back."""
        self.radios: list[widgets.RadioButtons] = []
        self._go_on()

    def _go_on(self) -> None:
        """Shows the next question, or the recommendation; screen readers announce what stands below the questions."""
        where, place, text = self.guide.follow(self.answers), len(self.radios), ""
        if isinstance(where, GuideQuestion):
            radio = radio_buttons([answer.text for answer in where.answers])
            radio.observe(lambda _: self._answered(place), names="value")
            self.radios.append(radio)
        else:
            lesson = self.guide.lesson_text(where.lesson, link=False)
            texts = (html.escape(each) for each in (where.kind, where.advice, where.survey, lesson))
            text = "<b>{}.</b> {} In the survey: {}. See {}.".format(*texts)
        self.result.value = status_line(text, escape=False)
        rows: list[widgets.Widget] = []
        for n, radio in enumerate(self.radios):
            question = self.guide.follow(self.answers[:n])
            rows += [widgets.HTML(f"<b>{n + 1}. {html.escape(question.text)}</b>"), radio]
        self.box.children = [*rows, self.result, self.again]

    def _answered(self, place: int) -> None:
        if self.radios[place].value is not None:
            del self.radios[place + 1 :]
            self._go_on()


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
    """Reads and checks a guide; raises LessonError that names the file and the entry that breaks a rule."""
    return read_file(Guide, path)
