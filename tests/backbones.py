"""What the tests of backbones share: photos of noise, hashes by stage, a careless training step."""

from __future__ import annotations

import torch

from facekit.models.backbones.base import Backbone
from facekit.models.embedding import state_hash
from facekit.models.heads import Classifier


def noise(n: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def stage_hashes(model: Backbone | Classifier) -> dict[str, str]:
    """Hash of everything a stage holds: parameters and BatchNorm statistics."""
    return {name: state_hash(torch.nn.ModuleList(modules)) for name, modules in model.stages.items()}


def train_step(model: torch.nn.Module, images: torch.Tensor) -> None:
    """One step with weight decay and momentum, given every parameter, as a careless caller might."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    outputs = model(images)
    outputs = torch.cat(list(outputs.values()), 1) if isinstance(outputs, dict) else outputs
    loss = (outputs - torch.linspace(-1, 1, outputs.shape[1])).square().sum()
    if loss.requires_grad:
        loss.backward()
    optimizer.step()
