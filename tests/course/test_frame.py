"""What the build puts around a lesson: minutes by a stated rule, and the way to the lessons before and after."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facekit.course import build, folders
from facekit.course.frame import NEXT, minutes, way_on
from facekit.errors import LessonError

LESSONS = Path(__file__).parents[2] / "lessons"


def lesson(root: Path, stem: str, text: str) -> folders.Lesson:
    made = folders.Lesson(root, stem)
    made.folder.mkdir(parents=True)
    made.source.write_text(text, encoding="utf-8")
    return made


def head(title: str) -> str:
    return f"# %% [markdown]\n# # {title}\n#\n# What it is for.\n\n"


@pytest.fixture
def course(tmp_path) -> list[folders.Lesson]:
    """Four lessons of one cell each, whose numbers leave a gap."""
    titles = {"00_a": "00 · A", "01_b": "01 · B & C", "04_d": "04 · D", "05_e": "05 · E"}
    return [lesson(tmp_path / "lessons", stem, head(title)) for stem, title in titles.items()]


def cells(*parts: tuple[str, str]) -> list:
    made = []
    for tags, source in parts:
        new = nbformat.v4.new_markdown_cell if source.startswith("## ") else nbformat.v4.new_code_cell
        made.append(new(source, metadata={"tags": tags.split()}))
    return made


# --- minutes ----------------------------------------------------------------------------------------------------------


def test_each_part_of_the_rule():
    text = "## Idea\n\n" + "[word](01_a.ipynb) " * 798  # with the heading's two, 800 words in ten minutes
    code = "\n".join(["x = 1", "# a comment", ""] * 40)  # 40 lines in four minutes, and half a minute for the cell
    assert minutes(cells(("", text)), 0) == (15, 0), "10 and 1 to compute, rounded up"
    assert minutes(cells(("", text), ("", code)), 5) == (25, 0), "10 + 4.5 + 5 questions + 1"
    ask = "## Exercises\n\n" + "word " * 158  # two minutes
    answer = "# TODO\n# <solution>\nx = 1\n# why\ny = 2\n# <todo>\n# x = ...\n# </solution>\nprint(x)"
    check = ("", 'exercise("01.1").check(x)')
    exercises = cells(("", text), ("", ask), ("solution", answer), check)
    assert minutes(exercises, 0) == (15, 15), "2 + 5 + 2 lines + 0.6 + 0.6 = 10.2"
    assert minutes([*exercises, *cells(("solution-only", "## " + "word " * 900))], 0) == (15, 15)
    assert minutes([*exercises, *cells(("", "## References\n\n" + "word " * 900))], 0) == (15, 15)


@given(st.lists(st.sampled_from(["## Idea\n\nword", "## Exercises\n\nword", "x = 1"]), max_size=8), st.integers(0, 9))
def test_more_of_anything_never_takes_less_and_all_is_rounded(parts, questions):
    made = cells(*(("", part) for part in parts))
    before, after = (
        minutes(made, questions),
        minutes([*made, *cells(("", "## Idea\n\n" + "word " * 80))], questions + 1),
    )
    assert all(value % 5 == 0 for value in (*before, *after))
    assert after[0] >= before[0] and after[1] == before[1]


def test_the_build_writes_the_minutes_and_refuses_typed_ones(course):
    for solutions in (False, True):
        notebook = build.make_notebook(course[0], solutions)
        assert build.read_head(notebook, "")["reading"] == "5" and build.read_head(notebook, "")["exercises"] == "0"
    text = course[1].source.read_text(encoding="utf-8").rstrip()
    course[1].source.write_text(f"{text}\n#\n# **Minutes on a laptop:** 9 to read and run, 3 for the exercises.\n")
    with pytest.raises(LessonError, match="01_b/lesson.py, first cell: take out the line"):
        build.make_notebook(course[1], False)


def test_a_source_that_begins_otherwise_gets_no_minutes(tmp_path):
    made = build.make_notebook(lesson(tmp_path, "98_x", "# %%\nx = 1\n"), False)
    assert [cell.source for cell in made.cells] == ["x = 1"]


# --- the way on -------------------------------------------------------------------------------------------------------


def links(text: str) -> list[tuple[str, str]]:
    return re.findall(r"\[([^\]]+)\]\(([^)]+)\)", text)


def test_every_lesson_leads_to_its_neighbours_by_their_titles(course):
    a, b, d, e = [(title, f"{stem}.ipynb") for stem, title in
                  (("00_a", "00 · A"), ("01_b", "01 · B & C"), ("04_d", "04 · D"), ("05_e", "05 · E"))]  # fmt: skip
    glossary = ("glossary", "glossary.md")
    wanted = [[b, glossary], [d, a, glossary], [e, b, a, glossary], [d, a, glossary]]
    assert [links(way_on(each)) for each in course] == wanted
    for solutions, place in ((False, ""), (True, "../")):
        last = build.make_notebook(course[2], solutions).cells[-1]
        assert last.cell_type == "markdown" and last.source.startswith(f"## {NEXT}\n\nNext: ")
        assert links(last.source)[-1] == ("glossary", f"{place}glossary.md"), "solutions lie a folder deeper"
        assert links(last.source)[0] == e, "and beside each other"


def test_a_lesson_alone_leads_nowhere_and_one_without_a_title_is_passed_over(tmp_path):
    alone = lesson(tmp_path, "03_a", head("03 · A"))
    assert way_on(alone) == ""
    lesson(tmp_path, "04_b", "# %%\nx = 1\n")
    assert way_on(alone) == ""
    last = lesson(tmp_path, "05_c", head("05 · C"))
    assert links(way_on(alone))[0] == ("05 · C", "05_c.ipynb") and links(way_on(last))[0] == ("03 · A", "03_a.ipynb")


def test_one_can_walk_through_the_whole_course_and_back():
    """From the first lesson by `Next` through all of them, and back, in both copies, as the stored notebooks say."""
    known = folders.find_lessons()
    for folder in ("", "solutions/"):
        for word, way in (("Next", known), ("Back", known[::-1])):
            name, walked = way[0].learner.name, []
            while name:
                walked.append(name)
                last = build.read_notebook(LESSONS / f"{folder}{name}").cells[-1].source
                found = re.search(rf"{word}: \[[^\]]+\]\(([^)]+)\)", last)
                name = found[1] if found else ""
            assert walked == [each.learner.name for each in way]
