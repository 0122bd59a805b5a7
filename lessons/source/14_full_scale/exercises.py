"""Exercises of lesson 14, full scale: rounding, averages over processes, where time goes, and the plan of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from facekit.course.exercises import as_number, as_tensor, as_text, define, define_sorting, define_values, require

FEWEST = 5  # words of a sentence
LEAST_MEMORY = 16 * 1.8e6 / 1e9  # gigabytes: four float32 numbers for each parameter of facenet-mini
NUMBERS = ("photos", "epochs", "per_second", "hours", "gigabytes", "cost")

_stops_at = define_values(
    "14.1",
    "Where does the sum stop?",
    hints=(
        "The sum stands still where the gap to the next number is 2: 1 is then half a gap.",
        "`gap(x, bits)` is 1 from 2**bits on. Where is it 2?",
    ),
    right=[lambda bits: 2 ** (bits + 1), lambda bits: 2.0**bits * 2],
    cases=[(7,), (10,), (23,)],
    asked="for 7 bits",
    mistakes=[
        (lambda bits: 2**bits, "from here on the gap is 1, and adding 1 still works."),
        (lambda bits: 2 ** (bits + 1) + 1, "this number has no place; the sum stands still one before it."),
        (lambda bits: 2 ** (bits + 2), "here the gap is 4 already; the sum stood still before."),
        (lambda bits: bits + 1, "this is an exponent; which power of two is it?"),
    ],
    others=[(lambda bits: 100, "expected 256, got 100")],
    praise="256 for bfloat16, 2,048 for float16, and 16,777,216 for float32, which has a limit, too.",
)


def _mean(gradients: Sequence[Any], rows: Sequence[int]) -> Any:
    return sum(gradient * n for gradient, n in zip(gradients, rows, strict=True)) / sum(rows)


_averaged = define_values(
    "14.2",
    "Parts that are not equal",
    hints=(
        "A process with more rows counts more.",
        "Each gradient times its rows is a sum over rows; add these up, and divide once.",
    ),
    right=[_mean],
    cases=[
        ([torch.tensor([1.0, 2.0]), torch.tensor([8.0, 2.0])], [4, 3]),
        ([torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([3.0])], [1, 1, 2]),
    ],
    asked="for gradients (1, 2) and (8, 2) of 4 and 3 rows",
    mistakes=[
        (lambda g, n: sum(g) / len(g), "this is right for equal parts only; 4 rows count more than 3."),
        (lambda g, n: sum(g), "this is what all-reduce gives; it still has to be divided."),
        (lambda g, n: sum(a * b for a, b in zip(g, n, strict=True)), "this is the sum over rows; divide by all rows."),
        (lambda g, n: _mean(g, n) / len(g), "you divide twice: by the rows, and by the processes."),
    ],
    read=as_tensor,
    others=[(lambda g, n: torch.zeros(2), "expected [4.0, 2.0], got [0.0, 0.0]"), (lambda g, n: g, "not a list")],
    praise="(4, 2). facekit does it with a weight for each process: its share of the batch.",
)


def _times(parts: dict[str, float], k: float) -> float:
    batch, whole = parts["batch"], sum(parts.values())
    return whole / (batch + (whole - batch) / k)


_SLOW = {"batch": 100.0, "forward": 150.0, "backward": 240.0, "optimiser": 10.0}
_QUICK = {"batch": 10.0, "forward": 150.0, "backward": 240.0, "optimiser": 10.0}
_ten_times = define_values(
    "14.3",
    "Ten times as fast?",
    hints=(
        "The new sum: the batch as before, and all else divided by k.",
        "The old sum divided by the new one.",
    ),
    right=[_times],
    cases=[(_SLOW, 10.0), (_QUICK, 10.0), (_SLOW, 100.0)],
    asked="for 100, 150, 240 and 10 ms and k = 10",
    mistakes=[
        (lambda parts, k: k, "the batch does not get faster."),
        (lambda parts, k: 1 / _times(parts, k), "this is the new time as a share of the old one."),
        (lambda parts, k: sum(parts.values()) / _times(parts, k), "these are milliseconds of the new step."),
        (
            lambda parts, k: sum(parts.values()) / (parts["batch"] / k + sum(parts.values()) - parts["batch"]),
            "here only the batch gets faster; it is the other way round.",
        ),
    ],
    others=[(lambda parts, k: 2.0, "expected 3.571, got 2")],
    praise="3.6 times, and with a batch of 10 ms 8.2 times. The limit is whole / batch, whatever the device.",
)

_culprit = define_sorting(
    "14.4",
    "Find the culprit",
    hints=(
        "What would a profile show, and what would it not show?",
        "In two of the five, several processes compute something else than one would, and nothing is broken.",
        "Which of them learns in steps that are too few? Which has statistics of two photos?",
    ),
    kinds=("data", "precision", "batchnorm", "rate", "average"),
    cases={
        "idle": ("data", "the GPU waits for the batch, which one core makes"),
        "still": ("precision", "updates are less than half a gap"),
        "two rows": ("batchnorm", "statistics of two photos say little, and those that validation uses come from them"),
        "worse": ("rate", "a sixteenth of the steps at the old rate"),
        "apart": ("average", "without averages each learns from its own rows"),
    },
    ask="What would you see in a profile, what in the losses, and what in the weights?",
    others=[
        {"idle": "precision"},
        {"still": "rate"},
        {"two rows": "average"},
        {"worse": "batchnorm"},
        {"apart": "rate"},
    ],
)

_PLAN = {
    **{"photos": 36_000, "epochs": 10, "per_second": 100.0, "hours": 1.0, "gigabytes": 1.0, "cost": 0.1},
    "why": "Three seeds take three hours, which is fine for one night.",
}


@define(
    "14.5",
    "Plan a run",
    hints=(
        "`here` has a row for facekit's loop with all switches; its `value` is photos a second.",
        "hours = photos * epochs / per_second / 3600",
        "cost = hours times the price of an hour, which you set.",
    ),
    right=lambda: [dict(_PLAN), _PLAN | {"hours": 1.01, "cost": 0}],
    wrong=lambda: [
        *[({**_PLAN, name: "many"}, f"a number for {name}") for name in NUMBERS],
        *[({key: value for key, value in _PLAN.items() if key != name}, f"no {name!r}") for name in _PLAN],
        ({**_PLAN, "photos": 0}, "photos is 0"),
        ({**_PLAN, "cost": -1}, "cost is -1"),
        ({**_PLAN, "hours": 3600.0}, "is this in seconds"),
        ({**_PLAN, "hours": 60.0}, "in minutes"),
        ({**_PLAN, "hours": 0.1}, "without the epochs"),
        ({**_PLAN, "hours": 2.0}, "come to 1 hours"),
        ({**_PLAN, "gigabytes": 0.007}, "weights alone"),
        ({**_PLAN, "why": "Because."}, "1 words"),
        ({**_PLAN, "why": 3}, "expected a text"),
        ("a night", "dictionary"),
    ],
)
def _plan(answer: Any) -> str:
    require(isinstance(answer, dict), "expected the dictionary with a number for every place.")
    found = {}
    for name in (*NUMBERS, "why"):
        require(name in answer, f"there is no {name!r}.")
    for name in NUMBERS:
        found[name] = as_number(answer[name], f"a number for {name}")
        require(found[name] >= 0 and (found[name] or name == "cost"), f"{name} is {found[name]:g}; give what it takes.")
    wanted = found["photos"] * found["epochs"] / found["per_second"] / 3600
    for factor, said in (
        (3600, "is this in seconds?"),
        (60, "is this in minutes?"),
        (1 / found["epochs"], "this is without the epochs."),
    ):
        require(factor == 1 or abs(found["hours"] - factor * wanted) > 0.02 * factor * wanted, f"hours: {said}")
    require(
        abs(found["hours"] - wanted) <= 0.02 * wanted,
        f"hours: your photos, epochs and photos a second come to {wanted:.3g} hours.",
    )
    require(
        found["gigabytes"] >= LEAST_MEMORY,
        f"gigabytes: with weights alone it does not work; gradients and averages make it {LEAST_MEMORY:.3f} or more.",
    )
    words = len(as_text(answer["why"]).split())
    require(words >= FEWEST, f"why: {words} words; write a sentence or two.")
    return "the form is right, and the hours are those of your speed. Judge the content by the rubric."
