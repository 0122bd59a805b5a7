"""From source to notebooks: solution cells, stable files, drift, execution, rules, the table of the README."""

from __future__ import annotations

import copy
import itertools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.commands.cli import main
from facekit.course import build, folders, rules
from facekit.errors import ConfigError, LessonError

TESTS = Path(__file__).parents[1]
LESSONS = TESTS.parent / "lessons"


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """A course whose one lesson is a copy of the template, built."""
    root = tmp_path_factory.mktemp("course") / "lessons"
    shutil.copytree(LESSONS / "source" / "_template", root / "source" / "99_toy")
    shutil.copy(LESSONS / "conftest.py", root)
    build.build_lesson(folders.Lesson(root, "99_toy"))
    return root


def write_lesson(root: Path, source: str, name: str = "98_mini") -> folders.Lesson:
    lesson = folders.Lesson(root, name)
    lesson.folder.mkdir(parents=True, exist_ok=True)
    lesson.source.write_text(source, encoding="utf-8")
    return lesson


# --- solution cells -------------------------------------------------------------------------------------------------

LINES = st.lists(st.sampled_from(["x = 1", "", "if x:", "    y = x", "# a comment"]), max_size=4)


@given(LINES, st.lists(st.sampled_from(["answer = 42", "    deep = answer"]), min_size=1, max_size=3), LINES)
def test_a_solution_cell_parts_into_both_copies(before, solution, after):
    cell = "\n".join([*before, "# <solution>", *solution, "# <todo>", "# answer = ...", "# </solution>", *after])
    assert build.one_copy(cell, True) == "\n".join([*before, *solution, *after])
    assert build.one_copy(cell, False) == "\n".join([*before, "answer = ...", *after])


def test_without_todo_the_learner_gets_an_indented_ellipsis():
    cell = "def f(x):\n    # TODO: one line\n    # <solution>\n    return x\n    # </solution>"
    assert build.one_copy(cell, False) == "def f(x):\n    # TODO: one line\n    ...  # your lines here"
    compile(build.one_copy(cell, False), "cell", "exec")


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        ("x = 1", "none of them"),
        ("# <solution>\nx = 1", "and has # <solution>.$"),
        ("# <solution>\n# </solution>", "the solution is empty"),
        ("# <todo>\n# x\n# </solution>", "and has # <todo>, # </solution>"),
        ("# <solution>\n# <solution>\nx\n# </solution>", "and has # <solution>, # <solution>, # </solution>"),
        ("# <solution>\nx\n# <todo>\ny\n# </solution>", "comments"),
    ],
)
def test_malformed_solution_cells_are_named(cell, says):
    with pytest.raises(LessonError, match=says):
        build.one_copy(cell, False)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ('# %% tags=["solutoin"]', "unknown tag 'solutoin'"),
        ('# %% tags=["nbval-ignore-output"]', "ignored with a reason"),
        ('# %% reason="why not"', "ignored with a reason"),
        ("# %% colour=3", "unknown cell metadata colour"),
        ("# %% [raw]", "not raw"),
    ],
)
def test_malformed_cells_are_named_with_their_source(tmp_path, header, says):
    lesson = write_lesson(tmp_path, f"{header}\n# x = 1\n")
    with pytest.raises(LessonError, match=f"98_mini/lesson.py, cell 1.*{says}"):
        build.make_notebook(lesson, solutions=False)


@pytest.mark.parametrize("name", ["mini", "9_mini", "98-mini", "98_Mini"])
def test_a_source_is_named_by_number_and_slug(tmp_path, name):
    write_lesson(tmp_path, "", name)
    with pytest.raises(LessonError, match="named NN_slug"):
        folders.find_lessons(root=tmp_path)


def test_lessons_are_found_by_number(tmp_path):
    for name in ("01_a", "03_b"):
        write_lesson(tmp_path, "", name)
    assert [lesson.stem for lesson in folders.find_lessons(root=tmp_path)] == ["01_a", "03_b"]
    assert [lesson.stem for lesson in folders.find_lessons(["3", 1], tmp_path)] == ["03_b", "01_a"]
    with pytest.raises(LessonError, match="no source for lesson 07; there are 01, 03"):
        folders.find_lessons(["07"], tmp_path)
    with pytest.raises(LessonError, match="no source for lesson three"):
        folders.find_lessons(["three"], tmp_path)
    write_lesson(tmp_path, "", "03_c")
    with pytest.raises(LessonError, match="same number"):
        folders.find_lessons(root=tmp_path)


def test_links_lead_from_the_notebook_to_the_lessons_folder(tmp_path):
    text = (
        "# %% [markdown]\n# ![x](figure.svg) [one](01_one.ipynb#part) [web](https://x.org/a) [top](#top)\n"
        '# <img src="figures/b.svg" alt="b">\n'
    )
    lesson = write_lesson(tmp_path, text)
    (lesson.folder / "figure.svg").touch()
    moved = build.make_notebook(lesson, solutions=True).cells[0].source
    assert "(../source/98_mini/figure.svg) [one](01_one.ipynb#part) [web](https://x.org/a) [top](#top)" in moved
    assert 'src="../figures/b.svg"' in moved
    learner = build.make_notebook(lesson, solutions=False).cells[0].source
    assert "(source/98_mini/figure.svg)" in learner and "../" not in learner


def test_only_a_changed_cell_gets_another_id(tmp_path):
    cells = ["# %%\na = 1\n", "# %%\na = 1\n", "# %% [markdown]\n# text\n"]
    before = [cell.id for cell in build.make_notebook(write_lesson(tmp_path, "\n".join(cells)), False).cells]
    assert len(set(before)) == 3
    cells.insert(2, "# %%\nb = 2\n")
    after = [cell.id for cell in build.make_notebook(write_lesson(tmp_path, "\n".join(cells)), False).cells]
    assert [*after[:2], after[3]] == before


# --- execution ----------------------------------------------------------------------------------------------------


def test_the_laptop_kernel_does_not_see_the_users_settings(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEKIT_DATA", "photos")
    monkeypatch.setenv("FACEKIT_DEVICE", "cuda")
    monkeypatch.setenv("MPLBACKEND", "agg")
    laptop, full = (build.lesson_environment(profile, tmp_path) for profile in ("laptop", "full"))
    assert "FACEKIT_DATA" not in laptop and "FACEKIT_DEVICE" not in laptop and "MPLBACKEND" not in laptop
    assert laptop["FACEKIT_CACHE"] != full["FACEKIT_CACHE"] == os.environ["FACEKIT_CACHE"]
    assert full["FACEKIT_DATA"] == "photos" and full["FACEKIT_PROFILE"] == "full"
    with pytest.raises(ConfigError, match="unknown profile"):
        build.lesson_environment("desktop", tmp_path)


def test_clean_leaves_nothing_of_run_or_machine():
    cell = nbformat.v4.new_code_cell("1 / 0", metadata={"execution": {"iopub.status.busy": "now"}}, execution_count=1)
    trace = ["File ~/x/.venv/lib/python3.11/site-packages/torch/nn.py:3, in f", "  /home/me/src/facekit/tasks.py:9"]
    view = {build.WIDGET_VIEW: {"model_id": "1"}, "text/plain": "Controls"}
    cell.outputs = [
        nbformat.v4.new_output("error", ename="E", evalue="no", traceback=trace),
        nbformat.v4.new_output("display_data", data=view),
    ]
    python = {"name": "python", "version": "3.11"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"widgets": {}, "language_info": python})
    build.clean(notebook)
    assert "widgets" not in notebook.metadata and notebook.metadata.language_info == {"name": "python"}
    assert cell.metadata == {} and cell.execution_count == 1
    assert cell.outputs[0].traceback == ["File …/site-packages/torch/nn.py:3, in f", "  …/facekit/tasks.py:9"]
    assert cell.outputs[1].data == {"text/plain": "Controls"}


def test_a_failing_cell_is_named_and_nothing_is_written(tmp_path):
    lesson = write_lesson(tmp_path / "lessons", "# %%\nprint('so far')\n\n# %%\n{}['missing key']\n")
    with pytest.raises(LessonError, match="98_mini.ipynb failed") as caught:
        build.build_lesson(lesson)
    assert "KeyError: 'missing key'" in str(caught.value)
    assert not lesson.learner.exists() and not lesson.solutions.exists()
    assert "missing key" in build.run_lesson(lesson, "full", tmp_path / "out")
    partial = build.read_notebook(tmp_path / "out" / "98_mini.ipynb")
    assert partial.cells[0].outputs[0].text == "so far\n"
    assert not lesson.learner.exists()


def test_a_run_in_another_profile_says_so_and_leaves_the_stored_notebooks(tmp_path):
    code = "import os\nprint(os.environ['FACEKIT_PROFILE'], os.path.basename(os.getcwd()))"
    lesson = write_lesson(tmp_path / "lessons", f"# %%\n{code}\n")
    build.build_lesson(lesson)
    stored = lesson.learner.read_bytes()
    assert build.run_lesson(lesson, "full", tmp_path / "out") == ""
    run = build.read_notebook(tmp_path / "out" / "98_mini.ipynb")
    assert run.cells[0].outputs[0].text == "full lessons\n"
    assert lesson.learner.read_bytes() == stored and b"laptop lessons" in stored


def test_another_profile_never_overwrites_the_stored_notebooks(tmp_path):
    lesson = write_lesson(tmp_path, "# %%\n1\n")
    for folder in (tmp_path, tmp_path / "solutions", tmp_path / "solutions" / ".."):
        with pytest.raises(LessonError, match="--out"):
            build.run_lesson(lesson, "full", folder)


# --- the toy lesson, built ----------------------------------------------------------------------------------------


def test_the_same_code_gives_the_same_bytes_in_two_kernels(toy):
    """Both copies of a lesson are run by kernels of their own, so their common cells are a repetition."""
    learner, solutions = (
        {cell.id: cell for cell in build.read_notebook(path).cells if cell.cell_type == "code"}
        for path in (toy / "99_toy.ipynb", toy / "solutions" / "99_toy.ipynb")
    )
    common = [
        name
        for name in learner.keys() & solutions.keys()
        if not any(text in learner[name].source for text in ("exercise(", "took"))
        and "nbval-ignore-output" not in learner[name].metadata.get("tags", [])
    ]
    assert len(common) >= 6
    assert any("image/png" in str(learner[name].outputs) for name in common)
    for name in common:
        assert learner[name].outputs == solutions[name].outputs


def test_the_learners_copy_hides_the_solutions_and_runs_to_its_end(toy):
    learner, solutions = (build.read_notebook(path) for path in (toy / "99_toy.ipynb", toy / "solutions/99_toy.ipynb"))
    text = "\n".join(cell.source for cell in learner.cells)
    assert "mean = ..." in text and "(1 + 2 + 6) / 3" not in text and "The sum is 9 and" not in text
    text = "\n".join(cell.source for cell in solutions.cells)
    assert "(1 + 2 + 6) / 3" in text and "The sum is 9 and" in text and "<todo>" not in text
    said = [
        [
            output.text.strip().partition(":")[0]
            for cell in book.cells
            if "exercise(" in cell.source
            for output in cell.outputs
        ]
        for book in (learner, solutions)
    ]
    assert said == [["not attempted"] * 2, ["correct"] * 2]


def test_what_a_widget_shows_is_there_without_a_kernel(toy):
    cell = next(c for c in build.read_notebook(toy / "99_toy.ipynb").cells if c.source.startswith("explore("))
    pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
    assert [output.metadata["image/png"]["alt"][:30] for output in pictures] == [
        "Bars of height 1, 2 and 6 and ",
        "Bars of height 1, 2 and 30 and",
    ]
    assert not any(build.WIDGET_VIEW in output.get("data", {}) for output in cell.outputs)


def test_strict_nbval_passes_over_pictures_widgets_quiz_and_errors(toy):
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env"]
    command += [f"-pno:{plugin}" for plugin in ("cacheprovider", "hypothesispytest", "anyio")]
    command += [f"--nbval-sanitize-with={TESTS / 'nbval_sanitize.cfg'}"]
    command += [str(toy / name) for name in ("99_toy.ipynb", "solutions/99_toy.ipynb")]
    done = subprocess.run(command, cwd=toy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.parametrize(
    ("text", "compared"),
    [
        ("trained in 12.3 s, then 450 ms", "trained in DURATION, then DURATION"),
        ("1,234 faces/s or 30 images per second", "RATE faces or RATE images"),
        ("<object at 0x7f1e07011e40>", "<object at ADDRESS>"),
        ("/home/me/venv/site-packages/torch/nn.py", "FOLDER/site-packages/torch/nn.py"),
        ("accuracy 0.86 on 2,000 faces, 512 numbers, 3 seeds", "accuracy 0.86 on 2,000 faces, 512 numbers, 3 seeds"),
    ],
)
def test_only_what_differs_on_every_machine_is_left_out_of_the_comparison(text, compared):
    from nbval.plugin import get_sanitize_patterns

    for regex, replacement in get_sanitize_patterns((TESTS / "nbval_sanitize.cfg").read_text(encoding="utf-8")):
        text = re.sub(regex, replacement, text)
    assert text == compared


def test_drift_is_seen_in_either_direction(toy, tmp_path):
    build.check_lessons(root=toy)
    root = tmp_path / "lessons"
    shutil.copytree(toy, root)
    source, notebook = root / "source" / "99_toy" / "lesson.py", root / "99_toy.ipynb"
    text = source.read_text(encoding="utf-8")

    source.write_text(text.replace("numbers = [1, 2, 6]", "numbers = [1, 2, 9]"), encoding="utf-8")
    with pytest.raises(LessonError, match=r"\+numbers = \[1, 2, 9\]"):
        build.check_lessons(root=root)
    source.write_text(text, encoding="utf-8")

    stored = notebook.read_text(encoding="utf-8")
    notebook.write_text(stored.replace("The mean is the sum", "The mean is a sum"), encoding="utf-8")
    with pytest.raises(LessonError, match="-The mean is a sum by the count"):
        build.check_lessons(root=root)
    notebook.write_text(stored, encoding="utf-8")

    (root / "97_orphan.ipynb").write_text(stored, encoding="utf-8")
    with pytest.raises(LessonError, match="97_orphan.ipynb has no source/97_orphan/lesson.py"):
        build.check_lessons(root=root)
    (root / "97_orphan.ipynb").unlink()
    notebook.unlink()
    with pytest.raises(LessonError, match="99_toy.ipynb is missing"):
        build.check_lessons(root=root)
    notebook.write_text("{", encoding="utf-8")
    with pytest.raises(LessonError, match="not a notebook"):
        build.check_lessons(root=root)


def test_without_execution_outputs_stay_only_where_no_code_changed(toy, tmp_path):
    root = tmp_path / "lessons"
    shutil.copytree(toy, root)
    source, notebook = root / "source" / "99_toy" / "lesson.py", root / "99_toy.ipynb"
    text, stored = source.read_text(encoding="utf-8"), notebook.read_bytes()
    build.build_lesson(folders.Lesson(root, "99_toy"), execute=False)
    assert notebook.read_bytes() == stored

    source.write_text(text.replace("The mean is the sum", "The mean is a sum"), encoding="utf-8")
    build.build_lesson(folders.Lesson(root, "99_toy"), execute=False)
    build.check_lessons(root=root)
    assert any(cell.get("outputs") for cell in build.read_notebook(notebook).cells)

    source.write_text(text.replace('print("mean:"', 'print("Mean:"'), encoding="utf-8")
    build.build_lesson(folders.Lesson(root, "99_toy"), execute=False)
    assert not any(cell.get("outputs") for cell in build.read_notebook(notebook).cells)
    with pytest.raises(LessonError, match="outputs are not those of its code"):
        build.check_lessons(root=root)


def test_table_and_readme(toy):
    table = build.readme_table(toy)
    goal = "Say what one number can tell about many, and what it hides."
    row = f"| [99 · The mean](lessons/99_toy.ipynb) | {goal} | 15 (15) |"
    assert table.splitlines()[2:] == [row]
    text = build.with_table("before\n<!-- lessons -->\nold\n<!-- /lessons -->\nafter\n", table)
    assert text == f"before\n<!-- lessons -->\n{table}<!-- /lessons -->\nafter\n"
    assert build.with_table(text, table) == text
    with pytest.raises(LessonError, match="README.md needs the lines"):
        build.with_table("no markers", table)
    with pytest.raises(LessonError, match="README.md is missing"):
        build.lessons_readme(toy)
    readme = toy.parent / "README.md"
    readme.write_text("<!-- lessons --><!-- /lessons -->", encoding="utf-8")
    assert row in build.lessons_readme(toy).read_text(encoding="utf-8")
    readme.unlink()


# --- the rules ------------------------------------------------------------------------------------------------------


def broken(notebook, folder: Path, solutions: bool = False) -> list[str]:
    """The rules that a notebook breaks when it is stored beside the toy's; the number of cells is left out."""
    path = (folder / "solutions" if solutions else folder) / "99_changed.ipynb"
    nbformat.write(notebook, path)
    found = rules.problems(path)
    path.unlink()
    return [problem for problem in found if "cells; a lesson has" not in problem]


def cell_with(notebook, text: str):
    return next(cell for cell in notebook.cells if text in cell.source)


def test_what_is_asked_for_the_readers_sake(toy):
    """Too many words or verdicts, a link to no term, a term without a link's place; a little of each is fine."""
    path = toy / "99_toy.ipynb"

    def found(text: str, more: str) -> list[str]:
        notebook = build.read_notebook(path)
        cell = cell_with(notebook, text)
        if cell.cell_type == "markdown":
            cell.source += more
        else:
            cell.outputs[0].text = more
        return broken(notebook, toy)

    assert found("## The idea", " many words" * 500) == []
    assert "words; at most 2,200" in found("## The idea", " many words" * 1100)[0]
    assert found("## References", " many words" * 1100) == [], "references do not count"
    assert "printed lines are verdicts" in found('print("mean:"', "same: True\n" * 9)[0]
    assert "no 'nonsense'" in " ".join(found("## The idea", "\n[nonsense](glossary.md#nonsense)"))
    assert found("## The idea", "\nA *baseline*, and what **stands** out.") == []
    assert "*fancy term* reads like a term" in found("## The idea", "\nA *fancy term*.")[0]


def test_the_toy_keeps_the_rules_but_is_short(toy):
    assert [problem.partition(" ")[2] for problem in rules.problems(toy / "99_toy.ipynb")] == [
        "cells; a lesson has 35 to 70"
    ]
    assert rules.problems(toy / "solutions" / "99_toy.ipynb") == []


def _replace(old: str, new: str):
    def change(notebook) -> None:
        cell = cell_with(notebook, old)
        cell.source = cell.source.replace(old, new)

    return change


def _not_run(notebook) -> None:
    cell_with(notebook, 'print("mean:"').execution_count = None


def _stderr(notebook) -> None:
    warning = nbformat.v4.new_output("stream", name="stderr", text="FutureWarning: soon")
    cell_with(notebook, 'print("mean:"').outputs.append(warning)


def _error(notebook) -> None:
    error = nbformat.v4.new_output("error", ename="ValueError", evalue="", traceback=[])
    cell_with(notebook, 'print("mean:"').outputs.append(error)


def _folder(notebook) -> None:
    text = "saved to /home/me/faces.npy"
    cell_with(notebook, 'print("mean:"').outputs.append(nbformat.v4.new_output("stream", text=text))


def _timing(notebook) -> None:
    cell_with(notebook, 'print("mean:"').metadata["execution"] = {"iopub.execute_input": "2026"}


def _no_reason(notebook) -> None:
    del cell_with(notebook, "random.random()").metadata["reason"]


def _no_alt(notebook) -> None:
    for output in cell_with(notebook, "plots.show(").outputs:
        output.metadata.pop("image/png", None)


def _nothing_broken(notebook) -> None:
    cell = cell_with(notebook, "sum([]) / len([])")
    cell.metadata.pop("tags")
    cell.outputs = []


def _tagged_but_fine(notebook) -> None:
    cell_with(notebook, "sum([]) / len([])").outputs = []


def _wrong_verdict(notebook) -> None:
    cell_with(notebook, '"99.1").check').outputs[0].text = "correct: well done\n"


def _section_order(notebook) -> None:
    places = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith(("## Recap", "## References"))]
    first, second = places
    notebook.cells[first], notebook.cells[second] = notebook.cells[second], notebook.cells[first]


CHANGES = [
    (_not_run, "execution count is None"),
    (_stderr, "writes to stderr"),
    (_error, "raised ValueError"),
    (_folder, "folder"),
    (_timing, "timing metadata"),
    (_no_reason, "without a reason"),
    (_no_alt, "without a text alternative"),
    (_nothing_broken, "no cell tagged broken-on-purpose or raises-exception"),
    (_tagged_but_fine, "raises nothing"),
    (_wrong_verdict, "expected 'not attempted'"),
    (_section_order, "not in their order"),
    (_replace("## Recap", "## Summary"), "sections are missing: Recap"),
    (_replace("by hand, and the same", "and the same"), "nothing by hand"),
    (_replace("## What you need", "### What you need"), "sections are missing: What you need"),
    (_replace("99_toy/figure.svg", "99_toy/gone.svg"), "there is no such file"),
    (_replace("![A line", "[A line"), "no drawn figure"),
    (_replace("[a little Python]", "[here]"), "does not say where it leads"),
    (_replace("[a little Python](", "[lesson 03](99_changed.ipynb#The-idea) ("), "which is not lesson 03"),
    (_replace("[a little Python](", "[the idea](#The-ideas) ("), "no heading has the anchor 'The-ideas'"),
    (_replace("[a little Python](", "[text](99_changed.ipynb#Idea) ("), "no heading has the anchor 'Idea'"),
    (_replace("Nothing but", "What lesson 12 says, and"), "speaks of lesson 12, which there is not"),
    (_replace("Nothing but", "Exercise 99.3 and"), "speaks of exercise 99.3, which there is not"),
    (_replace("# 99 · The mean", "# 98 · The mean"), "the title says lesson 98"),
    (_replace("15 to read and run", "some to read and run"), "the first cell must be"),
    (_replace('print("mean:", by_hand)', "%time by_hand"), "magic"),
    (_replace('print("mean:", by_hand)', 'print("mean:", by_hand);'), "ends a line with ';'"),
    (_replace('print("mean:", by_hand)', 'if course.profile == "full": print(1)'), "asks for the profile"),
    (_replace('print("mean:", by_hand)', "\n".join(["by_hand + 1"] * 26)), "26 lines; at most 25"),
    (_replace('print("mean:", by_hand)', "plots.no_such_function()"), "plots has no no_such_function"),
    (_replace("figures.bars(numbers)", "figures.no_such_plot()"), "figures has no no_such_plot"),
    (_replace("facekit.show import plots", "facekit.show import plottt"), "facekit has no facekit.show.plottt"),
    (_replace('quiz("99"', 'quizz("99"'), "Quiz"),
    (_replace('exercise("99.2").check(mean_of)', "mean_of"), "exercises checked in the lesson: ['99.1']"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), CHANGES, ids=[says for _, says in CHANGES])
def test_every_broken_rule_is_reported(toy, change, says):
    notebook = copy.deepcopy(build.read_notebook(toy / "99_toy.ipynb"))
    assert broken(notebook, toy) == []
    change(notebook)
    found = broken(notebook, toy)
    assert any(says in problem for problem in found), found


def test_too_much_code_is_reported(toy):
    notebook = build.read_notebook(toy / "99_toy.ipynb")
    count = itertools.count(len([cell for cell in notebook.cells if cell.cell_type == "code"]) + 1)
    for _ in range(8):
        cell = nbformat.v4.new_code_cell("\n".join(["x = 1"] * 20), execution_count=next(count))
        notebook.cells.append(cell)
    assert any("lines of code; at most 150" in problem for problem in broken(notebook, toy))


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def course(toy, monkeypatch) -> Path:
    """The toy's folder as the one that the commands work on."""
    monkeypatch.setattr(folders, "LESSONS", toy)
    return toy


def test_commands_take_numbers_and_say_what_they_did(course, tmp_path, capsys):
    assert main(["lessons", "check", "99"]) == 0
    assert "1 lessons: the notebooks are those of their sources" in capsys.readouterr().out
    assert main(["lessons", "rules"]) == 1
    assert "99_toy.ipynb: 1 problems" in capsys.readouterr().out
    assert main(["lessons", "table"]) == 0
    assert capsys.readouterr().out == build.readme_table(course)
    stored = (course / "99_toy.ipynb").read_bytes()
    assert main(["lessons", "build", "99", "--execute", "false"]) == 0
    assert "solutions/99_toy.ipynb" in capsys.readouterr().out
    assert (course / "99_toy.ipynb").read_bytes() == stored


@pytest.mark.parametrize("command", ["build", "check", "rules", "run"])
def test_an_unknown_number_is_one_line(course, command, capsys):
    assert main(["lessons", command, "99", "77"]) == 2
    assert capsys.readouterr().err == "error: no source for lesson 77; there are 99.\n"
