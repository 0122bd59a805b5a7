"""Networks for race, gender and age band that an ensemble may be made of, and what each answers.

What a network answers for each photo is kept in the cache alone, as embeddings are; records hold scores.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit import settings
from facekit.data.sets import FaceSet, FeatureSet, LabelledSet
from facekit.models.backbones.base import Backbone, directions
from facekit.models.multitask import HEADS, SharedNet, mlp
from facekit.models.tail import maps, mirrored_too, tail_of
from facekit.studies.common import TASKS
from facekit.studies.tuning import Tuning, trained
from facekit.training.batches import Batches
from facekit.training.config import Recipe, TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import Phase, Plan
from facekit.training.scoring import autocast
from facekit.transfer.sharing import train_shared

AFTER, UNTIL = "mixed_7a", "repeat_3"  # the last stage before the embedding, as in the record last_stage_fairface
VIEWS = {"photo": False, "mirror image": True}
Asked = Mapping[str, FaceSet]


def tuned(
    network: Backbone, learn: FaceSet, validation: FaceSet, asked: Asked, how: Tuning, size: int, seed: int
) -> pd.DataFrame:
    """Everything from a stage up tuned on photos that change in every pass (see `trained`), and what it answers.

    network: pretrained; it is left as it is. asked: photos by part. size: side in pixels at which they are asked. Rows
    as in `answers`, with the seconds of the training, the number of networks, the millions of bytes of what was
    trained, and the last stage that stayed as it was ("" where none did).
    """
    model, seconds, steps = trained(network, learn, validation, how, seed)
    views = {
        view: {
            part: replace(data, inputs=data.images[..., ::-1].copy()) if mirrored else data
            for part, data in ((part, data.resized(size)) for part, data in asked.items())
        }
        for view, mirrored in VIEWS.items()
    }
    names = list(model.stages)
    own = [part for name in names[names.index(how.since) :] for part in model.stages[name]]
    below = names[names.index(how.since) - 1] if how.since != names[0] else ""
    return answers(model, views).assign(seconds=seconds, networks=1, megabytes=megabytes(own), frozen=below)


def last_stage(network: Backbone, learn: FaceSet, asked: Asked, recipe: Recipe, epochs: int, seed: int) -> pd.DataFrame:
    """The last stage before the embedding tuned on photos and mirror images as they are. Rows as in `tuned`.

    The seconds are those of the training on maps that were computed before.
    """
    torch.manual_seed(seed)
    net = SharedNet(tail_of(network, AFTER, UNTIL, recipe.dropout), TASKS)
    rates = {stage: recipe.heads_lr or recipe.lr if stage == HEADS else recipe.lr for stage in net.stages}
    size = min(recipe.batch_size, len(learn))
    config = TrainConfig(size, recipe.weight_decay, precision="bf16", channels_last=True, seed=seed)
    cycle = Plan("last stage", (Phase("last stage", epochs, rates),))
    train = mirrored_too(*(maps(network, learn, AFTER, mirrored=mirrored) for mirrored in VIEWS.values()))
    result = fit(net, Supervised(TASKS), train, None, cycle, config)
    views = {
        view: {part: maps(network, data, AFTER, mirrored=mirrored) for part, data in asked.items()}
        for view, mirrored in VIEWS.items()
    }
    about = {"networks": 1, "megabytes": megabytes([net]), "frozen": AFTER}
    return answers(net, views).assign(seconds=result.seconds, **about)


def heads(network: Backbone, learn: FaceSet, asked: Asked, recipe: Recipe, shared: bool, seed: int) -> pd.DataFrame:
    """A hidden layer on what the frozen last stage gives, for all tasks or for each its own. Rows as in `tuned`.

    Learns from photos and mirror images as they are.
    """
    one, other = (features(network, learn, mirrored) for mirrored in VIEWS.values())
    train = FeatureSet(np.concatenate([one.features, other.features]), pd.concat([one.labels, other.labels]))
    torch.manual_seed(seed)
    net = SharedNet(mlp(train.features.shape[1], (recipe.hidden,), recipe.dropout), TASKS, None if shared else 0)
    given: dict[str, Any] = {each: getattr(recipe, each) for each in ("steps", "lr", "batch_size", "weight_decay")}
    start = time.perf_counter()
    train_shared(net, Supervised(TASKS), train, seed=seed, **given)
    seconds = time.perf_counter() - start
    views = {
        view: {part: features(network, data, mirrored) for part, data in asked.items()}
        for view, mirrored in VIEWS.items()
    }
    about = {"networks": 1 if shared else len(TASKS), "megabytes": megabytes([net]), "frozen": UNTIL}
    return answers(net, views).assign(seconds=seconds, **about)


@cache
def features(network: Backbone, faces: FaceSet, mirrored: bool) -> FeatureSet:
    """The averaged output of the last stage before the embedding, at length 1, from the maps that are kept."""
    found = maps(network, faces, AFTER, mirrored=mirrored)
    place = settings.device()
    net = SharedNet(tail_of(network, AFTER, UNTIL), TASKS).eval().to(place)
    batches = Batches(found, (), 256, device=place, shuffle=False)
    with torch.inference_mode(), autocast(place, "bf16"):
        parts = [directions(net.embed(batch.inputs)).cpu() for batch in batches.epoch()]
    return FeatureSet(torch.cat(parts).numpy(), faces.labels)


def answers(net: nn.Module, views: Mapping[str, Mapping[str, LabelledSet]]) -> pd.DataFrame:
    """What a network answers: a row a view and photo, columns part, view and the log probabilities of all classes.

    views: name to sets by part; views of one part have the same photos in the same order. The columns of classes are
    called `TASK INDEX`; rounded to a hundred-thousandth.
    """
    tables = []
    for view, sets in views.items():
        for part, data in sets.items():
            outputs = predict(net, data, precision="bf16")
            columns = {
                f"{task} {i}": values
                for task, scores in outputs.items()
                for i, values in enumerate(scores.double().log_softmax(1).T.numpy().round(5))
            }
            tables.append(pd.DataFrame({"part": part, "view": view, **columns}))
    return pd.concat(tables, ignore_index=True)


def megabytes(parts: Iterable[nn.Module]) -> float:
    """Size of the weights and buffers of these modules, in millions of bytes."""
    return sum(value.nbytes for part in parts for value in part.state_dict().values()) / 1e6
