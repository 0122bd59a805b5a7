"""Two processes come to what one comes to, with every method of the table, one set or several, labels or none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import test_training_sets
import torch
import torch.distributed as dist
from processes import assert_same, of_two
from tiny import COLOUR, LEVEL, SIDE, ChainNet, faces, features, trunk
from torch import nn

from facekit.models.build import Base
from facekit.models.embedding import state_hash
from facekit.tasks import Task
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.transfer.table import ALONE, table

TRAINED = {key: each for key, each in table().items() if each.trains}
TOWN = Task("town", "multiclass", ("A", "B"))
# What two processes do otherwise, and why: facekit.training.distributed says so, too.
OTHERWISE = {
    "contrastive": "a photo is told from those of its own process, and each process draws views of its own",
    "coral_loss": "covariances are those of the rows of a process",
    "kernel_means": "distances are those between the rows of a process",
} | {key: "BatchNorm by the rows of a process" for key, each in TRAINED.items() if getattr(each, "own_norm", False)}


class PlainNet(ChainNet):
    """The chain without BatchNorm."""

    name = "plain"

    def __init__(self) -> None:
        super().__init__()
        for part in (self.stem, self.block, self.linear):
            for at, module in enumerate(part):
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    part[at] = nn.Identity()


def sparse(data, seed: int):
    """The set with groups and without two labels in five, so that processes know of different numbers of labels."""
    rng = np.random.default_rng(seed)
    labels = data.labels.assign(town=np.where(rng.random(len(data)) < 0.7, "A", "B"))
    for task in (COLOUR, SIDE, LEVEL):
        labels[task.name] = labels[task.name].where(rng.random(len(data)) < 0.6)
    return replace(data, labels=labels)


def trained(key: str) -> tuple[nn.Module, nn.Module, dict[str, torch.Tensor]]:
    """Trains two epochs by a row: network, method, and what came of both: weights, losses and metrics."""
    each = TRAINED[key]
    torch.manual_seed(0)
    photos = each.names != () or ALONE in each.unlabelled
    network = trunk(ChainNet if getattr(each, "own_norm", False) else PlainNet) if photos else None
    tasks: dict = {ALONE: (COLOUR, SIDE, LEVEL) if not photos else ()}
    if each.names is None:
        tasks = {"things": (COLOUR, LEVEL), "sides": (SIDE,)}
    elif each.names:
        tasks = {name: () if name in each.unlabelled else (COLOUR, LEVEL) for name in each.names}
    make = faces if photos else features
    sets = {name: sparse(make(n, seed=n), n) for name, n in zip(tasks, (45, 31), strict=False)}
    checks = {name: sparse(make(21, seed=i), i) for i, name in enumerate(tasks) if tasks[name]}
    base = Base(network, 6, hidden=0 if photos else 4)
    every = [task for part in tasks.values() for task in part]
    groups = TOWN if each.grouped else None
    net, method = each.trained(
        base.stack, lambda: base.classifier(every), tasks.get(ALONE, tasks), 3, network, sets, groups
    )
    plan = each.planned(net, None if photos else "everything", 2, 0.02)
    config = TrainConfig(16, device="cpu")
    history = fit(net, method, sets.get(ALONE, sets), checks.get(ALONE, checks) or None, plan, config).history
    values = {**net.state_dict(), **{f"method.{name}": value for name, value in method.state_dict().items()}}
    values |= {name: torch.tensor(history[name].to_numpy()) for name in history if "loss" in name or "accuracy" in name}
    return net, method, {name: value.detach().clone().contiguous() for name, value in values.items()}


SCRIPT = """
import sys
import torch
torch.set_num_threads(1)
sys.path[:0] = [sys.argv[1] + part for part in ("", "/models", "/training", "/transfer")]
import test_training_processes as own
from safetensors.torch import save_file
from facekit.commands.cli import end
from facekit.training.distributed import process_group
with process_group("cpu") as world:
    values = {}
    for key in own.TRAINED:
        net, method, found = own.trained(key)
        values |= {f"{key}.{name}": value for name, value in found.items()}
        own.assert_the_same_everywhere(key, net, method)
    found, nets = own.test_training_sets.train_all()
    own.assert_the_same_everywhere("several sets", *nets)
    values |= {f"several sets.{name}": value for name, value in found.items()}
    if world.first:
        save_file(values, sys.argv[2])
end(0)
"""


def assert_the_same_everywhere(key: str, *modules: nn.Module) -> None:
    """That all processes end with the same weights."""
    mine = [state_hash(module) for module in modules]
    hashes: list = [None] * dist.get_world_size()
    dist.all_gather_object(hashes, mine)
    assert all(each == mine for each in hashes), f"{key}: processes end with different weights"


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> dict[str, torch.Tensor]:
    return of_two(SCRIPT, tmp_path_factory.mktemp("two"))


def of(key: str, two: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What one of the trainings gave."""
    return {name.removeprefix(f"{key}."): value for name, value in two.items() if name.startswith(f"{key}.")}


@pytest.mark.parametrize("key", TRAINED)
def test_two_processes_come_to_what_one_comes_to(key, two):
    alone = trained(key)[2]
    together = of(key, two)
    if key in OTHERWISE:
        assert set(alone) == set(together) and not any(value.isnan().any() for value in together.values())
        with pytest.raises(AssertionError):  # else it would be no exception
            assert_same(together, alone)
    else:
        assert_same(together, alone)


def test_several_sets_in_turn_and_together_by_two_processes_are_those_of_one(two):
    assert_same(of("several sets", two), test_training_sets.train_all()[0])
