"""Batches: every row once an epoch, an order that only seed and epoch decide, shares that add up."""

import copy
import gc
import threading
from itertools import count

import hypothesis
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, LEVEL, classifier, faces, features

from facekit.data import sets
from facekit.data.sets import MappedRows
from facekit.errors import ConfigError
from facekit.training.augment import Augment
from facekit.training.batches import AHEAD, Batches, _ahead, seed_for
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan

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


@pytest.fixture
def mapped(tmp_path, monkeypatch):
    """23 photos in memory, and the same rows of a stored set of which nothing is copied."""
    data = faces(40)
    stored = type(data).load(data.save(tmp_path / "set"))
    monkeypatch.setattr(sets, "COPIED", 0)
    rows = np.random.default_rng(1).permutation(40)[:23]
    return data.select(rows), stored.select(rows)


def test_rows_of_a_memory_mapped_set_are_an_array(mapped):
    here, there = (each.images for each in mapped)
    assert isinstance(there, MappedRows) and not isinstance(here, MappedRows)
    assert there.shape == here.shape and there.dtype == here.dtype and len(there) == 23 and there.nbytes == here.nbytes
    mask = np.arange(23) % 3 == 0
    for key in (5, -1, np.int64(3), slice(4, 20, 3), mask, [4, 2, 2], (7, 0), (slice(2, 5), slice(None), 0), ..., None):
        np.testing.assert_array_equal(there[key], here[key], err_msg=str(key))
    np.testing.assert_array_equal(there[..., 0], here[..., 0])
    np.testing.assert_array_equal(np.asarray(there, np.float32) - 1, here.astype(np.float32) - 1)
    np.testing.assert_array_equal(there // 2 + there, here // 2 + here)
    assert there.mean() == here.mean() and np.array_equal(there.reshape(23, -1), here.reshape(23, -1))
    pd.testing.assert_frame_equal(mapped[0].labels, mapped[1].labels)
    assert mapped[0].content_hash() == mapped[1].content_hash() == copy.deepcopy(mapped[1]).content_hash()
    again = mapped[1].select(mask)
    assert isinstance(again.images, MappedRows) and np.array_equal(again.images, mapped[0].select(mask).images)


@given(size=sizes, world=st.integers(1, 3), epoch=st.integers(0, 2), shuffle=st.booleans())
@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_batches_that_are_read_ahead_are_the_same_in_the_same_order(mapped, size, world, epoch, shuffle):
    size = max(size, 2 * world)
    for rank in range(world):
        here, there = (
            Batches(each, [COLOUR], size, 3, shuffle=shuffle, augment=Augment(), rank=rank, world=world)
            for each in mapped
        )
        assert (here.ahead, there.ahead) == (0, AHEAD)
        for one, other in zip(here.epoch(epoch), there.epoch(epoch), strict=True):
            assert torch.equal(one.inputs, other.inputs) and torch.equal(one.targets["colour"], other.targets["colour"])
            assert one.rows.tolist() == other.rows.tolist() and one.share == other.share
    assert here.not_finite(np.arange(3)).tolist() == there.not_finite(np.arange(3)).tolist() == []


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("facekit-batches")]


def test_reading_ahead_ends_with_the_last_batch_with_an_error_and_when_nobody_wants_more():
    asked = []

    def read(part: int) -> int:
        asked.append(part)
        if part == 5:
            raise OSError(f"{part} cannot be read")
        return -part

    assert list(_ahead(read, range(4), 2)) == [0, -1, -2, -3] and not readers()
    found = _ahead(read, count(), 2)
    with pytest.raises(OSError, match="5 cannot be read"):
        for part in range(9):
            assert next(found) == -part
    assert part == 5 and max(asked) <= 5 + 2 and not readers(), "what came before the error was given"
    asked.clear()
    found = _ahead(read, count(), 2)
    assert next(found) == 0 and readers()
    found.close()
    assert max(asked) <= 2 and not readers()


def test_a_training_that_stops_leaves_no_reader(mapped):
    class Broken(Supervised):
        def loss(self, model, batch):
            raise RuntimeError("broken")

    model = classifier()
    with pytest.raises(RuntimeError, match="broken"):
        fit(model, Broken([COLOUR]), mapped[1], None, plan("everything", list(model.stages), 1, 0.1), TrainConfig(4))
    gc.collect()
    assert not readers()


def test_the_known_labels_of_all_processes_make_one_mean():
    data = features(40)
    data.labels.loc[data.labels.index % 3 != 0, "colour"] = None
    outputs, uneven = torch.randn(40, 2), 0
    whole = Batches(data, [COLOUR], 13, 3)
    parts = [Batches(data, [COLOUR], 13, 3, rank=rank, world=3).epoch(1) for rank in range(3)]
    for one, *each in zip(whole.epoch(1), *parts, strict=False):
        wanted = one.mean_loss(COLOUR, outputs[one.rows])
        assert wanted == COLOUR.loss(outputs[one.rows], one.targets["colour"])
        found = sum(batch.mean_loss(COLOUR, outputs[batch.rows]) * batch.share for batch in each)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
        uneven += len({int(COLOUR.known(batch.targets["colour"]).sum()) for batch in each}) > 1
    assert uneven, "else their own means would do"


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
