"""The gate: lint, format, types and layers, as `make check` and the hooks of pre-commit run it.

`python tests/gate.py` runs all four, `python tests/gate.py types` one of them. Types: mypy finds nothing in the parts
of the package that are typed; in the others it finds as many errors as `[tool.facekit.type-errors]` of pyproject.toml
says, a number that only falls.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TYPED = ("tasks", "data", "models", "training", "transfer", "evaluation")  # never an error
PYTHON = [sys.executable, "-m"]
STEPS = {
    "lint": [*PYTHON, "ruff", "check", "--quiet", "--no-cache", "."],
    "format": [*PYTHON, "ruff", "format", "--check", "--quiet", "--no-cache", "."],
    "types": [*PYTHON, "mypy", "--no-error-summary"],
    "layers": [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"],
}
ERROR = re.compile(r"^facekit[/\\](\w+)\S*?:\d+: error:", re.MULTILINE)


def errors_by_part(output: str) -> Counter[str]:
    """How many errors mypy's output names in each part (folder or module of the root) of the package."""
    return Counter(ERROR.findall(output))


def complaints(found: Mapping[str, int], allowed: Mapping[str, int]) -> list[str]:
    """What is wrong with these numbers of errors by part; empty where each is the allowed one (0 where none is given).

    A part of TYPED is allowed none, whatever `allowed` says. A number that could be lowered is a complaint, too.
    """
    lines = []
    for part in sorted({*found, *allowed}):
        limit, number = (0 if part in TYPED else allowed.get(part, 0)), found.get(part, 0)
        if number > limit:
            lines.append(f"{part}: {number} errors, {limit} are allowed")
        elif number < allowed.get(part, 0):
            remedy = f"set it to {number}" if number else "delete its line"
            lines.append(f"{part}: {number} errors, fewer than pyproject.toml allows ({allowed[part]}): {remedy}")
    return lines


def failure(step: str) -> str:
    """Runs one step; what it complains of, empty where it passes."""
    done = subprocess.run(STEPS[step], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    output = (done.stdout + done.stderr).strip()
    if step == "types" and done.returncode < 2:  # 2: mypy itself could not go on
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        wrong = complaints(errors_by_part(output), project["tool"].get("facekit", {}).get("type-errors", {}))
        # Those of parts that are as they should be would only hide the others.
        parts = tuple(f"facekit{slash}{line.partition(':')[0]}" for line in wrong for slash in "/\\")
        shown = [line for line in output.splitlines() if line.startswith(parts)] if parts else []
        return "\n".join([*shown, *wrong])
    if not done.returncode:
        return ""
    return output.partition("Broken contracts")[2].strip("-\n") or output or f"exit status {done.returncode}"


def main(steps: list[str]) -> int:
    """Runs the named steps, by default all; prints ok or the complaints of each and returns 1 where there are any."""
    if unknown := set(steps) - set(STEPS):
        print(f"unknown step {', '.join(sorted(unknown))}; use {', '.join(STEPS)}.")
        return 2
    failed = False
    for step in steps or STEPS:
        found = failure(step)
        print(f"{step}: {'FAIL' if found else 'ok'}" + (f"\n{found}" if found else ""), flush=True)
        failed |= bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
