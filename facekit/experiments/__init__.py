"""Controlled experiments: the same rows, the same number of steps and several seeds for everything that is compared."""

from facekit.experiments.curves import PROBES, Learner, chance, few_labels, learning_curve, scores
from facekit.experiments.ladder import LADDER, fine_tune, fine_tune_and_score
from facekit.experiments.runs import STRENGTHS, Runs, compare_sharing, sharing_methods, train_net

__all__ = [
    "LADDER",
    "PROBES",
    "STRENGTHS",
    "Learner",
    "Runs",
    "chance",
    "compare_sharing",
    "few_labels",
    "fine_tune",
    "fine_tune_and_score",
    "learning_curve",
    "scores",
    "sharing_methods",
    "train_net",
]
