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
    from facekit.data.sets import FeatureSet, LabelledSet
    from facekit.models.backbones.base import Backbone
    from facekit.models.heads import Classifier
    from facekit.models.multitask import Stack
    from facekit.models.staged import Staged
    from facekit.tasks import Task
    from facekit.training.config import TrainConfig
    from facekit.training.methods import Method
    from facekit.training.plans import Plan

    Tasks = Sequence[Task] | Mapping[str, Sequence[Task]]


ALONE = None  # the name of one set that has none


@dataclass(frozen=True)
class Parameter:
    """What a method can be told. default: used where nothing is said, None where something must be. about: one line."""

    default: Any
    about: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method. name: as tables, figures and records show it; `key` is how it is typed. about: one line.

    acts: `before` training (on rows, weights or features), `during` it (as a Method in the loop) or `after` it (on
    scores). sets: the sets that it learns from, in words. names: by which it is given them: () where it is one set
    without a name, None where there may be any, one a domain. unlabelled: those of the names whose labels it does not
    look at, `ALONE` for the one set. labels: what of them it needs. parameters: by name.

    Those that act during training say how: `loss` makes the Method of `tasks` (of several sets by name), `period`
    (steps an epoch), the network, `groups` if it minds any, and the parameters, and `network` what it trains of `stack`
    or `backbone`, `tasks` and the parameters, a Classifier where there is none; each gets those that it names. plan:
    where nobody names one. faster: stages that learn so many times faster than it says. learn: for a probe, (rows,
    tasks, seed) to a network.
    """

    name: str
    about: str
    acts: Literal["before", "during", "after"]
    sets: str = "one set"
    names: tuple[str, ...] | None = ()
    unlabelled: tuple[str | None, ...] = ()
    labels: str = "of every task"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    loss: Callable[..., Method] | None = None
    network: Callable[..., Staged] | None = None
    plan: str = "probe"
    faster: Mapping[str, float] = field(default_factory=dict)
    learn: Callable[[FeatureSet, Sequence[Task], int], Classifier] | None = None

    @property
    def key(self) -> str:
        """The name as the command line takes it: `cross-stitch` is `cross_stitch`."""
        return re.sub(r"\W+", "_", self.name)

    @property
    def trains(self) -> bool:
        """Whether it acts in the training loop, so that the command line can train with it."""
        return self.loss is not None

    @property
    def grouped(self) -> bool:
        """Whether its Method minds groups of rows, and so has to be told them."""
        return self.loss is not None and "groups" in signature(self.loss).parameters

    def check_sets(self, given: Sequence[str]) -> None:
        """Raises ConfigError unless it learns from sets of these names, none standing for one set without a name."""
        if given if self.names is None else set(given) == set(self.names):
            return
        wanted = "each by a name" if self.names is None else ", ".join(self.names) or "it without a name"
        raise ConfigError(
            f"the method {self.key} learns from {self.sets}; give {wanted}, not "
            f"{', '.join(given) or 'one without a name'}."
        )

    def check_groups(self, groups: Task | None) -> None:
        """Raises ConfigError where groups are missing, or given to a method that does not look at them."""
        if self.grouped and groups is None:
            raise ConfigError(f"the method {self.key} minds groups of rows; name the label column with them as groups.")
        if groups is not None and not self.grouped:
            raise ConfigError(f"the method {self.key} looks at no groups; leave {groups.name} out.")

    def runs(self, sizes: Mapping[Any, int], config: TrainConfig) -> Iterator[tuple[list, TrainConfig]]:
        """For each network that is trained: the names of its sets, and how it is trained. sizes: rows of all sets."""
        yield list(sizes), config

    def planned(self, net: Staged, name: str | None, epochs: int, lr: float, **given: Any) -> Plan:
        """The plan by its name, that of the row if there is none, or the method's own. lr: peak rate of what is new."""
        from facekit.training.plans import plan

        return plan(name or self.plan, list(net.stages), epochs, lr).faster(self.faster)

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
        tasks: Tasks,
        steps: int,
        backbone: Backbone | None = None,
        sets: Mapping[Any, LabelledSet] | None = None,
        groups: Task | None = None,
        /,
        **given: Any,
    ) -> tuple[Staged, Method]:
        """The network and the Method of this row. stack, classifier: make what the network is built from, one of them
        is called. tasks: of several sets by name. steps: in an epoch. backbone: None where the inputs are features.
        sets: what is learnt from. groups: of rows, for a method that minds them. given: parameters. Raises ConfigError
        where the row does not train like that.
        """
        if self.loss is None:
            raise ConfigError(f"{self.key} acts {self.acts} training, on {self.sets}; it is used from Python.")
        self.check_groups(groups)
        each = [task for part in tasks.values() for task in part] if isinstance(tasks, Mapping) else tasks
        if places := [task.name for task in each if task.needs_map]:
            raise ConfigError(
                f"{', '.join(places)} asks where things are, which the embedding that {self.key} learns from forgets; "
                "use a method of multi-domain learning, such as parallel_adapters."
            )
        known: dict[str, Any] = {"tasks": tasks, "period": steps, "backbone": backbone, "sets": sets, "groups": groups}
        known |= self.checked(given)
        net = self._network(stack, classifier, known)
        return net, _called(self.loss, known | {"net": net})

    def build(
        self,
        stack: Callable[[], Stack],
        classifier: Callable[[], Staged],
        tasks: Tasks,
        backbone: Backbone | None = None,
        /,
        **given: Any,
    ) -> Staged:
        """The network of this row as `trained` begins with it; the same arguments."""
        return self._network(stack, classifier, {"tasks": tasks, "backbone": backbone, **self.checked(given)})

    def _network(self, stack: Callable[[], Stack], classifier: Callable[[], Staged], known: dict[str, Any]) -> Staged:
        """See `build`; the stack, where it is built from one, is known from then on."""
        if self.network is None:
            return classifier()
        if "stack" in signature(self.network).parameters:
            known["stack"] = stack()
        return _called(self.network, known)


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
