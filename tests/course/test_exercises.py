"""Exercises and quizzes: what a learner reads for every kind of answer, and that no file of them breaks the rules."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from damage import accidents
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.course import exercises, folders, quizzes
from facekit.course.exercises import NotYet, as_number, as_tensor, as_text, as_whole_number, define
from facekit.errors import LessonError

LESSONS = folders.find_lessons()
EXERCISES = {number: found for lesson in LESSONS for number, found in exercises.exercises_of(lesson).items()}


def make(judge, number="97.1", **options):
    """An exercise around `judge`, with hints and answers that do not matter."""
    options = {"hints": ("first", "second"), "right": list, "wrong": list} | options
    return define(number, "Title", **options)(judge)


def is_three(answer):
    exercises.require(as_number(answer) == 3, "it is not three.")
    return "three it is."


# --- verdicts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (3, "correct: three it is."),
        (np.float32(3), "correct: three it is."),
        (torch.tensor([3]), "correct: three it is."),
        (4, "not yet: it is not three. (Seen: 4.)"),
        ("3", "not yet: expected a number, not a str. (Seen: '3'.)"),
        (True, "not yet: expected a number, not a bool. (Seen: True.)"),
        (torch.zeros(2, 3), "not yet: expected a number, not a Tensor. (Seen: a float32 array of shape (2, 3).)"),
    ],
)
def test_the_line_says_the_outcome_and_what_was_seen(answer, line):
    assert str(make(is_three).verdict(answer)) == line


def stub_with_docstring(x):
    """To be written."""


@pytest.mark.parametrize(
    "answer",
    [..., None, NotImplemented, [1, ...], (..., 2), {"a": ...}, stub_with_docstring, lambda x: ..., lambda x: None],
)
def test_no_answer_is_not_attempted(answer):
    verdict = make(lambda f: exercises.require(f(1) == 1, "no")).verdict(answer)
    assert verdict.outcome == "not attempted" and "2 hints" in verdict.message


def test_not_implemented_error_is_not_attempted():
    def answer(x):
        raise NotImplementedError("TODO")

    assert make(lambda f: f(1) and None).verdict(answer).outcome == "not attempted"


def test_a_function_that_works_in_place_may_return_none():
    def judge(function):
        values = [1]
        function(values)
        exercises.require(values == [2], "not doubled.")

    def double(values):
        values[0] *= 2

    def forget(values):
        values[0] += 0

    task = make(judge, in_place=True)
    assert task.verdict(double).outcome == "correct"
    assert task.verdict(forget).outcome == "not yet"


def test_an_error_of_the_learner_names_its_line():
    def answer(x):
        y = x + 1
        return y / 0

    verdict = make(lambda f: f(1) and None).verdict(answer)
    assert verdict.outcome == "not yet" and "ZeroDivisionError: division by zero, in its line 3" in verdict.message


def test_an_error_of_the_check_is_no_traceback():
    verdict = make(lambda answer: answer["key"] and None).verdict([1, 2])
    assert verdict.outcome == "not yet" and "the check could not use the answer, TypeError" in verdict.message


ANSWERS = st.one_of(
    st.integers(), st.floats(), st.text(max_size=5), st.booleans(), st.binary(max_size=3),
    st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.sampled_from([np.zeros(3), np.zeros((0, 2)), torch.ones(2, 2), torch.tensor(1.5), pd.DataFrame({"a": [1]}), int,
                     len, lambda: 1, lambda *a: a, lambda *a: a[0], torch.nn.Linear(2, 2), object(), float("nan"), 1j]),
)  # fmt: skip


@pytest.mark.parametrize("number", [*EXERCISES, "97.1"])
@settings(max_examples=40)
@given(answer=ANSWERS)
def test_no_answer_whatever_ends_in_a_traceback(number, answer):
    task = EXERCISES.get(number) or exercises.Exercise("97.1", "", ("h",), is_three, list, list)
    verdict = task.verdict(answer)
    assert verdict.outcome in ("correct", "not yet", "not attempted")
    assert " at 0x" not in str(verdict), "an address would differ in every run"


@pytest.mark.parametrize(
    ("convert", "good", "bad", "says"),
    [
        (as_whole_number, 3.0, 3.5, "whole number"),
        (as_text, " a ", 3, "quotation marks"),
        (lambda answer: as_tensor(answer, (2,)).tolist(), np.zeros(2), torch.zeros(3), r"\(2,\), not \(3,\)"),
        (as_number, np.int64(2), np.zeros(2), "expected a number"),
    ],
)
def test_answers_are_taken_in_any_usual_form(convert, good, bad, says):
    convert(good)
    with pytest.raises(NotYet, match=says):
        convert(bad)


# --- hints, numbers ---------------------------------------------------------------------------------------------------


def test_hints_come_one_after_another(capsys):
    task = make(is_three)
    for _ in range(3):
        task.hint()
    task.hint(1)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Hint")]
    assert said == ["Hint 1 of 2: first", "Hint 2 of 2: second", "Hint 2 of 2: second", "Hint 1 of 2: first"]
    with pytest.raises(LessonError, match="hints 1 to 2, not 3"):
        task.hint(3)


def test_numbers_are_well_formed():
    with pytest.raises(LessonError, match="lesson, dot, number"):
        make(is_three, number="3.1")
    with pytest.raises(LessonError, match="at least one hint"):
        make(is_three, number="97.2", hints=())
    with pytest.raises(LessonError, match="this lesson has 03.1, 03.2"):
        exercises.exercise("03.9")


@pytest.mark.parametrize(("number", "says"), [("97.1", "97.1 is defined twice"), ("98.1", "98.1 has the number of an")])
def test_numbers_are_those_of_the_lesson_and_used_once(tmp_path, number, says):
    lesson = folders.Lesson(tmp_path, "97_x")
    lesson.folder.mkdir(parents=True)
    text = "from facekit.course.exercises import define\n"
    text += "".join(
        f"{name} = define({which!r}, 'T', hints=['h'], right=list, wrong=list)(len)\n"
        for name, which in (("one", "97.1"), ("other", number))
    )
    (lesson.folder / "exercises.py").write_text(text, encoding="utf-8")
    with pytest.raises(LessonError, match=says):
        exercises.exercises_of(lesson)


# --- the exercises of the course ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", EXERCISES)
def test_right_answers_are_correct_and_typical_mistakes_are_named(number):
    task = EXERCISES[number]
    right, wrong = list(task.right()), list(task.wrong())
    assert right and len(wrong) >= 2, "write right answers and at least two typical mistakes"
    for answer in right:
        verdict = task.verdict(answer)
        assert verdict.outcome == "correct", verdict
    for answer, fragment in wrong:
        verdict = task.verdict(answer)
        assert verdict.outcome == "not yet" and fragment in verdict.message, (fragment, str(verdict))
    assert task.verdict(...).outcome == "not attempted"


# --- quizzes --------------------------------------------------------------------------------------------------------

GOOD = {
    "questions": [
        {
            "question": "Is `x` *less* than 3 & more?",
            "choices": [
                {"text": "Yes, `x < 3`.", "why": "Because *so*.", "right": True},
                {"text": "No.", "why": "It is not <b>."},
            ],
        }
    ],
}


def write_quiz(folder, change=None):
    data = json.loads(json.dumps(GOOD))
    if change:
        change(data)
    path = folder / "97_x" / "quiz.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def first(data):
    return data["questions"][0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.update(questions=[]), "'questions' is empty"),
        (lambda d: d.update(more=1), "unknown key 'more'"),
        (lambda d: first(d).pop("question"), "question 1: 'question' is missing"),
        (lambda d: first(d)["choices"].pop(), "two to six"),
        (lambda d: first(d)["choices"][1].update(right=True), "2 choices are marked right"),
        (lambda d: first(d)["choices"][0].pop("right"), "0 choices are marked right"),
        (lambda d: first(d)["choices"][1].pop("why"), "choice 2: 'why' is missing"),
        (lambda d: first(d)["choices"][1].update(why=" "), "'why' is empty"),
        (lambda d: first(d)["choices"][1].update(text="x" * 111), "at most 110"),
        (lambda d: first(d)["choices"][1].update(text="Yes, `x < 3`."), "same text"),
        (lambda d: first(d)["choices"][1].update(right="no"), "'right' must be a bool"),
        (lambda d: first(d).update(choices=["Yes", "No"]), "expected an object"),
    ],
)
def test_a_malformed_quiz_names_file_question_and_choice(tmp_path, change, says):
    with pytest.raises(LessonError, match="97_x/quiz.json") as caught:
        quizzes.read_quiz(write_quiz(tmp_path, change))
    assert says in str(caught.value)


def test_whatever_happens_to_a_quiz_it_can_be_shown_or_is_told(tmp_path):
    for what in accidents(write_quiz(tmp_path), 300):
        try:
            made = quizzes.read_quiz(tmp_path / "97_x" / "quiz.json")
        except LessonError as error:
            assert "97_x/quiz.json" in str(error), what
        else:
            assert made.markdown() and all(question.answer < 6 for question in made.questions), what


def test_texts_by_name_are_texts(tmp_path):
    @dataclass
    class Card:
        words: dict[str, str]

    for words, good in (({"a": "b"}, True), ({"a": 1}, False), ({"a": ["b"]}, False), ({"a": None}, False)):
        (tmp_path / "x.json").write_text(json.dumps({"words": words}))
        if good:
            assert quizzes.read_file(Card, tmp_path / "x.json").words == words
        else:
            with pytest.raises(LessonError, match="word 'a' must be a str"):
                quizzes.read_file(Card, tmp_path / "x.json")


def test_a_quiz_that_is_not_there_or_not_json(tmp_path):
    path = tmp_path / "quiz.json"
    with pytest.raises(LessonError, match="not readable as JSON"):
        quizzes.read_quiz(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(LessonError, match="not readable as JSON"):
        quizzes.read_quiz(path)


def test_the_widget_and_its_markdown_say_the_same(tmp_path):
    made = quizzes.read_quiz(write_quiz(tmp_path))
    text = made.markdown()
    view = quizzes.QuizView(made)
    assert view.radios[0].value is None, "no choice is made for the learner"
    view.buttons[0].click()
    assert "Choose an answer first" in view.explanations[0].value
    for i, choice in enumerate(made.questions[0].choices):
        view.radios[0].value = i
        view.buttons[0].click()
        verdict = "Right" if choice.right else "Not right"
        assert f"<b>{verdict}.</b>" in view.explanations[0].value
        assert f"{int(choice.right)} of 1 right" in view.score.value
        assert f"is {'right' if choice.right else 'wrong'}: {choice.why}" in text and f"{choice.text}" in text
    assert "<em>so</em>" not in view.explanations[0].value and "&lt;b&gt;" in view.explanations[0].value
    assert view.radios[0].texts[0] == "A. Yes, x < 3."
    assert 'aria-live="polite"' in view.score.value


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_the_quizzes_of_the_course(lesson):
    questions = quizzes.quiz(lesson.number).questions
    assert len(questions) >= 4
    assert len({question.answer for question in questions}) > 1, "the right choice is always in the same place"
    assert len({question.question for question in questions}) == len(questions)


def test_an_experiment_is_judged_by_its_form():
    made = exercises.define_experiment("99.3", "Your own", hints=("Begin with one seed.",), baseline="pixels")
    for answer in made.right():
        verdict = made.verdict(answer)
        assert verdict.outcome == "correct" and "own 0.720 ± 0.012" in verdict.message
    for answer, fragment in made.wrong():
        verdict = made.verdict(answer)
        assert verdict.outcome == "not yet" and fragment in verdict.message, verdict
    assert made.verdict(...).outcome == "not attempted"


def test_the_solution_is_shown_with_its_explanation_and_nothing_of_the_next(capsys):
    for each in folders.find_lessons():
        for number in exercises.exercises_of(each):
            exercises.exercise(number).solution()
            shown = capsys.readouterr().out
            assert shown.startswith("### ") and "```python" in shown and f'exercise("{number}").check(' in shown
            assert len(re.findall(r"^##+ ", shown, re.MULTILINE)) == 1 and shown.count(".check(") == 1
            assert "<solution>" not in shown and "## Quiz" not in shown
