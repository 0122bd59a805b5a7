"""For `pytest --nbval lessons`: kernels start as for the stored outputs, and what two copies share is run once.

The learner's copy and the solutions begin with the same cells. They are executed once, in the learner's kernel, and
what it says is compared with the stored outputs of both copies. Before the first cell that differs the kernel forks:
the fork holds the same state to the last bit (variables, random numbers, caches of modules), and there the rest of the
solutions is executed, every cell of it. So each copy is compared, cell by cell, with what it gives from a fresh
kernel. Where no fork can be had (macOS, Windows, a graphics card in use, solutions run alone, a cell left out) the
solutions are run from their first cell in a kernel of their own.

A result that a reader should see as a number is a little different on another processor. A cell that says by how much
(`# %% tolerance=0.02` in the source) may give other numbers with a decimal point, within that; all else is compared
to the letter, whole numbers, too.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import re
import signal
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, takewhile
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty
from unittest.mock import patch

import pytest
from jupyter_client.manager import KernelManager
from nbformat import NotebookNode
from nbval.kernel import RunningKernel
from nbval.plugin import IPyNbCell, IPyNbFile

from facekit.course.build import kernel_channels, lesson_environment

CAN_FORK = hasattr(os, "fork") and sys.platform != "darwin"  # Apple's libraries break in a fork
DECIMAL = re.compile(r"-?\d+\.\d+")
WAIT = 60  # seconds for a fork to answer; it has nothing to load


def fork(address: str, folder: str) -> None:
    """Runs inside the learner's kernel: leaves a fork of it that executes cells, in `folder`, for who listens.

    It is sent the source of a cell, and answers with the messages [[type, content], ...] that a kernel would publish.
    """
    import json
    import os
    import random
    import sys
    import threading
    import warnings
    from multiprocessing.connection import Client

    connection = Client(address)
    torch = sys.modules.get("torch")
    if torch is not None and torch.accelerator.is_available():
        connection.send_bytes(b"0")  # gradients cannot be computed in a fork of a process that has such a device
        return
    drawn = random.getstate()  # Python seeds `random` anew in a fork; nobody else does
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a kernel has threads, none of which is needed here
        pid = os.fork()
    if pid:
        connection.close()
        return
    try:
        random.setstate(drawn)
        os.setsid()  # else it ends with the learner's kernel
        os.chdir(folder)
        shell = get_ipython()  # noqa: F821
        messages = []

        def keep(stream, message, content=None, *args, **options):
            """In place of the session's `send`, through which all that a cell says goes."""
            kind = message if isinstance(message, str) else message["header"]["msg_type"]
            if not kind.startswith("comm"):
                messages.append([kind, content if isinstance(message, str) else message["content"]])

        shell.kernel.session.send = keep
        for stream in (sys.stdout, sys.stderr):
            stream._buffer_lock = threading.RLock()  # a thread that is not here may have held it
        connection.send_bytes(str(os.getpid()).encode())
        while True:
            shell.run_cell(connection.recv_bytes().decode(), store_history=False)
            sys.stdout.flush()
            sys.stderr.flush()
            connection.send_bytes(json.dumps(messages).encode())
            messages.clear()
    finally:
        os._exit(0)


class Learners:
    """The kernel of a learner's copy: keeps what it says to the cells of `common` and forks when all have run."""

    def __init__(self, kernel: RunningKernel, common: list[str], folder: Path) -> None:
        self.kernel, self.common, self.folder = kernel, common, folder
        self.sources: list[str] = []
        self.said: list[list[tuple[str, dict]]] = []
        self.fork: tuple[Connection, int] | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.kernel, name)

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        if self.sources == self.common:
            self.fork = self._forked()
        self.sources.append(source)
        self.said.append([])
        self.cell = self.kernel.execute_cell_input(source, allow_stdin=allow_stdin)
        return self.cell

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        message = self.kernel.get_message(stream, timeout=timeout)
        if stream == "iopub" and message["parent_header"].get("msg_id") == self.cell:
            self.said[-1].append((message["msg_type"], message["content"]))
        return message

    def _forked(self) -> tuple[Connection, int] | None:
        with tempfile.TemporaryDirectory(prefix="fork-") as scratch, socket.socket(socket.AF_UNIX) as server:
            address = str(Path(scratch) / "cells")
            server.bind(address)
            server.listen()
            server.settimeout(WAIT)
            code = f"{inspect.getsource(fork)}\nfork({address!r}, {str(self.folder)!r})"
            request = self.kernel.kc.execute(f"exec({code!r}, {{**globals()}})", silent=True, store_history=False)
            connection = Connection(server.accept()[0].detach())
        pid = int(connection.recv_bytes())
        self.kernel.await_reply(request, WAIT)
        return (connection, pid) if pid else None


class Solutions:
    """The kernel of the solutions, as nbval uses one: what the learner's said to the common cells, then its fork."""

    def __init__(self, learners: Learners) -> None:
        assert learners.fork is not None
        self.connection, self.pid = learners.fork
        self.known = deque(learners.said[: len(learners.common)])
        self.messages: deque[dict] = deque()
        self.count, self.waiting = 0, False

    def execute_cell_input(self, source: str, allow_stdin: bool | None = None) -> str:
        self.count += 1
        self.messages.clear()
        self.waiting = not self.known
        if self.waiting:
            self.connection.send_bytes(source.encode())
        else:
            self._take(self.known.popleft())
        return str(self.count)

    def _take(self, messages: Sequence[tuple[str, dict]]) -> None:
        for kind, content in [*messages, ("status", {"execution_state": "idle"})]:
            self.messages.append({"msg_type": kind, "content": content, "parent_header": {"msg_id": str(self.count)}})

    def await_reply(self, cell: str, timeout: float | None = None) -> None:
        if self.waiting:
            if not self.connection.poll(timeout):
                raise Empty
            try:
                self._take(json.loads(self.connection.recv_bytes()))
            except EOFError:
                self.stop()
                raise RuntimeError("The process ended in this cell") from None
            self.waiting = False

    def get_message(self, stream: str, timeout: float | None = None) -> dict:
        if not self.messages:
            raise Empty
        return self.messages.popleft()

    def await_idle(self, cell: str, timeout: float | None = None) -> None:
        self.messages.clear()

    def is_alive(self) -> bool:
        return not self.connection.closed

    def stop(self) -> None:
        self.connection.close()
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    interrupt = stop


def common_cells(one: NotebookNode, other: NotebookNode) -> list[str]:
    """The code cells with which both notebooks begin."""
    sources = ([cell.source for cell in book.cells if cell.cell_type == "code"] for book in (one, other))
    return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(*sources, strict=False))]


def start(notebook: IPyNbFile, learners: IPyNbFile | None, solutions: IPyNbFile | None) -> None:
    """Gives a notebook its kernel, in profile laptop, with an empty cache and fixed threads; in place of `setup`."""
    if learners is not None and getattr(learners.kernel, "fork", None):
        notebook.kernel = Solutions(learners.kernel)
        notebook.setup_sanitize_files()
        return
    scratch = tempfile.TemporaryDirectory(prefix="facekit-lesson-")
    notebook.config.add_cleanup(scratch.cleanup)
    environment, channels = lesson_environment("laptop", Path(scratch.name)), kernel_channels(Path(scratch.name))
    with (
        patch.dict(os.environ, environment, clear=True),
        patch("nbval.kernel.KernelManager", partial(KernelManager, **channels)),
    ):
        IPyNbFile.setup(notebook)
    if solutions is not None and CAN_FORK:
        notebook.kernel = Learners(notebook.kernel, common_cells(notebook.nb, solutions.nb), solutions.path.parent)


def within(new: str, stored: str, tolerance: float) -> bool:
    """Whether two texts differ only in numbers with a decimal point, none by more than the tolerance."""
    pairs = zip(DECIMAL.findall(new), DECIMAL.findall(stored), strict=False)
    same_words = DECIMAL.sub("0.0", new) == DECIMAL.sub("0.0", stored)
    # A little more, since neither number is exactly what its digits say: 0.3 is within 0.1 of 0.2.
    return same_words and all(abs(float(one) - float(other)) <= tolerance * (1 + 1e-9) for one, other in pairs)


def compare(cell: IPyNbCell, new: list[NotebookNode], stored: list[NotebookNode], *skip: object) -> bool:
    """nbval's comparison, in which new texts within a cell's tolerance count as the stored ones."""
    if tolerance := cell.cell.metadata.get("tolerance"):
        new = copy.deepcopy(new)
        for one, other in zip(new, stored, strict=False):
            for mine, theirs in ((one, other), (one.get("data", {}), other.get("data", {}))):
                for kind, text in mine.items():
                    if isinstance(text, str) and within(text, wanted := str(theirs.get(kind, "")), tolerance):
                        mine[kind] = wanted
    return exactly(cell, new, stored, *skip)


exactly = IPyNbCell.compare_outputs
IPyNbCell.compare_outputs = compare


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Leaves stderr out of the comparison: another library version may warn. Stored notebooks have none (tested)."""
    if isinstance(collector, IPyNbFile):
        collector.skip_compare += ("stderr",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the solutions of a lesson behind its learner's copy."""
    notebooks = {item.path: item.parent for item in items if isinstance(item.parent, IPyNbFile)}
    for path, notebook in notebooks.items():
        learners = notebooks.get(path.parents[1] / path.name) if path.parent.name == "solutions" else None
        solutions = notebooks.get(path.parent / "solutions" / path.name)
        notebook.setup = partial(start, notebook, learners, solutions)
    items.sort(key=lambda item: (item.path.stem, len(item.path.parts)) if item.path in notebooks else ("~", 0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Gives both copies of a lesson to one process, where there are several; tests are given file by file."""
    # Marks and `--dist loadgroup` would do, but xdist 3.8 writes them where pytest 9.2 does not look.
    from xdist.scheduler import LoadScopeScheduling

    class Lessons(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return Path(path).name if path.endswith(".ipynb") else path

    return Lessons(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the seconds of each notebook."""
    seconds: Counter[str] = Counter()
    for report in chain.from_iterable(terminalreporter.stats.values()):
        path = getattr(report, "nodeid", "").partition("::")[0]
        if path.endswith(".ipynb"):
            seconds[path] += report.duration
    if seconds:
        terminalreporter.section("seconds of each notebook")
    for path, value in sorted(seconds.items()):
        terminalreporter.write_line(f"{value:6.1f}  {path}")
