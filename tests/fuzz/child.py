"""A process that runs one input after another and says of each how it ended. `pool` starts it and watches it.

A line on stdin is a job (JSON), a line on the former stdout the answer. Nothing else is said: both outputs are closed
to what the inputs make facekit print.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import shutil
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from random import Random

CPU_SECONDS = 10
MEMORY = 2**30  # bytes above the start
ROOMY = 3 * MEMORY  # of addresses: what is asked for and never touched costs nothing, up to here


class Changed(Exception):
    """What came back is not what went in, and nothing was said."""


def status(name: str, pid: int | str = "self") -> int:
    """A number of bytes from /proc/PID/status, 0 where there is none."""
    try:
        found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def limited(cpu: int | None, memory: int | None) -> None:
    """Limits this process from here on; None lifts a limit."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    limits = {
        resource.RLIMIT_CPU: None if cpu is None else int(used.ru_utime + used.ru_stime) + 1 + cpu,
        resource.RLIMIT_AS: None if memory is None else status("VmSize") + memory,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (resource.RLIM_INFINITY if limit is None else limit, resource.RLIM_INFINITY))


def size_of(folder: Path) -> int:
    """Bytes of all files, and 50 for each, so that of two inputs the simpler one is the smaller."""
    return sum(50 + (Path(at) / name).lstat().st_size for at, _, names in os.walk(folder) for name in names)


def place_of(error: BaseException) -> str:
    """Where in the package an error passed last."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/facekit/" in frame.filename]
    return "/".join(Path(frames[-1].filename).parts[-2:]) + f":{frames[-1].lineno}" if frames else "outside facekit"


def run(target, number: int, seed: int, folder: Path) -> dict:
    """One input from its making to its end."""
    from facekit.errors import FacekitError

    rng = Random(f"{seed} {target.__name__} {number}")
    answer = {"bytes": 0, "end": "accepted", "said": "", "place": ""}
    steps = target(rng, folder)
    try:
        next(steps)  # the input is made
    except Exception as error:  # a fault of this campaign, which must be seen as well
        return answer | {"end": "unmade", "said": repr(error), "trace": traceback.format_exc()}
    answer["bytes"] = size_of(folder)
    peak = "VmHWM"
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the highest memory is measured from here
    except OSError:
        peak = "VmRSS"
    before = status("VmRSS")
    limited(CPU_SECONDS, ROOMY)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            next(steps)
    except StopIteration as stopped:
        answer["end"] = stopped.value or "accepted"
    except FacekitError as error:
        answer |= {"end": "refused", "said": str(error)}
        if not str(error).strip() or "Traceback" in str(error):
            answer["end"] = "foreign"
    except Changed as error:
        answer |= {"end": "silent", "said": str(error)}
    except MemoryError as error:
        answer |= {"end": "memory", "said": repr(error), "place": place_of(error)}
    except BaseException as error:
        answer |= {"end": "foreign", "said": f"{type(error).__name__}: {error}", "place": place_of(error)}
        answer["trace"] = "".join(traceback.format_exception(error))[-6000:]
    limited(None, None)
    if (more := status(peak) - before) > MEMORY:
        answer |= {"end": "memory", "said": f"{more / 2**20:,.0f} MB above the start ({answer['said'][:200]})"}
    return answer


def main() -> None:
    module, home = sys.argv[1], Path(sys.argv[2])
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    targets = import_module(module).TARGETS
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.chdir(home)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        job = json.loads(line)
        folder = Path(job["folder"])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        answer = run(targets[job["target"]], job["number"], job["seed"], folder)
        # Unpaired surrogates of file names that are not UTF-8 go as escapes.
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
