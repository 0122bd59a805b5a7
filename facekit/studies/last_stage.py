"""FaceNet's last stage before the embedding tuned along: the records `last_stage_fairface` and `last_stage_few`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.experiments import few_labels
from facekit.models.backbones.facenet import FaceNet
from facekit.models.multitask import HEADS, SharedNet, Stack
from facekit.models.tail import MapSet, maps, mirrored_too, tail_of
from facekit.studies.common import SEEDS, TASKS, fairface, first, labelled, rows_of
from facekit.studies.runner import Study, blocks_of, study
from facekit.training.config import Recipe, TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import Phase, Plan

# The stages behind AFTER, up to UNTIL, are tuned. The rates are those of the rungs `last block` and, for the heads,
# `frozen` that did best on validation photos in the record `ladder_rates`, at the batch size of that record; the
# dropout was not tuned.
AFTER, UNTIL = "mixed_7a", "repeat_3"
RECIPE = Recipe(lr=3e-4, heads_lr=3e-3, dropout=0.3, batch_size=32, weight_decay=0.05)
METHODS = ("frozen", "single", "hard")


def measure(
    stack: Stack, train: MapSet, tests: Sequence[MapSet], recipe: Recipe, epochs: int, seed: int, method: str
) -> pd.DataFrame:
    """A tail tuned on the maps of `train`, scored by its mean answer over `tests`, views of the same photos.

    method: of `METHODS`. Columns method, seed, task, metric, value, seconds (of the training) and steps.
    """
    torch.manual_seed(seed)
    net = SharedNet(stack, TASKS, shared=0 if method == "single" else None)
    tuned = (HEADS,) if method == "frozen" else net.stages
    rates = {stage: recipe.heads_lr or recipe.lr if stage == HEADS else recipe.lr for stage in tuned}
    size = min(recipe.batch_size, len(train))
    config = TrainConfig(size, recipe.weight_decay, precision="bf16", channels_last=True, seed=seed)
    result = fit(net, Supervised(TASKS), train, None, Plan(method, (Phase(method, epochs, rates, 0.1),)), config)
    answers = [predict(net, test, precision="bf16") for test in tests]
    mean = {
        name: torch.stack([each[name].log_softmax(1) for each in answers]).sum(0) / len(tests) for name in answers[0]
    }
    rows = evaluate(TASKS, mean, tests[0].targets(TASKS), n_boot=1)[["task", "metric", "value"]]
    return first(rows, method=method, seed=seed).assign(seconds=result.seconds, steps=result.steps)


@study
def record(
    photos: int = 0,
    epochs: int = 4,
    mirrored: bool = True,
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = SEEDS,
) -> Study:
    """Records `last_stage_fairface`: FaceNet's last stage before the embedding tuned for race, gender and age band.

    With `photos` it is `last_stage_few`.

    The stages before it stay as they are, so that their maps are computed once (about 50 photos and view a second and
    core) and kept in the cache, 32 kB a photo and view; a pass over them then trains some 190 photos a second and core.
    All methods see the same photos in the same order for the same number of steps.

    Args:
        photos: Labelled photos to learn from, the same for all seeds; 0 takes all official training photos.
        epochs: Passes over them, with the mirror images over both views.
        mirrored: Learn from the mirror images as well, and give test photos the mean answer of both views.
        methods: `frozen`, only new heads; `single`, a copy of the stage a task; `hard`, one for all tasks.
        seeds: Of the heads, of order and dropout.
    """
    if unknown := set(methods) - set(METHODS):
        raise ConfigError(f"there is no method {', '.join(sorted(unknown))}; choose from {', '.join(METHODS)}.")
    faces, facenet = fairface(), FaceNet.from_pretrained()
    pool = rows_of(faces, "train", "validation")
    train = few_labels(faces, photos or len(pool), seed=0, pool=pool)
    test = faces.split("test")
    sides = (False, True) if mirrored else (False,)
    views, tests = ([maps(facenet, data, AFTER, mirrored=side) for side in sides] for data in (train, test))
    learnt_from = mirrored_too(*views) if mirrored else views[0]
    stack = tail_of(facenet, AFTER, UNTIL, RECIPE.dropout)
    return Study(
        "last_stage_few" if photos else "last_stage_fairface",
        what=f"FaceNet's last stage before the embedding tuned for race, gender and age band ({epochs} passes, "
        f"{'photo and mirror image' if mirrored else 'photos as they are'}, bf16), at rates chosen on "
        "validation photos; frozen: only new heads, single: a copy of the stage a task, hard: one for all",
        data=labelled(len(train), test, "labelled photos"),
        blocks=blocks_of(measure, (stack, learnt_from, tests, RECIPE, epochs), seeds, methods, n=len(train)),
    )
