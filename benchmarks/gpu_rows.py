"""What is measured on a GPU, row by row: the parts of the record of speed, and studies in steps that grow."""

from __future__ import annotations

import gc
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import unwrap
from pathlib import Path
from typing import Any, Literal, TypeVar, cast
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks.predict import bench_predict
from benchmarks.training import bench_data
from facekit import settings
from facekit.commands.distill import distill
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, TrainingError
from facekit.evaluation.groups import PUBLISHED
from facekit.experiments import speed
from facekit.experiments.speed import COMPILE, NETWORKS, TASKS, bench_embedding, bench_training, figures, noise
from facekit.files import read_json
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.records import hardware
from facekit.studies import best, contrastive, ladder, last_stage
from facekit.studies.runner import Block, Study
from facekit.studies.selftaught import SAME_COLOURS
from facekit.tasks import GENDER, SKIN_TONE
from facekit.training.augment import STRONG, Augment
from facekit.training.batches import Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Method, Supervised
from facekit.training.plans import plan as planned
from facekit.transfer.contrastive import Contrastive
from facekit.transfer.distill import Distillation

PHOTOS, WEIGHTS = "photos", "weights"
SET = "fairface-160"  # as the catalogue names the packed photos in a cache
SPEED, BATCH = "speed", "batch size"
SHARED = 2**30  # bytes of shared memory for the batches that a DataLoader's helpers make
LEAST_COSINE = 0.99  # of embeddings here and on the processor; two persons have 0.1

Made = TypeVar("Made")


@dataclass(frozen=True)
class Plan:
    """What the process that measures has to know. machine: with the driver, of which kept figures are."""

    out: Path
    device: str
    small: bool
    command: str
    commit: str | None
    machine: str

    @property
    def suffix(self) -> str:
        """What the names of records end in: never that of a GPU for figures of a processor."""
        return "cpu" if self.device == "cpu" else "gpu"

    @property
    def recordable(self) -> bool:
        """Whether the code has a commit that others can look up, and the sizes mean something."""
        return bool(self.commit) and not str(self.commit).endswith("+changes") and not self.small


@dataclass(frozen=True)
class Row:
    """A row of the plan. share: of the time. needs: what must be there. studies: one after another, each written.

    steps: how many studies there are. size: what they hold in memory and on disk, reckoned and not measured: in a step
    of FaceNet 24 MB a photo are kept for the backward pass in float32, and half in bfloat16.
    """

    about: str
    share: float
    studies: Callable[[Plan], Iterator[Study]]
    steps: int = 1
    needs: Sequence[str] = ()
    size: str = "less than 2 GiB on the device"


def gpu_name() -> str | None:
    """The device that torch would call its GPU, None where there is none."""
    gpu = torch.accelerator.current_accelerator(check_available=True)
    return None if gpu is None else gpu.type


def machine(device: str) -> str:
    """Processor, GPU, driver and libraries, in one line."""
    if not device.startswith("cuda"):
        return f"{hardware()}, computing on {device}, torch {torch.__version__}"
    question = ["nvidia-smi", "--query-gpu=driver_version,power.limit", "--format=csv,noheader"]
    try:
        said = subprocess.run(question, capture_output=True, text=True, timeout=20, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        said = "unknown"
    libraries = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return f"{hardware()}, driver and power limit {said}, {libraries}"


def shared_memory() -> int:
    """Bytes that processes may share, without limit where there is no such folder."""
    shared = Path("/dev/shm")
    return shutil.disk_usage(shared).free if shared.is_dir() else 2**40


def helpers() -> int | None:
    """Processes for a DataLoader, None for as many as it would take: none where they could not hand over batches.

    In a container there are often 64 MiB for that, and a helper that finds no room ends by a bus error.
    """
    return None if shared_memory() >= SHARED else 0


def halving(measure: Callable[[int], Made], batch_size: int) -> tuple[Made, int]:
    """What `measure` gives for the batch size, or for half of it, and so on, where the device's memory is too small.

    Also the size that it was. A smaller one is printed; the error is raised where two rows are too many.
    """
    while True:
        try:
            return measure(batch_size), batch_size
        except (torch.OutOfMemoryError, ConfigError) as error:  # `embed` makes a ConfigError of it
            if batch_size < 4 or "memory" not in str(error):
                raise
            print(f"the device's memory is too small for {batch_size} rows a step; {batch_size // 2} now", flush=True)
            batch_size //= 2
        gc.collect()
        torch.cuda.empty_cache()


@contextmanager
def counting_waits(device: torch.device) -> Iterator[list[str]]:
    """Collects the lines of code that wait for a GPU; stays empty on a processor, which never does."""
    found: list[str] = []
    if device.type != "cuda":
        yield found
        return
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield found
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_warn_always(False)
    found += [
        f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchronizing" in str(each.message).lower()
    ]


def measure_part(about: str, measure: Callable[..., pd.DataFrame], *arguments: Any) -> pd.DataFrame:
    """What `measure` gives, as `figures`, with a row of the device's memory that it took. about: the machine."""
    gpu = settings.device().type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    table = measure(*arguments)
    if gpu:
        table = _told(table, {"peak memory of the device": ("MiB", torch.cuda.max_memory_allocated() / 2**20)})
    return table.reindex(columns=["row", "unit", "value", "times", "share"]).astype({"times": float, "share": float})


def measure_check(portraits: int, few: int) -> pd.DataFrame:
    """Whether the device computes what a processor does, and how often a step of training waits for it.

    Raises TrainingError where it computes something else: then no figure of speed means anything.
    """
    place = settings.device()
    faces = render_portraits((portraits, 0, 0), size=FaceNetMini.image_size)
    network = FaceNetMini.from_pretrained()
    wanted = embed(network, faces, device="cpu", cache=False, precision="fp32").features
    rows = []
    for precision in ("fp32", "bf16"):
        found = embed(network, faces, cache=False, precision=precision).features
        cosine = float((wanted * found).sum(1).min())
        if not cosine >= LEAST_COSINE:
            raise TrainingError(
                f"{place} computes something else than the processor: a cosine of {cosine:.3f} of the same embedding, "
                f"{precision}. Do not trust it: look at driver, torch's build and temperature."
            )
        rows.append({"row": f"embedding, {precision}", "unit": "least cosine", "value": cosine})
    waits: dict[int, int] = {}
    for steps in (few, 3 * few):
        torch.manual_seed(0)
        model = Classifier(FaceNetMini(), Heads(FaceNetMini.embedding_dim, [GENDER]))
        how = TrainConfig(len(faces) // 2, precision="bf16", channels_last=True, augment=STRONG, steps=steps)
        with counting_waits(place) as lines:
            fit(model, Supervised([GENDER]), faces, None, planned("everything", list(model.stages), 1, 1e-3), how)
        waits[steps] = len(lines)
    if place.type == "cuda":
        a_step = (waits[3 * few] - waits[few]) / (2 * few)
        rows.append({"row": "training", "unit": "waits/step", "value": a_step})
        if a_step:
            print(f"a step waits for the device in {', '.join(sorted(set(lines)))}", flush=True)
    return pd.DataFrame(rows)


def measure_embedding(images: int, batch_size: int, rounds: int) -> pd.DataFrame:
    """`bench_embedding`, with as many photos at once as the device has memory for."""
    table, size = halving(lambda size: bench_embedding(images, size, rounds), batch_size)
    return _told(table, {BATCH: ("photos", size)})


def measure_training(
    network: Literal["mini", "facenet"], batch_size: int, steps: int, rounds: int, compiled: bool
) -> pd.DataFrame:
    """`bench_training`: three heads, every switch alone and all, the loop beside the bare step and others' loops."""

    def measure(size: int) -> pd.DataFrame:
        return bench_training(network, batch_size=size, steps=steps, rounds=rounds, compile=compiled)

    with patch.object(speed, "loader", partial(speed.loader, workers=helpers())):
        table, size = halving(measure, batch_size)
    if compiled and COMPILE not in set(table["row"]):
        raise ConfigError("torch.compile finds no compiler for this device; install gcc, and triton for a GPU.")
    return _told(table, {BATCH: ("photos", size)})


def measure_packed(folder: str | None, network: str, photos: int, batch_size: int, rounds: int) -> pd.DataFrame:
    """A network with three heads trained by the loop on a packed set, which is read from the disk.

    folder: of the set, of which the first photos are taken; without it portraits are rendered and packed.
    """
    place, make = settings.device(), NETWORKS[network]
    with tempfile.TemporaryDirectory() as home:
        if folder is None:
            render_portraits((photos, 0, 0), size=make().image_size).save(Path(home) / "set")
        start = time.perf_counter()
        faces = FaceSet.load(folder or Path(home) / "set")
        faces = faces.select(range(min(photos, len(faces)))).resized(make().image_size)
        tasks = [task for task in (*TASKS, SKIN_TONE) if task.name in faces.labels][:3]
        next(Batches(faces, tasks, batch_size, device=place).epoch())
        ready = time.perf_counter() - start

        def classifier() -> Classifier:
            backbone = make()
            return Classifier(backbone, Heads(backbone.embedding_dim, tasks))

        found, size = halving(
            lambda size: _fitted(classifier, lambda net: Supervised(tasks), faces, size, rounds, STRONG), batch_size
        )
    which = "photos of FairFace" if folder else "rendered portraits"
    table = figures({f"{len(tasks)} heads, {which}, {name}": rate for name, rate in found.items()})
    return _told(table, {BATCH: ("photos", size), "from the disk to the first batch": ("s", ready)})


def measure_contrastive(photos: int, rounds: int) -> pd.DataFrame:
    """Contrastive learning of facenet-mini: as in the record of it, and on larger photos in larger batches."""

    def learner(network: FaceNetMini) -> Contrastive:
        return Contrastive(network.embedding_dim, views=SAME_COLOURS)

    tables = []
    for side, batch_size in ((32, 64), (96, 256)):
        faces = noise(photos, side)
        found, size = halving(
            partial(_fitted, FaceNetMini, learner, faces, rounds=rounds), min(batch_size, photos // 2)
        )
        tables.append(figures({f"{side} px, batches of {size}, {name}": rate for name, rate in found.items()}))
    return pd.concat(tables, ignore_index=True)


def measure_distillation(photos: int, batch_size: int, rounds: int) -> pd.DataFrame:
    """facenet-mini learning from embeddings of 512 numbers that are there."""
    targets = torch.nn.functional.normalize(
        torch.randn(2, photos, 512, generator=torch.Generator().manual_seed(0)), dim=2
    )
    faces = noise(photos, FaceNetMini.image_size)
    how = Augment(flip=0, shift=0.03, brightness=0, contrast=0)  # as the command does
    found, size = halving(
        lambda size: _fitted(FaceNetMini, lambda network: Distillation(targets), faces, size, rounds, how), batch_size
    )
    return _told(figures(found), {BATCH: ("photos", size)})


def _fitted(
    make: Callable[[], Any],
    learner: Callable[[Any], Method],
    faces: FaceSet,
    batch_size: int,
    rounds: int,
    augment: Augment | None = None,
) -> dict[str, float]:
    """Photos a second of the loop, whole batches alone, without and with switches; the fastest epoch but the first."""
    found = {}
    for name, switches in {"fp32": {}, "bf16, channels_last": {"precision": "bf16", "channels_last": True}}.items():
        torch.manual_seed(0)
        model = make()
        how = TrainConfig(batch_size, augment=augment, steps=max(1, len(faces) // batch_size), **switches)
        recipe = planned("everything", list(model.stages), rounds + 1, 1e-3)
        history = fit(model, learner(model), faces, None, recipe, how).history
        found[name] = batch_size * cast(int, how.steps) / history["seconds"].iloc[1:].min()
    return found


def _told(table: pd.DataFrame, more: dict[str, tuple[str, float]]) -> pd.DataFrame:
    """The table with rows behind it, from their names to unit and value."""
    rows = [{"row": name, "unit": unit, "value": value} for name, (unit, value) in more.items()]
    return pd.concat([table, pd.DataFrame(rows)], ignore_index=True)


def measure_distilled(data: str, out: str, epochs: int, lr: float) -> pd.DataFrame:
    """facenet-mini taught by `distill` in a folder, where a stopped run goes on: cosines to the teacher, by split.

    No figure rests on fewer than PUBLISHED faces.
    """
    distill(Path(data), Path(out), epochs, lr, resume=True)
    found = read_json(Path(out) / "metrics.json", TrainingError, "delete its folder.", {"cosine": dict})
    counts = FaceSet.load(data, verify=False).labels["split"].value_counts()
    rows = pd.DataFrame(
        [
            {"split": split, "task": "faces", "metric": "cosine", "value": value, "n": int(counts[split])}
            for split, value in found["cosine"].items()
            if counts[split] >= PUBLISHED
        ]
    )
    return rows.assign(seed=0, epochs=epochs, seconds=found["seconds"])


def _speed(part: str, measure: Callable[..., pd.DataFrame], *steps: tuple, small: tuple) -> Any:
    """The studies of a part of the record of speed: one for each tuple of arguments, the last of which stays."""

    def studies(plan: Plan) -> Iterator[Study]:
        for given in [small] if plan.small else steps:
            arguments = [value(plan) if callable(value) else value for value in given]
            title = "-".join([part, *(str(value) for value in given if isinstance(value, int | str))])
            yield Study(
                SPEED,
                what="how fast embeddings are computed and networks are trained, beside what others do, in turns in "
                "one run; small figures first, which larger ones replace",
                data="noise, rendered portraits and, where they are there, photos of FairFace; "
                f"{plan.machine}; {'' if torch.backends.cudnn.allow_tf32 else 'no '}TF32 in convolutions of fp32",
                blocks=[Block(title, measure_part, (plan.machine, measure, *arguments), {"part": part})],
            )

    return studies


def _grown(record: Callable[..., Study], *steps: dict[str, object], small: dict[str, object]) -> Any:
    """A study with options that grow: what was measured for one step is kept for the next."""

    def studies(plan: Plan) -> Iterator[Study]:
        for options in [small] if plan.small else steps:
            yield unwrap(record)(**options)

    return studies


def _distilled(plan: Plan) -> Iterator[Study]:
    cache = settings.cache_dir()
    faces = FaceSet.load(cache / SET, verify=False)
    epochs = 1 if plan.small else 30
    learnt_from = int((faces.labels["split"] == "train").sum())
    held = int((faces.labels["split"] == "test").sum())
    yield Study(
        "distilled_fairface",
        what=f"facenet-mini taught FaceNet's embeddings by `python -m facekit distill`, {epochs} epochs of photos "
        "alone, from random weights: mean cosine to the teacher",
        data=f"FairFace, {learnt_from:,} photos without labels, {held:,} test photos",
        blocks=[
            Block(f"{epochs}", measure_distilled, (str(cache / SET), str(cache / f"distilled-{epochs}"), epochs, 6e-3))
        ],
    )


def _packed(plan: Plan) -> str | None:
    """The folder of the packed photos, where there are any."""
    folder = settings.cache_dir() / SET
    return str(folder) if (folder / "manifest.json").exists() else None


REAL = (PHOTOS, WEIGHTS)
ALL = ("frozen", "single", "hard")
SEEDS: tuple[dict[str, Any], ...] = tuple({"seeds": tuple(range(n))} for n in (1, 2, 3))
LONG: dict[str, Any] = {"since": "stem"}
# In order of importance.
ROWS = {
    "check": Row(
        "the device computes what a processor computes, and no step of training waits for it",
        3,
        _speed("check", measure_check, (64, 10), small=(8, 3)),
    ),
    "embedding": Row(
        "embeddings: facenet-pytorch's own way and every switch on top of it",
        6,
        _speed("embedding", measure_embedding, (256, 128, 1), (4096, 512, 3), small=(2, 2, 1)),
        2,
        size="4 GiB on the device",
    ),
    "finetuning": Row(
        "FaceNet with three heads at 160 px: every switch alone and all, the loop, the bare step, others' loops",
        14,
        _speed(
            "finetuning",
            measure_training,
            ("facenet", 64, 4, 1, False),
            ("facenet", 256, 10, 2, False),
            small=("mini", 2, 1, 1, False),
        ),
        2,
        size="8 GiB on the device, less with smaller batches",
    ),
    "mini": Row(
        "the same of facenet-mini at 96 px",
        7,
        _speed(
            "mini",
            measure_training,
            ("mini", 64, 4, 1, False),
            ("mini", 256, 20, 2, False),
            small=("mini", 4, 1, 1, False),
        ),
        2,
    ),
    "packed": Row(
        "FaceNet with three heads trained by the loop on a packed set, from the disk",
        5,
        _speed("packed", measure_packed, (_packed, "facenet", 4096, 256, 3), small=(None, "mini", 8, 4, 1)),
        size="8 GiB on the device, less with smaller batches",
    ),
    "best": Row(
        "the best classifier of race, gender and age band: the whole network tuned, and ensembles",
        22,
        _grown(
            best.record,
            {"cycles": (2,), "seeds": (0,), "stage_seeds": (0,)} | LONG,
            {"cycles": (2, 4), "seeds": (0, 1), "stage_seeds": (0,)} | LONG,
            {"cycles": (2, 4, 6), "seeds": (0, 1, 2), "stage_seeds": (0, 1)} | LONG,
            small={"cycles": (1,), "seeds": (0,), "stage_seeds": (0,)} | LONG,
        ),
        3,
        REAL,
        "4 GiB on the device, 6 on disk",
    ),
    "ladder": Row(
        "the ladder, from frozen to from scratch, as on a processor",
        11,
        _grown(ladder.record, *SEEDS, small={"labels": 16, "epochs": 2, "seeds": (0,)}),
        3,
        REAL,
    ),
    "last_stage": Row(
        "the last stage before the embedding tuned, one for all tasks and one a task",
        10,
        _grown(
            last_stage.record,
            {"methods": ("frozen", "hard"), "seeds": (0,)},
            {"methods": ALL, "seeds": (0,)},
            {"methods": ALL, "seeds": (0, 1, 2)},
            small={"photos": 16, "epochs": 1, "methods": ("frozen", "hard"), "seeds": (0,)},
        ),
        3,
        REAL,
        "4 GiB on the device, 6 on disk",
    ),
    "distilled": Row("facenet-mini taught by FaceNet, from photos alone", 6, _distilled, 1, REAL),
    "contrastive": Row(
        "2,000 steps of contrastive learning of rendered portraits, and what a probe makes of them",
        5,
        _grown(contrastive.record, *SEEDS, small={"seeds": (0,), "steps": 2, "portraits": (60, 0, 24)}),
        3,
    ),
    "pretraining": Row(
        "how fast contrastive learning is",
        2,
        _speed("pretraining", measure_contrastive, (4096, 3), small=(8, 1)),
    ),
    "distillation": Row(
        "how fast distillation is",
        2,
        _speed("distillation", measure_distillation, (8192, 128, 3), small=(16, 8, 1)),
    ),
    "data": Row(
        "augmented batches alone, beside a DataLoader's",
        3,
        _speed("data", bench_data, (2048, 160, 256, 2), small=(8, 32, 4, 1)),
    ),
    "predict": Row(
        "from photo to answer, beside detector and network alone",
        5,
        _speed("predict", bench_predict, (None, 200, 2), small=(None, 2, 1)),
    ),
    "compile": Row(
        "facenet-mini with torch.compile as a further switch; takes the place of `mini`",
        7,
        _speed("mini", measure_training, ("mini", 256, 20, 2, True), small=("mini", 4, 1, 1, False)),
    ),
}
