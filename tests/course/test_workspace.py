"""The place to work: nothing that a learner wrote is lost, whatever becomes of the course; the rest is renewed."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facekit.commands.cli import main
from facekit.course import build, exercise, folders, tally, workspace
from facekit.errors import ConfigError, OutputError

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = ROOT / "lessons" / "source" / "_template"
A, B = "97_a", "99_b"


def make_course(root: Path) -> Path:
    """A course of two lessons with stored outputs, as an author would have built it; returns its folder `lessons`."""
    lessons = root / "lessons"
    for stem in (A, B):
        shutil.copytree(TEMPLATE, lessons / "source" / stem)
        for name in ("lesson.py", "exercises.py"):
            path = lessons / "source" / stem / name
            path.write_text(path.read_text(encoding="utf-8").replace("99", stem[:2]), encoding="utf-8")
    (lessons / "glossary.md").write_text("# Glossary\n", encoding="utf-8")
    publish(lessons)
    return lessons


def publish(lessons: Path) -> None:
    """The notebooks of the sources, each code cell with an output that says its first line."""
    (lessons / "solutions").mkdir(exist_ok=True)
    for lesson in folders.find_lessons(root=lessons):
        for path, solutions in ((lesson.learner, False), (lesson.solutions, True)):
            notebook = build.make_notebook(lesson, solutions)
            for count, cell in enumerate((each for each in notebook.cells if each.cell_type == "code"), 1):
                cell.execution_count = count
                text = f"out of {cell.source.splitlines()[0]}\n"
                cell.outputs = [{"output_type": "stream", "name": "stdout", "text": text}]
            path.write_text(json.dumps(notebook), encoding="utf-8")


def change_lesson(lessons: Path, stem: str, text: str) -> None:
    """A newer version of a lesson's notebook."""
    path = lessons / f"{stem}.ipynb"
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = next(each for each in notebook["cells"] if "## Recap" in "".join(each["source"]))
    cell["source"] = f"## Recap\n\nThe mean is the sum by the count ({text})."
    path.write_text(json.dumps(notebook), encoding="utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return make_course(tmp_path_factory.mktemp("made") / "course")


@pytest.fixture
def course(made, tmp_path, monkeypatch) -> Path:
    lessons = shutil.copytree(made.parent, tmp_path / "course") / "lessons"
    monkeypatch.setattr(folders, "LESSONS", lessons)
    return lessons


@pytest.fixture
def work(course) -> Path:
    folder = workspace.work_folder()
    assert workspace.open_work(folder) == []
    return folder


def cells(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def edit(path: Path, text: str, outputs: bool = False) -> None:
    """Types into the cell of the first exercise; outputs: only runs it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    cell = next(each for each in notebook["cells"] if "exercise" in each["metadata"].get("tags", []))
    if outputs:
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": text}]
    else:
        cell["source"] = text
    path.write_text(json.dumps(notebook), encoding="utf-8")


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


# --- what is there ----------------------------------------------------------------------------------------------------


def test_the_list_shows_lessons_and_what_they_show_and_nothing_else(course, work):
    assert work == course.parent / "work"
    assert visible(work) == {f"{A}.ipynb", f"{B}.ipynb", "glossary.md", "files"}
    assert visible(work / "files") == {"97_figure.svg", "99_figure.svg"}
    before = {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}
    assert workspace.open_work(work) == []
    assert before == {path: path.read_bytes() for path in work.rglob("*") if path.is_file()}


def test_every_link_of_the_real_lessons_leads_somewhere_and_every_figure_is_there(tmp_path):
    """Lessons, their files and the glossary, from the copies, with the lessons of the course itself."""
    workspace.open_work(tmp_path / "w")
    found = 0
    for path in sorted((tmp_path / "w").glob("*.ipynb")):
        for cell in cells(path):
            if cell["cell_type"] == "markdown":
                for _, target in workspace.LINK.findall("".join(cell["source"])):
                    if not re.match(r"[a-z]+:|#", target):
                        found += 1
                        assert (path.parent / target.partition("#")[0]).is_file(), f"{path.name}: {target}"
    assert found > 50


def test_outputs_that_say_what_is_asked_are_not_in_a_copy_and_others_are(work):
    section = ""
    told = set()
    for cell in cells(work / f"{A}.ipynb"):
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and source.startswith("## "):
            section = source.partition("\n")[0][3:]
        if cell["cell_type"] == "code":
            assert cell["execution_count"] is None, "as one that was not run here"
            told.add((section, bool(cell["outputs"])))
    assert {("Exercises", False), ("Quiz", False), ("Run it", True), ("Look at the result", True)} <= told
    assert not {("Exercises", True), ("Quiz", True)} & told


def test_no_copy_of_the_course_has_an_output_in_exercises_or_quiz(tmp_path):
    workspace.open_work(tmp_path / "w")
    text = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "w").glob("*.ipynb"))
    assert "not attempted:" not in text and "answers folded" not in text and "is right:" not in text
    assert text.count('"image/png"') > 20, "figures to read are there"


def test_a_copy_runs_from_its_folder(course, work):
    """The notebook finds its lesson, and a right answer is noted, as the learner's kernel would do it."""
    code = "\n".join("".join(cell["source"]) for cell in cells(work / f"{A}.ipynb") if cell["cell_type"] == "code")
    code = code.replace("mean = ...", "mean = 3").split('quiz("97")')[0]
    code = re.sub(r"(?m)^sum\(\[\]\).*$|^time\..*$", "", code)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=work, env=environment, capture_output=True, text=True)
    assert "correct: the sum is 9" in done.stdout, done.stdout + done.stderr
    assert tally.read(work) == ({"97.1"}, "")
    assert tally.table(*tally.counts(work)).splitlines()[1:] == [
        "97 · The mean  █████░░░░░  1 of 2",
        "99 · The mean  ░░░░░░░░░░  0 of 2",
    ]


# --- upgrades ---------------------------------------------------------------------------------------------------------


def test_what_nobody_worked_in_is_renewed_and_what_somebody_did_stays(course, work):
    edit(work / f"{A}.ipynb", "mean = 'my answer'")
    mine = (work / f"{A}.ipynb").read_bytes()
    for stem in (A, B):
        change_lesson(course, stem, "version 2")
    [said] = workspace.open_work(work)
    assert f"{A}.ipynb stays as you left it" in said and f"{A} (new).ipynb" in said and "reset 97" in said
    assert (work / f"{A}.ipynb").read_bytes() == mine
    for name in (f"{A} (new).ipynb", f"{B}.ipynb"):
        assert "version 2" in (work / name).read_text(encoding="utf-8")
    assert visible(work) == {f"{A}.ipynb", f"{A} (new).ipynb", f"{B}.ipynb", "glossary.md", "files"}
    assert workspace.open_work(work) == [], "it is said once"

    change_lesson(course, A, "version 3")
    assert "(new).ipynb" in workspace.open_work(work)[0], "the new one, that nobody touched, is renewed itself"
    assert "version 3" in (work / f"{A} (new).ipynb").read_text(encoding="utf-8")
    edit(work / f"{A} (new).ipynb", "mean = 'and here'")
    change_lesson(course, A, "version 4")
    assert f"{A} (new 2).ipynb" in workspace.open_work(work)[0]
    assert "and here" in (work / f"{A} (new).ipynb").read_text(encoding="utf-8")
    assert (work / f"{A}.ipynb").read_bytes() == mine


def test_a_copy_that_was_only_run_is_renewed_and_kept_with_its_outputs(course, work):
    edit(work / f"{A}.ipynb", "an output of mine", outputs=True)
    change_lesson(course, A, "version 2")
    [said] = workspace.open_work(work)
    kept = re.search(r"kept as (earlier/.+\.ipynb)\.$", said)
    assert kept and "an output of mine" in (work / kept[1]).read_text(encoding="utf-8")
    assert "version 2" in (work / f"{A}.ipynb").read_text(encoding="utf-8")


def test_a_lesson_that_the_course_gave_up_leaves_the_list_and_one_that_was_worked_in_stays(course, work):
    edit(work / f"{A}.ipynb", "mean = 'my answer'")
    for stem in (A, B):
        shutil.rmtree(course / "source" / stem)
    shutil.copytree(TEMPLATE, course / "source" / "98_c")
    publish(course)
    said = workspace.open_work(work)
    assert [
        each for each in said if each.startswith(f"{B}.ipynb is no longer part of the course; it is kept as earlier/")
    ]
    assert {f"{A}.ipynb", "98_c.ipynb"} <= visible(work) and f"{B}.ipynb" not in visible(work)


STEPS = st.one_of(
    st.tuples(st.sampled_from([A, B, f"{A} (new)"]), st.booleans()), st.sampled_from([A, B, "reset", "lost", "damaged"])
)


@settings(max_examples=60)
@given(st.lists(STEPS, min_size=2, max_size=10))
def test_whatever_happens_nothing_that_was_written_is_lost(made, steps):
    """Typing, running, upgrades, resets and lost or damaged notes, in any order, and the folder opened after each."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        lessons = shutil.copytree(made.parent, Path(scratch, "course")) / "lessons"
        patch.setattr(folders, "LESSONS", lessons)
        work = lessons.parent / "work"
        workspace.open_work(work)
        for number, step in enumerate(steps):
            before = typed(work)
            if isinstance(step, tuple) and (path := work / f"{step[0]}.ipynb").is_file():
                edit(path, f"typed in step {number}", outputs=step[1])
                continue  # the learner may write over what is the learner's own
            if step in (A, B):
                change_lesson(lessons, step, f"version {number}")
            elif step == "reset":
                workspace.reset("97", work)
            elif step in ("lost", "damaged"):
                (work / workspace.STATE).write_text("{" * (step == "damaged"), encoding="utf-8")
            workspace.open_work(work)
            assert before <= typed(work), f"{before - typed(work)} is lost by {step}"
            newest = (lessons / f"{A}.ipynb").read_text(encoding="utf-8")
            versions = re.findall(r"version \d+", newest)
            copies = [path.read_text(encoding="utf-8") for path in work.glob(f"{A}*.ipynb")]
            assert any(versions == re.findall(r"version \d+", copy) for copy in copies), "the lesson of today is there"
            assert workspace.open_work(work) == [], "and a second time there is nothing to do"


def typed(work: Path) -> set[str]:
    """Everything that a learner typed or ran, wherever it lies in the folder."""
    files = [path.read_text(encoding="utf-8") for path in work.rglob("*") if path.is_file()]
    return set(re.findall(r"typed in step \d+", "".join(files)))


# --- reset ------------------------------------------------------------------------------------------------------------


def test_reset_moves_what_was_done_to_a_dated_file_and_begins_anew(course, work, capsys):
    fresh = (work / f"{A}.ipynb").read_bytes()
    other = (work / f"{B}.ipynb").read_bytes()
    for answer in ("first", "second"):
        edit(work / f"{A}.ipynb", f"mean = '{answer}'")
        assert main(["lessons", "reset", "97"]) == 0
        said = capsys.readouterr().out
        kept = re.search(rf"{A}.ipynb is kept as (earlier/{A} \d{{4}}-\d\d-\d\d \d\d\.\d\d\.\d\d( \d)?\.ipynb)\.", said)
        assert kept and answer in (work / kept[1]).read_text(encoding="utf-8") and f"{A}.ipynb is new." in said
        assert (work / f"{A}.ipynb").read_bytes() == fresh
    assert len(list((work / "earlier").iterdir())) == 2, "two in one second are two"
    assert (work / f"{B}.ipynb").read_bytes() == other


def test_reset_moves_the_new_one_beside_too_and_nobody_elses_file(course, work):
    edit(work / f"{A}.ipynb", "mean = 'mine'")
    (work / f"{A} of my friend.ipynb").write_text("{}", encoding="utf-8")
    change_lesson(course, A, "version 2")
    workspace.open_work(work)
    workspace.reset("97", work)
    assert visible(work) >= {f"{A}.ipynb", f"{A} of my friend.ipynb"} and f"{A} (new).ipynb" not in visible(work)
    assert "version 2" in (work / f"{A}.ipynb").read_text(encoding="utf-8")
    assert len(list((work / "earlier").glob(f"{A}*"))) == 2


@pytest.mark.parametrize("arguments", [["77"], []])
def test_reset_of_no_lesson_moves_nothing(course, work, arguments, capsys):
    before = sorted(work.rglob("*"))
    assert main(["lessons", "reset", "97", *arguments] if arguments else ["lessons", "reset"]) == 2
    assert re.search("no source for lesson 77|name the lessons", capsys.readouterr().err)
    assert sorted(work.rglob("*")) == before


# --- places that are none ---------------------------------------------------------------------------------------------


def test_a_file_or_a_link_that_leads_nowhere_is_named_and_a_link_to_a_folder_is_taken(course, tmp_path):
    place = course.parent / "work"
    place.write_text("mine")
    with pytest.raises(ConfigError, match="work is a file, not a folder to work in; move it away, or name another"):
        workspace.work_folder()
    place.unlink()
    place.symlink_to(tmp_path / "gone")
    with pytest.raises(ConfigError, match="a link that leads nowhere"):
        workspace.work_folder()
    (tmp_path / "gone").mkdir()
    workspace.open_work(workspace.work_folder())
    assert f"{A}.ipynb" in visible(tmp_path / "gone")


@pytest.mark.parametrize("place", ["lessons", "lessons/source", "."])
def test_the_courses_own_folders_are_refused(course, place):
    with pytest.raises(ConfigError, match="the course's own folder"):
        workspace.work_folder(course.parent / place)


def test_a_course_that_cannot_be_written_says_where_to_work(course, monkeypatch, tmp_path):
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(course.parent / "work"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", refuse)
        with pytest.raises(OutputError, match=r"work: Read-only file system; .*--work FOLDER \(make lab WORK=FOLDER\)"):
            workspace.open_work(workspace.work_folder())
    workspace.open_work(workspace.work_folder(tmp_path / "elsewhere"))
    assert f"{A}.ipynb" in visible(tmp_path / "elsewhere")


def test_a_notebook_that_is_a_link_is_never_written_through(course, work):
    """A learner may have linked a copy to the stored lesson, which a test compares with its source."""
    (work / f"{A}.ipynb").unlink()
    (work / f"{A}.ipynb").symlink_to(course / f"{A}.ipynb")
    (work / f"{B}.ipynb").unlink()
    (work / f"{B}.ipynb").mkdir()
    for stem in (A, B):
        change_lesson(course, stem, "version 2")
    stored = (course / f"{A}.ipynb").read_bytes()
    workspace.open_work(work)
    assert (work / f"{A}.ipynb").is_symlink() and (course / f"{A}.ipynb").read_bytes() == stored
    assert (work / f"{A} (new).ipynb").is_file() and (work / f"{B} (new).ipynb").is_file()


def test_a_full_disk_leaves_whole_files_and_the_next_time_goes_on(course, monkeypatch):
    work, real, written = workspace.work_folder(), Path.write_bytes, []

    def full(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="disk is full"):
            workspace.open_work(work)
    assert not list(work.rglob("*.part"))
    assert workspace.open_work(work) == []
    assert visible(work) == {f"{A}.ipynb", f"{B}.ipynb", "glossary.md", "files"}


def test_two_that_open_at_once_get_one_whole_folder(course, monkeypatch):
    work = workspace.work_folder()
    context = multiprocessing.get_context("fork" if sys.platform != "win32" else "spawn")
    both = [context.Process(target=workspace.open_work, args=(work,)) for _ in range(4)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0] * 4
    assert workspace.open_work(work) == []
    assert visible(work) == {f"{A}.ipynb", f"{B}.ipynb", "glossary.md", "files"}


def test_the_notebook_left_last_is_opened(course, work):
    assert workspace.left_last(work) == f"{A}.ipynb", "the first, where nobody has worked"
    edit(work / f"{B}.ipynb", "mean = 1")
    assert workspace.left_last(work) == f"{B}.ipynb"
    edit(work / f"{A}.ipynb", "an output", outputs=True)
    os.utime(work / f"{A}.ipynb", (2e9, 2e9))
    assert workspace.left_last(work) == f"{A}.ipynb"
    change_lesson(course, A, "version 2")
    workspace.open_work(work)
    assert workspace.left_last(work) == f"{B}.ipynb", "what was renewed is not what was worked in"


# --- progress ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernel(work, monkeypatch) -> Path:
    """As in a notebook of the folder."""
    monkeypatch.chdir(work)
    return work


def test_what_was_correct_once_stays_and_nothing_else_counts(kernel, capsys):
    exercise("97.1").check(9)
    exercise("97.1").check(...)
    assert tally.read(kernel) == (set(), "")
    exercise("97.1").check(3)
    exercise("97.1").check(9)
    exercise("99.2").check(lambda values: sum(values) / len(values))
    assert tally.read(kernel) == ({"97.1", "99.2"}, "")
    assert main(["lessons", "progress"]) == 0
    assert "97 · The mean  █████░░░░░  1 of 2" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["lessons", "lessons/solutions", "."])
def test_elsewhere_nothing_is_written_and_what_is_shown_is_the_same(course, work, monkeypatch, place, capsys):
    monkeypatch.chdir(course.parent / place)
    before = sorted(course.parent.rglob("*"))
    exercise("97.1").check(3)
    capsys.readouterr()
    tally.progress()
    assert (
        capsys.readouterr().out
        == "Your progress is shown here when the lesson is opened with: make lab (python -m facekit lab)\n"
    )
    assert [path for path in sorted(course.parent.rglob("*")) if "__pycache__" not in str(path)] == [
        path for path in before if "__pycache__" not in str(path)
    ]


def test_progress_survives_upgrades_and_resets(course, kernel):
    exercise("97.1").check(3)
    change_lesson(course, A, "version 2")
    workspace.open_work(kernel)
    workspace.reset("97", kernel)
    assert tally.read(kernel) == ({"97.1"}, "")


@pytest.mark.parametrize("damage", ["{", "[]", '{"correct": 3}', '{"correct": [3]}', "\xff"])
def test_damaged_progress_is_named_kept_and_begun_anew(kernel, damage, capsys):
    (kernel / tally.FILE).write_bytes(damage.encode("latin1"))
    exercise("97.1").check(3)
    said = capsys.readouterr().out
    kept = re.search(r"was damaged\. It is kept as (earlier/progress .+\.json)", said)
    assert said.startswith("correct") and kept and (kernel / kept[1]).read_bytes() == damage.encode("latin1")
    assert tally.read(kernel) == ({"97.1"}, "")


def test_a_check_answers_where_progress_cannot_be_written(kernel, monkeypatch, capsys):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tally, "write_json", full)
    exercise("97.1").check(3)
    correct, said = capsys.readouterr().out.strip().splitlines()
    assert correct.startswith("correct") and "could not be noted" in said and "disk is full" in said


def test_answers_of_several_notebooks_at_once_are_all_noted(kernel):
    context = multiprocessing.get_context("fork" if sys.platform != "win32" else "spawn")
    numbers = [f"97.{n}" for n in range(1, 9)]
    processes = [context.Process(target=tally.note, args=(number,)) for number in numbers]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert tally.read(kernel) == (set(numbers), "")


def test_the_table_says_a_bar_in_words_too(kernel, monkeypatch):
    shown = []
    monkeypatch.setattr("facekit.show.plots.publish", shown.append)
    exercise("97.1").check(3)
    tally.progress()
    [bundle] = shown
    assert f'<a href="{A}.ipynb">97 · The mean</a>' in bundle["text/html"] and "1 of 2" in bundle["text/html"]
    assert "<caption>" in bundle["text/html"] and 'scope="row"' in bundle["text/html"]
    assert bundle["text/plain"] == tally.table(*tally.counts(kernel))


@given(st.integers(0, 12), st.integers(1, 12))
def test_a_bar_is_full_or_empty_only_where_that_is_so(done, asked):
    done = min(done, asked)
    bar = tally.bar(done, asked)
    assert len(bar) == tally.BAR
    assert ("░" not in bar) == (done == asked) and ("█" not in bar) == (done == 0)
