"""Simulated FaceNet features: a statistical model of embeddings of real faces, from which labelled features are drawn.

A face embedding is biometric data of a person, so facekit ships none. It ships statistics over many faces, each
resting on at least `min_faces` of them (20): how often a cell (race, gender, age band) occurs, where the features
of a cell lie on average, how they scatter around it, how heavy their tails are. `facekit.data.fit_features` computes
them; `FeatureModel.draw` returns new feature vectors that belong to nobody.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from facekit.data.sets import SPLITS, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.files import atomic_path
from facekit.tasks import AGE_BAND, GENDER, RACE, Task

# The columns whose combinations are the model's cells, in the order of the axes of the cell table.
COLUMNS: tuple[Task, ...] = (RACE, GENDER, AGE_BAND)
SHAPE: tuple[int, ...] = tuple(len(task.classes) for task in COLUMNS)
N_CELLS = int(np.prod(SHAPE))
PACKAGED = "fairface_features.safetensors"
FORMAT = 1
# Rows that one random stream fills; part of the meaning of a seed, so never change it.
CHUNK = 8192

# A wish for how often labels occur: a column, or several columns, with the share of each class (or combination).
Mix = Mapping[str | tuple[str, ...], Mapping]
