"""What a fine-tuned network can still do of what it could before: recognise faces, serve other tasks and old probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import DataError
from facekit.experiments.curves import scores
from facekit.models.backbones.base import Backbone
from facekit.models.embedding import embed
from facekit.models.heads import Classifier
from facekit.tasks import Task
from facekit.transfer.probe import linear_probe


def forgetting(
    before: Backbone, networks: Mapping[str, Backbone], train: FaceSet, test: FaceSet, task: Task
) -> pd.DataFrame:
    """Four numbers for each network, a fine-tuned copy of `before`: one row a network, with these columns.

    - `recognition` and `cosine`: see `retention`, for copies of all test photos.
    - `new probe`: test accuracy on `task` of a linear probe fitted to the network's embeddings of `train`.
    - `old probe`: that of the probe fitted to the embeddings that `before` gives, applied to those of the network.

    `before` itself among the networks says what there was to lose. Photos go through at the size they have, which
    should be the one that the networks were tuned at. No network is changed. Raises DataError with fewer than two
    test photos.
    """
    if len(test) < 2:
        raise DataError(f"recognition needs at least two test photos, got {len(test)}.")
    copies = copies_of(test)
    old, old_probe = _embedded(before, test), linear_probe(_embedded(before, train), [task])
    rows = {}
    for name, network in networks.items():
        new = _embedded(network, test)
        rows[name] = {
            **retention(old, new, _embedded(network, copies)),
            "new probe": _accuracy(linear_probe(_embedded(network, train), [task]), new, task),
            "old probe": _accuracy(old_probe, new, task),
        }
    return pd.DataFrame.from_dict(rows, orient="index", dtype=float)


def copies_of(faces: FaceSet) -> FaceSet:
    """The photos mirrored and darkened, to be recognised as copies of them."""
    return replace(faces, inputs=(faces.images[..., ::-1] * 0.7).astype(np.uint8))


def retention(before: FeatureSet, after: FeatureSet, copies: FeatureSet) -> dict[str, float]:
    """What is left of what a face recogniser was trained for, without a label of who is who.

    before, after: embeddings (N, D) of the same photos by the network as it came and as it is now; copies: now, of
    `copies_of` the first n photos. `recognition` is the share of the first n photos whose embedding is, among those of
    all n copies, closest to that of its own. `cosine` is that between a photo's embeddings before and after, mean over
    the N photos.
    """
    nearest = (after.features[: len(copies)] @ copies.features.T).argmax(1)
    recognition = (nearest == np.arange(len(copies))).mean()
    return {"recognition": float(recognition), "cosine": float((after.features * before.features).sum(1).mean())}


def _accuracy(probe: Classifier, test: FeatureSet, task: Task) -> float:
    return scores(probe, test, [task]).set_index("metric")["value"]["accuracy"]


def _embedded(backbone: Backbone, faces: FaceSet) -> FeatureSet:
    """Embeddings at the photos' own size, where the network is; not kept, since a tuned network is one of many."""
    place = next(backbone.parameters()).device
    return embed(backbone, faces, device=place, cache=False, size=faces.images.shape[-1])
