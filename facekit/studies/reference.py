"""The published model 'gender and race with FaceNet' rebuilt, and what its way of measuring does to a score.

The original has two linear layers on FaceNet, their outputs normalised by BatchNorm, and minimises the sum of two
cross-entropies. `PUBLISHED` is what its log says; how that was measured, as far as its code and its log show, is in
datasets/UTKFACE.md.

Here FaceNet is the 512-number model 20180402-114759, frozen, with the fixed scaling that it was trained with. The
original is the 128-number model 20170512-110547, trained along in the public version of the code; the best one in the
log reads the layer before the embedding, through a layer of its own. So its score and ours differ for more reasons than
the protocol: what the protocol does is seen in ours alone, from one row of the record to the next. Mirror images are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import nn

from facekit.data.catalogue import photos
from facekit.data.leaks import HONEST, Protocol, divide, with_noise
from facekit.data.readers.utkface import UTK_RACE
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.experiments import few_labels
from facekit.models.backbones.facenet import FaceNet
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.studies.runner import Block, Study, study
from facekit.tasks import GENDER, RACE, Task
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan

# Accuracy on 1,608 of the repeated validation photos (experiments_logs.md there, "model8").
PUBLISHED = {"gender": 0.906, "race": 0.841}
SEEDS = (0, 1, 2, 3, 4)
POOL = 2000  # photos of FairFace
NOISE = 0.1  # standard deviation as a fraction of 255

NOISY, DARKENED = "noisy", "darkened"
# Protocols in the order of the lesson, each with the changes that the photos of all races but White may get.
PROTOCOLS: tuple[tuple[Protocol, str], ...] = (
    (HONEST, ""),
    (Protocol("races repeated to learn from", oversample="training"), ""),
    (Protocol("noise to learn from", change="training"), NOISY),
    (Protocol("noise on both sides", change="both sides"), NOISY),
    (Protocol("races repeated on both sides", oversample="both sides"), ""),
    (Protocol("races repeated before the split", oversample="before the split"), ""),
    (Protocol("repeated before, darkened", oversample="before the split", change="both sides"), DARKENED),
    (Protocol("repeated, darkened to learn from", oversample="training", change="training"), DARKENED),
)

TERMS = "UTKFace (Zhang, Song & Qi, CVPR 2017; non-commercial research use, scores only), crop_part1"
SETS = {
    "UTKFace": ("utkface", (GENDER, UTK_RACE), f"{TERMS}, five races"),
    "FairFace": ("fairface", (GENDER, RACE), "FairFace, seven races"),
}


class _NormalisedLogits(nn.Module):
    """Linear layer, BatchNorm without a scale of its own, and a bias: slim's `fully_connected` with `batch_norm`."""

    def __init__(self, in_features: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, outputs, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.norm = nn.BatchNorm1d(outputs, eps=1e-3, momentum=0.05, affine=False)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)) + self.bias


class PublishedHeads(Heads):
    """The heads of the published model: one linear layer a task, whose outputs are normalised over the batch.

    Every class's output has variance 1 over the faces, whatever the weights, so that the softmax is never sure: with
    two equally frequent classes that are told apart perfectly, each face's own class gets 0.88 at most on average (a
    bias lifts one class at the cost of the other). Which class comes first is not hindered by that.

    hidden: units of a layer (ReLU, half of them dropped) that both tasks share before their own, as in the later models
    of the original's log; 0 for none.
    """

    def __init__(self, in_features: int, tasks: Sequence[Task], hidden: int = 0) -> None:
        super().__init__(in_features, tasks)
        self.added = nn.Sequential(nn.Linear(in_features, hidden), nn.ReLU(), nn.Dropout(0.5)) if hidden else None
        for task in self.tasks:
            self.layers[task.name] = _NormalisedLogits(hidden or in_features, task.n_outputs)

    def forward(self, embeddings: torch.Tensor) -> dict[str, torch.Tensor]:
        """See Heads."""
        if self.added is None:
            return super().forward(embeddings)
        x = self.added(embeddings * self.in_features**0.5)
        return {name: layer(x) for name, layer in self.layers.items()}


def train_published(
    train: FeatureSet, tasks: Sequence[Task], seed: int, steps: int = 600, hidden: int = 0
) -> Classifier:
    """The published model's heads on all rows of `train`: sum of cross-entropies, Adam with weight decay.

    About `steps` steps whatever the number of rows, so that repeating some is not also training longer. The last
    weights count, nothing is chosen. Returns the classifier in evaluation mode.
    """
    torch.manual_seed(seed)
    model = Classifier(None, PublishedHeads(train.features.shape[1], tasks, hidden))
    config = TrainConfig(batch_size=min(128, len(train)), seed=seed)
    lr = 3e-3 if hidden else 1e-2
    epochs = max(1, round(steps / len(Batches(train, (), config.batch_size))))
    fit(model, Supervised(tasks), train, None, plan("probe", list(model.stages), epochs=epochs, lr=lr), config)
    return model.eval()


def darkened(faces: FaceSet) -> FaceSet:
    """The photos a quarter darker, in whole grey levels: what the published "gaussian noise" leaves of them.

    There a value v becomes 0.75 v + u with u from 0 to 0.0625, cut to a whole number. Three quarters of a whole number
    are at least a quarter below the next one, so that u never matters.
    """
    return replace(faces, inputs=(faces.images.astype(np.uint16) * 3 // 4).astype(np.uint8))


def changed_features(faces: FaceSet, features: FeatureSet, mask: np.ndarray) -> dict[str, list[FeatureSet]]:
    """FaceNet's embeddings of the photos in `mask` (N,) after the changes of `PROTOCOLS`, by change.

    features: of the photos as they are. Rows outside the mask are NaN: they are never to be changed, and it would show.
    """
    some = faces.select(mask)
    facenet = FaceNet.from_pretrained()

    def spread(part: FeatureSet) -> FeatureSet:
        values = np.full_like(features.features, np.nan)
        values[mask] = part.features
        return replace(features, inputs=values)

    noisy = spread(embed(facenet, with_noise(some, np.ones(len(some), bool), NOISE, seed=0)))
    return {NOISY: [noisy], DARKENED: [features, spread(embed(facenet, darkened(some)))]}


def measure_protocols(
    features: FeatureSet,
    changed: Mapping[str, Sequence[FeatureSet]],
    tasks: Sequence[Task],
    mask: np.ndarray,
    seed: int,
    steps: int = 600,
    hidden: int = 0,
    data: str = "",
) -> pd.DataFrame:
    """The published model by every protocol with one seed (of split, copies, heads and order).

    tasks: gender, then race, whose classes are made equally frequent and whose first class is White. data: the name of
    the photos. Columns protocol, data, seed, task, metric, value. Beside the tasks' scores: task `White`, accuracy of
    telling White from all others by the race predicted; task `photos`, metric `leaked`, the share of scored photos of
    which a copy was learnt from.
    """
    race = tasks[-1]
    tables = []
    for protocol, change in PROTOCOLS:
        sides = divide(features, protocol, race.name, seed, mask=mask, changed=changed.get(change, ()))
        outputs = predict(train_published(sides.train, tasks, seed, steps, hidden=hidden), sides.scored)
        targets = sides.scored.targets(tasks)
        rows = evaluate(tasks, outputs, targets, n_boot=1)[["task", "metric", "value"]]
        white = (race.predict(outputs[race.name]) == 0) == (targets[race.name] == 0)
        more = [("White", "accuracy", float(white.float().mean())), ("photos", "leaked", sides.leaked)]
        rows = pd.concat([rows, pd.DataFrame(more, columns=rows.columns)], ignore_index=True)
        tables.append(rows.assign(protocol=protocol.name, data=data, seed=seed))
    table = pd.concat(tables, ignore_index=True)
    table["task"] = table["task"].replace({race.name: "race"})
    return table[["protocol", "data", "seed", "task", "metric", "value"]]


@study
def record(
    steps: int = 600, hidden: int = 0, data: tuple[str, ...] = tuple(SETS), seeds: tuple[int, ...] = SEEDS
) -> Study:
    """Records `reference_utkface`: the published model on UTKFace and FairFace, measured by one protocol and another.

    With a hidden layer that is `reference_hidden`.

    Each seed holds out another tenth of the photos; all protocols that split by content hold out the same. Takes about
    fifteen minutes on one core, nearly all of it for embeddings.

    Args:
        steps: Of the optimiser, by every protocol.
        hidden: Units of a layer that both tasks share; 0 for none.
        data: Which of the two sets.
        seeds: Of the split, of which photos are repeated, of the heads and of the order.
    """
    if not data or set(data) - set(SETS):
        raise ConfigError(f"data must be some of {', '.join(SETS)}; got {list(data)}.")
    blocks, counts = [], []
    for name in data:
        source, tasks, about = SETS[name]
        faces = photos(source)
        features = embed(FaceNet.from_pretrained(), faces)
        if name == "FairFace":
            n = min(POOL, len(faces))
            faces, features = few_labels(faces, n, 0), few_labels(features, n, 0)
        mask = (features.labels[tasks[-1].name] != tasks[-1].classes[0]).to_numpy()
        changed = changed_features(faces, features, mask)
        counts.append(f"{about}, {len(features):,} photos")
        blocks += [
            Block(f"{name}-{seed}", measure_protocols, (features, changed, tasks, mask, seed, steps, hidden, name))
            for seed in seeds
        ]
    layer = f" on a shared layer of {hidden}" if hidden else ""
    return Study(
        "reference_hidden" if hidden else "reference_utkface",
        what=f"the published gender and race model (normalised linear heads{layer}) on FaceNet's frozen embeddings, "
        "scored on a tenth of the photos by protocols from honest to the published ones; 'White' is White or not by "
        "the race predicted, 'leaked' the share of scored photos with a copy among those learnt from",
        data="; ".join(counts),
        blocks=blocks,
    )
