"""The best that is known: every member and ensemble is scored, on photos that nothing learnt from or chose on."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from test_studies import reference, toy_faces
from tiny import ChainNet

from facekit.commands.cli import main
from facekit.data.sets import FaceSet, FeatureSet
from facekit.evaluation.groups import PUBLISHED
from facekit.models.embedding import embed
from facekit.records import REFERENCE, recorded
from facekit.studies import best, common, members, tuning
from facekit.studies.best import ALL, ASIDE, CHOSEN, ONE_EACH, SHARED, SINGLE, STAGE, TEST, VALIDATION
from facekit.studies.common import TASKS
from facekit.studies.tuning import Tuning, trained
from facekit.tasks import Task
from facekit.training.augment import Augment
from facekit.training.config import Recipe
from facekit.training.loop import predict

assert reference  # the fixture of toy photos
QUICK = Recipe(steps=2, lr=1e-2, heads_lr=1e-2, dropout=0.1, hidden=3, batch_size=8, weight_decay=0.1)
LONG = ["from block, 1 passes", "from block, 1 + 1 passes", "from block, 1 passes, quick"]


class ChainFace(ChainNet):
    """Stands for FaceNet where its stages are taken apart: the same weights each time."""

    @classmethod
    def from_pretrained(cls):
        torch.manual_seed(7)
        return cls().eval()


@pytest.fixture
def toys(reference, monkeypatch):
    """Toy photos, and networks that are trained for a few steps."""
    for module, values in (
        (best, {"N_VALIDATION": 10, "FaceNet": ChainFace, "JOINT": QUICK, "LAST_STAGE": QUICK}),
        (best, {"Tuning": partial(Tuning, since="block", batch_size=8, augment=Augment(turn=10))}),
        (best, {"QUICK": Tuning((1,), since="block", batch_size=8)}),
        (members, {"AFTER": "stem", "UNTIL": "block"}),
        (common, {"N_ASIDE": 20}),
    ):
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    return reference


def test_members_and_ensembles_are_recorded_whole(toys):
    assert main(["record", "best", "--cycles", "[1,1]", "--seeds", "[0,1,2,3]", "--stage_seeds", "[0,1]"]) == 0
    record = recorded("best_fairface", toys)
    rows = record.rows[record.rows["task"] != "faces"]
    alone = {SHARED: 4, SINGLE: 4, STAGE: 2, **dict.fromkeys(LONG, 1)}
    found = rows[rows["metric"].eq("accuracy") & rows["group"].eq("all")]
    counts = found.groupby(["method", "views", "part"])["value"].size()
    for method, seeds in alone.items():
        for part in (VALIDATION, ASIDE, TEST):
            assert counts[method, 1, part] == counts[method, 2, part] == seeds * len(TASKS)
    sizes = {f"4 x {SHARED}": 4, f"3 x {SHARED}": 3, f"4 x {SINGLE}": 12, f"2 x {STAGE}": 2, ONE_EACH: 5, ALL: 9}
    for method, networks in sizes.items():
        some = found[found["method"] == method]
        assert set(some["networks"]) == {networks} and len(some) == 9 and set(some["views"]) == {2}
    assert set(found["method"]) == {*alone, *sizes, CHOSEN}
    gains = rows[rows["metric"] == "accuracy_gain"]
    assert set(gains["method"]) == {*sizes, CHOSEN} and (gains["low"] <= gains["high"]).all()
    assert set(rows["group"]) == {"all"}, "no race has twenty toy photos"
    rate = record.rows[record.rows["task"] == "faces"]
    assert rate["metric"].tolist() == ["photos_per_core_second"]
    assert 0 < rate["low"].item() <= rate["value"].item() <= rate["high"].item()
    long, longer = (found[found["method"] == name]["seconds"].iloc[0] for name in LONG[:2])
    assert longer > long > 0
    assert found["multiply_adds"].gt(0).all() and found["megabytes"].gt(0).all()


def test_what_is_set_aside_is_neither_learnt_from_nor_chosen_on(toys, monkeypatch):
    """Each photo carries its number; those of fairness's audits are the same ones."""
    numbered = toy_faces()
    numbered = FaceSet(numbered.images, numbered.labels.assign(number=range(len(numbered))))
    monkeypatch.setattr(common, "photos", lambda name: numbered)
    study = best.record.__wrapped__((1,), (0,), (0,))
    _, asked, made = study.blocks[0].arguments
    numbers = {part: set(data.labels["number"]) for part, data in asked.items()}
    learnt = set()
    for blocks in made.values():
        for block in blocks:
            learnt |= set(block.arguments[1].labels["number"])
    parts = [learnt, *numbers.values()]
    assert [len(part) for part in parts] == [22, 10, 20, 20]
    assert len(set().union(*parts)) == sum(map(len, parts)) == len(numbered)
    order = np.random.default_rng(0).permutation(np.flatnonzero(numbered.labels["split"].ne("test")))
    assert numbers[ASIDE] == set(order[:20])


def test_a_cycle_more_begins_where_the_last_one_ended_and_trains_no_other_again(toys, monkeypatch):
    faces = toy_faces()
    learn, validation = faces.split("train"), faces.split("validation")
    starts = []

    def spy(model, *rest, **named):
        before = {name: value.clone() for name, value in model.state_dict().items()}
        result = fit(model, *rest, **named)
        starts.append((before, {name: value.clone() for name, value in model.state_dict().items()}, result.seconds))
        return result

    fit = tuning.fit
    monkeypatch.setattr(tuning, "fit", spy)
    how = Tuning((1,), since="block", batch_size=8)
    trained(ChainFace.from_pretrained(), learn, validation, how, 0)
    longer = Tuning((1, 1), since="block", batch_size=8)
    _, seconds, steps = trained(ChainFace.from_pretrained(), learn, validation, longer, 0)
    first, again, second = starts
    assert again[2] == first[2] and seconds == first[2] + second[2] and steps == 2 * len(learn) // 8
    for name, value in second[0].items():
        assert torch.equal(value, first[1][name]) and torch.equal(value, again[1][name]), name
    changed = {name for name, value in second[0].items() if not torch.equal(value, second[1][name])}
    assert changed and not any(name.startswith("backbone.stem") for name in changed)


def test_answers_are_those_of_the_network_for_photos_and_mirror_images(toys):
    faces, network = toy_faces(), ChainFace.from_pretrained()
    learn, asked = faces.split("train"), {"a": faces.split("validation"), "b": faces.split("test")}
    how = Tuning((1,), since="block", batch_size=8)
    rows = members.tuned(network, learn, asked["a"], asked, how, network.image_size, 0)
    model, *_ = trained(network, learn, asked["a"], how, 0)
    for view, mirrored in members.VIEWS.items():
        for part, data in asked.items():
            images = data.images[..., ::-1].copy() if mirrored else data.images
            outputs = predict(model, FaceSet(images, data.labels), precision="bf16")
            some = rows[(rows["part"] == part) & (rows["view"] == view)]
            for task in TASKS:
                found = some[[f"{task.name} {i}" for i in range(task.n_outputs)]].to_numpy()
                assert np.allclose(found, outputs[task.name].log_softmax(1), atol=1e-5)
    assert set(rows["frozen"]) == {"stem"}
    whole = sum(value.nbytes for value in model.state_dict().values())
    stem = sum(value.nbytes for value in model.backbone.stem.state_dict().values())
    assert rows["megabytes"].iloc[0] == pytest.approx((whole - stem) / 1e6)


def test_features_of_the_frozen_stage_are_those_that_embed_gives(toys):
    faces, network = toy_faces(), ChainFace.from_pretrained()
    found = members.features(network, faces, True)
    expected = embed(network, faces, stage="block", mirrored=True, cache=False, precision="fp32")
    assert np.allclose(found.features, expected.features, atol=0.02), "maps in float16, the stage in bf16"
    assert np.allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-5)


def table(seed: int, n: int, right: float, labels: pd.DataFrame) -> pd.DataFrame:
    """Made answers of a member: scores of noise, with the true class above the others by so much."""
    rng = np.random.default_rng(seed)
    parts = []
    for part in (VALIDATION, ASIDE, TEST):
        for view in members.VIEWS:
            columns = {}
            for task in TASKS:
                scores = rng.normal(size=(n, task.n_outputs))
                scores[np.arange(n), task.encode(labels[task.name]).numpy()] += right
                scores = torch.from_numpy(scores).log_softmax(1).numpy()
                columns |= {f"{task.name} {i}": values for i, values in enumerate(scores.T)}
            parts.append(pd.DataFrame({"part": part, "view": view, **columns}))
    return pd.concat(parts, ignore_index=True).assign(seconds=10.0, networks=1, megabytes=1.0, frozen="stem")


def made_labels(n: int = 200) -> FeatureSet:
    """Rows of which few are of five of the races."""
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({task.name: rng.choice(task.classes, n) for task in TASKS} | {"split": "train"})
    labels.loc[: n - 16, "race"] = rng.choice(TASKS[0].classes[:2], n - 15)
    return FeatureSet(np.zeros((n, 2), np.float32), labels)


LABELS = made_labels()


@pytest.fixture(scope="module")
def made():
    """Answers of five members, one of which says nothing, to the same rows in every part."""
    found = {SHARED: [table(seed, 200, 1.5, LABELS.labels) for seed in range(4)]}
    return dict.fromkeys((VALIDATION, ASIDE, TEST), LABELS), found | {STAGE: [table(9, 200, 0.0, LABELS.labels)]}


def warmth(rows: pd.DataFrame, names: list[str], task: Task) -> float:
    """The temperature at which a member's mean over its views has the lowest loss, tried one by one."""
    parts = [rows[(rows["part"] == VALIDATION) & (rows["view"] == view)][names].to_numpy() for view in members.VIEWS]
    scores, truth = torch.from_numpy(np.mean(parts, 0)), LABELS.targets([task])[task.name]
    tried = np.geomspace(0.2, 50, 4000)
    return tried[np.argmin([task.loss(scores / heat, truth).item() for heat in tried])]


def test_an_ensemble_is_the_mean_of_log_probabilities(made):
    asked, found = made
    rows = best.measure(ChainFace.from_pretrained(), asked, found)
    truth = asked[ASIDE].targets(TASKS)
    for task in TASKS:
        names = [f"{task.name} {i}" for i in range(task.n_outputs)]
        each = [
            np.mean([part[part["view"] == view][names].to_numpy() for view in members.VIEWS], 0)
            for part in (rows_[rows_["part"] == ASIDE] for rows_ in (*found[SHARED], *found[STAGE]))
        ]
        sure = [
            each / warmth(rows_, names, task) for each, rows_ in zip(each, (*found[SHARED], *found[STAGE]), strict=True)
        ]
        normed = [scores - np.logaddexp.reduce(scores, axis=1, keepdims=True) for scores in sure]
        right = np.mean(normed, 0).argmax(1) == truth[task.name].numpy()
        query = "method == @ALL and part == @ASIDE and task == @task.name and group == 'all'"
        some = rows.query(query).set_index("metric")
        assert some.loc["accuracy", "value"] == pytest.approx(right.mean()), task.name
        alone = [(scores.argmax(1) == truth[task.name].numpy()).mean() for scores in normed]
        values = rows.query("method == @SHARED and views == 2 and part == @ASIDE and task == @task.name")
        assert values[values["metric"] == "accuracy"]["value"].tolist() == pytest.approx(alone[:4])
        gain = right.mean() - some.loc["accuracy_gain", "value"]
        assert any(gain == pytest.approx(value) for value in alone[:4]), "over one of the members that know something"
    cost = rows.query("method == @ALL").iloc[0]
    assert cost["seconds"] == 50 and cost["networks"] == 5


def test_who_knows_nothing_is_not_chosen(made):
    asked, found = made
    targets = asked[VALIDATION].targets(TASKS)
    answers = [
        best.tempered(best.answer_of(rows, list(members.VIEWS)), targets) for rows in (*found[SHARED], *found[STAGE])
    ]
    counts = best.chosen(answers, targets)
    assert counts[-1] == 0 and all(counts[:4])
    rows = best.measure(ChainFace.from_pretrained(), asked, found)
    shares = rows[rows["metric"] == "share_of_chosen"]
    assert shares["value"].tolist() == [count / sum(counts) for count in counts]
    assert list(zip(shares["method"], shares["seed"], strict=True)) == [*((SHARED, i) for i in range(4)), (STAGE, 0)]
    loss = best.loss_of(best.together(answers, counts).scores[VALIDATION], targets)
    assert loss <= min(best.loss_of(each.scores[VALIDATION], targets) for each in answers)


def test_no_figure_rests_on_fewer_than_twenty_faces(made):
    asked, found = made
    rows = best.measure(ChainFace.from_pretrained(), asked, found)
    by = rows[rows["group"] != "all"]
    counts = asked[ASIDE].labels["race"].value_counts()
    assert set(by["group"]) == set(counts[counts >= PUBLISHED].index) and (counts < PUBLISHED).any()
    assert set(by["method"]) == {CHOSEN} and by["n"].min() >= PUBLISHED


def test_what_is_frozen_is_computed_once_for_all_members():
    network = ChainFace.from_pretrained()
    costs = best.stage_costs(network)
    # 3 × 3 kernels: of 3 channels to 4 at 8 × 8 places, of 4 to 8 at 4 × 4, and a layer of 8 to 6.
    assert (costs["multiply_adds"] * 1e9).round().tolist() == [27 * 4 * 64, 36 * 8 * 16, 48]
    whole = costs["multiply_adds"].sum()
    one = best.Answer({}, ("stem",), 1.0, 2.0)
    assert best.cost_of(one, costs, 1)["multiply_adds"] == pytest.approx(whole)
    both = best.Answer({}, ("stem", "block"), 1.0, 2.0)
    upper = costs["multiply_adds"].iloc[1:].sum() + costs["multiply_adds"].iloc[2:].sum()
    below = costs["multiply_adds"].iloc[:2].sum()
    assert best.cost_of(both, costs, 2)["multiply_adds"] == pytest.approx(2 * (below + upper))
    assert best.cost_of(both, costs, 2)["megabytes"] == pytest.approx(2 + costs["megabytes"].iloc[:2].sum())


@pytest.mark.skipif(not (REFERENCE / "best_fairface.json").exists(), reason="best is not recorded yet")
def test_the_shipped_record_is_whole_and_tells_of_no_small_group():
    record = recorded("best_fairface")
    rows = record.rows
    assert rows["n"].min() >= PUBLISHED and rows["value"].notna().all()
    assert {SHARED, SINGLE, STAGE, ONE_EACH, ALL, CHOSEN} <= set(rows["method"])
    accuracy = rows[(rows["metric"] == "accuracy") & (rows["group"] == "all")]
    assert accuracy.groupby("part")["n"].unique().map(list).to_dict() == {
        VALIDATION: [1000],
        ASIDE: [4000],
        TEST: [1000],
    }
    assert (accuracy["low"] <= accuracy["value"]).all() and (accuracy["value"] <= accuracy["high"]).all()
