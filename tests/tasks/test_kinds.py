"""A kind of task is one file: the table finds it, everything else works with it, and nobody else asks for kinds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import ChainNet

import facekit
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation.metrics import age_mae, confusion_matrix, evaluate
from facekit.experiments import chance
from facekit.models.adapters import Domain, DomainNet
from facekit.models.heads import Classifier, Heads
from facekit.tasks import KINDS, Task
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.transfer.probe import linear_probe
from facekit.transfer.weighting import scale_weights

PACKAGE = Path(facekit.__file__).parent
TOY = Path(__file__).with_name("counts.py")


@pytest.fixture
def counted(monkeypatch) -> Task:
    """A task of the toy kind, which is in the table for one test."""
    before = dict(KINDS)
    exec(compile(TOY.read_text(encoding="utf-8"), TOY, "exec"), {"__name__": "counts"})
    kind = KINDS.pop("count")
    assert before == KINDS
    monkeypatch.setitem(KINDS, "count", kind)
    return Task("spots", "count")


def spotted(n: int, seed: int = 0) -> FeatureSet:
    """Unit vectors, and counts whose mean grows with the first coordinate; every tenth is missing."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    counts = rng.poisson(np.exp(1 + 1.5 * x[:, 0])).astype(float)
    counts[::10] = np.nan
    return FeatureSet(x, pd.DataFrame({"spots": counts, "split": "train"}))


def test_a_new_kind_is_found_in_its_file_and_the_table_is_read_without_torch(tmp_path):
    shutil.copytree(PACKAGE / "tasks", tmp_path / "facekit" / "tasks", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("__init__.py", "errors.py"):
        shutil.copy(PACKAGE / name, tmp_path / "facekit")
    shutil.copy(TOY, tmp_path / "facekit" / "tasks")
    code = "import sys; from facekit.tasks import Task; print(Task('spots', 'count').n_outputs, 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["1", "False"]


def test_a_new_kind_is_trained_scored_and_probed_like_any_other(counted):
    train, test = spotted(400), spotted(200, seed=1)
    torch.manual_seed(0)
    model = Classifier(None, Heads(4, [counted]))
    steps = plan("probe", list(model.stages), epochs=20, lr=0.05)
    result = fit(model, Supervised([counted]), train, test, steps, TrainConfig(50))
    assert "validation_spots" in result.history and "accuracy_spots" not in result.history
    targets = test.targets([counted])["spots"]
    blind = counted.loss(counted.constant(targets).expand(200, -1), targets)
    for learnt in (model, linear_probe(train, [counted], prior=1.0)):
        assert counted.loss(predict(learnt, test)["spots"], targets) < blind - 0.3
    scores = evaluate([counted], predict(model, test), {"spots": targets}, n_boot=50)
    assert scores["metric"].tolist() == ["within_one", "mae"] and scores["n"].tolist() == [180, 180]
    worse = chance(train, test, [counted])["value"]
    assert scores["value"][0] > worse[0] and scores["value"][1] < worse[1]
    predicted = counted.predict(predict(model, test)["spots"])
    assert scores["value"][1] == pytest.approx(age_mae(counted, predicted, targets))
    with pytest.raises(ConfigError, match="needs classes"):
        confusion_matrix(counted, targets, targets)
    with pytest.raises(DataError, match="row 1, column 'spots': unknown label .*-3.*; expected a count"):
        counted.encode(pd.Series([2, -3]))


def test_a_new_kind_gets_a_head_in_a_network_of_domains(counted):
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 16, 16), dtype=np.uint8)
    data = FaceSet(images, pd.DataFrame({"spots": [0, 1, 4, None, 2, 9], "split": "train"}))
    domain = Domain("spots", (counted,))
    net = DomainNet(ChainNet(), [domain])
    assert predict(net.only("spots"), data)["spots"].shape == (6, 1)
    assert scale_weights([counted], data)["spots"] == pytest.approx(
        1 / counted.blind_loss(data.targets([counted])["spots"])
    )


def asked(tree: ast.AST) -> list[int]:
    """Lines that compare the kind of a task, or anything with the name of a kind."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            parts = [part for side in (node.left, *node.comparators) for part in ast.walk(side)]
        elif isinstance(node, ast.Match):
            parts = [part for case in node.cases for part in ast.walk(case.pattern)] + [node.subject]
        elif isinstance(node, ast.Subscript):
            parts = [node.slice]  # a table with the kinds as its keys
        else:
            continue
        # Arrays' types have a kind, too, and sets of photos, which is asked of their class.
        of_tasks = [
            part
            for part in parts
            if isinstance(part, ast.Attribute)
            and part.attr == "kind"
            and ast.unparse(part.value).split(".")[-1] not in ("dtype", "cls", "FaceSet")
        ]
        compared = [] if isinstance(node, ast.Subscript) else parts
        found += [
            node.lineno
            for part in [*of_tasks, *compared]
            if part in of_tasks or (isinstance(part, ast.Constant) and part.value in KINDS)
        ]
    return found


def test_nobody_else_asks_for_the_kind_of_a_task():
    wrong = [
        f"{path.relative_to(PACKAGE.parent)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE / "tasks"
        for line in asked(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert not wrong, f"ask the task instead, and write the answer into its kind's file: {', '.join(wrong)}"


def test_inside_the_kind_is_looked_up_in_the_table_only():
    files = {path.stem: path.read_text(encoding="utf-8") for path in (PACKAGE / "tasks").glob("*.py")}
    lines = {text.splitlines()[line - 1].strip() for text in files.values() for line in asked(ast.parse(text))}
    assert lines == {"if self.kind not in KINDS:", 'object.__setattr__(self, "__class__", KINDS[self.kind])'}


def test_the_law_finds_every_way_to_ask():
    for line in ("task.kind == 'box'", "x if kind in ('a', 'string') else y", "table[task.kind]", "self.kind != other"):
        assert asked(ast.parse(line)), line
    for line in ("a.dtype.kind in 'iu'", "about['kind'] != cls.kind", "f'{task.kind}'", "row['box']", "kind == 'auto'"):
        assert not asked(ast.parse(line)), line
