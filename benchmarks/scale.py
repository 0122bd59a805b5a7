"""What training costs in memory and time against photos, batch, tasks and domains; and what reading ahead is worth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.data import sets
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError
from facekit.experiments.speed import fastest, figures, noise, waited
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.build import Base
from facekit.models.heads import Classifier, Heads
from facekit.models.staged import Staged
from facekit.tasks import GENDER, Task
from facekit.training.batches import AHEAD, Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Method, Supervised
from facekit.training.plans import plan
from facekit.transfer.table import row

ROOT = Path(__file__).resolve().parents[1]
STATUS = Path("/proc/self/status")
BATCH, STEPS, HELD_OUT = 32, 8, 500  # of one measurement of memory
SIZE = 32  # pixels


def bench_scale(
    photos: Sequence[int] = (10_000, 100_000, 1_000_000),
    batches: Sequence[int] = (16, 64, 256),
    tasks: Sequence[int] = (1, 3, 9),
    domains: Sequence[int] = (1, 2, 4),
    read: int = 640,
    rounds: int = 3,
    device: str | None = None,
) -> pd.DataFrame:
    """Measures memory and time of training against photos, batch, tasks and domains, and what reading ahead is worth.

    Memory is what the trainer takes of it (Linux: `RssAnon` at its highest, less what there was before, when model and
    labels were made), each in a process of its own, for photos of 32 pixels in a memory-mapped file with holes, of
    which nothing is copied; its checkpoint is among it. Times are those of steps of facenet-mini's whole network on
    photos of 32 pixels. What is read ahead are photos of 160 pixels in a memory-mapped file that was just dropped from
    the system's memory, while facenet-mini embeds them.

    Args:
        photos: Numbers of photos, from the fewest.
        batches: Photos a step.
        tasks: Numbers of heads with two classes.
        domains: Numbers of sets that share the network and a step of 64 photos.
        read: Photos of 160 pixels that are read (77 KB each, on this machine's disk for temporary files).
        rounds: Measurements of a time; the fastest counts.
        device: Where to compute, by default as everywhere in facekit.

    Returns:
        `figures`: MB of memory and bytes a photo, ms/step, and photos/s.
    """
    numbers = [photos, batches, tasks, domains, [read], [rounds]]
    if not all(numbers) or min(map(min, numbers)) < 1 or min(*batches, read) < 2 or len(photos) < 2:
        raise ConfigError(
            "every number must be 1 or more, batches and read 2 or more, and photos at least two numbers."
        )
    place = settings.device(device)
    parts = [_memory(photos)] if STATUS.exists() else []
    by_batch = {f"{size} photos a step": (size, 1, 1) for size in batches}
    by_task = {f"{count} tasks": (64, count, 1) for count in tasks}
    by_domain = {f"{count} domains": (64, 1, count) for count in domains}
    for cases in (by_batch, by_task, by_domain):
        steps = {name: _steps(*case, place) for name, case in cases.items()}
        for step in steps.values():
            step()
        milliseconds = {name: 1e3 * seconds / STEPS for name, seconds in fastest(steps, rounds, place).items()}
        parts.append(figures(milliseconds, "ms/step"))
    return pd.concat([*parts, _reading(read, rounds, place)], ignore_index=True)


def labels(n: int, held_out: int = 0, tasks: Sequence[Task] = (GENDER,)) -> pd.DataFrame:
    """Labels of classes at random for n photos, the last of them in validation."""
    rng = np.random.default_rng(0)
    columns = {task.name: pd.Categorical.from_codes(rng.integers(0, 2, n), task.classes).astype(str) for task in tasks}
    return pd.DataFrame({**columns, "split": np.repeat(["train", "validation"], [n - held_out, held_out])})


def _memory(photos: Sequence[int]) -> pd.DataFrame:
    """What a training takes of memory for so many photos, and what one more photo takes."""
    told = [measured(n) for n in photos]
    more = photos[-1] - photos[0]
    by_number = {f"trainer, {n:,} photos": each["trainer"] / 1e6 for n, each in zip(photos, told, strict=True)}
    by_photo = {what: (told[-1][what] - told[0][what]) / more for what in ("trainer", "labels")}
    names = {"trainer": "trainer, one more photo", "labels": "labels (a class, a split), one more photo"}
    each = {names[what]: value for what, value in by_photo.items()}
    return pd.concat([figures(by_number, "MB"), figures(each, "bytes", compare=False)], ignore_index=True)


def measured(n: int) -> dict[str, int]:
    """What `memory_of` prints, of a new process."""
    command = [sys.executable, "-c", f"from benchmarks.scale import memory_of; memory_of({n})"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise ConfigError(f"{n} photos could not be measured: {done.stderr[-300:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def memory_of(n: int) -> None:
    """Trains some steps on n photos in a process of its own and prints, as JSON, the bytes that labels and training
    took."""
    torch.manual_seed(0)
    sets.COPIED = 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npy"
        pixels = np.lib.format.open_memmap(path, "w+", np.uint8, (n, 3, SIZE, SIZE))
        del pixels
        network = Classifier(FaceNetMini(), Heads(FaceNetMini.embedding_dim, [GENDER]))
        started(network, FaceSet(noise(64, SIZE).images, labels(64)), STEPS)  # what torch keeps from its first steps
        before = anonymous()
        data = FaceSet(np.lib.format.open_memmap(path, mode="r"), labels(n, HELD_OUT))
        parts = data.split("train"), data.split("validation")
        made = anonymous()
        peak, done = [made], threading.Event()

        def watch() -> None:
            while not done.wait(0.002):
                peak[0] = max(peak[0], anonymous())

        watching = threading.Thread(target=watch)
        watching.start()
        fit(
            network,
            Supervised([GENDER]),
            *parts,
            plan("everything", list(network.stages), 1, 1e-4),
            TrainConfig(BATCH, steps=STEPS, device="cpu"),
            Path(folder) / "run",
        )
        done.set()
        watching.join()
    print(json.dumps({"labels": made - before, "trainer": peak[0] - made}))


def started(network: Staged, data: FaceSet, steps: int) -> None:
    """Some steps of training."""
    recipe = plan("everything", list(network.stages), 1, 1e-4)
    fit(network, Supervised([GENDER]), data, None, recipe, TrainConfig(BATCH, steps=steps, device="cpu"))


def anonymous() -> int:
    """Bytes of this process in memory that no file stands behind."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def _steps(batch_size: int, tasks: int, domains: int, place: torch.device) -> Callable[[], float]:
    """Makes a function that trains facenet-mini some steps and returns their seconds, from the second on."""
    torch.manual_seed(0)
    asked = [replace(GENDER, name=f"task {number}") for number in range(tasks)]
    data = noise(2 * batch_size, SIZE, asked)
    config = TrainConfig(batch_size, steps=STEPS, device=str(place))

    def run() -> float:
        base = Base(FaceNetMini(), FaceNetMini.embedding_dim)
        given: Mapping[str | None, FaceSet] = {None: data}
        network: Staged = base.classifier(asked)
        method: Method = Supervised(asked)
        if domains > 1:
            given = {f"set {number}": data for number in range(domains)}
            each = {str(name): asked for name in given}
            network, method = row("one_network").trained(
                base.stack, partial(base.classifier, asked), each, STEPS, base.backbone, given
            )
        recipe = plan("everything", list(network.stages), 1, 1e-4)
        return fit(network, method, given, None, recipe, config).seconds

    return run


def _reading(n: int, rounds: int, place: torch.device) -> pd.DataFrame:
    """Photos/s of facenet-mini on photos of a disk, read when they are asked for or ahead, beside some in memory."""
    network = FaceNetMini().eval().to(place)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "inputs.npy"
        here = noise(n, 160)
        with open(path, "wb") as file:
            np.save(file, here.images)
            file.flush()
            os.fsync(file.fileno())

        def embedded(data: FaceSet, ahead: int) -> None:
            parts = Batches(data, (), 64, device=place)
            parts.ahead = ahead
            with torch.inference_mode():
                for batch in parts.epoch():
                    network(batch.inputs)

        def from_disk(ahead: int) -> float:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            start = waited(place)
            embedded(FaceSet(np.lib.format.open_memmap(path, mode="r"), labels(n)), ahead)
            return waited(place) - start

        limit = "photos in memory"
        rows: dict[str, Callable[[], object]] = {
            "photos on a disk, read when asked for": partial(from_disk, 0),
            f"photos on a disk, {AHEAD} batches ahead": partial(from_disk, AHEAD),
            limit: partial(embedded, here, 0),
        }
        for run in rows.values():
            run()
        return figures({name: n / seconds for name, seconds in fastest(rows, rounds, place).items()}, limit=limit)
