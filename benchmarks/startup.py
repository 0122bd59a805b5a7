"""How long each command takes to start."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pandas as pd
import torch

from facekit.commands.cli import COMMANDS
from facekit.errors import ConfigError
from facekit.experiments.speed import fastest, figures

IMPORTS = ("torch", "facekit", "facekit.training.loop")


def bench_startup(commands: tuple[str, ...] = COMMANDS, rounds: int = 2) -> pd.DataFrame:
    """Measures the seconds until each command has told its options, beside Python alone and what is imported.

    A fresh process each; `--help` imports what the command needs to know its options, which is most of what it needs.

    Args:
        commands: Which ones.
        rounds: How often each is started; the fastest counts.
    """
    if unknown := [name for name in commands if name not in COMMANDS]:
        raise ConfigError(f"there is no command {unknown[0]!r}; use some of {', '.join(COMMANDS)}.")
    if rounds < 1:
        raise ConfigError(f"rounds must be 1 or more, got {rounds}.")
    calls = {"Python alone": ["-c", ""]} | {f"import {name}": ["-c", f"import {name}"] for name in IMPORTS}
    calls["all commands"] = ["-m", "facekit", "--help"]
    calls |= {f"facekit {name}": ["-m", "facekit", name, "--help"] for name in commands}

    def start(words: list[str]) -> None:
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)

    rows = {name: partial(start, words) for name, words in calls.items()}
    return figures(fastest(rows, rounds, torch.device("cpu")), "s", compare=False)
