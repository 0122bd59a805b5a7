"""Batches: every row once an epoch, an order that only seed and epoch decide, shares that add up."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, LEVEL, faces, features

from facekit.errors import ConfigError
from facekit.training.augment import Augment
from facekit.training.batches import Batches, seed_for

sizes = st.integers(1, 40)


def rows_of(batches: Batches, epoch: int) -> list[list[int]]:
    return [batch.rows.tolist() for batch in batches.epoch(epoch)]


@given(n=sizes, size=sizes, epoch=st.integers(0, 3))
def test_without_shuffling_every_row_comes_once_and_in_order(n, size, epoch):
    batches = Batches(features(n), [COLOUR], size, shuffle=False)
    found = rows_of(batches, epoch)
    assert sum(found, []) == list(range(n))
    assert len(found) == len(batches) == -(-n // size)


@given(n=sizes, size=sizes, epoch=st.integers(0, 3))
def test_a_training_epoch_has_no_row_twice_and_no_last_batch_of_one(n, size, epoch):
    found = rows_of(Batches(features(n), [COLOUR], size, shuffle=True), epoch)
    rows = sum(found, [])
    assert len(set(rows)) == len(rows) and set(rows) <= set(range(n))
    tail = n % size
    lost = tail if n > size and tail == 1 else 0
    assert len(rows) == n - lost


@given(n=st.integers(8, 40), size=st.integers(8, 20), world=st.integers(2, 4), epoch=st.integers(0, 2))
def test_processes_share_each_batch_of_one_process(n, size, world, epoch):
    parts = [list(Batches(features(n), [COLOUR], size, 3, rank=r, world=world).epoch(epoch)) for r in range(world)]
    alone = Batches(features(n), [COLOUR], size, 3)
    assert len({len(part) for part in parts}) == 1, "a process with one step more would wait for ever"
    for step, together in enumerate(zip(*parts, strict=True)):
        rows = np.concatenate([batch.rows for batch in together])
        assert sorted(rows) == sorted(alone.batch_rows(epoch, step))
        assert sum(batch.share for batch in together) == pytest.approx(1)
        assert all(len(batch.rows) >= 2 for batch in together)


def test_the_order_of_an_epoch_needs_no_epoch_before_it():
    data = features(30)
    first = Batches(data, [COLOUR], 7, seed=5)
    for epoch in range(3):
        rows_of(first, epoch)
    assert rows_of(first, 3) == rows_of(Batches(data, [COLOUR], 7, seed=5), 3)
    assert rows_of(first, 3) != rows_of(first, 2)
    assert rows_of(first, 3) != rows_of(Batches(data, [COLOUR], 7, seed=6), 3)


def test_inputs_and_targets_are_those_of_the_rows():
    data = faces(10)
    for batch in Batches(data, [COLOUR, LEVEL], 4).epoch(1):
        np.testing.assert_array_equal(batch.inputs.numpy(), data.images[batch.rows])
        assert torch.equal(batch.targets["level"], data.targets([LEVEL])["level"][batch.rows])
        assert batch.inputs.dtype == torch.uint8 and batch.targets["colour"].dtype == torch.int64


def test_a_memory_mapped_set_gives_the_same_batches(tmp_path):
    data = faces(9)
    stored = type(data).load(data.save(tmp_path / "set"))
    for here, there in zip(Batches(data, [], 4).epoch(), Batches(stored, [], 4).epoch(), strict=True):
        assert torch.equal(here.inputs, there.inputs)


def test_augmented_epochs_repeat_and_differ():
    batches = Batches(faces(8), [COLOUR], 8, augment=Augment())
    again, first, other = (next(iter(batches.epoch(k))).inputs for k in (0, 0, 1))
    assert torch.equal(again, first) and not torch.equal(first, other)


def test_seeds_of_different_numbers_differ():
    assert len({seed_for(a, b, c) for a in range(6) for b in range(6) for c in range(2)}) == 72


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"seed": -1}, {"rank": 2, "world": 2}, {"augment": Augment()}, {"world": 4}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ConfigError):
        Batches(features(12), [COLOUR], **{"batch_size": 4} | wrong)


@pytest.mark.parametrize(("rows", "size", "world"), [(2, 64, 2), (3, 64, 2), (40, 3, 2), (40, 8, 7)])
def test_too_few_rows_for_the_processes_are_told_from_too_small_batches(rows, size, world):
    few = f"batches of at least {2 * world} rows" if size < rows else f"a feature set of at least {2 * world} rows"
    with pytest.raises(ConfigError, match=f"{world} processes need {few}.* got {min(rows, size)}; start fewer"):
        Batches(features(rows), (), size, world=world)
    assert len(Batches(features(rows), (), size)) and len(Batches(features(rows), (), size, world=world, shuffle=False))
