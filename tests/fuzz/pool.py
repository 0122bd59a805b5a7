"""Child processes that run inputs, watched from outside: one that hangs, grows or dies is an answer, too."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .child import CPU_SECONDS, MEMORY, status

ROOT = Path(__file__).resolve().parents[2]
FAULTS = ("foreign", "crash", "hang", "memory", "silent", "unmade")
WALL_SECONDS = 120  # of one that waits and does not compute


@dataclass(frozen=True)
class Job:
    """One input: the module with its target, the target's name, its number, and the seed of all."""

    module: str
    target: str
    number: int
    seed: int


class Child:
    """One process, for the targets of one module."""

    def __init__(self, module: str, home: Path) -> None:
        home.mkdir(exist_ok=True)
        self.module, self.home, self.job = module, home, None
        quiet = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TZ": "UTC", "FACEKIT_CACHE": str(home / "cache")}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FACEKIT_")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__package__}.child import main; main()", module, str(home)],
            cwd=ROOT,
            env=kept | quiet | {"HOME": str(home), "TMPDIR": str(home), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        if not self.process.stdout.readline():
            raise SystemExit(f"the targets of {module} cannot be imported, see above")

    def start(self, job: Job) -> None:
        """Hands over an input."""
        self.job, self.began, self.memory = job, time.monotonic(), status("VmRSS", self.process.pid)
        self.folder = self.home / f"{job.target}-{job.number}"
        self.said = ""
        line = {"target": job.target, "number": job.number, "seed": job.seed, "folder": str(self.folder)}
        self.process.stdin.write((json.dumps(line) + "\n").encode())
        self.process.stdin.flush()

    def check(self) -> None:
        """Kills the process where it takes too much."""
        if self.job is None:
            return
        if status("VmRSS", self.process.pid) > self.memory + 1.5 * MEMORY:
            self.said = "memory"
        elif time.monotonic() > self.began + WALL_SECONDS:
            self.said = "hang"
        if self.said:
            self.kill()

    def answer(self) -> dict:
        """What it says of the input, or what its death says."""
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        code = self.process.wait()
        end = self.said or ("hang" if code == -signal.SIGXCPU else "crash")
        said = {"memory": f"more than {1.5 * MEMORY / 2**20:,.0f} MB above the start, killed"}.get(end)
        said = said or (f"{CPU_SECONDS} s of CPU" if code == -signal.SIGXCPU else f"exit status {code}")
        return {"bytes": 0, "end": end, "said": said, "place": ""}

    def kill(self) -> None:
        """Ends it and what it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def answers(jobs: Iterable[Job], processes: int, kept: Path | None) -> Iterator[tuple[Job, dict]]:
    """Runs all jobs, those of a module one after another; yields each with its answer, in any order.

    kept: a folder that gets the inputs whose answer is a fault.
    """
    waiting = iter(jobs)
    children: list[Child | None] = [None] * processes
    homes = [Path(tempfile.mkdtemp(prefix="fuzz-")) for _ in children]
    watch = selectors.DefaultSelector()

    def feed(place: int) -> None:
        job, child = next(waiting, None), children[place]
        if child is not None and (job is None or child.module != job.module or child.process.poll() is not None):
            watch.unregister(child.process.stdout)
            child.kill()
            child = children[place] = None
        if job is None:
            return
        if child is None:
            child = children[place] = Child(job.module, homes[place])
            watch.register(child.process.stdout, selectors.EVENT_READ, place)
        child.start(job)

    try:
        for place in range(processes):
            feed(place)
        while any(children):
            for key, _ in watch.select(timeout=0.02):
                child = children[key.data]
                answer, job = child.answer(), child.job
                if kept is not None and answer["end"] in FAULTS and child.folder.exists():
                    with suppress(shutil.Error):  # pipes and links to nowhere cannot be copied
                        shutil.copytree(child.folder, kept / child.folder.name, symlinks=True, dirs_exist_ok=True)
                shutil.rmtree(child.folder, ignore_errors=True)
                yield job, answer
                if child.process.poll() is None and answer["end"] == "memory":
                    child.kill()  # what it holds would be the start of the next
                feed(key.data)
            for child in filter(None, children):
                child.check()
    finally:
        for child in filter(None, children):
            child.kill()
        for home in homes:
            shutil.rmtree(home, ignore_errors=True)
