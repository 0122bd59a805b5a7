"""One source a lesson, two notebooks: the learner's, with TODO cells, and the one with solutions.

A source is a script in jupytext's percent format, `lessons/source/NN_slug/lesson.py`. From it come
`lessons/NN_slug.ipynb` and `lessons/solutions/NN_slug.ipynb`, executed, and free of everything that changes
from run to run: times, widget state, random cell ids, folders of this machine. A lesson names the files of its own
folder as they are called there (`figure.svg`); in the notebooks they are links to that folder.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from facekit.course.folders import Lesson, find_lessons, lessons_root
from facekit.course.frame import LINK, SOLUTION, add_minutes, way_on
from facekit.course.teaching import between, write_plans
from facekit.errors import ConfigError, LessonError
from facekit.files import atomic_path, may_replace
from facekit.settings import PROFILES, Profile

if TYPE_CHECKING:
    from nbformat import NotebookNode

TAGS = {
    "solution": "the cell's solution is replaced by a TODO in the learner's notebook",
    "solution-only": "the cell is left out of the learner's notebook",
    "raises-exception": "the cell is meant to raise",
    "broken-on-purpose": "the cell runs and shows a wrong result, which the text explains",
    "nbval-ignore-output": "the output is not compared; needs a reason",
}
CELL_TIMEOUT = 600  # seconds; a lesson in profile full may train for minutes in one cell
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
COLORS = re.compile(r"\x1b\[[\d;]*m")  # of a terminal
MARK = re.compile(r"^[ \t]*(# (?:</?solution>|<todo>))$", re.MULTILINE)
BUILT = b'"facekit": {'  # in every notebook that is built here
TABLE = "lessons"  # its markers in the README


# --- from source to notebook ------------------------------------------------------------------------------------


def make_notebook(lesson: Lesson, solutions: bool) -> NotebookNode:
    """The notebook of a lesson, not executed; raises LessonError naming source and cell."""
    import jupytext
    import nbformat

    text = lesson.source.read_text(encoding="utf-8")
    notebook = jupytext.reads(text, fmt={"extension": ".py", "format_name": "percent"})
    add_minutes(notebook.cells, lesson)
    if way := way_on(lesson):
        notebook.cells.append(nbformat.v4.new_markdown_cell(way))
    cells: list[NotebookNode] = []
    for place, cell in enumerate(notebook.cells, 1):
        where = f"{lesson.stem}/lesson.py, cell {place} ({first_line(cell.source)!r})"
        tags = _checked_tags(cell, where)
        if "solution-only" in tags and not solutions:
            continue
        if "solution" in tags:
            cell.source = one_copy(cell.source, solutions, where)
            if not solutions:
                tags = ["exercise" if tag == "solution" else tag for tag in tags]
        if cell.cell_type == "markdown":
            cell.source = _links_from(cell.source, lesson, solutions)
        metadata = {"tags": tags, **{name: cell.metadata.get(name) for name in ("reason", "tolerance")}}
        cell.metadata = {name: value for name, value in metadata.items() if value}
        cells.append(cell)
    _number_cells(cells)
    notebook.cells = cells
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        "facekit": {"source": f"source/{lesson.stem}/lesson.py"},
    }
    notebook.nbformat_minor = 5
    return notebook


def first_line(source: str) -> str:
    """The first line of a cell, for messages."""
    return source.strip().partition("\n")[0][:60]


def _checked_tags(cell: NotebookNode, where: str) -> list[str]:
    """The cell's tags; raises LessonError for a cell or header that the course does not know."""
    if cell.cell_type not in ("code", "markdown"):
        raise LessonError(f"{where}: a lesson has code and markdown cells, not {cell.cell_type}.")
    known = ("tags", "reason", "tolerance")
    unknown = {key for key in cell.metadata if not key.startswith("lines_to_")} - set(known)
    if unknown:
        raise LessonError(
            f"{where}: unknown cell metadata {', '.join(sorted(unknown))}; allowed are {', '.join(known)}."
        )
    tolerance = cell.metadata.get("tolerance", 1)
    if not (isinstance(tolerance, int | float) and 0 < tolerance <= 1):
        raise LessonError(f"{where}: a tolerance is a number above 0, at most 1; got {tolerance!r}.")
    tags = list(cell.metadata.get("tags", []))
    for tag in tags:
        if tag not in TAGS:
            raise LessonError(f"{where}: unknown tag {tag!r}; known are {', '.join(TAGS)}.")
    if ("nbval-ignore-output" in tags) != bool(str(cell.metadata.get("reason", "")).strip()):
        raise LessonError(f'{where}: an output is ignored with a reason: tags=["nbval-ignore-output"] reason="…".')
    return tags


def one_copy(source: str, solutions: bool, where: str = "cell") -> str:
    """A solution cell as it stands in one copy: the solutions, or the learner's with TODO lines in their place.

    In the learner's copy each block from `# <solution>` to `# </solution>` becomes its `# <todo>` lines, or `...`.
    """
    marks = MARK.findall(source)
    if not re.fullmatch("(# <solution>(# <todo>)?# </solution>)+", "".join(marks)):
        order = "'# <solution>', perhaps '# <todo>', '# </solution>'"
        raise LessonError(f"{where}: tagged solution, it needs {order} and has {', '.join(marks) or 'none of them'}.")

    def replace(block: re.Match[str]) -> str:
        indent, solution, todo = block.groups()
        if not solution:
            raise LessonError(f"{where}: the solution is empty.")
        if todo and (code := re.search(r"^[ \t]*([^#\s].*)", todo, re.MULTILINE)):
            raise LessonError(f"{where}: lines after '# <todo>' are comments; {code[1]!r} is not.")
        learners = re.sub(r"^([ \t]*)# ?", r"\1", todo[1:], flags=re.MULTILINE) if todo else None
        return solution[1:] if solutions else learners or f"{indent}...  # your lines here"

    return SOLUTION.sub(replace, source)


def _links_from(markdown: str, lesson: Lesson, solutions: bool) -> str:
    """Relative links as they read from the notebook's folder; other lessons lie beside it in both folders."""

    def moved(match: re.Match) -> str:
        target = match[2]
        if re.match(r"[a-z]+:|#|/|attachment:", target) or re.fullmatch(r"\d\d_\w+\.ipynb(#.*)?", target):
            return match[0]
        if (lesson.folder / target).is_file():
            target = f"source/{lesson.stem}/{target}"
        return match[1] + "../" * solutions + target

    return LINK.sub(moved, markdown)


def _number_cells(cells: Sequence[NotebookNode]) -> None:
    """Gives every cell an id made of its content, so that only a changed cell gets another one."""
    counts: Counter[str] = Counter()
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:10]
        counts[digest] += 1
        cell.id = digest if counts[digest] == 1 else f"{digest}-{counts[digest]}"


# --- execution --------------------------------------------------------------------------------------------------


def lesson_environment(profile: Profile, scratch: Path) -> dict[str, str]:
    """Environment variables of a lesson's kernel, made the same on every machine.

    scratch: a folder for IPython's and, in profile laptop, facekit's files: a lesson must not depend on what an
    earlier run left in the cache. Profile full keeps the user's cache, data folder and device.
    """
    if profile not in PROFILES:
        raise ConfigError(f"unknown profile {profile!r}; use one of {', '.join(PROFILES)}.")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name != "MPLBACKEND" and (profile == "full" or not name.startswith("FACEKIT_"))
    }
    environment |= {"FACEKIT_PROFILE": profile, "FACEKIT_PROGRESS": "0", "IPYTHONDIR": str(scratch / "ipython")}
    if profile == "laptop":
        environment["FACEKIT_CACHE"] = str(scratch / "cache")
        # Sums of floats depend on the number of threads, so the stored outputs are made with a fixed one. One: the
        # networks are small, two threads gain nothing on idle cores and wait for each other on busy ones.
        environment |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return environment


def kernel_channels(scratch: Path) -> dict[str, str]:
    """Options of a jupyter_client KernelManager: it talks with its kernel through files in `scratch`, not TCP ports.

    Jupyter finds free ports and lets go of them before the kernel takes them. Where several kernels start at once
    (tests in parallel), two may be given the same: one of them ends, or never answers. Windows has TCP alone, and so
    has a folder whose path is too long for such a file.
    """
    files = str(scratch / "kernel")
    return {} if sys.platform == "win32" or len(os.fsencode(files)) > 100 else {"transport": "ipc", "ip": files}


def run_notebook(
    notebook: NotebookNode, folder: Path, profile: Profile = "laptop", name: str = "notebook"
) -> NotebookNode:
    """Runs a notebook in `folder` with this Python; raises LessonError with the failing cell and its traceback."""
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    # Without folders to look in: the environment that runs this, whatever 'python3' means to Jupyter elsewhere.
    this_python = KernelSpecManager(kernel_dirs=[])
    with tempfile.TemporaryDirectory(prefix="facekit-lesson-") as scratch:
        channels = kernel_channels(Path(scratch))
        client = NotebookClient(
            notebook,
            km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=this_python, **channels),
            resources={"metadata": {"path": str(folder)}},
            timeout=CELL_TIMEOUT,
            record_timing=False,
            store_widget_state=False,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],  # else the kernel warns on the terminal that TCP is not encrypted
        )
        try:
            client.execute(env=lesson_environment(profile, Path(scratch)))
        except CellExecutionError as error:
            text = COLORS.sub("", str(error))
            raise LessonError(f"{name} failed; mend its source and build again.\n{text}") from None
        except (CellTimeoutError, DeadKernelError) as error:
            raise LessonError(f"{name} did not finish: {error}") from error
    return notebook


def clean(notebook: NotebookNode) -> NotebookNode:
    """Removes what differs from run to run or machine to machine; keeps outputs and execution counts."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}  # without the version that ran it
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if WIDGET_VIEW in data and len(data) > 1:
                del data[WIDGET_VIEW]  # without its kernel it would only show 'model not found'
            if output.output_type == "error":
                output.traceback = [_without_folders(line) for line in output.traceback]
    return notebook


def _without_folders(text: str) -> str:
    """A traceback with the files' folders shortened to what is the same everywhere."""
    text = re.sub(
        r"(?:[A-Za-z]:)?[\\/~][^\s:'\"\x1b]*[\\/](site-packages|facekit|lib[\\/]python3\.\d+)[\\/]", r"…/\1/", text
    )
    return text.replace("\\", "/") if "…/" in text and "\\" in text else text


def build_lesson(lesson: Lesson, execute: bool = True) -> list[Path]:
    """Makes both notebooks of a lesson in profile laptop and returns their paths.

    execute: without, outputs are kept where no code changed, and left out otherwise. Both are written when both have
    run; raises LessonError otherwise.
    """
    made: dict[Path, NotebookNode] = {}
    for path, solutions in ((lesson.learner, False), (lesson.solutions, True)):
        may_replace(path, BUILT).parent.mkdir(parents=True, exist_ok=True)
        notebook = make_notebook(lesson, solutions)
        if execute:
            run_notebook(notebook, path.parent, "laptop", path.relative_to(lesson.root).as_posix())
            notebook.metadata["facekit"]["executed"] = code_hash(notebook)
        elif path.is_file():
            _keep_outputs(notebook, read_notebook(path))
        made[path] = clean(notebook)
    for path, notebook in made.items():
        _write(notebook, path)
    return list(made)


def code_hash(notebook: NotebookNode) -> str:
    """sha256 of the code cells: stored outputs are those of the code exactly if the notebook records this hash."""
    digest = hashlib.sha256()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            digest.update(cell.source.encode() + b"\0")
    return digest.hexdigest()


def _keep_outputs(notebook: NotebookNode, earlier: NotebookNode) -> None:
    """Takes over the stored outputs if the code cells are the same, all of them and in the same order."""
    executed = earlier.metadata.get("facekit", {}).get("executed")
    if executed is None or executed != code_hash(notebook) or executed != code_hash(earlier):
        return
    notebook.metadata["facekit"]["executed"] = executed
    new, old = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (notebook, earlier))
    for cell, stored in zip(new, old, strict=True):
        cell.outputs, cell.execution_count = stored.outputs, stored.execution_count


def read_notebook(path: Path) -> NotebookNode:
    """A stored notebook; raises LessonError for a file that is none."""
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except (ValueError, nbformat.reader.NotJSONError) as error:
        raise LessonError(f"{path.name}: not a notebook ({error}); build it again.") from error


def _write(notebook: NotebookNode, path: Path) -> None:
    import nbformat

    _write_text(nbformat.writes(notebook).rstrip("\n") + "\n", path)


def _write_text(text: str, path: Path) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def run_lesson(lesson: Lesson, profile: Profile = "full", out: Path = Path("runs"), solutions: bool = False) -> str:
    """Runs a lesson in another profile and writes the executed notebook to `out`; the stored ones stay as they are.

    Returns how it failed, the cell and its traceback, or an empty text; a lesson that fails is written as far as it
    came. Raises LessonError when `out` is the folder of the stored notebooks, OutputError for another notebook there.
    """
    stored, failure = lesson.solutions if solutions else lesson.learner, ""
    path = Path(out) / stored.name
    if path.resolve().parent in (lesson.root.resolve(), lesson.solutions.parent.resolve()):
        raise LessonError(f"{out}: holds the stored notebooks; name another folder with --out.")
    may_replace(path, BUILT)
    notebook = make_notebook(lesson, solutions)
    stored.parent.mkdir(parents=True, exist_ok=True)
    try:
        run_notebook(notebook, stored.parent, profile, stored.name)
    except LessonError as error:
        failure = str(error)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(clean(notebook), path)
    return failure


# --- are the notebooks those of the sources? ----------------------------------------------------------------------


def check_lessons(numbers: Sequence[int | str] | None = None, root: Path | None = None) -> None:
    """Compares the notebooks with their sources without running them; raises LessonError with the differences."""
    root = root or lessons_root()
    differences = [drift for lesson in find_lessons(numbers, root) for drift in _drift(lesson)]
    if numbers is None:
        stems = {lesson.stem for lesson in find_lessons(root=root)}
        for path in sorted([*root.glob("*.ipynb"), *root.glob("solutions/*.ipynb")]):
            if path.stem not in stems:
                differences.append(f"{path.relative_to(root).as_posix()} has no source/{path.stem}/lesson.py.")
    if differences:
        remedy = "Change the source, never the notebook, then run: python -m facekit lessons build"
        raise LessonError("\n".join(["notebooks and sources differ.", *differences, remedy]))


def _drift(lesson: Lesson) -> Iterator[str]:
    for path, solutions in ((lesson.learner, False), (lesson.solutions, True)):
        name = path.relative_to(lesson.root).as_posix()
        if not path.is_file():
            yield f"{name} is missing."
            continue
        stored = read_notebook(path)
        if stored.metadata.get("facekit", {}).get("executed") != code_hash(stored):
            yield f"{name}: its outputs are not those of its code."
        expected, found = _as_script(make_notebook(lesson, solutions)), _as_script(stored)
        yield from difflib.unified_diff(found, expected, name, f"source/{lesson.stem}/lesson.py", lineterm="", n=2)


def _as_script(notebook: NotebookNode) -> list[str]:
    """The cells of a notebook as lines: kind, metadata, id, source."""
    lines: list[str] = []
    for cell in notebook.cells:
        details = " ".join(f"{key}={value}" for key, value in sorted(cell.metadata.items()))
        lines += [f"# %% [{cell.cell_type}] {details}".rstrip(), f"# id {cell.id}", *cell.source.split("\n"), ""]
    return lines


# --- the table of lessons in the README --------------------------------------------------------------------------


def read_head(notebook: NotebookNode, name: str) -> dict[str, str]:
    """What a lesson says of itself in its first cell; raises LessonError that says how that must look.

    Its number, title and goal, the minutes of `reading` (and running) and of the `exercises`.
    """
    text = notebook.cells[0].source if notebook.cells and notebook.cells[0].cell_type == "markdown" else ""
    match = re.match(
        r"# (?P<number>\d\d) · (?P<title>[^\n]+)\n\n(?P<goal>[^\n]+(?:\n[^\n]+)*)\n\n"
        r"\*\*Minutes on a laptop:\*\* (?P<reading>\d+) to read and run, (?P<exercises>\d+) for the exercises\.",
        text,
    )
    if not match:
        raise LessonError(
            f"{name}: the first cell must be: '# NN · Title', an empty line, the goal in one paragraph, an empty line, "
            "'**Minutes on a laptop:** 25 to read and run, 20 for the exercises.'"
        )
    return match.groupdict()


def readme_table(root: Path | None = None) -> str:
    """The lessons as a Markdown table, made from the notebooks: number and title, goal, minutes."""
    rows = ["| Lesson | What it does | Minutes (exercises) |", "|---|---|---|"]
    for path in sorted((root or lessons_root()).glob("*.ipynb")):
        head = read_head(read_notebook(path), path.name)
        goal = " ".join(head["goal"].split())
        link = f"[{head['number']} · {head['title']}](lessons/{path.name})"
        rows.append(f"| {link} | {goal} | {int(head['reading'])} ({int(head['exercises'])}) |")
    return "\n".join(rows) + "\n"


def lessons_readme(root: Path | None = None) -> Path:
    """Writes the table of lessons into README.md beside the folder of lessons; returns its path."""
    root = root or lessons_root()
    path = root.parent / "README.md"
    if not path.is_file():
        raise LessonError(f"{path.name} is missing beside {root.name}/.")
    text = between(path.read_text(encoding="utf-8"), TABLE, readme_table(root), path.name)
    _write_text(text, path)
    return path


# --- commands -------------------------------------------------------------------------------------------------------


def build_command(numbers: list[str] | None = None, execute: bool = True) -> int:
    """Makes the notebooks of the lessons from their sources and executes them; nothing is written when one fails.

    Args:
        numbers: lessons to build, such as 03 04; all of them by default.
        execute: without it, outputs are kept where no code changed and left out otherwise.

    Examples:
        python -m facekit lessons build 03 04
    """
    for lesson in find_lessons(numbers):
        start = time.monotonic()
        for path in build_lesson(lesson, execute):
            print(path.relative_to(lesson.root.parent).as_posix())
        print(f"  in {time.monotonic() - start:.0f} s", flush=True)
    return 0


def check_command(numbers: list[str] | None = None) -> int:
    """Compares the notebooks with their sources, without running them.

    Args:
        numbers: lessons to check, such as 03 04; all of them by default.

    Examples:
        python -m facekit lessons check
    """
    check_lessons(numbers)
    print(f"{len(find_lessons(numbers))} lessons: the notebooks are those of their sources.")
    return 0


def run_command(
    numbers: list[str] | None = None,
    profile: Profile = "full",
    out: Path = Path("runs/lessons"),
    solutions: bool = False,
) -> int:
    """Runs lessons in a profile and writes the executed notebooks to a folder; the stored ones stay as they are.

    Args:
        numbers: lessons to run, such as 03 04; all of them by default.
        profile: `full` runs on real photos with FaceNet, `laptop` on what comes with the course.
        out: folder for the executed notebooks.
        solutions: runs the notebooks with solutions instead of the learner's.

    Examples:
        FACEKIT_PROFILE=full FACEKIT_DATA=~/photos python -m facekit lessons run 03 --profile full
    """
    status = 0
    for lesson in find_lessons(numbers):
        start = time.monotonic()
        failure = run_lesson(lesson, profile, out, solutions)
        what = f"{'FAILED' if failure else 'ran'} in {time.monotonic() - start:.0f} s"
        print(f"lesson {lesson.number}, profile {profile}: {what}", *failure.splitlines(), sep="\n", flush=True)
        status |= bool(failure)
    return status


def table_command(write: bool = False) -> int:
    """Prints the README's table of lessons, made from the notebooks.

    Args:
        write: also puts it between the markers in README.md, and the plans for a class into lessons/TEACHING.md.

    Examples:
        python -m facekit lessons table --write true
    """
    if write:
        lessons_readme()
        write_plans()
    print(readme_table(), end="")
    return 0
