"""Speed, side by side in one run: embedding against facenet-pytorch's own way, and the step of networks that share.

What lessons and records show of speed is measured here; `benchmarks/` has the rest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import numpy as np
import pandas as pd
import torch

from facekit import records, settings
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone, fused_copy
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import EmbeddingPrecision, embed, has_fast_bf16
from facekit.models.multitask import CrossStitch, SharedNet, Stack, mlp, sharing_costs, stack_of
from facekit.models.weights import local_weights
from facekit.tasks import AGE_BAND, GENDER, RACE, Task
from facekit.training.batches import Batch, Batches
from facekit.training.methods import Method, Supervised
from facekit.transfer.sharing import SoftSharing


def fastest(rows: Mapping[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Least seconds of a call of each row, by name. Whoever calls this has called every row once, to warm up.

    The rows take turns, so that a machine that is busy with something else slows all of them.
    """
    wait: Callable[[], object] = partial(torch.cuda.synchronize, device) if device.type == "cuda" else int
    least = dict.fromkeys(rows, math.inf)
    for _ in range(rounds):
        for name, run in rows.items():
            wait()
            start = time.perf_counter()
            run()
            wait()
            least[name] = min(least[name], time.perf_counter() - start)
    return least


def rates(title: str, per_second: Mapping[str, float]) -> pd.DataFrame:
    """Photos a second by row as a table: columns `title`, photos_per_second, times (as fast as the first row)."""
    table = pd.DataFrame({title: list(per_second), "photos_per_second": list(per_second.values())})
    return table.assign(times=table["photos_per_second"] / table["photos_per_second"][0])


def machine(device: torch.device) -> str:
    """What a benchmark is run with, for its first line."""
    return f"on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads"


def bench_embedding(
    images: int = 256, batch_size: int = 128, rounds: int = 2, device: str | None = None
) -> pd.DataFrame:
    """Measures how fast embeddings are computed, against facenet-pytorch called as its README shows.

    Every row adds one thing to the row above, up to `embed`; cached embeddings are not used. Photos are noise (the
    time does not depend on them), at each network's own size unless the row says otherwise; FaceNet has its real
    weights if they are on this machine, else random ones. Every row is run once to warm up, then the rows take turns.

    Args:
        images: photos per measurement.
        batch_size: photos per batch.
        rounds: measurements per row; the fastest counts.
        device: where to compute, by default as everywhere in facekit.

    Returns:
        Columns row, photos_per_second, times (as fast as the first row) and least_cosine (to the first row's
        embeddings; NaN for facenet-mini, which is another network). Also printed.
    """
    if min(images, batch_size, rounds) < 1:
        raise ConfigError(f"images, batch_size and rounds must be 1 or more, got {images}, {batch_size}, {rounds}.")
    place = settings.device(device)
    weights = local_weights()
    facenet = FaceNet.from_pretrained(weights) if weights else FaceNet().eval()
    print(
        f"{images} photos in batches of {batch_size} {machine(place)} ({records.hardware()}), "
        f"FaceNet with {'its' if weights else 'random'} weights"
    )
    rows = _embedding_rows(facenet, images, batch_size, place)
    results = {name: run() for name, run in rows.items()}
    first = next(iter(results.values()))
    table = rates("row", {name: images / seconds for name, seconds in fastest(rows, rounds, place).items()})
    table["least_cosine"] = [
        float("nan") if FaceNetMini.name in name else float((first * found).sum(1).min())
        for name, found in results.items()
    ]
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return table


def _embedding_rows(
    facenet: FaceNet, images: int, batch_size: int, device: torch.device
) -> dict[str, Callable[[], np.ndarray]]:
    """Name of a row to a function that embeds all photos, float32 (N, 512)."""
    mini = FaceNetMini().eval()
    generator = np.random.default_rng(0)
    labels = pd.DataFrame({"split": ["train"] * images})
    faces = FaceSet(generator.integers(0, 256, (images, 3, 160, 160), dtype=np.uint8), labels)
    small = faces.resized(mini.image_size)
    pixels = torch.from_numpy(faces.images)

    def by_hand(
        net: torch.nn.Module,
        layout: torch.memory_format,
        bf16: bool = False,
        mode: Callable[[], AbstractContextManager] = torch.inference_mode,
    ) -> Callable[[], np.ndarray]:
        def run() -> np.ndarray:
            with mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                parts = [
                    net(((photos.to(device).float() - 127.5) / 128).contiguous(memory_format=layout))
                    for photos in pixels.split(batch_size)
                ]
                return torch.cat(parts).float().cpu().numpy()

        return run

    def through_embed(backbone: Backbone, data: FaceSet, precision: EmbeddingPrecision) -> Callable[[], np.ndarray]:
        return lambda: embed(backbone, data, batch_size, device=device, cache=False, precision=precision).features

    plain = facenet.net.to(device)
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    first, last = (fused_copy(facenet, channels_last=flag).net for flag in (False, True))
    best: EmbeddingPrecision = "bf16" if has_fast_bf16(device) else "fp32"
    return {
        "facenet-pytorch as in its README": by_hand(plain, nchw, mode=torch.no_grad),
        "+ inference_mode, fused BatchNorm": by_hand(first, nchw),
        "+ channels_last": by_hand(last, nhwc),
        "+ bf16": by_hand(last, nhwc, bf16=True),
        f"embed, FaceNet, {best}": through_embed(facenet, faces, best),
        "embed, facenet-mini, fp32": through_embed(mini, small, "fp32"),
        "embed, facenet-mini, bf16": through_embed(mini, small, "bf16"),
        "embed, facenet-mini, fp32, resized from 160": through_embed(mini, faces, "fp32"),
    }


def bench_sharing(
    rounds: int = 5, batch_size: int = 64, device: str | None = None, on: tuple[str, ...] = ("features", "photos")
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
        Columns on, row, parameters, milliseconds, times (the time of the network with one task), also printed.
    """
    if rounds < 1 or batch_size < 2:
        raise ConfigError(f"rounds must be 1 and batch_size 2 or more, got {rounds} and {batch_size}.")
    if not on or set(on) - {"features", "photos"}:
        raise ConfigError(f"measure on features, on photos or on both; got {on}.")
    place = settings.device(device)
    tasks = (GENDER, RACE, AGE_BAND)
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({task.name: rng.choice(task.classes, batch_size) for task in tasks} | {"split": "train"})
    photos = rng.integers(0, 256, (batch_size, 3, 96, 96), dtype=np.uint8)
    features = rng.normal(size=(batch_size, 512)).astype(np.float32) / 512**0.5
    sets = {
        "features": (FeatureSet(features, labels), mlp(512)),
        "photos": (FaceSet(photos, labels), stack_of(FaceNetMini())),
    }
    print(f"{batch_size} rows a step {machine(place)}")
    tables = []
    for kind in on:
        data, stack = sets[kind]
        batch = next(Batches(data, tasks, batch_size, device=place).epoch())
        rows = _sharing_rows(stack, tasks)
        steps = {name: partial(_step, net.to(place).train(), method, batch) for name, (net, method) in rows.items()}
        for step in steps.values():
            step()
        table = pd.DataFrame({"on": kind, "row": list(rows)})
        table["parameters"] = [int(sharing_costs(net)["all"]) for net, _ in rows.values()]
        table["milliseconds"] = [1000 * seconds for seconds in fastest(steps, rounds, place).values()]
        tables.append(table.assign(times=table["milliseconds"] / table["milliseconds"][0]))
    table = pd.concat(tables, ignore_index=True)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return table


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
