"""The rules that every lesson keeps, as a list of problems found in its notebook.

nbval accepts a notebook that was never run, and no tool asks whether a picture has a text alternative; this does.
"""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from facekit.course.build import WIDGET_VIEW, first_line, read_head, read_notebook
from facekit.course.folders import Lesson, find_lessons
from facekit.course.frame import NEXT, code_lines, text_words
from facekit.course.terms import terms
from facekit.errors import LessonError

if TYPE_CHECKING:
    from nbformat import NotebookNode

SECTIONS = (
    "What you will be able to do",
    "What you need",
    "The idea",
    "Build it",
    "Run it",
    "Look at the result",
    "What goes wrong",
    "Exercises",
    "Quiz",
    "Recap",
    "References",
)
CELLS = range(35, 71)
CODE_LINES = 150  # lines of code a lesson, without blank and comment lines
CELL_LINES = 25  # lines a code cell, without blank ones
BROKEN = {"raises-exception", "broken-on-purpose"}
MAX_BYTES = 1_500_000
# What lessons keep from this one on: numbers instead of verdicts, few words, few names, terms that are explained.
FOR_READERS = "00"
WORDS = 2200  # of all Markdown cells, split at blanks, without references and link addresses
VERDICT = re.compile(r"\b(True|False|yes|no|OK)\b")
VERDICTS = 0.1  # share of the printed lines
NEW_NAMES = 10  # of facekit, that no earlier lesson imported
IGNORED_OUTPUTS = 2  # a lesson
FOLDERS = re.compile(r"(?<![\w.…/])(?:/(?:home|work|tmp|root|Users|usr|opt|var|mnt)/\w|[A-Z]:\\\w)")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
# What the text of an output must not have, by how a problem names it.
SHOWN = {
    "shows a folder of one machine": FOLDERS,
    "shows the address of an object": re.compile(r"\bat 0x[0-9a-f]{6,}"),
    'a styled table without .set_uuid("name") differs at every run': re.compile(r"id=\"T_[0-9a-f]{5}"),
}
WITH_CODE = ("Build it", "Run it", "Look at the result", "What goes wrong")
# What the cells of a section must have, and how the lack of it is named.
NEEDS = {
    "The idea": (re.compile(r"!\[[^\]]+\]\([^)]+\.svg\)"), "has no drawn figure: ![what it shows](figure.svg)"),
    "Build it": (re.compile(r"\bby hand\b"), "builds nothing by hand: say 'by hand' where it does"),
    "Exercises": (re.compile(r"\.check\("), "checks nothing"),
    "Quiz": (re.compile(r"quiz\(\"\d\d\".*\)\.show\(\)"), 'has no quiz("NN").show()'),
    "References": (LINK, "links nothing"),
}


def problems(path: Path) -> list[str]:
    """Every broken rule of a lesson's notebook (the learner's or the solutions), each as one line; empty if none."""
    notebook = read_notebook(path)
    solutions = path.parent.name == "solutions"
    (lesson,) = find_lessons([path.stem[:2]], path.parents[1 if solutions else 0])
    found = [*_execution(notebook), *_outputs(notebook), *_code(notebook, lesson, solutions), *_sections(notebook)]
    found += [*_pictures_and_links(notebook, path.parent), *_references(notebook, lesson, path.parent)]
    found += _exercises(notebook, lesson, solutions)
    if lesson.number >= FOR_READERS and not solutions:
        found += _for_readers(notebook, lesson)
    cells = len(notebook.cells) - len(section(notebook, NEXT))
    if not solutions and cells not in CELLS:
        found.append(f"{cells} cells; a lesson has {CELLS.start} to {CELLS.stop - 1}")
    if path.stat().st_size > MAX_BYTES:
        found.append(f"{path.stat().st_size:,} bytes; at most {MAX_BYTES:,}")
    try:
        head = read_head(notebook, path.name)
        if head["number"] != path.stem[:2]:
            found.append(f"the title says lesson {head['number']}, the file's name {path.stem[:2]}")
    except LessonError as error:
        found.append(str(error))
    return found


def rules_command(numbers: list[str] | None = None) -> int:
    """Prints every rule of the course that a lesson's built notebooks break; status 1 if there is one.

    Args:
        numbers: lessons to look at, such as 03 04; all of them by default.

    Examples:
        python -m facekit lessons rules 03
    """
    status = 0
    for lesson in find_lessons(numbers):
        for path in (lesson.learner, lesson.solutions):
            found = problems(path) if path.is_file() else ["is missing; build it"]
            name = path.relative_to(lesson.root.parent).as_posix()
            print("\n".join([f"{name}: {len(found)} problems", *(f"  {problem}" for problem in found)]))
            status |= bool(found)
    return status


def _code_cells(notebook: NotebookNode) -> list[tuple[str, NotebookNode]]:
    """The code cells that are not empty, each with a name for messages."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [(f"code cell {n} ({first_line(cell.source)})", cell) for n, cell in enumerate(cells, 1)]


def _tags(cell: NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _execution(notebook: NotebookNode) -> Iterator[str]:
    """Executed once from top to bottom, with no error that was not announced, and no trace of when or where."""
    for expected, (name, cell) in enumerate(_code_cells(notebook), 1):
        if cell.execution_count != expected:
            yield f"{name}: execution count is {cell.execution_count}, expected {expected}: build the lesson again"
        raised = [output.ename for output in cell.outputs if output.output_type == "error"]
        if raised and "raises-exception" not in _tags(cell):
            yield f"{name}: raised {raised[0]}"
        if "raises-exception" in _tags(cell) and not raised:
            yield f"{name}: is tagged raises-exception and raises nothing"
        if "execution" in cell.metadata:
            yield f"{name}: has timing metadata"
    if "widgets" in notebook.metadata:
        yield "the notebook stores widget state"
    ignored = [(name, cell) for name, cell in _code_cells(notebook) if "nbval-ignore-output" in _tags(cell)]
    if len(ignored) > IGNORED_OUTPUTS:
        yield f"{len(ignored)} cells ignore their output; at most {IGNORED_OUTPUTS}"
    reasonless = [name for name, cell in ignored if not str(cell.metadata.get("reason", "")).strip()]
    yield from (f"{name}: ignores its output without a reason" for name in reasonless)


def _outputs(notebook: NotebookNode) -> Iterator[str]:
    """No stderr, no folder of one machine, no format that differs from run to run."""
    for name, cell in _code_cells(notebook):
        for output in cell.outputs:
            if output.output_type == "stream" and output.name == "stderr":
                yield f"{name}: writes to stderr: {output.text.strip()[:80]!r}"
            data = output.get("data", {})
            for kind in ("image/svg+xml", "application/pdf", WIDGET_VIEW):
                if kind in data:
                    yield f"{name}: stores {kind}"
            texts = [output.get("text", ""), output.get("evalue", ""), *output.get("traceback", [])]
            texts += [value for kind, value in data.items() if not kind.startswith("image/") and isinstance(value, str)]
            for what, pattern in SHOWN.items():
                if match := pattern.search("\n".join(texts)):
                    yield f"{name}: {what}: {match.string[match.start() :][:40]!r}"


def _code(notebook: NotebookNode, lesson: Lesson, solutions: bool) -> Iterator[str]:
    """Short cells that parse, hide nothing behind `;`, and only use names that facekit has."""
    total = 0
    imported: dict[str, object] = {}
    for name, cell in _code_cells(notebook):
        lines = [line for line in cell.source.split("\n") if line.strip()]
        code = code_lines(cell.source)
        total += len(code)
        if len(lines) > CELL_LINES:
            yield f"{name}: {len(lines)} lines; at most {CELL_LINES}"
        if any(re.match(r"\s*[%!]", line) for line in code):
            yield f"{name}: uses a magic or a shell command; a lesson is plain Python"
            continue
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            if "raises-exception" not in _tags(cell):
                yield f"{name}: does not parse: {error}"
            continue
        if re.search(r"FACEKIT_PROFILE|\bif\b.*\bprofile\b|\bprofile\b *[=!]=", "\n".join(code)):
            yield f"{name}: asks for the profile; only facekit.course knows it"
        if any(line.rstrip().endswith(";") for line in code):
            yield f"{name}: ends a line with ';'; assign to _ instead, nbval shows the output all the same"
        yield from (f"{name}: {problem}" for problem in _unknown_names(tree, imported, lesson))
    if not solutions and total > CODE_LINES:
        yield f"{total} lines of code; at most {CODE_LINES}"


def _unknown_names(tree: ast.AST, imported: dict[str, object], lesson: Lesson) -> Iterator[str]:
    """Imports from facekit that facekit does not have, and attributes that its modules and the lesson's figures lack.

    imported: what earlier cells imported, by name; this cell's imports are added.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom | ast.Import):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            for alias in node.names:
                full = f"{module}.{alias.name}" if module else alias.name
                if full.split(".")[0] == "facekit":
                    target = imported[alias.asname or alias.name] = _resolve(full)
                    if target is None:
                        yield f"facekit has no {full}"
        elif isinstance(node, ast.Attribute) and node.attr == "figures":
            imported["figures"] = lesson.figures
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            owner = imported.get(node.value.id)
            if isinstance(owner, ModuleType) and not hasattr(owner, node.attr):
                yield f"{node.value.id} has no {node.attr}"


def _for_readers(notebook: NotebookNode, lesson: Lesson) -> Iterator[str]:
    """What the design asks of lessons from FOR_READERS on."""
    references = section(notebook, "References")
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown" and cell not in references]
    words = sum(len(text_words(text)) for text in texts)
    if words > WORDS:
        yield f"{words:,} words; at most {WORDS:,}"
    outputs = [output for _, cell in _code_cells(notebook) for output in cell.outputs]
    lines = [line for output in outputs for line in printed(output).splitlines() if line.strip()]
    verdicts = [line for line in lines if VERDICT.search(line)]
    if len(verdicts) > VERDICTS * len(lines):
        yield f"{len(verdicts)} of {len(lines)} printed lines are verdicts ({verdicts[0]!r} …); show the numbers"
    earlier = {name for each in find_lessons(root=lesson.root) if each.number < lesson.number for name in _names(each)}
    if len(new := sorted(_names(lesson) - earlier)) > NEW_NAMES:
        yield f"{len(new)} new names of facekit, at most {NEW_NAMES}: {', '.join(new)}"
    anchors = {term.anchor for term in terms()}
    for target in re.findall(r"\]\(glossary\.md#([^)]*)\)", "\n".join(texts)):
        if target not in anchors:
            yield f"the glossary has no {target!r}; add it to docs/terms.csv"
    for emphasised in re.findall(r"(?<![*\w])\*([a-z][\w -]+)\*(?![*\w])", "\n".join(texts)):
        if emphasised.replace(" ", "-") not in anchors:
            yield f"*{emphasised}* reads like a term, and the glossary lacks it; add it to docs/terms.csv"


def printed(output: NotebookNode) -> str:
    """What a reader sees of an output as text."""
    return str(output.get("text", "") or output.get("data", {}).get("text/plain", ""))


def _names(lesson: Lesson) -> set[str]:
    """The names of facekit that a lesson's source imports, and those that it takes from modules of facekit."""
    tree = ast.parse(lesson.source.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "facekit":
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    taken = {
        f"{found[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in found
    }
    modules = {name for name in found.values() if isinstance(_resolve(name), ModuleType)}
    return (set(found.values()) - modules) | {name for name in taken if name.rpartition(".")[0] in modules}


def _resolve(name: str) -> object | None:
    """A module or a name of one, by its full name; None when it does not exist."""
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


def headings(notebook: NotebookNode) -> list[tuple[int, str]]:
    """Level and text of every heading, in order; lines inside code fences are not headings."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"^(```|~~~).*?^\1", "", cell.source, flags=re.MULTILINE | re.DOTALL)
            found += [(len(m[1]), m[2].strip()) for m in re.finditer(r"^(#{1,6}) +(.+)$", text, flags=re.MULTILINE)]
    return found


def section(notebook: NotebookNode, title: str) -> list[NotebookNode]:
    """The cells from the H2 `title` up to the next H2; a heading opens its cell."""
    inside, cells = False, []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (match := re.match(r"##? +(.+)", cell.source)):
            inside = match[1].strip() == title
        if inside:
            cells.append(cell)
    return cells


def _sections(notebook: NotebookNode) -> Iterator[str]:
    """The skeleton: one H1, the sections in their order, no level skipped, and in each what it is for."""
    levels = headings(notebook)
    if [level for level, _ in levels].count(1) != 1 or (levels and levels[0][0] != 1):
        yield "a lesson has exactly one H1, at its top"
    for (before, _), (level, text) in zip(levels, levels[1:], strict=False):
        if level > before + 1:
            yield f"heading {text!r} skips a level"
    titles = [text for level, text in levels if level == 2]
    missing = [title for title in SECTIONS if title not in titles]
    if missing:
        yield f"sections are missing: {', '.join(missing)}"
    present = [title for title in titles if title in SECTIONS]
    if present != [title for title in SECTIONS if title in present]:
        yield f"sections are not in their order: {', '.join(present)}"
    for title in present:
        cells = section(notebook, title)
        text = "\n".join(cell.source for cell in cells)
        if not re.sub(r"^#.*$", "", text, flags=re.MULTILINE).strip():
            yield f"section {title!r} {'is empty' if cells else 'does not open its cell'}"
            continue
        pattern, lacks = NEEDS.get(title, (None, ""))
        if pattern and not pattern.search(text):
            yield f"section {title!r} {lacks}"
        if title in WITH_CODE and not any(cell.cell_type == "code" for cell in cells):
            yield f"section {title!r} has no code"
        if title == "What goes wrong" and not any(BROKEN & set(_tags(cell)) for cell in cells):
            yield f"section {title!r} has no cell tagged {' or '.join(sorted(BROKEN))}"


def _pictures_and_links(notebook: NotebookNode, folder: Path) -> Iterator[str]:
    """Text for every picture, links that say where they lead, and local targets that exist."""
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for alt, target in IMAGE.findall(cell.source):
            if len(alt.strip()) < 10:
                yield f"picture {target}: its text alternative says too little: {alt!r}"
            yield from _local(target, folder)
            file = folder / target
            if target.endswith(".svg") and file.is_file() and "<title" not in file.read_text(encoding="utf-8"):
                yield f"picture {target}: the SVG has no <title>"
        for tag in HTML_IMAGE.findall(cell.source):
            if not re.search(r"\balt=\"[^\"]{10,}\"", tag):
                yield f"picture without a text alternative: {tag[:60]}"
        for text, target in LINK.findall(cell.source):
            if text.strip().lower() in ("here", "link", "this", "click here", "more"):
                yield f"link [{text}]({target}) does not say where it leads"
            yield from _local(target, folder)
    for name, cell in _code_cells(notebook):
        for output in cell.outputs:
            for kind in ("image/png", "image/jpeg"):
                alt = output.get("metadata", {}).get(kind, {}).get("alt", "")
                if kind in output.get("data", {}) and len(alt) < 10:
                    yield f'{name}: a picture without a text alternative; use facekit.show.plots.show(fig, alt="…")'


def _local(target: str, folder: Path) -> Iterator[str]:
    if not re.match(r"[a-z]+:|#|attachment:", target) and not (folder / target.partition("#")[0]).exists():
        yield f"link to {target}: there is no such file"


def _references(notebook: NotebookNode, lesson: Lesson, folder: Path) -> Iterator[str]:
    """What a lesson names of the course exists: lessons, exercises, and the headings that links lead to."""
    from facekit.course.exercises import exercises_of  # needs torch; other commands on lessons do not

    known = {each.number: each for each in find_lessons(root=lesson.root)}
    for cell in (cell for cell in notebook.cells if cell.cell_type == "markdown"):
        for text, target in LINK.findall(cell.source):
            file, _, anchor = target.partition("#")
            path = folder / file if file else None
            if re.match(r"[a-z]+:", target) or (path and path.suffix not in (".ipynb", ".md")):
                continue
            if (said := re.search(r"\blessons? (\d\d)\b", text)) and not Path(file).name.startswith(said[1]):
                yield f"link [{text}] leads to {target}, which is not lesson {said[1]}"
            if anchor and (path is None or path.is_file()) and anchor not in _anchors(path or notebook):
                yield f"link to {target}: no heading has the anchor {anchor!r}"
        for number in re.findall(r"\b[Ll]essons? (\d\d)\b(?!\.\d)", cell.source):
            if number not in known:
                yield f"speaks of lesson {number}, which there is not"
        for number in re.findall(r"\b[Ee]xercises? (\d\d\.\d+)", cell.source):
            if number[:2] not in known or number not in exercises_of(known[number[:2]]):
                yield f"speaks of exercise {number}, which there is not"


def _anchors(place: Path | NotebookNode) -> set[str]:
    """Where links can lead in a notebook or a Markdown file: its headings as JupyterLab makes anchors of them."""
    if isinstance(place, Path) and place.suffix == ".md":
        texts = re.findall(r"^#{1,6} +(.+)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
    else:
        texts = [text for _, text in headings(read_notebook(place) if isinstance(place, Path) else place)]
    return {re.sub(r"\[([^\]]*)\]\([^)]*\)|[`*]", r"\1", text).strip().replace(" ", "-") for text in texts}


def _exercises(notebook: NotebookNode, lesson: Lesson, solutions: bool) -> Iterator[str]:
    """Every exercise of the lesson is checked in it: not attempted for the learner, correct in the solutions."""
    from facekit.course.exercises import exercises_of  # needs torch; other commands on lessons do not

    wanted = "correct" if solutions else "not attempted"
    checked = set()
    for name, cell in _code_cells(notebook):
        numbers = re.findall(r"exercise\(\"([\d.]+)\"\)\.check\(", re.sub(r"^\s*#.*$", "", cell.source, flags=re.M))
        checked |= set(numbers)
        lines = "".join(output.get("text", "") for output in cell.outputs).splitlines()
        verdicts = [line for line in lines if line.startswith(("correct", "not yet", "not attempted"))]
        if numbers and [line.startswith(wanted) for line in verdicts] != [True] * len(numbers):
            yield f"{name}: expected '{wanted}', got {verdicts or lines}"
        if not solutions and any(mark in cell.source for mark in ("# <solution>", "# <todo>", "# </solution>")):
            yield f"{name}: a solution marker is left"
    known = set(exercises_of(lesson))
    if checked != known:
        yield f"exercises checked in the lesson: {sorted(checked)}; defined in exercises.py: {sorted(known)}"
    for name, cell in _code_cells(notebook):
        if "exercise" in _tags(cell) and "TODO" not in cell.source:
            yield f"{name}: an exercise cell that does not say TODO"
