"""One network for several domains: `python -m facekit record domains` records `domains_drawn`, drawn skin, things and
words, and `python -m facekit record domains_real` records `domains_real`, photos and captchas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd
import torch

from facekit import settings
from facekit.course.profiles import DRAWN_DOMAINS as DOMAINS
from facekit.course.profiles import REAL_RECIPE, drawn_pictures, real_domains
from facekit.data.sets import SPLITS, FaceSet
from facekit.errors import ConfigError
from facekit.models.adapters import Domain
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.mini import FaceNetMini
from facekit.recording import SEEDS, Sheet, write_record
from facekit.records import markdown
from facekit.training.augment import Augment
from facekit.transfer.domains import (
    METHODS,
    DomainMethod,
    DomainRecipe,
    compare_domains,
    score_domains,
    serve,
)

# Chosen on other pictures (seed 7) and with other seeds: the trunk's rate for "a network each" among 0.001, 0.003 and
# 0.01; that of adapters and heads for "parallel adapters" among 0.003, 0.005, 0.01, 0.02 and 0.03; the length among
# 160, 320, 480, 640 and 800 steps, knowing that adapters learn words more slowly and are further behind in shorter
# trainings. On skin the light alone changes: boxes do not move with the pictures.
RECIPE = DomainRecipe(
    steps=640,
    batch_size=48,
    trunk_rate=3e-3,
    own_rate=1e-2,
    augment={"skin": Augment(flip=0, shift=0), "things": Augment(), "words": Augment(flip=0)},
)


# "one network" and "frozen, heads" are left out, as they are behind their neighbours with own norms on drawn pictures.
REAL_METHODS = tuple(method for method in METHODS if method.name not in ("one network", "frozen, heads"))


def record_domains(
    train: int = 1000, test: int = 500, steps: int = RECIPE.steps, seeds: tuple[int, ...] = SEEDS
) -> int:
    """Records `domains_drawn`: a network each, one network, and a frozen trunk with norms and adapters of its own.

    All start from facenet-mini and see the same pictures in the same batches. Takes about twenty minutes on one core;
    what was measured is kept when it is stopped.

    Args:
        train: Pictures of each domain to learn from.
        test: Pictures of each domain that are scored.
        steps: Of AdamW, with 16 pictures of each domain.
        seeds: Of weights and order; the pictures are the same for all.
    """
    pictures, mini = drawn_pictures((train, 0, test)), _mini()
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
        "pictures for all domains together, moved and lit a little otherwise each time",
        data=f"pictures of 32 × 32 and 32 × 64 drawn by facekit, {train} of each domain to learn from, {test} to test",
        command="record domains" + options + f" --steps {steps}" * (steps != RECIPE.steps),
        seeds=seeds,
    )


def _mini() -> Backbone:
    """facenet-mini, its numbers in the order in memory that makes convolutions faster."""
    return FaceNetMini.from_pretrained().to(memory_format=torch.channels_last)


def measure_method(
    method: DomainMethod,
    backbone: Backbone,
    domains: tuple[Domain, ...],
    pictures: Mapping[str, FaceSet],
    recipe: DomainRecipe,
    seed: int,
) -> pd.DataFrame:
    """A method with one seed: its scores on validation and test pictures, each with its interval over the pictures.

    Columns method, seed, split, domain, task, metric, value, low, high, n, parameters (that a domain adds), seconds.
    """
    train = {name: data.split("train") for name, data in pictures.items()}
    served = serve(method, backbone, domains, train, recipe, seed)
    tables = []
    for side in ("validation", "test"):
        for name, net in served.nets.items():
            scores = score_domains(net, {name: pictures[name].split(side)}, n_boot=1000)
            tables.append(scores.drop(columns="group").assign(split=side))
    rows = pd.concat(tables, ignore_index=True)
    rows = rows.assign(method=method.name, seed=seed, parameters=served.parameters, seconds=served.seconds)
    first = ["method", "seed", "split"]
    return rows[[*first, *(column for column in rows if column not in first)]]


def record_domains_real(steps: int = REAL_RECIPE.steps, seeds: tuple[int, ...] = SEEDS) -> int:
    """Records `domains_real`: five ways to serve ISIC's lesions, CIFAR-10 and captchas.

    What is learnt from is each set's split `train`; nothing was chosen on `test`. Takes about 25 minutes on one core;
    several processes with different seeds share the work, the last call with all seeds writes the record.

    Args:
        steps: Of AdamW, with 16 pictures of each domain.
        seeds: Of weights and order; the pictures are the same for all.
    """
    if settings.profile() != "full":
        raise ConfigError(
            "this is recorded on photos and captchas: set FACEKIT_PROFILE=full, and FACEKIT_DATA to them."
        )
    real = real_domains()
    recipe = replace(real.recipe, steps=steps)
    mini = _mini()
    content = {name: data.content_hash() for name, data in real.pictures.items()}
    sheet = Sheet("domains_real", {"pictures": content, "recipe": str(recipe)})
    for seed in seeds:
        for method in settings.progress(REAL_METHODS, desc=f"seed {seed}", unit="method"):
            sheet.block(
                f"{method.name}-{seed}",
                lambda method=method, seed=seed: measure_method(
                    method, mini, real.domains, real.pictures, recipe, seed
                ),
            )
    sides = {name: data.labels["split"].value_counts() for name, data in real.pictures.items()}
    counts = [f"{name} " + "/".join(str(found[side]) for side in SPLITS) for name, found in sides.items()]
    return write_record(
        "domains_real",
        sheet,
        what="diagnoses of lesions, ten things and captchas of five symbols by networks that start from facenet-mini: "
        "one each, one for all, and a frozen one with norms or adapters a domain; "
        f"{recipe.steps} steps of {recipe.batch_size} pictures for all domains together",
        data="ISIC at 64 × 64, CIFAR-10 at 32 × 32, captchas at 32 × 192; to learn from, of validation and of test: "
        + ", ".join(counts),
        command="record domains_real" + f" --steps {steps}" * (steps != REAL_RECIPE.steps),
        seeds=seeds,
    )


def real_table(rows: pd.DataFrame, domain: str) -> str:
    """A domain's scores on test pictures, of words on those of validation too, as Markdown.

    rows: of the record `domains_real`. A column for each metric, mean over the seeds ± its standard error, and the
    parameters that a domain adds on average.
    """
    rows = rows[rows["domain"] == domain]
    means, sides = {}, {"test": ""} | ({"validation": " (validation)"} if domain == "words" else {})
    for metric in rows["metric"].unique():
        for side, note in sides.items():
            chosen = rows[(rows["metric"] == metric) & (rows["split"] == side)].groupby("method", sort=False)["value"]
            means[metric.replace("_", " ") + note] = [
                f"{mean:.3f} ± {error:.3f}" for mean, error in zip(chosen.mean(), chosen.sem(), strict=True)
            ]
    methods = rows.groupby("method", sort=False)["parameters"].first()
    table = pd.DataFrame(means, methods.index).assign(**{"parameters a domain adds": [f"{n:,}" for n in methods]})
    return markdown(table.reset_index())
