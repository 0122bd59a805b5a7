"""Which cells of a table stay blank, so that nothing in it is a statistic over a few faces, also not by subtraction.

A table by group says for each cell how many faces it has and how many answers were right. Where totals stand beside
it, a blank cell is the total less the others: it must not be blank alone. So further cells are left blank
(complementary suppression; Cox 1995, Journal of the American Statistical Association 90) until no sum or difference of
what is left, margins and total included, is about fewer than `least` faces. This is exact, for tables of one or two
columns whose margins are shown. It says nothing of guesses that use more than sums: bounds, or other scores.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

from facekit.errors import ConfigError
from facekit.evaluation.groups import PUBLISHED


def withheld(n: np.ndarray, least: int = PUBLISHED) -> np.ndarray:
    """Which cells to leave blank, boolean of the shape of n. n: faces of each cell, (groups,) or (rows, columns).

    The total is taken to be known, and of two columns both margins as `withheld` leaves them. Raises ConfigError for
    tables of more columns.
    """
    n = np.asarray(n).astype(np.int64)
    if n.ndim == 1:
        return _margin(n, least)
    if n.ndim != 2:
        raise ConfigError(f"cells of {n.ndim} columns: what they give away can be told for one or two.")
    rows, columns = _margin(n.sum(1), least), _margin(n.sum(0), least)
    hidden = (n < least) | rows[:, None] | columns
    # The sum of blank lines is known, each of them is not: together they are one line.
    line = np.cumsum(~rows) * ~rows, np.cumsum(~columns) * ~columns
    while (found := _given_away(n, hidden, *line, least)) is not None:
        across = ~hidden & (found[0][line[0]][:, None] != found[1][line[1]])
        if not across.any():
            break  # all that is known is the total of all
        hidden[np.unravel_index(np.where(across, n, n.sum() + 1).argmin(), n.shape)] = True
    return hidden


def _margin(n: np.ndarray, least: int) -> np.ndarray:
    """Groups (groups,) to leave blank beside their total: the small ones, and more until they are `least` together."""
    hidden = n < least
    for group in np.argsort(n, kind="stable"):
        if not 0 < n[hidden].sum() < least:
            break
        hidden[group] = True
    return hidden


def _given_away(
    n: np.ndarray, hidden: np.ndarray, row_of: np.ndarray, column_of: np.ndarray, least: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """The cut, by row and by column, whose blank cells are fewer than `least` faces together; None where there is none.

    Sums over blank cells that follow from the margins are those over x = u[row] - v[column] in {0, 1}: unions of cuts
    {row in X, column not in X} that no blank cell crosses the other way. The smallest of those that hold a cell is a
    minimum cut between its row and its column (Ford & Fulkerson 1956), with an edge of no limit the other way.
    """
    rows, columns = row_of.max() + 1, column_of.max() + 1
    blank = np.zeros((rows, columns), np.int64)
    at = np.nonzero(hidden)
    np.add.at(blank, (row_of[at[0]], column_of[at[1]]), n[at])
    touched = np.zeros((rows, columns), bool)
    touched[row_of[at[0]], column_of[at[1]]] = True
    graph = np.zeros((rows + columns,) * 2, np.int32)
    graph[:rows, rows:] = blank
    graph[rows:, :rows] = touched.T * (n.sum() + 1)
    network = csr_array(graph)
    for row, column in np.argwhere((blank > 0) & (blank < least)):
        flow = maximum_flow(network, int(row), int(rows + column))
        if flow.flow_value < least:
            within = np.zeros(rows + columns, bool)
            within[breadth_first_order(network - flow.flow > 0, int(row), return_predecessors=False)] = True
            return within[:rows], within[rows:]
    return None
