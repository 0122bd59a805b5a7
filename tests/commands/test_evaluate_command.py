"""The evaluate command: three files or none, only its own, the same again, and the owner's words stay."""

import re
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from audited import trained, with_splits

import facekit
from facekit.answers.card import OWNER, written
from facekit.answers.evaluate import evaluate
from facekit.commands import evaluate as command
from facekit.commands.cli import main
from facekit.data.sets import FeatureSet


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("evaluated")
    trained(home)
    return home


def run(home, out, *options: str, by: str = "town,age_years") -> int:
    return main(["evaluate", str(home / "run"), str(home / "set"), "--by", by, "--out", str(out), *options])


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_leaves_three_files_and_says_what_it_found(home, tmp_path, capsys):
    assert run(home, tmp_path / "new" / "out", "--intended_use", "A lesson.") == 0
    made = content(tmp_path / "new" / "out")
    assert sorted(made) == sorted(command.WRITTEN)
    said = capsys.readouterr().out
    assert "side by town" in said and "limits, people" in said
    assert written(made[command.CARD].decode()) == {"intended": "A lesson."}
    rows = pd.read_csv(tmp_path / "new" / "out" / command.SCORES)
    assert rows.columns[:4].tolist() == ["task", "metric", "town", "age_years"]
    assert set(rows["task"]) == {"side", "level"}


def test_again_it_gives_the_same_bytes_and_keeps_what_the_owner_wrote(home, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(home, out) == 0
    first = content(out)
    assert run(home, out) == 0 and content(out) == first
    card = out / command.CARD
    card.write_text(re.sub(r"(owner: people -->\n).*", r"\1They agreed.", card.read_text()))
    assert run(home, out, "--owner", "We, 2026.", by="town") == 0
    assert written(card.read_text()) == {"people": "They agreed.", "owner": "We, 2026."}
    assert "keeps the owner's words" in capsys.readouterr().out
    card.write_text(card.read_text().replace("## Metrics", "## My metrics"))
    before = content(out)
    assert run(home, out) == 2 and content(out) == before
    assert "outside of the owner's places" in capsys.readouterr().err


def test_it_may_write_into_the_models_own_folder(home, tmp_path):
    trained(tmp_path)
    assert run(tmp_path, tmp_path / "run") == 0
    assert run(tmp_path, tmp_path / "run") == 0
    assert facekit.load(tmp_path / "run").tasks
    assert main(["train", "--data", str(tmp_path / "set"), "--out", str(tmp_path / "run"), "--backbone", "none"]) == 2


@pytest.mark.parametrize("name", command.WRITTEN)
def test_what_others_wrote_stays(home, tmp_path, name, capsys):
    (tmp_path / name).write_text("mine")
    assert run(home, tmp_path) == 2
    assert content(tmp_path) == {name: b"mine"} and "is in the way" in capsys.readouterr().err


def test_a_run_that_is_stopped_leaves_nothing_half_written(home, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    monkeypatch.setattr(command, "evaluated", fails)
    assert run(home, out) == 130 and not out.exists()
    monkeypatch.undo()
    monkeypatch.setattr(command.report, "html", fails)
    assert run(home, out) == 130
    left = content(out) if out.exists() else {}
    assert command.REPORT not in left and not [name for name in left if name.endswith(".part")]
    monkeypatch.undo()
    assert run(home, out) == 0 and sorted(content(out)) == sorted(command.WRITTEN)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["RUN", "SET", "--by", "nope"], "no column 'nope' to group by; it has"),
        (["RUN", "SET", "--split", "dev"], "split"),
        (["RUN", "RUN"], "not a complete set"),
        (["SET", "SET"], "holds no model"),
        (["RUN/none", "SET"], "does not exist"),
        (["RUN", "SET", "--domain", "x"], "no domain 'x'"),
        (["RUN", "portraits", "--portraits", "40"], "takes embeddings"),
    ],
)
def test_bad_input_is_one_line_with_a_remedy_and_leaves_no_folder(home, tmp_path, capsys, options, said):
    names = {"RUN": str(home / "run"), "SET": str(home / "set"), "RUN/none": str(home / "none")}
    try:
        status = main(["evaluate", *(names.get(each, each) for each in options), "--out", str(tmp_path / "out")])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2 and said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_every_place_of_the_card_has_an_option(home, tmp_path):
    given = ["--owner", "a", "--intended_use", "b", "--limits", "c", "--people", "d", "--recommendations", "e"]
    assert run(home, tmp_path / "out", *given) == 0
    assert written((tmp_path / "out" / command.CARD).read_text()) == dict(zip(OWNER, "abcde", strict=True))


def test_memory_does_not_grow_with_the_rows(tmp_path):
    """All arrays that live at once are far smaller than the embeddings, which stay on the disk."""
    sizes = {"train": 300, "validation": 100, "test": 40_000}
    made = with_splits(sizes)
    wide = np.concatenate([made.features, np.zeros((len(made), 250), np.float32)], axis=1)
    FeatureSet(wide, made.labels[["side", "colour", "split"]]).save(tmp_path / "set")
    del made
    trained(tmp_path, tasks=["side"], epochs=1)
    model, data = facekit.load(tmp_path / "run"), FeatureSet.load(tmp_path / "set")
    evaluate(model, data, ("colour",), n_boot=10)  # what is loaded and kept by then is no matter
    tracemalloc.start()
    try:
        evaluate(model, data, ("colour",), n_boot=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < wide.nbytes / 3
