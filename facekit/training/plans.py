"""Plans: which stages are trained when, and how fast. A plan is data; it can be printed before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from facekit.errors import ConfigError
from facekit.models.staged import Staged

Schedule = Literal["cosine", "linear", "constant"]
SCHEDULES: tuple[Schedule, ...] = ("cosine", "linear", "constant")
AGAIN = ", again"  # what the name of a phase ends in that extends a plan


@dataclass(frozen=True)
class Phase:
    """Some epochs with the same stages trained; every other stage is frozen, BatchNorm statistics and dropout too.

    rates: stage name to its peak learning rate. warmup: fraction of the phase's steps in which the rate rises.
    Each phase has a new optimiser.
    """

    name: str
    epochs: int
    rates: Mapping[str, float]
    warmup: float = 0.1
    schedule: Schedule = "cosine"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", dict(self.rates))
        if self.epochs < 1 or not self.rates or not all(0 < lr < math.inf for lr in self.rates.values()):
            raise ConfigError(
                f"phase {self.name!r}: needs at least one epoch, one stage and positive learning rates; got "
                f"{self.epochs} epochs, rates {self.rates}."
            )
        if not 0 <= self.warmup < 1 or self.schedule not in SCHEDULES:
            raise ConfigError(
                f"phase {self.name!r}: warmup must be in [0, 1) and schedule one of {', '.join(SCHEDULES)}, got "
                f"{self.warmup} and {self.schedule!r}."
            )


@dataclass(frozen=True)
class Plan:
    """Phases in order."""

    name: str
    phases: tuple[Phase, ...] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        object.__setattr__(self, "phases", tuple(self.phases))
        if not self.phases:
            raise ConfigError(f"plan {self.name!r} has no phases.")

    @property
    def epochs(self) -> int:
        """Epochs of all phases together."""
        return sum(phase.epochs for phase in self.phases)

    def at(self, epoch: int) -> tuple[Phase, int]:
        """The phase that an epoch (from 0) belongs to, and that phase's first epoch."""
        begin = 0
        for phase in self.phases:
            if epoch < begin + phase.epochs:
                return phase, begin
            begin += phase.epochs
        raise ConfigError(f"plan {self.name!r} has {self.epochs} epochs, there is none after that.")

    def extended(self, epochs: int) -> Plan:
        """The plan with more epochs, so many in all: one more phase, which trains what the last one trains.

        Its rates rise and fall once more, from the same peak: a warm restart (Loshchilov & Hutter 2017, SGDR), with a
        new optimiser, as every phase has. So all epochs before are those of this plan, and what they gave stays good.
        Raises ConfigError unless there are more epochs.
        """
        if epochs <= self.epochs:
            raise ConfigError(
                f"plan {self.name!r} has {self.epochs} epochs already; to extend it takes more than that."
            )
        last = self.phases[-1]
        again = replace(last, name=f"{last.name.removesuffix(AGAIN)}{AGAIN}", epochs=epochs - self.epochs)
        return replace(self, phases=(*self.phases, again))

    def beginnings(self) -> Iterator[Plan]:
        """The plans that this one begins with: its first phase, its first two …, all of it."""
        return (replace(self, phases=self.phases[:end]) for end in range(1, len(self.phases) + 1))

    def faster(self, factors: Mapping[str, float]) -> Plan:
        """The plan in which stages, by name, learn so many times faster where they are trained."""
        phases = [
            replace(phase, rates={name: lr * factors.get(name, 1) for name, lr in phase.rates.items()})
            for phase in self.phases
        ]
        return replace(self, phases=tuple(phases))

    def since(self, stage: str, stages: Sequence[str]) -> Plan:
        """The plan in which nothing below a stage is trained. stages: the model's, from input to output.

        Raises ConfigError for a stage that is not there, and where a phase would train nothing.
        """
        if stage not in stages:
            raise ConfigError(f"plan {self.name!r}: the model has no stage {stage!r}; its stages are {list(stages)}.")
        kept = list(stages)[list(stages).index(stage) :]
        phases = [
            replace(phase, rates={name: lr for name, lr in phase.rates.items() if name in kept})
            for phase in self.phases
        ]
        return replace(self, phases=tuple(phases))

    def check(self, model: Staged) -> None:
        """Raises ConfigError if a phase names a stage that the model does not have."""
        for phase in self.phases:
            if unknown := set(phase.rates) - set(model.stages):
                raise ConfigError(
                    f"plan {self.name!r}, phase {phase.name!r}: the model has no stage {sorted(unknown)}; its stages "
                    f"are {list(model.stages)}."
                )

    def table(self, model: Staged) -> pd.DataFrame:
        """One row a phase and stage: phase, epochs, stage, lr (0 where frozen), trainable (parameters)."""
        self.check(model)
        sizes = {name: sum(p.numel() for p in model.stage_parameters(name)) for name in model.stages}
        rows = [
            (phase.name, phase.epochs, stage, phase.rates.get(stage, 0.0), size if stage in phase.rates else 0)
            for phase in self.phases
            for stage, size in sizes.items()
        ]
        return pd.DataFrame(rows, columns=["phase", "epochs", "stage", "lr", "trainable"])


def rate(step: int, steps: int, warmup: float = 0.0, schedule: Schedule = "cosine") -> float:
    """Fraction of the peak learning rate at `step` (0 … steps - 1).

    Rises linearly over the first `warmup` (a fraction of the steps), reaches 1, then falls towards 0 after the last
    step along half a cosine (Loshchilov & Hutter 2017, SGDR, without restarts) or a line, or stays.
    """
    if schedule not in SCHEDULES:
        raise ConfigError(f"unknown schedule {schedule!r}; use {', '.join(SCHEDULES)}.")
    rising = math.ceil(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
    done = (step - rising) / (steps - rising)
    return 1 - done if schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


DEPTHS = {"probe": 1, "last_layer": 2, "last_block": 3}  # how many stages they train, from the output on
PLANS = (*DEPTHS, "gradual", "discriminative", "probe_then_fine_tune", "everything", "scratch")
PROBE_FACTOR = 10.0  # new heads learn this much faster than pretrained layers are tuned


def plan(
    name: str,
    stages: Sequence[str],
    epochs: int,
    lr: float,
    factor: float | None = None,
    warmup: float = 0.1,
    schedule: Schedule = "cosine",
) -> Plan:
    """One of the course's plans for a model with these stages (`list(model.stages)`: input to output, heads last).

    No plan changes a weight by itself: pretrained stages start from what they hold, also where they are re-learnt.

    - `probe`: only the heads, on frozen embeddings.
    - `last_layer`: the heads and the network's last stage (the layer that makes the embedding).
    - `last_block`: those and the stage before (the last block of convolutions).
    - `gradual`: the heads first, then one more stage after another towards the input, in equal shares of the epochs;
      with fewer epochs than stages, several at a time (Howard & Ruder 2018, ULMFiT, section 3.3).
    - `discriminative`: everything at once, each stage `factor` times slower than the one above it (section 3.2 there;
      2.6 is their factor).
    - `probe_then_fine_tune`: the heads alone for half of the epochs (rounded up), then everything (Kumar et al. 2022,
      section 4). `lr` is that of the second half, the heads alone learn 10 times faster.
    - `everything`: all stages at the same rate. `scratch`: the same, for a network with random weights.

    lr: peak learning rate of the heads. factor: also slows the lower stages of every other plan (default 1 there).
    Raises ConfigError for an unknown name, for a model without the stages that a plan needs, for too few epochs.
    """
    if name not in PLANS:
        raise ConfigError(f"unknown plan {name!r}; the plans are {', '.join(PLANS)}.")
    factor = factor if factor is not None else 2.6 if name == "discriminative" else 1.0
    if not factor > 0:
        raise ConfigError(f"factor must be positive, got {factor}.")
    stages = list(stages)
    needed = DEPTHS.get(name, 1 if name in ("everything", "scratch") else 2)
    if len(stages) < needed:
        raise ConfigError(
            f"plan {name!r} needs a model of at least {needed} stages, this one has {stages}; a classifier of ready "
            "embeddings has heads only: use the plan 'probe'."
        )

    def phase(title: str, length: int, trained: int, peak: float) -> Phase:
        rates = {stage: peak / factor**depth for depth, stage in enumerate(reversed(stages[-trained:]))}
        return Phase(title, length, dict(reversed(rates.items())), warmup, schedule)

    if name == "gradual":
        count = max(1, min(epochs, len(stages)))
        ends = [epochs * (i + 1) // count for i in range(count)]
        depths = [1 + round(i * (len(stages) - 1) / max(1, count - 1)) for i in range(count)]
        lengths = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        phases = [phase(f"from {stages[-d]}", n, d, lr) for n, d in zip(lengths, depths, strict=True)]
    elif name == "probe_then_fine_tune":
        if epochs < 2:
            raise ConfigError(f"plan {name!r} needs at least 2 epochs, got {epochs}.")
        first = (epochs + 1) // 2
        phases = [phase("probe", first, 1, lr * PROBE_FACTOR), phase("fine-tune", epochs - first, len(stages), lr)]
    else:
        phases = [phase(name.replace("_", " "), epochs, DEPTHS.get(name, len(stages)), lr)]
    return Plan(name, tuple(phases))
