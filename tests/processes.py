"""Two processes that torchrun starts, and whether they come to what one comes to."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[1]


def of_two(script: str, folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that a program, run by two processes with the folder of the tests and a path, writes to that path."""
    path, out = folder / "two.py", folder / "two.safetensors"
    path.write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(path)]
    done = subprocess.run([*command, str(ROOT / "tests"), str(out)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(out)


def assert_same(together: Mapping[str, torch.Tensor], alone: Mapping[str, torch.Tensor]) -> None:
    """That two processes have made the steps of one, but for rounding."""
    assert set(alone) == set(together)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value.detach(), atol=2e-4, rtol=1e-3, msg=name)
