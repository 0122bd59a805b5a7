"""One network for photos of lesions, for CIFAR-10 and for captchas: the record `domains_real`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pandas as pd

from facekit.course.profiles import REAL_RECIPE, real_domains
from facekit.data.sets import SPLITS, FaceSet
from facekit.models.adapters import Domain
from facekit.models.backbones.base import Backbone
from facekit.records import markdown
from facekit.studies.common import SEEDS, first
from facekit.studies.domains import facenet_mini
from facekit.studies.runner import Study, blocks_of, study
from facekit.training.config import Recipe
from facekit.transfer.domains import METHODS, DomainMethod, score_domains, serve

# "one network" and "frozen, heads" are left out, as they are behind their neighbours with own norms on drawn pictures.
WAYS = tuple(method for method in METHODS if method.name not in ("one network", "frozen, heads"))


def measure(
    backbone: Backbone,
    domains: tuple[Domain, ...],
    pictures: Mapping[str, FaceSet],
    recipe: Recipe,
    seed: int,
    method: DomainMethod,
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
            tables.append(first(scores.drop(columns="group"), split=side))
    rows = first(pd.concat(tables, ignore_index=True), method=method.name, seed=seed)
    return rows.assign(parameters=served.parameters, seconds=served.seconds)


@study
def record(steps: int = REAL_RECIPE.steps, seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `domains_real`: five ways to serve ISIC's lesions, CIFAR-10 and captchas.

    What is learnt from is each set's split `train`; nothing was chosen on `test`. Takes about 25 minutes on one core;
    several processes with different seeds share the work, the last call with all seeds writes the record.

    Args:
        steps: Of AdamW, with 16 pictures of each domain.
        seeds: Of weights and order; the pictures are the same for all.
    """
    real, mini = real_domains(), facenet_mini()
    recipe = replace(real.recipe, steps=steps)
    sides = {name: data.labels["split"].value_counts() for name, data in real.pictures.items()}
    counts = [f"{name} " + "/".join(str(found[side]) for side in SPLITS) for name, found in sides.items()]
    return Study(
        "domains_real",
        what="diagnoses of lesions, ten things and captchas of five symbols by networks that start from facenet-mini: "
        "one each, one for all, and a frozen one with norms or adapters a domain; "
        f"{recipe.steps} steps of {recipe.batch_size} pictures for all domains together",
        data="ISIC at 64 × 64, CIFAR-10 at 32 × 32, captchas at 32 × 192; to learn from, of validation and of test: "
        + ", ".join(counts),
        blocks=blocks_of(measure, (mini, real.domains, real.pictures, recipe), seeds, WAYS),
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
