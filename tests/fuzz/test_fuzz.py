"""A few hundred inputs of the campaign, and that it sees what it must see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
import pytest

from facekit.errors import DataError

from . import child

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="processes are watched by /proc")


def fuzz(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_some_inputs_of_the_campaign_show_no_fault():
    done = fuzz("--inputs", "200")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_input_is_the_same_whenever_it_is_made(tmp_path):
    from . import photos

    def made(name: str, number: int, folder: Path) -> list[tuple]:
        folder.mkdir(parents=True)
        next(photos.TARGETS[name](Random(f"0 {name} {number}"), folder))
        files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
        return [(path.relative_to(folder), sha256(path.read_bytes()).digest()) for path in files]

    for name in ("table", "picture", "tree", "archive", "cifar"):
        for number in range(12):
            one, other = (made(name, number, tmp_path / f"{name}-{number}-{turn}") for turn in "ab")
            assert one == other, f"{name}:{number}"


# --- every end, as `python -m tests.fuzz --module` finds it in this file


def fine(rng: Random, folder: Path) -> Iterator:
    yield


def refused(rng: Random, folder: Path) -> Iterator:
    yield
    raise DataError("what was wrong, where, and what to do")


def foreign(rng: Random, folder: Path) -> Iterator:
    (folder / "x").write_bytes(bytes(rng.randrange(1000)))
    yield
    raise KeyError("x")


def wordless(rng: Random, folder: Path) -> Iterator:
    yield
    raise DataError("")


def crash(rng: Random, folder: Path) -> Iterator:
    yield
    os.kill(os.getpid(), 11)


def hang(rng: Random, folder: Path) -> Iterator:
    child.CPU_SECONDS = 0
    yield
    while True:
        pass


def memory(rng: Random, folder: Path) -> Iterator:
    child.MEMORY = 2**26
    yield
    np.ones(2**27, np.uint8)


def silent(rng: Random, folder: Path) -> Iterator:
    yield
    raise child.Changed("another label")


def unmade(rng: Random, folder: Path) -> Iterator:
    raise ValueError
    yield


TARGETS = {f.__name__: f for f in (fine, refused, foreign, wordless, crash, hang, memory, silent, unmade)}
SHARES = dict.fromkeys(TARGETS, 1)


def test_it_sees_every_end():
    done = fuzz("--module", "tests.fuzz.test_fuzz", "--inputs", str(2 * len(TARGETS)), "--seed", "3")
    head, *rows = [line.split() for line in done.stdout.split("\n\n")[0].splitlines()]
    seen = {name: {end for end, count in zip(head, counts, strict=True) if count == "2"} for name, *counts in rows[:-1]}
    ends = {name: {name} for name in TARGETS} | {"fine": {"accepted"}, "wordless": {"foreign"}}
    assert seen == ends and done.returncode == 1, done.stdout + done.stderr
    assert "--seed 3 --only foreign:" in done.stdout and "KeyError" in done.stdout
    assert fuzz("--module", "tests.fuzz.test_fuzz", "--only", "refused:1").returncode == 0
