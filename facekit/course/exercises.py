"""Exercises that check themselves: correct, not yet (and what was seen), or not attempted.

The exercises of a lesson live in its folder's `exercises.py`, each one function under `define`. A lesson calls them
explicitly, with the learner's value: nothing is read from or written to the notebook's variables.

    from facekit.course import exercise
    exercise("03.1").check(n_parameters)
    exercise("03.1").hint()
"""

from __future__ import annotations

import copy
import dis
import functools
import json
import math
import numbers
import re
import traceback
import types
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from facekit.course import tally
from facekit.course.folders import Lesson, lesson
from facekit.errors import LessonError
from facekit.evaluation.paired import with_spread
from facekit.show.plots import publish

Outcome = Literal["correct", "not yet", "not attempted"]


class NotYet(Exception):
    """Raised inside a check: the answer is wrong; the text names the likely mistake."""


class NotAttempted(Exception):
    """Raised inside a check: there is no answer yet."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a check and its explanation; `str` gives the line that the learner reads."""

    outcome: Outcome
    message: str = ""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.message}" if self.message else self.outcome


# --- what a check is written with -------------------------------------------------------------------------------


def require(condition: object, message: str) -> None:
    """Ends the check with 'not yet' and `message` unless `condition` is true."""
    if not bool(condition):
        raise NotYet(message)


def as_number(answer: object, what: str = "a number") -> float:
    """The answer as a float: a Python or NumPy number or a tensor of one element; 'not yet' for anything else."""
    if isinstance(answer, torch.Tensor | np.ndarray) and math.prod(answer.shape) == 1:
        answer = answer.item()
    if isinstance(answer, bool | np.bool_) or not isinstance(answer, numbers.Real):
        raise NotYet(f"expected {what}, not {kind_of(answer)}.")
    return float(answer)


def as_whole_number(answer: object) -> int:
    """The answer as an int; 'not yet' for anything that is no whole number."""
    number = as_number(answer, "a whole number")
    require(number.is_integer(), "expected a whole number.")
    return int(number)


def as_text(answer: object) -> str:
    """The answer as text without surrounding blanks; 'not yet' for anything that is no text."""
    if not isinstance(answer, str):
        raise NotYet(f"expected a text in quotation marks, not {kind_of(answer)}.")
    return answer.strip()


def as_tensor(answer: object, shape: tuple[int, ...] | None = None) -> torch.Tensor:
    """The answer as a tensor on the CPU, of the given shape; 'not yet' names the shape that was seen."""
    require(isinstance(answer, torch.Tensor | np.ndarray), f"expected a tensor, not {kind_of(answer)}.")
    tensor = torch.as_tensor(answer).detach().cpu()
    if shape is not None:
        require(tuple(tensor.shape) == shape, f"expected shape {shape}, not {tuple(tensor.shape)}.")
    return tensor


def kind_of(value: object) -> str:
    """The type of a value with its article: 'a list', 'an int'."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


# How an answer of a kind is shown, the first that fits; shapes and types instead of long contents.
_SHOWN: tuple[tuple[type | types.UnionType, Callable[[Any], str]], ...] = (
    (torch.Tensor | np.ndarray, lambda v: f"a {str(v.dtype).removeprefix('torch.')} array of shape {tuple(v.shape)}"),
    (pd.DataFrame, lambda v: f"a table of {len(v)} rows with columns {', '.join(map(str, v.columns))}"),
    (float | np.floating, lambda v: f"{float(v):.6g}"),
    (np.generic, lambda v: repr(v.item())),
    (torch.nn.Module, lambda v: f"a module, {type(v).__name__}"),
    (types.FunctionType, lambda v: f"the function {v.__name__}"),
    (type, lambda v: f"the class {v.__name__}"),
)


def seen(value: object) -> str:
    """One short line that says what an answer is."""
    if isinstance(value, torch.Tensor) and value.numel() == 1:
        return f"{value.item():.6g}"
    for kind, show in _SHOWN:
        if isinstance(value, kind):
            return show(value)
    text = repr(value)
    if len(text) <= 80 and " at 0x" not in text:
        return text
    return kind_of(value) + (f" of {len(value)}" if isinstance(value, Sized) else "")


# --- when is there no answer yet? ---------------------------------------------------------------------------------


def is_missing(value: object) -> bool:
    """Whether a value stands for 'nothing yet': `...`, None, NotImplemented, or a container that holds `...`."""
    if value is None or value is ... or value is NotImplemented:
        return True
    if isinstance(value, dict):
        value = list(value.values())
    return isinstance(value, list | tuple) and any(item is ... for item in value)


def is_stub(function: object) -> bool:
    """Whether a function does nothing: its body is a docstring, `...` or `pass`."""
    if not isinstance(function, types.FunctionType):
        return False
    idle = {"RESUME", "NOP", "CACHE", "RETURN_VALUE", "COPY_FREE_VARS", "MAKE_CELL"}
    returns_none = {"LOAD_CONST", "RETURN_CONST"}
    return all(
        step.opname in idle or (step.opname in returns_none and step.argval is None)
        for step in dis.get_instructions(function)
    )


def _watched(function: types.FunctionType, in_place: bool) -> Callable:
    """The learner's function, with 'no answer yet' and its own errors told apart from those of the check."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        try:
            result = function(*args, **kwargs)
        except NotImplementedError as error:
            raise NotAttempted from error
        except Exception as error:
            raise NotYet(f"{_where(error, function)}.") from error
        if is_missing(result) and not (in_place and result is None):
            raise NotAttempted
        return result

    return call


def _where(error: Exception, function: types.FunctionType) -> str:
    """'it raised ValueError: text, in its line 3', counting from the line of `def`."""
    what = f"it raised {type(error).__name__}: {error}".rstrip(": ")
    steps = traceback.walk_tb(error.__traceback__)
    lines = [line - function.__code__.co_firstlineno + 1 for frame, line in steps if frame.f_code is function.__code__]
    return f"{what}, in its line {lines[-1]}" if lines else what


# --- the exercise ---------------------------------------------------------------------------------------------------

Check = Callable[[Any], str | None]


@dataclass
class Exercise:
    """One exercise: how an answer is judged, its hints, and answers that a test tries.

    judge(answer) returns None, or a text that tells why the right answer is right; it ends early through
    `require` and the like. right() gives right answers; wrong() gives pairs of a typical wrong answer and a
    fragment of what the learner must then read. Both are functions so that nothing is computed at import.
    in_place: the answer is a function that works on what it is given and may return None.
    Raises LessonError for a malformed number and for no hints.
    """

    number: str
    title: str
    hints: Sequence[str]
    judge: Check
    right: Callable[[], Sequence[Any]]
    wrong: Callable[[], Sequence[tuple[Any, str]]]
    in_place: bool = False
    _hints_shown: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d\d\.[1-9]\d?", self.number):
            raise LessonError(f"exercise number {self.number!r}: write lesson, dot, number, as in '03.1'.")
        if not self.hints:
            raise LessonError(f"exercise {self.number}: needs at least one hint.")

    def verdict(self, answer: object) -> Verdict:
        """Judges an answer; never raises for what the learner did."""
        if is_missing(answer) or is_stub(answer):
            return self._not_attempted()
        watched = _watched(answer, self.in_place) if isinstance(answer, types.FunctionType) else answer
        try:
            praise = self.judge(watched)
        except NotAttempted:
            return self._not_attempted()
        except NotYet as mistake:
            return Verdict("not yet", f"{mistake} (Seen: {seen(answer)}.)")
        except Exception as error:  # an answer of a kind that the check did not think of must not end in a traceback
            problem = f"{type(error).__name__}: {error}".rstrip(": ")
            return Verdict("not yet", f"the check could not use the answer, {problem}. (Seen: {seen(answer)}.)")
        return Verdict("correct", praise or "")

    def _not_attempted(self) -> Verdict:
        hint = f"the first of {len(self.hints)} hints" if len(self.hints) > 1 else "a hint"
        return Verdict(
            "not attempted",
            "write your answer where the ... is, run that cell, then this one again. "
            f'Stuck? exercise("{self.number}").hint() gives {hint}.',
        )

    def check(self, answer: object) -> None:
        """Prints the verdict on an answer: one line that begins with correct, not yet or not attempted.

        In the folder to work in, a correct answer is noted (tally.py).
        """
        verdict = self.verdict(answer)
        print(verdict)
        if verdict.outcome == "correct" and (said := tally.note(self.number)):
            print(said)

    def hint(self, which: int | None = None) -> None:
        """Prints the next hint, or hint number `which` (1 is the first)."""
        if which is None:
            which = min(self._hints_shown + 1, len(self.hints))
        if not 1 <= which <= len(self.hints):
            raise LessonError(f"exercise {self.number} has hints 1 to {len(self.hints)}, not {which}.")
        self._hints_shown = which
        more = (
            f'exercise("{self.number}").hint() gives the next.'
            if which < len(self.hints)
            else f'That was the last; exercise("{self.number}").solution() shows the solution.'
        )
        print(f"Hint {which} of {len(self.hints)}: {self.hints[which - 1]}\n{more}")

    def solution(self) -> None:
        """Shows the solution with its explanation, from the notebook in lessons/solutions."""
        stored = lesson(self.number.partition(".")[0]).solutions
        cells = json.loads(stored.read_text(encoding="utf-8"))["cells"] if stored.is_file() else []
        texts = ((cell["cell_type"], "".join(cell["source"])) for cell in cells)
        whole = "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in texts)
        parts = re.split(r"^(?=##+ )", whole, flags=re.MULTILINE)
        asked = [part.rstrip() for part in parts if f'exercise("{self.number}").check(' in part]
        shown = asked[0] if asked else f"The solution is not in {stored.name} of lessons/solutions."
        publish({"text/markdown": shown, "text/plain": shown})


def define(number: str, title: str, **parts: Any) -> Callable[[Check], Exercise]:
    """Decorator that makes a check function the exercise with this number ('03.1').

    parts: hints, right, wrong and perhaps in_place of `Exercise`. Raises LessonError as it does.
    """
    return lambda judge: Exercise(number, title, judge=judge, **parts)


def define_values(
    number: str,
    title: str,
    *,
    hints: Sequence[str],
    right: Sequence[Any],
    mistakes: Sequence[tuple[Any, str]],
    praise: str,
    cases: Sequence[tuple] = ((),),
    asked: str = "",
    otherwise: str = "",
    others: Sequence[tuple[Any, str]] = (),
    run: Callable[..., Any] = lambda answer, *case: answer(*case) if callable(answer) else answer,
    read: Callable[[Any], Any] = as_number,
    in_place: bool = False,
) -> Exercise:
    """The exercise with this number, judged by values alone: the answer or, of a function, what it gives for `cases`.

    right: right answers; what the first one gives is wanted. mistakes: typical wrong answers, each with the sentence
    for whoever gets the same; of two that agree in a case the first counts. asked: the first case in words, before
    that sentence. otherwise: for any other value; by default what is expected. others: more wrong answers for the
    test, each with a fragment of what is read then. run: what is compared, of an answer and a case (a copy of it);
    by default what the answer gives. read: makes a number or a tensor of what comes back. in_place: see `Exercise`.
    """

    def value(answer: Any, case: tuple) -> float | torch.Tensor:
        return read(run(answer, *copy.deepcopy(case)))

    def judge(answer: Any) -> str:
        for place, case in enumerate(cases):
            found, wanted = value(answer, case), value(right[0], case)
            words = f"{asked} " if asked and not place else ""
            for mistake, sentence in mistakes:
                require(_same(found, wanted) or not _same(found, value(mistake, case)), words + sentence)
            where = f"for {', '.join(map(seen, case))} " if place else words
            shapes = [tuple(torch.as_tensor(each).shape) for each in (wanted, found)]
            require(shapes[0] == shapes[1], f"{where}expected shape {shapes[0]}, not {shapes[1]}.")
            require(_same(found, wanted), otherwise or f"{where}expected {_values(wanted)}, got {_values(found)}.")
        return praise

    wrong = [*mistakes, *others]
    return define(number, title, hints=hints, right=lambda: right, wrong=lambda: wrong, in_place=in_place)(judge)


def define_sorting(
    number: str,
    title: str,
    *,
    hints: Sequence[str],
    kinds: Sequence[str],
    cases: Mapping[str, tuple[str | tuple[str, ...], str]],
    ask: str,
    others: Sequence[Mapping[str, str]],
) -> Exercise:
    """The exercise with this number: a dictionary that says of which of `kinds` each case is.

    cases: by name, its kind (or all that are right, the usual one first) and why; all reasons together are what is read
    in the end. ask: what to ask oneself, for whoever is wrong about a case. others: wrong kinds of some cases, for the
    test.
    """
    accepted = {case: (kind,) if isinstance(kind, str) else kind for case, (kind, _) in cases.items()}
    solution = {case: first for case, (first, *_) in accepted.items()}

    def judge(answer: Any) -> str:
        require(isinstance(answer, dict), "expected the dictionary with an answer for every case.")
        for case, right_kinds in accepted.items():
            require(case in answer, f"there is no answer for {case!r}.")
            found = as_text(answer[case]).lower()
            require(found in kinds, f"{case}: {found!r} is none of {', '.join(kinds)}.")
            require(found in right_kinds, f"{case}: not {found}. {ask}")
        return "; ".join(f"{case}: {why}" for case, (_, why) in cases.items()) + "."

    first = next(iter(cases))
    wrong: list[tuple[Any, str]] = [({**solution, **changed}, next(iter(changed))) for changed in others]
    wrong += [({**solution, first: "transfer"}, "is none of"), ({first: solution[first]}, "no answer for")]
    wrong += [([first], "dictionary")]
    right = [solution, {case: f" {kind.title()}" for case, kind in solution.items()}]
    right += [{**solution, case: kind} for case, (_, *others_right) in accepted.items() for kind in others_right]
    return define(number, title, hints=hints, right=lambda: right, wrong=lambda: wrong)(judge)


def define_experiment(number: str, title: str, *, hints: Sequence[str], baseline: str, seeds: int = 3) -> Exercise:
    """An open exercise: a small experiment of the learner's own, of which the form is checked and not the outcome.

    The answer is a table as `over_seeds` makes it, one row a seed and one column a method, of shares from 0 to 1. It
    needs a column `baseline`, another one, and `seeds` rows or more. What it is worth, a rubric in the lesson says.
    """

    def judge(answer: Any) -> str:
        require(isinstance(answer, pd.DataFrame), "expected a table, as over_seeds(...) gives it.")
        require(answer.size, "the table is empty; run your experiment first.")
        require(len(answer) >= seeds, f"seeds: {len(answer)}, which has no spread; take {seeds} or more.")
        require(answer.index.is_unique, "the same seed stands there twice.")
        require(baseline in answer, f"the column {baseline!r} is missing: what does your method have to beat?")
        require(answer.shape[1] > 1, f"there is {baseline!r} alone; put the method of your own beside it.")
        values = answer.apply(pd.to_numeric, errors="coerce").to_numpy(float)
        require(np.isfinite(values).all(), "a value is missing or no number; every seed needs every method.")
        require((values >= 0).all() and (values <= 1).all(), "accuracies are shares from 0 to 1.")
        require(len(answer) == len(answer.drop_duplicates()), "two seeds have the same values; is the seed used?")
        rows = [
            f"{name} {mean:.3f} ± {error:.3f}" for name, mean, error in with_spread(answer)[["mean", "±"]].itertuples()
        ]
        return f"the form is right ({len(answer)} seeds; {', '.join(rows)}). Judge the content by the rubric."

    right = pd.DataFrame({"own": [0.7, 0.72, 0.74], baseline: [0.6, 0.62, 0.61]})
    wrong = [
        (right.iloc[:0], "empty"),
        (right.iloc[:1], "no spread"),
        (right.drop(columns=baseline), "is missing"),
        (right[[baseline]], "alone"),
        (right.assign(own=[0.7, math.nan, 0.7]), "every seed"),
        (right * 100, "from 0 to 1"),
        (right.iloc[[0, 0, 0]].reset_index(drop=True), "is the seed used"),
        (right.iloc[[0, 1, 1]], "twice"),
        ({"own": 0.7}, "expected a table"),
    ]
    return define(number, title, hints=hints, right=lambda: [right], wrong=lambda: wrong)(judge)


def _same(one: float | torch.Tensor, other: float | torch.Tensor) -> bool:
    """Whether two values are equal to some six digits; two NaNs are."""
    # A learner's tensor may lie on a device that has no float64.
    values = (value.cpu() if isinstance(value, torch.Tensor) else value for value in (one, other))
    one, other = (torch.as_tensor(value, dtype=torch.float64) for value in values)
    return one.shape == other.shape and torch.allclose(one, other, rtol=1e-6, atol=1e-7, equal_nan=True)


def _values(value: float | torch.Tensor) -> str:
    return str(value.tolist()) if isinstance(value, torch.Tensor) else f"{value:.4g}"


def exercises_of(lesson: Lesson) -> dict[str, Exercise]:
    """The exercises of a lesson by number; raises LessonError for a number of another lesson or one used twice."""
    found: dict[str, Exercise] = {}
    for each in vars(lesson.load("exercises")).values():
        if isinstance(each, Exercise):
            if each.number in found or not each.number.startswith(f"{lesson.number}."):
                what = "is defined twice" if each.number in found else "has the number of another lesson"
                raise LessonError(f"lesson {lesson.number}: exercise {each.number} {what}; give it another number.")
            found[each.number] = each
    return dict(sorted(found.items()))


def exercise(number: str) -> Exercise:
    """The exercise with this number ('03.1'); raises LessonError naming those that exist."""
    known = exercises_of(lesson(number.partition(".")[0]))
    if number not in known:
        raise LessonError(f"no exercise {number!r}; this lesson has {', '.join(known) or 'none'}.")
    return known[number]
