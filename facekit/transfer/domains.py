"""Training one network on several domains: how much the loss of each counts, and what to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import pandas as pd
import torch
from torch import nn

from facekit import settings
from facekit.data.sets import FaceSet, LabelledSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.models.adapters import Domain, DomainNet
from facekit.models.backbones.base import Backbone
from facekit.models.multitask import Stack
from facekit.models.staged import Staged
from facekit.tasks import Task
from facekit.training.batches import Batch, steps_of
from facekit.training.config import Recipe, TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Method, Supervised
from facekit.training.plans import Phase, Plan
from facekit.training.shares import domain_shares, rows_a_step
from facekit.transfer.table import Parameter, Row
from facekit.transfer.weighting import scale_weights


class PerDomain(Supervised):
    """Supervised learning of a DomainNet: the set that a batch comes from is its domain.

    A step's loss is the mean over its rows: Σ_d (rows of d / all rows) Σ_t weight L_t. With the trunk trained the
    domains pull at the same weights; with the trunk frozen each learns as if it were alone. Domains of the network that
    are not named are not touched.

    weights: domain to task to factor, 1 unless given (see `scale_weights`).
    """

    def __init__(self, domains: Sequence[Domain], weights: Mapping[str, Mapping[str, float]] | None = None) -> None:
        super().__init__({domain.name: domain.tasks for domain in domains}, weights)

    def outputs(self, model: nn.Module, batch: Batch) -> dict[str, torch.Tensor]:
        """See Method."""
        return model(batch.inputs, batch.set)


def score_domains(net: DomainNet, parts: Mapping[str, FaceSet], n_boot: int = 1) -> pd.DataFrame:
    """Every score of every task in the domains that `parts` names: domain and the columns of `metrics.evaluate`."""
    tables = []
    for domain in net.domains:
        if domain.name in parts:
            outputs = predict(net.only(domain.name), parts[domain.name])
            table = evaluate(domain.tasks, outputs, parts[domain.name].targets(domain.tasks), n_boot=n_boot)
            tables.append(table.assign(domain=domain.name))
    if not tables:
        raise ConfigError(f"none of the network's domains is among {list(parts)}.")
    table = pd.concat(tables, ignore_index=True)
    return table[["domain", *table.columns[:-1]]]


@dataclass(frozen=True, kw_only=True)
class DomainMethod(Row):
    """A way to serve several domains. together: one network, or one for each. train_trunk: or leave it as it came.
    adapters, own_norm: as in `Domain`."""

    together: bool = True
    train_trunk: bool = False
    adapters: Literal["none", "series", "parallel"] = "none"
    own_norm: bool = False

    @property
    def trains(self) -> bool:
        """See Row."""
        return True

    def runs(self, sizes: Mapping[Any, int], config: TrainConfig) -> Iterator[tuple[list, TrainConfig]]:
        """See Row. Every domain sees as many of its pictures in as many steps, alone or together."""
        if self.together:
            yield list(sizes), config
            return
        rows = rows_a_step(domain_shares(sizes, config.sampling), config.batch_size)
        steps = config.steps or max(steps_of(size, rows[name]) for name, size in sizes.items())
        for name in sizes:
            augment = config.augment
            if isinstance(augment, Mapping):
                augment = {name: augment[name]} if name in augment else None
            yield [name], replace(config, batch_size=rows[name], steps=steps, augment=augment, sampling="uniform")

    def planned(self, net: Staged, name: str | None, epochs: int, lr: float, **given: Any) -> Plan:
        """See Row. The method says what is trained; `scratch`, as ever, that the weights it starts from are random."""
        if name not in (None, "scratch"):
            raise ConfigError(
                f"the method {self.key} says itself which stages are trained; leave the plan {name!r} out, or use "
                "scratch to start from a trunk of random weights."
            )
        rate = self.checked(given).get("trunk_rate", 0.0)
        if self.train_trunk and not 0 < rate < math.inf:
            raise ConfigError(f"trunk_rate must be above 0, got {rate}; frozen_heads leaves the trunk as it is.")
        return self.phase(net, epochs, lr, lr * rate)

    def phase(self, net: Staged, epochs: int, lr: float, trunk_lr: float) -> Plan:
        """One phase for all epochs. lr, trunk_lr: peak rates of what the domains own, and of the trunk if it learns."""
        trunk = cast(DomainNet, net).trunk.stages
        rates = {name: lr for name in net.stages if name not in trunk}
        rates |= dict.fromkeys(trunk, trunk_lr) if self.train_trunk else {}
        return Plan("domains", (Phase("domains", epochs, rates),))

    def group(self, domains: Sequence[Domain]) -> list[Domain]:
        """The domains with what this way gives each of them."""
        return [replace(domain, adapters=self.adapters, own_norm=self.own_norm) for domain in domains]

    def built(
        self, backbone: Backbone, domains: Sequence[Domain], train: Mapping[str, LabelledSet]
    ) -> tuple[DomainNet, PerDomain]:
        """The network, and the Method with losses divided by what they are without a look at the pictures."""
        group = self.group(domains)
        weights = {domain.name: scale_weights(domain.tasks, train[domain.name]) for domain in group}
        return DomainNet(backbone, group), PerDomain(group, weights)

    def trained(
        self,
        stack: Callable[[], Stack],
        classifier: Callable[[], Staged],
        tasks: Sequence[Task] | Mapping[str, Sequence[Task]],
        steps: int,
        backbone: Backbone | None = None,
        sets: Mapping[Any, LabelledSet] | None = None,
        groups: Task | None = None,
        /,
        **given: Any,
    ) -> tuple[Staged, Method]:
        """See Row; needs a backbone, tasks by domain and the sets."""
        self.checked(given)
        self.check_groups(groups)
        trunk, domains = self._parts(backbone if sets is not None else None, tasks)
        return self.built(trunk, domains, sets or {})

    def build(
        self,
        stack: Callable[[], Stack],
        classifier: Callable[[], Staged],
        tasks: Sequence[Task] | Mapping[str, Sequence[Task]],
        backbone: Backbone | None = None,
        /,
        **given: Any,
    ) -> Staged:
        """See Row; needs a backbone and tasks by domain."""
        self.checked(given)
        trunk, domains = self._parts(backbone, tasks)
        return DomainNet(trunk, self.group(domains))

    def _parts(
        self, backbone: Backbone | None, tasks: Sequence[Task] | Mapping[str, Sequence[Task]]
    ) -> tuple[Backbone, list[Domain]]:
        """The trunk and the domains; raises ConfigError where one of them is missing."""
        if backbone is None or not isinstance(tasks, Mapping):
            raise ConfigError(f"the method {self.key} needs pictures, and a backbone that all domains share.")
        return backbone, [Domain(name, tuple(part)) for name, part in tasks.items()]


@dataclass(frozen=True)
class Served:
    """What a method has made: by domain the network that serves it (one and the same, if together), the seconds of the
    training, and the parameters that a domain adds to the trunk that was there, on average."""

    nets: dict[str, DomainNet]
    seconds: float
    parameters: int

    def scores(self, test: Mapping[str, FaceSet]) -> pd.DataFrame:
        """As `score_domains`, of every domain by its own network."""
        tables = [score_domains(net, {name: test[name]}) for name, net in self.nets.items()]
        return pd.concat(tables, ignore_index=True)


def serve(
    method: DomainMethod,
    backbone: Backbone,
    domains: Sequence[Domain],
    train: Mapping[str, FaceSet],
    recipe: Recipe,
    seed: int,
) -> Served:
    """Trains a method on all domains. Every domain sees as many of its pictures in as many steps, alone or together.

    backbone: what all networks start from; it is copied. recipe: what all methods may spend, with the peak rates of the
    trunk (`lr`) and of what a domain owns (`heads_lr`). Losses are divided by what they are without a look at the
    pictures (`scale_weights`). Raises what `fit` raises, and ConfigError for a domain without pictures.
    """
    if missing := [domain.name for domain in domains if domain.name not in train]:
        raise ConfigError(f"there are no pictures of domain {missing[0]!r}, only of {', '.join(train) or 'none'}.")
    by_name = {domain.name: domain for domain in domains}
    sets = {name: train[name] for name in by_name}
    config = TrainConfig(
        batch_size=recipe.batch_size,
        weight_decay=recipe.weight_decay,
        augment={name: augment for name, augment in (recipe.augment or {}).items() if name in by_name},
        seed=seed,
        steps=recipe.steps,
    )
    nets: dict[str, DomainNet] = {}
    seconds, parameters = 0.0, 0
    for names, how in method.runs({name: len(part) for name, part in sets.items()}, config):
        settings.seed_everything(seed)
        net, learner = method.built(backbone, [by_name[name] for name in names], sets)
        plan = method.phase(net, 1, recipe.heads_lr or recipe.lr, recipe.lr)
        result = fit(net, learner, {name: sets[name] for name in names}, None, plan, how)
        seconds += result.seconds
        costs = net.costs()["all"]
        parameters += int(costs[names].sum()) + (0 if method.together else int(costs["trunk"]))
        nets |= dict.fromkeys(names, net)
    return Served(nets, seconds, parameters // len(by_name))


TRUNK_RATE = Parameter(0.3, "how fast the trunk learns beside what the domains own, above 0")


def _way(name: str, about: str, **how: Any) -> DomainMethod:
    return DomainMethod(
        name=name,
        about=f"multi-domain learning: {about}",
        acts="during",
        sets="one set per domain",
        names=None,
        labels="of its own tasks in every domain",
        parameters={"trunk_rate": TRUNK_RATE} if how.get("train_trunk") else {},
        **how,
    )


ROWS = (
    _way("a network each", "nothing is shared, a copy of the trunk a domain", together=False, train_trunk=True),
    _way("one network", "all train the trunk, each has its heads", train_trunk=True),
    _way("one network, own norms", "all train the trunk, each has heads and norms", train_trunk=True, own_norm=True),
    _way("frozen, heads", "a frozen trunk, each has its heads"),
    _way("frozen, own norms", "a frozen trunk, each has heads and norms", own_norm=True),
    _way(
        "series adapters",
        "a frozen trunk, adapters behind its filters (Rebuffi et al. 2017)",
        adapters="series",
        own_norm=True,
    ),
    _way(
        "parallel adapters",
        "a frozen trunk, adapters beside its filters (Rebuffi et al. 2018)",
        adapters="parallel",
        own_norm=True,
    ),
)
METHODS: tuple[DomainMethod, ...] = ROWS


def compare_domains(
    backbone: Backbone,
    domains: Sequence[Domain],
    train: Mapping[str, FaceSet],
    test: Mapping[str, FaceSet],
    recipe: Recipe,
    seeds: Sequence[int],
    methods: Sequence[DomainMethod] = ROWS,
) -> pd.DataFrame:
    """Scores on `test` of every method and seed, all with the same batches of the same pictures.

    Columns: method, seed, domain, task, metric, value, parameters (added, a domain), seconds (of the training, all
    domains). A network of its own per domain ("a network each") starts from the same backbone.
    """
    tables = []
    for seed in seeds:
        for method in methods:
            served = serve(method, backbone, domains, train, recipe, seed)
            about = {"method": method.name, "seed": seed, "parameters": served.parameters, "seconds": served.seconds}
            tables.append(served.scores(test).assign(**about))
    table = pd.concat(tables, ignore_index=True)
    return table[["method", "seed", "domain", "task", "metric", "value", "parameters", "seconds"]]
