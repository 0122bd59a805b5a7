"""Training one network on several domains: how much the loss of each counts, and what to compare with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from facekit import settings
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.evaluation.metrics import evaluate
from facekit.models.adapters import Domain, DomainNet
from facekit.models.backbones.base import Backbone
from facekit.training.batches import Batch
from facekit.training.config import Recipe, TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Supervised
from facekit.training.plans import Phase, Plan
from facekit.training.shares import domain_shares, rows_a_step
from facekit.transfer.table import Row
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

    def summary(self, test: Mapping[str, FaceSet]) -> pd.Series:
        """One score a task, named by domain and metric on two lines.

        Accuracy, IoU, character error rate or mean absolute error.
        """
        rows = self.scores(test)
        rows = rows[~rows["metric"].isin(["balanced_accuracy", "exact_match"])]
        names = rows["domain"] + "\n" + rows["metric"].str.replace("_", " ")
        return pd.Series(rows["value"].to_numpy(), index=list(names))


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
    given = [replace(d, adapters=method.adapters, own_norm=method.own_norm) for d in domains]
    rows = rows_a_step(domain_shares({domain.name: len(train[domain.name]) for domain in given}), recipe.batch_size)
    nets: dict[str, DomainNet] = {}
    seconds, parameters = 0.0, 0
    for group in [given] if method.together else [[domain] for domain in given]:
        settings.seed_everything(seed)
        net = DomainNet(backbone, group)
        names = [domain.name for domain in group]
        rates = dict.fromkeys(names, recipe.heads_lr or recipe.lr)
        rates |= dict.fromkeys(net.trunk.stages, recipe.lr) if method.train_trunk else {}
        result = fit(
            net,
            PerDomain(group, {domain.name: scale_weights(domain.tasks, train[domain.name]) for domain in group}),
            {name: train[name] for name in names},
            None,
            Plan("domains", (Phase("domains", 1, rates),)),
            TrainConfig(
                batch_size=sum(rows[name] for name in names),
                weight_decay=recipe.weight_decay,
                augment={name: augment for name, augment in (recipe.augment or {}).items() if name in names},
                seed=seed,
                steps=recipe.steps,
            ),
        )
        seconds += result.seconds
        costs = net.costs()["all"]
        parameters += int(costs[names].sum()) + (0 if method.together else int(costs["trunk"]))
        nets |= dict.fromkeys(names, net)
    return Served(nets, seconds, parameters // len(given))


def _way(name: str, about: str, **how: Any) -> DomainMethod:
    about = f"multi-domain learning: {about}"
    labels = "of its own tasks in every domain"
    return DomainMethod(name=name, about=about, acts="during", sets="one per domain", labels=labels, **how)


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
