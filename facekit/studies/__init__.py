"""What was measured on real photos, one file a study: `python -m facekit record NAME` records the study NAME.py.

A study is a file of this folder with a function `record` (see `facekit.studies.runner`); its card or datasheet, where
it has one, is a template of the same name beside it.
"""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parent


def commands() -> dict[str, str]:
    """Name of each study to the function that records it, as `module:function`; none of them is imported."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.py"))}
    return {
        name: f"{__name__}.{name}:record"
        for name, text in texts.items()
        if re.search(r"^def record\(", text, re.MULTILINE)
    }
