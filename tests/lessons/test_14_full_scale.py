"""Lesson 14: what is built by hand is what torch and facekit compute, its programs, and its figures."""

from __future__ import annotations

import ast
import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, features
from torch import nn

from facekit.course import lesson
from facekit.errors import DataError
from facekit.experiments import speed
from facekit.show import plots

LESSON = lesson("14")
FIGURES, SCALE = LESSON.figures, LESSON.load("scale")
BITS = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}


def by_hand(*names: str, **more: object) -> dict:
    """Functions of the lesson's source, and what else they see."""
    tree = ast.parse(LESSON.source.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    space: dict = {"math": math, "torch": torch, "nn": nn, "F": F, "dist": dist} | more
    exec(compile(ast.Module(found, []), "lesson 14", "exec"), space)
    return space


@given(st.floats(-(2.0**15), 2.0**15, width=32).filter(lambda x: abs(x) > 2.0**-14), st.sampled_from(list(BITS)))
def test_rounding_by_hand_is_that_of_torch(x, kind):
    assert by_hand("gap", "rounded")["rounded"](x, BITS[kind]) == torch.tensor(x).to(kind).item()


@pytest.mark.parametrize("bits", BITS.values())
def test_the_gap_is_the_way_to_the_next_number(bits):
    gap = by_hand("gap")["gap"]
    for x in (1.0, 1.5, 255.0, 256.0, -900.0, 0.05):
        assert gap(x, bits) == 2.0 ** (math.frexp(x)[1] - 1 - bits)


def test_a_sum_in_bfloat16_stands_still_and_a_weight_does_not_move():
    repeated = by_hand("repeated")["repeated"]
    assert repeated(300, torch.bfloat16) == {"sum": 256.0, "weight": 1.0}
    assert repeated(300, torch.float32)["sum"] == 300 and repeated(300, torch.float32)["weight"] == pytest.approx(
        0.7, abs=1e-4
    )


def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(96, 512, generator=generator), torch.randint(7, (96,), generator=generator)


class Others:
    """Stands for `torch.distributed` in one of two processes: the other one's gradients are computed here."""

    def __init__(self, gradients: list[torch.Tensor]) -> None:
        self.gradients = iter(gradients)

    def all_reduce(self, gradient: torch.Tensor) -> None:
        gradient += next(self.gradients)


def test_the_mean_over_processes_is_the_gradient_of_the_whole_batch():
    """One step of process 0 with the gradients of process 1 comes to the step of one process with all rows."""
    inputs, classes = rows()
    whole = by_hand("train")["train"](inputs, classes, batch=96)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 7))
    second = torch.randperm(96)[1::2]
    F.cross_entropy(net(inputs[second]), classes[second]).backward()
    others = Others([weight.grad for weight in net.parameters()])
    half = by_hand("train", dist=others)["train"](inputs, classes, batch=96, rank=0, size=2)
    for mine, theirs in zip(half.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)
    alone = by_hand("train")["train"](inputs, classes, batch=96, rank=0, size=2, average=False)
    assert not torch.allclose(alone[0].weight, whole[0].weight, atol=1e-4)


def train(features, classes, rank=0, size=1, average=True):
    net = nn.Linear(3, 2)
    nn.init.constant_(net.weight, float(features.sum()) + rank * (not average))
    return net


def test_the_program_of_a_function_runs_and_leaves_the_weights_of_each_process():
    """As one process, which needs no torchrun; two are in `make test` with the lesson itself."""
    folder = SCALE.folder()
    torch.save((torch.ones(1, 3), torch.zeros(1)), folder / "rows.pt")
    start = "import os\nos.environ |= dict(RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1', MASTER_PORT='0')\n"
    (folder / "one.py").write_text(start + SCALE.program(train))
    assert SCALE.python(folder, "one.py") == "1 processes have trained"
    for average in (True, False):
        assert torch.load(folder / f"0_{average}.pt")["weight"].eq(3).all()


def test_a_program_that_fails_says_why():
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        SCALE.python(SCALE.folder(), "-c 1/0")


def test_the_program_gets_this_python_and_the_switch_for_windows(tmp_path, monkeypatch):
    (tmp_path / "told.py").write_text("import os, sys\nprint(sys.executable, os.environ['USE_LIBUV'])")
    assert SCALE.python(tmp_path, "told.py") == f"{sys.executable} 1"
    monkeypatch.setattr(SCALE.os, "name", "nt")
    with monkeypatch.context() as patch:
        patch.setattr(
            SCALE.subprocess, "run", lambda *args, env, **more: SimpleNamespace(returncode=0, stdout=str(env))
        )
        assert "'USE_LIBUV': '0'" in SCALE.python(tmp_path, "told.py")


def test_the_network_is_the_same_each_time_and_draws_nothing_from_the_caller():
    torch.manual_seed(7)
    wanted = torch.rand(2)
    torch.manual_seed(7)
    one, other = SCALE.network([COLOUR]), SCALE.network([COLOUR])
    assert torch.equal(torch.rand(2), wanted) and one.training
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_autocast_follows_float32_and_weights_in_bfloat16_lag_behind():
    found = SCALE.losses_by_precision(*rows())
    last = {name: np.mean(values[-50:]) for name, values in found.items()}
    assert last["autocast to bfloat16"] == pytest.approx(last["float32"], abs=0.02)
    assert last["weights in bfloat16"] > last["float32"] + 0.1


def test_accuracy_is_the_share_of_rows_with_the_highest_logit():
    data = features(40, 8)
    net = nn.Linear(8, len(COLOUR.classes))
    truth = COLOUR.encode(data.labels["colour"]).numpy()
    wanted = np.mean(net(torch.tensor(data.features)).argmax(1).numpy() == truth)
    assert SCALE.accuracy(net, data, COLOUR) == pytest.approx(wanted)


# --- figures ----------------------------------------------------------------------------------------------------------

STEPS = pd.DataFrame(
    {"row": [speed.PLAIN, speed.LAYOUT, speed.ALL], "unit": "photos/s", "value": [10.0, 15, 20], "times": [1.0, 1.5, 2]}
)


def texts(axis) -> list[str]:
    return [text.get_text() for text in axis.texts]


def test_the_switches_tell_their_times_and_what_was_not_measured():
    fig = FIGURES.switches(STEPS, {speed.LAYOUT: 1.2}, {"recorded": STEPS.iloc[:2], "one GPU": None})
    here, recorded, gpu = fig.axes
    names = [label.get_text().replace("\n", " ") for label in here.get_yticklabels()]
    assert names[0] == speed.PLAIN and set(speed.SWITCHES) < set(names) and names[-1] == speed.ALL
    told = dict(zip(names, texts(here), strict=True))
    assert told[speed.LAYOUT] == "1.5" and told[speed.ALL] == "2.0" and told[speed.COMPILE] == "not measured"
    assert dict(zip(names, texts(recorded), strict=True))[speed.ALL] == "not measured"
    assert texts(gpu) == ["not measured"]
    [points] = [line for line in here.lines if line.get_label() == "your guess"]
    known = ~np.isnan(points.get_xdata())
    assert points.get_xdata()[known].tolist() == [1.2] and names[points.get_ydata()[known][0]] == speed.LAYOUT
    assert plots.png(fig) and plots.png(FIGURES.switches(STEPS, None, {}))


def test_a_record_that_there_is_not_was_not_measured(monkeypatch):
    def none(name):
        raise DataError(name)

    monkeypatch.setattr(FIGURES, "recorded", none)
    assert set(FIGURES.recorded_steps().values()) == {None}
    kept = pd.concat([STEPS.assign(part="mini"), STEPS.assign(part="embedding")])
    monkeypatch.setattr(FIGURES, "recorded", lambda name: SimpleNamespace(rows=kept, about={"hardware": "a machine"}))
    found = FIGURES.recorded_steps()
    assert [len(rows) for rows in found.values()] == [3, 3] and all("a machine" in title for title in found)
    kept = kept[kept["part"] == "embedding"]
    assert set(FIGURES.recorded_steps().values()) == {None}


def event(key: str, own: float, whole: float = 0.0, calls: int = 1, device: float = 0.0) -> SimpleNamespace:
    return SimpleNamespace(
        key=key, self_cpu_time_total=own, cpu_time_total=whole, count=calls, self_device_time_total=device
    )


def test_parts_are_shown_with_their_whole_time_and_operations_with_their_own():
    events = [event("batch", 1.0, 40_000.0), event("forward", 2.0, 60_000.0)]
    events += [event(f"aten::op_{n}", 1000.0 * n, calls=n) for n in range(1, 10)]
    left, right = FIGURES.parts({"one": events}).axes
    assert [bar.get_width() for bar in left.patches] == [40, 60, 0, 0, 0]
    assert [bar.get_width() for bar in right.patches] == [9, 8, 7, 6, 5, 4]
    assert right.get_yticklabels()[0].get_text() == "op_9, 9 calls"
    events.append(event("aten::one", 1.0, device=90_000.0))
    fig = FIGURES.parts({"one": events, "two": events})
    assert fig.axes[1].get_yticklabels()[0].get_text() == "one, 1 call" and plots.png(fig)


def test_curves_are_means_of_some_steps():
    axis = FIGURES.curves({"a": [1.0] * 25 + [3.0] * 25 + [9.0] * 7}).axes[0]
    assert axis.lines[0].get_ydata().tolist() == [1, 3]
