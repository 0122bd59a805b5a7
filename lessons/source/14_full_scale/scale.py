"""What lesson 14 does around its processes, and its training in three precisions."""

from __future__ import annotations

import atexit
import inspect
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from facekit.data.sets import FeatureSet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import has_fast_bf16
from facekit.models.heads import Classifier, Heads
from facekit.tasks import Task

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler says on stderr when it starts and stops

HAS_BF16 = has_fast_bf16(torch.device("cpu"))  # elsewhere bfloat16 is imitated, and slow
SAID = 3000  # characters of a program that failed
IMPORTS = """import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn


"""
JOIN = """
dist.init_process_group("gloo")
rank, size = dist.get_rank(), dist.get_world_size()
for average in (True, False):
    net = train(*torch.load("rows.pt"), rank=rank, size=size, average=average)
    torch.save(net.state_dict(), f"{rank}_{average}.pt")
if rank == 0:
    print(f"{size} processes have trained")
dist.destroy_process_group()
"""


def folder() -> Path:
    """A new folder, which goes with the kernel."""
    made = Path(tempfile.mkdtemp(prefix="facekit-processes-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def program(function: Callable) -> str:
    """The text of a program whose processes call `function`, as JOIN says."""
    return IMPORTS + inspect.getsource(function) + JOIN


def python(folder: Path, words: str) -> str:
    """What `python WORDS` prints in a folder, without the blank lines at its end; this Python, words split at blanks.

    Raises RuntimeError with the last that it said where it fails.
    """
    # PyTorch for Windows is built without the library that torchrun asks for by default (pytorch/pytorch#139990).
    variables = {**os.environ, "USE_LIBUV": str(int(os.name != "nt"))}
    done = subprocess.run([sys.executable, *words.split()], cwd=folder, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-SAID:])
    return done.stdout.rstrip()


def network(tasks: Sequence[Task]) -> Classifier:
    """facenet-mini with its weights and new heads, in training mode; the same one each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Classifier(FaceNetMini.from_pretrained(), Heads(FaceNetMini.embedding_dim, tasks)).train()


def accuracy(net: nn.Module, rows: FeatureSet, task: Task) -> float:
    """The share of rows whose highest logit is that of their class."""
    with torch.no_grad():
        said = net(torch.tensor(rows.features)).argmax(1)
    return (said == rows.targets([task])[task.name]).double().mean().item()


def losses_by_precision(features: torch.Tensor, classes: torch.Tensor) -> dict[str, list[float]]:
    """The loss of each step in float32, with autocast, and with the weights themselves in bfloat16; see `losses`."""
    return {
        "float32": losses(features, classes),
        "autocast to bfloat16": losses(features, classes, autocast=True),
        "weights in bfloat16": losses(features, classes, torch.bfloat16),
    }


def losses(
    features: torch.Tensor,
    classes: torch.Tensor,
    kind: torch.dtype = torch.float32,
    autocast: bool = False,
    steps: int = 600,
    lr: float = 1e-4,
) -> list[float]:
    """The loss of each step of a small network of `lesson.py`'s form, with AdamW and batches of 64.

    features: float32 (N, D). classes: int64 (N,), 0 to 6. kind: of the weights. autocast: whether it computes in
    bfloat16.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(features.shape[1], 64), nn.ReLU(), nn.Linear(64, 7)).to(kind)
    optimiser = torch.optim.AdamW(net.parameters(), lr)
    found = []
    for rows in torch.arange(64 * steps).remainder(len(features)).split(64):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs = net(features[rows].to(kind))
        loss = F.cross_entropy(outputs.float(), classes[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        found.append(loss.item())
    return found
