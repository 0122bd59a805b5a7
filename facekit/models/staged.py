"""What every network that is trained has in common: parts with names in order, each trained or frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

from torch import nn

from facekit.errors import ConfigError
from facekit.tasks import Task


class Staged(nn.Module):
    """Base of backbones, classifiers and networks for several tasks or domains; a subclass says what its `stages` are.

    A stage may lie in a part that is Staged itself, as a classifier's lie in its backbone: both then know it as frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        self._frozen: frozenset[str] = frozenset()

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """Stage name to its modules, from the input to the output; every parameter is in exactly one."""
        raise NotImplementedError

    @property
    def frozen(self) -> frozenset[str]:
        """Names of the stages that do not change in training."""
        parts = [part for part in self.children() if isinstance(part, Staged)]
        return self._frozen.difference(*(part.stages for part in parts)).union(*(part.frozen for part in parts))

    def freeze(self, names: Sequence[str] | None = None) -> None:
        """Freezes exactly these stages (None: all) and unfreezes the others.

        Frozen means that nothing in the stage changes: its weights get no gradient, its BatchNorm statistics do not
        move and its dropout is off, also after `train()`. Raises ConfigError for an unknown stage.
        """
        stages = self.stages
        chosen = frozenset(stages if names is None else names)
        if unknown := chosen - set(stages):
            raise ConfigError(f"this network has no stage {sorted(unknown)}; its stages are {list(stages)}.")
        for part in self.children():
            if isinstance(part, Staged):
                part.freeze([name for name in part.stages if name in chosen])
        for name, modules in stages.items():
            for module in modules:
                module.requires_grad_(name not in chosen)
        self._frozen = chosen
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As `nn.Module.train`, but frozen stages stay in evaluation mode."""
        super().train(mode)
        for name in self.frozen if self._frozen else ():
            for module in self.stages[name]:
                module.train(False)
        return self

    def only(self, name: str) -> nn.Module:
        """The network as it answers for one of the sets that it learnt from; itself where it answers all alike."""
        return self

    def stage_parameters(self, stage: str) -> list[nn.Parameter]:
        """The parameters of a stage, frozen or not."""
        return [p for module in self.stages[stage] for p in module.parameters()]


def by_task(tasks: Sequence[Task], make: Callable[[Task], nn.Module]) -> nn.ModuleDict:
    """A module a task, under its name; raises ConfigError for no task, one twice, and a name that torch cannot use."""
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"a network needs at least one task and each only once, got {names}.")
    try:
        return nn.ModuleDict({name: make(task) for name, task in zip(names, tasks, strict=True)})
    except KeyError as error:  # torch's own rule: no dots, no names of ModuleDict's attributes
        raise ConfigError(f"a task cannot be named like this ({error}); choose another column name.") from None
