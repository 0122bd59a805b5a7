"""Boxes and texts as tasks: IoU, CTC and its decoders against independent counts, missing and bad labels, scores."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from tiny import TinyNet, faces

from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import evaluate
from facekit.experiments import chance
from facekit.models.heads import Classifier, Heads
from facekit.tasks import AGE_BAND, GENDER, Joint, Task, boxes, texts
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.weighting import scale_weights

BOX = Task("box", "box")
TEXT = Task("text", "string", tuple("abc"))
FRAMES = pd.DataFrame(
    [[0.1, 0.2, 0.5, 0.9], [np.nan] * 4, [0.0, 0.0, 1.0, 1.0]],
    columns=["box_left", "box_top", "box_right", "box_bottom"],
)
WORDS = pd.Series(["ab", None, "cca"])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def some_boxes(n: int, seed: int) -> torch.Tensor:
    return BOX.predict(torch.rand(n, 4, generator=torch.Generator().manual_seed(seed)))


def spelled(path: tuple[int, ...]) -> str:
    """What a path of classes spells, read off step by step."""
    merged = [key for key, _ in itertools.groupby(path)]
    return "".join("_abc"[key] for key in merged if key)


def probabilities(outputs: torch.Tensor) -> dict[str, float]:
    """Probability of every text under (T, K + 1) scores, by adding up all paths."""
    rows = outputs.double().softmax(1).tolist()
    found: dict[str, float] = {}
    for path in itertools.product(range(len(rows[0])), repeat=len(rows)):
        text = spelled(path)
        found[text] = found.get(text, 0.0) + math.prod(row[key] for row, key in zip(rows, path, strict=True))
    return found


def test_what_is_decoded_is_the_label_that_was_encoded():
    years = Task("years", "regression", scale=10.0)
    labels = pd.DataFrame({"gender": ["Male", None, "Female"], "years": [3.0, None, 4.5], "text": ["ab", None, "c"]})
    boxes = pd.DataFrame([[0.25, 0.5, 0.75, 1.0], [None] * 4], columns=list(BOX.columns), dtype=float)
    for task in (GENDER, years, TEXT):
        decoded = task.decode(task.encode(labels[task.name]))
        assert decoded == {task.name: labels[task.name].astype(object).where(labels[task.name].notna(), None).tolist()}
    assert list(BOX.decode(BOX.encode(boxes)).values()) == [[0.25, None], [0.5, None], [0.75, None], [1.0, None]]
    expected = replace(AGE_BAND, kind="expectation")
    assert expected.decode(expected.predict(torch.zeros(1, 9)))["age"] == pytest.approx([np.mean(AGE_BAND.midpoints)])


def test_overlap_of_boxes_is_torchvisions():
    one, other = some_boxes(200, 1), some_boxes(200, 2)
    iou, giou = boxes.overlaps(one, other)
    torch.testing.assert_close(iou, torchvision.ops.box_iou(one, other).diagonal())
    torch.testing.assert_close(giou, torchvision.ops.generalized_box_iou(one, other).diagonal(), atol=1e-5, rtol=1e-5)
    assert BOX.scores(one.numpy(), one.numpy())["iou"] == pytest.approx(1)
    assert BOX.scores(one.numpy(), other.numpy())["iou"] == pytest.approx(iou, rel=1e-5)


def test_boxes_that_do_not_meet_score_zero_but_pull_at_each_other():
    here, there = torch.tensor([[0.0, 0.0, 0.2, 0.2]]), torch.tensor([[0.7, 0.7, 0.9, 0.9]])
    iou, giou = boxes.overlaps(here, there)
    assert iou == 0 and giou < 0
    outputs = here.clone().requires_grad_()
    BOX.loss(outputs, there).backward()
    assert (outputs.grad < 0).all()  # every side goes right and down


def test_outlines_are_drawn_where_the_boxes_are():
    images = np.zeros((2, 3, 11, 21), np.uint8)
    drawn = boxes.outlined(images, torch.tensor([[0.1, 0.2, 0.5, 0.8], [math.nan] * 4]), 200)
    assert not images.any() and not drawn[1].any()
    rows, columns = np.nonzero(drawn[0, 0])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 2, 10)
    assert drawn[0, :, 2:9, 2:11].sum() == 3 * 200 * (2 * 9 + 2 * 7 - 4) and (drawn[0, 0] == drawn[0, 2]).all()


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4))
def test_a_predicted_box_lies_inside_the_picture_whatever_the_network_says(numbers):
    box = BOX.predict(torch.tensor([numbers]))
    assert box.shape == (1, 4) and (box >= 0).all() and (box <= 1).all() and (box[:, :2] <= box[:, 2:]).all()
    assert torch.equal(BOX.predict(box), box)
    assert BOX.loss(torch.tensor([numbers]), some_boxes(1, 0)).isfinite()


def test_missing_boxes_and_texts_contribute_nothing():
    for task, labels, shape in ((BOX, FRAMES, (3, 4)), (TEXT, WORDS, (3, 5, 4))):
        targets, outputs = task.encode(labels), draw(*shape).requires_grad_()
        known = task.known(targets)
        assert known.tolist() == [True, False, True]
        loss = task.loss(outputs, targets)
        torch.testing.assert_close(loss, task.loss(outputs[known], targets[known]))
        loss.backward()
        assert outputs.grad[1].abs().sum() == 0 and (outputs.grad[known].flatten(1).abs().sum(1) > 0).all()
        nothing = task.loss(outputs, targets[[1, 1, 1]])
        assert nothing == 0
        assert task.loss(outputs.detach().bfloat16(), targets).dtype == torch.float32


def test_gradients_of_boxes_and_texts_by_finite_differences():
    targets = BOX.encode(FRAMES).double()
    assert torch.autograd.gradcheck(
        lambda outputs: BOX.loss(outputs, targets), (some_boxes(3, 5).double() * 0.9).requires_grad_()
    )
    words = TEXT.encode(WORDS)
    assert torch.autograd.gradcheck(lambda outputs: TEXT.loss(outputs, words), draw(3, 5, 4).double().requires_grad_())


@pytest.mark.parametrize("seed", range(5))
def test_loss_of_a_text_is_the_sum_over_all_paths_that_spell_it(seed):
    outputs = draw(1, 4, 4, seed=seed)
    table = probabilities(outputs[0])
    assert sum(table.values()) == pytest.approx(1)
    for text in ("a", "ab", "bb", "cab"):
        loss = TEXT.loss(outputs, TEXT.encode(pd.Series([text])))
        assert loss.item() == pytest.approx(-math.log(table[text]), rel=1e-5)


@pytest.mark.parametrize("seed", range(12))
def test_a_beam_that_drops_nothing_finds_the_most_probable_of_all_texts(seed):
    outputs = draw(1, 5, 4, seed=seed) * 1.5
    table = probabilities(outputs[0])
    assert TEXT.texts(texts.beam_search(outputs, width=10**6)) == [max(table, key=table.get)]


def test_a_wider_beam_is_no_worse_than_greedy_and_can_be_better():
    # Both paths that spell "a" together are more probable than the one that spells nothing.
    outputs = torch.tensor([[[0.6, 0.4], [0.6, 0.4]]]).log()
    task = Task("text", "string", ("a", "b"))
    outputs = torch.cat([outputs, torch.full((1, 2, 1), -100.0)], 2)
    assert task.texts(task.predict(outputs)) == [""] and task.texts(texts.beam_search(outputs)) == ["a"]
    many = draw(30, 5, 4, seed=3)
    tables = [probabilities(row) for row in many]
    quick, wide = TEXT.texts(TEXT.predict(many)), TEXT.texts(texts.beam_search(many, 20))
    better = [table[two] - table[one] for table, one, two in zip(tables, quick, wide, strict=True)]
    assert min(better) >= 0 and max(better) > 0


@given(st.lists(st.lists(st.integers(0, 3), min_size=6, max_size=6), min_size=1, max_size=5))
def test_greedy_decoding_merges_repeats_and_then_drops_blanks(paths):
    outputs = torch.nn.functional.one_hot(torch.tensor(paths), 4).float()
    assert TEXT.texts(TEXT.predict(outputs)) == [spelled(tuple(path)) for path in paths]


@given(st.text("abc", max_size=5), st.text("abc", max_size=5), st.text("abc", max_size=5))
def test_edit_distance_is_a_distance(one, other, third):
    distance = texts.edit_distance(one, other)
    assert (distance == 0) == (one == other) and distance == texts.edit_distance(other, one)
    assert abs(len(one) - len(other)) <= distance <= max(len(one), len(other))
    assert distance <= texts.edit_distance(one, third) + texts.edit_distance(third, other)


def test_edit_distance_of_known_pairs():
    assert texts.edit_distance("kitten", "sitting") == 3 and texts.edit_distance("", "abc") == 3
    assert texts.edit_distance("flaw", "lawn") == 2


def test_a_double_letter_needs_a_position_more():
    assert texts.positions_needed("cca") == 4 and texts.positions_needed("") == 0
    targets = TEXT.encode(pd.Series(["aaa"]))
    assert targets.tolist() == [[0, 0, 0, -1, -1]]
    assert TEXT.loss(draw(1, 5, 4), targets).isfinite()
    with pytest.raises(DataError, match="needs up to 5 positions.*gives 4.*earlier stage"):
        TEXT.loss(draw(1, 4, 4), targets)


def test_texts_survive_the_way_to_targets_and_back():
    words = pd.Series(["abc", "", None, "cc"])
    assert TEXT.texts(TEXT.encode(words)) == ["abc", "", "", "cc"]
    assert TEXT.known(TEXT.encode(words)).tolist() == [True, False, False, True]


def test_bad_labels_name_the_row_and_the_remedy():
    with pytest.raises(DataError, match="row 1, column 'text': 'bab!' has '!'.*'abc'; add it to the task's classes"):
        TEXT.encode(pd.Series(["ab", "bab!"]))
    with pytest.raises(DataError, match="row 0, column 'text': 12 is a .*int.*dtype"):
        TEXT.encode(pd.Series([12]))
    for wrong in ([0.5, 0.2, 0.1, 0.9], [0.1, 0.2, 0.5, 90], [0.1, np.nan, 0.5, 0.9], [0.1, "x", 0.5, 0.9]):
        table = FRAMES.astype(object)
        table.loc[2] = wrong
        with pytest.raises(DataError, match="row 2, columns box_left.*is no box; give left < right"):
            BOX.encode(table)
    with pytest.raises(DataError, match="no label column 'box_top'"):
        FaceSet(np.zeros((3, 3, 4, 4), np.uint8), FRAMES.drop(columns="box_top").assign(split="train")).targets([BOX])
    with pytest.raises(ConfigError, match="single characters, not 'bc'"):
        Task("text", "string", ("a", "bc"))
    with pytest.raises(ConfigError, match="at least two different classes"):
        Task("text", "string", ("a", "a"))
    with pytest.raises(ConfigError, match="softmax over classes can be joined; text"):
        Joint((Task("x", "multiclass", ("a", "b")), TEXT))
    with pytest.raises(ConfigError, match="SequenceHead"):
        TEXT.loss(draw(3, 4), TEXT.encode(WORDS))
    with pytest.raises(ConfigError, match="width of a beam"):
        texts.beam_search(draw(1, 2, 3), 0)
    with pytest.raises(ConfigError, match="no constant outputs"):
        TEXT.constant(TEXT.encode(WORDS))


def test_scores_count_edits_and_overlaps_with_their_intervals():
    words = pd.Series(["abc", "ab", None, "cc"])
    predicted = TEXT.encode(pd.Series(["abc", "b", "abc", "ca"]))
    outputs = torch.nn.functional.one_hot(predicted + 1, 4).float() * 9  # its positions spell it
    outputs = {"text": outputs, "box": torch.tensor([[0.1, 0.2, 0.5, 0.9], [0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 1, 1]])}
    table = pd.concat([FRAMES, FRAMES.iloc[[1]]], ignore_index=True)
    targets = {"text": TEXT.encode(words), "box": BOX.encode(table)}
    scores = evaluate([TEXT, BOX], outputs, targets).set_index("metric")
    assert scores.loc["character_error_rate", "value"] == pytest.approx(2 / 7)
    assert scores.loc["exact_match", "value"] == pytest.approx(1 / 3)
    assert scores.loc["iou", "value"] == pytest.approx((1 + 0.5) / 2)
    assert scores["n"].tolist() == [3, 3, 2]
    assert (scores["low"] <= scores["value"]).all() and (scores["value"] <= scores["high"]).all()
    nothing = {"text": TEXT.encode(pd.Series([None] * 4, dtype=object)), "box": torch.full((4, 4), math.nan)}
    scores = evaluate([TEXT, BOX], outputs, nothing)
    assert scores["value"].isna().all() and (scores["n"] == 0).all()


def test_boxes_train_in_the_ordinary_loop_and_beat_the_best_constant():
    data = faces(64)
    bright = data.images.copy()
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 8, (64, 2))
    for row, (x, y) in enumerate(corners):
        bright[row] //= 4
        bright[row, :, y : y + 8, x : x + 8] = 250
    sides = np.concatenate([corners, corners + 8], 1) / 16
    labels = pd.DataFrame(sides, columns=list(BOX.columns)).assign(split="train")
    train = FaceSet(bright, labels)
    torch.manual_seed(0)
    model = Classifier(TinyNet(), Heads(6, [BOX]))
    result = fit(model, Supervised([BOX]), train, train, plan("everything", list(model.stages), 3, 1e-2), TrainConfig())
    assert "validation_box" in result.history and "accuracy_box" not in result.history
    blind = chance(train, train, [BOX])
    assert blind["metric"].tolist() == ["iou"] and 0 < blind["value"][0] < 1
    assert scale_weights([BOX], train)["box"] > 0
