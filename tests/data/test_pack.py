"""Packing: nothing is lost, nothing is packed twice, and an interrupted run ends in the same bytes."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from damage import accidents
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_archives import write_folder, write_tar, write_zip
from test_decode import huge_png, photo, saved
from test_readers import fairface

from facekit.commands import pack as pack_command
from facekit.data import growing as journal
from facekit.data import pack as packing
from facekit.data import sets as stored
from facekit.data.growing import UNFINISHED, GrowingSet, Outcome, npy_header
from facekit.data.pack import pack
from facekit.data.sets import STORED, FaceSet
from facekit.errors import ConfigError, DataError, OutputError
from facekit.files import sha256_of_file, writing


def jpeg(seed, side=40):
    values = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return saved(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC), "JPEG")


def labelled(tmp_path, count=30, form="zip"):
    """Photos with a table beside them; among them one of each kind that is rejected."""
    bad = {"zero.jpg": b"", "text.jpg": b"hello", "1x1.png": saved(photo(1, 1)), "huge.png": huge_png(20000)}
    files = {f"{n:03}.jpg": jpeg(n) for n in range(count)} | bad
    files |= {"cut.jpg": jpeg(1)[:300], "z copy.jpg": jpeg(3), "z other.jpg": jpeg(0), "stray.jpg": jpeg(999)}
    files["wrong.jpg"] = jpeg(998)
    rows = [f"{name},{('Male', 'Female')[index % 2]}" for index, name in enumerate(files) if name[0].isdigit()]
    rows += [f"{name},Male" for name in files if not name[0].isdigit() and name not in ("stray.jpg", "wrong.jpg")]
    rows += ["wrong.jpg,robot", "absent.jpg,Male"]
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "photos.csv").write_text("file,gender\n" + "\n".join(rows) + "\n")
    if form == "zip":
        return write_zip(tmp_path / "photos.zip", files)
    if form == "tar":
        return write_tar(tmp_path / "photos.tar.gz", files)
    (tmp_path / "folder").mkdir(exist_ok=True)
    os.replace(tmp_path / "photos.csv", tmp_path / "folder" / "photos.csv")
    return write_folder(tmp_path / "folder", files)


def contents(folder):
    return {name: (folder / name).read_bytes() for name in ("inputs.npy", "labels.csv", "manifest.json")}


@pytest.mark.parametrize("form", ["zip", "tar", "folder"])
def test_everything_found_is_packed_or_rejected_with_its_reason(tmp_path, form):
    faces = pack(labelled(tmp_path, form=form), tmp_path / "set", size=32)
    about = faces.manifest
    assert about["packed"] + len(about["rejected"]) == about["found"] == 30 + 9 + 1
    assert len(faces) == about["packed"] == 30
    assert about["rejected_by_reason"] == {
        "duplicate": 2,
        "empty": 1,
        "file without label": 1,
        "label without file": 1,
        "too many pixels": 1,
        "too small": 1,
        "unknown label": 1,
        "unreadable": 2,
    }
    detail = {rejection["file"]: rejection["detail"] for rejection in about["rejected"]}
    assert detail["z other.jpg"] == "same bytes as 000.jpg"
    assert detail["z copy.jpg"] == "same bytes as 003.jpg; its labels differ in gender"
    assert isinstance(faces.images, np.memmap)
    assert FaceSet.load(tmp_path / "set", verify=True).content_hash() == faces.content_hash()
    assert not [file for file in (tmp_path / "set").iterdir() if file.name.startswith(".")]


def test_pixels_are_those_of_pillow_and_rows_belong_to_their_labels(tmp_path):
    source = labelled(tmp_path, 12, "folder")
    faces = pack(source, tmp_path / "set", size=32, workers=3)
    for row, name in enumerate(faces.labels["file"]):
        with Image.open(source / name) as image:
            wanted = np.asarray(image.resize((32, 32), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
        assert np.array_equal(faces.images[row], wanted)
        assert faces.labels["gender"][row] == ("Male", "Female")[int(name[:3]) % 2]


def test_workers_and_form_change_nothing(tmp_path):
    one = pack(labelled(tmp_path / "a", form="folder"), tmp_path / "one", size=32, workers=1)
    four = pack(labelled(tmp_path / "b", form="zip"), tmp_path / "four", size=32, workers=4)
    order = four.labels.sort_values("file").index.to_numpy()
    assert np.array_equal(one.images, four.images[order])
    assert one.labels["split"].tolist() == four.labels["split"][order].tolist()


def test_splits_follow_content_not_names(tmp_path):
    files = {f"{n}.jpg": jpeg(n, 24) for n in range(120)}
    renamed = {f"other {n}.jpg": files[f"{n}.jpg"] for n in reversed(range(120))}
    sides = []
    for index, photos in enumerate((files, renamed)):
        folder = write_folder(tmp_path / str(index), photos)
        (folder / "l.csv").write_text("file,k\n" + "".join(f"{name},1\n" for name in photos))
        table = pack(folder, tmp_path / f"set{index}", size=16).labels
        sides.append(
            {int(name.split()[-1][:-4]): side for name, side in zip(table["file"], table["split"], strict=True)}
        )
    assert sides[0] == sides[1]
    assert set(sides[0].values()) == {"train", "validation", "test"}


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_fairface_splits_and_a_copy_in_train_never_beats_the_test_photo(tmp_path, form):
    files = {f"train/{n}.jpg": jpeg(n, 24) for n in range(60)} | {"val/1.jpg": jpeg(7, 24), "val/2.jpg": jpeg(100, 24)}
    labels = ",20-29,Male,White,TRUE"
    fairface(tmp_path, [f"train/{n}.jpg{labels}" for n in range(60)], [f"val/{n}.jpg{labels}" for n in (1, 2)])
    source = write_zip(tmp_path / "fairface.zip", files) if form == "zip" else write_folder(tmp_path, files)
    faces = pack(source, tmp_path / "set", size=16)
    table = faces.labels.set_index("file")["split"]
    assert faces.manifest["reader"] == "fairface" and faces.manifest["licence"] == "CC BY 4.0"
    assert set(table.filter(like="val/")) == {"test"} and len(table.filter(like="val/")) == 2
    assert set(table.filter(like="train/")) == {"train", "validation"}
    (rejected,) = faces.manifest["rejected"]
    assert (rejected["file"], rejected["detail"]) == ("train/7.jpg", "same bytes as val/1.jpg")


def test_utkface_is_recognised(tmp_path):
    files = {f"crop_part1/{20 + n}_{n % 2}_0_201701102033282{n:02}.jpg.chip.jpg": jpeg(n) for n in range(20)}
    source = write_tar(tmp_path / "crop_part1.tar.gz", files | {"crop_part1/50_1_20170101000000000.jpg.chip.jpg": b"x"})
    faces = pack(source, tmp_path / "set", size=16)
    assert faces.manifest["reader"] == "utkface" and "non-commercial" in faces.manifest["licence"]
    assert faces.manifest["rejected_by_reason"] == {"malformed name": 1}
    assert sorted(faces.labels["age_years"]) == list(range(20, 40))
    assert set(faces.labels["age"]) == {"20-29", "30-39"}


KILLED = """
import os, signal, sys
from pathlib import Path
from facekit.data import growing as journal, pack
journal.CHECKPOINT_ROWS = 4
append, count = journal.GrowingSet.append, 0
def killing(self, *arguments):
    global count
    append(self, *arguments)
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
journal.GrowingSet.append = killing
pack.pack(Path(sys.argv[1]), Path(sys.argv[2]), size=32)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL, which this system does not have")
def test_killed_in_the_middle_then_run_again_gives_the_same_bytes(tmp_path, monkeypatch):
    source = labelled(tmp_path)
    pack(source, tmp_path / "whole", size=32)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    result = subprocess.run(
        [sys.executable, "-c", KILLED, source, tmp_path / "set", "18"], env={**os.environ, "PYTHONPATH": path}
    )
    assert result.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="not a complete set"):
        FaceSet.load(tmp_path / "set")
    decoded = []
    real = packing._decode_one
    monkeypatch.setattr(packing, "_decode_one", lambda *given: decoded.append(1) or real(*given))
    pack(source, tmp_path / "set", size=32)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    assert len(decoded) <= 39 - 16


@pytest.mark.parametrize("form", ["zip", "tar", "folder"])
def test_stopped_at_any_record_then_run_again_gives_the_same_bytes(tmp_path, monkeypatch, form):
    source = labelled(tmp_path, 8, form)
    pack(source, tmp_path / "whole", size=16)
    monkeypatch.setattr(journal, "CHECKPOINT_ROWS", 3)
    append = GrowingSet.append
    for stop in (1, 4, 9, 17):
        left = [stop]

        def stopping(self, *given, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            append(self, *given)

        monkeypatch.setattr(GrowingSet, "append", stopping)
        with pytest.raises(KeyboardInterrupt):
            pack(source, tmp_path / f"{stop}", size=16)
        monkeypatch.setattr(GrowingSet, "append", append)
        pack(source, tmp_path / f"{stop}", size=16)
        assert contents(tmp_path / f"{stop}") == contents(tmp_path / "whole")


def test_stopped_between_pixels_and_manifest(tmp_path, monkeypatch):
    source = labelled(tmp_path, 8)
    pack(source, tmp_path / "whole", size=16)
    real = packing.finish_set

    def stopping(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "finish_set", stopping)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "set", size=16)
    with pytest.raises(DataError, match="not a complete set"):
        FaceSet.load(tmp_path / "set")
    monkeypatch.setattr(packing, "finish_set", real)
    monkeypatch.setattr(packing, "_decode_one", lambda *_: pytest.fail("decoded again"))
    pack(source, tmp_path / "set", size=16)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.booleans(), max_size=12), st.integers(0, 400), st.integers(0, 60))
def test_a_cut_journal_or_cut_pixels_lose_rows_but_never_invent_them(tmp_path_factory, kinds, cut_journal, cut_pixels):
    folder = tmp_path_factory.mktemp("growing")
    outcomes = [
        Outcome(f"{n}", f"{n:064}") if packed else Outcome(f"{n}", problem=journal.Problem("r", "d"))
        for n, packed in enumerate(kinds)
    ]
    with GrowingSet(folder, (3, 2, 2), {"a": 1}) as growing:
        for number, outcome in enumerate(outcomes):
            growing.append(outcome, np.full((3, 2, 2), number, np.uint8) if outcome.problem is None else None)
        growing.checkpoint()
    for name, cut in ((".pack.journal", cut_journal), (".pack.pixels", cut_pixels)):
        os.truncate(folder / name, max(0, (folder / name).stat().st_size - cut))
    with GrowingSet(folder, (3, 2, 2), {"a": 1}) as growing:
        done = len(growing.done)
        assert growing.done == outcomes[:done]
        if cut_journal == cut_pixels == 0:
            assert done == len(outcomes)
        for number, outcome in enumerate(outcomes[done:], start=done):
            growing.append(outcome, np.full((3, 2, 2), number, np.uint8) if outcome.problem is None else None)
        path = growing.finish()
    assert np.load(path)[:, 0, 0, 0].tolist() == [number for number, packed in enumerate(kinds) if packed]


@pytest.mark.parametrize("expected, known", [(3, True), (4, False), (None, False)])
def test_the_hash_on_the_way_is_the_files_or_not_given(tmp_path, expected, known):
    with GrowingSet(tmp_path, (3, 2, 2), {}, expected) as growing:
        for number in range(3):
            growing.append(Outcome(f"{number}", f"{number:064}"), np.full((3, 2, 2), number, np.uint8))
        path = growing.finish()
        assert growing.sha256 == (sha256_of_file(path) if known else None)


def test_another_request_starts_afresh(tmp_path):
    for request in ({"a": 1}, {"a": 2}):
        with GrowingSet(tmp_path, (3, 2, 2), request) as growing:
            assert growing.done == []
            growing.append(Outcome("x", "0" * 64), np.ones((3, 2, 2), np.uint8))
            growing.checkpoint()


@given(st.integers(0, 10**9), st.integers(1, 4096))
def test_npy_header_is_numpys(rows, side):
    header = npy_header((rows, 3, side, side))
    assert len(header) == journal.HEADER_BYTES
    file = io.BytesIO(header)
    assert np.lib.format.read_magic(file) == (1, 0)
    assert np.lib.format.read_array_header_1_0(file) == ((rows, 3, side, side), False, np.dtype(np.uint8))
    assert file.tell() == len(header)


@pytest.mark.parametrize("where", ["append", "checkpoint", "finish"])
def test_full_disk_is_told_and_leaves_no_set(tmp_path, monkeypatch, where):
    source = labelled(tmp_path, 8)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(GrowingSet, where, full)
        with pytest.raises(DataError, match="No space left.*run the same command again"):
            pack(source, tmp_path / "set", size=16)
    with pytest.raises(DataError, match="not a complete set"):
        FaceSet.load(tmp_path / "set")
    assert len(pack(source, tmp_path / "set", size=16)) == 8


LIMITED = """
import resource, sys
from pathlib import Path
from facekit.data.pack import pack
from facekit.errors import DataError
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    pack(Path(sys.argv[1]), Path(sys.argv[2]), size=32)
except DataError as error:
    sys.exit(f"told: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes, which Windows does not have")
def test_a_write_that_the_system_refuses_is_told_and_can_be_continued(tmp_path):
    """No injected error here: the operating system refuses to let a file grow, wherever the write happens to be."""
    source = labelled(tmp_path, 8)
    result = subprocess.run([sys.executable, "-c", LIMITED, source, tmp_path / "set"], capture_output=True, text=True)
    assert result.returncode == 1 and result.stderr.startswith("told: packing stopped"), result.stderr
    assert "Traceback" not in result.stderr and not (tmp_path / "set" / "manifest.json").exists()
    pack(source, tmp_path / "set", size=32)
    pack(source, tmp_path / "whole", size=32)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_a_complete_set_is_returned_and_another_is_not_overwritten(tmp_path, monkeypatch):
    source = labelled(tmp_path, 8)
    first = pack(source, tmp_path / "set", size=16)
    before = contents(tmp_path / "set")
    monkeypatch.setattr(packing, "_decode_one", lambda *_: pytest.fail("decoded again"))
    assert pack(source, tmp_path / "set", size=16).content_hash() == first.content_hash()
    with pytest.raises(DataError, match="other photos or settings"):
        pack(source, tmp_path / "set", size=24)
    assert contents(tmp_path / "set") == before


def test_nothing_to_pack_and_missing_things(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        pack(tmp_path / "none", tmp_path / "set")
    folder = write_folder(tmp_path / "f", {"a.jpg": b"text"})
    (folder / "l.csv").write_text("file\na.jpg\n")
    with pytest.raises(DataError, match="nothing of f could be packed.*a.jpg: unreadable"):
        pack(folder, tmp_path / "set")
    assert not (tmp_path / "set").exists()
    with pytest.raises(DataError, match="does not exist"):
        pack(folder, tmp_path / "set", labels=tmp_path / "none.csv")
    with pytest.raises(ConfigError, match="unknown kind"):
        pack(folder, tmp_path / "set", kind="lfw")
    with pytest.raises(ConfigError, match="at least 1"):
        pack(folder, tmp_path / "set", size=0)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="packing stopped"):
        pack(folder, tmp_path / "file" / "set")


def test_archive_names_that_leave_it_are_rejected_rows(tmp_path):
    (tmp_path / "a").mkdir()
    source = write_zip(tmp_path / "a" / "x.zip", {"../evil.jpg": jpeg(1), "good.jpg": jpeg(2)})
    (tmp_path / "a" / "x.csv").write_text("file\n../evil.jpg\ngood.jpg\n")
    faces = pack(source, tmp_path / "a" / "set", size=16)
    assert faces.manifest["rejected_by_reason"] == {"label without file": 1, "unsafe name": 1}
    assert not list(tmp_path.rglob("evil*"))


def test_a_tar_cut_in_the_middle_makes_no_set(tmp_path):
    source = labelled(tmp_path, form="tar")
    source.write_bytes(source.read_bytes()[:-4000])
    with pytest.raises(DataError, match="damaged after"):
        pack(source, tmp_path / "set", size=16)
    assert not (tmp_path / "set" / "manifest.json").exists()


def test_memory_under_way_is_bounded(tmp_path, monkeypatch):
    """At no time more than a few tasks of photos are read and not yet written."""
    source = labelled(tmp_path, 200)
    read, written, most = [0], [0], [0]
    tasks, append = packing._tasks, GrowingSet.append

    def reading(records, photos):
        for group in tasks(records, photos):
            read[0] += len(group)
            most[0] = max(most[0], read[0] - written[0])
            yield group

    def writing(self, *given):
        written[0] += 1
        append(self, *given)

    monkeypatch.setattr(packing, "_tasks", reading)
    monkeypatch.setattr(GrowingSet, "append", writing)
    pack(source, tmp_path / "set", size=16, workers=2)
    assert written[0] == 210 and most[0] <= (2 + packing._TASKS_AHEAD + 1) * packing._TASK_PHOTOS
    groups = tasks(packing.Sample("x", bytes(packing._TASK_BYTES)) for _ in range(3))
    assert [len(group) for group in groups] == [1, 1, 1]


def test_the_command_prints_what_was_done(tmp_path, capsys):
    assert pack_command.pack(labelled(tmp_path, 8), tmp_path / "set", size=16) == 0
    text = capsys.readouterr().out
    assert "found 18, packed 8" in text and "rejected 2: duplicate" in text and str(tmp_path / "set") in text
    assert json.loads((tmp_path / "set" / "manifest.json").read_text())["found"] == 18


def test_real_utkface_counts(real_data, tmp_path):
    source = real_data / "utkface" / "crop_part1.tar.gz"
    if not source.exists():
        pytest.skip("FACEKIT_DATA has no utkface/crop_part1.tar.gz")
    faces = pack(source, tmp_path / "set", size=16)
    assert faces.manifest["rejected_by_reason"] == {"duplicate": 105, "malformed name": 2}
    assert faces.manifest["found"] == 9780 and len(faces) == 9673


@pytest.mark.parametrize("name", [".pack.journal", ".pack.pixels"])
def test_whatever_happens_to_a_half_packed_set_it_ends_in_the_same_bytes(tmp_path, monkeypatch, name):
    """A changed label, hash or pixel in what an earlier run left is made again, not believed."""
    source = labelled(tmp_path, 8, "folder")
    pack(source, tmp_path / "whole", size=16)
    monkeypatch.setattr(journal, "CHECKPOINT_ROWS", 3)
    real = packing.finish_set
    monkeypatch.setattr(packing, "finish_set", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "half", size=16)
    monkeypatch.setattr(packing, "finish_set", real)
    os.replace(tmp_path / "half" / "inputs.npy", tmp_path / "half" / ".pack.pixels")
    with suppress(RuntimeError), writing(tmp_path / "half", *STORED, *UNFINISHED):  # as a kill leaves it
        marker = (tmp_path / "half" / ".facekit").read_bytes()
        raise RuntimeError
    (tmp_path / "half" / ".facekit").write_bytes(marker)
    for number, what in enumerate(accidents(tmp_path / "half" / name, 40)):
        shutil.copytree(tmp_path / "half", tmp_path / f"{number}")
        try:
            pack(source, tmp_path / f"{number}", size=16)
        except OutputError as error:
            assert "a folder as" in what and "is in the way" in str(error)
        else:
            assert contents(tmp_path / f"{number}") == contents(tmp_path / "whole"), what


def test_a_resumed_set_knows_its_hash_without_reading_the_pixels_twice(tmp_path):
    rows = [(Outcome(f"{n}", f"{n:064}"), np.full((3, 2, 2), n, np.uint8)) for n in range(3)]
    with GrowingSet(tmp_path, (3, 2, 2), {}, 3) as growing:
        growing.append(*rows[0])
        growing.checkpoint()
    with GrowingSet(tmp_path, (3, 2, 2), {}, 3) as growing:
        assert len(growing.done) == 1
        for row in rows[1:]:
            growing.append(*row)
        assert sha256_of_file(growing.finish()) == growing.sha256


def test_a_set_is_packed_without_reading_its_pixels_again_and_a_damaged_one_is_not_returned(tmp_path, monkeypatch):
    source = write_folder(tmp_path / "f", {f"{n}.jpg": jpeg(n) for n in range(4)})
    (source / "photos.csv").write_text("file,gender\n" + "".join(f"{n}.jpg,Male\n" for n in range(4)))
    read = []
    monkeypatch.setattr(stored, "sha256_of_file", lambda path: read.append(path.name) or sha256_of_file(path))
    pack(source, tmp_path / "set", size=16)
    assert set(read) == {"labels.csv"}
    with open(tmp_path / "set" / "inputs.npy", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")
    with pytest.raises(DataError, match="delete the folder and make the set again"):
        pack(source, tmp_path / "set", size=16)
