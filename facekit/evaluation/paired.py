"""Methods compared on the same rows, seed by seed: what differs is then the method and not the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from facekit.errors import ConfigError


def over_seeds(experiment: Callable[..., Mapping[str, float]], *of, seeds: Iterable[int] = range(5)) -> pd.DataFrame:
    """`experiment(*of, seed)` for every seed: a table with one row a seed and one column a method.

    Methods named by tuples, such as (task, method), give columns with several levels. Raises ConfigError without a
    seed, and where the runs do not give the same methods.
    """
    seeds = list(seeds)
    rows = [dict(experiment(*of, seed)) for seed in seeds]
    if not rows or any(set(row) != set(rows[0]) for row in rows):
        raise ConfigError("every seed must give the same methods, and there must be at least one seed.")
    table = pd.DataFrame(rows, index=pd.Index(seeds, name="seed"))
    return table.set_axis(pd.Index(list(table)), axis=1)  # of tuples this makes a MultiIndex


def side_by_side(rows: pd.DataFrame, task: str, n: int, metric: str = "accuracy") -> pd.DataFrame:
    """One task's values at one n from a long table of `experiments`: one row a seed and one column a method.

    rows: columns method, n, seed, task, metric, value. The table is as `over_seeds` makes it, for `clearly_better`.
    Raises ConfigError where there is no such measurement.
    """
    chosen = rows[(rows["task"] == task) & (rows["n"] == n) & (rows["metric"] == metric)]
    if chosen.empty:
        raise ConfigError(f"no row has task {task!r}, n {n} and metric {metric!r}.")
    return chosen.pivot(index="seed", columns="method", values="value")


def with_spread(table: pd.DataFrame, digits: int = 3) -> pd.DataFrame:
    """What a reader should see of a table of `over_seeds`: a row a method, columns mean, ± (standard error) and seeds.

    Rounded to `digits`. Raises ConfigError for fewer than two seeds, which have no spread.
    """
    if len(table) < 2:
        raise ConfigError("one seed has no spread; compare over at least two.")
    found = pd.DataFrame({"mean": table.mean(), "±": table.sem()}).round(digits)
    return found.assign(seeds=len(table)).rename_axis([*found.index.names[:-1], "method"])


def clearly_better(table: pd.DataFrame, method: str, baseline: str, at_least: float = 0.005) -> bool:
    """Whether `method` clearly beats `baseline` in a table of `over_seeds`.

    Clearly: the mean gain within the rows is above `at_least` and above twice its standard error. Twice is a rule of
    thumb, not a test: with five seeds it is little stricter than always being ahead. Raises ConfigError for an unknown
    column or fewer than two seeds.
    """
    if missing := {method, baseline} - set(table):
        raise ConfigError(f"the table has no column {sorted(missing)}; it has {list(table)}.")
    if len(table) < 2:
        raise ConfigError("one seed has no spread; compare over at least two.")
    gain = table[method] - table[baseline]
    return bool(gain.mean() > at_least and gain.mean() > 2 * gain.std() / len(gain) ** 0.5)
