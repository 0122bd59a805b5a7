"""`python -m benchmarks` runs what was named, or everything; speed itself is asserted nowhere."""

from __future__ import annotations

import benchmarks.__main__ as bench
from benchmarks import packing
from benchmarks.__main__ import BENCHMARKS, main
from facekit.commands.cli import load
from facekit.data.pack import pack


def test_every_benchmark_is_a_documented_function():
    assert all(load(path).__doc__ for path in BENCHMARKS.values())


def test_without_a_name_every_benchmark_runs(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(bench, "run", lambda function, options, program: ran.append(program))
    assert main([]) == 0
    assert ran == [f"python -m benchmarks {name}" for name in BENCHMARKS]
    assert "--- embedding" in capsys.readouterr().out


def test_an_unknown_name_says_which_there_are(capsys):
    assert main(["embeding"]) == 2
    assert "embedding" in capsys.readouterr().err


def test_packing_beside_pillow_alone(capsys, monkeypatch):
    # Its two fresh processes cost seconds of imports; that they measure is checked by hand.
    monkeypatch.setattr(packing, "_peak_of_packing", lambda archive, dest: float(len(pack(archive, dest))))
    assert main(["packing", "--photos", "6", "--rounds", "1"]) == 0
    text = capsys.readouterr().out
    assert "Pillow alone" in text and "6 MiB at 6 photos, 24 MiB at 24" in text


def test_features_prints_rows_a_second(capsys):
    assert main(["features", "--rows", "5000", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "5,000 rows drawn: " in printed and "5,000 rows new memory filled" in printed
    assert main(["features", "--rows", "0"]) == 2


def test_evaluation_prints_its_seconds(capsys):
    assert main(["evaluation", "--rows", "1000"]) == 0
    printed = capsys.readouterr().out
    assert "1,000 rows, " in printed and "the answers to 6,000 rows alone" in printed
    assert main(["evaluation", "--rows", "0"]) == 2
