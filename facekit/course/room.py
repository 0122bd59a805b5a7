"""A room of machines: what one of them downloads once, all others of its kind install without a network.

The folder holds `wheels/`, `requirements.txt` with the version and the SHA-256 of each of them, and `kind.txt`: the
Python and the system that they are for, and which PyTorch. The last two are written when all is there.

    python -m facekit room            makes it
    python -m facekit.course.room DIR says whether it fits this Python; needs nothing installed, `make` asks it first
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Literal

from facekit.errors import ConfigError, OutputError
from facekit.files import atomic_path, sha256_of_file

ROOT = Path(__file__).resolve().parents[2]
# PyTorch without CUDA for Linux, which the ordinary index has not; elsewhere the ordinary one is without.
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
REMEDY = "make one on a machine like this one with a network: make room (python -m facekit room)"


def room(to: Path = Path("room"), torch: Literal["default", "cpu"] = "default", index: str = CPU_INDEX) -> int:
    """Downloads once what other machines of this kind then install without a network.

    Of one kind are machines with the same system, processor and version of Python. A download that was stopped goes on.

    Args:
        to: the folder; it holds 3.3 GB on Linux, of which 2.5 are CUDA, and 0.3 elsewhere.
        torch: `cpu` takes PyTorch without CUDA on Linux, too.
        index: where that one is.

    Examples:
        python -m facekit room --to /media/stick/room
        python -m facekit room --torch cpu
    """
    lock, wheels = ROOT / f"requirements{'-cpu' * (torch == 'cpu')}.lock", to / "wheels"
    if not lock.is_file():
        raise ConfigError(f"{lock.name} is not beside the package; run this in a checkout of the course.")
    for name in ("kind.txt", "requirements.txt"):  # of an earlier one, until this one is whole
        (to / name).unlink(missing_ok=True)
    wheels.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(wheels), "-r", str(lock)]
    command += ["--extra-index-url", index] if torch == "cpu" else []
    if subprocess.run(command, check=False).returncode:
        raise OutputError(f"not everything could be downloaded (see above); {to} is not whole. Run this again.")
    files = locked_wheels(wheels, lock)
    lines = [f"{name}=={version} --hash=sha256:{sha256_of_file(path)}\n" for name, version, path in files]
    for name, text in (("requirements.txt", "".join(lines)), ("kind.txt", f"{kind()}\n{torch}\n")):
        with atomic_path(to / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    size = sum(path.stat().st_size for _, _, path in files) / 1e9
    print(f"{to}: {len(files)} packages, {size:.1f} GB, for {kind()}. Copy it and the course to each machine, then:")
    print(f"make lab WHEELS={to}")
    if others := sorted({path.name for path in wheels.glob("*.whl")} - {path.name for _, _, path in files}):
        print(f"{len(others)} files of {wheels} are no longer needed, such as {others[0]}.")
    return 0


def locked_wheels(wheels: Path, lock: Path) -> list[tuple[str, str, Path]]:
    """Name, version and file of every package that a lock names for this Python; raises OutputError where one lacks."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name, parse_wheel_filename

    there = {parse_wheel_filename(path.name)[:2]: path for path in sorted(wheels.glob("*.whl"))}
    wanted = [Requirement(line) for line in lock.read_text(encoding="utf-8").splitlines()]
    found: list[tuple[str, str, Path]] = []
    for each in wanted:
        if each.marker and not each.marker.evaluate():
            continue
        files: list[tuple[str, str, Path]] = [
            (canonicalize_name(each.name), str(version), path)
            for (name, version), path in there.items()
            if name == canonicalize_name(each.name) and each.specifier.contains(version)
        ]
        if not files:
            raise OutputError(f"{wheels} has no file of {each.name}{each.specifier}; run this again.")
        found.append(max(files, key=lambda file: len(file[1])))  # with a local version where there is one
    return found


def kind() -> str:
    """This Python and system, in words that tell machines apart that cannot use each other's wheels."""
    return f"{sys.implementation.cache_tag} {sysconfig.get_platform()}"


def check(folder: Path) -> None:
    """Raises ConfigError, with the remedy, unless the folder is whole and for this Python and system."""
    if not (folder / "kind.txt").is_file() or not (folder / "requirements.txt").is_file():
        raise ConfigError(f"{folder} is no whole folder of wheels; {REMEDY}.")
    made_for = (folder / "kind.txt").read_text(encoding="utf-8").partition("\n")[0]
    if made_for != kind():
        raise ConfigError(
            f"{folder} is for {made_for}, and this is {kind()}; name that Python (PYTHON=…), or {REMEDY}."
        )


if __name__ == "__main__":
    try:
        check(Path(sys.argv[1]))
    except ConfigError as error:
        sys.exit(f"error: {error}")
