"""A GPU that is not there: tensors without values on the device `cuda`, and what code would wait for on a real one."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FACEKIT = str(Path(__file__).resolve().parents[1] / "facekit")
# Operators whose result a processor has to know before it can go on.
READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal.default", "masked_select", "unique", "bincount")


class _Waits(TorchDispatchMode):
    """Notes operators that wait for the device, with the line of facekit that called them."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        places = {each.device.type for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)}
        name = func.name()
        moves = name.startswith(("aten::_to_copy", "aten::copy_")) and {"cpu", "cuda"} <= places
        waits = moves and not ((kwargs or {}).get("non_blocking") or (len(args) > 2 and args[2] is True))
        if waits or ("cuda" in places and any(each in name for each in READS)):
            lines = [frame for frame in traceback.extract_stack() if frame.filename.startswith(FACEKIT)]
            self.found.append(f"{name} in {Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else name)
        return out


@contextmanager
def pretended_gpu() -> Iterator[list[str]]:
    """Inside, `cuda` can be computed on in shapes and dtypes alone; yields what would wait for a real one.

    Operators with tensors on different devices raise, as on a GPU. Random draws have no generator, and there is no
    backward pass, which asks for the driver.
    """

    def without_generator(draw: Any) -> Any:
        return lambda *args, generator=None, **options: draw(*args, **options)

    random = patch.object(torch, "rand", without_generator(torch.rand))
    with FakeTensorMode(), _Waits() as waits, torch.device("cuda"), random:
        yield waits.found
