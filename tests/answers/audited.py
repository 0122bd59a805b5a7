"""What the tests of evaluations share: a small model, and sets whose groups are large, small, empty and unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from tiny import features

from facekit.commands.train import train
from facekit.data.sets import FeatureSet

TOWNS = ("Bonn", "Köln <b>", "a|b_c", "Ulm")
SIZES = {"train": 300, "validation": 200, "test": 420}


def people(n: int = 420, seed: int = 2, split: str = "test") -> FeatureSet:
    """Embeddings with towns (one of a few people), ages, and some labels that are missing."""
    made, rng = features(n, seed=seed, split=split), np.random.default_rng([seed, n])
    town = rng.choice(np.array(TOWNS, object), n, p=[0.5, 0.3, 0.17, 0.03])
    labels = made.labels.assign(town=town, age_years=rng.uniform(0, 40, n).round(1))
    noisy = rng.random(n) < np.where(town == "Bonn", 0.05, 0.3)  # labels are worse in some towns
    labels["side"] = np.where(noisy, labels["side"].map({"left": "right", "right": "left"}), labels["side"])
    labels.loc[rng.random(n) < 0.1, "side"] = None
    labels.loc[rng.random(n) < 0.1, "town"] = None
    return FeatureSet(made.features, labels)


def with_splits(sizes: dict[str, int] = SIZES) -> FeatureSet:
    """All splits in one set."""
    parts = [people(n, seed, split) for seed, (split, n) in enumerate(sizes.items())]
    labels = pd.concat([part.labels for part in parts], ignore_index=True)
    return FeatureSet(np.concatenate([part.features for part in parts]), labels)


def trained(home: Path, **changes) -> Path:
    """A model folder; its set lies in `home / "set"`."""
    if not (home / "set").exists():
        with_splits().save(home / "set")
    options = {"tasks": ["side", "level"], "backbone": "none", "epochs": 15, "lr": 0.05, "batch_size": 32, "hidden": 8}
    options |= {"plan": "everything", **changes}
    train(data=str(home / "set"), out=home / "run", **options)
    return home / "run"
