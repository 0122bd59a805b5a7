"""`python -m tests.kills --kills 100 --seed 0`: works that are killed at a random moment and begun again.

A work runs once undisturbed. Then it is begun in an empty folder, and it and all that it started are killed (SIGKILL)
after a random part of that time, a third of them once more; it is given again, to its end. Of the work `elastic` one of
two processes is killed, and torchrun starts both anew. The folder must then hold what the undisturbed one holds, to the
byte, and nothing else. Exits 1 if there is a difference.

Not compared: TensorBoard's files, whose names hold time and process; the cache's notes of which files were compared
with their checksums (`checked`), which are made of files that are two seconds old. `.pt` files are compared by their
values: torch writes down which of them are one object. The clock by which facekit measures stands still, so that
seconds are the same. The moments are drawn from the seed; what a work has done by then depends on the machine.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random

LEFT_OUT = "events.out.tfevents."


def content(folder: Path) -> dict[str, str]:
    """Every file, folder and link below a folder, with its hash."""
    import torch

    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.startswith(LEFT_OUT) and "checked" not in path.relative_to(folder).parts:
            data = b"no file" if path.is_symlink() or not path.is_file() else path.read_bytes()
            if path.suffix == ".pt" and data[:2] == b"PK":
                sealed = torch.load(path, "cpu", weights_only=True)  # the state, and a hash of its bytes
                state = io.BytesIO(sealed["state"].numpy().tobytes())
                data = values(torch.load(state, "cpu", weights_only=True)).encode()
            found[path.relative_to(folder).as_posix()] = sha256(data).hexdigest()
    return found


def values(state: object) -> str:
    """What a checkpoint holds, as a text."""
    if hasattr(state, "dtype"):
        return f"{state.dtype} {tuple(state.shape)} {state.tolist()}"
    if isinstance(state, dict):
        return str({str(key): values(value) for key, value in state.items()})
    return str([values(value) for value in state]) if isinstance(state, list | tuple) else repr(state)


def begun(name: str, home: Path, out: Path) -> int:
    """Begins a work in a process group of its own; returns its process."""
    import torch

    from . import work

    if process := os.fork():
        return process
    status = 70
    try:
        said = os.open(home / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(said, 1)
        os.dup2(said, 2)
        os.environ["FACEKIT_CACHE"] = str(out / "cache")
        torch.set_num_threads(1)  # a fork makes torch's pool anew, which several threads must not do at once
        work.stand_still()
        work.WORKS[name][0](home, out)
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def ended(process: int) -> str:
    """Waits for a work; returns what went wrong."""
    _, status = os.waitpid(process, 0)
    return f"exit status {os.waitstatus_to_exitcode(status)}" if status else ""


def killed(process: int, after: float, one_of_two: int | None = None) -> bool:
    """Kills a work and all that it started; returns whether it was still at work.

    one_of_two: which of the two processes alone that a torchrun of the work has started, if it has; the work goes on.
    """
    until, at_work = time.monotonic() + after, True
    while at_work and time.monotonic() < until:
        time.sleep(0.001)
        at_work = os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    if one_of_two is None:
        kill(process)
        os.waitpid(process, 0)
        return at_work
    workers = [worker for starter in started_by(process) for worker in started_by(starter)]
    if len(workers) == 2:
        with suppress(ProcessLookupError):
            os.kill(workers[one_of_two], signal.SIGKILL)
    return len(workers) == 2


def kill(process: int) -> None:
    """Kills a process and all that it started; torchrun begins its own in sessions of their own."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGSTOP)  # it starts no other while they are looked up
    started = started_by(process)
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)
    for each in started:
        kill(each)


def started_by(process: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    with suppress(ProcessLookupError, FileNotFoundError):
        return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


def fresh(out: Path) -> Path:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    return out


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """What is in one folder and not in the other, or differs."""
    more = [f"{name} is left" for name in other.keys() - one.keys()]
    less = [f"{name} is missing" for name in one.keys() - other.keys()]
    return sorted(
        [*more, *less, *(f"{name} differs" for name in one.keys() & other.keys() if one[name] != other[name])]
    )


def main() -> int:
    from . import work

    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__.split("\n\n")[1])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="works, separated by commas", default=",".join(work.WORKS))
    options = parser.parse_args()
    shares = {name: work.WORKS[name][2] for name in options.only.split(",")}
    start, wrong = time.monotonic(), []
    print(f"{'':10}{'seconds':>10}{'kills':>10}{'at work':>10}{'wrong':>10}")
    for name, share in shares.items():
        home = Path(tempfile.mkdtemp(prefix="kills-"))
        try:
            if prepare := work.WORKS[name][1]:
                prepare(home)
            rng, counts, out = Random(f"{options.seed} {name}"), Counter(), home / "out"
            began = time.monotonic()
            if said := ended(begun(name, home, fresh(out))):
                raise SystemExit(f"{name} does not run undisturbed: {said}\n{(home / 'said').read_text()}")
            took, whole = time.monotonic() - began, content(out)
            while counts["kills"] < max(1, round(options.kills * share / sum(shares.values()))):
                fresh(out)
                moments = [rng.uniform(0, took) for _ in range(1 + (rng.random() < 1 / 3))]
                process = begun(name, home, out)
                for moment in moments:
                    counts["kills"] += 1
                    if name in work.ELASTIC:
                        counts["at work"] += killed(process, moment, rng.randrange(2))
                    else:
                        counts["at work"] += killed(process, moment)
                        process = begun(name, home, out)
                said = ended(process)
                found = [f"{said}: {(home / 'said').read_text()[-300:]}"] if said else differences(whole, content(out))
                if found:
                    counts["wrong"] += 1
                    at = ", ".join(f"{moment / took:.0%}" for moment in moments)
                    wrong.append(f"{name}, killed after {at} of its time: {'; '.join(found)[:600]}")
        finally:
            shutil.rmtree(home, ignore_errors=True)
        print(f"{name:10}{took:10.1f}" + "".join(f"{counts[each]:>10}" for each in ("kills", "at work", "wrong")))
    print(*wrong, f"{time.monotonic() - start:.0f} s, {len(wrong)} differences", sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    # One thread and one import for all, and the first before the second: the works are forks of this process.
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "FACEKIT_PROGRESS": "0"}
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
