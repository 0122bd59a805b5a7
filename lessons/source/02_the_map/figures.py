"""Lesson 02: the four kinds in faces, source and target as clouds of points, and the decision guide.

The guide is a few questions about source and target, and which kind of transfer fits, with its lesson.

The questions are data (`guide.json`): every answer leads to a question or to a recommendation. A `Guide` makes sure
that there is no circle, no dead end and nothing that cannot be reached. `Guide.show` shows the whole guide as a flow
chart and as text, and the same guide as a widget that asks one question after another.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import ipywidgets as widgets
import numpy as np
from matplotlib.figure import Figure

from facekit.course.folders import find_lessons
from facekit.course.quizzes import check_choices, read_file, show_with_text, small_button
from facekit.data.sets import FaceSet
from facekit.errors import LessonError
from facekit.show import plots
from facekit.show.widgets import Chooser, radio_buttons, status_line
from facekit.transfer.adaptation import low_light

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

    def lesson_text(self, number: str) -> tuple[str, str]:
        """'lesson 03, Feature extraction' and the name of its notebook; '… (planned)' and '' where there is none."""
        for lesson in find_lessons(root=FILE.parents[2]):
            head = re.search(rf"^# # {number} · (.+)$", lesson.source.read_text(encoding="utf-8"), re.MULTILINE)
            if head:
                return f"lesson {number}, {head[1]}", lesson.learner.name
        return f"lesson {number}, {self.lessons[number]} (planned)", ""

    def lesson_link(self, number: str) -> str:
        """The lesson in Markdown: a link to its notebook where there is one."""
        text, target = self.lesson_text(number)
        return f"[{text}]({target})" if target else text

    def markdown(self) -> str:
        """The whole guide in words, folded: the chart's numbered questions with their answers, then what to do."""
        parts = [
            "<details><summary>The flow chart in words, and what to do in each case</summary>",
            *self._questions(),
            "| Kind | In the survey's words | What to do | Where |\n|---|---|---|---|\n"
            + "\n".join(
                f"| {r.kind} | {r.survey} | {r.advice} | {self.lesson_link(r.lesson)} |"
                for r in self.recommendations.values()
            ),
            "</details>",
        ]
        return "\n\n".join(parts) + "\n"

    def _questions(self) -> Iterator[str]:
        order = FlowChart(self).order
        for n, name in enumerate(order, 1):
            lines = [f"**{n}. {self.questions[name].text}**\n"]
            for answer in self.questions[name].answers:
                end = self.recommendations.get(answer.next)
                leads = f"*{end.kind}*, {self.lesson_link(end.lesson)}" if end else ""
                lines.append(f"- {answer.text} → {leads or f'question {order.index(answer.next) + 1}'}")
            yield "\n".join(lines)

    def show(self) -> None:
        """Shows the guide as flow chart and in words, and then the widget; without a kernel only the first two."""
        words = f"Flow chart of the guide: {len(self.questions)} questions; the text below says the same."
        plots.publish({"text/html": FlowChart(self).html(), "text/plain": words})
        words = "Decision guide: run this cell to answer it question by question."
        show_with_text(GuideView(self).box, self.markdown(), words)


class Line(NamedTuple):
    """A line to a question: how far from the boxes it runs, 0 the nearest, and the rows of the answers it leaves."""

    lane: int
    rows: tuple[int, ...]


class FlowChart:
    """The whole guide as a flow chart: numbered questions with their answers, and right of them what these come to.

    An outcome is a link to its lesson; a line to a question that follows runs left of the boxes. HTML in one grid: rows
    are as high as their texts, whatever the width. JupyterLab takes SVG and style sheets out of a notebook that it does
    not trust, so each style stands at its element; where these go, too, the texts are left in their order. White as
    the figures are, with colours of its own, so that it can be read on a dark page.

    order: the questions' names, each after all that lead to it, a first answer's branch before the others'.
    rows: the row of each question; its answers follow, and a row above is free. lines: to each question but the first;
    shorter ones run nearer to the boxes, and no two in the same place.
    """

    LANE, BOXES = "11px ", "10px minmax(0,1fr) 26px minmax(0,1fr)"  # columns
    COLORS = ("#555555", plots.COLORS[1], plots.COLORS[0], plots.COLORS[2], "#8a4f7d")  # of lines, by their lane
    ALL = (
        "display:grid;box-sizing:border-box;max-width:900px;padding:0 14px 14px;font-size:12px;line-height:1.35;"
        "background:#ffffff;color:#222222;border:1px solid #cccccc;border-radius:10px"
    )
    QUESTION = "padding:5px 10px;background:#e6f0f8;color:#003a5c;border:2px solid #0072B2;border-radius:8px 8px 8px 0"
    ANSWER = "display:flex;align-items:center;padding:4px 10px;border:1px solid #0072B2;border-width:0 2px 1px"
    OUTCOME = "display:block;margin:3px 0;padding:3px 10px;color:#00513d;border-radius:8px;text-decoration:none;"

    def __init__(self, guide: Guide) -> None:
        self.guide = guide
        self.order: list[str] = []
        self._visit(guide.start)
        self.order.reverse()
        self.rows: dict[str, int] = {}
        came: dict[str, list[int]] = {}
        free = 1
        for name in self.order:
            self.rows[name] = free + 1
            answers = guide.questions[name].answers
            for row, answer in enumerate(answers, free + 2):
                came.setdefault(answer.next, []).append(row)
            free += 2 + len(answers)
        self.lines: dict[str, Line] = {}
        for name in sorted(self.order[1:], key=lambda name: self.rows[name] - came[name][0]):
            beside = {
                line.lane
                for other, line in self.lines.items()
                if line.rows[0] <= self.rows[name] and came[name][0] <= self.rows[other]
            }
            self.lines[name] = Line(min(set(range(len(self.order))) - beside), tuple(came[name]))
        # Columns: a lane each, one for the arrowheads, then questions and answers, arrows, outcomes.
        self.lanes = 1 + max((line.lane for line in self.lines.values()), default=-1)
        self.column = self.lanes + 2

    def _visit(self, name: str) -> None:
        for answer in reversed(self.guide.questions[name].answers):
            if answer.next in self.guide.questions and answer.next not in self.order:
                self._visit(answer.next)
        self.order.append(name)

    def html(self) -> str:
        """The chart as one `div`."""
        cells = [*self._boxes(), *self._lines()]
        columns = self.LANE * self.lanes + self.BOXES
        return "\n".join([f'<div style="{self.ALL};grid-template-columns:{columns}">', *cells, "</div>"])

    def _boxes(self) -> Iterator[str]:
        """Questions, answers and outcomes, in the order in which they are read."""
        for n, name in enumerate(self.order, 1):
            row, question = self.rows[name], self.guide.questions[name]
            yield _cell(row - 1, self.column, "height:14px")
            yield _cell(row, f"{self.column} / -1", self.QUESTION, f"<b>{n}. {html.escape(question.text)}</b>")
            for below, answer in enumerate(question.answers, row + 1):
                yield _cell(below, self.column, self.ANSWER, html.escape(answer.text))
                if end := self.guide.recommendations.get(answer.next):
                    yield _cell(below, self.column + 1, f"align-self:center;border-top:2px solid {self.COLORS[0]}")
                    yield _arrowhead(below, self.column + 1, self.COLORS[0])
                    yield _cell(below, self.column + 2, "align-self:center", self._outcome(end))
                else:
                    text = f"go on with question {self.order.index(answer.next) + 1}"
                    yield _cell(below, f"{self.column + 1} / -1", "align-self:center;padding:4px 9px", text)
            yield _cell(row + len(question.answers), self.column, "border-bottom:2px solid #0072B2")

    def _outcome(self, end: Recommendation) -> str:
        """The box of an outcome: a link where its lesson exists, dashed where it is planned."""
        lesson, target = self.guide.lesson_text(end.lesson)
        kind, lesson = f"<b>{html.escape(end.kind)}</b><br>", html.escape(lesson)
        if not target:
            return f'<div style="{self.OUTCOME}border:2px dashed #777777">{kind}{lesson}</div>'
        style = f"{self.OUTCOME}border:2px solid #009E73;background:#e5f4ef"
        return f'<a href="{target}" style="{style}">{kind}<u>{lesson}</u></a>'

    def _lines(self) -> Iterator[str]:
        """The lines to questions: from the middle of each answer's row into a lane, down, and into the question's."""
        for name, (lane, rows) in self.lines.items():
            color, end = self.COLORS[lane % len(self.COLORS)], self.rows[name]
            edge, first = f"2px solid {color}", self.lanes - lane
            columns = f"{first} / {self.column}"
            half = f"box-sizing:border-box;height:50%;border-left:{edge}"
            yield _cell(rows[0], columns, f"{half};align-self:end;border-top:{edge};border-top-left-radius:8px")
            yield from (_cell(row, columns, f"align-self:center;border-top:{edge}") for row in rows[1:])
            yield _cell(f"{rows[0] + 1} / {end}", first, f"border-left:{edge}")
            yield _cell(end, columns, f"{half};align-self:start;border-bottom:{edge};border-bottom-left-radius:8px")
            yield _arrowhead(end, self.column - 1, color)


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
        self.radios: list[Chooser] = []
        self._titles: list[widgets.HTML] = []  # kept: what is a new object is drawn anew, and loses the focus
        self._go_on()

    def _go_on(self) -> None:
        """Shows the next question, or the recommendation; screen readers announce what stands below the questions."""
        where, place, text = self.guide.follow(self.answers), len(self.radios), ""
        if isinstance(where, GuideQuestion):
            radio = radio_buttons([answer.text for answer in where.answers], where.text)
            radio.observe(lambda _: self._answered(place), names="value")
            self.radios.append(radio)
            self._titles.append(widgets.HTML(f"<b>{place + 1}. {html.escape(where.text)}</b>"))
        else:
            lesson, _ = self.guide.lesson_text(where.lesson)
            texts = (html.escape(each) for each in (where.kind, where.advice, where.survey, lesson))
            text = "<b>{}.</b> {} In the survey: {}. See {}.".format(*texts)
        self.result.value = status_line(text, escape=False)
        asked = chain.from_iterable(zip(self._titles, self.radios, strict=True))
        self.box.children = [*asked, self.result, self.again]

    def _answered(self, place: int) -> None:
        if self.radios[place].value is not None:
            del self.radios[place + 1 :], self._titles[place + 1 :]
            self._go_on()


def _cell(rows: int | str, columns: int | str, style: str, content: str = "") -> str:
    """An element of the flow chart at its place in the grid."""
    return f'<div style="grid-row:{rows};grid-column:{columns};{style}">{content}</div>'


def _arrowhead(row: int, column: int, color: str) -> str:
    """A triangle that points to the box right of it: the left border of an element without width."""
    sides = "border-top:5px solid transparent;border-bottom:5px solid transparent"
    return _cell(
        row, column, f"align-self:center;justify-self:end;width:0;height:0;border-left:8px solid {color};{sides}"
    )


SHOWN = 4  # faces a side


@plots.style()
def four_kinds(faces: FaceSet, seed: int = 0) -> Figure:
    """One row for each kind of transfer: four faces of the source and four of the target, with labels or without.

    faces: with gender and age band. The target of domain adaptation is darkened. In the source of sample selection
    bias three in four are children. Which faces are shown is drawn; none comes twice in a row.
    """
    rng = np.random.default_rng(seed)
    young = faces.labels["age"].isin(["0-2", "3-9"]).to_numpy()
    children, others = (rng.permutation(np.flatnonzero(which)) for which in (young, ~young))
    biased = np.concatenate([children[: SHOWN - 1], others])[: 2 * SHOWN]
    drawn = [rng.permutation(len(faces))[: 2 * SHOWN] for _ in range(3)]
    kinds = ("multi-task learning", "self-taught learning", "domain adaptation", "sample selection bias")
    fig, axes = plots.figure(len(kinds), 1, size=(plots.WIDEST, 6.6))
    for kind, axis, rows in zip(kinds, axes, [*drawn, biased], strict=True):
        images, labels = faces.select(rows).images, faces.labels.iloc[rows]
        gender, age = labels["gender"].to_numpy(), labels["age"].to_numpy()
        none = np.array(["no label"] * SHOWN, dtype=object)
        captions = [*gender[:SHOWN], *none]
        if kind == "multi-task learning":
            captions[SHOWN:] = age[SHOWN:]
        elif kind == "self-taught learning":
            captions = [*none, *gender[SHOWN:]]
        elif kind == "domain adaptation":
            images[SHOWN:] = low_light(faces.select(rows[SHOWN:]), light=0.4).images
        else:
            short = [band.replace("more than 70", "70+") for band in age]
            captions = [f"{text}\n(age {band})" for text, band in zip(captions, short, strict=True)]
        axis.set_axis_off()
        for place, (image, caption) in enumerate(zip(images, captions, strict=True)):
            left = place + (0.5 if place >= SHOWN else 0)
            axis.imshow(image.transpose(1, 2, 0), extent=(left + 0.03, left + 0.97, 1, 0.06))
            axis.text(left + 0.5, 1.06, caption, ha="center", va="top", fontsize=10)
        axis.text(0, -0.03, f"{kind}: source", fontweight="bold")
        axis.text(SHOWN + 0.5, -0.03, "target", fontweight="bold")
        axis.set(xlim=(0, 2 * SHOWN + 0.5), ylim=(1.5, -0.25))
    return fig


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
        for place, (name, rows) in enumerate({"source": source, "target": target}.items()):
            x, y = (rows @ np.stack([right, up * np.sign(up.sum() or 1)], axis=1)).T
            look = {"color": plots.COLORS[place], "marker": plots.MARKERS[place], "s": 6, "alpha": 0.6, "linewidths": 0}
            axis.scatter(x, y, label=name, **look)
        axis.set(title=title, xlabel="from mean to mean", ylabel="most variance beside it")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False, ncols=2, fontsize=9, markerscale=2.5)
    return fig


def guide() -> Guide:
    """The decision guide of the course."""
    return read_guide(FILE)


def read_guide(path: Path) -> Guide:
    """Reads and checks a guide; raises LessonError that names the file and the entry that breaks a rule."""
    return read_file(Guide, path)
