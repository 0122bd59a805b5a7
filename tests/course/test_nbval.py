"""The notebooks are run with strict nbval: what two copies of a lesson share is run once, and nothing is let pass."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.connect import LocalPortCache

from facekit.course import build, folders

HERE = Path(__file__).parents[1]
# Every cell writes a line to $RAN. The two copies go apart in all that a process keeps: variables, a list changed in
# place, random numbers, a module, the folder.
LESSON = """
# %%
import os
import random
import pandas as pd

def ran(name):
    with open(os.environ["RAN"], "a") as file:
        print(name, file=file)

random.seed(0)
numbers = [1]
print(len(numbers), random.random())
ran("common")

# %%
len(numbers)

# %% tags=["solution"]
# <solution>
numbers.append(2)
ran("solution")
random.answer = 42
# <todo>
# learners = random.random()
# numbers.clear()
# ran("learner's")
# </solution>

# %%
print(numbers, "learners" in globals(), getattr(random, "answer", None), random.random(), os.path.basename(os.getcwd()))
ran("rest")

# %% tags=["raises-exception"]
numbers[1] / 0

# %% tolerance=0.02
print("accuracy 0.812 of 40 rows")
pd.DataFrame({"mean": [-0.25, 0.5]})
"""


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    """A lesson of five cells, built; its copies differ from the third on."""
    root = tmp_path_factory.mktemp("course") / "lessons"
    (root / "source" / "98_mini").mkdir(parents=True)
    (root / "source" / "98_mini" / "lesson.py").write_text(LESSON.lstrip(), encoding="utf-8")
    shutil.copy(HERE.parent / "lessons" / "conftest.py", root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAN", os.devnull)
        for lesson in folders.find_lessons(root=root):
            build.build_lesson(lesson)
    return root


def nbval(root: Path, *arguments: str) -> tuple[set[str], list[str], str]:
    """Runs notebooks as `make test` does; returns the cells that failed, the cells that ran, and what was printed."""
    ran = root / "ran"
    ran.write_text("")
    command = [sys.executable, "-m", "pytest", "-q", "--nbval", "--nbval-current-env", "--color=no"]
    command += [f"-pno:{plugin}" for plugin in ("cacheprovider", "hypothesispytest", "anyio")]
    environment = {**os.environ, "RAN": str(ran), "PYTHONPATH": f"{HERE.parent}{os.pathsep}{root}"}
    done = subprocess.run(
        [*command, *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    failed = set(re.findall(r"^FAILED (\S+::Cell \d+)", done.stdout, re.MULTILINE))
    assert done.returncode == bool(failed), done.stdout[-3000:] + done.stderr[-1000:]
    return failed, ran.read_text().split("\n")[:-1], done.stdout


BOTH = ("98_mini.ipynb", "solutions/98_mini.ipynb")


def test_common_cells_run_once_and_all_others_in_either_copy_as_if_it_were_alone(mini):
    """The stored outputs come from two kernels; in one process for each copy, or both in one of two, they are met."""
    failed, ran, said = nbval(mini, *BOTH, "-n2", "--dist=loadfile")
    assert not failed and re.search(r"\d+\.\d  solutions/98_mini.ipynb", said), said
    again = [] if hasattr(os, "fork") and sys.platform != "darwin" else ["common"]
    assert ran == ["common", "learner's", "rest", *again, "solution", "rest"]
    assert nbval(mini, BOTH[1])[:2] == (set(), ["common", "solution", "rest"])


NO_PORTS = """
from jupyter_client.connect import LocalPortCache

taken = __import__("socket").create_server(("127.0.0.1", 0))
LocalPortCache.find_available_port = lambda cache, ip: taken.getsockname()[1]
"""


@pytest.mark.skipif(sys.platform == "win32", reason="on Windows kernels have TCP ports alone")
def test_a_kernel_needs_no_port_that_another_may_take_before_it(mini, tmp_path, monkeypatch):
    """Every port that Jupyter finds free is taken when the kernel starts: notebooks are run and built all the same."""
    root = tmp_path / "lessons"
    shutil.copytree(mini, root)
    (root / "no_ports.py").write_text(NO_PORTS, encoding="utf-8")
    assert not nbval(root, "-p", "no_ports", BOTH[0])[0]
    monkeypatch.setattr(LocalPortCache, "find_available_port", lambda cache, ip: pytest.fail("asked for a port"))
    monkeypatch.setenv("RAN", os.devnull)
    build.build_lesson(folders.Lesson(root, "98_mini"))


def test_nothing_is_let_pass(mini, tmp_path):
    """An output that is not the new one fails in its copy; so do solutions whose process ends, or is too slow."""
    root = tmp_path / "lessons"
    shutil.copytree(mini, root)
    changes = {BOTH[0]: {0: "1 0.8", 3: "[] True"}, BOTH[1]: {1: "1", 3: "[1, 2] False", 4: "division by zero"}}
    expected = {f"{name}::Cell {number}" for name, cells in changes.items() for number in cells}
    for name, line in (("96_ends.ipynb", "os._exit(3)"), ("97_hangs.ipynb", "while True: pass")):
        shutil.copy(root / BOTH[0], root / name)
        text = (root / BOTH[1]).read_text(encoding="utf-8").replace("random.answer = 42", line)
        (root / "solutions" / name).write_text(text, encoding="utf-8")
        expected.add(f"solutions/{name}::Cell 2")
    for name, cells in changes.items():
        notebook = json.loads((root / name).read_text(encoding="utf-8"))
        for number, text in cells.items():
            outputs = json.dumps(notebook["cells"][number]["outputs"])
            assert text in outputs, "what is changed is there"
            notebook["cells"][number]["outputs"] = json.loads(outputs.replace(text, "7"))
        (root / name).write_text(json.dumps(notebook), encoding="utf-8")
    failed, _, said = nbval(root, "--nbval-cell-timeout=5", *map(str, sorted(root.rglob("*.ipynb"))))
    after = {f"solutions/96_ends.ipynb::Cell {number}" for number in (3, 4, 5)}
    assert failed - after == expected, said


def test_numbers_within_a_cells_tolerance_pass_and_nothing_else(mini, tmp_path):
    """Decimal numbers may be off by as much as the cell says; more, whole numbers, words and a lost row may not."""
    cell = 5
    changes = {
        "90": ("0.812", "0.831", True),
        "91": ("-0.25", "-0.23", True),
        "92": ("0.812", "0.833", False),
        "93": ("-0.25", "0.25", False),
        "94": ("40 rows", "41 rows", False),
        "95": ("accuracy", "error", False),
        "96": ("0.812", "0.812 0.812", False),
    }
    root, expected = tmp_path / "lessons", set()
    root.mkdir()
    shutil.copy(mini / "conftest.py", root)
    for name, (text, other, passes) in changes.items():
        notebook = json.loads((mini / BOTH[0]).read_text(encoding="utf-8"))
        outputs = json.dumps(notebook["cells"][cell]["outputs"])
        assert text in outputs, "what is changed is there"
        notebook["cells"][cell]["outputs"] = json.loads(outputs.replace(text, other))
        (root / f"{name}_changed.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
        expected |= set() if passes else {f"{name}_changed.ipynb::Cell {cell}"}
    failed, _, said = nbval(root, *map(str, sorted(root.glob("*.ipynb"))))
    assert failed == expected, said
