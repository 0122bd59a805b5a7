"""The benchmark of scale: its table, and that it sees the memory of what a training holds of every photo."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import scale
from facekit.errors import ConfigError


def test_every_case_has_a_row(monkeypatch):
    told = {1000: {"labels": 5_000, "trainer": 2_000_000}, 2000: {"labels": 105_000, "trainer": 2_018_000}}
    monkeypatch.setattr(scale, "measured", told.get)
    monkeypatch.setattr(scale, "STEPS", 2)
    found = scale.bench_scale((1000, 2000), (4, 8), (1, 2), (1, 2), read=8, rounds=1, device="cpu")
    values = found.set_index("row")["value"]
    assert values["trainer, 2,000 photos"] == 2.018 and values["trainer, one more photo"] == 18
    assert values["labels (a class, a split), one more photo"] == 100
    assert list(found["unit"]) == ["MB"] * 2 + ["bytes"] * 2 + ["ms/step"] * 6 + ["photos/s"] * 3
    assert (found["value"] > 0).all() and np.isclose(found["share"].iloc[-1], 1)


@pytest.mark.parametrize("wrong", [{"photos": (1000,)}, {"batches": (1,)}, {"rounds": 0}, {"domains": ()}])
def test_what_cannot_be_measured_is_refused(wrong):
    with pytest.raises(ConfigError, match="must be"):
        scale.bench_scale(**wrong)


GREEDY = """
import numpy as np
from benchmarks import scale
from facekit.training.batches import Batches

made = Batches.__init__

def greedy(self, data, *how, **more):
    made(self, data, *how, **more)
    self.greed = np.ones((len(data), 100_000), np.uint8)

Batches.__init__, scale.STEPS = greedy, 2
scale.memory_of(scale.HELD_OUT + 500)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_memory_that_a_training_takes_for_its_photos_is_seen():
    """In a new process: in one that has had much memory, more of it is not seen."""
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, cwd=scale.ROOT, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["trainer"] > 1000 * 100_000, "a hundred kilobytes a photo"
