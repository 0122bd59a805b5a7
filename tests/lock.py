"""Whether requirements.lock serves every system it should: `make lock-check`, which needs a connection.

For each system and each version of Python uv looks up what the lock asks for there, in wheels alone, with everything
that these packages need. The lock holds when there is an answer and all of it is in the lock.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
# PyTorch has no wheels for other Macs, nor for Linux with a C library older than glibc 2.28.
SYSTEMS = {
    "Linux, x86_64": "x86_64-manylinux_2_28",
    "Linux, arm64": "aarch64-manylinux_2_28",
    "Windows, x86_64": "x86_64-pc-windows-msvc",
    "macOS 14, Apple silicon": "aarch64-apple-darwin",
}


def resolve(platform: str, python: str) -> tuple[set[str], str]:
    """The packages, as `name==version`, that the lock gives on a platform; empty with uv's reason where it cannot."""
    command = [sys.executable, "-m", "uv", "pip", "compile", str(LOCK), "--only-binary", ":all:", "--quiet"]
    command += ["--no-header", "--no-annotate", "--python-platform", platform, "--python-version", python]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "14.0", "UV_PYTHON_DOWNLOADS": "never"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return set(done.stdout.split("\n")) - {""} if done.returncode == 0 else set(), done.stderr.strip()


def main() -> int:
    """Prints a line for each system and version; 1 where the lock does not hold."""
    locked = {line.partition(" ;")[0].strip() for line in LOCK.read_text(encoding="utf-8").splitlines()}
    failures = 0
    for name, platform in SYSTEMS.items():
        for python in PYTHONS:
            found, reason = resolve(platform, python)
            missing = sorted(found - locked)
            if missing:
                reason = f"not in the lock: {', '.join(missing)}"
            good = bool(found) and not missing
            failures += not good
            print(f"{name}, Python {python}: {f'{len(found)} packages' if good else f'FAIL {reason}'}", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
