"""Devices: one check for every way to name one, and nothing in float64 on a device that has none."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import COLOUR, LEVEL, faces, features, probe, trunk
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from facekit import settings
from facekit.commands.cli import main
from facekit.data import sets
from facekit.errors import ConfigError
from facekit.models.embedding import embed
from facekit.models.multitask import SharedNet, mlp, relative_distances
from facekit.tasks import AGE_BAND, Task
from facekit.tasks.task import KINDS
from facekit.tasks.texts import beam_search
from facekit.training import batches as batches_module
from facekit.training.batches import AHEAD, Batches, _resident
from facekit.training.config import TrainConfig
from facekit.training.distributed import ProcessGroup, world
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import plan
from facekit.training.scoring import validate

NOWHERE = [
    "cuda:7",
    "cuda:-1",
    "gpu",
    "GPU",
    "meta",
    "mps:3",
    "xpu:9",
    "cpu:4",
    "hpu",
    "1",
    " ",
    "cuda:" + "9" * 30,
    "ü\n",
]
if not torch.cuda.is_available():
    NOWHERE += ["cuda", "cuda:0"]


@pytest.mark.parametrize("name", NOWHERE)
def test_a_device_that_is_not_here_is_refused_however_it_is_named(name, monkeypatch):
    model, data = probe(), features(8)
    recipe = plan("probe", ["heads"], 1, 1.0)
    ways = [
        lambda: settings.device(name),
        lambda: world(name),
        lambda: predict(model, data, device=name),
        lambda: fit(model, Supervised([COLOUR]), data, None, recipe, TrainConfig(device=name)),
        lambda: embed(trunk(), None, device=name),
    ]
    for way in ways:
        with pytest.raises(ConfigError, match="^device is .*which torch does not find here; use cpu"):
            way()
    monkeypatch.setenv("FACEKIT_DEVICE", name)
    with pytest.raises(ConfigError, match="^FACEKIT_DEVICE is .*use cpu"):
        settings.device()
    assert settings.device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["mps", "cuda:7", ""])
def test_commands_say_so_in_one_line(name, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(f"device: '{name}'\n")
    for arguments in (["--device", name], ["--config", str(tmp_path / "run.yaml")]):
        assert main(["train", *arguments, "--out", str(tmp_path / "out")]) == 2
        said = f"error: device is {name!r}, which torch does not find here" if name else "error: device is empty"
        assert capsys.readouterr().err.startswith(said)
    assert not (tmp_path / "out").exists()


def test_what_is_there_can_be_named(monkeypatch):
    there = iter([torch.device("mps")] * 9)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: next(there))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert [str(settings.device(name)) for name in ("mps", "mps:1", torch.device("cpu"))] == ["mps", "mps:1", "cpu"]
    with pytest.raises(ConfigError, match="use cpu, mps, mps:0, mps:1"):
        settings.device("cuda")
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    assert settings.device() == torch.device("cpu"), "only where it was measured is it the default"


FAR = torch.device("meta")  # a device that every torch knows; what is computed on it, is computed on the CPU


class Far(torch.Tensor):
    """A tensor on a device that computes as the CPU does, but not in float64."""

    @staticmethod
    def __new__(cls, inner):
        how = {"strides": inner.stride(), "dtype": inner.dtype, "device": FAR}
        far = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **how)
        far.inner = inner
        return far

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return far(function, args, dict(kwargs or {}))

    def new_tensor(self, data):
        return Far(torch.tensor(data, dtype=self.dtype))  # torch makes it where no function of ours is asked


class Elsewhere(TorchDispatchMode):
    """Makes new tensors on the device, too."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        return far(function, args, kwargs) if Far in types or kwargs.get("device") == FAR else function(*args, **kwargs)


def far(function, args, kwargs):
    """Calls a function of torch on tensors of which some are far."""
    device = kwargs.get("device")
    if device is not None:
        kwargs["device"] = torch.device("cpu")
    args, kwargs = tree_map(lambda value: value.inner if isinstance(value, Far) else value, (tuple(args), kwargs))

    def wrap(value):
        if isinstance(value, torch.Tensor) and value.dtype == torch.float64:
            raise TypeError(f"{function} makes float64 on the device")
        return Far(value) if isinstance(value, torch.Tensor) else value

    found = function(*args, **kwargs)
    return found if device is not None and torch.device(device).type == "cpu" else tree_map(wrap, found)


def test_the_device_of_these_tests_has_no_float64():
    there = Far(torch.ones(3))
    assert there.cpu().double().sum() == 3 and there.sum().item() == 3 and there.device == FAR
    with pytest.raises(TypeError, match="float64 on the device"):
        there.double()
    with Elsewhere():
        assert (
            isinstance(torch.zeros(2, device=there.device), Far) and torch.zeros(2, device="cpu").device.type == "cpu"
        )
        with pytest.raises(TypeError, match="float64 on the device"):
            torch.zeros(2, device=there.device, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_no_kind_of_task_computes_in_float64(kind):
    classes = tuple("abcdefghi") if KINDS[kind].needs_classes else ()
    task = Task("what", kind, classes, AGE_BAND.midpoints if kind in ("expectation", "ordinal") else ())
    data = pd.DataFrame({"what": list("abca") if classes else [1.0, 2, 3, np.nan]})
    for column, value in zip(task.columns, (0.1, 0.2, 0.8, 0.9), strict=False):
        data[column] = value if len(task.columns) > 1 else data["what"]
    targets = task.encode(data if len(task.columns) > 1 else data["what"])
    outputs = torch.randn(*((4, 7) if kind == "string" else (4,)), task.n_outputs)
    loss, answer, blind = task.loss(outputs, targets).item(), task.predict(outputs), task.blind_loss(targets)
    with Elsewhere():
        assert task.loss(Far(outputs), Far(targets)).item() == pytest.approx(loss)
        assert torch.equal(task.predict(Far(outputs)).cpu(), answer)
        assert task.blind_loss(Far(targets)) == pytest.approx(blind)
        if kind == "string":
            assert torch.equal(beam_search(Far(outputs)).inner, beam_search(outputs))


class Away(Supervised):
    """Its network is on the device."""

    def outputs(self, model, batch):
        return {name: Far(values) for name, values in model(batch.inputs).items()}


@torch.no_grad()
def test_nor_does_anything_else_that_looks_at_outputs_or_weights():
    net, data = SharedNet(mlp(6, (4,)), (COLOUR, LEVEL), 0).start_apart(), features(30)
    tasks = net.tasks
    batches = Batches(data, tasks, 7, shuffle=False)
    here, distances = validate(net, Supervised(tasks), batches, "fp32", world("cpu")), relative_distances(net)
    with Elsewhere():
        assert validate(net, Away(tasks), batches, "fp32", world("cpu")) == here
        for module in net.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                module.register_parameter(name, nn.Parameter(Far(parameter.detach()), requires_grad=False))
        assert relative_distances(net).equals(distances)
    assert _resident(np.zeros((2, 3)), FAR)[0].dtype == torch.float32


def test_a_set_that_is_too_large_for_the_device_comes_to_it_batch_by_batch(tmp_path, monkeypatch):
    data = faces(23)
    stored = type(data).load(data.save(tmp_path / "set"))
    monkeypatch.setattr(sets, "COPIED", 0)
    rows = np.arange(22, -1, -2)
    part, whole = stored.select(rows), data.select(rows)
    here = list(Batches(whole, [COLOUR], 5).epoch(1))
    with Elsewhere():
        resident = Batches(part, [COLOUR], 5, device=FAR)
        monkeypatch.setattr(batches_module, "_resident", lambda array, device: (torch.from_numpy(array.source), rows))
        large = Batches(part, [COLOUR], 5, device=FAR)
        for batches, where in ((resident, FAR), (large, torch.device("cpu"))):
            assert batches.inputs.device == where and batches.ahead == (AHEAD if batches is large else 0)
            for one, other in zip(here, batches.epoch(1), strict=True):
                assert other.inputs.device == other.targets["colour"].device == FAR
                assert torch.equal(one.inputs, other.inputs.cpu()) and one.rows.tolist() == other.rows.tolist()
                assert torch.equal(one.targets["colour"], other.targets["colour"].cpu())


def test_a_process_without_a_row_of_validation_adds_nothing():
    model, data, sums = probe(), features(1), []

    class Part(ProcessGroup):
        def sum(self, values):
            sums.append(values)
            return sum(sums)

    scores = [
        validate(
            model, Supervised([COLOUR]), Batches(data, [COLOUR], 8, shuffle=False, rank=rank, world=2), "fp32", part
        )
        for rank, part in ((0, Part(0, 2, torch.device("cpu"))), (1, Part(1, 2, torch.device("cpu"))))
    ]
    assert scores[0] == scores[1] and sums[1].tolist() == [[0, 0, 0]]
