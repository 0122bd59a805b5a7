"""FaceNet tuned on FairFace, from frozen to from scratch: the record `ladder_fairface`.

What is measured of a rung is measured by `record rates` as well.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch

from facekit.data.sets import FaceSet
from facekit.errors import DataError
from facekit.experiments import LADDER, few_labels, fine_tune, scores
from facekit.experiments.forgetting import copies_of, retention
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier
from facekit.records import recorded
from facekit.studies.common import SEEDS, TASKS, fairface, first, labelled, rows_of
from facekit.studies.runner import Block, Study, blocks_of, study
from facekit.transfer.fine_tuning import Strategy

# "probe, then all" takes the rate of "everything", which is what its second half does.
SAME_RATE = {"probe, then all": "everything"}
COPIES = 300  # test photos that must be recognised among mirrored and darkened copies of them


def measure_rung(
    train: FaceSet, test: FaceSet, facenet: Backbone, epochs: int, copies: int, seed: int, rung: Strategy
) -> pd.DataFrame:
    """One rung with one seed: its scores on `test`, what it cost, and what is left of the old skill.

    facenet: pretrained; it is left as it is. copies: test photos for the old skill (see `retention`), 0 for none.
    Columns rung, n, seed, task, metric, value, lr, moved, steps, seconds (wall clock of the training) and cpu_seconds
    (of all its threads).
    """
    start = time.process_time()
    torch.manual_seed(seed)  # for random weights
    network = FaceNet.from_pretrained() if rung.pretrained else FaceNet()
    model, result = fine_tune(
        rung, network, train, TASKS, epochs=epochs, seed=seed, precision="bf16", channels_last=True
    )
    cpu_seconds = time.process_time() - start
    after = embed(network, test, cache=False)
    tables = [scores(Classifier(None, model.heads), after, TASKS)]
    if copies:
        some = copies_of(test.select(range(min(copies, len(test)))))
        old = retention(embed(facenet, test), after, embed(network, some, cache=False))
        tables.append(pd.DataFrame({"task": "faces", "metric": list(old), "value": list(old.values())}))
    rows = first(pd.concat(tables, ignore_index=True), rung=rung.name)
    cost = {"moved": sum(result.moved.values()), "steps": result.steps, "seconds": result.seconds}
    return rows.assign(n=len(train), seed=seed, lr=rung.lr, **cost, cpu_seconds=cpu_seconds)


def rung_blocks(
    few: Mapping[int, FaceSet], rungs: Sequence[Strategy], test: FaceSet, epochs: int, copies: int = 0
) -> list[Block]:
    """A block for each seed and rung; few: the photos that are learnt from, by seed. The rest as in `measure_rung`."""
    given = (test, FaceNet.from_pretrained(), epochs, copies)
    return [block for seed, train in few.items() for block in blocks_of(measure_rung, (train, *given), [seed], rungs)]


def rungs_at_best_rates(rates: pd.DataFrame) -> tuple[Strategy, ...]:
    """The ladder with the learning rate of each rung that had the highest mean accuracy over tasks and seeds.

    rates: rows of the record `ladder_rates`. Raises DataError when a rung is not in it.
    """
    accuracy = rates[rates["metric"] == "accuracy"].groupby(["rung", "lr"])["value"].mean()
    chosen = []
    for rung in LADDER:
        name = SAME_RATE.get(rung.name, rung.name)
        if name not in accuracy.index.get_level_values("rung"):
            raise DataError(
                f"the record ladder_rates has no rung {name!r}; run `python -m facekit record rates` again."
            )
        chosen.append(replace(rung, lr=float(accuracy[name].idxmax())))
    return tuple(chosen)


@study
def record(labels: int = 1000, epochs: int = 4, seeds: tuple[int, ...] = SEEDS) -> Study:
    """Records `ladder_fairface`: FaceNet on FairFace, frozen, tuned from the top down, and from scratch.

    Every rung learns race, gender and age band together from the same photos in the same number of steps, at the
    learning rate that did best in `ladder_rates`. The defaults take about an hour of processor time; several processes
    with different seeds share the work, the last call with all seeds writes the record.

    Args:
        labels: Photos to learn from, drawn from all official training photos.
        epochs: Passes over them.
        seeds: Of the draw of photos, of the heads, of order and dropout.
    """
    faces = fairface()
    pool, test = rows_of(faces, "train", "validation"), faces.split("test")
    few = {seed: few_labels(faces, labels, seed, pool) for seed in seeds}
    rungs = rungs_at_best_rates(recorded("ladder_rates").rows)
    return Study(
        "ladder_fairface",
        what=f"FaceNet fine-tuned on FairFace for race, gender and age band together, {epochs} epochs, bf16, each rung "
        "at the rate that did best on validation photos",
        data=labelled(labels, test, "photos to learn from"),
        blocks=rung_blocks(few, rungs, test, epochs, COPIES),
    )
