"""Several processes, one a GPU, started by torchrun; one process is the case of a world of size 1.

`fit` uses the process group that it finds. Gradients are averaged by DistributedDataParallel, each process's loss
weighted with its share of the batch, and the mean over known labels with its share of these, so that the step is that
of one process with the whole batch, up to rounding. What sees a process's part of the batch alone is still its own:
BatchNorm's statistics in trained stages (those of process 0 are kept), the distances between domains of CORAL and of
kernel means, the other photos of contrastive learning; so are random draws (dropout, augmentation, views). Of several
sets every process takes its part of each; what their gradients add up to is averaged once a step.

Where torchrun restarts the processes (`--max-restarts`) after one was killed, a run with `resume` goes on from its last
checkpoint.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from facekit import files, settings
from facekit.errors import FacekitError


@dataclass(frozen=True)
class ProcessGroup:
    """rank: this process, 0 … size - 1. device: where it computes."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process prints and writes files."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes, on the device where there are several."""
        if self.size > 1:
            values = values.to(self.device)
            dist.all_reduce(values)
        return values

    def same_buffers(self, model: nn.Module) -> None:
        """Gives every process the BatchNorm statistics of process 0."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def wait(self) -> None:
        """Returns when all processes are here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def writing(self, folder: Path | str, *names: str) -> Iterator[None]:
        """As `files.writing`, for all processes as one: the first has the folder, and where it is refused all raise."""
        with ExitStack() as stack:
            refusal: list[Exception | None] = [None]
            if self.first:
                try:
                    stack.enter_context(files.writing(folder, *names))
                except (FacekitError, OSError) as error:
                    refusal = [error]
            if self.size > 1:
                dist.broadcast_object_list(refusal)
            if refusal[0] is not None:
                raise refusal[0]
            yield

    def wrap(self, module: nn.Module, all_used: bool) -> nn.Module:
        """The module with averaged gradients; itself in a world of one. all_used: every parameter gets a gradient."""
        if self.size == 1:
            return module
        where = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=where, find_unused_parameters=not all_used)

    def averaging(self, module: nn.Module, last: bool) -> AbstractContextManager:
        """Around one of several backward passes whose gradients add up: the sum is averaged once, in the last one."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) and not last else nullcontext()


def world(device: str | torch.device | None = None) -> ProcessGroup:
    """The process group if there is one, else a world of one; device: by default the usual one of facekit."""
    place = settings.device(device)
    if not (dist.is_available() and dist.is_initialized()):
        return ProcessGroup(0, 1, place)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", int(os.environ.get("LOCAL_RANK", dist.get_rank())))
    return ProcessGroup(dist.get_rank(), dist.get_world_size(), place)


@contextmanager
def process_group(device: str | torch.device | None = None) -> Iterator[ProcessGroup]:
    """Joins the processes that torchrun started (it sets WORLD_SIZE), and leaves them at the end.

    Nobody leaves before all are done, but after an error the group is left as it is: leaving may wait for the others,
    while torchrun stops them as soon as this process has ended. One program joins once: inside, this is `world`.
    """
    place = world(device).device
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield world(place)
        return
    if place.type == "cuda":
        torch.cuda.set_device(settings.device(f"cuda:{os.environ['LOCAL_RANK']}"))
    store, rank, size = next(dist.rendezvous("env://"))
    backend = "nccl" if place.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=_this_start(store, rank, size), rank=rank, world_size=size)
    yield world(place)
    dist.barrier()
    dist.destroy_process_group()


def _this_start(store: dist.Store, rank: int, size: int) -> dist.Store:
    """The part of a store that only the processes of this start use; returns when all of them have come.

    torchrun keeps one store for all its restarts. What dead processes wrote there, such as their addresses, would be
    taken for that of the new ones; and its count of restarts differs between machines. So every process writes a name
    that it drew, and then the names that it sees: once all have seen the same, with its own among them, nobody's is
    that of a dead process, for the dead have not seen this one's.
    """
    names, seen = ([f"facekit/{what}/{each}" for each in range(size)] for what in ("name", "seen"))
    store.set(names[rank], secrets.token_hex(8))
    while True:
        found = b" ".join(store.multi_get(names)).decode()
        store.set(seen[rank], found)
        if set(store.multi_get(seen)) == {found.encode()}:
            return dist.PrefixStore(found, store)
        time.sleep(0.05)
