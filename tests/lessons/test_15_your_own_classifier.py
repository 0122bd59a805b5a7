"""Lesson 15: a folder as people leave it; three commands to three classifiers, one cell to change, a report."""

from __future__ import annotations

import ast
import re
from base64 import b64decode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import features, probe

import facekit
from facekit.commands.cli import main
from facekit.course import lesson
from facekit.course.build import make_notebook
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError, LessonError, OutputError
from facekit.experiments import scores
from facekit.show import plots
from facekit.training.loop import predict

LESSON = lesson("15")
PROJECT, FIGURES = LESSON.load("project"), LESSON.figures
QUICK = ("--epochs", "1", "--steps", "2", "--plan", "probe", "--batch_size", "16")


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    """Portraits of 32 pixels, enough of them that each split has some."""
    return render_portraits((200, 0, 0), seed=15, size=32, per_person=1, workers=1)


@pytest.fixture(scope="module")
def home(faces, tmp_path_factory) -> Path:
    """A folder with photos and a table, and the set that `pack` makes of them, with what it printed."""
    home = tmp_path_factory.mktemp("own")
    PROJECT.written(faces, home)
    assert (
        main(["pack", str(home / "photos"), str(home / "set"), "--labels", str(home / "labels.csv"), "--size", "32"])
        == 0
    )
    return home


def test_every_file_and_row_of_the_folder_is_accounted_for(faces, home):
    found = FaceSet.load(home / "set").manifest
    files = list((home / "photos").iterdir())
    assert len(files) == len(faces) + 2 and found["found"] == len(files) + 2
    assert found["rejected_by_reason"] == {
        **{"duplicate": 1, "file without label": 4, "label without file": 2, "unknown label": 3, "unreadable": 1},
    }
    assert found["packed"] == found["found"] - 11
    (copy,) = (each for each in found["rejected"] if each["reason"] == "duplicate")
    assert "its labels differ in age" in copy["detail"]
    assert {"'female'", "'m'", "'?'"} == {
        re.findall("'.*?'", each["detail"])[0] for each in found["rejected"] if each["reason"] == "unknown label"
    }


def test_what_has_one_meaning_is_read_and_labels_are_those_of_the_faces(faces, home):
    table = (home / "labels.csv").read_text("utf-8-sig")
    assert "photo;gender;age" in table and ";9-Mar" in table and re.search(r"^IMG_\d+;", table, re.M)
    packed = FaceSet.load(home / "set")
    rows = packed.labels["file"].str.extract(r"^IMG_(\d+)\.bmp$")[0].dropna().astype(int)
    for column in ("gender", "age"):
        mine, theirs = packed.labels[column][rows.index], faces.labels[column].iloc[rows.to_numpy() - 1].to_numpy()
        known = mine.notna().to_numpy()
        assert 0.8 < known.mean() < 1
        differing = (mine[known] != theirs[known]).sum()
        assert differing == 0, column


def test_too_few_faces_are_refused_and_a_folder_is_not_written_twice(faces, home, tmp_path):
    with pytest.raises(LessonError, match="39 faces are too few"):
        PROJECT.written(faces.select(range(39)), tmp_path)
    with pytest.raises(FileExistsError):
        PROJECT.written(faces, home)


@pytest.mark.parametrize("temporary", [True, False])
def test_only_a_temporary_folder_goes_with_the_kernel(temporary, faces, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(PROJECT.atexit, "register", lambda *args, **options: kept.append(args[1]))
    monkeypatch.setattr(PROJECT.tempfile, "gettempdir", lambda: str(tmp_path))
    home = tmp_path / ("tmpabc" if temporary else "my_classifier")
    PROJECT.written(faces.select(range(40)), home)
    assert kept == [home] * temporary


def test_the_photo_that_was_saved_again_is_found(home):
    packed = FaceSet.load(home / "set")
    pixels = packed.images.reshape(len(packed), -1).astype(np.float64) - 128
    first = PROJECT.near_copies(pixels).iloc[0]
    names = sorted(packed.labels["file"].iloc[[int(first["one"]), int(first["other"])]])
    assert names[1] == f"edited {names[0]}" and first["alike"] > 0.98
    assert packed.labels["split"][first["one"]] != packed.labels["split"][first["other"]]


def test_near_copies_are_those_of_all_pairs():
    x = np.random.default_rng(0).normal(size=(1300, 8))
    x[1290] = 2 * x[3] + 1
    found = PROJECT.near_copies(x, 5)
    cosine = np.triu(np.corrcoef(x), 1)
    best = np.dstack(np.unravel_index(np.argsort(-cosine.ravel())[:1], cosine.shape))[0]
    assert list(found.iloc[0][["one", "other"]]) == list(best[0]) == [3, 1290]
    np.testing.assert_allclose(found["alike"], cosine[found["one"], found["other"]])
    assert found["alike"].is_monotonic_decreasing and (found["one"] < found["other"]).all()


def by_hand(*names: str, **space: object) -> dict[str, object]:
    """Functions of the lesson's source, by name, among these names."""
    tree = ast.parse(LESSON.source.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    known = {"np": np, "pd": pd, "torch": torch, **space}
    exec(compile(ast.Module(found, []), "lesson 15", "exec"), known)
    return known


def test_scores_by_hand_are_those_of_facekit_and_both_are_right_where_each_is():
    rows, net = features(60), probe()
    tasks = list(net.tasks)
    rows.labels.loc[:9, tasks[0].name] = None
    mine = by_hand("scored", tasks=tasks, ALL="all")["scored"](predict(net, rows), rows)
    theirs = scores(net, rows, tasks).query("metric == 'accuracy'").set_index("task")["value"]
    assert {task.name: mine[task.name] for task in tasks} == pytest.approx(theirs.to_dict())
    assert mine["all"] <= min(mine[task.name] for task in tasks) + 10 / 60


def test_the_average_is_that_of_probabilities():
    several = [{"a": torch.tensor([[2.0, 0.0], [0.0, 3.0]])}, {"a": torch.tensor([[0.0, 1.0], [0.0, 1.0]])}]
    found = by_hand("averaged")["averaged"](several)["a"].exp()
    torch.testing.assert_close(found, (several[0]["a"].softmax(1) + several[1]["a"].softmax(1)) / 2)
    torch.testing.assert_close(found.sum(1), torch.ones(2))


@pytest.mark.parametrize("tasks", ["gender", "age", "gender,age"])
def test_three_commands_make_a_classifier_that_answers(tasks, home, tmp_path, capsys):
    """`pack` was the first."""
    model, answers = tmp_path / "model", tmp_path / "answers.csv"
    assert (
        main(["train", "--data", str(home / "set"), "--tasks", tasks, "--out", str(model), "--size", "32", *QUICK]) == 0
    )
    assert main(["predict", str(model), str(home / "photos"), "--out", str(answers)]) == 0
    said, error = capsys.readouterr()
    assert not error and "201 faces in 202 photos" in said and "1 without an answer: unreadable" in said
    names, loaded = tasks.split(","), facekit.load(model)
    assert [task.name for task in loaded.tasks] == names
    told = loaded.scores[loaded.scores["metric"] == "accuracy"]
    assert set(told["task"]) == set(names) and set(told["split"]) == {"validation", "test"}
    assert (told["low"] <= told["value"]).all() and (told["value"] <= told["high"]).all() and (told["n"] > 0).all()
    table = pd.read_csv(answers, keep_default_na=False)
    unlabelled = [each["file"] for each in FaceSet.load(home / "set").manifest["rejected"]]
    assert {name for name in unlabelled if (home / "photos" / name).exists()} <= set(table["file"])
    for task in loaded.tasks:
        assert set(table[task.name]) - {""} <= set(task.classes)
        assert ((table[task.name] == "") == (table["reason"] != "")).all()


CELL = re.compile(r"^FOLDER, LABELS = .*$", re.M)


@pytest.mark.parametrize("columns", [["mood"], ["gender", "age"]])
def test_with_one_cell_changed_all_that_follows_goes_on(columns, faces, tmp_path, monkeypatch, capsys):
    """The learner's copy, on another folder and another table, with one task or two."""
    folder = tmp_path / "mine"
    folder.mkdir()
    rng = np.random.default_rng(3)
    moods = np.where(rng.random(120) < 0.4, "glad", "not glad")
    sides = np.array(["train", "train", "train", "validation", "test"])[np.arange(120) % 5]
    names = [f"{number}.bmp" for number in range(120)]
    table = faces.labels[["gender", "age"]].head(120).assign(mood=moods, path=names, split=sides)
    for number, image in enumerate(faces.images[:120]):
        (folder / f"{number}.bmp").write_bytes(PROJECT.as_file(image.transpose(1, 2, 0)))
    table.to_csv(tmp_path / "mine.csv", index=False)
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(plots, "show", lambda figure, alt: None)
    monkeypatch.setattr("IPython.display.display", lambda *args, **kwargs: None)
    space: dict[str, object] = {}
    changed = 0
    for cell in make_notebook(LESSON, solutions=False).cells:
        code = cell.source if cell.cell_type == "code" else ""
        if CELL.search(code):
            code = CELL.sub(f"FOLDER, LABELS = Path({str(folder)!r}), Path({str(tmp_path / 'mine.csv')!r})", code)
            code = re.sub(r"^(TASKS|GROUPS) = .*$", rf"\1 = {columns!r}", code, flags=re.M)
            changed += 1
        code = code.replace("seeds=range(5)", "seeds=range(2)")  # enough for a spread
        exec(compile(code, "cell", "exec"), space)
    assert changed == 1
    said = capsys.readouterr().out
    assert "found 120, packed 120" in said and "120 faces in 120 photos" in said
    assert [task.name for task in space["model"].tasks] == columns
    assert "project.html: 0 of 13 places are filled" in said and said.count("not attempted") == 6


def test_what_goes_wrong_is_said_with_a_way_on(faces, tmp_path):
    found = {name: PROJECT.told(tmp_path, words) for name, words in PROJECT.mishaps(faces, tmp_path / "bad").items()}
    for name, said in {
        "no photos": "name the folder that they are in",
        "one class": "put those of each class into a folder of its own",
        "labels of ten faces": "mostly chance. Label more photos",
        "one value for all": "name another column, or pack photos of at least two",
        "half of the names match": "but no photo found has this name",
    }.items():
        assert said in " ".join(found[name]), name
        assert str(tmp_path) not in " ".join(found[name])
    assert len(found) == 5


def test_a_command_runs_in_the_folder_and_its_error_is_the_commands_own(home, capsys):
    with pytest.raises(DataError, match="does not exist"):
        PROJECT.run(home, "pack", home / "photographs", "other")
    assert capsys.readouterr().out == "$ python -m facekit pack photographs other\n"
    assert not (home / "other").exists() and Path.cwd() != home


def test_numbers_are_no_classes(home, tmp_path):
    packed = FaceSet.load(home / "set")
    FaceSet(packed.images, packed.labels.assign(weight=range(len(packed)))).save(tmp_path / "numbers")
    with pytest.raises(LessonError, match="'weight' is a number"):
        PROJECT.opened(tmp_path / "numbers", ["gender", "weight"])


def test_the_network_has_the_name_that_train_takes():
    from facekit.models.backbones.mini import FaceNetMini
    from facekit.models.backbones.small import SmallNet

    assert PROJECT.key_of(FaceNetMini()) == "mini"
    with pytest.raises(LessonError, match="no network 'small'"):
        PROJECT.key_of(SmallNet())


@pytest.fixture(scope="module")
def evaluated(home, tmp_path_factory):
    from facekit.answers.evaluate import evaluate

    model = tmp_path_factory.mktemp("model") / "model"
    assert (
        main(["train", "--data", str(home / "set"), "--tasks", "gender", "--out", str(model), "--size", "32", *QUICK])
        == 0
    )
    return evaluate(facekit.load(model), FaceSet.load(home / "set"), split=None)


SAID = {"question": "Who is it? <b>", "harm": ..., "limits": "Never at a door.", "chosen": 0.31}


def test_the_page_is_whole_in_itself_and_says_what_is_still_to_write(evaluated, tmp_path, capsys):
    table = pd.DataFrame({("gender", "mean"): [0.5], ("gender", "±"): [0.01234]}, ["probe"]).rename_axis("method")
    picture = plots.figure()[0]
    page = PROJECT.hand_in(tmp_path / "report", SAID, evaluated, {"ways": table}, {"A curve.": picture})
    text = page.read_text(encoding="utf-8")
    assert capsys.readouterr().out == "project.html: 3 of 4 places are filled; still to write: harm\n"
    assert "Who is it? &lt;b&gt;" in text and "harm: (not written yet)" in text and "chosen: 0.31" in text
    assert not re.search(r"<(?:script|link|iframe)|\bsrc=\"(?!data:)|https?://(?!\S*w3\.org)\S+\"", text)
    for cell in (">method</th>", ">gender mean</th>", ">gender ±</th>", ">probe</th>", ">0.500</td>", ">0.012</td>"):
        assert cell in text
    (image,) = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert b64decode(image) == plots.png(picture)
    card = (page.parent / "model_card.md").read_text(encoding="utf-8")
    assert "Never at a door." in card and "Never at a door." in text
    assert {path.name for path in page.parent.iterdir()} >= {"project.html", "model_card.md"}


def test_a_second_page_replaces_the_first_and_no_file_of_somebody_elses(evaluated, tmp_path):
    for words in ("One question.", "Another question."):
        page = PROJECT.hand_in(tmp_path / "report", {"question": words}, evaluated, {}, {})
    assert "Another question." in page.read_text(encoding="utf-8") and "One question." not in page.read_text("utf-8")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "project.html").write_text("mine")
    with pytest.raises(OutputError, match="in the way"):
        PROJECT.hand_in(tmp_path / "other", {}, evaluated, {}, {})
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["project.html"]
    assert (tmp_path / "other" / "project.html").read_text() == "mine"


def test_figures(home):
    packed, tasks = PROJECT.opened(home / "set", ["gender", "age"])
    bars = FIGURES.counts(packed, tasks)
    for axis, task in zip(bars.axes, tasks, strict=True):
        assert sum(bar.get_width() for bar in axis.patches) == len(packed)
        missing = [
            bar.get_width() for bar in axis.patches if round(bar.get_y() + bar.get_height() / 2) == len(task.classes)
        ]
        assert sum(missing) == packed.labels[task.name].isna().sum()
    tables = {
        "a": pd.DataFrame({"x": [0.1, 0.3], "y": [0.5, 0.6]}),
        "b": pd.DataFrame({"x": [0.2, 0.2], "y": [0.4, 0.4]}),
    }
    ways = FIGURES.ways(tables)
    assert [axis.get_title() for axis in ways.axes] == ["a", "b"]
    means = ways.axes[0].containers[0].lines[0].get_xdata()
    np.testing.assert_allclose(means, [0.2, 0.55])
    curve = FIGURES.curves({"a": pd.DataFrame({10: [0.1, 0.3], 20: [0.5, 0.6]})})
    np.testing.assert_allclose(curve.axes[0].containers[0].lines[0].get_ydata(), [0.2, 0.55])
    with pytest.raises(ConfigError):
        FIGURES.curves({"a": pd.DataFrame({10: [0.1], 20: [0.5]}), "b": pd.DataFrame({10: [0.1]})})
