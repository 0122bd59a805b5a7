"""One convolutional trunk for several domains, and what a domain may have of its own.

In multi-task learning one picture has several labels; in multi-domain learning every domain has its own pictures and
its own tasks, and only the network is common. A `DomainNet` is a pretrained `Backbone` (the trunk) and for each domain

- its own BatchNorms, which start as copies of the trunk's (Bilen & Vedaldi 2017, 1701.07275);
- residual adapters, 1 × 1 convolutions beside the trunk's filters: in series, y + A(BN(y)) after a convolution's
  output y (Rebuffi, Bilen & Vedaldi 2017, 1705.08045), or in parallel, f(x) + A(x) (the same 2018, 1803.10082).
  A starts at zero, so that a new domain starts as the frozen trunk exactly. In those papers' networks no shortcut has
  weights; where it has a 1 × 1 convolution f, as in facenet-mini, f has an adapter too, always in parallel, which
  makes it any other 1 × 1 convolution (in series it would be no more, and larger);
- its heads, one a task, each on the map of one stage.

Nothing of a domain is used by another one. With the trunk frozen, a domain can be added without any change of what the
others answer; that is what adapters are for.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, cast

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone
from facekit.models.embedding import state_hash
from facekit.models.staged import Staged, by_task
from facekit.tasks import Task

Adapters = Literal["none", "series", "parallel"]
ADAPTERS: tuple[Adapters, ...] = ("none", "series", "parallel")
PARTS = ("norms", "adapters", "heads")
_MOST_COARSE = 10  # a pixel of the map that boxes and texts are read from stands for at most so many of the picture


@dataclass(frozen=True)
class Domain:
    """A kind of pictures with its tasks, and what the network has for it alone.

    name: also the name of the net's stage that holds what it owns. adapters: of every convolution that is neither
    depthwise nor grouped. own_norm: whether it has BatchNorms of its own. pointwise: whether 1 × 1 convolutions have
    adapters too; each costs as much as the convolution itself, which is little in facenet-mini (its three shortcuts)
    and most of the network in FaceNet. reads: task name to the stage whose output its head takes; by default classes
    and numbers take the mean of the last map, boxes and texts the map of the deepest stage that is at most ten times
    smaller than the picture. Only classes and numbers can read the embedding.
    """

    name: str
    tasks: tuple[Task, ...]
    adapters: Adapters = "parallel"
    own_norm: bool = True
    pointwise: bool = True
    reads: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        names = [task.name for task in self.tasks]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"domain {self.name!r} needs at least one task and each only once, got {names}.")
        if self.adapters not in ADAPTERS:
            raise ConfigError(f"domain {self.name!r}: adapters are one of {', '.join(ADAPTERS)}, not {self.adapters!r}")
        if unknown := set(self.reads) - set(names):
            raise ConfigError(f"domain {self.name!r} has no task {sorted(unknown)}; its tasks are {names}.")


class SeriesAdapter(nn.Module):
    """y + A(BN(y)) on a convolution's output (N, C, H, W), A a 1 × 1 convolution that is zero at the start."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(conv.out_channels)
        self.conv = nn.Conv2d(conv.out_channels, conv.out_channels, 1, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x: the convolution's input, not used. y: its output."""
        return y + self.conv(self.norm(y))


class ParallelAdapter(nn.Module):
    """f(x) + A(x), A a 1 × 1 convolution with f's stride at the middle of f's window, zero at the start."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = nn.Conv2d(conv.in_channels, conv.out_channels, 1, cast(tuple[int, int], conv.stride), bias=False)
        odd = all(size % 2 for size in conv.kernel_size) and conv.dilation == (1, 1)
        # Without padding the middle of the first window is not the first pixel.
        padded = zip(conv.kernel_size, cast(tuple[int, int], conv.padding), strict=False)
        self.trim = [size // 2 - padding for size, padding in padded] if odd and conv.padding != "same" else [-1]
        if min(self.trim) < 0:
            raise ConfigError(f"no 1 × 1 convolution goes in parallel with {conv}; use series adapters.")
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """x: the convolution's input. y: its output."""
        down, right = self.trim
        return y + self.conv(x[:, :, down : x.shape[2] - down, right : x.shape[3] - right])


class _Adapted(nn.Module):
    """The trunk's convolution with a domain's adapter."""

    def __init__(self, conv: nn.Conv2d, adapter: nn.Module) -> None:
        super().__init__()
        self.conv, self.adapter = conv, adapter

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adapter(x, self.conv(x))


class DomainNet(Staged):
    """A trunk that all domains use, and what each has of its own; see the module's text.

    backbone: copied; facenet-mini, FaceNet or any other that is its stages one after another. Its embedding is as
    `Heads` take it, times √D.

    Its stages are the trunk's and one for each domain, under its name; `freeze(net.trunk.stages)` freezes what is
    shared.
    """

    def __init__(self, backbone: Backbone, domains: Sequence[Domain] = ()) -> None:
        super().__init__()
        self.trunk = copy.deepcopy(backbone)
        self.own = cast(dict[str, nn.ModuleDict], nn.ModuleDict())
        self._domains: dict[str, Domain] = {}
        self._views: dict[str, Backbone] = {}  # not registered: all they hold is the trunk's or a domain's
        self._shapes = self.trunk.shapes(torch.Generator())  # checks that the stages are all
        for domain in domains:
            self.add(domain)

    @property
    def domains(self) -> tuple[Domain, ...]:
        """The domains in the order in which they came."""
        return tuple(self._domains.values())

    @property
    def stages(self) -> dict[str, Sequence[nn.Module]]:
        """See Staged."""
        return {**self.trunk.stages, **{name: [parts] for name, parts in self.own.items()}}

    def add(self, domain: Domain) -> None:
        """Gives a further domain its norms, adapters and heads; nothing that was there is touched.

        Raises ConfigError for a name that is taken and for a head on a stage that it cannot read.
        """
        if domain.name in self.stages:
            raise ConfigError(f"{domain.name!r} is a stage or domain of this network already; choose another name.")
        view, norms, adapters = _view(self.trunk, domain)
        heads = by_task(domain.tasks, partial(self._head, domain))
        try:
            self.own[domain.name] = nn.ModuleDict({"norms": norms, "adapters": adapters, "heads": heads})
        except KeyError as error:  # torch's own rule: no dots, no names of ModuleDict's attributes
            raise ConfigError(f"a domain cannot have this name ({error}); choose another.") from None
        self.own[domain.name].to(next(self.trunk.parameters()).device).train(self.training)
        self._domains[domain.name], self._views[domain.name] = domain, view

    def reads(self, domain: Domain, task: Task) -> str:
        """Name of the stage whose output the task's head takes."""
        if task.name in domain.reads:
            return domain.reads[task.name]
        maps = {name: shape for name, shape in self._shapes.items() if len(shape) == 3}
        fine = [name for name, shape in maps.items() if self.trunk.image_size <= _MOST_COARSE * shape[1]]
        return (fine if task.needs_map and fine else list(maps))[-1]

    def maps(self, images: torch.Tensor, domain: str, last: str | None = None) -> dict[str, torch.Tensor]:
        """Output of every stage up to `last` (default: all) for pictures of a domain, by stage name.

        images: uint8 (N, 3, H, W). Maps (N, C, H, W), the embedding (N, D) of length √D.
        """
        found, (*_, embedding) = {}, self._shapes
        for name, x in self._views[self._known(domain)].walk(self.trunk.prepare(images)):
            found[name] = F.normalize(x) * math.sqrt(x.shape[1]) if name == embedding else x
            if name == last:
                break
        return found

    def forward(self, images: torch.Tensor, domain: str) -> dict[str, torch.Tensor]:
        """Pictures uint8 (N, 3, H, W) of a domain to outputs of its tasks by name (see `Task`)."""
        known = self._domains[self._known(domain)]
        stage = {task.name: self.reads(known, task) for task in known.tasks}
        deepest = max(stage.values(), key=list(self._shapes).index)
        maps = self.maps(images, domain, deepest)
        return {task: head(maps[stage[task]]) for task, head in cast(nn.ModuleDict, self.own[domain]["heads"]).items()}

    def hashes(self) -> dict[str, str]:
        """Hash of every number, weights and statistics, of the trunk and of what each domain owns, by name."""
        return {"trunk": state_hash(self.trunk)} | {name: state_hash(parts) for name, parts in self.own.items()}

    def only(self, domain: str) -> OneDomain:
        """The network as that of one domain alone, for `predict` and everything else that passes pictures only."""
        return OneDomain(self, self._known(domain))

    def costs(self) -> pd.DataFrame:
        """Parameters: index `trunk` and the domains, int columns norms, adapters, heads, all (0 where not its own)."""
        rows = {"trunk": {"all": sum(p.numel() for p in self.trunk.parameters())}}
        for name, parts in self.own.items():
            counts = {part: sum(p.numel() for p in parts[part].parameters()) for part in PARTS}
            rows[name] = counts | {"all": sum(counts.values())}
        return pd.DataFrame.from_dict(rows, orient="index", columns=[*PARTS, "all"]).fillna(0).astype(int)

    def _known(self, domain: str) -> str:
        if domain not in self._domains:
            raise ConfigError(f"this network has no domain {domain!r}; it has {', '.join(self._domains) or 'none'}.")
        return domain

    def _head(self, domain: Domain, task: Task) -> nn.Module:
        stage = self.reads(domain, task)
        if stage not in self._shapes:
            raise ConfigError(f"task {task.name!r} reads {stage!r}; the stages are {list(self._shapes)}.")
        channels, *sides = self._shapes[stage]
        if task.needs_map and not sides:
            raise ConfigError(
                f"task {task.name!r} asks where things are, which {stage!r} forgets; read a stage before."
            )
        return task.head(channels)


class OneDomain(nn.Module):
    """A DomainNet whose pictures are all of one domain; shares every weight with it."""

    def __init__(self, net: DomainNet, domain: str) -> None:
        super().__init__()
        self.net, self.domain = net, domain
        self.training = net.training  # `predict` gives it back the mode that it came with

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The domain's tasks."""
        return self.net._domains[self.domain].tasks

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """uint8 (N, 3, H, W) to outputs by task name."""
        return self.net(images, self.domain)


def _view(trunk: Backbone, domain: Domain) -> tuple[Backbone, nn.ModuleDict, nn.ModuleDict]:
    """The trunk as one domain uses it, and the norms and adapters in it that are new, by their place in the trunk.

    The view is a copy of the trunk's containers around the trunk's own layers, so that both compute with the same
    weights, whatever happens to them.
    """
    norms, adapters, in_place = nn.ModuleDict(), nn.ModuleDict(), {}
    if domain.adapters == "none" and not domain.own_norm:
        return trunk, norms, adapters
    for path, module in trunk.named_modules():
        key, used = path.replace(".", "/"), module
        if next(module.children(), None) is not None:
            if next(module.parameters(recurse=False), None) is not None:
                raise ConfigError(
                    f"adapters and norms of a domain's own do not go into {trunk.name} ({path} has layers and weights "
                    "beside them); take a method without, as frozen_heads or one_network, or a network of convolutions "
                    "and BatchNorms: facenet-mini, FaceNet, torchvision:resnet18 and other residual ones."
                )
            continue
        if isinstance(module, _BatchNorm) and domain.own_norm:
            used = norms[key] = copy.deepcopy(module).requires_grad_(True)
        elif isinstance(module, nn.Conv2d) and (kind := _adapter_of(module, domain)):
            adapters[key] = kind(module)
            used = _Adapted(module, adapters[key])
        in_place[id(module)] = used
    return copy.deepcopy(trunk, in_place), norms, adapters


def _adapter_of(conv: nn.Conv2d, domain: Domain) -> type[SeriesAdapter] | type[ParallelAdapter] | None:
    """Which adapter a domain has beside a convolution, if any."""
    one_pixel = conv.kernel_size == (1, 1)
    if domain.adapters == "none" or conv.groups > 1 or (one_pixel and not domain.pointwise):
        return None
    return SeriesAdapter if domain.adapters == "series" and not one_pixel else ParallelAdapter
