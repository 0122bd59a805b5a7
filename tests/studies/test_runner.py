"""The runner: what a kept block depends on, work that is stopped or shared, command lines, templates."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from damage import accidents
from torch import nn

from facekit.commands.cli import main, subcommands
from facekit.data.sets import FeatureSet
from facekit.errors import ConfigError
from facekit.records import ROOT, fill, recorded
from facekit.studies import FOLDER, commands, runner
from facekit.studies.runner import Block, BlockCache, Study, command_line, fingerprint, source_hash, study
from facekit.tasks import AGE_BAND, GENDER

CALLS = []


def measure(value: float, *_) -> pd.DataFrame:
    CALLS.append(value)
    return pd.DataFrame({"value": [value], "name": ["a"], "n": [30], "seed": [int(value)]})


def measure_slowly(value: float) -> pd.DataFrame:
    time.sleep(0.2)
    return measure(value)


@pytest.fixture(autouse=True)
def none_called():
    CALLS.clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A toy package with a study; a function that writes one of its files anew and gives the study's source hash."""
    folder = tmp_path / "toys"
    (folder / "parts").mkdir(parents=True)
    files = {
        "__init__": "",
        "parts/__init__": "from toys.reached import OTHER\n",
        "reached": "OTHER = 1\n",
        "parts/used": "from toys import deep\n\nNUMBER = deep.NUMBER\n",
        "deep": "NUMBER = 1\n",
        "unrelated": "NUMBER = 1\n",
        "described": "NUMBER = 1\n",
        "one": "import numpy\nfrom toys import described\nfrom toys.parts.used import NUMBER\n\n\n"
        "def measure():\n    return NUMBER\n\n\n@study\ndef record():\n    return described.NUMBER\n",
    }

    def write(**changed: str) -> str:
        for name, text in (files | {name.replace("__in__", "/"): text for name, text in changed.items()}).items():
            (folder / f"{name}.py").write_text(text)
        source_hash.cache_clear()
        import_module("toys")
        return source_hash("toys.one")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "toys", raising=False)
    write.files = files
    yield write
    source_hash.cache_clear()
    sys.modules.pop("toys", None)


def test_only_code_that_a_study_imports_counts_for_what_is_kept(package):
    first = package()
    assert package(unrelated="NUMBER = 2\n", new="NUMBER = 3\n") == first
    changed = {package(deep="NUMBER = 2\n"), package(parts__in__used="NUMBER = 4\n")}
    changed |= {package(reached="OTHER = 2\n")}
    assert first not in changed and len(changed) == 3
    assert package(__init__="FLAG = True\n") != first, "the packages on the way are imported as well"
    assert package() == first


def test_words_about_a_study_do_not_count_for_what_is_kept(package):
    first, one = package(), package.files["one"]
    described = one.replace("measure():", 'measure():\n    "A docstring."')
    assert package(one='"""About."""\n\n# a comment\n' + described) == first
    assert package(one=one.replace("return described.NUMBER", "return 'other words'")) == first
    assert package(described="NUMBER = 2\n") == first, "what only the description uses"
    assert package(one=one.replace("return NUMBER", "return NUMBER + 1")) != first


def test_every_study_counts_what_it_is_measured_by():
    for name, path in commands().items():
        module = path.partition(":")[0]
        assert source_hash(module) != source_hash("facekit.studies"), name


def test_a_block_that_another_process_measures_is_waited_for_and_read():
    found = []

    def ask():
        found.append(BlockCache("toy").rows(Block("a", measure_slowly, (0.5,))))

    threads = [threading.Thread(target=ask) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert CALLS == [0.5] and found[0].equals(found[1])
    assert [path.suffix for path in BlockCache("toy").folder.iterdir()] == [".json"]


def test_a_block_is_kept_for_the_same_content_alone(monkeypatch):
    features = FeatureSet(np.ones((2, 3), np.float32), pd.DataFrame({"split": ["train", "test"]}))
    again = FeatureSet(np.ones((2, 3), np.float32), pd.DataFrame({"split": ["train", "test"]}))
    other = FeatureSet(np.ones((2, 3), np.float32), pd.DataFrame({"split": ["train", "train"]}))
    first = BlockCache("toy").rows(Block("a", measure, (0.1, features)))
    assert BlockCache("toy").rows(Block("a", measure, (0.1, again))).equals(first) and CALLS == [0.1]
    BlockCache("toy").rows(Block("a", measure, (0.1, other)))
    assert BlockCache("toy").rows(Block("a", measure, (0.2, features)))["value"].item() == 0.2
    assert CALLS == [0.1, 0.1, 0.2]
    monkeypatch.setattr(runner, "source_hash", lambda module: "other code")
    BlockCache("toy").rows(Block("a", measure, (0.1, features)))
    assert len(CALLS) == 4


def test_what_blocks_share_is_looked_at_once_and_gives_the_same_key(monkeypatch):
    """Photos of gigabytes stand in many blocks, and again in blocks among the arguments of others."""
    hashed = []
    real = FeatureSet.content_hash
    monkeypatch.setattr(FeatureSet, "content_hash", lambda self: hashed.append(1) or real(self))
    features = FeatureSet(np.ones((2, 3), np.float32), pd.DataFrame({"split": ["train", "test"]}))
    parts = [Block(str(value), measure, (value, features)) for value in (1.0, 2.0)]
    BlockCache("toy").rows(Block("whole", total, (parts, {"again": parts[0]})))
    assert len(hashed) == 1
    assert fingerprint([parts, features]) == fingerprint([parts, features], {}) and len(hashed) == 5
    names = sorted(path.name for path in BlockCache("toy").folder.iterdir())
    BlockCache("toy").rows(parts[1])
    assert sorted(path.name for path in BlockCache("toy").folder.iterdir()) == names and CALLS == [1.0, 2.0, "total"]


def total(tables: list[pd.DataFrame], named: dict[str, pd.DataFrame]) -> pd.DataFrame:
    CALLS.append("total")
    return pd.DataFrame({"value": [sum(each["value"].sum() for each in (*tables, *named.values()))]})


def test_a_block_among_the_arguments_stands_for_its_rows():
    """They are measured once, kept as blocks of their own, and their seconds count."""
    one, two, three = (Block(str(value), measure, (value,)) for value in (1.0, 2.0, 4.0))
    whole = Block("whole", total, ((one, two), {"third": three}))
    kept = BlockCache("toy")
    assert kept.rows(whole)["value"].item() == 7 and CALLS == [1.0, 2.0, 4.0, "total"]
    again = BlockCache("toy")
    assert again.rows(whole)["value"].item() == 7 and len(CALLS) == 4
    assert len(again.took) == 4 and again.took == kept.took
    other = Block("whole", total, ((one, one), {"third": three}))
    assert again.rows(other)["value"].item() == 6 and CALLS[4:] == ["total"]


def test_no_commit_counts_for_what_is_kept(monkeypatch):
    BlockCache("toy").rows(Block("a", measure, (1.0,)))
    monkeypatch.setattr("facekit.records.git_commit", lambda: "another")
    BlockCache("toy").rows(Block("a", measure, (1.0,)))
    assert CALLS == [1.0]


def test_a_kept_block_that_was_damaged_or_changed_is_measured_again():
    kept = BlockCache("toy")
    rows = kept.rows(Block("a", measure, (1.0,)))
    (path,) = kept.folder.iterdir()
    measured, seconds = 1, set(kept.took.values())
    for what in accidents(path, 60):
        if what.startswith("a folder"):
            with pytest.raises(ConfigError, match="FACEKIT_CACHE"):
                kept.rows(Block("a", measure, (1.0,)))
            measured += 1
        else:
            again = kept.rows(Block("a", measure, (1.0,)))
            pd.testing.assert_frame_equal(again, rows)
            assert len(CALLS) > measured or set(kept.took.values()) == seconds, what
            measured = len(CALLS)
    assert measured > 50


def test_numbers_come_back_from_a_block_as_they_were():
    values = np.random.default_rng(0).random(200)
    kept = BlockCache("toy")
    kept.rows(Block("a", table, (values,)))
    assert (kept.rows(Block("a", table, (values,)))["value"].to_numpy() == values.round(15)).all()


def table(values: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"value": values})


def test_seconds_are_those_of_all_blocks_once_whenever_they_were_measured():
    one, two = BlockCache("toy"), BlockCache("toy")
    one.rows(Block("a", measure, (1.0,)))
    two.rows(Block("a", measure, (1.0,)))
    assert one.took == two.took and sum(one.took.values()) > 0
    rows = two.rows(Block("a", measure, (1.0,), {"seed": 7}))
    assert two.took == one.took and rows["seed"].tolist() == [7] and list(rows) == ["value", "name", "n", "seed"]
    two.rows(Block("b", measure, (2.0,)))
    assert len(two.took) == 2


@dataclass
class Thing:
    number: int
    tasks: tuple


def test_a_fingerprint_is_that_of_the_content():
    torch.manual_seed(0)
    nets = nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), nn.Dropout(0.2)
    values = [
        *nets,
        Thing(1, (GENDER,)),
        Thing(1, (AGE_BAND,)),
        Thing(2, (GENDER,)),
        None,
        0,
        0.0,
        False,
        "0",
        (0,),
    ]
    values += [
        {"a": 0},
        {"b": 0},
        np.zeros(2),
        np.zeros(2, np.float32),
        np.zeros((2, 1)),
        measure,
        table,
        Thing,
    ]
    values += [pd.DataFrame({"a": [0]}), pd.DataFrame({"a": [None]}), GENDER, AGE_BAND]
    found = [fingerprint(value) for value in values]
    assert len(set(found)) == len(found)
    assert [fingerprint(value) for value in values] == found
    assert fingerprint(Thing(1, (GENDER,))) == found[4] and fingerprint([0]) == fingerprint((0,))
    for value in (lambda: 0, partial(measure, 1.0), object()):
        with pytest.raises(ConfigError, match="cannot be told"):
            fingerprint(value)


def toy(seeds: tuple[int, ...] = (0, 1), *, stop: int = -1) -> Study:
    """A toy study."""
    blocks = [Block(f"{seed}", stopping if seed == stop else measure, (float(seed),)) for seed in seeds]
    return Study("toy", what="a toy", data="nothing", blocks=blocks)


def stopping(value: float) -> pd.DataFrame:
    raise KeyboardInterrupt


def test_a_stopped_run_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("facekit.records.REFERENCE", tmp_path)
    run = study(toy, photos=False)
    with pytest.raises(KeyboardInterrupt):
        run((0, 1, 2), stop=2)
    assert CALLS == [0, 1] and not list(tmp_path.iterdir()), "nothing is recorded before all is measured"
    assert run((0, 1, 2)) == 0
    assert CALLS == [0, 1, 2]
    assert recorded("toy", tmp_path).rows["seed"].tolist() == [0, 1, 2]
    assert "toy.json: 3 rows" in capsys.readouterr().out


def test_processes_share_the_work(tmp_path, monkeypatch):
    """Two at once with seeds of their own; what they measured is found by a third, which measures nothing."""
    code = (
        "import sys; from pathlib import Path; import facekit.records; facekit.records.REFERENCE = Path(sys.argv[1])\n"
        "import test_runner; from facekit.studies.runner import study\n"
        "study(test_runner.toy, photos=False)(tuple(map(int, sys.argv[2].split(','))))"
    )
    places = os.pathsep.join([str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "studies")])
    environment = os.environ | {"PYTHONPATH": places}
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), seeds], env=environment)
        for seeds in ("0,2", "1,3")
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    monkeypatch.setattr("facekit.records.REFERENCE", tmp_path)
    study(toy, photos=False)((0, 1, 2, 3))
    assert CALLS == []
    assert recorded("toy", tmp_path).rows["value"].tolist() == [0, 1, 2, 3]


def test_several_records_of_one_study_have_the_same_command(tmp_path, monkeypatch):
    monkeypatch.setattr("facekit.records.REFERENCE", tmp_path)
    ended = []

    @study(photos=False, command="features toy", then=lambda: ended.append(len(list(tmp_path.iterdir()))))
    def several(seeds: tuple[int, ...] = (0,)) -> list[Study]:
        blocks = [Block("a", measure, (1.0,))]
        return [Study(name, what="a toy", data="nothing", blocks=blocks) for name in ("one", "two")]

    assert several() == 0 and ended == [2]
    commands = {recorded(name, tmp_path).about["command"] for name in ("one", "two")}
    assert commands == {"python -m facekit features toy --seeds [0]"}


def test_a_command_line_names_what_is_not_usual_and_the_seeds():
    def record(n: int = 3, names: tuple[str, ...] = ("a",), flag: bool = True, source=None, seeds: tuple = (0, 1)):
        """Toy."""

    assert command_line("record toy", record) == "python -m facekit record toy --seeds [0,1]"
    line = command_line("record toy", record, 4, ("b", "c"), flag=False, source=ROOT, seeds=[2])
    assert line == """python -m facekit record toy --n 4 --names '["b","c"]' --flag false --seeds [2]"""


def test_a_template_takes_just_its_fields(tmp_path):
    template = tmp_path / "card.md"
    template.write_text("{a} and {b[c]} and {a:>3}")
    assert fill(template, a=1, b={"c": 2}) == "1 and 2 and   1"
    with pytest.raises(ConfigError, match="card.md.* b,"):
        fill(template, a=1)
    with pytest.raises(ConfigError, match="no field"):
        fill(template, a=1, b={"c": 2}, d=3)


def test_a_study_is_found_by_its_file_without_loading_any():
    code = (
        "import sys, json; from facekit.commands.cli import subcommands; print(json.dumps([*subcommands('record')])); "
    )
    code += "assert not {'torch', 'numpy', 'pandas', 'facekit.studies.probe'} & set(sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    studies = "probe stages rates ladder alignment sharing joint last_stage codings dial mini mini_portraits reference"
    assert set(json.loads(found)) == {
        *studies.split(),
        "adaptation",
        "adaptation_portraits",
        "best",
        "contrastive",
        "fairness",
        "networks",
        "selection",
        "selftaught",
        "selftaught_real",
        "utkface",
        "domains",
        "domains_real",
        "card",
        "show",
    }


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_study_says_its_record_and_needs_photos_before_anything_else(name, monkeypatch, capsys):
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert "    Args:\n" in text and subcommands("record")[name] == f"facekit.studies.{name}:record"
    if "@study(photos=False)" not in text:  # of drawn pictures
        assert main(["record", name]) == 2
        assert "FACEKIT_PROFILE=full" in capsys.readouterr().err
