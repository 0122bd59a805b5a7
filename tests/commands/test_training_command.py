"""The train command: from a stored set to metrics, from options or a configuration file, on one process or two."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import faces, features

from facekit.answers.model import load
from facekit.commands.cli import main
from facekit.commands.train import load_data, task_of, train
from facekit.data import sets
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.tasks import GENDER

OPTIONS = {"tasks": ["side", "level"], "backbone": "none", "epochs": 3, "lr": 0.05, "batch_size": 16}


@pytest.fixture
def stored(tmp_path) -> Path:
    """Embeddings with all three splits, on disk."""
    parts = [features(60), features(20, seed=1, split="validation"), features(24, seed=2, split="test")]
    labels = pd.concat([part.labels for part in parts])
    return FeatureSet(np.concatenate([part.features for part in parts]), labels).save(tmp_path / "set")


def metrics(folder: Path) -> pd.DataFrame:
    about = json.loads((folder / "model.json").read_text())
    return pd.DataFrame(about["scores"]).set_index(["split", "task", "metric"])["value"]


def torchrun(processes: int, *arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, stdout and stderr; leaves no process behind, should it have to be stopped."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *map(str, arguments)], **pipes) as process:
        try:
            printed = process.communicate(timeout=180)
            return process.returncode, *printed
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun then ends its processes
            return 124, *process.communicate()


def test_it_writes_scores_weights_and_a_log(stored, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(str(stored), out, **OPTIONS) == 0
    scores = metrics(out)
    assert set(scores.index.get_level_values("split")) == {"validation", "test"}
    assert 0 <= scores["test", "side", "accuracy"] <= 1 and scores["test", "level", "mae"] > 0
    assert len(pd.read_csv(out / "log.csv")) == 3
    assert load_file(out / "best.safetensors").keys() == {
        f"heads.layers.{task}.1.{kind}" for task in ("side", "level") for kind in ("weight", "bias")
    }
    printed = capsys.readouterr().out
    assert "best epoch" in printed and "side" in printed


def test_a_configuration_file_and_resume_give_the_same(stored, tmp_path, capsys):
    train(str(stored), tmp_path / "a", **OPTIONS)
    config = {**OPTIONS, "tasks": "side, level", "data": str(stored), "out": str(tmp_path / "b")}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 0
    pd.testing.assert_series_equal(metrics(tmp_path / "a"), metrics(tmp_path / "b"))
    assert main(["train", "--config", str(tmp_path / "run.yaml")]) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--resume", "true"]) == 0


def test_a_set_of_which_nothing_is_copied_gives_the_same_model(stored, tmp_path, monkeypatch):
    train(str(stored), tmp_path / "copied", **OPTIONS)
    monkeypatch.setattr(sets, "COPIED", 0)
    assert isinstance(FeatureSet.load(stored).split("train").features, sets.MappedRows)
    train(str(stored), tmp_path / "mapped", **OPTIONS)
    one, other = ((tmp_path / name / "best.safetensors").read_bytes() for name in ("copied", "mapped"))
    assert one == other
    pd.testing.assert_series_equal(metrics(tmp_path / "copied"), metrics(tmp_path / "mapped"))


def test_a_finished_run_is_extended(stored, tmp_path, capsys):
    """Epochs 3, then 5: the model of a run that learnt 3 and then 2 more, whoever stops it in between."""
    out = tmp_path / "run"
    train(str(stored), out, **OPTIONS)
    before = load(out)
    assert before.about["recipe"]["extended_after"] == []
    assert train(str(stored), out, **{**OPTIONS, "epochs": 5}, resume=True) == 0
    assert len(pd.read_csv(out / "log.csv")) == 5
    model = load(out)
    recipe = model.about["recipe"]
    assert (recipe["epochs"], recipe["extended_after"]) == (5, [3])
    rates = pd.read_csv(out / "log.csv")["lr"]
    assert rates[2] < rates[3] and rates[4] < rates[3], "they fall once more"
    assert train(str(stored), out, **{**OPTIONS, "epochs": 5}, resume=True) == 0, "it is done"
    pd.testing.assert_frame_equal(load(out).scores, model.scores)
    command = ["train", "--data", stored, "--backbone", "none", "--tasks", "side,level", "--out", out, "--lr", "0.05"]
    command = [*map(str, command), "--batch_size", "16", "--resume", "true", "--epochs"]
    assert main([*command, "4"]) == 2
    said = capsys.readouterr().err
    assert "was given 5 epochs, and --epochs 4 is fewer" in said and "Leave it at --epochs 5, give more, or" in said
    assert load(out).about == model.about, "nothing is changed"
    assert main([*command, "6"]) == 0
    assert load(out).about["recipe"]["extended_after"] == [3, 5]
    assert main([*command, "7", "--seed", "1"]) == 2 and "another run" in capsys.readouterr().err


TWO = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
import torch.distributed as dist
from tiny import COLOUR, SIDE, classifier, faces
from facekit.commands.cli import main
from facekit.errors import OutputError
from facekit.models.embedding import state_hash
from facekit.training.augment import Augment
from facekit.training.config import TrainConfig
from facekit.training.distributed import process_group
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan

class Faulty(Supervised):
    steps = 0
    def loss(self, model, batch):
        self.steps += 1
        if self.steps == 9 and dist.get_rank() == 1:
            raise RuntimeError("a fault in process 1")
        return super().loss(model, batch)

torch.set_num_threads(1)
from facekit.commands.cli import end
with process_group("cpu") as world:
    assert main(["train", "--config", sys.argv[2]]) == 0
    assert main(["train", "--config", sys.argv[3]]) == 0  # several sets
    model = classifier((COLOUR, SIDE))
    recipe = plan("gradual", list(model.stages), 4, 0.02)
    config = TrainConfig(batch_size=8, augment=Augment(), device="cpu")
    fit(model, Supervised([COLOUR]), faces(), faces(9, 1), recipe, config)  # one head is not used
    hashes = [None, None]
    dist.all_gather_object(hashes, state_hash(model))
    assert hashes[0] == hashes[1], "all processes end with the same model"
    print("same model", flush=True)
    try:
        fit(model, Supervised([COLOUR]), faces(), None, recipe, config, sys.argv[4])
    except OutputError as error:
        print("refused" if "log.csv is in the way" in str(error) else error, flush=True)
    fit(model, Faulty([COLOUR, SIDE]), faces(), faces(9, 1), recipe, config)
end(0)
"""


def test_two_processes_get_the_scores_of_one_and_a_fault_in_one_ends_both(stored, tmp_path):
    options = {**OPTIONS, "data": str(stored), "batch_size": 14}
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**options, "out": str(tmp_path / name)}))
    sets = {name: str(faces(28, seed).save(tmp_path / name)) for seed, name in enumerate(("bright", "aside"))}
    options = {"method": "frozen_heads", "data": sets, "tasks": {"bright": "colour", "aside": "side"}, "batch_size": 12}
    options |= {"sampling": {"bright": 1, "aside": 2}, "size": 32, "lr": 0.01}
    for name in ("one", "two"):
        (tmp_path / f"{name}_sets.yaml").write_text(yaml.safe_dump({**options, "out": str(tmp_path / f"{name}_sets")}))
        if name == "one":
            assert main(["train", "--config", str(tmp_path / "one.yaml")]) == 0
            assert main(["train", "--config", str(tmp_path / "one_sets.yaml")]) == 0
    (tmp_path / "two.py").write_text(TWO)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "log.csv").write_text("mine")
    given = [tmp_path / name for name in ("two.yaml", "two_sets.yaml", "own")]
    status, printed, errors = torchrun(2, tmp_path / "two.py", Path(__file__).parents[1], *given)
    assert printed.count("best epoch") == 2, f"one process reports\n{errors}"
    pd.testing.assert_series_equal(metrics(tmp_path / "one"), metrics(tmp_path / "two"), rtol=1e-4)
    logs = [pd.read_csv(tmp_path / f"{name}_sets" / "log.csv") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*(log.drop(columns="seconds") for log in logs), rtol=1e-3)
    logs = [pd.read_csv(tmp_path / name / "log.csv").drop(columns="seconds") for name in ("one", "two")]
    pd.testing.assert_frame_equal(*logs, rtol=1e-4)
    one, two = (load_file(tmp_path / name / "best.safetensors") for name in ("one", "two"))
    assert all(np.allclose(one[key], two[key], atol=1e-5) for key in one)
    loaded = [load(tmp_path / name) for name in ("one", "two")]
    assert [model.about["recipe"]["processes"] for model in loaded] == [1, 2], (
        "the folder is one model, whoever made it"
    )
    outputs = [model.outputs(FeatureSet.load(stored)) for model in loaded]
    assert all(torch.allclose(outputs[0][task], outputs[1][task], atol=1e-4) for task in ("side", "level"))
    assert printed.count("same model") == 2, f"with BatchNorm and augmentation\n{errors}"
    assert printed.count("refused") == 2, f"both say that a folder is not theirs\n{errors}"
    assert status != 0 and "a fault in process 1" in errors


def test_photos_go_through_a_network(tmp_path):
    data = faces(12)
    data = FaceSet(data.images, data.labels.assign(split=["train"] * 8 + ["test"] * 4)).resized(32)
    folder = data.save(tmp_path / "faces")
    options = {"tasks": "colour", "plan": "scratch", "epochs": 1, "batch_size": 4, "augment": True}
    assert train(str(folder), tmp_path / "run", **options) == 0
    assert "test" in metrics(tmp_path / "run").index


@pytest.mark.parametrize("options", [{"plan": "scratch"}, {"backbone": "none"}])
def test_weights_that_would_not_be_read_are_refused(stored, tmp_path, options):
    with pytest.raises(ConfigError, match=r"uses no weights, but you name .*nothere\.pt"):
        train(str(stored), tmp_path / "run", tasks="side", weights=tmp_path / "nothere.pt", **options)
    assert not (tmp_path / "run").exists()


def test_columns_become_tasks():
    data = features()
    assert task_of("gender", data) is GENDER
    assert task_of("colour", data).classes == ("bright", "dark")
    level = task_of("level", data)
    assert level.kind == "regression" and level.scale == pytest.approx(data.labels["level"].std())
    with pytest.raises(DataError, match="no label column"):
        task_of("hair", data)
    data.labels["flag"] = data.labels["level"] > 50
    with pytest.raises(DataError, match="'flag' holds .*False.*, neither a text nor a number"):
        task_of("flag", data)
    data.labels["same"] = "x"
    with pytest.raises(DataError, match="fewer than two"):
        task_of("same", data)


def test_no_set_at_all_is_one_line(capsys):
    assert main(["train", "--data", "{}"]) == 2
    assert (
        capsys.readouterr().err == "error: data names no set; give a folder, `portraits`, or a folder for each name.\n"
    )


def test_bad_choices_are_one_line(stored, tmp_path, capsys):
    with pytest.raises(ConfigError, match="backbone none"):
        load_data(str(stored), 0, "mini")
    with pytest.raises(ConfigError, match="choose one of facenet, mini"):
        load_data(str(faces().save(tmp_path / "faces")), 0, "none")
    assert main(["train", "--data", str(tmp_path / "nothing"), "--backbone", "none"]) == 2
    assert main(["train", "--data", str(stored), "--backbone", "none", "--tasks", "side", "--plan", "last_layer"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and all(line.startswith("error: ") for line in errors)
    assert "not a complete set" in errors[0] and "use the plan 'probe'" in errors[1]


@pytest.mark.parametrize(
    ("method", "options", "extra"),
    [
        ("hard", [], {}),
        ("soft", ["--strength", "0.5"], {"strength": 0.5}),
        ("cross_stitch", ["--mix=0.2"], {"mix": 0.2}),
        ("single", ["--smoothing", "0.2"], {"smoothing": 0.2}),
    ],
)
def test_the_method_is_an_option_and_so_are_its_parameters(stored, tmp_path, method, options, extra):
    common = ["--data", stored, "--tasks", "side,level", "--backbone", "none", "--hidden", "4", "--plan", "everything"]
    common += ["--epochs", "2", "--method", method]
    assert main(list(map(str, ["train", *common, "--out", tmp_path / "a", *options]))) == 0
    how = {**OPTIONS, "hidden": 4, "plan": "everything", "epochs": 2, "lr": 1e-3, "batch_size": 64}
    assert train(str(stored), tmp_path / "b", method=method, parameters=extra, **how) == 0
    a, b = (load_file(tmp_path / name / "best.safetensors") for name in "ab")
    assert a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)
    assert any("alphas" in key for key in a) == (method == "cross_stitch")
    assert any("towers" in key for key in a) == (method != "hard")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "coral"], "acts before training"),
        (["--method", "sofd"], "no method 'sofd'"),
        (["--method", "hard", "--strength", "1"], "hard has no parameter strength"),
        (["--smoothing", "1"], "smoothing must be from 0 to below 1"),
        (["--since", "mixed_6a"], "no stage 'mixed_6a'"),
        (["--method", "soft", "--strength", "much"], "--strength takes a number, got 'much'"),
        (["--method", "soft", "--strength", "1e400"], "--strength takes a number, got '1e400'"),
        (["--method", "soft", "--strength=nan"], "--strength takes a number, got 'nan'"),
    ],
)
def test_a_method_that_cannot_be_trained_like_that_is_one_line(stored, tmp_path, options, message, capsys):
    common = ["--data", stored, "--tasks", "side", "--backbone", "none", "--hidden", "4", "--out", tmp_path / "run"]
    assert main(list(map(str, ["train", *common, *options]))) == 2
    assert message in capsys.readouterr().err
