"""What a lesson builds by hand, taken from its source, so that a test can hold it against facekit."""

from __future__ import annotations

import ast
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from facekit.course import lesson


def of_lesson(number: str, *names: str, **known: Any) -> SimpleNamespace:
    """Functions of a lesson's source, by name; `known` are names of the lesson that they use."""
    tree = ast.parse(lesson(number).source.read_text(encoding="utf-8"))
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    space = {"np": np, "pd": pd, "torch": torch, "F": F, **known}
    exec(compile(ast.Module(found, []), f"lesson {number}", "exec"), space)
    return SimpleNamespace(**{name: space[name] for name in names})
