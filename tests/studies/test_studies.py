"""Studies: commands on toy photos write whole records, a stopped one goes on, what is shipped is consistent."""

import itertools
import json

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from tiny import SIZE, TinyNet

from facekit.commands.cli import main
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import DataError
from facekit.experiments import LADDER, PROBES, fine_tune, scores
from facekit.experiments.forgetting import retention
from facekit.records import REFERENCE, recorded
from facekit.studies import common, ladder, probe, rates, stages
from facekit.tasks import AGE_BAND, GENDER, RACE

TASKS = {task.name: task for task in (RACE, GENDER, AGE_BAND)}
COUNTS = {"train": 40, "validation": 12, "test": 20}


class TinyFace(TinyNet):
    """Stands for FaceNet: the same weights each time."""

    @classmethod
    def from_pretrained(cls):
        torch.manual_seed(7)
        return cls().eval()

    def forward(self, images):
        return F.normalize(super().forward(images))  # length 1 to the precision of float32, as FaceNet's


def toy_faces() -> FaceSet:
    rng = np.random.default_rng(0)
    n = sum(COUNTS.values())
    labels = {name: np.array(task.classes)[rng.integers(0, len(task.classes), n)] for name, task in TASKS.items()}
    split = np.repeat(list(COUNTS), list(COUNTS.values()))
    return FaceSet(rng.integers(0, 256, (n, 3, SIZE, SIZE), dtype=np.uint8), pd.DataFrame({**labels, "split": split}))


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """Toy photos and a toy network instead of FairFace and FaceNet; records go to the folder that is returned."""
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    monkeypatch.setenv("FACEKIT_DEVICE", "cpu")
    monkeypatch.setattr("facekit.records.REFERENCE", tmp_path)
    monkeypatch.setattr(common, "photos", lambda name: toy_faces())
    monkeypatch.setattr(common, "FaceNet", TinyFace)
    monkeypatch.setattr(ladder, "FaceNet", TinyFace)
    monkeypatch.setattr(probe, "LABELS", (10, 25))
    monkeypatch.setattr(stages, "LABELS", (10, 25))
    # Two quick methods: the probes themselves have their own tests.
    monkeypatch.setattr(probe, "PROBES", {"linear": PROBES["linear"], "one hidden layer": PROBES["linear"]})
    monkeypatch.setattr(ladder, "COPIES", 8)
    return tmp_path


def complete(rows: pd.DataFrame, **values) -> bool:
    """Whether every combination of the values occurs for each task and metric, and once only."""
    measures = {("race", "accuracy"), ("race", "balanced_accuracy"), ("gender", "accuracy")}
    measures |= {("gender", "balanced_accuracy"), ("age", "accuracy"), ("age", "balanced_accuracy"), ("age", "mae")}
    rows = rows[rows["task"].isin(TASKS)]
    found = list(zip(*(rows[key] for key in values), rows["task"], rows["metric"], strict=True))
    wanted = {(*key, *measure) for key in itertools.product(*values.values()) for measure in measures}
    return len(found) == len(wanted) and set(found) == wanted


def test_probe_records_every_method_size_and_seed(reference, capsys):
    assert main(["record", "probe", "--seeds", "[0,4]"]) == 0
    record = recorded("probe_fairface", reference)
    assert list(record.rows.columns) == ["method", "n", "seed", "task", "metric", "value", "seconds"]
    # Photos of train and validation together, none of the test photos.
    assert complete(record.rows, method=["linear", "one hidden layer"], n=[10, 25, 52], seed=[0, 4])
    assert record.about["seeds"] == [0, 4]
    assert record.about["command"] == "python -m facekit record probe --seeds [0,4]"
    assert record.about["seconds"] > 0
    whole = record.rows.query("n == 52 and metric == 'accuracy' and method == 'linear'")
    assert whole.groupby("task")["value"].nunique().eq(1).all(), "with all rows the order of the draw does not matter"
    assert "wrote" in capsys.readouterr().out


def test_stages_are_measured_beside_the_embedding(reference):
    assert main(["record", "stages", "--stages", '["stem"]', "--seeds", "[0,4]"]) == 0
    record = recorded("stages_fairface", reference)
    assert complete(record.rows, method=["stem", "embedding"], n=[10, 25, 52], seed=[0, 4])
    main(["record", "probe", "--seeds", "[0,4]"])
    as_probe = recorded("probe_fairface", reference).rows.query("method == 'linear'")["value"].tolist()
    assert record.rows.query("method == 'embedding'")["value"].tolist() == as_probe
    assert record.rows.query("method == 'stem'")["value"].tolist() != as_probe
    assert record.about["command"].startswith("""python -m facekit record stages --stages '["stem"]'""")


def test_rates_then_ladder(reference, monkeypatch):
    monkeypatch.setattr(rates, "RATES", {name: tried[:2] for name, tried in rates.RATES.items()})
    options = ["--labels", "16", "--epochs", "2", "--seeds", "[0]"]
    assert main(["record", "ladder", *options]) == 2, "no rates yet"
    assert main(["record", "rates", *options]) == 0
    tried_rates = recorded("ladder_rates", reference)
    assert set(zip(tried_rates.rows["rung"], tried_rates.rows["lr"], strict=True)) == {
        (name, lr) for name, tried in rates.RATES.items() for lr in tried
    }
    assert main(["record", "ladder", *options[:-1], "[0,1]"]) == 0
    record = recorded("ladder_fairface", reference)
    names = [rung.name for rung in LADDER]
    assert {"rung", "seed", "task", "metric", "value", "moved", "seconds", "steps"} <= set(record.rows.columns)
    assert complete(record.rows, rung=names, seed=[0, 1])
    assert set(record.rows["steps"]) == {2} and set(record.rows["n"]) == {16}
    assert (record.rows["cpu_seconds"] > 0).all()
    best = {rung.name: rung.lr for rung in ladder.rungs_at_best_rates(tried_rates.rows)}
    assert record.rows.groupby("rung")["lr"].agg(["min", "max"]).eq(pd.Series(best), axis=0).all(axis=None)
    old = record.rows[record.rows["task"] == "faces"].set_index(["rung", "seed", "metric"])["value"]
    assert old["frozen", 0, "cosine"] == pytest.approx(1, abs=1e-5)
    assert old["frozen", 0, "recognition"] == old["frozen", 1, "recognition"], "nothing in a frozen network changes"
    assert old["everything", 0, "cosine"] < 1


def test_rates_are_chosen_without_the_test_photos(reference, monkeypatch):
    seen = []
    monkeypatch.setattr(rates, "RATES", {"frozen": (1e-3,)})

    def spy(rung, backbone, train, tasks, **options):
        seen.extend(train.labels["split"])
        return fine_tune(rung, backbone, train, tasks, **options)

    def scored(model, test, tasks):
        seen.extend(test.labels["split"])
        return scores(model, test, tasks)

    monkeypatch.setattr(ladder, "fine_tune", spy)
    monkeypatch.setattr(ladder, "scores", scored)
    main(["record", "rates", "--labels", "16"])
    assert set(seen) == {"train", "validation"}


def test_a_stopped_command_goes_on_and_ends_in_the_same_rows(reference, monkeypatch):
    calls = []

    def counted(stop_at=None):
        def method(rows, tasks, seed):
            calls.append((len(rows), seed, tasks[0].name))
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return PROBES["linear"](rows, tasks, seed)

        return {"linear": method}

    monkeypatch.setattr(probe, "PROBES", counted(stop_at=11))
    assert main(["record", "probe", "--seeds", "[0,1]"]) == 130
    assert not list(reference.iterdir()), "nothing is recorded before all is measured"
    done = set(calls[:9])  # three whole blocks of three tasks
    calls.clear()
    monkeypatch.setattr(probe, "PROBES", counted())
    assert main(["record", "probe", "--seeds", "[0,1]"]) == 0
    assert len(calls) == 9 and not done & set(calls)
    continued = recorded("probe_fairface", reference)
    monkeypatch.setenv("FACEKIT_CACHE", str(reference / "another"))
    assert main(["record", "probe", "--seeds", "[0,1]"]) == 0
    again = recorded("probe_fairface", reference)
    same = ["method", "n", "seed", "task", "metric", "value"]
    pd.testing.assert_frame_equal(continued.rows[same], again.rows[same])


def test_rungs_get_the_rate_with_the_best_mean_accuracy():
    rows = [
        {"rung": rung.name, "lr": lr, "metric": metric, "value": value}
        for rung in LADDER
        if rung.name not in ladder.SAME_RATE
        for lr, scores in ((1e-3, (0.2, 0.9)), (1e-2, (0.5, 0.5)))
        for metric, values in (("accuracy", scores), ("mae", (99.0, 99.0)))
        for value in values
    ]
    rows = pd.DataFrame(rows)
    rungs = ladder.rungs_at_best_rates(rows)
    assert {rung.lr for rung in rungs} == {1e-3}
    assert [(rung.name, rung.plan, rung.pretrained) for rung in rungs] == [
        (rung.name, rung.plan, rung.pretrained) for rung in LADDER
    ]
    with pytest.raises(DataError, match="record rates"):
        ladder.rungs_at_best_rates(rows[rows["rung"] != "everything"])


def test_what_is_kept_of_recognising_faces():
    eye = np.eye(6, dtype=np.float32)
    labels = pd.DataFrame({"split": ["test"] * 4})
    before = FeatureSet(eye[:4], labels)
    swapped = FeatureSet(eye[[1, 0, 2, 3]], labels)
    copies = FeatureSet(eye[:3], labels[:3])
    assert retention(before, before, copies) == {"recognition": 1, "cosine": 1}
    assert retention(before, swapped, copies) == pytest.approx({"recognition": 1 / 3, "cosine": 1 / 2})


@pytest.mark.parametrize("name", ["probe", "rates", "ladder"])
def test_without_photos_the_commands_say_what_is_missing(name, monkeypatch, capsys):
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    assert main(["record", name]) == 2
    assert "FACEKIT_DATA" in capsys.readouterr().err
    monkeypatch.setenv("FACEKIT_PROFILE", "laptop")
    assert main(["record", name]) == 2
    assert "FACEKIT_PROFILE=full" in capsys.readouterr().err


def test_show_prints_means_and_where_they_come_from(reference, capsys):
    assert main(["record", "probe", "--seeds", "[0,1]"]) == 0
    capsys.readouterr()
    assert main(["record", "show", "probe_fairface"]) == 0
    out = capsys.readouterr().out
    assert "Recorded, not computed here" in out and "python -m facekit record probe" in out
    rows = recorded("probe_fairface", reference).rows
    mean = rows.query("method == 'linear' and n == 25 and task == 'race' and metric == 'accuracy'")["value"].mean()
    assert any(
        line.split()[:4] == ["linear", "25", "race", "accuracy"] and f"{mean:.4g}" in line for line in out.split("\n")
    )
    assert main(["record", "show", "nothing"]) == 2


SHIPPED = sorted(REFERENCE.glob("*.json"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_record_names_its_making_and_no_single_face(path):
    about = json.loads(path.read_text(encoding="utf-8"))
    rows = pd.DataFrame(about.pop("rows"))
    maker = "benchmarks" if path.stem.startswith("speed_") else "facekit"
    assert about["command"].startswith(f"python -m {maker} ") and about["seconds"] > 0
    assert {"torch", "facenet-pytorch", "python"} <= set(about["versions"])
    assert about["hardware"] and len(about["git_commit"]) >= 12
    assert about["seeds"] == sorted(set(rows["seed"])) if "seed" in rows else about["seeds"] == []
    keys = [column for column in rows if column not in ("value", "seconds", "cpu_seconds", "moved", "steps")]
    assert not rows.duplicated(keys).any(), "one row a measurement"
    if "metric" in rows:  # else a table of what networks are: a row a network
        shares = rows[rows["metric"].isin(["accuracy", "balanced_accuracy", "recognition"])]["value"]
        assert shares.between(0, 1).all()
        # Who gives one answer alone cannot be asked what another learns from the answers.
        assert set(rows.loc[rows["value"].isna(), "metric"]) <= {"reverse_accuracy"}
    elif "unit" in rows:  # what was measured of speed, and how far it may be from what it is measured beside
        assert (rows.loc[rows["unit"] != "bytes", "value"] > 0).all()
    else:
        assert rows["network"].is_unique and (rows.select_dtypes("number") > 0).all(axis=None)
    if "n" in rows:
        counts = rows["n"].dropna()  # a speed rests on no faces: 0, or empty
        assert ((counts >= 20) | (counts == 0)).all(), "a figure rests on many faces"


@pytest.mark.skipif("probe_fairface" not in [path.stem for path in SHIPPED], reason="not recorded yet")
def test_the_recorded_curve_is_whole():
    rows = recorded("probe_fairface").rows
    sizes = sorted(set(rows["n"]))
    assert sizes[:-1] == [50, 100, 200, 500, 1000, 2000, 5000, 10000] and sizes[-1] > 18000
    assert complete(rows, method=["linear", "one hidden layer"], n=sizes, seed=[0, 1, 2])
    accuracy = rows[rows["metric"] == "accuracy"].groupby(["method", "task", "n"])["value"].mean().unstack("n")
    assert (accuracy[sizes[-1]] > accuracy[50] + 0.05).all(), "labels help"


@pytest.mark.skipif("ladder_fairface" not in [path.stem for path in SHIPPED], reason="not recorded yet")
def test_the_recorded_ladder_is_whole_and_at_the_recorded_rates():
    rows, tried = recorded("ladder_fairface").rows, recorded("ladder_rates").rows
    assert complete(rows, rung=[rung.name for rung in LADDER], seed=sorted(set(rows["seed"])))
    assert rows["steps"].nunique() == 1 and rows["n"].nunique() == 1
    for rung in ladder.rungs_at_best_rates(tried):
        assert set(rows[rows["rung"] == rung.name]["lr"]) == {rung.lr}
