"""What a room installs without a network: whole or not there, for one kind of machine, and each file by its hash."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from facekit.commands.cli import main
from facekit.course import room as rooms
from facekit.errors import ConfigError, OutputError

LOCK = "alpha==1.0\nbeta==2.0 ; python_full_version >= '3.11'\ngamma==3.0 ; sys_platform == 'plan9'\n"
CPU_LOCK = "alpha==1.0\ntorch==2.15.0 ; sys_platform == 'plan9'\ntorch==2.15.0+cpu ; sys_platform != 'plan9'\n"


def wheel(folder: Path, name: str, version: str, needs: str = "") -> Path:
    """A package of one module that says its version."""
    folder.mkdir(parents=True, exist_ok=True)
    info, path = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs and f'Requires-Dist: {needs}'}\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


def index(folder: Path, *wheels: Path) -> str:
    """A package index in a folder, as pip asks one; returns its address."""
    for path in wheels:
        place = folder / path.name.partition("-")[0]
        place.mkdir(parents=True, exist_ok=True)
        path.rename(place / path.name)
        names = [each.name for each in place.glob("*.whl")]
        (place / "index.html").write_text("".join(f'<a href="{name.replace("+", "%2B")}">{name}</a>' for name in names))
    return folder.as_uri()


@pytest.fixture
def course(tmp_path, monkeypatch) -> Path:
    """A checkout with two locks, where pip's only index is a folder."""
    made = [
        wheel(tmp_path / "made", name, version)
        for name, version in (("alpha", "1.0"), ("alpha", "1.1"), ("beta", "2.0"))
    ]
    made.append(wheel(tmp_path / "made", "torch", "2.15.0", "nvidia-cuda"))
    address = index(tmp_path / "index", *made)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", address)
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    root = tmp_path / "course"
    root.mkdir()
    (root / "requirements.lock").write_text(LOCK)
    (root / "requirements-cpu.lock").write_text(CPU_LOCK)
    monkeypatch.setattr(rooms, "ROOT", root)
    return tmp_path


def install(folder: Path, to: Path) -> subprocess.CompletedProcess:
    """What `make lab WHEELS=folder` has pip do, into a folder of its own."""
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", str(folder / "wheels")]
    command += ["--require-hashes", "-r", str(folder / "requirements.txt"), "--target", str(to)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_was_fetched_once_is_installed_without_an_index(course, capsys):
    folder = course / "a room"
    assert rooms.room(folder) == 0
    said = capsys.readouterr().out
    assert "2 packages" in said and f"make lab WHEELS={folder}" in said
    lines = (folder / "requirements.txt").read_text().splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["alpha==1.0", "beta==2.0"], (
        "as locked, and what this machine needs"
    )
    assert all(re.search(r" --hash=sha256:[0-9a-f]{64}$", line) for line in lines)
    rooms.check(folder)
    done = install(folder, course / "site")
    assert done.returncode == 0, done.stderr
    assert (course / "site/alpha.py").read_text() == "VERSION = '1.0'\n" and (course / "site/beta.py").is_file()


def test_a_file_that_was_changed_on_the_way_is_refused(course):
    folder = course / "room"
    rooms.room(folder)
    path = folder / "wheels/beta-2.0-py3-none-any.whl"
    path.write_bytes(path.read_bytes() + b"\0")
    done = install(folder, course / "site")
    assert done.returncode != 0 and "DO NOT MATCH THE HASHES" in done.stderr


def test_without_cuda_torch_is_that_of_the_other_index(course):
    address = index(course / "pytorch", wheel(course / "made", "torch", "2.15.0+cpu"))
    folder = course / "room"
    assert rooms.room(folder, torch="cpu", index=address) == 0
    assert [line.partition(" ")[0] for line in (folder / "requirements.txt").read_text().splitlines()] == [
        "alpha==1.0",
        "torch==2.15.0+cpu",
    ]
    assert (folder / "kind.txt").read_text().splitlines() == [rooms.kind(), "cpu"]
    assert install(folder, course / "site").returncode == 0, "and it asks for no CUDA"


def test_a_download_that_fails_leaves_no_folder_that_passes_for_whole_and_goes_on_the_next_time(course, capfd):
    folder = course / "room"
    rooms.room(folder)
    (rooms.ROOT / "requirements.lock").write_text(LOCK + "delta==4.0\n")
    assert main(["room", "--to", str(folder)]) == 2
    assert "is not whole. Run this again." in capfd.readouterr().err
    with pytest.raises(ConfigError, match="no whole folder of wheels; make one .*: make room"):
        rooms.check(folder)
    index(course / "index", wheel(course / "made", "delta", "4.0"))
    assert main(["room", "--to", str(folder)]) == 0
    rooms.check(folder)


def test_files_of_an_earlier_lock_are_named_and_not_installed(course, capsys):
    folder = course / "room"
    rooms.room(folder)
    (rooms.ROOT / "requirements.lock").write_text(LOCK.replace("alpha==1.0", "alpha==1.1"))
    rooms.room(folder)
    assert "1 files of" in capsys.readouterr().out
    assert "alpha==1.1 " in (text := (folder / "requirements.txt").read_text()) and "alpha==1.0" not in text


def test_a_room_for_another_kind_of_machine_is_named(course):
    folder = course / "room"
    rooms.room(folder)
    (folder / "kind.txt").write_text("cpython-310 win-amd64\ndefault\n")
    command = [sys.executable, "-m", "facekit.course.room", str(folder)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "is for cpython-310 win-amd64, and this is" in done.stderr
    assert "make room" in done.stderr and "Traceback" not in done.stderr


def test_it_asks_before_anything_is_installed():
    """`make` asks a new environment, which has nothing but Python."""
    code = "import sys; import facekit.course.room; print(sorted(set(sys.modules)))"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(root)!r}); {code}"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0 and "numpy" not in done.stdout, done.stderr


def test_no_lock_is_named(course):
    (rooms.ROOT / "requirements-cpu.lock").unlink()
    with pytest.raises(ConfigError, match="requirements-cpu.lock is not beside the package"):
        rooms.room(course / "room", torch="cpu")
    with pytest.raises(OutputError, match="has no file of beta==2.0"):
        rooms.locked_wheels(course / "index" / "alpha", rooms.ROOT / "requirements.lock")
