"""Installing: the lock file, the conda environment and `make` name the same things and say what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from lock import CUDA, PAIR, without_cuda
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK_LINE = re.compile(r"(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[0-9][0-9a-z.]*)( ; (?P<marker>.+))?")
LINES = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()


def locked() -> dict[str, list[tuple[str, Marker | None]]]:
    """Package to its locked versions, several where they depend on the Python version."""
    versions: dict[str, list[tuple[str, Marker | None]]] = {}
    for match in map(LOCK_LINE.fullmatch, LINES):
        marker = Marker(match["marker"]) if match["marker"] else None
        versions.setdefault(canonicalize_name(match["name"]), []).append((match["version"], marker))
    return versions


def test_the_lock_names_packages_and_versions_alone():
    assert LINES
    assert not [line for line in LINES if not LOCK_LINE.fullmatch(line)], "no address, path, option or local version"


def test_the_lock_has_everything_that_the_project_asks_for_in_a_version_that_it_takes():
    extras = [line for name in ("lab", "dev") for line in PROJECT["optional-dependencies"][name]]
    for wanted in map(Requirement, [*PROJECT["dependencies"], *extras]):
        versions = locked().get(canonicalize_name(wanted.name))
        assert versions, f"{wanted.name} is not in requirements.lock"
        assert all(wanted.specifier.contains(version) for version, _ in versions), (str(wanted), versions)


def test_torch_and_torchvision_are_a_pair():
    [(torch, _)], [(torchvision, _)] = locked()["torch"], locked()["torchvision"]
    if importlib.metadata.version("torchvision").partition("+")[0] != torchvision:
        pytest.skip(f"what torchvision {torchvision} needs can only be asked where it is installed")
    [needed] = [r for r in map(Requirement, importlib.metadata.requires("torchvision")) if r.name == "torch"]
    assert needed.specifier.contains(torch)


def test_the_lock_without_cuda_is_the_other_one_but_for_torch_and_cuda():
    """Line by line: the same packages in the same versions, and on Linux torch and torchvision of the other index."""
    lines = (ROOT / "requirements-cpu.lock").read_text(encoding="utf-8").splitlines()
    assert "".join(f"{line}\n" for line in lines) == without_cuda("\n".join(LINES)), "python tests/lock.py derive"
    pair = [line for line in lines if line.partition("==")[0] in PAIR]
    assert [line for line in lines if line not in LINES] == pair
    left_out = [line for line in LINES if line not in lines]
    assert {line.partition("==")[0] for line in left_out if CUDA.fullmatch(line.partition("==")[0])} >= {"triton"}
    for name in PAIR:
        [(version, _)] = locked()[name]
        assert [line for line in pair if line.startswith(f"{name}==")] == [
            f"{name}=={version} ; sys_platform != 'linux'",
            f"{name}=={version}+cpu ; sys_platform == 'linux'",
        ]
    for line in lines:
        if line not in pair:
            assert not re.search("cuda|nvidia|triton", line)


def test_what_the_lock_without_cuda_leaves_out_is_asked_for_by_torch_alone():
    """So that nothing else lacks it: in the metadata of what is installed."""
    out = {canonicalize_name(name) for name in locked() if CUDA.fullmatch(name)}
    assert len(out) > 10
    for name in set(locked()) - out - {"torch"}:
        try:
            needs = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another system
        needs = [need for need in map(Requirement, needs) if not need.marker or need.marker.evaluate({"extra": ""})]
        assert not {canonicalize_name(need.name) for need in needs} & out, name


def test_conda_names_what_the_lock_names():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *packages, by_pip = environment["dependencies"]
    assert environment["name"] == "facekit" and by_pip == {"pip": ["-r requirements.lock", "-e ."]}
    assert {package.partition("=")[0] for package in packages} == {"python", "pip"}
    [python] = [package.partition("=")[2] for package in packages if package.startswith("python=")]
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)


def test_the_licence_of_code_and_lessons():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "MIT" and "MIT License" in text and "lessons/LICENSE" in text
    assert "CC BY 4.0" in (ROOT / "lessons/LICENSE").read_text(encoding="utf-8")


# A Python that only writes down what it is asked to do; `-m venv` copies it, pip can be told to fail.
RECORDER = r"""#!/bin/sh
case "$*" in
    *sys.version_info*) exit 0 ;;
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
esac
echo "$*" >> calls
case "$*" in *"-m pip"*) [ ! -e broken ] ;; esac
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkout with a space in its name, without an environment, with a recording Python beside it."""
    if not shutil.which("make"):
        pytest.skip("needs make")
    folder = tmp_path / "a course"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "requirements-cpu.lock", "pyproject.toml", ".ci/run"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    executable(tmp_path / "my python", RECORDER)
    return folder


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    command = ["make", "-C", str(folder), f"PYTHON={folder.parent / 'my python'}", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def calls(folder: Path) -> list[str]:
    """What the Python was asked for since the last call."""
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    file.unlink(missing_ok=True)
    return lines


def test_make_lab_installs_once_and_opens_the_lessons(folder):
    assert make(folder, "lab").returncode == 0
    venv, lock, package, lab = calls(folder)
    assert venv == "-m venv --clear .venv" and lab == "-m facekit lab"
    assert lock.endswith("-r requirements.lock") and package.endswith("--no-deps --no-build-isolation -e .")
    assert make(folder, "lab").returncode == 0
    assert calls(folder) == ["-m facekit lab"]


def test_make_installs_again_when_the_lock_changed_or_the_folder_moved(folder):
    make(folder, ".venv/.ready")
    calls(folder)
    later = (folder / ".venv/.ready").stat().st_mtime + 10
    os.utime(folder / "requirements.lock", (later, later))
    make(folder, ".venv/.ready")
    assert len(calls(folder)) == 2, "the two installations, into the environment that is there"
    os.utime(folder / "requirements.lock", (later - 20, later - 20))
    moved = folder.rename(folder.parent / "moved")
    make(moved, ".venv/.ready")
    assert len(calls(moved)) == 2
    make(moved, ".venv/.ready")
    assert not calls(moved)


def test_make_installs_torch_without_cuda_when_told_and_keeps_it_until_told_otherwise(folder):
    assert make(folder, "lab", "TORCH=cpu").returncode == 0
    _, packages, _, _ = calls(folder)
    assert "-r requirements-cpu.lock --extra-index-url https://download.pytorch.org/whl/cpu" in packages
    for arguments in ((), ("TORCH=cpu",)):
        assert make(folder, "lab", *arguments).returncode == 0
        assert calls(folder) == ["-m facekit lab"], "nothing is installed again, and no CUDA after all"
    assert make(folder, "lab", "TORCH=default").returncode == 0
    packages, _, _ = calls(folder)
    assert packages.endswith("-r requirements.lock")
    assert make(folder, "lab").returncode == 0 and calls(folder) == ["-m facekit lab"]


def test_make_names_an_unknown_torch(folder):
    done = make(folder, "lab", "TORCH=gpu")
    assert done.returncode != 0 and "TORCH is cpu or default, not gpu" in done.stderr and not calls(folder)


@pytest.mark.parametrize("torch", ["default", "cpu"])
def test_make_installs_from_a_folder_without_an_index(folder, torch):
    room = folder.parent / "a room"
    room.mkdir()
    (room / "kind.txt").write_text(f"cpython-311 linux-x86_64\n{torch}\n")
    assert make(folder, "lab", f"WHEELS={room}").returncode == 0
    _, asked, packages, package, _ = calls(folder)
    assert asked == f"-m facekit.course.room {room}", "whether it is for this Python, before anything is installed"
    wanted = f"--no-index --find-links {room}/wheels --require-hashes -r {room}/requirements.txt"
    assert packages.endswith(wanted) and "--no-index" in package
    assert make(folder, "lab").returncode == 0 and calls(folder) == ["-m facekit lab"]


def test_make_room_takes_the_torch_that_is_installed(folder):
    make(folder, "lab", "TORCH=cpu")
    calls(folder)
    assert make(folder, "room", "ROOM=/media/a stick").returncode == 0
    assert calls(folder) == [
        "-m facekit room --to /media/a stick --torch cpu --index https://download.pytorch.org/whl/cpu"
    ]


def test_make_lab_takes_a_folder_to_work_in(folder):
    assert make(folder, "lab", "WORK=my work").returncode == 0
    assert calls(folder)[-1] == "-m facekit lab --work my work"


def test_an_installation_that_failed_is_not_taken_for_a_whole_one(folder):
    (folder / "broken").touch()
    assert make(folder, "lab").returncode != 0
    assert "-m facekit lab" not in calls(folder)
    (folder / "broken").unlink()
    assert make(folder, "lab").returncode == 0
    assert "-m facekit lab" in calls(folder)


def test_make_test_runs_the_package_tests_and_then_every_notebook(folder):
    (folder / "lessons/solutions").mkdir(parents=True)
    for name in ("lessons/00_a.ipynb", "lessons/solutions/00_a.ipynb"):
        (folder / name).touch()
    done = make(folder, "test")
    assert done.returncode == 0
    assert re.search(r"^check \d+ s, test-package \d+ s, test-lessons \d+ s$", done.stdout, re.MULTILINE)
    package, sources, lessons = calls(folder)[-3:]
    assert re.fullmatch("-m pytest .* tests", package) and sources == "-m facekit lessons check"
    assert {"--nbval", "--nbval-current-env", "lessons/00_a.ipynb", "lessons/solutions/00_a.ipynb"} <= set(
        lessons.split()
    )


def test_the_gate_is_part_of_make_test_and_the_reference_needs_no_configuration(folder):
    for target, call in (("check", "tests/gate.py"), ("docs", "-m pdoc --docformat google facekit -o build/docs")):
        assert make(folder, target).returncode == 0
        assert call in calls(folder)
    assert make(folder, "test").returncode == 0
    assert "tests/gate.py" in calls(folder)


@pytest.mark.parametrize("python", ["", "exit 1\n"], ids=["none", "too old"])
def test_a_missing_or_old_python_is_named_with_its_remedy(folder, python):
    path = str(executable(folder.parent / "old", f"#!/bin/sh\n{python}")) if python else ""
    result = make(folder, "lab", f"PYTHON={path}")
    assert result.returncode != 0 and not (folder / ".venv").exists()
    assert "Python 3.11 or newer" in result.stdout and "make lab PYTHON=" in result.stdout and path in result.stdout


@pytest.mark.parametrize("photos", [False, True])
def test_the_checks_see_real_photos_where_a_folder_beside_has_them(folder, photos):
    data = folder.parent / "shared/data"
    if photos:
        data.mkdir(parents=True)
    programs = folder.parent / "programs"
    programs.mkdir()
    executable(programs / "make", '#!/bin/sh\necho "$PWD|$*|${FACEKIT_DATA:-none}"\n')
    environment = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    result = subprocess.run([folder / ".ci/run"], env=environment, capture_output=True, text=True, check=True)
    where, what, found = result.stdout.strip().split("|")
    assert Path(where).samefile(folder) and what == "test"
    assert Path(found).samefile(data) if photos else found == "none"
