"""All that is measured on a GPU, in one command within a given time; docs/gpu.md says what to type, and what may fail.

One process measures row after row, and this one watches it: a row that takes longer than its share of the time, or ends
the process, is named, and a new process goes on with the next row. What is measured is kept block by block, so that the
same command goes on where it was stopped.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import platform
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal
from unittest.mock import patch

import pandas as pd
import torch

from benchmarks.gpu_rows import PHOTOS, ROWS, SET, SPEED, WEIGHTS, Plan, gpu_name, helpers, machine, shared_memory
from benchmarks.results import COLUMNS
from facekit import records, settings
from facekit.data.pack import pack
from facekit.data.sets import FaceSet, read_manifest
from facekit.errors import ConfigError, DataError
from facekit.files import atomic_path, may_replace, pasted_path, read_json, write_json
from facekit.models.weights import NAMES, local_weights, read_weights
from facekit.records import REFERENCE, Record, recorded
from facekit.studies.runner import Study, measured

REPORT = "gpu.json"
START = 300  # seconds within which a process must have begun; from a cold disk torch alone takes a minute
State = Literal["measured", "partly", "not run", "failed"]


@dataclass
class Outcome:
    """What became of a row. seconds: of this call; peak: of the device's memory, in MiB."""

    state: State
    why: str = ""
    seconds: float = 0.0
    peak: float | None = None

    def told(self) -> str:
        """In a few words."""
        peak = "" if self.peak is None else f", {self.peak:,.0f} MiB on the device"
        return f"{self.state} ({self.seconds:.0f} s{peak})" + (f": {self.why}" if self.why else "")


def bench_gpu(
    out: Path = Path("runs/gpu"),
    minutes: float = 9.0,
    data: Path | None = None,
    weights: Path | None = None,
    rows: list[str] | None = None,
    device: str | None = None,
    small: bool = False,
    dry: bool = False,
    record: bool = False,
    commit: str | None = None,
) -> int:
    """Measures everything that wants a GPU: speed, then records of whole networks tuned on real photos.

    Rows run in order of importance, each within its share of the time; what one leaves is shared by those behind it.
    Records go into `out` as they are made, `out/gpu.json` says what became of each row and why. The same command goes
    on where it was stopped, and measures nothing again. Without real photos (FACEKIT_DATA, or --data) and FaceNet's
    weights (there, or --weights) the rows of speed are measured on noise, the others are named as not run.

    Args:
        out: Folder for the records, and, in `out/cache`, for what is needed to go on.
        minutes: Time for all of it; 0 measures nothing.
        data: Packed set of FairFace's photos; or its zip, or one of some of them, with the label files beside it.
        weights: File with FaceNet's weights, float16 or as released.
        rows: Names of the rows to measure, by default all.
        device: Where to compute, by default the GPU. On `cpu` the records are called so, and are for trying out.
        small: Tiny sizes, to see that everything runs; no figure means anything, and nothing can be recorded.
        dry: Measure nothing, but say what would be, and what is missing.
        record: Copy the finished records of a GPU from `out` into datasets/reference, beside those of processors.
        commit: Of the checkout, where this is a copy that git does not know.

    Examples:
        python -m benchmarks gpu --dry true
        python -m benchmarks gpu --data fairface --weights facenet-vggface2-fp16.safetensors
        python -m benchmarks gpu --minutes 0 --record true
    """
    if minutes < 0:
        raise ConfigError(f"minutes must be 0 or more, got {minutes}.")
    if unknown := sorted(set(rows or ()) - set(ROWS)):
        raise ConfigError(f"there is no row {unknown[0]!r}; choose from {', '.join(ROWS)}.")
    end = time.monotonic() + 60 * minutes
    out, names = pasted_path(out), [name for name in ROWS if rows is None or name in rows]
    if minutes:
        place = device or _gpu()
        command = f"python -m benchmarks gpu --minutes {minutes:g}" + " --small true" * small
        missing = prepared(out, data, weights, dry)
        with patch.dict(os.environ, environment(out, place)):
            plan = Plan(out, place, small, command, commit or records.git_commit(), machine(place))
            same_machine(out, plan.machine)
            if dry:
                return preflight(plan, names, missing, minutes)
            told = {name: Outcome("not run", why) for name, why in lacking(names, missing).items()}
            told |= supervised(plan, [name for name in names if name not in told], end - time.monotonic(), told)
        print(f"\n{plan.machine}")
        for name in names:
            print(f"  {name:<12} {told[name].told()}")
    if record:
        adopt(out)
    return 0 if not minutes or all(each.state == "measured" for each in told.values()) else 1


def _gpu() -> str:
    """The name of the GPU; raises ConfigError where torch finds none."""
    if gpu := gpu_name():
        return gpu
    built = torch.version.cuda or getattr(torch.version, "hip", None)
    seen = shutil.which("nvidia-smi") is not None
    why = (
        "is built for processors alone: install the build for your GPU from pytorch.org"
        if not built
        else (
            f"is built for CUDA {built}, and its driver may be too old: `nvidia-smi` says what it takes"
            if seen
            else "finds no driver (there is no nvidia-smi)"
        )
    )
    raise ConfigError(
        f"there is no GPU that torch can use here; torch {torch.__version__} {why}. To try it out: --device cpu "
        "--small true."
    )


def environment(out: Path, device: str) -> dict[str, str]:
    """Variables for the process that measures: a cache of its own, so that `out` has all that it needs to go on."""
    cache = str((out / "cache").absolute())
    return {"FACEKIT_PROFILE": "full", "FACEKIT_DEVICE": device, "FACEKIT_CACHE": cache, "FACEKIT_PROGRESS": "0"}


def prepared(out: Path, data: Path | None, weights: Path | None, dry: bool = False) -> dict[str, str]:
    """Brings photos and weights into the cache of `out`, where they are not yet; why that cannot be, by what is needed.

    With `dry` nothing is written. Raises for files that were named and cannot be used, or are not those in `out`.
    """
    start, missing = time.perf_counter(), {}
    if not _photos_ready(out / "cache" / SET, data, dry):
        missing[PHOTOS] = "no photos: set FACEKIT_DATA, or name a set of FairFace's photos with --data"
    if not _weights_ready(out / "cache" / "weights", weights, dry):
        missing[WEIGHTS] = "no weights of FaceNet: name their file with --weights, or put it where FACEKIT_DATA is"
    if not dry:
        seconds = time.perf_counter() - start
        print("; ".join([f"photos and weights looked for in {seconds:.0f} s", *missing.values()]), flush=True)
    return missing


def _photos_ready(dest: Path, data: Path | None, dry: bool) -> bool:
    """Whether there are photos, at `dest` unless `dry`: a set that was packed before, or is packed now."""
    if data is None and (dest / "manifest.json").exists():
        return True
    usual = settings.cache_dir() / SET
    if data is not None:
        source = pasted_path(data)
        if not source.exists():
            raise DataError(f"{source} does not exist; name a packed set or an archive of FairFace's photos.")
    elif (usual / "manifest.json").exists():
        source = usual
    else:
        source = (settings.data_dir() or Path("nowhere")) / "fairface"
    if dry or not source.exists():
        return source.exists()
    dest.parent.mkdir(parents=True, exist_ok=True)
    if not (source / "manifest.json").exists():
        pack(source, dest, size=160)  # which refuses a folder with other photos
        return True
    if (dest / "manifest.json").exists():
        if read_manifest(dest)["files"] != read_manifest(source)["files"]:
            raise DataError(f"{dest} holds other photos than {source}; choose another folder with --out.")
        return True
    FaceSet.load(source)  # whole and undamaged, or an error that says so
    if dest.is_symlink():  # it leads nowhere any more
        dest.unlink()
    try:
        dest.symlink_to(source.absolute(), target_is_directory=True)
    except OSError:  # there are file systems without links
        FaceSet.load(source).save(dest)
    return True


def _weights_ready(dest: Path, weights: Path | None, dry: bool) -> bool:
    """Whether there are FaceNet's weights, in the folder `dest` unless `dry`."""
    if weights is None and any((dest / name).exists() for name in NAMES):
        return True
    file = pasted_path(weights) if weights is not None else local_weights()
    if file is not None and not dry:
        read_weights(file)
        name = NAMES[file.suffix != ".safetensors"]
        with atomic_path(dest / name) as path:
            shutil.copyfile(file, path)
        for other in set(NAMES) - {name}:
            (dest / other).unlink(missing_ok=True)
    return file is not None


def same_machine(out: Path, here: str) -> None:
    """Raises ConfigError where a folder holds figures of another machine than this one."""
    with suppress(FileNotFoundError):
        there = read_json(out / REPORT, DataError, "choose another folder.", {"machine": str})["machine"]
        if there != here:
            raise ConfigError(f"{out} holds figures of another machine ({there}); choose another folder with --out.")


def lacking(names: Sequence[str], missing: dict[str, str]) -> dict[str, str]:
    """Why rows cannot be measured, by name, of those that need what is missing."""
    found = {name: [missing[need] for need in ROWS[name].needs if need in missing] for name in names}
    return {name: "; ".join(why) for name, why in found.items() if why}


def supervised(
    plan: Plan, names: Sequence[str], seconds: float, told: dict[str, Outcome] | None = None
) -> dict[str, Outcome]:
    """Has the rows measured within these seconds, in processes of their own; what became of each.

    told: what is known of other rows, for the report.
    """
    outcomes: dict[str, Outcome] = {}
    end = time.monotonic() + seconds
    spawn = multiprocessing.get_context("spawn")

    def settled(name: str, outcome: Outcome) -> None:
        outcomes[name] = outcome
        print(f"{name}: {outcome.told()}", flush=True)
        rows = {each: asdict(what) for each, what in ((told or {}) | outcomes).items()}
        write_json(may_replace(plan.out / REPORT, b'"machine": '), {"machine": plan.machine, "rows": rows})

    while waiting := [name for name in names if name not in outcomes]:
        if time.monotonic() >= end:
            for name in waiting:
                settled(name, Outcome("not run", "the time was over"))
            break
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=work, args=(theirs, plan, waiting))
        process.start()
        theirs.close()
        try:
            _follow(ours, process, end, waiting, settled)
        except KeyboardInterrupt:
            for name in [name for name in names if name not in outcomes]:
                settled(name, Outcome("not run", "stopped by hand; the same command goes on"))
        finally:
            process.kill()
            process.join()
    return outcomes


def _follow(
    channel: Connection, process: BaseProcess, end: float, waiting: list[str], settled: Callable[[str, Outcome], None]
) -> None:
    """Takes what a process says of its rows until it ends, is stuck, or a row has had its time."""
    name, began, limit, steps = "", time.monotonic(), START, ""
    while True:
        try:
            if not channel.poll(max(0.0, began + limit - time.monotonic())):
                why = f"its {limit:.0f} s were over{steps}; the same command goes on there"
                outcome = Outcome("partly" if steps else "not run", why, time.monotonic() - began)
                return settled(name, outcome) if name else _all_failed(waiting, f"nothing began in {limit} s", settled)
            said, about = channel.recv()
        except EOFError:
            process.join()
            why = f"the process ended ({_exit(process.exitcode)}){steps}"
            if not waiting:
                return None
            return settled(name, Outcome("failed", why)) if name else _all_failed(waiting, why, settled)
        if said == "begin":
            name, began, steps = about, time.monotonic(), ""
            limit = max(0.0, end - began) * ROWS[name].share / sum(ROWS[each].share for each in waiting)
        elif said == "step":
            steps = f" after {about}"
        else:
            waiting.remove(name)
            settled(name, about)
            name, began, limit = "", time.monotonic(), START


def _all_failed(waiting: Sequence[str], why: str, settled: Callable[[str, Outcome], None]) -> None:
    for name in waiting:
        settled(name, Outcome("failed", why))


def _exit(code: int | None) -> str:
    """What an exit status of a process means."""
    if code is None or code >= 0:
        return f"status {code}"
    name = signal.Signals(-code).name
    return f"{name}, as where the machine's memory is full" if name == "SIGKILL" else name


def work(channel: Connection, plan: Plan, names: Sequence[str]) -> None:
    """Measures rows one after another and tells of each; ends after an error that spoils the device."""
    if gpu := plan.device.startswith("cuda"):
        torch.cuda.init()  # without which its memory cannot be asked for
    for name in names:
        channel.send(("begin", name))
        start, outcome = time.perf_counter(), Outcome("measured")
        if gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            for number, described in enumerate(ROWS[name].studies(plan), 1):
                write(plan, described)
                channel.send(("step", f"{number} of {ROWS[name].steps} steps"))
        except Exception as error:  # whatever it is, it is told, and the other rows are measured
            traceback.print_exc()
            outcome = Outcome("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        outcome.seconds = time.perf_counter() - start
        spoiled = outcome.state == "failed" and gpu and _spoiled()
        if gpu and not spoiled:
            outcome.peak = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.empty_cache()
        gc.collect()
        channel.send(("end", outcome))
        if spoiled:
            return


def _spoiled() -> bool:
    """Whether the device answers no more in this process, as after an access to memory that is not there."""
    try:
        torch.cuda.synchronize()
        torch.ones(2, device="cuda").sum().item()
    except Exception:
        return True
    return False


def write(plan: Plan, described: Study) -> Path:
    """Measures what is not kept of a study and writes its record into `out`: whole, or as it was before.

    The record of speed has the rows of all blocks that were measured by this code on this machine.
    """
    rows, seconds = measured(described)
    name = f"{described.name}_{plan.suffix}"
    if described.name == SPEED:
        now = {"threads": torch.get_num_threads(), "seconds": round(seconds, 1)}
        now |= {"date": datetime.now(UTC).date().isoformat(), "git_commit": plan.commit}
        rows = rows.assign(**now)[COLUMNS]
        if (before := _before(plan, name)) is not None:
            others = before.rows[~before.rows["part"].isin(rows["part"])]
            rows, seconds = pd.concat([others[COLUMNS], rows], ignore_index=True), seconds + before.about["seconds"]
    rows = rows.assign(device=plan.device)
    about = {"what": described.what, "data": described.data, "command": plan.command, "seconds": seconds}
    return records.record(name, rows, folder=plan.out, commit=plan.commit, **about)


def _before(plan: Plan, name: str) -> Record | None:
    """The record as it is, where it is of this machine and this code."""
    with suppress(DataError):
        found = recorded(name, plan.out)
        if (found.about["hardware"], found.about["git_commit"]) == (records.hardware(), plan.commit):
            return found
    return None


def preflight(plan: Plan, names: Sequence[str], missing: dict[str, str], minutes: float) -> int:
    """Prints what would be measured and what is missing; returns 1 where anything is."""
    print(plan.machine)
    for key, value in conditions(plan).items():
        print(f"  {key}: {value}")
    print("rows in order, with their share of the time; memory and disk are reckoned, not measured:")
    lacks = lacking(names, missing)
    shares = sum(ROWS[name].share for name in names if name not in lacks)
    for name in names:
        row = ROWS[name]
        if name in lacks:
            print(f"  {name:<12} NOT RUN: {lacks[name]}")
        else:
            print(f"  {name:<12} about {60 * minutes * row.share / shares:.0f} s, {row.size}: {row.about}")
    return 1 if lacks else 0


def conditions(plan: Plan) -> dict[str, str]:
    """What may make a first run on a machine fail, or its figures worth less."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    triton = find_spec("triton") is not None
    there = next(path for path in (plan.out, *plan.out.absolute().parents) if path.exists())
    found = {
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda}, Python {platform.python_version()}",
        "torch.compile": "compiler and triton are there"
        if compiler and triton
        else "will be named as not possible: "
        + " and ".join(["no C compiler"] * (not compiler) + ["no triton"] * (not triton)),
        "shared memory": f"{shared_memory() / 2**30:.1f} GiB"
        + ", too little for helpers of a DataLoader" * (helpers() == 0),
        "disk": f"{shutil.disk_usage(there).free / 2**30:.0f} GiB free at {there}; all rows take about 6",
        "commit": f"{plan.commit}"
        + ("" if plan.recordable else ", so nothing can be recorded: commit first, or --commit"),
    }
    if plan.device.startswith("cuda"):
        free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
        kind, known = "sm_{}{}".format(*torch.cuda.get_device_capability()), torch.cuda.get_arch_list()
        found["kernels"] = f"{kind}, {'built in' if kind in known else 'NOT among ' + ' '.join(known)}"
        found["memory"] = f"{free:.0f} of {total:.0f} GiB free on the device"
        found["bf16"] = "native" if torch.cuda.is_bf16_supported(including_emulation=False) else "emulated, so slow"
    return found


def adopt(out: Path) -> None:
    """Copies the records of a GPU from a folder into datasets/reference; raises ConfigError where there is none.

    Only records with names of their own: those of processors, which lessons show, stay as they are.
    """
    paths = sorted(out.glob("*_gpu.json"))
    if not paths:
        raise ConfigError(f"{out} holds no record of a GPU; on one, run `python -m benchmarks gpu --out {out}`.")
    found = [recorded(path.stem, out) for path in paths]
    for each in found:
        commit = each.about["git_commit"]
        if not commit or commit.endswith("+changes") or "--small" in each.about["command"]:
            raise ConfigError(f"{each.name} was measured in small, or by code that no commit has; measure it again.")
        if each.rows["device"].str.startswith("cpu").any():
            raise DataError(f"{each.name} has rows of a processor; delete it from {out} and measure it again.")
    for path in paths:
        write_json(may_replace(REFERENCE / path.name, b'{\n  "what": '), json.loads(path.read_text(encoding="utf-8")))
        print(f"wrote {REFERENCE / path.name}")
