"""What it costs to cut a face otherwise than the network knows it: embeddings and answers, measured.

Each photo's face is cut as FairFace's photos are, and then a little wider, turned, moved, or with less detail. Both
the network and what was learnt on it stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from facekit.data.align import Framing, cut_faces
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import evaluate
from facekit.models.backbones.base import Backbone
from facekit.models.embedding import embed
from facekit.models.heads import Classifier
from facekit.show import plots
from facekit.training.loop import predict

# What is changed to which amounts, from none to much (see `Framing`).
CHANGES: dict[str, tuple[float, ...]] = {
    "wider": (1, 1.15, 1.3, 1.5),
    "turn": (0, 10, 20, 45),
    "shift": (0, 0.1, 0.2, 0.3),
    "pixels": (96, 48, 24, 12),
}
_WORDS = {
    "wider": "side of the crop, × FairFace's",
    "turn": "turned by, degrees",
    "shift": "moved by, share of the side",
    "pixels": "pixels a side",
}


@dataclass(frozen=True)
class Disturbed:
    """What each change of the crop does.

    rows: columns change, amount, task, metric, value, n. Of task `faces` the metric is `cosine`: between the
    embeddings of the changed and the straight crop, mean over the n faces. Of the classifier's tasks it is `same`, the
    share of faces whose answer is that for the straight crop, and `accuracy` where the faces have labels for the task.
    crops: by change, uint8 (amounts, 3, size, size) of the first face. cosines: by change, those of this face.
    """

    rows: pd.DataFrame
    crops: dict[str, np.ndarray]
    cosines: dict[str, list[float]]

    def means(self) -> pd.DataFrame:
        """Mean cosine to the straight crop: a row a change, a column a step (0 is the straight crop)."""
        rows = self.rows[self.rows["metric"] == "cosine"]
        steps = rows.groupby("change", sort=False).cumcount()
        return rows.assign(step=steps).pivot(index="change", columns="step", values="value").loc[list(self.crops)]

    def examples(self) -> Figure:
        """The first face in every framing, with its cosine to the straight crop; a row a change."""
        crops = np.concatenate(list(self.crops.values()))
        captions = [
            f"{change} {amount:g}\ncosine {cosine:.2f}"
            for change, cosines in self.cosines.items()
            for amount, cosine in zip(self._amounts(change), cosines, strict=True)
        ]
        return plots.image_grid(crops, captions, columns=max(map(len, self.crops.values())))

    def figure(self) -> Figure:
        """One plot a change: mean cosine, and share of unchanged answers for each task, over the amount."""
        fig, _ = plots.figure(1, len(self.crops), size=(plots.WIDEST, 3.4), sharey=True)
        for axis, change in zip(fig.axes, self.crops, strict=True):
            rows = self.rows[(self.rows["change"] == change) & self.rows["metric"].isin(["cosine", "same"])]
            for task, line in rows.groupby("task", sort=False):
                label = "cosine" if task == "faces" else f"same {task.replace('_', ' ')}"
                axis.plot(range(len(line)), line["value"], label=label)
            axis.set_xticks(range(len(self._amounts(change))), [f"{amount:g}" for amount in self._amounts(change)])
            axis.set_xlabel(_WORDS[change], fontsize=9)
        fig.axes[0].set_ylim(min(0, self.rows["value"].min()), 1.05)
        with plots.style():
            fig.legend(*fig.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9)
        return fig

    def _amounts(self, change: str) -> list[float]:
        rows = self.rows[(self.rows["change"] == change) & (self.rows["metric"] == "cosine")]
        return list(rows["amount"])


def disturb(
    faces: FaceSet, backbone: Backbone, classifier: Classifier, changes: Mapping[str, Sequence[float]] | None = None
) -> Disturbed:
    """Cuts each face straight and changed, and compares the embeddings and the classifier's answers.

    faces: photos; those without a face that the detector finds are left out. backbone: gives the embeddings that
    `classifier` (multiclass heads without a network) takes. changes: amounts by field of `Framing`, `CHANGES` by
    default; the first amount must change nothing (wider 1, turn 0, shift 0, as many pixels as the network takes or
    more). Nothing is cached. Raises ConfigError for other changes and DataError when no face is found.
    """
    size = backbone.image_size
    changes = dict(CHANGES | {"pixels": (size, *CHANGES["pixels"][1:])} if changes is None else changes)
    straight = {"wider": 1, "turn": 0, "shift": 0}
    for change, amounts in changes.items():
        wanted = change in _WORDS and len(amounts) and amounts[0] == straight.get(change, amounts[0])
        if not wanted:
            raise ConfigError(f"change {change!r} {list(amounts)}: use {', '.join(_WORDS)}, and none of it first.")
    changed: list[dict[str, Any]] = [
        {change: int(amount) if change == "pixels" else amount} if step else {}
        for change, amounts in changes.items()
        for step, amount in enumerate(amounts)
    ]
    framings = [Framing(**each) for each in changed]
    crops, found = cut_faces(list(faces.images), framings, size)
    if not len(found):
        raise DataError(f"the detector finds no face in these {len(faces)} photos; take others, or larger ones.")
    labels = faces.labels.iloc[found]
    several = FaceSet(np.concatenate(list(crops)), pd.concat([labels] * len(framings)))
    features = embed(backbone, several, cache=False)
    n, answers = len(found), predict(classifier, features)
    vectors = features.features.reshape(len(framings), n, -1)
    outputs = [{name: x[at * n : at * n + n] for name, x in answers.items()} for at in range(len(framings))]
    known = [task for task in classifier.tasks if task.name in labels]
    truth = {task.name: task.encode(labels[task.name]) for task in known}
    measured: list[tuple] = []
    examples: dict[str, np.ndarray] = {}
    cosines: dict[str, list[float]] = {}
    place = 0
    for change, amounts in changes.items():
        first, cosines[change] = place, []
        for amount in amounts:
            each = (vectors[place] * vectors[first]).sum(1)
            rows = [("faces", "cosine", float(each.mean()))]
            for task in classifier.tasks:
                now, before = (task.predict(outputs[at][task.name]) for at in (place, first))
                rows.append((task.name, "same", float((now == before).double().mean())))
            scored = evaluate(known, outputs[place], truth, n_boot=1).query("metric == 'accuracy'")
            rows += list(scored[["task", "metric", "value"]].itertuples(index=False, name=None))
            measured += [(change, float(amount), *row, n) for row in rows]
            cosines[change].append(float(each[0]))
            place += 1
        examples[change] = crops[first:place, 0]
    table = pd.DataFrame(measured, columns=["change", "amount", "task", "metric", "value", "n"])
    return Disturbed(table, examples, cosines)
