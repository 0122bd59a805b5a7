"""The decision guide: every way ends in one recommendation, all is reached, and chart and widget say what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest

from facekit.course import lesson
from facekit.course.folders import find_lessons
from facekit.errors import LessonError
from facekit.show import plots
from facekit.show.widgets import Chooser

FIGURES = lesson("02").figures
DATA = json.loads(FIGURES.FILE.read_text(encoding="utf-8"))
GUIDE = FIGURES.guide()


def test_domains_are_seen_from_the_same_side():
    points = np.random.default_rng(0).normal(size=(5, 3))
    fig = FIGURES.domain_clouds({"before": points, "after": points + [3, 0, 0]}, points + [3, 0, 0])
    before, after = ([np.asarray(cloud.get_offsets()) for cloud in axis.collections] for axis in fig.axes)
    assert np.allclose(after[0], after[1]) and np.allclose(before[1], after[1])
    assert np.allclose(before[0][:, 0] + 3, before[1][:, 0]) and np.allclose(before[0][:, 1], before[1][:, 1])


class Route(NamedTuple):
    """One way through the guide: the questions' names with the answers' texts, and the recommendation's name."""

    steps: tuple[tuple[str, str], ...]
    end: str


def paths(name: str = GUIDE.start) -> Iterator[Route]:
    """Every way from question `name` to a recommendation, in the order of the answers."""
    for answer in GUIDE.questions[name].answers:
        step = (name, answer.text)
        if answer.next in GUIDE.recommendations:
            yield Route((step,), answer.next)
        else:
            yield from (Route((step, *path.steps), path.end) for path in paths(answer.next))


def numbers(route: Route) -> list[int]:
    """The answers of a route as numbers."""
    return [[answer.text for answer in GUIDE.questions[name].answers].index(text) for name, text in route.steps]


def test_every_route_ends_in_exactly_one_recommendation_and_all_are_reached():
    routes = list(paths())
    for route in routes:
        answers = numbers(route)
        for length in range(len(answers)):
            assert isinstance(GUIDE.follow(answers[:length]), FIGURES.GuideQuestion)
        assert GUIDE.follow(answers) is GUIDE.recommendations[route.end]
    assert {route.end for route in routes} == set(GUIDE.recommendations)
    assert {name for route in routes for name, _ in route.steps} == set(GUIDE.questions)
    assert len({route.steps for route in routes}) == len(routes)


def test_the_questions_that_the_map_rests_on_are_asked():
    text = " ".join(question.text for question in GUIDE.questions.values()).lower()
    for words in ("labels in the target", "source have labels", "same task", "inputs", "how many", "how big a model"):
        assert words in text
    kinds = {recommendation.kind.split(",")[0] for recommendation in GUIDE.recommendations.values()}
    assert {"Multi-task learning", "Self-taught learning", "Domain adaptation", "Sample selection bias"} <= kinds


def test_a_lesson_that_exists_is_a_link_with_its_own_title_and_a_planned_one_is_text():
    existing = {lesson.number: lesson for lesson in find_lessons()}
    for number in GUIDE.lessons:
        text = GUIDE.lesson_link(number)
        if number in existing:
            target = re.fullmatch(r"\[.*\]\((.+)\)", text)[1]
            assert (existing[number].root / target) == existing[number].learner
            head = existing[number].source.read_text(encoding="utf-8").split("\n")[1]
            own = head.removeprefix(f"# # {number} · ")
            assert own != head and text.startswith(f"[lesson {number}, {own}]")
        else:
            assert "](" not in text and text.endswith("(planned)")
    assert set(GUIDE.lessons) == {recommendation.lesson for recommendation in GUIDE.recommendations.values()}


def test_the_text_has_every_question_answer_and_recommendation():
    text = GUIDE.markdown()
    for question in GUIDE.questions.values():
        assert question.text in text and all(answer.text in text for answer in question.answers)
    for recommendation in GUIDE.recommendations.values():
        assert recommendation.advice in text
    ends = [line for line in text.splitlines() if "→" in line]
    assert len(ends) == len(list(paths()))
    for path, end in zip(paths(), ends, strict=True):
        assert GUIDE.lesson_link(GUIDE.recommendations[path.end].lesson) in end


class Parts(HTMLParser):
    """The flow chart's elements as (name, attributes) and its texts, each with the address that it links to or none."""

    def __init__(self, guide=GUIDE):
        super().__init__()
        self.elements, self.texts, self.open, self.link = [], [], [], ""
        self.feed(FIGURES.FlowChart(guide).html())
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag != "br":
            self.open.append(tag)
        self.link = dict(attrs).get("href", self.link)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        self.link = "" if tag == "a" else self.link

    def handle_data(self, data):
        if data.strip():
            self.texts.append((data.strip(), self.link))


def test_the_chart_says_in_order_every_question_answer_and_outcome_and_nothing_else():
    """Read from `guide.json`, so that neither can say what the other does not."""
    order, expected = FIGURES.FlowChart(GUIDE).order, []
    assert sorted(order) == sorted(DATA["questions"]) and order[0] == DATA["start"]
    for n, name in enumerate(order, 1):
        expected.append((f"{n}. {DATA['questions'][name]['text']}", ""))
        for answer in DATA["questions"][name]["answers"]:
            expected.append((answer["text"], ""))
            if answer["next"] in DATA["questions"]:
                later = order.index(answer["next"]) + 1
                assert later > n  # lines lead downwards
                expected.append((f"go on with question {later}", ""))
            else:
                end = DATA["recommendations"][answer["next"]]
                text, target = GUIDE.lesson_text(end["lesson"])
                expected += [(end["kind"], target), (text, target)]
    assert Parts().texts == expected
    assert {text for text, _ in expected} >= {end["kind"] for end in DATA["recommendations"].values()}


def test_the_charts_links_lead_to_notebooks_beside_both_copies():
    targets = {attributes["href"] for tag, attributes in Parts().elements if tag == "a"}
    existing = {lesson.number: lesson.learner for lesson in find_lessons()}
    assert targets == {existing[end.lesson].name for end in GUIDE.recommendations.values() if end.lesson in existing}
    here = lesson("02")
    for target in targets:
        assert (here.learner.parent / target).is_file() and (here.solutions.parent / target).is_file()


def test_a_planned_lesson_is_no_link_and_a_text_is_no_markup(tmp_path):
    data = json.loads(json.dumps(DATA))
    data["lessons"]["77"], data["recommendations"]["scratch"]["lesson"] = "Not yet", "77"
    data["questions"]["source"]["text"] = "<b>More & less</b>?"
    path = tmp_path / "guide.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    texts = Parts(FIGURES.read_guide(path)).texts
    assert ("lesson 77, Not yet (planned)", "") in texts
    assert any(text.endswith(data["questions"]["source"]["text"]) for text, _ in texts)


def test_the_chart_keeps_to_what_an_untrusted_notebook_keeps():
    """JupyterLab drops SVG, style sheets and scripts there, and properties and values that its sanitiser lacks."""
    assert {tag for tag, _ in Parts().elements} == {"div", "a", "b", "u", "br"}
    for _, attributes in Parts().elements:
        assert set(attributes) <= {"style", "href"}
        assert not re.search(r"var\(|url\(|rgb|calc\(|/\*|<", attributes.get("style", ""))


def test_no_two_lines_of_the_chart_run_in_the_same_place():
    chart = FIGURES.FlowChart(GUIDE)
    assert set(chart.lines) == set(DATA["questions"]) - {DATA["start"]}
    for (one, line), (other, beside) in combinations(chart.lines.items(), 2):
        apart = chart.rows[one] < beside.rows[0] or chart.rows[other] < line.rows[0]
        assert line.lane != beside.lane or apart
    came = sorted((name, row) for name, line in chart.lines.items() for row in line.rows)
    assert came == sorted(
        (answer.next, chart.rows[name] + n)
        for name, question in GUIDE.questions.items()
        for n, answer in enumerate(question.answers, 1)
        if answer.next in GUIDE.questions
    )


def test_the_widget_leads_along_every_route():
    for route in paths():
        view = FIGURES.GuideView(GUIDE)
        for number in numbers(route):
            view.radios[-1].value = number
        found = GUIDE.recommendations[route.end]
        assert view.answers == numbers(route) and len(view.radios) == len(route.steps)
        assert found.kind in view.result.value and f"lesson {found.lesson}" in view.result.value
        shown = [child for child in view.box.children if isinstance(child, Chooser)]
        assert shown == view.radios


def test_a_changed_answer_takes_back_what_followed_and_the_button_takes_back_all():
    view = FIGURES.GuideView(GUIDE)
    longest = max(paths(), key=lambda route: len(route.steps))
    for number in numbers(longest):
        view.radios[-1].value = number
    first = view.radios[0]
    first.value = 1 - first.value
    assert len(view.radios) == 2 and view.radios[1].value is None and "<b>" not in view.result.value
    view.again.click()
    assert len(view.radios) == 1 and view.answers == []


def test_an_answer_leaves_the_questions_above_as_they_are():
    """The front end draws again what is no longer the same object; a key pressed there would then reach nothing."""
    view = FIGURES.GuideView(GUIDE)
    for number in numbers(max(paths(), key=lambda route: len(route.steps))):
        above = view.box.children[: 2 * len(view.radios)]
        view.radios[-1].value = number
        assert view.box.children[: len(above)] == above


def test_answers_that_lead_nowhere_are_refused():
    with pytest.raises(LessonError, match="has answers 0 to 1, not 2"):
        GUIDE.follow([0, 2])
    shortest = numbers(min(paths(), key=lambda route: len(route.steps)))
    with pytest.raises(LessonError, match="goes on"):
        GUIDE.follow([*shortest, 0])
    assert isinstance(GUIDE.follow(shortest), FIGURES.Recommendation)


def test_show_publishes_chart_and_text_before_the_widget(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "publish", lambda bundle, metadata=None: shown.append(bundle))
    GUIDE.show()
    chart, words, widget = shown
    assert chart["text/html"] == FIGURES.FlowChart(GUIDE).html() and "Flow chart" in chart["text/plain"]
    assert words["text/plain"] == GUIDE.markdown() and "run this cell" in widget["text/plain"]


def _circle(data):
    data["questions"]["how_big"]["answers"][0]["next"] = "how_many"


def _dead_end(data):
    data["questions"]["how_big"]["answers"][0]["next"] = "nowhere"


def _lost(data):
    data["recommendations"]["more"] = dict(data["recommendations"]["scratch"])


def _no_title(data):
    data["recommendations"]["scratch"]["lesson"] = "77"


def _one_answer(data):
    del data["questions"]["source_labels"]["answers"][1]


def _long_answer(data):
    data["questions"]["source_labels"]["answers"][1]["text"] = "very " * 30


def _no_start(data):
    data["start"] = "scratch"


def _unknown_key(data):
    data["recommendations"]["scratch"]["link"] = "x"


@pytest.mark.parametrize(
    "spoil, says",
    [
        (_circle, "circle: .*how_many → how_big → how_many"),
        (_dead_end, "'nowhere' is neither"),
        (_lost, "no answer leads to more"),
        (_no_title, "lesson '77'"),
        (_one_answer, "'source_labels': has 1 choices; write two to six"),
        (_long_answer, "characters; at most 110"),
        (_no_start, "starts at 'scratch'"),
        (_unknown_key, "'scratch': unknown key 'link'"),
    ],
)
def test_a_guide_that_breaks_a_rule_is_refused(tmp_path, spoil, says):
    data = json.loads(json.dumps(DATA))
    spoil(data)
    path = tmp_path / "guide.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(LessonError, match=says):
        FIGURES.read_guide(path)


def test_who_has_several_tasks_and_labels_for_all_is_sent_to_multi_task_learning():
    """Gender and age from the same photos: no second data set is asked for."""
    tasks = GUIDE.follow([])
    assert "gender and age" in tasks.text
    several = next(n for n, answer in enumerate(tasks.answers) if "my own data have labels" in answer.text)
    ends = {GUIDE.follow([several, n]).lesson for n in range(3)}
    assert ends == {"05", "06", "07"}
