"""Tasks: targets, losses and predictions of every kind, joint classes, missing labels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import age_mae, confusion_matrix, evaluate
from facekit.experiments import chance
from facekit.models.heads import Classifier, Heads
from facekit.tasks import AGE_BAND, GENDER, RACE, SKIN_TONE, Joint, Task, age_in_years, nearest_class
from facekit.tasks.heads import Thresholds
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.probe import linear_probe

ORDINAL = replace(AGE_BAND, kind="ordinal")
EXPECTED = replace(AGE_BAND, kind="expectation")
NUMBER = replace(AGE_BAND, kind="regression", scale=10.0)
KINDS = (AGE_BAND, ORDINAL, EXPECTED, NUMBER)
LABELS = pd.Series(["0-2", None, "20-29", "more than 70", "30-39"])


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def aged(n: int, seed: int = 0, dim: int = 5) -> FeatureSet:
    """Features whose first coordinate grows with the age band, which is wrong by a band now and then."""
    rng = np.random.default_rng(seed)
    band = rng.integers(0, 9, n)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    x[:, 0] = band - 4 + rng.normal(0, 0.5, n)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return FeatureSet(x, pd.DataFrame({"age": np.array(AGE_BAND.classes)[band], "split": "train"}))


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.kind)
def test_missing_labels_contribute_nothing_in_any_kind(task):
    targets, outputs = task.encode(LABELS), draw(5, task.n_outputs).requires_grad_()
    known = task.known(targets)
    assert known.tolist() == [True, False, True, True, True]
    loss = task.loss(outputs, targets)
    torch.testing.assert_close(loss, task.loss(outputs[known], targets[known]))
    loss.backward()
    assert outputs.grad[1].abs().sum() == 0 and (outputs.grad[known].abs().sum(1) > 0).all()
    broken = outputs.detach().clone()
    broken[1] = math.inf if task.kind == "regression" else math.nan
    torch.testing.assert_close(task.loss(broken, targets), loss.detach())
    outputs.grad = None
    nothing = task.loss(outputs, task.encode(pd.Series([None] * 5, dtype=object)))
    nothing.backward()
    assert nothing == 0 and outputs.grad.abs().sum() == 0


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.kind)
def test_gradient_of_every_kind_by_finite_differences(task):
    targets = task.encode(LABELS)
    targets = targets.double() if task.kind == "regression" else targets
    assert torch.autograd.gradcheck(
        lambda outputs: task.loss(outputs, targets), draw(5, task.n_outputs).double().requires_grad_()
    )


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.kind)
def test_predictions_have_one_number_a_row_and_low_precision_is_no_trouble(task):
    outputs = draw(5, task.n_outputs)
    assert task.predict(outputs).shape == (5,)
    assert (task.predict(outputs) == task.encode(LABELS)).shape == (5,)  # as the loop's validation compares them
    assert task.loss(outputs.bfloat16(), task.encode(LABELS)).dtype == torch.float32


def test_ordinal_loss_is_corals_written_out():
    outputs, targets = draw(4, 8).double(), torch.tensor([0, 3, -1, 8])
    total = 0.0
    for row, rank in enumerate(targets.tolist()):
        for k in range(8):
            yes = 1 / (1 + math.exp(-outputs[row, k].item()))
            total -= 0 if rank < 0 else math.log(yes) if rank > k else math.log(1 - yes)
    assert ORDINAL.loss(outputs, targets).item() == pytest.approx(total / 3)


def test_ordinal_prediction_counts_the_yeses():
    outputs = torch.tensor([[-1.0] * 8, [2.0] * 8, [3, 2, 0.1, -0.1, -1, -2, -3, -4]])
    assert ORDINAL.predict(outputs).tolist() == [0, 8, 3]


def test_thresholds_start_with_all_ranks_equally_probable():
    layer = Thresholds(4, 8)
    assert [tuple(p.shape) for p in layer.parameters()] == [(8,), (1, 4)]
    above = layer(torch.zeros(1, 4)).sigmoid()[0]
    ranks = -torch.diff(above, prepend=torch.ones(1), append=torch.zeros(1))
    torch.testing.assert_close(ranks, torch.full((9,), 1 / 9))


@pytest.mark.parametrize("seed", range(3))
def test_at_the_minimum_the_ordinal_answers_never_contradict_each_other(seed):
    # Theorem 1 of Cao et al. 2020: with common weights the best biases do not increase.
    data = aged(60, seed)
    model = linear_probe(data, [ORDINAL], prior=1.0)
    layer = model.heads.layers["age"][-1]
    assert (layer.bias.diff() <= 1e-6).all()
    answers = predict(model, data)["age"] > 0
    assert (answers[:, 1:] <= answers[:, :-1]).all()


def test_linear_probe_finds_the_minimum_of_the_ordinal_loss():
    data = aged(80)
    layer = linear_probe(data, [ORDINAL], prior=2.0).heads.layers["age"][-1].double()
    x = torch.from_numpy(data.features).double() * math.sqrt(5)
    loss = ORDINAL.loss(layer(x), ORDINAL.encode(data.labels["age"])) + 2.0 / 160 * layer.weight.square().sum()
    loss.backward()
    assert max(p.grad.abs().max() for p in layer.parameters()) < 1e-4


def test_expectation_is_the_mean_of_the_midpoints_and_its_loss_that_of_classes():
    outputs, targets = draw(5, 9), EXPECTED.encode(LABELS)
    expected = [sum(p * m for p, m in zip(row, AGE_BAND.midpoints, strict=True)) for row in outputs.softmax(1).tolist()]
    np.testing.assert_allclose(EXPECTED.predict(outputs), expected, rtol=1e-5)
    assert torch.equal(EXPECTED.loss(outputs, targets), AGE_BAND.loss(outputs, targets))
    sure = F.one_hot(torch.tensor([3]), 9) * 100.0
    assert EXPECTED.predict(sure).item() == pytest.approx(24.5)


def test_labels_become_targets_of_each_kind():
    assert AGE_BAND.encode(LABELS).tolist() == [0, -1, 3, 8, 4]
    assert ORDINAL.encode(LABELS).tolist() == EXPECTED.encode(LABELS).tolist() == [0, -1, 3, 8, 4]
    np.testing.assert_array_equal(NUMBER.encode(LABELS), np.float32([1, np.nan, 24.5, 75, 34.5]))
    years = pd.Series([0.0, np.nan, 25, 116])
    assert age_in_years().encode(years).tolist() == [0, -1, 25, 100]
    assert age_in_years().encode(years.dropna().astype(int).astype(str)).tolist() == [0, 25, 100]
    assert age_in_years("ordinal", oldest=50).encode(years).tolist() == [0, -1, 25, 50]
    assert age_in_years("ordinal").n_outputs == 100 and age_in_years("regression").n_outputs == 1
    assert replace(SKIN_TONE, kind="ordinal").encode(pd.Series([1, 10])).tolist() == [0, 9]
    for task in KINDS:
        with pytest.raises(DataError, match="row 1.*'old'"):
            task.encode(pd.Series(["0-2", "old"]))
    with pytest.raises(DataError, match="row 0"):  # classes without order take their texts only
        AGE_BAND.encode(pd.Series([25]))


def test_impossible_tasks_are_refused():
    with pytest.raises(ConfigError, match="unknown kind"):
        Task("age", "ranking", ("a", "b"))
    with pytest.raises(ConfigError, match="two different classes"):
        Task("age", "ordinal", ("young",))
    with pytest.raises(ConfigError, match="midpoint"):
        Task("age", "expectation", ("young", "old"))


@given(st.lists(st.floats(-50, 150) | st.just(math.nan), min_size=1, max_size=20))
def test_the_nearest_class_is_the_nearest(numbers):
    found = nearest_class(AGE_BAND.midpoints, np.array(numbers))
    for number, index in zip(numbers, found, strict=True):
        if math.isnan(number):
            assert index == -1
        else:
            assert abs(number - AGE_BAND.midpoints[index]) == min(abs(number - m) for m in AGE_BAND.midpoints)


def test_every_kind_gets_the_same_scores_for_the_same_answers():
    # Outputs of each kind that all say the same: bands 0, 3 and 8, of which the second is wrong by one band.
    said, truth = torch.tensor([0, 3, 8]), pd.Series(["0-2", "30-39", "more than 70"])
    outputs = {
        "multiclass": F.one_hot(said, 9) * 100.0,
        "ordinal": torch.where(torch.arange(8) < said[:, None], 5.0, -5.0),
        "expectation": F.one_hot(said, 9) * 100.0,
        "regression": torch.tensor(AGE_BAND.midpoints)[said][:, None] / 10,
    }
    tables = {}
    for task in KINDS:
        scores = evaluate([task], {"age": outputs[task.kind]}, {"age": task.encode(truth)}, n_boot=20)
        tables[task.kind] = scores.set_index("metric")["value"]
        assert tables[task.kind]["accuracy"] == pytest.approx(2 / 3), task.kind
        assert tables[task.kind]["mae"] == pytest.approx(10 / 3, rel=1e-4), task.kind
        table = confusion_matrix(task, task.predict(outputs[task.kind]), task.encode(truth))
        assert table.loc["30-39", "20-29"] == 1 and table.to_numpy().sum() == 3
    assert all(table.index.tolist() == tables["multiclass"].index.tolist() for table in tables.values())


def test_exact_years_replace_the_midpoints_of_every_kind():
    truth, years = pd.Series(["20-29", None]), [21.0, 40.0]
    assert age_mae(EXPECTED, np.array([25.0, 44.0]), EXPECTED.encode(truth), years) == pytest.approx(4)
    assert age_mae(ORDINAL, np.array([3, 5]), ORDINAL.encode(truth), years) == pytest.approx((3.5 + 4.5) / 2)


def test_the_constant_answer_is_the_best_one_and_its_loss_the_entropy():
    rng = np.random.default_rng(0)
    labels = pd.Series(rng.choice(AGE_BAND.classes, 300, p=np.arange(1, 10) / 45))
    shares = labels.value_counts(normalize=True).to_numpy()
    for task in KINDS:
        targets = task.encode(labels)
        constant = task.constant(targets)
        assert constant.shape == (task.n_outputs,)
        loss = task.loss(constant.expand(300, -1), targets)
        if task.kind in ("multiclass", "expectation"):
            assert loss.item() == pytest.approx(-(shares * np.log(shares)).sum(), rel=1e-4)
        if task.kind != "regression":  # the median is the best for |error|, nearly so for Huber's
            for seed in range(5):
                moved = constant + 0.1 * draw(task.n_outputs, seed=seed)
                assert task.loss(moved.expand(300, -1), targets) > loss
    with pytest.raises(DataError, match="no row has a label"):
        AGE_BAND.constant(torch.tensor([-1, -1]))


def test_chance_serves_every_kind():
    data = aged(50)
    for task in KINDS:
        table = chance(data, data, [task]).set_index("metric")["value"]
        assert 0 < table["accuracy"] < 0.5 and table["mae"] > 10


@pytest.mark.parametrize("task", KINDS, ids=lambda task: task.kind)
def test_every_kind_can_be_learnt_in_the_loop(task):
    torch.manual_seed(0)
    train, test = aged(400), aged(200, seed=1)
    model = Classifier(None, Heads(5, [task], hidden=16))
    fit(model, Supervised([task]), train, test, plan("probe", ["heads"], epochs=20, lr=0.02), TrainConfig(50))
    found = evaluate([task], predict(model, test), test.targets([task]), n_boot=1).set_index("metric")["value"]
    start = chance(train, test, [task]).set_index("metric")["value"]
    assert found["mae"] < start["mae"] / 2 and found["accuracy"] > 2 * start["accuracy"]


JOINT = Joint((GENDER, RACE, AGE_BAND))


def test_joint_labels_and_their_missing_parts():
    pair = Joint((GENDER, EXPECTED))
    assert pair.task.name == "gender_age" and len(pair.task.classes) == 18 and pair.task.classes[0] == "Male, 0-2"
    labels = pd.DataFrame({"gender": ["Female", None, "Male"], "age": ["3-9", "3-9", None]})
    joint = pair.add_to(labels)["gender_age"]
    assert joint[0] == "Female, 3-9" and joint[1:].isna().all()
    assert pair.task.encode(pair.add_to(labels)["gender_age"]).tolist() == [10, -1, -1]
    assert "gender_age" not in labels


def test_marginals_are_sums_of_probabilities():
    outputs = draw(6, 2 * 7 * 9)
    marginals = JOINT.marginals(outputs)
    table = outputs.softmax(1).reshape(6, 2, 7, 9)
    for part, axes in ((GENDER, (2, 3)), (RACE, (1, 3)), (AGE_BAND, (1, 2))):
        torch.testing.assert_close(marginals[part.name].exp(), table.sum(axes))
        torch.testing.assert_close(marginals[part.name].softmax(1), marginals[part.name].exp())


def test_a_sure_joint_answer_is_the_parts_answers():
    labels = pd.DataFrame({"gender": ["Female", "Male"], "race": ["Indian", "White"], "age": ["3-9", "20-29"]})
    targets = JOINT.task.encode(JOINT.add_to(labels)[JOINT.task.name])
    marginals = JOINT.marginals(F.one_hot(targets, JOINT.task.n_outputs) * 50.0)
    for part in JOINT.parts:
        assert torch.equal(part.predict(marginals[part.name]), part.encode(labels[part.name]))


def test_joint_loss_of_independent_answers_is_the_sum_of_the_parts():
    parts = {part.name: draw(4, part.n_outputs, seed=i).log_softmax(1) for i, part in enumerate(JOINT.parts)}
    joint = parts["gender"][:, :, None, None] + parts["race"][:, None, :, None] + parts["age"][:, None, None, :]
    labels = pd.DataFrame({"gender": "Male", "race": "Black", "age": list(AGE_BAND.classes[:4])})
    whole = JOINT.task.loss(joint.flatten(1), JOINT.task.encode(JOINT.add_to(labels)[JOINT.task.name]))
    separate = sum(part.loss(parts[part.name], part.encode(labels[part.name])) for part in JOINT.parts)
    torch.testing.assert_close(whole, separate)


def test_impossible_joints_are_refused():
    for parts in ((GENDER,), (GENDER, GENDER)):
        with pytest.raises(ConfigError, match="two or more"):
            Joint(parts)
    with pytest.raises(ConfigError, match="softmax"):
        Joint((GENDER, ORDINAL))
    with pytest.raises(DataError, match="no label column 'age'"):
        Joint((GENDER, AGE_BAND)).add_to(pd.DataFrame({"gender": ["Male"]}))
