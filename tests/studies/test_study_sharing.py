"""Recording of sharing: every method, size and seed on the same rows and steps; the shipped record is whole."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from test_studies import TASKS, TinyFace, reference, toy_faces
from test_studies import test_without_photos_the_commands_say_what_is_missing as without_photos
from tiny import ChainNet

from facekit.commands.cli import main
from facekit.data.sets import FaceSet, FeatureSet
from facekit.experiments import STRENGTHS, compare_sharing, few_labels, sharing_methods
from facekit.models.embedding import embed
from facekit.models.tail import maps, tail_of
from facekit.records import REFERENCE, recorded
from facekit.studies import joint, last_stage, sharing
from facekit.studies.common import TASKS as THREE
from facekit.studies.sharing import LINEAR, WIDE
from facekit.training.config import Recipe
from facekit.training.loop import fit
from facekit.transfer.probe import linear_probe

assert reference  # the fixture of toy photos
METHODS = ["single", "hard", *(f"soft {value:g}" for value in STRENGTHS), "cross-stitch", "joint classes"]
METHODS += [WIDE, LINEAR]
MEASURES = {(task, metric) for task in TASKS for metric in ("accuracy", "balanced_accuracy")} | {("age", "mae")}
SHIPPED = {path.stem for path in REFERENCE.glob("*.json")}


def whole(rows: pd.DataFrame, **values) -> bool:
    """Whether every combination of the values has each task's metrics, and once only."""
    found = list(zip(*(rows[key] for key in values), rows["task"], rows["metric"], strict=True))
    wanted = {(*key, *measure) for key in itertools.product(*values.values()) for measure in MEASURES}
    return len(found) == len(wanted) and set(found) == wanted


@pytest.fixture
def toys(reference, monkeypatch):
    """Toy photos and networks that are trained for a few steps."""
    recipe = Recipe(few_steps=2, steps=4, lr=1e-2, dropout=0.1, hidden=3, few=20)
    monkeypatch.setattr(sharing, "RECIPES", {"embedding": recipe, "repeat_3": recipe})
    monkeypatch.setattr(sharing, "SOFT", dict.fromkeys(sharing.SOFT, STRENGTHS))
    return reference


def test_every_method_size_and_seed_is_recorded(toys):
    options = ["--features", '["embedding","stem"]', "--labels", "[15,30]", "--seeds", "[0,4]"]
    assert main(["record", "sharing", *options]) == 0
    record = recorded("sharing_fairface", toys)
    rows = record.rows
    assert list(rows.columns) == ["features", "method", "n", "seed", "task", "metric", "value", "seconds", "steps"]
    assert whole(rows, features=["embedding", "stem"], method=METHODS, n=[15, 30, 52], seed=[0, 4])
    fewer = ["--features", '["embedding"]', "--labels", "[15]", "--seeds", "[0,4]", "--few_seeds", "1"]
    assert main(["record", "sharing", *fewer]) == 0
    less = recorded("sharing_fairface", toys).rows
    assert less.groupby("n")["seed"].agg(lambda seeds: sorted(set(seeds))).to_dict() == {15: [0], 52: [0, 4]}
    trained = rows[rows["method"] != "linear"]
    assert trained.groupby("n")["steps"].agg(["min", "max"]).values.tolist() == [[2, 2], [4, 4], [4, 4]]
    assert set(rows[rows["method"] == "linear"]["steps"]) == {0}
    command = """python -m facekit record sharing --features '["embedding","stem"]' --labels [15,30] --seeds [0,4]"""
    assert record.about["command"] == command


def test_figures_are_those_of_the_method_alone_on_the_features_of_its_name(toys):
    assert main(["record", "sharing", "--features", '["stem"]', "--labels", "[15]", "--seeds", "[3]"]) == 0
    rows = recorded("sharing_fairface", toys).rows.query("n == 15")
    features = embed(TinyFace.from_pretrained(), toy_faces(), flip=True, stage="stem")
    train = features.select(features.labels["split"].isin(["train", "validation"]).to_numpy())
    alone = sharing_methods((3,), 0.1, (), steps=2, lr=1e-2)["single"]
    wide = sharing_methods((9,), 0.1, (), steps=2, lr=1e-2)["hard"]
    methods = {"single": alone, "hard wide": wide, "linear": lambda few, tasks, seed: linear_probe(few, tasks, 200.0)}
    tasks = THREE
    expected = compare_sharing(train, features.split("test"), tasks, [15], [3], methods)
    for name in methods:
        found = rows[rows["method"] == name]["value"].tolist()
        assert found == pytest.approx(expected[expected["method"] == name]["value"].tolist(), abs=1e-6), name


def test_a_first_part_is_kept_and_the_rest_added(toys, monkeypatch):
    drawn = []

    def spy(train: FeatureSet, *rest):
        drawn.append((rest[2][0], list(rest[4])[-1]))
        return compare_sharing(train, *rest)

    monkeypatch.setattr(sharing, "compare_sharing", spy)
    some = ["--features", '["embedding"]', "--seeds", "[0,1]"]
    assert main(["record", "sharing", *some, "--labels", "[]"]) == 0
    first = recorded("sharing_fairface", toys).rows
    assert set(first["n"]) == {52}
    assert drawn == [(52, WIDE), (52, LINEAR), (52, WIDE)], "with all rows every seed of the probe is the same fit"
    assert main(["record", "sharing", *some, "--labels", "[15]"]) == 0
    assert drawn[3:] == 2 * [(15, WIDE), (15, LINEAR)], "what was measured is not measured again"
    both = recorded("sharing_fairface", toys).rows
    pd.testing.assert_frame_equal(both[both["n"] == 52].reset_index(drop=True), first)


def test_hard_wide_has_as_many_weights_as_the_single_networks_together():
    recipe = Recipe(few_steps=1, steps=1, lr=1e-3, dropout=0.0, hidden=5)
    methods = sharing.methods_of(recipe, 10, ())
    features = embed(TinyFace.from_pretrained(), toy_faces(), cache=False)
    rows, tasks = few_labels(features, 10, 0), THREE
    counts = {}
    for name in ("single", "hard", WIDE):
        net = methods[name](rows, tasks, 0)
        hidden = [p for part in (net.trunk, net.towers) for p in part.parameters()]
        counts[name] = sum(p.numel() for p in hidden)
    assert counts["single"] == counts[WIDE] == 3 * counts["hard"]


def test_joint_learns_from_both_views_of_the_training_photos_alone(toys, monkeypatch):
    recipe = Recipe(steps=3, lr=1e-2, dropout=0.1, hidden=4, batch_size=16)
    monkeypatch.setattr(joint, "RECIPE", recipe)
    monkeypatch.setattr(joint, "STAGE", "stem")
    assert main(["record", "joint", "--seeds", "[0,3]"]) == 0
    record = recorded("joint_fairface", toys)
    assert list(record.rows.columns)[:5] == ["method", "seed", "task", "metric", "value"]
    assert whole(record.rows, method=["hard"], seed=[0, 3])
    faces, net = toy_faces(), TinyFace.from_pretrained()
    train = faces.select(faces.labels["split"].ne("test").to_numpy())
    mirrored = FaceSet(np.concatenate([train.images, train.images[..., ::-1]]), pd.concat([train.labels] * 2))
    features = embed(net, mirrored, cache=False, stage="stem")
    test = embed(net, faces.split("test"), cache=False, flip=True, stage="stem")
    expected = joint.measure(features, test, recipe, 3)["value"]
    assert record.rows[record.rows["seed"] == 3]["value"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


class ChainFace(ChainNet):
    """Stands for FaceNet where its stages are taken apart: the same weights each time."""

    @classmethod
    def from_pretrained(cls):
        torch.manual_seed(7)
        return cls().eval()


def test_the_last_stage_is_tuned_once_for_all_tasks_or_once_for_each(toys, monkeypatch, capsys):
    recipe = Recipe(lr=1e-2, heads_lr=1e-2, dropout=0.1, batch_size=16)
    monkeypatch.setattr(last_stage, "RECIPE", recipe)
    monkeypatch.setattr(last_stage, "AFTER", "stem")
    monkeypatch.setattr(last_stage, "UNTIL", "block")
    monkeypatch.setattr(last_stage, "FaceNet", ChainFace)
    nets = []

    def spy(net, *rest):
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        result = fit(net, *rest)
        nets.append({name for name, p in net.named_parameters() if not torch.equal(p.detach(), before[name])})
        return result

    monkeypatch.setattr(last_stage, "fit", spy)
    assert main(["record", "last_stage", "--photos", "30", "--epochs", "2", "--seeds", "[0,3]"]) == 0
    record = recorded("last_stage_few", toys)
    assert list(record.rows.columns) == ["method", "seed", "task", "metric", "value", "seconds", "steps", "n"]
    assert whole(record.rows, method=["frozen", "single", "hard"], seed=[0, 3])
    assert set(record.rows["n"]) == {30}
    assert set(record.rows["steps"]) == {2 * 4}, "two passes over both views of each photo, for all methods alike"
    assert record.about["command"].endswith("record last_stage --photos 30 --epochs 2 --seeds [0,3]")
    frozen, single, hard = nets[:3]
    assert {name.split(".")[0] for name in frozen} == {"outputs"}
    assert {name.split(".")[0] for name in hard} == {"trunk", "outputs"}
    assert {name.split(".")[1] for name in single if name.startswith("towers")} == set(TASKS)
    assert main(["record", "last_stage", "--methods", '["soft"]']) == 2
    assert "frozen, single, hard" in capsys.readouterr().err


def test_answers_for_a_photo_are_means_over_its_views():
    """With both views the same the figures are those of one; of different views neither's own need be right."""
    faces, net = toy_faces(), ChainFace.from_pretrained()
    recipe = Recipe(lr=1e-2, heads_lr=1e-2, dropout=0.1, batch_size=16)
    train = maps(net, faces.split("train"), "stem", cache=False)
    plain, mirrored = (maps(net, faces.split("test"), "stem", cache=False, mirrored=view) for view in (False, True))
    stack = tail_of(net, "stem", "block")
    values = [
        last_stage.measure(stack, train, tests, recipe, 1, 0, "hard")["value"].tolist()
        for tests in ([plain], [plain, plain], [plain, mirrored], [mirrored, plain])
    ]
    assert values[0] == values[1] and values[2] == values[3]


@pytest.mark.parametrize("name", ["sharing", "joint", "last_stage"])
def test_without_photos_the_commands_say_what_is_missing(name, monkeypatch, capsys):
    without_photos(name, monkeypatch, capsys)


@pytest.mark.skipif("sharing_fairface" not in SHIPPED, reason="not recorded yet")
def test_the_recorded_comparison_is_whole():
    rows = recorded("sharing_fairface").rows
    for (features, n), part in rows.groupby(["features", "n"]):
        soft = [f"soft {value:g}" for value in sharing.SOFT[features]]
        methods = [name for name in METHODS if not name.startswith("soft")] + soft
        seeds = sorted(set(part["seed"]))
        assert whole(part, method=methods, seed=seeds) and len(seeds) >= 3
        assert part[part["method"] != LINEAR]["steps"].nunique() == 1, f"the same budget for all with {n} labels"
    assert rows[rows["n"] == rows["n"].max()].groupby("features")["seed"].nunique().eq(5).all()
