"""What commands write: nobody else's files, one process a folder, whole after a kill at any moment, full disks told."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file
from tiny import features

from facekit import files
from facekit.commands.cli import main
from facekit.course.build import run_lesson
from facekit.course.folders import find_lessons
from facekit.data import growing
from facekit.data.drawn.rendered import write_sheet
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import OutputError
from facekit.files import alone, atomic_path, write_json, writing
from facekit.records import record
from facekit.studies.common import write_text
from facekit.studies.fidelity import fit

KINDS = ("pack", "train", "portraits", "drawn")


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """Photos in a folder with their table, and a stored set of embeddings."""
    place = tmp_path_factory.mktemp("sources")
    (place / "photos").mkdir()
    for n in range(6):
        pixels = np.random.default_rng(n).integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "photos" / f"{n}.png")
    rows = "".join(f"{n}.png,{('Male', 'Female')[n % 2]}\n" for n in range(6))
    (place / "photos" / "own.csv").write_text("file,gender\n" + rows)
    FeatureSet(
        np.concatenate([features(24).features, features(8, seed=1).features]),
        pd.concat([features(24).labels, features(8, seed=1, split="validation").labels]),
    ).save(place / "set")
    return place


def run(kind: str, sources: Path, out: Path, resume: bool = False) -> int:
    """The exit status of a command of this kind that writes the folder `out`."""
    train = ["--tasks", "side", "--backbone", "none", "--epochs", "2", "--batch_size", "16", "--lr", "0.05"]
    arguments: dict[str, list[str]] = {
        "pack": ["pack", str(sources / "photos"), str(out), "--size", "16", "--workers", "1"],
        "train": ["train", "--data", str(sources / "set"), "--out", str(out), *train, "--resume", str(resume).lower()],
        "portraits": ["portraits", "render", str(out), "--n", "2", "--size", "32", "--workers", "1"],
        "drawn": ["drawn", "render", "lesions", str(out), "--n", "2"],
    }
    return main(arguments[kind])


def contents(folder: Path) -> dict[str, object]:
    """All names in a folder, with what must be the same in every run of a command."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".safetensors":
            found[path.name] = {name: value.tolist() for name, value in load_file(path).items()}
        elif path.name == "log.csv":
            found[path.name] = pd.read_csv(path).drop(columns="seconds").to_csv()
        else:  # these hold seconds and times of day
            changing = path.name in ("metrics.json", "config.json", "last.pt", "events.out.tfevents.facekit")
            found[path.name] = None if changing else path.read_bytes()
    return found


@pytest.fixture(scope="module")
def whole(sources, tmp_path_factory) -> dict[str, dict[str, object]]:
    """What each kind of command writes into a new folder."""
    found = {}
    for kind in KINDS:
        out = tmp_path_factory.mktemp("whole") / kind
        assert run(kind, sources, out) == 0
        found[kind] = contents(out)
    return found


# --- nobody else's files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["file", "link", "broken link", "folder"])
def test_whatever_has_a_name_that_is_to_be_written_stays_and_is_named(kind, form, sources, whole, tmp_path, capsys):
    assert not [name for name in whole[kind] if name.startswith(".")], "what is complete holds nothing but its files"
    for number, name in enumerate([*whole[kind], files.MARKER]):
        out, elsewhere = tmp_path / str(number), tmp_path / f"{number} elsewhere"
        out.mkdir()
        if form in ("file", "link"):
            (out / name if form == "file" else elsewhere).write_text("my own\n")
        if form == "folder":
            (out / name).mkdir()
        elif form != "file":
            (out / name).symlink_to(elsewhere)
        assert run(kind, sources, out, resume=True) == 2
        said = capsys.readouterr().err
        assert f"{out / name} is in the way" in said and "Name another place" in said
        assert [path.name for path in out.iterdir()] == [name]
        assert elsewhere.exists() == (form == "link")
        if form in ("file", "link"):
            assert (out / name).read_text() == "my own\n"


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_other_names_stay_and_do_not_matter(kind, sources, whole, tmp_path):
    own = {name: b"mine" for name in ("notes.txt", "labels.csv.bak", ".log.csv.mine.part", "last-one.pt", "last.csv")}
    for name, text in own.items():
        (tmp_path / name).write_bytes(text)
    assert run(kind, sources, tmp_path) == 0
    assert contents(tmp_path) == whole[kind] | own


def test_the_folder_of_the_photos_is_no_place_for_the_set(sources, capsys):
    before = contents(sources / "photos")
    assert main(["pack", str(sources / "photos"), str(sources / "photos" / ".." / "photos")]) == 2
    assert "name another folder" in capsys.readouterr().err and contents(sources / "photos") == before


def sheet(path: Path) -> int:
    faces = FaceSet(np.zeros((1, 3, 16, 16), np.uint8), pd.DataFrame({"split": ["train"]}))
    return write_sheet(path, [("one", faces.images, ["a"])], [faces], 20, 20, 16)


SINGLE = {
    "methods": lambda path: main(["methods", "--write", str(path)]),
    "sheet": sheet,
    "record": lambda path: record(
        path.stem, pd.DataFrame({"value": [1.0]}), what="", data="", command="", seconds=0, folder=path.parent
    ),
    "card": lambda path: write_text(path, "# A card\n\nWritten.\n"),
    "lesson": lambda path: run_lesson(find_lessons()[0], "laptop", path.parent),
    "features": lambda path: fit(dest=path),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_single_file_replaces_only_what_it_would_have_been(name, tmp_path, capsys):
    path = tmp_path / {"record": "a.json", "lesson": f"{find_lessons()[0].stem}.ipynb"}.get(name, "file")
    if name not in ("lesson", "features"):  # which take a while
        for _ in range(2):
            SINGLE[name](path)
            assert path.stat().st_size > 10
    path.write_text('{"mine": 1}')
    with pytest.raises(OutputError) if name != "methods" else contextlib.nullcontext() as caught:
        SINGLE[name](path)
    assert f"{path} is in the way" in (str(caught.value) if caught else capsys.readouterr().err)
    assert path.read_text() == '{"mine": 1}' and list(tmp_path.iterdir()) == [path]


# --- one process a folder --------------------------------------------------------------------------------------------

HOLDING = """
import sys
from contextlib import ExitStack
from facekit.files import writing
with ExitStack() as stack:
    for folder in sys.argv[1:]:
        stack.enter_context(writing(folder, "x"))
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_has_ended_however_it_ends(sources, whole, tmp_path, capsys):
    places = {kind: tmp_path / kind for kind in KINDS}
    command = [sys.executable, "-c", HOLDING, *map(str, places.values())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        for kind, out in places.items():
            assert run(kind, sources, out) == 2
            assert f"{out} is being written by another process" in capsys.readouterr().err
            assert [path.name for path in out.iterdir()] == [files.MARKER]
        holder.kill()
    for kind, out in places.items():
        assert run(kind, sources, out) == 0 and contents(out) == whole[kind]


def test_one_process_may_enter_a_folder_twice_but_not_from_two_threads(tmp_path):
    refused: list[OutputError] = []

    def second():
        try:
            with writing(tmp_path, "b"):
                pass
        except OutputError as error:
            refused.append(error)

    with writing(tmp_path, "a"):
        with writing(tmp_path, "b"):
            write_json(tmp_path / "b", 1)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(refused) == 1
    second()
    assert len(refused) == 1


def test_of_many_that_wait_one_is_in_at_a_time(tmp_path):
    inside, most = [0], [0]

    def enter():
        for _ in range(20):
            with alone(tmp_path / "lock", wait=True):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1
                (tmp_path / "lock").unlink()

    threads = [threading.Thread(target=enter) for _ in range(4)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files.time, "sleep", lambda _: None)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1] and not list(tmp_path.iterdir())


# --- whole after a kill at any moment --------------------------------------------------------------------------------


def in_child(action) -> int:
    """The exit status of a forked process that does this; negative is the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        status = 70
        try:
            status = action()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork and SIGKILL, which this system does not have")


def killed_at(count: int, action) -> bool:
    """Whether a process that does this was killed at this call that changes the disk."""
    left = [count]

    def counted(real):
        def call(*given, **more):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **more)

        return call

    def mortal():
        for name in ("replace", "fsync", "unlink", "open"):
            setattr(os, name, counted(getattr(os, name)))
        return action()

    status = in_child(mortal)
    assert status in (0, -signal.SIGKILL)
    return status != 0


@forks
@pytest.mark.parametrize("kind, step", [("pack", 1), ("train", 3), ("portraits", 1)])
def test_after_a_kill_at_any_moment_the_next_run_leaves_what_an_undisturbed_one_does(
    kind, step, sources, whole, tmp_path, monkeypatch, capfd
):
    monkeypatch.setattr(growing, "CHECKPOINT_ROWS", 2)
    kills = 0
    for count in range(0, 1000, step):
        out = tmp_path / str(count)
        if not killed_at(count, lambda out=out: run(kind, sources, out)):
            break
        kills += 1
        status = run(kind, sources, out, resume=True)
        assert status == 0 or "already holds a set" in capfd.readouterr().err
        assert contents(out) == whole[kind], f"killed at call {count}"
    assert kills > 5


def test_what_dead_processes_left_goes_and_what_living_ones_write_stays(tmp_path):
    (tmp_path / ".a.json.0123456789abcdef.part").write_text("dead")
    (tmp_path / ".a.json.4711.part").write_text("dead, of an older version")
    (tmp_path / ".b.json.0123456789abcdef.part").write_text("of another file")
    with atomic_path(tmp_path / "a.json") as living:
        write_json(tmp_path / "a.json", 1)
        assert living.exists()
        living.write_text("2")
    names = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert names == {"a.json": "2", ".b.json.0123456789abcdef.part": "of another file"}


def test_a_link_that_waits_is_not_written_through(tmp_path, monkeypatch):
    own = tmp_path / "own"
    own.write_text("mine")
    monkeypatch.setattr(files.secrets, "token_hex", lambda _: "ab" * 8)
    (tmp_path / f".a.json.{'ab' * 8}.part").symlink_to(own)
    with pytest.raises(FileExistsError):
        write_json(tmp_path / "a.json", 1)
    assert own.read_text() == "mine"


def test_temporary_names_differ_and_modes_are_the_usual(tmp_path):
    with atomic_path(tmp_path / "a") as one, atomic_path(tmp_path / "a") as other:
        assert one != other and one.parent == tmp_path
        one.write_text("1")
        other.write_text("2")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


# --- full disks are told ---------------------------------------------------------------------------------------------


def told_by(action) -> tuple[int, str]:
    """Exit status and stderr of a forked process."""
    reader, writer = os.pipe()

    def telling():
        with open(writer, "w") as sys.stderr:
            return action()

    status = in_child(telling)
    os.close(writer)
    with open(reader) as file:
        return status, file.read()


@forks
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [0, 200, 1500])
def test_a_file_that_may_not_grow_is_told_and_the_next_run_goes_on(kind, limit, sources, whole, tmp_path):
    import resource  # which Windows does not have

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return run(kind, sources, tmp_path)

    status, text = told_by(limited)
    assert status == 2 and "the disk is full" in text and str(tmp_path) in text, text
    assert "Traceback" not in text
    assert run(kind, sources, tmp_path, resume=True) == 0
    assert contents(tmp_path) == whole[kind]


@pytest.fixture
def small_disk(tmp_path):
    """A disk of few pages, and how it is made larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> bool:
        try:
            command = ["mount", "-t", "tmpfs", "-o", options, "none", place]
            return subprocess.run(command, capture_output=True).returncode == 0
        except OSError:
            return False

    if not mount("size=8k"):
        pytest.skip("needs the right to mount a disk")
    yield place, lambda: mount("remount,size=4m")
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_told_and_with_room_it_goes_on(kind, sources, whole, small_disk, capsys):
    place, enlarge = small_disk
    assert run(kind, sources, place / "out") == 2
    text = capsys.readouterr().err
    assert "the disk is full" in text and str(place) in text
    assert enlarge()
    assert run(kind, sources, place / "out", resume=True) == 0
    assert contents(place / "out") == whole[kind]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)])
def test_every_command_tells_a_full_disk(number, monkeypatch, capsys):
    def full(*_):
        raise OSError(number, os.strerror(number), "some/file")

    monkeypatch.setattr("facekit.commands.methods.listed", full)
    assert main(["methods", "--write", "methods.md"]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: some/file: the disk is full") and "make room" in text
