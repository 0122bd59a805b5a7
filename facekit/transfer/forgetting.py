"""What a fine-tuned network can still do of what it could before: recognise faces, serve other tasks and old probes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import DataError
from facekit.evaluation.metrics import evaluate
from facekit.models.backbone import Backbone
from facekit.tasks import Task
from facekit.training.batches import Batches
from facekit.training.loop import predict
from facekit.transfer.probe import linear_probe


def forgetting(before: Backbone, after: Backbone, train: FaceSet, test: FaceSet, task: Task) -> dict[str, float]:
    """Four numbers about `after`, a fine-tuned copy of `before`; with `before` twice, what there was to lose.

    - `recognition`: the share of test photos whose embedding is, among the embeddings of all mirrored and darkened
      test photos, closest to that of its own copy. What a face recogniser does, without a label of who is who.
    - `cosine`: between the embeddings of a photo from both networks, mean over the test photos.
    - `new probe`: test accuracy on `task` of a linear probe fitted to the new embeddings of `train`.
    - `old probe`: that of the probe fitted to the old embeddings of `train`, given the new ones of `test`.

    Photos go through the networks at the size they have, which should be the one that `after` was tuned at. Both
    networks are left in evaluation mode. Raises DataError with fewer than two test photos.
    """
    if len(test) < 2:
        raise DataError(f"recognition needs at least two test photos, got {len(test)}.")
    copies = replace(test, inputs=(test.images[..., ::-1] * 0.7).astype(np.uint8))
    old, new = _embedded(before, test), _embedded(after, test)
    nearest = (new.features @ _embedded(after, copies).features.T).argmax(1)
    return {
        "recognition": float((nearest == np.arange(len(test))).mean()),
        "cosine": float((old.features * new.features).sum(1).mean()),
        "new probe": _accuracy(_embedded(after, train), new, task),
        "old probe": _accuracy(_embedded(before, train), new, task),
    }


def _accuracy(train: FeatureSet, test: FeatureSet, task: Task) -> float:
    outputs = predict(linear_probe(train, [task]), test)
    table = evaluate([task], outputs, test.targets([task])).set_index("metric")
    return float(table["value"]["accuracy"])


@torch.inference_mode()
def _embedded(backbone: Backbone, faces: FaceSet) -> FeatureSet:
    """Embeddings at the photos' own size, where the network is, with the labels of `faces`."""
    backbone.eval()
    device = next(backbone.parameters()).device
    parts = [backbone(batch.inputs) for batch in Batches(faces, (), 128, device=device, shuffle=False).epoch()]
    return FeatureSet(torch.cat(parts).float().cpu().numpy(), faces.labels)
