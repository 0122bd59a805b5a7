"""Speed, side by side in one run: embedding, training with each switch, and the step of networks that share.

What lessons and records show of speed is measured here; `benchmarks/` has the rest. Nothing is printed: a measurement
is a table, always of the same form (`figures`).
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, redirect_stdout
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from facenet_pytorch import InceptionResnetV1, fixed_image_standardization, training
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, ToTensor, v2

from facekit import settings
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone, fused_copy
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import EmbeddingPrecision, embed, has_fast_bf16
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import CrossStitch, SharedNet, Stack, mlp, sharing_costs, stack_of
from facekit.models.staged import Staged
from facekit.models.weights import local_weights
from facekit.tasks import AGE_BAND, GENDER, RACE, Task
from facekit.training.augment import Augment
from facekit.training.batches import Batch, Batches
from facekit.training.loop import TrainConfig, fit
from facekit.training.methods import Loss, Method, Supervised
from facekit.training.plans import plan
from facekit.training.scoring import autocast
from facekit.transfer.sharing import SoftSharing

TASKS = (GENDER, RACE, AGE_BAND)
LAYOUT, BF16, FUSED = "channels_last", "bf16", "fused AdamW"
AUGMENT, RESIDENT, UNREAD, COMPILE = "augmented on the device", "photos on the device", "losses unread", "compile"
SWITCHES = {
    LAYOUT: "the numbers of all channels of a pixel lie side by side in memory, as convolutions read them",
    BF16: "products in 16 bits instead of 32, where autocast finds it safe; weights stay in 32",
    FUSED: "one pass over all weights for the optimiser's step",
    AUGMENT: "a batch is changed at once on the device, instead of photo by photo with torchvision on the CPU",
    RESIDENT: "all photos lie on the device in one tensor and are changed there; no DataLoader fetches them",
    UNREAD: "no loss is read before the end, so that nobody waits for the device",
    COMPILE: "torch.compile writes a program for this network and this device",
}
EMBEDDER, OWN_BATCHES = "facenet-pytorch as in its README", "embed in batches of its own"
PEER, PLAIN, ALL = "facenet-pytorch's loop", "plain loop", "all switches"
LOOP, BARE, LIMIT = f"facekit's loop, {ALL}", "bare step, no switch", f"bare step, {ALL}"
NETWORKS: Mapping[str, Callable[[], Backbone]] = {"facenet": FaceNet, "mini": FaceNetMini}
RATE = 1e-4  # of all training here: the time does not depend on it, but the loss has to stay finite


def waited(device: torch.device) -> float:
    """The time in seconds, once the device has done all that it was told."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def fastest(rows: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Least seconds of a call of each row, by name. Whoever calls this has called every row once, to warm up.

    The rows take turns, so that a machine that is busy with something else slows all of them. A row that returns a
    float tells its own seconds.
    """
    least = dict.fromkeys(rows, math.inf)
    for _ in range(rounds):
        for name, run in rows.items():
            start = waited(device)
            told = run()
            seconds = waited(device) - start
            least[name] = min(least[name], told if isinstance(told, float) else seconds)
    return least


def figures(values: Mapping[str, float], unit: str = "photos/s", limit: str = "", compare: bool = True) -> pd.DataFrame:
    """A measurement as a table, a line a figure: columns row, unit, value, times and share.

    times: the value divided by that of the first row, NaN where rows are not to be compared. share: divided by that of
    the row `limit`, NaN without one.
    """
    table = pd.DataFrame({"row": list(values), "unit": unit, "value": list(map(float, values.values()))})
    table["times"] = table["value"] / table["value"][0] if compare else math.nan
    table["share"] = table["value"] / values[limit] if limit else math.nan
    return table


def noise(n: int, size: int, tasks: Sequence[Task] = ()) -> FaceSet:
    """Photos of noise with labels drawn at random: the time that a network takes does not depend on what it sees."""
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({task.name: rng.choice(task.classes, n) for task in tasks} | {"split": ["train"] * n})
    return FaceSet(rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8), labels)


def bench_embedding(
    images: int | None = None, batch_size: int | None = None, rounds: int = 2, device: str | None = None
) -> pd.DataFrame:
    """Measures how fast embeddings are computed, against facenet-pytorch called as its README shows.

    Every row adds one thing to the row above, up to `embed`; cached embeddings are not used. Photos are noise (the
    time does not depend on them), at each network's own size unless the row says otherwise; FaceNet has its real
    weights if they are on this machine, else random ones. On a CPU the first way is faster in small batches: it is
    measured in smaller ones, too, and `embed` in those that it takes by itself, so that either stands at its best.
    Every row is run once to warm up, then the rows take turns.

    Args:
        images: photos per measurement; by default 128, on a GPU 8,192.
        batch_size: photos per batch, unless a row says another; by default 64, on a GPU 512.
        rounds: measurements per row; the fastest counts.
        device: where to compute, by default as everywhere in facekit.

    Returns:
        `figures`: photos/s, and the least cosine of FaceNet's rows to the embeddings of the first.
    """
    place = settings.device(device)
    usual = (128, 64) if place.type == "cpu" else (8192, 512)
    images, batch_size = usual[0] if images is None else images, usual[1] if batch_size is None else batch_size
    if min(images, batch_size, rounds) < 1:
        raise ConfigError(f"images, batch_size and rounds must be 1 or more, got {images}, {batch_size}, {rounds}.")
    weights = local_weights()
    facenet = FaceNet.from_pretrained(weights) if weights else FaceNet().eval()
    rows = _embedding_rows(facenet, images, batch_size, place)
    results = {name: run() for name, run in rows.items()}
    first = next(iter(results.values()))
    cosines = {
        name: (first * found).sum(1).min() for name, found in results.items() if f" {FaceNetMini.name}" not in name
    }
    rates = {name: images / seconds for name, seconds in fastest(rows, rounds, place).items()}
    unit = f"least cosine{'' if weights else ', random weights'}"
    return pd.concat([figures(rates), figures(cosines, unit, compare=False)], ignore_index=True)


def _embedding_rows(
    facenet: FaceNet, images: int, batch_size: int, device: torch.device
) -> dict[str, Callable[[], np.ndarray]]:
    """Name of a row to a function that embeds all photos, float32 (N, 512)."""
    mini = FaceNetMini().eval()
    faces = noise(images, 160)
    small = faces.resized(mini.image_size)
    pixels = torch.from_numpy(faces.images)

    def by_hand(
        net: torch.nn.Module,
        layout: torch.memory_format,
        bf16: bool = False,
        mode: Callable[[], AbstractContextManager] = torch.inference_mode,
        batch_size: int = batch_size,
    ) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            with mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                parts = [
                    net(((photos.to(device).float() - 127.5) / 128).contiguous(memory_format=layout))
                    for photos in pixels.split(batch_size)
                ]
                return torch.cat(parts).float().cpu().numpy()

        return run

    def through_embed(
        backbone: Backbone, data: FaceSet, precision: EmbeddingPrecision, batch_size: int | None = batch_size
    ) -> Callable[[], np.ndarray]:
        return lambda: embed(backbone, data, batch_size, device=device, cache=False, precision=precision).features

    plain = facenet.net.to(device)
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    first, last = (fused_copy(facenet, channels_last=flag).net for flag in (False, True))
    best: EmbeddingPrecision = "bf16" if has_fast_bf16(device) else "fp32"
    smaller = [size for size in (batch_size // 2, batch_size // 4, batch_size // 8) if size]
    return {
        EMBEDDER: by_hand(plain, nchw, mode=torch.no_grad),
        "+ inference_mode, fused BatchNorm": by_hand(first, nchw),
        "+ channels_last": by_hand(last, nhwc),
        "+ bf16": by_hand(last, nhwc, bf16=True),
        f"embed, FaceNet, {best}": through_embed(facenet, faces, best),
        **{
            f"{EMBEDDER}, batches of {size}": by_hand(plain, nchw, mode=torch.no_grad, batch_size=size)
            for size in smaller
        },
        f"{OWN_BATCHES}, FaceNet, {best}": through_embed(facenet, faces, best, None),
        "embed, facenet-mini, fp32": through_embed(mini, small, "fp32"),
        "embed, facenet-mini, bf16": through_embed(mini, small, "bf16"),
        "embed, facenet-mini, fp32, resized from 160": through_embed(mini, faces, "fp32"),
    }


class PhotoByPhoto(Dataset):
    """The usual way: one photo at a time, changed by torchvision if told so, put into batches by a DataLoader."""

    def __init__(self, faces: FaceSet, tasks: Sequence[Task], augment: bool) -> None:
        usual = Augment()
        move = v2.RandomAffine(0, translate=(usual.shift, usual.shift))
        light = v2.ColorJitter(usual.brightness, usual.contrast)
        self.change = v2.Compose([v2.RandomHorizontalFlip(usual.flip), move, light]) if augment else None
        self.photos, self.targets = torch.from_numpy(faces.images), faces.targets(tasks)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        photo = self.photos[row]
        return self.change(photo) if self.change else photo, {name: all[row] for name, all in self.targets.items()}


def loader(photos: Dataset, batch_size: int, device: torch.device, workers: int | None = None) -> DataLoader:
    """A DataLoader as one would set it for this device: with helpers beside a GPU, which on a CPU are in its way."""
    gpu = device.type == "cuda"
    workers = (min(8, settings.cores()) if gpu else 0) if workers is None else workers
    return DataLoader(
        photos, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0, pin_memory=gpu
    )


def bench_training(
    network: str = "mini",
    batch_size: int | None = None,
    steps: int | None = None,
    rounds: int = 2,
    compile: bool | None = None,
    device: str | None = None,
) -> pd.DataFrame:
    """Measures training a whole network with three heads: each switch alone, all together, and the bare step.

    The plain loop is what one would write: a DataLoader, torchvision's transforms photo by photo, float32, AdamW. Each
    switch (`SWITCHES`) is that loop with one thing changed. facekit's loop is `fit`. The bare step is forward, loss,
    backward and optimiser on one batch that lies on the device: no loop with the same switches can be faster. Of
    FaceNet there is also facenet-pytorch's own loop as in its example: one task instead of three, Adam, no change of
    the photos. Photos are noise; every row warms up first, then the rows take turns and the fastest round counts. Of
    `fit` steps within an epoch count, not what happens once an epoch.

    bf16 is not among all switches where the device only imitates it, nor is torch.compile where it finds no compiler.

    Args:
        network: mini (at 96 pixels) or facenet (at 160).
        batch_size: Photos a step; by default 32, on a GPU 256.
        steps: Steps of one measurement; by default 4, on a GPU 20.
        rounds: Measurements per row; the fastest counts.
        compile: Also tries torch.compile, which takes a minute on a CPU; by default on a GPU only.
        device: Where to compute, by default as everywhere in facekit.

    Returns:
        `figures` in photos/s; the share is that of the bare step with all switches.
    """
    place = settings.device(device)
    gpu = place.type != "cpu"
    usual = (256, 20) if gpu else (32, 4)
    batch_size, steps = usual[0] if batch_size is None else batch_size, usual[1] if steps is None else steps
    if network not in NETWORKS:
        raise ConfigError(f"network is {network!r}; use {' or '.join(NETWORKS)}.")
    if batch_size < 2 or min(steps, rounds) < 1:
        raise ConfigError(f"batch_size must be 2, steps and rounds 1 or more; got {batch_size}, {steps}, {rounds}.")
    bench = _TrainingBench(NETWORKS[network], batch_size, steps, place)
    alone = [name for name in SWITCHES if name != COMPILE and (gpu or name != UNREAD)]
    alone += [COMPILE] if (gpu if compile is None else compile) and _compiles(place) else []
    together = frozenset(alone) - ({BF16} if not has_fast_bf16(place) else set())
    rows: dict[str, Callable[[], object]] = {PEER: bench.peer()} if network == "facenet" else {}
    rows |= {PLAIN: partial(bench.loop, frozenset())}
    rows |= {name: partial(bench.loop, frozenset({name, AUGMENT} if name == RESIDENT else {name})) for name in alone}
    rows |= {ALL: partial(bench.loop, together), LOOP: partial(bench.fit, together)}
    rows |= {BARE: partial(bench.bare, frozenset()), LIMIT: partial(bench.bare, together)}
    bench.count = 1  # enough to warm up
    for name, run in rows.items():
        if name != LOOP:  # which warms up by itself, each time
            run()
    bench.count = steps
    seconds = fastest(rows, rounds, place)
    return figures({name: batch_size * steps / seconds[name] for name in rows}, limit=LIMIT)


class _TrainingBench:
    """Ways to train the same network, `count` steps a call. Rows with the same layout share weights and optimisers."""

    def __init__(self, make: Callable[[], Backbone], batch_size: int, steps: int, device: torch.device) -> None:
        self.make, self.batch_size, self.device, self.count = make, batch_size, device, steps
        self.faces, self.method = noise(batch_size * steps, make().image_size, TASKS), Supervised(TASKS)
        self.augment, self.generator = Augment(), torch.Generator(device).manual_seed(0)
        self.loaders = {by: loader(PhotoByPhoto(self.faces, TASKS, by), batch_size, device) for by in (True, False)}
        self.resident = Batches(self.faces, TASKS, batch_size, device=device, augment=self.augment)
        self.batch = next(self.resident.epoch())
        self.models: dict[bool, Staged] = {}
        self.compiled: dict[bool, Any] = {}
        self.optimisers: dict[tuple[bool, bool], torch.optim.AdamW] = {}

    def model(self, on: Set[str]) -> Staged:
        """The network in the layout of these switches."""
        layout = LAYOUT in on
        if layout not in self.models:
            backbone = self.make()
            model = Classifier(backbone, Heads(backbone.embedding_dim, TASKS)).to(self.device)
            self.models[layout] = model.to(memory_format=torch.channels_last) if layout else model
        return self.models[layout]

    def step(self, on: Set[str], batch: Batch) -> torch.Tensor:
        """The bare step; returns the loss, which the device may still be computing."""
        layout, fused = LAYOUT in on, FUSED in on
        net = self.model(on)
        if (layout, fused) not in self.optimisers:
            self.optimisers[layout, fused] = torch.optim.AdamW(net.parameters(), lr=RATE, fused=fused)
        if COMPILE in on:
            if layout not in self.compiled:
                self.compiled[layout] = torch.compile(net)
            net = self.compiled[layout]
        self.optimisers[layout, fused].zero_grad()
        with autocast(self.device, "bf16" if BF16 in on else "fp32"):
            loss = self.method.loss(net, batch)[0]
        loss.backward()
        self.optimisers[layout, fused].step()
        return loss.detach()

    def batches(self, on: Set[str]) -> Iterator[Batch]:
        """The batches of an epoch, made as the switches say."""
        if RESIDENT in on:
            yield from self.resident.epoch()
            return
        for photos, targets in self.loaders[AUGMENT not in on]:
            inputs = photos.to(self.device, non_blocking=True)
            if AUGMENT in on:
                inputs = self.augment(inputs, self.generator)
            yield Batch(inputs, {name: each.to(self.device) for name, each in targets.items()}, np.empty(0))

    def loop(self, on: Set[str]) -> None:
        """The loop that one would write, with these switches."""
        self.model(on).train()
        total = 0.0
        for batch in islice(self.batches(on), self.count):
            loss = self.step(on, batch)
            if UNREAD not in on:
                total += loss.item()

    def bare(self, on: Set[str]) -> None:
        """Steps on one batch that lies on the device."""
        self.model(on).train()
        for _ in range(self.count):
            self.step(on, self.batch)

    def fit(self, on: Set[str]) -> float:
        """facekit's loop: seconds of its steps, from the second of an epoch on."""
        model, method = self.model(on), _Clocked(self.count, self.device)
        recipe = plan("everything", list(model.stages), epochs=1, lr=RATE)
        config = TrainConfig(
            batch_size=self.batch_size,
            precision="bf16" if BF16 in on else "fp32",
            channels_last=LAYOUT in on,
            compile=COMPILE in on,
            augment=self.augment,
            device=str(self.device),
            steps=self.count + 2,
        )
        fit(model, method, self.faces, None, recipe, config)
        return method.seconds

    def peer(self) -> Callable[[], None]:
        """facenet-pytorch's loop and network, as in its example of fine-tuning, on photos in memory."""
        net = InceptionResnetV1(classify=True, num_classes=len(RACE.classes), device=self.device)
        optimiser, loss = torch.optim.Adam(net.parameters(), lr=RATE), torch.nn.CrossEntropyLoss()
        loading = loader(_AsItsExample(self.faces), self.batch_size, self.device)

        def run() -> None:
            net.train()
            metrics = {"fps": training.BatchTimer(), "acc": training.accuracy}
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                part = list(islice(loading, self.count)) if self.count < len(loading) else loading
                training.pass_epoch(net, loss, part, optimiser, None, metrics, True, self.device)

        return run


class _AsItsExample(Dataset):
    """Photos and one label as facenet-pytorch's example of fine-tuning prepares them."""

    def __init__(self, faces: FaceSet) -> None:
        self.photos, self.labels = faces.images.transpose(0, 2, 3, 1), RACE.encode(faces.labels[RACE.name])
        self.prepare = Compose([np.float32, ToTensor(), fixed_image_standardization])

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.prepare(self.photos[row]), self.labels[row]


class _Clocked(Supervised):
    """Tells how long so many steps of a loop took: between two calls of the loss lies a whole step."""

    def __init__(self, steps: int, device: torch.device) -> None:
        super().__init__(TASKS)
        self.steps, self.device, self.calls, self.seconds = steps, device, 0, 0.0

    def loss(self, model: torch.nn.Module, batch: Batch) -> Loss:
        """As Supervised's. The first step is not counted: it warms up."""
        if self.calls in (1, self.steps + 1):
            self.seconds = waited(self.device) - self.seconds
        self.calls += 1
        return super().loss(model, batch)


def _compiles(device: torch.device) -> bool:
    """Whether torch.compile finds a compiler for the device."""
    try:
        torch.compile(lambda x: x + 1)(torch.zeros(2, device=device))
    except RuntimeError:  # that of torch's compilers
        return False
    return True


def bench_sharing(
    rounds: int = 3, batch_size: int = 64, device: str | None = None, on: tuple[str, ...] = ("features", "photos")
) -> pd.DataFrame:
    """Measures what a training step costs: one network, a network a task, hard and soft sharing, cross-stitch.

    Three tasks (gender, race, age band), forward and backward pass; on features of 512 numbers (one hidden layer of
    256) and on photos of 96 × 96 (facenet-mini, shared up to its last but one stage where it is split). Inputs are
    noise, the time does not depend on them. Every row is run once to warm up, then the rows take turns.

    Args:
        rounds: Measurements per row; the fastest counts.
        batch_size: Rows a step.
        device: Where to compute, by default as everywhere in facekit.
        on: Of `features` and `photos` those to measure on.

    Returns:
        `figures`: ms/step and the parameters; times are those of the network with one task.
    """
    if rounds < 1 or batch_size < 2:
        raise ConfigError(f"rounds must be 1 and batch_size 2 or more, got {rounds} and {batch_size}.")
    if not on or set(on) - {"features", "photos"}:
        raise ConfigError(f"measure on features, on photos or on both; got {on}.")
    place = settings.device(device)
    photos = noise(batch_size, 96, TASKS)
    features = np.random.default_rng(0).normal(size=(batch_size, 512)).astype(np.float32) / 512**0.5
    sets = {
        "features": (FeatureSet(features, photos.labels), mlp(512)),
        "photos": (photos, stack_of(FaceNetMini())),
    }
    tables = []
    for kind in on:
        data, stack = sets[kind]
        batch = next(Batches(data, TASKS, batch_size, device=place).epoch())
        rows = {f"{kind}: {name}": row for name, row in _sharing_rows(stack, TASKS).items()}
        steps = {name: partial(_step, net.to(place).train(), method, batch) for name, (net, method) in rows.items()}
        for step in steps.values():
            step()
        seconds = fastest(steps, rounds, place)
        tables += [
            figures({name: 1000 * seconds[name] for name in rows}, "ms/step"),
            figures({name: sharing_costs(net)["all"] for name, (net, _) in rows.items()}, "parameters"),
        ]
    return pd.concat(tables, ignore_index=True)


def _step(net: SharedNet, method: Method, batch: Batch) -> None:
    net.zero_grad()
    method.loss(net, batch)[0].backward()


def _sharing_rows(stack: Stack, tasks: Sequence[Task]) -> dict[str, tuple[SharedNet, Method]]:
    plain = Supervised(tasks)
    rows: dict[str, tuple[SharedNet, Method]] = {
        "one task": (SharedNet(stack, tasks[:1]), Supervised(tasks[:1])),
        "hard": (SharedNet(stack, tasks), plain),
    }
    if len(stack.stages) > 1:
        last = list(stack.stages)[-3]
        rows[f"hard up to {last}"] = (SharedNet(stack, tasks, last), plain)
    return rows | {
        "a network a task": (SharedNet(stack, tasks, 0), plain),
        "soft": (SharedNet(stack, tasks, 0), SoftSharing(tasks, 1.0)),
        "cross-stitch": (CrossStitch(stack, tasks), plain),
    }
