"""Codings of a label: each answer is the best for its metric, and all are scored as facekit's metrics score them."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.experiments import few_labels, scores, sharing_methods
from facekit.experiments.codings import answers, codings, compare_codings, score_answers
from facekit.tasks import AGE_BAND, GENDER, Task
from facekit.training.loop import predict

ANSWERS = ["most probable", "mean", "median", "levels", "number"]
GRADE = Task("grade", "multiclass", ("a", "b", "c", "d"), midpoints=(1.0, 2.0, 4.0, 9.0))


def random_outputs(n: int, task: Task = GRADE, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: 2 * torch.randn(n, each.n_outputs, generator=rng) for name, each in codings(task).items()}


@given(st.integers(0, 10_000))
def test_each_answer_from_classes_is_the_best_for_its_metric(seed):
    outputs = random_outputs(1, seed=seed)
    found = answers(GRADE, outputs)
    p, middles = outputs["classes"].softmax(1)[0].double(), torch.tensor(GRADE.midpoints, dtype=torch.float64)
    tried = torch.cat([middles, torch.linspace(0, 10, 101, dtype=torch.float64)])
    distance = (tried[:, None] - middles).abs()
    own = (found["median"].double() - middles).abs() @ p
    assert own <= (distance @ p).min() + 1e-5, "the median has the least expected absolute error"
    own = (found["mean"].double() - middles).square() @ p
    assert own <= (distance.square() @ p).min() + 1e-4, "the mean has the least expected squared error"
    assert p[middles == found["most probable"]].item() == p.max(), "the most probable class is right most often"


def test_the_median_of_probabilities_that_add_up_to_less_than_one_is_a_class():
    outputs = random_outputs(1)
    outputs["classes"] = torch.tensor([[-100.0, -100.0, -100.0, 0.0]])
    assert answers(GRADE, outputs)["median"].item() == 9


def test_answers_are_scored_as_the_metrics_score_the_tasks():
    outputs, asked = random_outputs(200), codings(GRADE)
    targets = torch.randint(-1, 4, (200,), generator=torch.Generator().manual_seed(1))
    found = score_answers(GRADE, answers(GRADE, outputs), targets).set_index(["answer", "metric"])["value"]
    as_number = replace(asked["number"], classes=GRADE.classes, midpoints=GRADE.midpoints)
    same = {
        "most probable": (GRADE, "classes"),
        "mean": (replace(GRADE, kind="expectation"), "classes"),
        "levels": (asked["levels"], "levels"),
        "number": (as_number, "number"),
    }
    labels = pd.Series([None if target < 0 else GRADE.classes[target] for target in targets.tolist()])
    for name, (task, key) in same.items():
        expected = evaluate([task], {"grade": outputs[key]}, {"grade": task.encode(labels)}, n_boot=1)
        expected = expected.set_index("metric")["value"]
        for metric in ("accuracy", "mae"):
            assert found[name, metric] == pytest.approx(expected[metric], abs=1e-6), (name, metric)


def test_bands_without_numbers_have_no_codings():
    with pytest.raises(ConfigError, match="'gender' stand for no numbers"):
        codings(GENDER)
    asked = codings(AGE_BAND, scale=5.0)
    assert [(name, task.kind, task.n_outputs) for name, task in asked.items()] == [
        ("classes", "multiclass", 9), ("levels", "ordinal", 8), ("number", "regression", 1)
    ]  # fmt: skip
    assert asked["number"].scale == 5 and asked["number"].encode(pd.Series(["30-39"])).item() == 34.5


def toy_features(n: int, seed: int) -> FeatureSet:
    rng = np.random.default_rng(seed)
    labels = pd.DataFrame({"grade": rng.choice(GRADE.classes, n), "split": "train"})
    centres = np.eye(4)[[GRADE.classes.index(grade) for grade in labels["grade"]]]
    features = np.concatenate([centres, np.zeros((n, 2))], 1) + rng.normal(0, 0.1, (n, 6))
    return FeatureSet((features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels)


def test_all_codings_learn_from_the_same_rows_what_the_method_learns_alone():
    train, test = toy_features(80, 0), toy_features(60, 1)
    learn = sharing_methods((4,), 0.0, (), steps=200, lr=0.03)["single"]
    seen = []

    def spy(rows, tasks, seed):
        seen.append((rows.content_hash(), tasks[0].kind, seed))
        return learn(rows, tasks, seed)

    table = compare_codings(train, test, GRADE, [40, 80], [0, 3], spy)
    assert list(table.columns) == ["answer", "n", "seed", "task", "metric", "value", "seconds"]
    wanted = set(itertools.product(ANSWERS, [40, 80], [0, 3], ["grade"], ["accuracy", "mae"]))
    found = list(table[["answer", "n", "seed", "task", "metric"]].itertuples(index=False, name=None))
    assert len(found) == len(wanted) and set(found) == wanted
    rows = few_labels(train, 40, 3)
    assert [entry[1:] for entry in seen[3:6]] == [("multiclass", 3), ("ordinal", 3), ("regression", 3)]
    assert {entry[0] for entry in seen[3:6]} == {rows.content_hash()}
    alone = scores(learn(rows, [GRADE], 3), test, [GRADE]).set_index("metric")["value"]
    mine = table.query("answer == 'most probable' and n == 40 and seed == 3").set_index("metric")["value"]
    assert mine["accuracy"] == alone["accuracy"] and mine["mae"] == pytest.approx(alone["mae"])
    assert mine["accuracy"] > 0.9, "what is easy is learnt"
    asked = codings(GRADE)["number"]
    number = asked.predict(predict(learn(rows, [asked], 3), test)["grade"])
    mine = table.query("answer == 'number' and n == 40 and seed == 3 and metric == 'mae'")["value"].item()
    truth = test.labels["grade"].map(dict(zip(GRADE.classes, GRADE.midpoints, strict=True)))
    assert mine == pytest.approx(np.abs(number.numpy() - truth.to_numpy()).mean(), abs=1e-5)
