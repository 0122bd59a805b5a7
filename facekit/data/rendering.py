"""What the renderers of portraits, lesions, things and words have in common: checks, splits, and several cores.

A picture is a function of a seed and its number alone. Which side it is on follows from a key, by content hash as in
every set, so it depends neither on how many there are nor on the order in which they are drawn.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from itertools import count, takewhile
from multiprocessing import get_context, parent_process
from operator import index
from types import ModuleType

import numpy as np
import pandas as pd

from facekit import settings
from facekit.data.sets import SPLITS, FaceSet
from facekit.data.splits import split_by_content
from facekit.errors import ConfigError

FRACTIONS = (0.70, 0.15, 0.15)
SMALLEST, LARGEST = 16, 1024
# What manifests of drawn sets begin with.
DRAWN = {"licence": "MIT", "datasheet": "datasets/drawn/README.md"}
Picture = tuple[np.ndarray, dict]  # uint8 (3, H, W), and its labels
# Pictures that a process draws at a time.
CHUNK = 16
# Pixels from which on another process is worth its start (about half a second).
WORTHWHILE = 150 * 160 * 160


def rendered_set(
    key: Callable[[int], str],
    draw: Callable[[int], Picture],
    about: dict,
    request: dict,
    smallest: int = SMALLEST,
    per_key: int = 1,
    workers: int | None = 1,
    square: bool = True,
) -> FaceSet:
    """Draws the first pictures of a series as a FaceSet: the labels that `draw` gives, and `split` (70 / 15 / 15 %).

    key: number of a picture to the text that its side follows from; pictures with the same key are on the same side.
    about: the manifest, to which `request` is added: n (how many, or how many in train, validation and test), seed,
    size (the side in pixels, or height and width), and whatever else was asked for. smallest: side that can be drawn.
    per_key: pictures that have the same key, one after the other. workers: processes, see `paint`; None for one a core
    where that pays. square: one number is the size. Raises ConfigError for impossible numbers, seeds and sizes.
    """
    sizes = checked_sizes(request["n"])
    if square and np.ndim(request["size"]):
        raise ConfigError(f"size {request['size']!r}: these pictures are squares; give one number.")
    height, width = checked_shape(request["size"], smallest)
    if request["seed"] < 0:
        raise ConfigError(f"seed {request['seed']} is negative; use 0 or more.")
    numbers = range(sizes) if isinstance(sizes, int) else _numbers_by_split(sizes, key, per_key)
    images = np.empty((len(numbers), 3, height, width), np.uint8)
    rows: list[dict] = [{}] * len(numbers)
    workers = workers or (settings.cores() if images.size >= 3 * WORTHWHILE else 1)
    pictures = paint(draw, numbers, workers)
    for place, picture in settings.progress(pictures, total=len(numbers), desc="drawing", unit="picture"):
        images[place], rows[place] = picture
    labels = pd.DataFrame(rows)
    labels["split"] = split_by_content([key(number) for number in numbers], FRACTIONS)
    return FaceSet(images, labels, {**about, "request": {**request, "n": sizes}})


def _numbers_by_split(sizes: Sequence[int], key: Callable[[int], str], per_key: int) -> list[int]:
    """The first pictures of the series that fill every split to its size."""
    left = dict(zip(SPLITS, sizes, strict=True))
    numbers: list[int] = []
    for number in takewhile(lambda _: any(left.values()), count()):
        if number > 20 * (sum(sizes) + 50) * per_key:  # as many as that have no other key: a small alphabet's strings
            raise ConfigError(f"too few different pictures to fill {sizes}; ask for more variety or fewer of them.")
        split = split_by_content([key(number)], FRACTIONS)[0]
        if left[split]:
            left[split] -= 1
            numbers.append(number)
    return numbers


def checked_sizes(n: int | Sequence[int]) -> int | list[int]:
    """The wanted number, or one for each split, as plain integers; raises ConfigError for anything else."""
    try:
        sizes = [index(part) for part in (n if isinstance(n, Iterable) else [n])]
    except TypeError:
        sizes = []
    if len(sizes) != (len(SPLITS) if np.ndim(n) else 1) or min(sizes) < 0 or not any(sizes):
        raise ConfigError(f"{n} pictures: give a number above 0, or three for {', '.join(SPLITS)}, none negative.")
    return sizes if np.ndim(n) else sizes[0]


def checked_shape(size: int | tuple[int, int], smallest: int = SMALLEST) -> tuple[int, int]:
    """Height and width in pixels; raises ConfigError where a side is too small or too large to draw on."""
    try:
        height, width = map(index, size if isinstance(size, Iterable) else (size, size))
    except (TypeError, ValueError):
        raise ConfigError(f"size {size!r}: give whole pixels, one number or a height and a width.") from None
    if not (smallest <= height <= LARGEST and smallest <= width <= LARGEST):
        raise ConfigError(f"pictures of {height} × {width} pixels cannot be drawn; use {smallest} to {LARGEST}.")
    return height, width


def to_bytes(image: np.ndarray) -> np.ndarray:
    """Values in [0, 1] to uint8, rounded; what is outside is cut. The image is used up."""
    np.clip(image, 0, 1, out=image)
    image *= 255
    image += np.float32(0.5)
    return image.astype(np.uint8)


# --- several cores ---------------------------------------------------------------------------------------------------


def paint(draw: Callable[[int], Picture], numbers: Sequence[int], workers: int) -> Iterator[tuple[int, Picture]]:
    """Every place in `numbers` with its picture, in any order; the work is shared by processes, this one included.

    Drawing is many small array operations, during which Python's interpreter lock is held, so threads gain nothing.
    Helpers are fresh interpreters. Nothing is forked (this process may have threads or a GPU), and no script is run a
    second time, so they work in notebooks and on every system. What a helper does not deliver is painted here.
    """
    chunks = {start: numbers[start : start + CHUNK] for start in range(0, len(numbers), CHUNK)}
    helpers = min(workers, len(chunks)) - 1
    waiting, helped, ready = deque(chunks), dict[Future[list[Picture]], int](), list[Future[int]]()
    with ExitStack() as stack:
        # Without memory, an interpreter or semaphores for helpers, all is painted here; and so is what comes before
        # they are ready.
        with suppress(OSError, NotImplementedError, BrokenExecutor), _no_script():
            if helpers > 0:
                pool = ProcessPoolExecutor(helpers, get_context("spawn"), _end_with_parent)
                stack.callback(pool.shutdown, wait=False, cancel_futures=True)
                ready += [pool.submit(len, "") for _ in range(helpers)]
        while waiting or helped:
            with suppress(OSError, BrokenExecutor), _no_script():
                while waiting and len(helped) < 2 * sum(map(Future.done, ready)):
                    helped[pool.submit(_pictures, draw, chunks[waiting[0]])] = waiting[0]
                    waiting.popleft()
            if waiting:
                start = waiting.popleft()
                yield from enumerate(map(draw, chunks[start]), start)
            for future in list(filter(Future.done, helped)) if waiting else wait(helped, None, FIRST_COMPLETED).done:
                start = helped.pop(future)
                yield from enumerate(map(draw, chunks[start]) if future.exception() else future.result(), start)


def _end_with_parent() -> None:
    """Ends this helper with the process that started it, also where that was killed: its queue would stay open."""
    parent = parent_process()
    assert parent is not None, "a helper was started by somebody"

    def wait_for_it() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait_for_it, daemon=True).start()


@contextmanager
def _no_script() -> Iterator[None]:
    """Inside, a new process finds no script of this one, which it would run once more."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _pictures(draw: Callable[[int], Picture], numbers: Sequence[int]) -> list[Picture]:
    return [draw(number) for number in numbers]
