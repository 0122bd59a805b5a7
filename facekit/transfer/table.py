"""The table of methods: each method's file has its rows in `ROWS`; command line, docs, comparisons are made of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, Literal

from facekit.errors import ConfigError

if TYPE_CHECKING:  # the rows of methods that need no network can be read without torch
    from facekit.data.sets import FeatureSet
    from facekit.models.heads import Classifier
    from facekit.models.multitask import Stack
    from facekit.models.staged import Staged
    from facekit.tasks import Task
    from facekit.training.methods import Method


@dataclass(frozen=True)
class Parameter:
    """What a method can be told. default: used where nothing is said, None where something must be. about: one line."""

    default: Any
    about: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method. name: as tables, figures and records show it; `key` is how it is typed. about: one line.

    acts: `before` training (on rows, weights or features), `during` it (as a Method in the loop) or `after` it (on
    scores). sets: the sets that it learns from. labels: what of them it needs. parameters: by name.

    Those that act during training on one labelled set say how: `loss` makes the Method of `tasks`, `period` (steps an
    epoch) and the parameters, and `network` what it trains of `stack`, `tasks` and the parameters, a Classifier where
    there is none; each gets those that it names. learn: for a probe, (rows, tasks, seed) to a classifier.
    """

    name: str
    about: str
    acts: Literal["before", "during", "after"]
    sets: str = "one set"
    labels: str = "of every task"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    loss: Callable[..., Method] | None = None
    network: Callable[..., Staged] | None = None
    learn: Callable[[FeatureSet, Sequence[Task], int], Classifier] | None = None

    @property
    def key(self) -> str:
        """The name as the command line takes it: `cross-stitch` is `cross_stitch`."""
        return re.sub(r"\W+", "_", self.name)

    def checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters, with those that were given in the type of their defaults; raises ConfigError for others."""
        if unknown := sorted(set(given) - set(self.parameters)):
            known = ", ".join(self.parameters) or "none"
            raise ConfigError(f"the method {self.key} has no parameter {', '.join(unknown)}; its parameters: {known}.")
        found = {name: parameter.default for name, parameter in self.parameters.items()}
        for name, value in given.items():
            kind = type(found[name])
            try:
                found[name] = kind(value)
            except (TypeError, ValueError):
                raise ConfigError(
                    f"{name} of the method {self.key} must be a {kind.__name__}, got {value!r}."
                ) from None
        return found

    def trained(
        self,
        stack: Callable[[], Stack],
        classifier: Callable[[], Staged],
        tasks: Sequence[Task],
        steps: int,
        **given: Any,
    ) -> tuple[Staged, Method]:
        """The network and the Method of this row. stack, classifier: make what the network is built from, one of them
        is called. steps: in an epoch. given: parameters. Raises ConfigError where the row does not train like that.
        """
        if self.loss is None:
            raise ConfigError(f"{self.key} acts {self.acts} training, on {self.sets}; it is used from Python.")
        known = {"tasks": tasks, "period": steps, **self.checked(given)}
        net = classifier() if self.network is None else _called(self.network, known | {"stack": stack()})
        return net, _called(self.loss, known)


def _called(function: Callable[..., Any], given: Mapping[str, Any]) -> Any:
    """What a function returns, given those of the arguments that it has parameters for."""
    return function(**{name: value for name, value in given.items() if name in signature(function).parameters})


def table() -> dict[str, Row]:
    """Every method by its key, in the order of the files' names; raises ConfigError for a key that occurs twice."""
    rows: dict[str, Row] = {}
    for module in _modules():
        for row in import_module(module).ROWS:
            if row.key in rows:
                raise ConfigError(f"two methods are called {row.key!r}; rename the one in {module}.")
            rows[row.key] = row
    return rows


def row(key: str) -> Row:
    """The method of this key; raises ConfigError that lists those there are."""
    rows = table()
    if key not in rows:
        raise ConfigError(f"there is no method {key!r}; use one of {', '.join(rows)}.")
    return rows[key]


def _modules() -> Iterator[str]:
    """Names of the modules in this folder that have `ROWS`."""
    for found in iter_modules([str(Path(__file__).parent)]):
        if hasattr(import_module(f"{__package__}.{found.name}"), "ROWS"):
            yield f"{__package__}.{found.name}"
