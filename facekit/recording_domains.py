"""One network for drawn skin, things and words: the record `domains_drawn`, by `python -m facekit record domains`."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure

from facekit import plots, settings
from facekit.data.lesions import LESION, render_lesions
from facekit.data.objects import OBJECT, render_objects
from facekit.data.sets import FaceSet
from facekit.data.words import render_words
from facekit.models.adapters import Domain
from facekit.models.mini import FaceNetMini
from facekit.recording import Sheet, write_record
from facekit.tasks import Task
from facekit.transfer.domains import METHODS, DomainRecipe, compare_domains

SEEDS = (0, 1, 2)
DIGITS = "2345678"
DOMAINS = (
    Domain("skin", (LESION, Task("box", "box"))),
    Domain("things", (OBJECT,)),
    Domain("words", (Task("text", "string", tuple(DIGITS)),)),
)
# The trunk's rate was chosen for "one network" among 0.0003, 0.001, 0.003 and 0.01, at 160 steps on other pictures
# (seed 7). Adapters and heads have the one rate that was tried.
RECIPE = DomainRecipe(steps=160, batch_size=48, trunk_rate=3e-3, own_rate=1e-2)


def drawn_pictures(n: tuple[int, int, int], seed: int = 0) -> dict[str, FaceSet]:
    """Small pictures of the three drawn domains by name: `n` of each in train, validation and test."""
    return {
        "skin": render_lesions(n, seed, size=32),
        "things": render_objects(n, seed, size=32),
        "words": render_words(n, seed, DIGITS, (2, 3), (32, 64)),
    }


PANELS = {"object": "accuracy", "box": "iou", "text": "character_error_rate"}


def ways_figure(rows: pd.DataFrame) -> Figure:
    """A bar a method with a dot a seed, for things, boxes and words; rows: of the record."""
    fig, axes = plots.figure(len(PANELS), 1, size=(9, 9.5))
    for axis, (task, metric) in zip(axes, PANELS.items(), strict=True):
        chosen = rows[(rows["task"] == task) & (rows["metric"] == metric)]
        plots.bars_with_spread(axis, {name: part["value"] for name, part in chosen.groupby("method", sort=False)})
        axis.set(title=f"{task}: {metric.replace('_', ' ')}")
    return fig


def ways_costs(rows: pd.DataFrame) -> pd.DataFrame:
    """Index method; columns parameters (that a domain adds) and their share of those of a network of its own."""
    parameters = rows.groupby("method", sort=False)["parameters"].first()
    share = (parameters / parameters["a network each"]).round(3)
    return pd.DataFrame({"parameters": parameters, "share": share})


def record_domains(
    train: int = 1000, test: int = 500, steps: int = RECIPE.steps, seeds: tuple[int, ...] = SEEDS
) -> int:
    """Records `domains_drawn`: a network each, one network, and a frozen trunk with norms and adapters of its own.

    All start from facenet-mini and see the same pictures in the same batches. Takes about five minutes on one core;
    what was measured is kept when it is stopped.

    Args:
        train: Pictures of each domain to learn from.
        test: Pictures of each domain that are scored.
        steps: Of AdamW, with 16 pictures of each domain.
        seeds: Of weights and order; the pictures are the same for all.
    """
    pictures, mini = drawn_pictures((train, 0, test)), FaceNetMini.from_pretrained()
    sides = [{name: data.split(side) for name, data in pictures.items()} for side in ("train", "test")]
    recipe = replace(RECIPE, steps=steps)
    content = {name: data.content_hash() for name, data in pictures.items()}
    sheet = Sheet("domains_drawn", {"pictures": content, "recipe": str(recipe)})
    for seed in seeds:
        for method in settings.progress(METHODS, desc=f"seed {seed}", unit="method"):
            sheet.block(
                f"{method.name}-{seed}",
                lambda method=method, seed=seed: compare_domains(mini, DOMAINS, *sides, recipe, (seed,), (method,)),
            )
    options = f" --train {train}" * (train != 1000) + f" --test {test}" * (test != 500)
    return write_record(
        "domains_drawn",
        sheet,
        what="lesions and boxes on skin, ten things, words of two or three digits by networks that start from "
        f"facenet-mini: one each, one for all, and a frozen one with norms or adapters a domain; {steps} steps of 48 "
        "pictures for all domains together",
        data=f"pictures of 32 × 32 and 32 × 64 drawn by facekit, {train} of each domain to learn from, {test} to test",
        command="record domains" + options + f" --steps {steps}" * (steps != RECIPE.steps),
        seeds=seeds,
    )
