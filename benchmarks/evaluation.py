"""How fast a model is evaluated by group, and which part of that are its answers."""

from __future__ import annotations

import io
import tempfile
import time
from collections import deque
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from facekit.answers.evaluate import evaluate
from facekit.answers.model import load
from facekit.answers.report import html
from facekit.commands.train import train
from facekit.data.features.model import FeatureModel
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.experiments.speed import figures

LEARNT = {"train": 4000, "validation": 1000}
BY = ("race", "gender", "age")


def bench_evaluation(rows: int = 20_000) -> pd.DataFrame:
    """Measures the seconds of `evaluate` on drawn embeddings from the disk: three tasks by race, gender and age.

    Beside it stand the seconds of the model's answers alone; the rest is counting and resampling, which depends on the
    cells and hardly on the rows.

    Args:
        rows: Embeddings to answer (2 KiB of disk each).
    """
    if rows < 1000:
        raise ConfigError(f"rows must be 1,000 or more, got {rows}.")
    with tempfile.TemporaryDirectory() as home:
        drawn = FeatureModel.load().draw(rows + sum(LEARNT.values()))
        split = np.repeat([*LEARNT, "test"], [*LEARNT.values(), rows])
        replace(drawn, labels=drawn.labels.assign(split=split)).save(Path(home) / "set")
        with redirect_stdout(io.StringIO()):
            train(str(Path(home) / "set"), Path(home) / "run", list(BY), backbone="none", epochs=3)
        model, data = load(Path(home) / "run"), FeatureSet.load(Path(home) / "set")
        seconds = {}
        for name, work in {
            "the model's answers alone": lambda: deque(model.batches(data), maxlen=0),
            "evaluate": lambda: evaluate(model, data, BY),
        }.items():
            start = time.perf_counter()
            found = work()
            seconds[name] = time.perf_counter() - start
        start = time.perf_counter()
        html(found)
        seconds["report"] = time.perf_counter() - start
    return figures(seconds, "s", compare=False)
