"""torch, which takes seconds to load: the kinds import it from here, what only reads or draws labels never loads it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any


class _Later:
    """A module that is loaded when something in it is asked for."""

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


if TYPE_CHECKING:
    import torch as torch
    import torch.nn.functional as F
else:
    torch, F = _Later("torch"), _Later("torch.nn.functional")
