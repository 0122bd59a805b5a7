"""The shape of the project: data flows one way, everything public is described, nothing is tracked that must not be."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "facekit"
ROOT_MODULES = {"__init__", "__main__", "errors", "files", "records", "settings"}
MODULES = sorted(PACKAGE.rglob("*.py"))
PHOTO_FOLDERS = ("datasets/portraits/", "datasets/drawn/", "lessons/figures/")
PHOTO_STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
LARGEST_CHECKOUT = 40e6  # bytes


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {module_name(path) for path in MODULES}


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in NAMES)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            for name in (f"{node.module}.{alias.name}" for alias in node.names):
                if name in NAMES:
                    yield name
                elif node.module in NAMES:
                    yield node.module


def test_the_root_of_the_package_holds_no_other_module():
    """Everything else lies in a layer; their order is held by import-linter (`make check`)."""
    assert {path.stem for path in PACKAGE.glob("*.py")} == ROOT_MODULES


def test_importing_facekit_alone_costs_nothing():
    assert not list(imports(PACKAGE / "__init__.py"))


def test_nobody_imports_a_command():
    """But the file that Python runs for `-m facekit`."""
    importers = {module_name(path) for path in MODULES for name in imports(path) if name.startswith("facekit.commands")}
    assert {name for name in importers if not name.startswith("facekit.commands.")} == {"facekit.__main__"}


def trainers(tree: ast.AST) -> list[str]:
    """Functions that take gradients and steps in a loop of their own."""
    found = []
    for function in ast.walk(tree):
        loops = [node for node in ast.walk(function) if isinstance(node, ast.For | ast.While)]
        for loop in loops if isinstance(function, ast.FunctionDef) else []:
            calls = {
                node.func.attr for node in ast.walk(loop) if isinstance(node, ast.Call) and hasattr(node.func, "attr")
            }
            if {"backward", "step"} <= calls and function.name not in found:
                found.append(function.name)
    return found


def test_one_function_trains():
    found = {module_name(path): trainers(ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES}
    assert {name: functions for name, functions in found.items() if functions} == {"facekit.training.loop": ["fit"]}


def test_a_file_that_carries_a_lessons_number_lives_in_its_folder(tracked):
    allowed = re.compile(
        r"lessons/(solutions/)?(\d\d_\w+)\.ipynb|lessons/source/(\d\d_\w+)/.*|tests/lessons/test_\d\d_\w+\.py"
    )
    numbered = re.compile(r"(^|/|_)\d\d(_|\.|/)")
    names = [path.relative_to(ROOT).as_posix() for path in tracked]
    wrong = [name for name in names if numbered.search(name) and not allowed.fullmatch(name)]
    assert not wrong, f"these belong to a lesson: {wrong}"


def test_no_import_goes_in_circles():
    list(
        TopologicalSorter(
            {module_name(path): set(imports(path)) - {module_name(path)} for path in MODULES}
        ).static_order()
    )


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_everything_public_is_described(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    bare = [node.name for node in public if not ast.get_docstring(node)]
    if tree.body and not ast.get_docstring(tree):
        bare.append("the module itself")
    assert not bare, f"{path.relative_to(ROOT)}: no docstring for {', '.join(bare)}"


def test_every_folder_of_the_package_is_installed_with_it():
    folders = {path.parent for path in MODULES}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Files under version control that exist; skips in an unpacked archive."""
    listing = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("needs a git checkout: what is tracked cannot be listed")
    paths = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_photo_and_no_weight_of_others_is_tracked(tracked):
    for path in tracked:
        name = path.relative_to(ROOT).as_posix()
        with open(path, "rb") as file:
            start = file.read(8)
        if start.startswith(PHOTO_STARTS):
            assert name.startswith(PHOTO_FOLDERS), f"{name} is a picture outside {', '.join(PHOTO_FOLDERS)}"
        assert path.suffix not in (".pt", ".pth", ".zip", ".tar", ".gz"), (
            f"{name} does not belong under version control"
        )


# Foreign batches that are read by an unpickler which refuses all but lists, texts, numbers and arrays: no file of ours.
PICKLES = {"facekit.data.readers.cifar10"}


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_no_file_is_written_or_read_as_a_pickle_that_can_run_code(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", "")}
            found += sorted(names & {"joblib", "dill", "cloudpickle", "shelve", "marshal"})
        if not isinstance(node, ast.Call):
            continue
        called, options = ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if re.fullmatch(r"pickle\.(load|dump)s?|pickle\.(Unp|P)ickler|.*\.(to|read)_pickle", called):
            found += [called] if module_name(path) not in PICKLES else []
        if called == "torch.load" and options.get("weights_only") != "True":
            found.append(f"{called} without weights_only=True")
        if options.get("allow_pickle", "False") != "False":
            found.append(f"{called} with allow_pickle")
    assert not found, f"{path.relative_to(ROOT)}: {', '.join(found)}; use safetensors, npz or JSON"


def test_the_checkout_stays_small(tracked):
    assert sum(path.stat().st_size for path in tracked) < LARGEST_CHECKOUT


def test_no_file_names_a_folder_of_one_machine_or_holds_a_secret(tracked):
    folder = re.compile(r"(?<![\w.~*<>-])/(home|root|tmp|work|Users)/\w")
    secret = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY|\bgh[pousr]_\w{30}|\bAKIA[0-9A-Z]{16}\b")
    found = []
    for path in tracked:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        # A test may name a folder that it never opens, to see what is made of it.
        is_test = path.is_relative_to(ROOT / "tests")
        hits = [*secret.finditer(text), *([] if is_test else folder.finditer(text))]
        found += [f"{path.relative_to(ROOT)}: {text[hit.start() : hit.end() + 20]!r}" for hit in hits]
    assert not found, "\n".join(found)


def test_every_name_of_code_in_the_vocabulary_exists():
    text = (ROOT / "docs" / "vocabulary.md").read_text(encoding="utf-8")
    names = {name for row in re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    code = "\n".join(
        path.read_text(encoding="utf-8") for folder in ("facekit", "lessons") for path in (ROOT / folder).rglob("*.py")
    )
    missing = {name for name in names if not re.search(rf"\b(class|def) {name}\b", code)}
    assert len(names) > 10 and not missing
