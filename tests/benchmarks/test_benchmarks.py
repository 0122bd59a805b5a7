"""`python -m benchmarks`: what was named or everything, one form, one record, one page. Speed is asserted nowhere."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import benchmarks.__main__ as bench
from benchmarks import lessons, packing, page, startup
from benchmarks.__main__ import BY_NAME_ONLY, PARTS, main
from benchmarks.results import COLUMNS, keep, number
from facekit import records, settings
from facekit.commands.cli import load
from facekit.course.teaching import between
from facekit.data.pack import pack
from facekit.errors import ConfigError, DataError, LessonError
from facekit.experiments.speed import ALL, EMBEDDER, LAYOUT, LIMIT, LOOP, OWN_BATCHES, PEER, PLAIN, figures
from facekit.records import recorded
from facekit.studies.runner import show

CPU = torch.device("cpu")


@pytest.fixture
def reference(tmp_path, monkeypatch):
    """The folder that records go to."""
    monkeypatch.setattr("facekit.records.REFERENCE", tmp_path)
    return tmp_path


def test_every_part_is_a_documented_function():
    assert all(load(path).__doc__ for path in PARTS.values())


def test_without_a_name_every_part_runs_but_those_by_name(monkeypatch, capsys):
    ran = []

    def run(function, options, program):
        ran.append((program, options))
        return figures({"a": 2, "b": 4})

    monkeypatch.setattr(bench, "run", run)
    assert main([]) == 0
    assert ran == [(f"python -m benchmarks {name}", []) for name in PARTS if name not in BY_NAME_ONLY]
    shown = capsys.readouterr().out
    assert "--- embedding" in shown and "2.00" in shown and "share" not in shown, "a column without a figure"
    ran.clear()
    assert main(["mini", "packing", "--device", "cpu"]) == 0
    assert ran == [("python -m benchmarks mini", ["--device", "cpu"]), ("python -m benchmarks packing", [])]


@pytest.mark.parametrize("how", [ConfigError("no room"), RuntimeError("no room")])
def test_a_part_that_fails_is_named_and_the_others_are_recorded(monkeypatch, capsys, reference, how):
    def run(function, options, program):
        if program.endswith("probe"):
            raise how
        return figures({"a": 2, "b": 4})

    monkeypatch.setattr(bench, "run", run)
    assert main(["--record", "true"]) == 1
    said = capsys.readouterr().err
    assert "probe failed" in said and "no room" in said
    assert list(recorded("speed_cpu").rows["part"].unique()) == [
        name for name in PARTS if name not in (*BY_NAME_ONLY, "probe")
    ]


@pytest.mark.parametrize(
    "words", [["embeding"], ["--rounds", "1"], ["mini", "data", "--rounds", "1"], ["--record", "maybe"]]
)
def test_what_cannot_be_asked_for(words, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_help_lists_the_parts(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in (*PARTS, "table"))


def test_a_part_takes_the_place_of_its_own_rows_and_of_no_others(reference):
    keep("mini", figures({"a": 1, "b": 2}), 3.0, CPU, ["probe", "mini"])
    keep("probe", figures({"c": 4, "d": 1}, "s", limit="c"), 2.0, CPU, ["probe", "mini"])
    keep("mini", figures({"a": 10}), 1.5, CPU, ["probe", "mini"])
    found = recorded("speed_cpu")
    assert list(found.rows) == COLUMNS and found.about["seconds"] == 3.5
    assert list(found.rows["row"]) == ["c", "d", "a"] and list(found.rows["value"]) == [4, 1, 10]
    assert list(found.rows["share"][:2]) == [1, 0.25] and found.rows["share"][2:].isna().all()
    assert found.about["command"] == "python -m benchmarks --record true"
    assert set(found.rows["date"]) == {found.about["date"]}


def test_a_record_without_any_share_can_be_shown(reference, capsys):
    keep("startup", figures({"import torch": 3}, "s", compare=False), 3.0, CPU)
    assert show("speed_cpu") == 0
    assert "import torch" in capsys.readouterr().out


def test_figures_of_another_machine_are_not_mixed_with_these(reference, monkeypatch):
    keep("mini", figures({"a": 1}), 3.0, CPU)
    monkeypatch.setattr(records, "hardware", lambda: "another")
    keep("probe", figures({"b": 1}), 3.0, CPU)
    assert list(recorded("speed_cpu").rows["part"]) == ["probe"]
    keep("probe", figures({"b": 1}), 3.0, torch.device("cuda"))
    assert recorded("speed_gpu").about["command"] == "python -m benchmarks --device cuda --record true"


def test_the_page_says_what_was_measured_and_what_was_not(reference):
    assert page.page().count(page.UNMEASURED) > 10 and "×" not in page.page().replace("20,000 × 512", "")
    rates = {PEER: 10, PLAIN: 20, LAYOUT: 30, ALL: 38, LOOP: 39, LIMIT: 40}
    keep("finetuning", figures(rates, limit=LIMIT), 1.0, CPU)
    keep("probe", figures({"scikit-learn's LogisticRegression, race": 8, "linear_probe, race": 0.5}, "s"), 1.0, CPU)
    keep("startup", figures({"facekit pack": 1, "facekit train": 3}, "s", compare=False), 1.0, CPU)
    usual, ours = "DataLoader with torchvision's transforms", "facekit's batches"
    keep("data", figures({usual: 100, ours: 200, f"{ours} without changes": 900}), 1.0, CPU)
    made = page.page()
    assert f"| {usual} | 100 photos/s | 200 photos/s | 2.00 × |" in made, "not what begins with the same words"
    assert f"| {PEER} | 10.0 photos/s | 39.0 photos/s | 3.90 × | {page.UNMEASURED} |" in made
    assert "8.00 s | 0.500 s | 16.00 ×" in made, "fewer seconds are faster"
    assert f"| {LAYOUT} | 1.50 × | {page.UNMEASURED} |" in made and "| 0.97 × |" in made
    assert all(part in page.CPU_ONLY or bench._has_device(load(PARTS[part])) for _, part, *_ in page.HEADLINES)
    assert "in 2.0 s (median of 2), the slowest, `facekit train`, in 3.0 s" in made
    assert "2.6 % with FaceNet on a CPU." in made
    embedded = {EMBEDDER: 50, "embed, FaceNet, fp32": 150, f"{EMBEDDER}, batches of 8": 100, f"{OWN_BATCHES}, x": 160}
    keep("embedding", figures(embedded), 1.0, CPU)
    made = page.page()
    assert "| 50.0 photos/s | 150 photos/s | 3.00 × |" in made, "in the same batches"
    assert "| facenet-pytorch | 100 photos/s | 160 photos/s | 1.60 × |" in made, "the best of several rows, of both"
    assert "GPU: not measured yet" in made and f"CPU: {records.hardware()}" in made
    keep("finetuning", figures(rates, limit=LIMIT), 1.0, torch.device("cuda"))
    assert page.page().count("3.90 ×") == 2


def test_a_damaged_record_is_not_called_unmeasured(reference):
    keep("mini", figures({"a": 1}), 3.0, CPU).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        page.page()


def test_the_readme_says_what_the_records_say():
    text = page.README.read_text(encoding="utf-8")
    assert between(text, page.MARK, page.page(), "README.md") == text, "type: python -m benchmarks table --write true"


def test_the_page_is_written_between_its_markers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(page, "README", tmp_path / "README.md")
    page.README.write_text("a\n<!-- speed -->\nold\n<!-- /speed -->\nb\n")
    assert main(["table", "--write", "true"]) == 0
    assert page.README.read_text() == f"a\n<!-- speed -->\n{page.page()}<!-- /speed -->\nb\n"
    assert capsys.readouterr().out == page.page()


@pytest.mark.parametrize(("value", "text"), [(0.0456, "0.0456"), (1, "1.00"), (38.25, "38.2"), (12345.6, "12,346")])
def test_numbers_have_three_digits(value, text):
    assert number(value) == text and number(0) == "0.00"


def measured(words, rows, unit=""):
    """Runs a part; its table has these rows (of one unit) with figures above 0."""
    found: list[pd.DataFrame] = []
    show = bench.show
    try:
        bench.show = lambda table: found.append(table) or show(table)
        assert main(words) == 0
    finally:
        bench.show = show
    table = found[0][found[0]["unit"] == unit] if unit else found[0]
    assert list(table["row"]) == rows and (table["value"] > 0).all()


def test_packing_beside_pillow_alone(monkeypatch):
    # Its two fresh processes cost seconds of imports; that they measure is checked by hand.
    monkeypatch.setattr(packing, "_peak_of_packing", lambda archive, dest: float(len(pack(archive, dest))))
    words = ["packing", "--photos", "6", "--rounds", "1"]
    measured(words, [packing.ALONE, "pack", "pack, 6 photos", "pack, 24 photos"])


def test_small_parts():
    measured(["features", "--rows", "5000", "--rounds", "1"], ["new memory filled with a constant", "rows drawn"] * 2)
    measured(["probe", "--rows", "300", "--rounds", "1"], ["scikit-learn and linear_probe"], "same answers")
    words = ["data", "--photos", "4", "--size", "32", "--batch_size", "2", "--rounds", "1", "--device", "cpu"]
    usual, ours = "DataLoader with torchvision's transforms", "facekit's batches"
    helped = f"the same, {settings.cores()} helper processes"
    measured(words, [usual, helped, ours, "DataLoader without changes", f"{ours} without changes"])


def test_start_of_python_and_of_a_command(monkeypatch):
    monkeypatch.setattr(startup, "IMPORTS", ("facekit",))
    rows = ["Python alone", "import facekit", "all commands", "facekit doctor"]
    measured(["startup", "--commands", "[doctor]", "--rounds", "1"], rows)


def test_a_lesson_that_fails_is_told(monkeypatch):
    monkeypatch.setattr(lessons, "run_lesson", lambda lesson, profile, out: "")
    assert list(lessons.bench_lessons([0])["row"]) == ["00 · Start here"]
    monkeypatch.setattr(lessons, "run_lesson", lambda lesson, profile, out: "cell 3\ntraceback")
    with pytest.raises(LessonError, match="lesson 00 fails: cell 3"):
        lessons.bench_lessons([0])


def test_parts_refuse_what_they_cannot_measure(capsys):
    for words in (["features", "--rows", "0"], ["predict", "--photos", "0"], ["evaluation", "--rows", "0"]):
        assert main(words) == 2
    assert main(["predict", "--photos", "1", "--backbone", "x"]) == 2
    assert (
        main(["probe", "--rows", "3"])
        == main(["startup", "--commands", "[x]"])
        == main(["packing", "--photos", "0"])
        == 2
    )
    assert capsys.readouterr().err.count("error: ") == 7


def test_predict_beside_detector_and_network_alone():
    measured(["predict", "--photos", "3", "--rounds", "1"], ["detector and network alone", "predict"])


def test_evaluation_tells_its_seconds():
    measured(["evaluation", "--rows", "1000"], ["the model's answers alone", "evaluate", "report"])
