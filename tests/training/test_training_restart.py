"""A process that is killed: torchrun starts all anew, and they end in the weights of a run that nobody disturbed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch.distributed as dist
from processes import ROOT
from tiny import features

from facekit.data.sets import FeatureSet
from facekit.training.distributed import _this_start

# What torchrun calls is called here with a function: its processes are then forks, and need not import torch each time.
# Each start but the last kills one of its processes; the first one trains undisturbed before.
KILLED = """
import os, signal, sys
import torch
import torch._dynamo
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from facekit.commands.cli import main
from facekit.training import checkpoint, loop
from facekit.training.distributed import process_group
from facekit.transfer.table import table

table()  # with torch._dynamo what each process would else import anew
stored, whole, broken = sys.argv[1:]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Dying(checkpoint.RunLog):
    steps = 0
    def step(self):
        super().step()
        self.steps += 1
        place = int(os.environ["TORCHELASTIC_RESTART_COUNT"]), self.world.rank, self.steps
        if place in [(0, 0, 3), (1, 1, 13)]:  # before the first checkpoint; in the middle of epoch 3, of 5 steps each
            die()

def dying(path, content, write=checkpoint._write):
    if path.name == checkpoint.STATE and os.environ["TORCHELASTIC_RESTART_COUNT"] == "2":
        with checkpoint.atomic_path(path) as temporary:  # the weights are there already
            temporary.write_bytes(content[: len(content) // 2])
            die()
    write(path, content)

def worker():
    torch.set_num_threads(1)
    with process_group("cpu") as world:
        start = os.environ["TORCHELASTIC_RESTART_COUNT"]
        print(f"start {start}.", flush=True)
        options = ["train", "--data", stored, "--backbone", "none", "--tasks", "side,level", "--hidden", "4"]
        options += ["--dropout", "0.1", "--epochs", "5", "--batch_size", "14", "--device", "cpu", "--resume", "true"]
        if start == "0":
            assert main([*options, "--out", whole]) == 0
        loop.RunLog, checkpoint._write = Dying, dying
        assert main([*options, "--out", broken]) == 0
        if start == "3" and world.rank == 1:
            die()  # while the other one waits for it at the end

if __name__ == "__main__":
    how = dict(rdzv_backend="c10d", rdzv_endpoint="localhost:0", start_method="fork", monitor_interval=0.05)
    elastic_launch(LaunchConfig(1, 1, 2, run_id="test", max_restarts=4, **how), worker)()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its processes are forks of one that has imported torch")
def test_a_run_with_killed_processes_ends_in_the_weights_of_an_undisturbed_one(tmp_path):
    parts = [features(70), features(20, seed=1, split="validation"), features(24, seed=2, split="test")]
    labels = pd.concat([part.labels for part in parts])
    stored = FeatureSet(np.concatenate([part.features for part in parts]), labels).save(tmp_path / "set")
    (tmp_path / "killed.py").write_text(KILLED)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    command = [sys.executable, tmp_path / "killed.py", stored, whole, broken]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FACEKIT_PROGRESS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Counter(re.findall(r"start (\d)", done.stdout)) == dict.fromkeys("01234", 2), done.stdout
    assert sorted(path.name for path in broken.iterdir()) == sorted(path.name for path in whole.iterdir())
    for name in ("best.safetensors", "last-0005.safetensors"):
        assert (broken / name).read_bytes() == (whole / name).read_bytes(), name
    logs = [pd.read_csv(folder / "log.csv").drop(columns="seconds") for folder in (whole, broken)]
    pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_nothing_that_dead_processes_wrote_is_taken_for_that_of_the_living():
    """torchrun has one store for all starts; in the second one a process was killed before all had come."""
    store, size = dist.HashStore(), 3
    with ThreadPoolExecutor(size) as pool:
        first = list(pool.map(partial(_this_start, store, size=size), range(size)))
        store.set("facekit/name/0", "dead")
        store.set("facekit/seen/0", store.get("facekit/seen/1"))
        third = list(pool.map(partial(_this_start, store, size=size), range(size)))
    for start in (first, third):
        assert not any(part.check(["address"]) for part in start)
        start[0].set("address", "here")
        assert [part.get("address") for part in start] == [b"here"] * size
