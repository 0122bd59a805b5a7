"""What accidents make of a file, the same in every run: for laws on what is read back.

Each law reads: whatever happens to a file, reading it raises our error with the remedy, or gives what was written.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

ODD: tuple[object, ...] = (None, True, "", "x", -1, 1e300, [], ["x"], {}, {"x": 1})


def damaged(content: bytes, n: int, seed: int = 0) -> Iterator[bytes]:
    """`n` versions of a file's bytes that differ from them: bits flipped, cut, something added, written over, moved."""
    rng = np.random.default_rng(seed)
    yield b""
    yield content + b"\0"
    yield content.decode("latin1").encode("utf-16")
    for _ in range(n - 3):
        now, place = bytearray(content), int(rng.integers(len(content)))
        match rng.integers(6):
            case 0 | 1:
                now[place] ^= 1 << rng.integers(8)
            case 2:
                del now[place:]
            case 3:
                now[place:place] = rng.bytes(rng.integers(1, 9))
            case 4:
                now[place : place + 8] = bytes(len(now[place : place + 8]))
            case 5:
                now = now[place:] + now[:place]
        if now != content:
            yield bytes(now)


def odd_json(value: object) -> Iterator[object]:
    """Versions of what a JSON file holds in which one value, at any depth, is missing, odd, or under another name."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            for other in ODD:
                yield _with(value, lambda parent, key=key, other=other: parent.__setitem__(key, other))
            yield _with(value, lambda parent, key=key: parent.pop(key))
            if isinstance(value, dict):
                yield _with(value, lambda parent, key=key: parent.update({f"{key}_": parent.pop(key)}))
            for part in odd_json(value[key]):
                yield _with(value, lambda parent, key=key, part=part: parent.__setitem__(key, part))


def _with(value: object, change: Callable) -> object:
    value = copy.copy(value)
    change(value)
    return value


def accidents(path: Path, n: int, seed: int = 0, fields: bool = True) -> Iterator[str]:
    """Puts in a file's place what accidents make of it, one after another, and the file itself at the end.

    Before that there are a folder and nothing at all. fields: also what `odd_json` makes of a JSON file.
    """
    content = path.read_bytes()
    versions = list(damaged(content, n, seed))
    if fields and path.suffix == ".json":
        versions += [json.dumps(value).encode() for value in odd_json(json.loads(content))]
    for number, version in enumerate(versions):
        path.write_bytes(version)
        yield f"version {number} of {path.name}"
    path.unlink()
    yield f"no {path.name}"
    path.unlink(missing_ok=True)  # who read it may have made it again
    path.mkdir()
    yield f"a folder as {path.name}"
    shutil.rmtree(path)
    path.write_bytes(content)
