"""Speed, side by side in one run: embedding against facenet-pytorch's own way, and the step of networks that share.

What lessons and records show of speed is measured here; `benchmarks/` has the rest.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from facekit import settings
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError
from facekit.models.backbones.base import Backbone
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.fusing import fused_copy
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import Precision, embed, has_fast_bf16
from facekit.models.multitask import CrossStitch, SharedNet, Stack, mlp, sharing_costs, stack_of
from facekit.models.weights import local_weights
from facekit.tasks import AGE_BAND, GENDER, RACE, Task
from facekit.training.batches import Batch, Batches
from facekit.training.methods import Method, Supervised
from facekit.transfer.sharing import SoftSharing


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
    place = torch.device(device) if device is not None else settings.device()
    weights = local_weights()
    facenet = FaceNet.from_pretrained(weights) if weights else FaceNet().eval()
    print(
        f"{images} photos in batches of {batch_size} on {place} ({_hardware(place)}), torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, FaceNet with {'its' if weights else 'random'} weights"
    )
    rows = _bench_rows(facenet, images, batch_size, place)
    results = {name: run(min(images, batch_size)) for name, run in rows.items()}
    seconds = dict.fromkeys(rows, float("inf"))
    for _ in range(rounds):
        for name, run in rows.items():
            start = time.perf_counter()
            results[name] = run(images)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    first = next(iter(rows))
    table = pd.DataFrame({"row": list(rows), "photos_per_second": [images / seconds[name] for name in rows]})
    table["times"] = table["photos_per_second"] / table["photos_per_second"][0]
    table["least_cosine"] = [
        float("nan") if FaceNetMini.name in name else float((results[first] * results[name]).sum(1).min())
        for name in rows
    ]
    print(table.to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return table


def _hardware(device: torch.device) -> str:
    """Name of the processor or of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    found: dict = getattr(torch.cpu, "get_capabilities", dict)()
    return found.get("cpu_name") or platform.processor() or "unknown"


def _bench_rows(
    facenet: FaceNet, images: int, batch_size: int, device: torch.device
) -> dict[str, Callable[[int], np.ndarray]]:
    """Name of a row to a function that embeds the first n photos, float32 (n, 512)."""
    mini = FaceNetMini().eval()
    generator = np.random.default_rng(0)
    labels = pd.DataFrame({"split": ["train"] * images})
    faces = FaceSet(generator.integers(0, 256, (images, 3, 160, 160), dtype=np.uint8), labels)
    small = faces.resized(mini.image_size)
    pixels = torch.from_numpy(faces.images)

    def batches(net: torch.nn.Module, n: int, layout: torch.memory_format) -> np.ndarray:
        parts = [
            net(
                ((pixels[i : min(i + batch_size, n)].to(device).float() - 127.5) / 128).contiguous(memory_format=layout)
            )
            for i in range(0, n, batch_size)
        ]
        return torch.cat(parts).float().cpu().numpy()

    def as_readme(n: int) -> np.ndarray:
        with torch.no_grad():
            return batches(plain, n, torch.contiguous_format)

    def fused(net: torch.nn.Module, layout: torch.memory_format, bf16: bool) -> Callable[[int], np.ndarray]:
        def run(n: int) -> np.ndarray:
            with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return batches(net, n, layout)

        return run

    def through_embed(backbone: Backbone, data: FaceSet, precision: Precision) -> Callable[[int], np.ndarray]:
        return lambda n: (
            embed(backbone, data.select(range(n)), batch_size, device=device, cache=False, precision=precision).features
        )

    plain = facenet.net.to(device)
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    first, last = (fused_copy(facenet, channels_last=flag).net for flag in (False, True))
    best: Precision = "bf16" if has_fast_bf16(device) else "fp32"
    return {
        "facenet-pytorch as in its README": as_readme,
        "+ inference_mode, fused BatchNorm": fused(first, nchw, False),
        "+ channels_last": fused(last, nhwc, False),
        "+ bf16": fused(last, nhwc, True),
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
    place = torch.device(device) if device is not None else settings.device()
    tasks = (GENDER, RACE, AGE_BAND)
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({task.name: rng.choice(task.classes, batch_size) for task in tasks} | {"split": "train"})
    photos = rng.integers(0, 256, (batch_size, 3, 96, 96), dtype=np.uint8)
    features = rng.normal(size=(batch_size, 512)).astype(np.float32) / 512**0.5
    sets = {
        "features": (FeatureSet(features, labels), mlp(512)),
        "photos": (FaceSet(photos, labels), stack_of(FaceNetMini())),
    }
    print(f"{batch_size} rows a step on {place}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    tables = []
    for kind in on:
        data, stack = sets[kind]
        batch = next(Batches(data, tasks, batch_size, device=place).epoch())
        rows = {name: (net.to(place).train(), method) for name, (net, method) in _step_rows(stack, tasks).items()}
        least = dict.fromkeys(rows, math.inf)
        for i in range(rounds + 1):
            for name, (net, method) in rows.items():
                seconds = _step_seconds(net, method, batch, place)
                least[name] = min(least[name], seconds) if i else math.inf
        table = pd.DataFrame({"on": kind, "row": list(rows)})
        table["parameters"] = [int(sharing_costs(net)["all"]) for net, _ in rows.values()]
        table["milliseconds"] = [1000 * seconds for seconds in least.values()]
        tables.append(table.assign(times=table["milliseconds"] / table["milliseconds"][0]))
    table = pd.concat(tables, ignore_index=True)
    print(table.to_string(index=False, float_format="{:.3g}".format))
    return table


def _step_rows(stack: Stack, tasks: Sequence[Task]) -> dict[str, tuple[SharedNet, Method]]:
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


def _step_seconds(net: SharedNet, method: Method, batch: Batch, device: torch.device) -> float:
    """Seconds of a forward and a backward pass, once."""
    wait: Callable[[], object] = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    net.zero_grad()
    wait()
    start = time.perf_counter()
    method.loss(net, batch)[0].backward()
    wait()
    return time.perf_counter() - start
