"""Exercises of lesson 08, multi-domain learning."""

from __future__ import annotations

import math
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from facekit.course.exercises import (
    as_number,
    as_whole_number,
    define,
    define_experiment,
    define_values,
    require,
)
from facekit.data.pack import pack
from facekit.data.readers.classes import class_task
from facekit.data.sets import FaceSet
from facekit.models.adapters import Domain
from facekit.tasks import GENDER


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def _inside(one, other, least=0.0):
    """Area that two boxes (left, top, right, bottom) have in common; `least` for a width or height below it."""
    width = max(min(one[2], other[2]) - max(one[0], other[0]), least)
    return width * max(min(one[3], other[3]) - max(one[1], other[1]), least)


def _iou(one, other, least=0.0):
    inside = _inside(one, other, least)
    return inside / (_area(one) + _area(other) - inside)


_ONE, _OTHER = (0.0, 0.0, 0.5, 0.8), (0.25, 0.4, 0.75, 1.0)
_overlap = define_values(
    "08.1",
    "Intersection over union",
    hints=(
        "The intersection is a box, too: its left side is the larger of both left sides, its right the smaller right.",
        "Where the boxes do not meet its width or height comes out below 0; take 0 then.",
        "Union: both areas together, less the intersection, which would be counted twice.",
    ),
    right=[_iou],
    cases=[(_ONE, _OTHER), ((0.0, 0.0, 0.2, 0.2), (0.6, 0.7, 0.9, 0.9)), (_ONE, _ONE)],
    asked=f"for {_ONE} and {_OTHER}",
    mistakes=[
        (_inside, "this is the area they have in common; divide it by that of their union."),
        (
            lambda one, other: _inside(one, other) / (_area(one) + _area(other)),
            "you counted what they have in common twice in the union.",
        ),
        (lambda one, other: _inside(one, other) / _area(one), "you divided by the area of one box alone."),
        (lambda one, other: _inside(one, other) / _area(other), "you divided by the area of one box alone."),
        (lambda one, other: _iou(one, other, -math.inf), "boxes that do not meet have nothing in common: expected 0."),
    ],
    praise="0.1 in common of 0.6 in all; 1 for the same box, 0 for boxes that do not meet.",
)


_adapter_cost = define_values(
    "08.2",
    "What an adapter costs",
    hints=(
        "A 3 × 3 convolution from 128 to 320 channels has 9 numbers for each pair of an input and an output.",
        "An adapter in parallel is a 1 × 1 convolution from the same inputs to the same outputs, without a bias.",
        "The domain's BatchNorm behind it has a scale and a shift for each of the 320 outputs.",
    ),
    right=[128 * 320 + 2 * 320],
    mistakes=[
        (128 * 320, "this is the adapter; the domain's own BatchNorm has a scale and a shift a channel."),
        (9 * 128 * 320, "these are the shared filters; an adapter is 1 × 1."),
        (9 * 128 * 320 + 640, "these are the shared filters; an adapter is 1 × 1."),
        (320 * 320, "that is an adapter in series, from 320 to 320 channels."),
        (320 * 320 + 640, "that is an adapter in series, from 320 to 320 channels."),
        (128 * 320 + 320, "the BatchNorm has a scale and a shift, two numbers a channel."),
        (
            128 * 320 + 4 * 320,
            "you counted the BatchNorm's stored mean and variance, too. They are measured, not learnt: two of its four "
            "numbers a channel have a gradient.",
        ),
        (128 * 320 + 3 * 320, "you gave the adapter a bias; it has none, as the BatchNorm behind it has a shift."),
        (2 * 320, "this is the BatchNorm; the adapter's weights are learnt, too."),
        (9 * 128 * 320 + 128 * 320 + 640, "you counted the shared filters, too; they are frozen."),
    ],
    others=[(5, "a weight for each pair")],
    otherwise="it is another number. The adapter has a weight for each pair of an input and an output channel, the "
    "BatchNorm learns two numbers an output channel; add both.",
    praise="41,600 numbers beside 368,640 in the filters, which stay as they are: about a ninth.",
    read=as_whole_number,
)


def _shares(sizes, temperature):
    weights = [n ** (1 / temperature) for n in sizes]
    return [weight / sum(weights) for weight in weights]


def _shares_of_logs(sizes, temperature):
    return torch.softmax(torch.tensor([math.log(n) for n in sizes], dtype=torch.float64) / temperature, 0)


_domain_shares = define_values(
    "08.3",
    "How often is each domain seen?",
    hints=(
        "With temperature 1 the shares are proportional to the sizes.",
        "Take the size to the power 1 / temperature, then divide by the sum.",
        "With a very high temperature every power is close to 1, and the shares are equal.",
    ),
    right=[_shares, _shares_of_logs],
    cases=[([8100, 100], 2.0), ([30, 10], 1.0)],
    asked="for 8,100 and 100 pictures at temperature 2",
    mistakes=[
        (lambda sizes, temperature: _shares(sizes, 1), "these are proportional; the temperature counts."),
        (lambda sizes, temperature: [1 / len(sizes)] * len(sizes), "these are the same for every domain."),
        (
            lambda sizes, t: _shares(sizes, 1 / t),
            "a temperature above 1 favours the small domain; take the power 1 / temperature.",
        ),
        (lambda sizes, temperature: [n ** (1 / temperature) for n in sizes], "the shares must add up to 1."),
    ],
    praise="81 times as many pictures, 9 times as often: the root at temperature 2.",
    read=lambda found: torch.tensor([as_number(share, "each share") for share in list(found)], dtype=torch.float64),
)


def _own_domain(folder, dest, size=32, **options):
    pictures = pack(folder, dest, size=size, kind="classes")
    return pictures, Domain("mine", (class_task(pictures, "class"),), **options)


def _foreign_domain(folder, dest):
    return _own_domain(folder, dest)[0], Domain("mine", (GENDER,))


@define(
    "08.4",
    "A domain of your own",
    hints=(
        "`pack(folder, dest, size=32, kind='classes')` reads a folder with a folder for each class.",
        "`class_task(pictures, 'class')` is the task of telling these classes apart.",
        "Return the pictures and `Domain('mine', (the task,))`.",
    ),
    right=lambda: [_own_domain],
    wrong=lambda: [
        (lambda folder, dest: _own_domain(folder, dest)[1], "two things"),
        (lambda folder, dest: _own_domain(folder, dest)[::-1], "first"),
        (_foreign_domain, "classes"),
        (lambda folder, dest: _own_domain(folder, dest, adapters="none"), "adapters"),
        (lambda folder, dest: _own_domain(folder, dest, size=None), "size=32"),
        (lambda folder, dest: _own_domain(folder, dest, size=(32, 40)), "size=32"),
    ],
)
def _folder_to_domain(function):
    with TemporaryDirectory(ignore_cleanup_errors=True) as place:
        folder, dest = Path(place, "pictures"), Path(place, "packed")
        _draw_folder(folder)
        found = function(folder, dest)
    require(isinstance(found, tuple | list) and len(found) == 2, "return two things: the pictures and the domain.")
    pictures, domain = found
    require(isinstance(pictures, FaceSet), f"the pictures come first, as a FaceSet; got {type(pictures).__name__}.")
    require(isinstance(domain, Domain), f"the second is a Domain, got {type(domain).__name__}.")
    require(len(pictures) == 24, f"there are 24 pictures in the folder, {len(pictures)} in your set.")
    height, width = pictures.images.shape[2:]
    require(
        height == width == 32, f"your pictures are {height} × {width} pixels; pack them with size=32, as was asked."
    )
    classes = [task.classes for task in domain.tasks]
    require(classes == [("stripes", "spots")[::-1]], f"the classes are spots and stripes, in one task; got {classes}.")
    require(domain.adapters != "none", "without adapters the domain has a head alone; leave them at their default.")
    return "a folder for each class has become a domain; `net.add` takes it, and no other domain notices."


def _draw_folder(folder: Path) -> None:
    """Twelve pictures of noise in each of two folders; their names are all that the exercise asks for."""
    rng = np.random.default_rng(0)
    for name in ("stripes", "spots"):
        (folder / name).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")


_experiment = define_experiment(
    "08.5",
    "Your own experiment",
    hints=(
        "Begin with one seed, one domain and two ways, `frozen, own norms` and another one.",
        "`serve(ways[name], mini, [domain], train, recipe, seed)` trains a way on one domain alone.",
        "`.scores(test)` of what it returns is a table of scores; take the row of `accuracy` and its `value`.",
    ),
    baseline="frozen, own norms",
)
