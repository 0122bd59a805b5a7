"""Several cores on one series: helper processes paint beside this one.

Painting is many small array operations, during which Python's interpreter lock is held, so threads gain nothing.
Helpers are fresh interpreters that are talked to through pipes. Nothing is forked (this process may have threads or a
GPU) and no script is run a second time (as `multiprocessing` does with `__main__`), so they work in notebooks and on
every system. Whatever a helper does not deliver is painted here.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from threading import Thread

from facekit.data.portraits.canvas import Pixels
from facekit.data.portraits.picture import Series

# Pictures at a time.
CHUNK = 16
# Pixels from which on a helper is worth its start (about half a second).
WORTHWHILE = 150 * 160 * 160
_HELPER = "from facekit.data.portraits.workers import help_out; help_out()"

Picture = tuple[Pixels, dict]


def paint(series: Series, numbers: Sequence[int], done: Callable[[int, Picture], None], workers: int) -> None:
    """Calls `done(position, picture)` for every one of `numbers`, in any order, from this and other threads.

    workers: processes, this one included.
    """
    waiting = deque(range(0, len(numbers), CHUNK))
    helpers = [_Helper(series, numbers, waiting, done) for _ in range(min(workers, len(waiting)) - 1)]
    try:
        for helper in helpers:
            helper.start()
        _paint_here(series, numbers, waiting, done)
    finally:
        for helper in helpers:
            helper.finish()
    _paint_here(series, numbers, waiting, done)  # what a helper has begun and not delivered


def _take(waiting: deque[int]) -> int | None:
    """The next chunk, or None; another thread may be faster at any time."""
    try:
        return waiting.popleft()
    except IndexError:
        return None


def _paint_here(series: Series, numbers: Sequence[int], waiting: deque[int], done: Callable) -> None:
    while (start := _take(waiting)) is not None:
        for position in range(start, min(start + CHUNK, len(numbers))):
            done(position, series.render(numbers[position]))


class _Helper(Thread):
    """A helper process and the thread that feeds it."""

    def __init__(self, series: Series, numbers: Sequence[int], waiting: deque[int], done: Callable):
        super().__init__(name="portraits", daemon=True)
        self.series, self.numbers, self.waiting, self.done = series, numbers, waiting, done
        self.busy = False
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts process and thread; without a process (no interpreter, no memory) there is nothing to do."""
        path = os.pathsep.join(folder for folder in sys.path if folder)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _HELPER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError:
            return
        super().start()

    def run(self) -> None:
        """Hands out chunks until none is left, or the helper is gone."""
        start = None
        process = self.process
        assert process and process.stdin and process.stdout, "the thread starts after its process"
        try:
            pickle.dump(self.series, process.stdin)
            process.stdin.flush()
            pickle.load(process.stdout)  # it is ready; until then the chunks are better done elsewhere
            self.busy = True
            while (start := _take(self.waiting)) is not None:
                chunk = self.numbers[start : start + CHUNK]
                pickle.dump(list(chunk), process.stdin)
                process.stdin.flush()
                for position, picture in enumerate(pickle.load(process.stdout), start):
                    self.done(position, picture)
        except (OSError, EOFError, pickle.UnpicklingError):
            if start is not None:
                self.waiting.append(start)

    def finish(self) -> None:
        """Waits for the chunk in hand, if there is one, and ends the process."""
        if self.process is None:
            return
        if not self.busy or sys.exc_info()[0] is not None:
            self.process.kill()
        self.join()
        self.process.kill()
        self.process.communicate()


def help_out() -> None:
    """The helper: reads a series and lists of numbers from its input, writes the pictures to its output."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing else may get between the pictures
    series = pickle.load(source)
    reply: object = "ready"
    try:
        while True:
            pickle.dump(reply, sink)
            sink.flush()
            reply = [series.render(number) for number in pickle.load(source)]
    except (EOFError, OSError):
        return
