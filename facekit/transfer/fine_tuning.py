"""Fine-tuning: how much of a pretrained network moves, how fast, and from where it starts."""

from __future__ import annotations

from dataclasses import dataclass

from facekit.transfer.table import Row


@dataclass(frozen=True, kw_only=True)
class Strategy(Row):
    """A way to fine-tune: which weights it starts from, which plan trains it (see `training.plans.plan`), how fast.

    lr is the peak learning rate of the heads and of the last trained stage; the plan says the others'.
    """

    plan: str
    lr: float
    pretrained: bool = True


def _strategy(name: str, plan: str, lr: float, about: str, pretrained: bool = True) -> Strategy:
    return Strategy(name=name, about=f"fine-tuning: {about}", acts="during", plan=plan, lr=lr, pretrained=pretrained)


ROWS = (
    _strategy("frozen", "probe", 3e-3, "nothing of the network, only the heads"),
    _strategy("new last layer", "last_layer", 1e-3, "the layer that makes the embedding"),
    _strategy("last block", "last_block", 1e-3, "that and the last block of convolutions"),
    _strategy("discriminative rates", "discriminative", 1e-3, "everything, lower stages slower (Howard & Ruder 2018)"),
    _strategy("probe, then all", "probe_then_fine_tune", 3e-4, "the heads first, then everything (Kumar et al. 2022)"),
    _strategy("everything", "everything", 1e-3, "all stages at the same rate"),
    _strategy("from scratch", "scratch", 3e-3, "no transfer: the same network from random weights", pretrained=False),
)
