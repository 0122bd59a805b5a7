"""Comparisons seed by seed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from facekit.errors import ConfigError
from facekit.evaluation.paired import clearly_better, over_seeds, side_by_side, with_spread
from facekit.show import plots


def test_every_seed_is_a_row_and_every_method_a_column():
    table = over_seeds(lambda factor, seed: {"a": factor * seed, "b": seed}, 10, seeds=[3, 5])
    assert list(table.index) == [3, 5] and list(table["a"]) == [30, 50] and list(table["b"]) == [3, 5]


def test_methods_named_by_tuples_make_levels():
    table = over_seeds(lambda seed: {("t", "b"): seed, ("t", "a"): 2 * seed, ("s", "b"): 1}, seeds=[0, 1, 2])
    assert list(table.columns) == [("t", "b"), ("t", "a"), ("s", "b")] and list(table["t"]["a"]) == [0, 2, 4]
    spread = with_spread(table)
    assert spread.index.names == [None, "method"] and spread.loc[("t", "a"), "mean"] == 2
    assert with_spread(table["t"]).index.name == "method"


def test_runs_that_cannot_be_compared_are_refused():
    with pytest.raises(ConfigError, match="same methods"):
        over_seeds(lambda seed: {"a": 1} if seed else {"b": 1}, seeds=[0, 1])
    with pytest.raises(ConfigError, match="at least one seed"):
        over_seeds(lambda seed: {"a": 1}, seeds=[])


def test_a_gain_counts_within_the_row():
    rows = np.array([0.5, 0.7, 0.6, 0.8])  # the seeds differ far more than the methods
    table = pd.DataFrame(
        {"base": rows, "more": rows + [0.02, 0.03, 0.02, 0.03], "noise": rows + [0.2, -0.19, 0.2, -0.1]}
    )
    assert clearly_better(table, "more", "base") and not clearly_better(table, "base", "more")
    assert not clearly_better(table, "noise", "base") and not clearly_better(table, "base", "base")
    assert not clearly_better(table, "more", "base", at_least=0.03)


def test_better_needs_two_seeds_and_known_columns():
    with pytest.raises(ConfigError, match="one seed"):
        clearly_better(pd.DataFrame({"a": [1.0], "b": [2.0]}), "b", "a")
    with pytest.raises(ConfigError, match="no column"):
        clearly_better(pd.DataFrame({"a": [1.0, 2.0]}), "b", "a")


def test_pictures_of_such_tables():
    table = pd.DataFrame({"none": [0.5, 0.6], "a long method name": [0.7, 0.7]})
    fig = plots.bar_panels({"race": table, "gender": table})
    assert [axis.get_title() for axis in fig.axes] == ["race", "gender"]
    assert [len(axis.patches) for axis in fig.axes] == [2, 2]


def test_a_long_table_side_by_side_is_what_better_takes():
    rows = pd.DataFrame(
        [
            {"method": method, "n": n, "seed": seed, "task": task, "metric": metric, "value": value}
            for (method, add) in (("a", 0.0), ("b", 0.1))
            for n in (10, 20)
            for seed in (3, 1)
            for task in ("race", "age")
            for metric, value in (("accuracy", add + n / 100 + seed / 1000), ("mae", 5.0))
        ]
    )
    table = side_by_side(rows, "race", 20)
    assert list(table.index) == [1, 3] and np.allclose(table[["a", "b"]], [[0.201, 0.301], [0.203, 0.303]])
    assert clearly_better(table, "b", "a")
    assert np.allclose(side_by_side(rows, "age", 10, "mae"), 5)
    with pytest.raises(ConfigError, match="'race', n 30"):
        side_by_side(rows, "race", 30)


def test_the_summary_shows_means_with_their_spread():
    table = pd.DataFrame({"base": [0.5, 0.7, 0.6], "own method": [0.81234, 0.81234, 0.81234]})
    found = with_spread(table)
    assert list(found.index) == ["base", "own method"] and list(found["seeds"]) == [3, 3]
    assert found.loc["base", "mean"] == 0.6 and found.loc["base", "±"] == pytest.approx(0.1 / 3**0.5, abs=5e-4)
    assert found.loc["own method", "mean"] == 0.812 and found.loc["own method", "±"] == 0
    with pytest.raises(ConfigError, match="no spread"):
        with_spread(table.iloc[:1])
