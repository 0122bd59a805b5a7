"""Whether a lock serves every system it should: `make lock-check`, which needs a connection.

For each system and each version of Python uv looks up what requirements.lock asks for there, in wheels alone, with
everything that these packages need. The lock holds when there is an answer and all of it is in the lock.

requirements-cpu.lock is the same without CUDA: on Linux torch and torchvision come from PyTorch's own index, which has
them without it. It is not resolved but derived (`tests/lock.py derive`). `make lock-check TORCH=cpu` looks it up, too,
where that index can be reached.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # as in facekit/course/room.py and the Makefile
LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
CPU_LOCK = LOCK.with_name("requirements-cpu.lock")
PAIR = ("torch", "torchvision")
CUDA = re.compile(r"(nvidia|cuda)-[a-z0-9-]+|triton")  # what torch asks for on Linux in the ordinary index alone
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# PyTorch has no wheels for other Macs, nor for Linux with a C library older than glibc 2.28.
SYSTEMS = {
    "Linux, x86_64": "x86_64-manylinux_2_28",
    "Linux, arm64": "aarch64-manylinux_2_28",
    "Windows, x86_64": "x86_64-pc-windows-msvc",
    "macOS 14, Apple silicon": "aarch64-apple-darwin",
}


def without_cuda(text: str) -> str:
    """The lock without CUDA: the same lines, but for those of CUDA's packages, and another torch and torchvision."""
    lines = []
    for line in text.splitlines():
        name, _, version = line.partition(" ;")[0].partition("==")
        if name in PAIR:
            lines += [
                f"{name}=={version} ; sys_platform != 'linux'",
                f"{name}=={version}+cpu ; sys_platform == 'linux'",
            ]
        elif not CUDA.fullmatch(name):
            lines.append(line)
    return "".join(f"{line}\n" for line in lines)


def resolve(lock: Path, platform: str, python: str) -> tuple[set[str], str]:
    """The packages, as `name==version`, that the lock gives on a platform; empty with uv's reason where it cannot."""
    command = [sys.executable, "-m", "uv", "pip", "compile", str(lock), "--only-binary", ":all:", "--quiet"]
    if lock == CPU_LOCK:
        command += ["--index", CPU_INDEX, "--index-strategy", "unsafe-best-match"]
    command += ["--no-header", "--no-annotate", "--python-platform", platform, "--python-version", python]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return set(done.stdout.split("\n")) - {""} if done.returncode == 0 else set(), done.stderr.strip()


def main(what: str = "") -> int:
    """Prints a line for each system and version; 1 where the lock does not hold.

    what: `cpu` looks up the lock without CUDA, `derive` writes it.
    """
    if what == "derive":
        CPU_LOCK.write_text(without_cuda(LOCK.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    lock = CPU_LOCK if what == "cpu" else LOCK
    locked = {line.partition(" ;")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines()}
    failures = 0
    for name, platform in SYSTEMS.items():
        for python in PYTHONS:
            found, reason = resolve(lock, platform, python)
            missing = sorted(found - locked)
            if missing:
                reason = f"not in the lock: {', '.join(missing)}"
            good = bool(found) and not missing
            failures += not good
            print(f"{name}, Python {python}: {f'{len(found)} packages' if good else f'FAIL {reason}'}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
