"""Training one network on several domains: how often each is seen, how much its loss counts, and what to compare with.

`fit` takes one set of pictures of one size and one order of its rows. Here every step takes rows from several sets, of
different sizes and in chosen proportions, so this has a loop of its own (`train_domains`); optimiser, batches and the
course of the learning rate are those of `fit`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Literal

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.data.sets import FaceSet, LabelledSet
from facekit.errors import ConfigError, TrainingError
from facekit.evaluation.metrics import evaluate
from facekit.models.adapters import Domain, DomainNet
from facekit.models.backbones.base import Backbone
from facekit.training.augment import Augment
from facekit.training.batches import Batch, Batches, seed_for
from facekit.training.loop import make_optimiser, predict
from facekit.training.methods import Supervised
from facekit.training.plans import Phase
from facekit.training.schedule import rate
from facekit.transfer.weighting import scale_weights

Sampling = Literal["proportional", "uniform"] | float
Scales = Mapping[str, Mapping[str, float]]
LEAST = 2  # rows of a domain in a step: BatchNorm cannot train on one


def domain_shares(sizes: Mapping[str, int], sampling: Sampling = "uniform") -> dict[str, float]:
    """How often each domain is seen, by name, summing to 1: p_d ∝ n_d^(1 / temperature), n_d the rows it has.

    sampling: `proportional` is temperature 1, `uniform` an infinite one; numbers in between favour small domains
    (used for languages by Arivazhagan et al. 2019, 1907.05019). Raises ConfigError for other values.
    """
    if not sizes or min(sizes.values()) < 1:
        raise ConfigError(f"every domain needs at least one row, got {dict(sizes)}.")
    temperature = {"proportional": 1.0, "uniform": math.inf}.get(sampling, sampling)  # type: ignore[call-overload]
    if isinstance(temperature, str) or not temperature > 0:
        raise ConfigError(f"sampling is 'proportional', 'uniform' or a positive temperature, not {sampling!r}.")
    logs = {name: math.log(n) / temperature for name, n in sizes.items()}
    top = max(logs.values())
    weights = {name: math.exp(value - top) for name, value in logs.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def rows_a_step(shares: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """How many of a step's rows each domain gets: its share of `batch_size`, rounded so that the sum is right.

    At least two each. Raises ConfigError where they do not fit.
    """
    if batch_size < LEAST * len(shares):
        raise ConfigError(f"a step of {batch_size} rows has no {LEAST} for each of {len(shares)} domains; take more.")
    free = batch_size - LEAST * len(shares)
    total = sum(max(share * batch_size - LEAST, 0) for share in shares.values()) or 1
    exact = {name: LEAST + free * max(share * batch_size - LEAST, 0) / total for name, share in shares.items()}
    rows = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    rest = sorted(shares, key=lambda name: rows[name] - exact[name])  # largest remainders first
    for name in rest[: batch_size - sum(rows.values())]:
        rows[name] += 1
    return rows


def loss_scales(domains: Sequence[Domain], parts: Mapping[str, LabelledSet]) -> dict[str, dict[str, float]]:
    """One over what each task's loss is without a look at the pictures: domain to task to factor.

    So every task starts at about 1, whatever its kind: a text costs some ten nats where a class costs one. Of classes,
    numbers and boxes that is the loss of the best constant answer; of texts, the nats that their characters take at
    their frequencies.
    """
    return {domain.name: scale_weights(domain.tasks, _part(parts, domain)) for domain in domains}


@dataclass(frozen=True)
class DomainsResult:
    """history: one row a step and task: step (from 1), domain, task, loss (unscaled). rows: of each domain in a step.
    seconds: wall clock of the training."""

    history: pd.DataFrame
    rows: dict[str, int]
    seconds: float


def train_domains(
    net: DomainNet,
    parts: Mapping[str, FaceSet],
    *,
    steps: int,
    seed: int,
    rates: Mapping[str, float],
    batch_size: int = 48,
    sampling: Sampling = "uniform",
    scales: Scales | None = None,
    augment: Augment | Mapping[str, Augment] | None = None,
    weight_decay: float = 0.01,
    warmup: float = 0.1,
    device: str | None = None,
) -> DomainsResult:
    """Trains `net` in place on the domains that `parts` names, all of them in every step; evaluation mode afterwards.

    A step's loss is the mean over its rows: Σ_d (rows of d / all rows) Σ_t scale L_t. With the trunk trained the
    domains pull at the same weights; with the trunk frozen each learns as if it were alone.

    parts: domain name to training pictures; domains without are not touched. rates: stage to its peak learning rate;
    stages that are not named are frozen. batch_size: rows of a step, of all domains together. scales: see
    `loss_scales`; 1 by default. augment: for all domains, or by name (a mirrored text is another one).

    Raises ConfigError for what does not fit the network, DataError for bad labels, and TrainingError, with the step and
    the domain, when a loss is not finite; the weights are then those of that step.
    """
    if steps < 1:
        raise ConfigError(f"steps must be 1 or more, got {steps}.")
    domains = [domain for domain in net.domains if domain.name in parts]
    if unknown := [name for name in parts if name not in {domain.name for domain in net.domains}]:
        raise ConfigError(f"this network has no domain {unknown}; it has {[domain.name for domain in net.domains]}.")
    if unknown := set(rates) - set(net.stages):
        raise ConfigError(f"this network has no stage {sorted(unknown)}; its stages are {list(net.stages)}.")
    place = torch.device(device) if device is not None else settings.device()
    net.to(place)
    rows = rows_a_step(domain_shares({d.name: len(parts[d.name]) for d in domains}, sampling), batch_size)
    streams = {
        domain.name: _endless(
            Batches(
                parts[domain.name],
                domain.tasks,
                rows[domain.name],
                seed,
                device=place,
                augment=augment.get(domain.name) if isinstance(augment, Mapping) else augment,
            )
        )
        for domain in domains
    }
    phase = Phase("domains", 1, dict(rates), warmup)
    method = Supervised([task for domain in domains for task in domain.tasks])
    net.freeze([stage for stage in net.stages if stage not in rates])
    net.train()
    optimiser = make_optimiser(net, method, phase, weight_decay)
    logs = []
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed_for(seed, 0, 0, 1))  # dropout
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate(step, steps, warmup)
            optimiser.zero_grad()
            for domain in domains:
                losses = _losses(net, domain, next(streams[domain.name]))
                scale = (scales or {}).get(domain.name, {})
                total = sum(scale.get(task, 1.0) * loss for task, loss in losses.items())
                (total * (rows[domain.name] / batch_size)).backward()  # one domain's graph at a time
                logs += [(step + 1, domain.name, task, loss.detach()) for task, loss in losses.items()]
            optimiser.step()
    net.eval()
    history = pd.DataFrame(logs, columns=["step", "domain", "task", "loss"])
    history["loss"] = torch.stack(list(history["loss"])).cpu().double().numpy()
    _check_finite(history)
    return DomainsResult(history, rows, time.perf_counter() - start)


def _losses(net: DomainNet, domain: Domain, batch: Batch) -> dict[str, torch.Tensor]:
    outputs = net(batch.inputs, domain.name)
    return {task.name: task.loss(outputs[task.name], batch.targets[task.name]) for task in domain.tasks}


def _endless(batches: Batches) -> Iterator[Batch]:
    """Epoch after epoch."""
    for k in count():
        yield from batches.epoch(k)


def _check_finite(history: pd.DataFrame) -> None:
    broken = history[~np.isfinite(history["loss"])]
    if len(broken):
        first = broken.iloc[0]
        raise TrainingError(
            f"the loss of {first['task']!r} in domain {first['domain']!r} became {first['loss']} in step "
            f"{first['step']}; lower the rates, or give it a smaller scale."
        )


def _part(parts: Mapping[str, LabelledSet], domain: Domain) -> LabelledSet:
    if domain.name not in parts:
        raise ConfigError(f"there are no pictures of domain {domain.name!r}, only of {', '.join(parts) or 'none'}.")
    return parts[domain.name]


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


@dataclass(frozen=True)
class DomainMethod:
    """A way to serve several domains. together: one network, or one for each. train_trunk: or leave it as it came.
    adapters, own_norm: as in `Domain`."""

    name: str
    together: bool
    train_trunk: bool
    adapters: Literal["none", "series", "parallel"]
    own_norm: bool


METHODS = (
    DomainMethod("a network each", False, True, "none", False),
    DomainMethod("one network", True, True, "none", False),
    DomainMethod("one network, own norms", True, True, "none", True),
    DomainMethod("frozen, heads", True, False, "none", False),
    DomainMethod("frozen, own norms", True, False, "none", True),
    DomainMethod("series adapters", True, False, "series", True),
    DomainMethod("parallel adapters", True, False, "parallel", True),
)


@dataclass(frozen=True)
class DomainRecipe:
    """What every method may spend: steps of `batch_size` rows, the peak rates of the trunk and of what a domain owns.

    scaled: whether losses are divided by what they are without a look (`loss_scales`).
    """

    steps: int
    batch_size: int = 48
    trunk_rate: float = 1e-3
    own_rate: float = 3e-3
    sampling: Sampling = "uniform"
    scaled: bool = True
    weight_decay: float = 0.01
    augment: Mapping[str, Augment] | None = None


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
    recipe: DomainRecipe,
    seed: int,
) -> Served:
    """Trains a method on all domains. Every domain sees as many of its pictures in as many steps, alone or together.

    backbone: what all networks start from; it is copied. Raises what `train_domains` raises.
    """
    given = [replace(d, adapters=method.adapters, own_norm=method.own_norm) for d in domains]
    groups = [given] if method.together else [[domain] for domain in given]
    sizes = {domain.name: len(_part(train, domain)) for domain in given}
    rows = rows_a_step(domain_shares(sizes, recipe.sampling), recipe.batch_size)
    scales = loss_scales(given, train) if recipe.scaled else None
    nets: dict[str, DomainNet] = {}
    seconds = parameters = 0
    for group in groups:
        settings.seed_everything(seed)
        net = DomainNet(backbone, group)
        names = [domain.name for domain in group]
        rates = dict.fromkeys(names, recipe.own_rate)
        rates |= dict.fromkeys(net.trunk.stages, recipe.trunk_rate) if method.train_trunk else {}
        result = train_domains(
            net,
            {name: train[name] for name in names},
            steps=recipe.steps,
            seed=seed,
            rates=rates,
            batch_size=sum(rows[name] for name in names),
            sampling=recipe.sampling,
            scales=scales,
            augment=recipe.augment,
            weight_decay=recipe.weight_decay,
        )
        seconds += result.seconds
        costs = net.costs()["all"]
        parameters += int(costs[names].sum()) + (0 if method.together else int(costs["trunk"]))
        nets |= dict.fromkeys(names, net)
    return Served(nets, seconds, parameters // len(given))


def compare_domains(
    backbone: Backbone,
    domains: Sequence[Domain],
    train: Mapping[str, FaceSet],
    test: Mapping[str, FaceSet],
    recipe: DomainRecipe,
    seeds: Sequence[int],
    methods: Sequence[DomainMethod] = METHODS,
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
