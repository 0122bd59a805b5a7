"""Blank cells of a table: what is left gives no sum over a few faces away, as linear algebra says it."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facekit.errors import ConfigError
from facekit.evaluation.disclosure import withheld
from facekit.evaluation.groups import PUBLISHED

COUNTS = st.integers(0, 12) | st.integers(13, 26) | st.integers(20, 300)


def given_away(n: np.ndarray, blank: np.ndarray, known: list[np.ndarray]) -> list[int]:
    """Faces of every set of blank cells whose sum follows from known sums (masks), less the cells that are shown."""
    cells = np.argwhere(blank)
    sums = np.array([[mask[tuple(cell)] for cell in cells] for mask in known], float).T
    found = []
    for some in chain.from_iterable(combinations(range(len(cells)), size) for size in range(1, len(cells) + 1)):
        wanted = np.isin(np.arange(len(cells)), some).astype(float)
        rest = sums @ np.linalg.lstsq(sums, wanted, rcond=None)[0] - wanted
        if np.abs(rest).max() < 1e-8:
            found.append(int(sum(n[tuple(cells[place])] for place in some)))
    return found


@given(arrays(np.int64, st.integers(1, 9), elements=COUNTS))
def test_of_one_column_neither_a_cell_nor_the_rest_of_the_total_is_about_a_few_faces(n):
    blank = withheld(n)
    assert blank[n < PUBLISHED].all()
    rest = int(n[blank].sum())
    assert rest == 0 or rest >= PUBLISHED or blank.all()
    if (n >= PUBLISHED).all():
        assert not blank.any()


@settings(max_examples=60)
@given(arrays(np.int64, st.tuples(st.integers(2, 4), st.integers(2, 3)), elements=COUNTS))
def test_of_two_columns_no_sum_of_cells_margins_and_total_is_about_a_few_faces(n):
    if n.sum() < PUBLISHED:
        return
    blank = withheld(n)
    rows, columns = withheld(n.sum(1)), withheld(n.sum(0))
    assert blank[n < PUBLISHED].all() and blank[rows].all() and blank[:, columns].all()
    known = [np.ones(n.shape, bool)]
    known += [np.arange(len(n))[:, None] == row for row in np.flatnonzero(~rows)]
    known += [np.arange(n.shape[1])[None] == column for column in np.flatnonzero(~columns)]
    known = [np.broadcast_to(mask, n.shape) for mask in known]
    assert all(faces == 0 or faces >= PUBLISHED for faces in given_away(n, blank, known))


def test_a_cell_that_several_margins_together_give_away_is_found():
    """Each line has a sum of blank cells that is large enough, and yet 44 - 23 = 21, 36 - 21 = 15."""
    n = np.array([[15, 21, 0], [20, 23, 28]])
    assert 15 in given_away(n, n < 21, [*(np.arange(2)[:, None] == i + 0 * n for i in range(2)),
                                        *(np.arange(3)[None] == i + 0 * n for i in range(3))])  # fmt: skip
    assert withheld(n).sum() > (n < PUBLISHED).sum()


def test_tables_of_three_columns_are_refused():
    with pytest.raises(ConfigError, match="one or two"):
        withheld(np.zeros((2, 2, 2)))
