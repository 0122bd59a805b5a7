"""The train command on several sets: the networks of the comparisons, and all that training on one set can do."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import COLOUR, features
from torch import nn

from facekit.commands import train as command
from facekit.commands.cli import main
from facekit.commands.train import task_of, train
from facekit.course.profiles import SMALL_RENDERERS
from facekit.data.portraits import render_portraits
from facekit.data.sets import FeatureSet
from facekit.models.adapters import Domain
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.build import sized
from facekit.tasks import Task
from facekit.training.augment import Augment, augment_for
from facekit.training.config import Recipe
from facekit.training.methods import Supervised
from facekit.transfer.domains import serve
from facekit.transfer.table import Parameter, Row, row

COLUMNS = {"skin": "lesion,box", "words": "text"}
OPTIONS = {"tasks": COLUMNS, "epochs": 1, "steps": 2, "batch_size": 12, "lr": 1e-2}


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> dict[str, str]:
    """Two domains with all three splits, on disk."""
    folder = tmp_path_factory.mktemp("sets")
    return {name: str(SMALL_RENDERERS[name]((20, 8, 8), 0).save(folder / name)) for name in COLUMNS}


@pytest.fixture(scope="module")
def only_train(tmp_path_factory) -> dict[str, str]:
    """The same without validation, so that the last epoch is kept."""
    folder = tmp_path_factory.mktemp("only_train")
    return {name: str(SMALL_RENDERERS[name]((20, 0, 8), 0).save(folder / name)) for name in COLUMNS}


def domains(folders: dict[str, str]) -> tuple[tuple[Domain, ...], dict]:
    data = {name: command.load_data(folder, 0, "mini") for name, folder in folders.items()}
    made = {name: tuple(task_of(column, data[name]) for column in COLUMNS[name].split(",")) for name in COLUMNS}
    return tuple(Domain(name, tasks) for name, tasks in made.items()), data


@pytest.mark.parametrize(
    ("method", "extra"), [("a_network_each", []), ("one_network", ["--trunk_rate", "0.5"]), ("series_adapters", [])]
)
def test_the_command_trains_the_networks_of_the_comparison_bit_for_bit(
    only_train, tmp_path, monkeypatch, method, extra
):
    mini = FaceNetMini.from_pretrained()  # made before the seed is set, as the comparison has it
    monkeypatch.setattr(FaceNetMini, "from_pretrained", lambda weights=None: copy.deepcopy(mini))
    options = [f"--data.{name}={folder}" for name, folder in only_train.items()]
    options += [f"--tasks.{name}={columns}" for name, columns in COLUMNS.items()]
    options += [
        "--epochs=1",
        "--steps=2",
        "--batch_size=12",
        "--lr=0.01",
        "--augment=true",
        f"--out={tmp_path / 'run'}",
    ]
    assert main(["train", "--method", method, *options, *extra]) == 0
    described, data = domains(only_train)
    assert [task.kind for domain in described for task in domain.tasks] == ["multiclass", "box", "string"]
    how = row(method)
    changes = {"skin": Augment(flip=0, shift=0), "words": Augment(flip=0)}
    recipe = Recipe(5e-3 if extra else 3e-3, steps=2, batch_size=12, weight_decay=0.01, heads_lr=1e-2, augment=changes)
    parts = {name: part.split("train") for name, part in data.items()}
    served = serve(how, mini, described, parts, recipe, seed=0)
    for name, net in served.nets.items():
        found = load_file(tmp_path / "run" / ("" if how.together else name) / "best.safetensors")
        expected = net.state_dict()
        assert not found.keys() ^ expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_it_is_validated_scored_by_set_and_resumed_as_one_set_is(stored, tmp_path, capsys):
    options = {**OPTIONS, "method": "frozen_own_norms", "data": stored, "epochs": 3}
    assert train(out=tmp_path / "whole", **options) == 0
    log = pd.read_csv(tmp_path / "whole" / "log.csv")
    assert {"validation_loss", "validation_words_text", "accuracy_skin_lesion"} <= set(log)
    about = json.loads((tmp_path / "whole" / "model.json").read_text())
    assert about["recipe"]["best_epoch"] == log["validation_loss"].argmin() + 1
    scores = pd.DataFrame(about["scores"]).set_index(["set", "split", "task"])
    assert {("skin", "test", "box"), ("words", "validation", "text")} <= set(scores.index)
    config = {**options, "out": str(tmp_path / "again")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 0
    (tmp_path / "again" / "model.json").unlink()
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--resume", "true"]) == 0
    again = json.loads((tmp_path / "again" / "model.json").read_text())
    assert again["scores"] == about["scores"]


@pytest.mark.parametrize("together", [False, True])
def test_methods_for_a_labelled_and_an_unlabelled_set_fit_in(tmp_path, monkeypatch, together):
    class Both(Supervised):
        def __init__(self, tasks, width, strength):
            super().__init__(tasks)
            self.strength, self.together = strength, together
            self.tells_apart = nn.Linear(width, 2)

        def loss(self, model, batch):
            side = torch.full((len(batch.inputs),), int(batch.set == "target"))
            apart = nn.functional.cross_entropy(self.tells_apart(model.embed(batch.inputs)), side)
            supervised, logs = super().loss(model, batch) if self.tasks_of(batch.set) else (0, {})
            return supervised + self.strength * apart, logs | {"apart": apart}

        def loss_together(self, model, batches):
            losses = [self.loss(model, batch)[0] for batch in batches.values()]
            return sum(losses), {}

    used = []
    both = Row(
        name="both",
        about="learns from two sets",
        acts="during",
        sets="source and target",
        names=("source", "target"),
        unlabelled=("target",),
        parameters={"strength": Parameter(1.0, "how much")},
        loss=lambda tasks, net, strength: used.append(strength) or Both(tasks, net.heads.in_features, strength),
    )
    monkeypatch.setattr(command, "row", lambda key: both)
    monkeypatch.setattr(command, "table", lambda: {"both": both})
    source = [features(40), features(12, seed=1, split="validation")]
    source = FeatureSet(np.concatenate([s.features for s in source]), pd.concat([s.labels for s in source]))
    target = [features(30, seed=2), features(16, seed=3, split="test")]
    labels = pd.concat([target[0].labels[["split"]], target[1].labels])  # labels where it is scored, none to learn from
    target = FeatureSet(np.concatenate([t.features for t in target]), labels)
    folders = [f"--data.{name}={part.save(tmp_path / name)}" for name, part in (("source", source), ("target", target))]
    options = ["--backbone=none", "--tasks.source=colour", "--epochs=20", "--batch_size=20", "--lr=0.05"]
    assert main(["train", *folders, *options, "--strength=0.5", f"--out={tmp_path / 'run'}"]) == 0
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    scores = pd.DataFrame(about["scores"]).set_index(["set", "split", "metric"])["value"]
    assert used == [0.5] and scores["target", "test", "accuracy"] > 0.8 and ("source", "validation") in scores.index
    assert main(["train", *folders[:1], *options, f"--out={tmp_path / 'other'}"]) == 2


@pytest.fixture(scope="module")
def photos_and_sketches(tmp_path_factory) -> list[str]:
    """Labelled photos, and sketches whose training rows have no label, as options of the command."""
    folder = tmp_path_factory.mktemp("adapted")
    photos, sketches = (render_portraits((24, 8, 8), seed, 32, style) for seed, style in enumerate(("photo", "sketch")))
    sketches.labels.loc[sketches.labels["split"] == "train", "gender"] = None
    return [f"--data.{name}={part.save(folder / name)}" for name, part in (("source", photos), ("target", sketches))]


@pytest.mark.parametrize("method", ["coral_loss", "kernel_means", "domain_adversarial"])
def test_domain_adaptation_in_training_needs_no_label_of_the_target(photos_and_sketches, tmp_path, method):
    options = ["--tasks.source=gender", "--size=32", "--steps=2", "--epochs=1", "--batch_size=16", "--ramp=1"]
    given = ["train", "--method", method, *photos_and_sketches, *options, "--strength=0.5"]
    assert main([*given, f"--out={tmp_path / 'run'}"]) == 0
    about = json.loads((tmp_path / "run" / "model.json").read_text())
    assert about["recipe"]["moved"]["stem"], "the whole network learns where no plan is named"
    scores = pd.DataFrame(about["scores"]).set_index(["set", "split", "task"])
    assert {("source", "validation", "gender"), ("target", "test", "gender")} <= set(scores.index)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert ("train_discriminator" if method == "domain_adversarial" else "train_distance") in log
    assert log["validation_source_gender"].notna().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--plan=probe"], "plan probe leaves the network as it is, and coral_loss is to change it"),
        (["--strength=-1"], "strength and ramp must be 0 or more"),
        (["--tasks.target=gender"], "tasks are said of target; the sets are source"),
    ],
)
def test_what_adaptation_cannot_use_is_one_line(photos_and_sketches, tmp_path, options, message, capsys):
    given = ["train", "--method=coral_loss", *photos_and_sketches, "--tasks.source=gender", "--size=32", *options]
    assert main([*given, f"--out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_ready_embeddings_cannot_be_brought_together(tmp_path, capsys):
    folders = [
        f"--data.{name}={features(20, seed=i).save(tmp_path / name)}" for i, name in enumerate(("source", "target"))
    ]
    given = ["train", "--method=kernel_means", *folders, "--tasks.source=colour", "--backbone=none"]
    assert main([*given, f"--out={tmp_path / 'run'}"]) == 2
    assert "needs a network below the heads" in capsys.readouterr().err


BOTH = ["--tasks.skin=lesion,box", "--tasks.words=text"]
DOMAINS = ["--method=parallel_adapters", *BOTH]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BOTH, "hard learns from one set; give it without a name, not skin, words"),
        (["--method=frozen_heads", "--tasks.skin=lesion"], "domain 'words' needs at least one task"),
        ([*DOMAINS, "--tasks.faces=text"], "tasks are said of faces; the sets are skin, words"),
        (["--method=frozen_heads", "--tasks=lesion"], "no label column 'lesion'"),
        ([*DOMAINS, "--plan=gradual"], "says itself which stages are trained; leave the plan 'gradual' out"),
        ([*DOMAINS, "--trunk_rate=1"], "parallel_adapters has no parameter trunk_rate"),
        (["--method=one_network", *BOTH, "--trunk_rate=0"], "trunk_rate must be above 0"),
        ([*DOMAINS, "--sampling.faces=1"], "sampling are said of faces"),
        ([*DOMAINS, "--sampling=often"], "sampling is 'proportional', 'uniform'"),
        ([*DOMAINS, "--hidden=8"], "neither hidden layers nor dropout"),
        ([*DOMAINS, "--size.words=0"], "each from 1 to 4096 pixels; got 0"),
        ([*DOMAINS, "--batch_size=3"], "a step of 3 rows has no 2 for each of 2 sets"),
        ([*DOMAINS, "--backbone=none"], "does not go with backbone 'none'"),
    ],
)
def test_what_does_not_go_together_is_one_line(stored, tmp_path, options, message, capsys):
    folders = [f"--data.{name}={folder}" for name, folder in stored.items()]
    assert main(["train", *folders, *options, "--epochs=1", "--steps=1", f"--out={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method=series_adapters"], "learns from one set per domain; give each by a name, not one without a name"),
        (["--tasks.words=text"], "tasks are said of words; the sets are one without a name"),
        (["--tasks=text"], "text asks where things are"),
        (["--tasks=text", "--sampling=proportional"], "shares a step among several sets"),
    ],
)
def test_so_it_is_of_one_set(stored, tmp_path, options, message, capsys):
    assert main(["train", f"--data={stored['words']}", *options, f"--out={tmp_path / 'run'}"]) == 2
    assert message in capsys.readouterr().err


def test_pictures_of_domains_keep_their_form_unless_a_size_is_given(stored):
    words, mini = command.load_data(stored["words"], 0, "mini"), FaceNetMini()
    assert sized(words, mini, None, True) is words
    large = words.resized((100, 300))
    assert sized(large, mini, None, True).images.shape[2:] == (96, 288)
    assert sized(large, mini, None, False).images.shape[2:] == (96, 96)
    assert sized(words, mini, 48, True).images.shape[2:] == (48, 48)
    assert sized(words, mini, [32, 192], True).images.shape[2:] == (32, 192)


def test_no_change_of_a_picture_makes_its_label_wrong():
    box, text = Task("box", "box"), Task("text", "string", ("a", "b"))
    assert augment_for([COLOUR]) == augment_for([]) == Augment()
    assert augment_for([COLOUR, text]) == Augment(flip=0)
    assert augment_for([box, text]) == replace(Augment(), flip=0, shift=0)
