"""A threshold for each group, so that one rate is equal, and what that trades (Hardt, Price & Srebro, NeurIPS 2016).

A classifier of two answers gives each row a score, the probability of the positive class. One threshold for all gives
groups different rates; a threshold a group can make one rate equal, and in general no second one. The group of a face
must then be known whenever the classifier answers. Fit thresholds on validation rows: what is equal there is only
nearly so elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from facekit.errors import ConfigError, DataError
from facekit.evaluation.groups import N_BOOT, SMALL, group_scores
from facekit.evaluation.metrics import Values, as_array
from facekit.tasks import Task

EQUAL = ("true_positive_rate", "false_positive_rate", "selection_rate")
TRADED = ("accuracy", "selection_rate", "true_positive_rate", "false_positive_rate")


def fit_thresholds(
    scores: Values,
    targets: Values,
    groups: pd.Series | Sequence[str],
    equal: str = "true_positive_rate",
    rate: float | None = None,
) -> pd.Series:
    """The threshold of each group, by its name, at which `equal` is as near to `rate` as its rows allow.

    scores: (N,), finite. targets: (N,) 1 where the answer is positive, 0 where not, -1 where unknown. groups: (N,). A
    score above its threshold is a positive answer. equal: `true_positive_rate` (equal opportunity),
    `false_positive_rate` or `selection_rate` (demographic parity), of the rows with a known label. rate: None is the
    rate of all rows together at a threshold of 0.5. Thresholds lie half-way between two scores; Hardt et al. toss a
    coin between two of them to be exact, here no answer is left to chance. Raises DataError where a group has no row
    that the rate is about (no positive one, for true positives), ConfigError for another `equal` or a rate outside 0
    to 1.
    """
    if equal not in EQUAL:
        raise ConfigError(f"equal is {equal!r}; it must be one of {', '.join(EQUAL)}.")
    scores, targets, names = _checked(scores, targets, groups)
    about = {"true_positive_rate": targets == 1, "false_positive_rate": targets == 0}.get(equal, targets >= 0)
    about &= names.notna().to_numpy()
    if rate is None:
        rate = float((scores[about] > 0.5).mean()) if about.any() else 0.0
    if not 0 <= rate <= 1:
        raise ConfigError(f"rate is {rate}; it must lie between 0 and 1.")
    found = {}
    for group in sorted(names.dropna().unique()):
        own = np.sort(scores[about & (names == group).to_numpy()])[::-1]
        if not len(own):
            raise DataError(f"group {group!r} has no row from which a {equal} can be told; leave it out or add some.")
        ends = np.concatenate(([own[0] + 1], own, [own[-1] - 1]))
        cuts = (ends[:-1] + ends[1:]) / 2  # the k-th lies below the k highest scores
        reached = np.arange(len(cuts)) / len(own)
        apart = ends[:-1] > ends[1:]  # no threshold tells equal scores from each other
        found[group] = float(cuts[np.abs(np.where(apart, reached, np.inf) - rate).argmin()])
    return pd.Series(found, name="threshold", dtype=np.float64).rename_axis("group")


def decide(scores: Values, groups: pd.Series | Sequence[str], thresholds: pd.Series | float) -> np.ndarray:
    """1 where a score (N,) is above the threshold of its group, else 0, int64. thresholds: by group, or one for all.

    Raises DataError for a row whose group has no threshold.
    """
    names = pd.Series(groups).reset_index(drop=True)
    if not isinstance(thresholds, pd.Series):
        return (as_array(scores) > thresholds).astype(np.int64)
    cut = names.map(thresholds)
    if cut.isna().any():
        row = int(cut.isna().to_numpy().argmax())
        raise DataError(
            f"row {row} is of group {names[row]!r}, for which there is no threshold; fit one or leave it out."
        )
    return (as_array(scores) > cut.to_numpy()).astype(np.int64)


def traded(
    task: Task,
    scores: Values,
    targets: Values,
    groups: pd.Series | Sequence[str],
    rules: dict[str, pd.Series | float],
    small: int = SMALL,
    n_boot: int = N_BOOT,
    seed: int = 0,
) -> pd.DataFrame:
    """What each rule for the answer gives: accuracy, selection rate, true and false positive rate, all and by group.

    task: of two classes, the second of which is the positive one; scores, targets and groups as for `fit_thresholds`,
    of rows on which nothing was fitted. rules: name to thresholds, as `decide` takes them; `{"one": 0.5, ...}`. One row
    a rule, metric and group: rule, metric, group, n, value, low, high, small; `all` are all rows, `gap` is the largest
    less the smallest value of the groups that are not small (its low and high are NaN: `GroupCounts.worst` has them).
    Raises ConfigError for a task of more classes.
    """
    if len(task.classes) != 2:
        raise ConfigError(f"task {task.name!r} has {len(task.classes)} classes; thresholds are for two.")
    scores, targets, names = _checked(scores, targets, groups)
    table = pd.DataFrame({"group": names})
    parts = []
    for rule, thresholds in rules.items():
        answers = decide(scores, names, thresholds)
        for by in ((), ("group",)):
            found = group_scores(
                task,
                answers,
                targets,
                table,
                by=by,
                metrics=TRADED,
                positive=task.classes[1],
                small=small,
                n_boot=n_boot,
                seed=seed,
            )
            parts.append(found.assign(rule=rule) if by else found.assign(rule=rule, group="all"))
        large = found[~found["small"]].groupby("metric", sort=False)
        gap = (large["value"].max() - large["value"].min()).reindex(TRADED)
        n = large["n"].sum().reindex(TRADED, fill_value=0)
        parts.append(
            pd.DataFrame(
                {"rule": rule, "metric": TRADED, "group": "gap", "n": n.to_numpy(), "value": gap.to_numpy()}
            ).assign(low=np.nan, high=np.nan, small=False)
        )
    columns = ["rule", "metric", "group", "n", "value", "low", "high", "small"]
    return pd.concat(parts, ignore_index=True)[columns]


def _checked(
    scores: Values, targets: Values, groups: pd.Series | Sequence[str]
) -> tuple[np.ndarray, np.ndarray, pd.Series]:
    """Scores float64, targets int64 and the groups' names, all (N,). Raises DataError for what does not fit."""
    scores, targets = as_array(scores).astype(np.float64), as_array(targets)
    names = pd.Series(groups).reset_index(drop=True)
    if scores.ndim != 1 or scores.shape != targets.shape or len(names) != len(scores):
        raise DataError(f"scores {scores.shape}, targets {targets.shape} and {len(names)} groups must all be (N,).")
    if not np.isfinite(scores).all():
        raise DataError(f"the score of row {int((~np.isfinite(scores)).argmax())} is not finite.")
    if len(targets) and targets.max() > 1:
        raise DataError(f"a target is {targets.max()}; for two answers it is 1, 0, or -1 where unknown.")
    return scores, targets.astype(np.int64), names
