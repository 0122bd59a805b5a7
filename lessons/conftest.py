"""For `pytest --nbval lessons`: every kernel starts in the environment in which the stored outputs were made."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from facekit.course.build import environment, lesson_environment


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Leaves stderr out of the comparison: another library version may warn. Stored notebooks have none (tested)."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr",)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> object:
    """Profile laptop, an empty cache, fixed threads: nbval starts a notebook's kernel within its first set-up."""
    if getattr(item.parent, "kernel", None) is not None:
        return (yield)
    scratch = tempfile.TemporaryDirectory(prefix="facekit-lesson-")
    item.session.config.add_cleanup(scratch.cleanup)
    with environment(lesson_environment("laptop", Path(scratch.name))):
        return (yield)
