"""Exercises of lesson 15, your own classifier: one for each step of the project, most of them checked by form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from facekit.course.exercises import (
    Exercise,
    as_number,
    as_text,
    define,
    define_experiment,
    define_sorting,
    define_values,
    require,
)

FEWEST = 5  # words of a sentence
CODINGS = ("two networks", "two heads", "one joint question")


def _sentences(answer: Any, asked: Mapping[str, str]) -> None:
    """Ends the check unless the answer is a dictionary with a sentence in each of these places."""
    require(isinstance(answer, dict), "expected the dictionary with a text for every place.")
    for name, what in asked.items():
        require(name in answer, f"there is no {name!r}: {what}.")
        words = len(as_text(answer[name]).split())
        require(words >= FEWEST, f"{name}: {words} words; write a sentence: {what}.")


def _form(
    number: str,
    title: str,
    asked: Mapping[str, str],
    sample: Mapping[str, Any],
    hints: Sequence[str],
    more: Any,
    wrong: Sequence[tuple[Mapping[str, Any], str]],
) -> Exercise:
    """An exercise whose answer is a dictionary of sentences; `more` looks at what else it holds, and praises."""

    def judge(answer: Any) -> str:
        _sentences(answer, asked)
        return more(answer)

    first, what = next(iter(asked.items()))
    every: list[tuple[Any, str]] = [({**sample, **changed}, said) for changed, said in wrong]
    every += [({**sample, first: "Too few."}, "write a sentence"), ({**sample, first: 7}, "expected a text")]
    every += [({name: text for name, text in sample.items() if name != first}, what), ("a text", "dictionary")]
    return define(number, title, hints=hints, right=lambda: [dict(sample)], wrong=lambda: every)(judge)


def _coding(answer: dict) -> str:
    require("coding" in answer, "there is no 'coding': how are the two tasks asked?")
    found = as_text(answer["coding"])
    require(found in CODINGS, f"coding is {found!r}; use one of {', '.join(CODINGS)}.")
    return "the form is right: question, metric, harm and coding. Judge the content by the rubric."


_question = _form(
    "15.1",
    "The question",
    {
        "question": "what is asked of a photo, and who would have given the answer",
        "metric": "which number says that it is good, on which photos",
        "harm": "what happens to a person after a wrong answer",
    },
    {
        "question": "Which age band would annotators give this face?",
        "metric": "Accuracy on test photos, beside the baseline.",
        "harm": "Somebody is refused a ticket that is theirs.",
        "coding": "two heads",
    },
    (
        "Who gave the labels? The question is what they would say, not what somebody is.",
        "The metric has a name, and photos that it is measured on.",
        "Think of the answer being shown to the person, or used on them.",
    ),
    _coding,
    [
        ({"coding": "three heads"}, "use one of"),
        ({"coding": 2}, "expected a text"),
        ({"harm": "none"}, "harm: 1 words"),
    ],
)

_CURVE = pd.DataFrame({50: [0.5, 0.52], 100: [0.6, 0.62], 200: [0.66, 0.64], 400: [0.655, 0.655], 800: [0.65, 0.67]})
_RISING = pd.DataFrame({100: [0.4, 0.4], 200: [0.5, 0.5], 400: [0.6, 0.6]})


def _enough(curve: pd.DataFrame, worth: float) -> float:
    gain = curve.mean().diff().shift(-1)
    small = gain.index[gain < worth]
    return small[0] if len(small) else curve.columns[-1]


_stop = define_values(
    "15.2",
    "When to stop labelling",
    hints=(
        "`curve.mean()` is one number a column; `.diff()` is the gain over the column before.",
        "The gain of the **next** doubling stands one column later: `.shift(-1)`.",
        "The first column whose next gain is below `worth`; without one, the last column.",
    ),
    right=[_enough],
    cases=[(_CURVE, 0.02), (_CURVE, 0.06), (_RISING, 0.05)],
    asked="for 50 to 800 labels with means .51, .61, .65, .655, .66 and worth 0.02",
    mistakes=[
        (
            lambda curve, worth: curve.columns[curve.mean().diff() < worth][0],
            "this is where the small gain ends; it began one column before.",
        ),
        (
            lambda curve, worth: curve.columns[-1],
            "this is the largest number, and two doublings gained half a point each.",
        ),
        (lambda curve, worth: curve.columns[0], "the first doubling gained ten points; go on."),
        (lambda curve, worth: curve.mean().max(), "this is an accuracy; a number of labels is asked for."),
    ],
    others=[(lambda curve, worth: 100, "expected 200, got 100")],
    praise="200: the next doubling would gain half a point for 200 more labels.",
)

_rejects = define_sorting(
    "15.3",
    "What to do with it?",
    hints=(
        "What can you know without looking at the photo?",
        "A missing label is left out of the loss, a file that cannot be read is left out of the set.",
        "Where two things contradict each other, or are one, only the photo can say which is right.",
    ),
    kinds=("mend the table", "look at the photo", "nothing"),
    cases={
        "spelling": ("mend the table", "it has one meaning, only not for a program"),
        "two rows": ("look at the photo", "one of the two ages is wrong, and the table does not know which"),
        "cut off": ("nothing", "it is left out and named; get the file again if you can"),
        "no age": ("nothing", "a missing label counts for no loss and no score"),
        "edited": ("look at the photo", "if it is one face twice, one of the files has to go before you pack again"),
    },
    ask="Is it clear what was meant? If not, who can say?",
    others=[
        {"spelling": "nothing"},
        {"two rows": "mend the table"},
        {"edited": "nothing"},
        {"no age": "mend the table"},
    ],
)


def _accuracies(answer: dict) -> str:
    found = {}
    for name in ("baseline", "chosen"):
        require(name in answer, f"there is no {name!r}: an accuracy from the tables.")
        found[name] = as_number(answer[name])
        require(0 <= found[name] <= 1, f"{name} is {found[name]:g}; an accuracy is a share from 0 to 1.")
    gain = found["chosen"] - found["baseline"]
    require(gain > 0, "the chosen way is not above the baseline: then take the baseline, or find out why.")
    return f"the form is right: {100 * gain:.0f} points above the baseline. Judge the reason by the rubric."


_choice = _form(
    "15.4",
    "The choice",
    {"why": "why this way, and what it does not win"},
    {"baseline": 0.2, "chosen": 0.31, "why": "It is the simplest within the spread."},
    (
        "Both numbers are means over the seeds, of the same score.",
        "`networks[ALL]` has the baselines, `tried[ALL]` the ways; `.mean()` gives the means.",
        "Within the spread: what is cheaper to train, to run, to explain?",
    ),
    _accuracies,
    [
        ({"baseline": 20}, "from 0 to 1"),
        ({"chosen": 0.2}, "take the baseline"),
        ({"chosen": "best"}, "expected a number"),
    ],
)


def _with_number(answer: dict) -> str:
    said = answer["groups"]
    require(any(map(str.isdigit, said)), "groups: no number; of how many faces do you speak?")
    return "the form is right, and goes into the card. Judge the content by the rubric."


_use = _form(
    "15.5",
    "For whom, and for what not",
    {
        "groups": "for which groups something can be told, of how many faces, and for which nothing",
        "owner": "who made it, who answers questions, under which licence",
        "intended": "what it is for, and on whose photos",
        "limits": "for what else it must not be used",
        "people": "whether the people in the photos agreed, and who can object",
        "recommendations": "what has to be true before it is used",
    },
    {
        "groups": "Of 60 men and 60 women the gap is unclear; of ages nothing is told.",
        "owner": "Made by me; ask me; not given away.",
        "intended": "For a course, on drawn faces alone.",
        "limits": "Never for decisions about a single person.",
        "people": "They are drawn; nobody was asked.",
        "recommendations": "Measure again on photos of its users.",
    },
    (
        "Numbers of faces stand in the tables by group of step 9.",
        "Limits are uses that somebody could want: doors, prices, police, schools.",
        "Lesson 12 has what belongs into each place.",
    ),
    _with_number,
    [({"groups": "It works about equally for all groups."}, "no number"), ({"limits": "none"}, "limits: 1 words")],
)

_experiment = define_experiment(
    "15.6",
    "Your own experiment",
    hints=(
        "A way is a function of the seed that gives outputs and the photos they are for: `tuned(views, 10)` is one.",
        "`compared({'probe': probe(embedded), 'mine': …})[ALL]` is the table.",
        "The solution compares all labels with half of them.",
    ),
    baseline="probe",
)
