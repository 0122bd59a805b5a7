"""How fast photos are packed, beside Pillow alone, and in how much memory."""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
import zipfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from facekit.data.pack import pack
from facekit.data.readers.archives import open_source
from facekit.data.readers.decode import quiet
from facekit.errors import ConfigError
from facekit.experiments.speed import fastest, figures
from facekit.settings import cores

ALONE = "Pillow alone, decoding and resizing"


def bench_packing(source: Path | None = None, photos: int = 1000, rounds: int = 3) -> pd.DataFrame:
    """Measures packing against decoding and resizing with Pillow alone, and its memory at N and 4 N photos.

    With as many threads as there are cores. Pillow alone starts from bytes in memory and keeps nothing; packing reads
    a zip, checks, hashes, writes the set to disk and hashes it. Memory is the peak of a fresh process.

    Args:
        source: Folder, zip or tar to take the photos from; without it JPEGs of 224 × 224 are made.
        photos: How many photos (N).
        rounds: How often each of the two is timed; the fastest counts.
    """
    if min(photos, rounds) < 1:
        raise ConfigError(f"photos and rounds must be 1 or more, got {photos} and {rounds}.")
    taken = _photos_of(Path(source), photos) if source else [_made_photo(seed) for seed in range(photos)]
    with tempfile.TemporaryDirectory() as folder, quiet():
        small = _bench_zip(Path(folder, "n.zip"), taken)
        names = (Path(folder, f"set-{number}") for number in count())
        rows = {ALONE: lambda: _pillow_alone(taken, 160), "pack": lambda: pack(small, next(names))}
        seconds = fastest(rows, rounds, torch.device("cpu"))
        # Bytes after a JPEG's end are ignored by decoders but make its hash another: four different copies of each.
        large = _bench_zip(Path(folder, "4n.zip"), [data + bytes([copy]) for copy in range(4) for data in taken])
        memory = {
            f"pack, {n:,} photos": _peak_of_packing(archive, Path(folder, archive.stem))
            for n, archive in ((len(taken), small), (4 * len(taken), large))
        }
    rates = {name: len(taken) / seconds[name] for name in rows}
    return pd.concat([figures(rates, limit=ALONE), figures(memory, "MiB at most")], ignore_index=True)


def _pillow_alone(photos: list[bytes], size: int) -> None:
    """The least that has to be done: decode and resize, nothing kept."""

    def one(data: bytes) -> None:
        with Image.open(io.BytesIO(data)) as image:
            np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))

    with ThreadPoolExecutor(cores()) as pool:
        deque(pool.map(one, photos), maxlen=0)


def _photos_of(source: Path, limit: int) -> list[bytes]:
    """The bytes of the first photos of a source."""
    entries = (entry.data for entry in open_source(source).entries() if entry.data)
    return list(islice(entries, limit))


def _made_photo(seed: int) -> bytes:
    """A JPEG of 224 × 224 about as big as a face crop: smooth random colours with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((224, 224), Image.Resampling.BICUBIC), dtype=np.int16)
    noisy = (smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(noisy).save(file, "JPEG", quality=80)
    return file.getvalue()


def _bench_zip(path: Path, photos: list[bytes]) -> Path:
    """A zip of photos with a label table beside it."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, data in enumerate(photos):
            archive.writestr(f"{number}.jpg", data)
    lines = [f"{number}.jpg,{('Male', 'Female')[number % 2]}\n" for number in range(len(photos))]
    path.with_suffix(".csv").write_text("file,gender\n" + "".join(lines), encoding="utf-8")
    return path


def _peak_of_packing(archive: Path, dest: Path) -> float:
    """Peak resident memory of a process that packs an archive, MiB."""
    # Linux hands the parent's ru_maxrss on to the child, so VmHWM is read where there is one (kB both).
    code = (
        "import re, resource, sys; from pathlib import Path; from facekit.data.pack import pack; "
        "pack(Path(sys.argv[1]), Path(sys.argv[2])); status = Path('/proc/self/status'); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1] if status.exists() else "
        "resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10)"
    )
    command = [sys.executable, "-c", code, str(archive), str(dest)]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 2**10
