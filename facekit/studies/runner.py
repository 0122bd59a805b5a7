"""Runs a study: checks the profile, measures block by block, writes the record and says so.

A study is a file with a function `record` marked `@study`, which measures nothing itself: it returns a `Study` (or
several), and its parameters are the options of its command; probe.py is a short one. `datasets/reference/NAME.json` is
written once all blocks are measured. Until then each is a file in the cache, so that a stopped command goes on where
it was, and several processes with different seeds share the work: the last call, with all of them, writes the record.

A block is measured again when what it depends on has changed: an argument (of sets and networks the content counts),
the device, the versions that a record names, or code of the package that the module of its function imports. Neither
comments and docstrings count, nor `NOT_COUNTED`, nor functions marked `@study`.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import string
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial, wraps
from importlib.metadata import version
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from facekit import records, settings
from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError
from facekit.files import atomic_path, write_json
from facekit.models.embedding import state_hash

FORMAT = 1  # raise it when blocks of before cannot be read any more
NOT_COUNTED = (__name__, "facekit.data.catalogue")  # this module, and where photos come from: their content counts


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a record, which is measured at once and kept.

    title: its name among the blocks of the record, also of its file. measure: a function of a module, from `arguments`
    to rows (one measurement a row). columns: constants that its rows get besides; they do not count for what is kept.
    """

    title: str
    measure: Callable[..., pd.DataFrame]
    arguments: tuple = ()
    columns: dict = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Study:
    """A record that is to be made: its name, what it says of itself (see `records.record`) and its blocks in order."""

    name: str
    what: str
    data: str
    blocks: Sequence[Block]


class BlockCache:
    """The kept blocks of one record, in the cache's folder `recording`. took: seconds of each that was asked for."""

    def __init__(self, name: str) -> None:
        self.folder = settings.cache_dir() / "recording" / name
        self.took: dict[Path, float] = {}
        self._fingerprints: dict[int, str] = {}

    def rows(self, block: Block) -> pd.DataFrame:
        """The rows of a block: from its file, else measured now and kept."""
        path = self.folder / f"{block.title}-{self._key(block)}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            start = time.perf_counter()
            rows = block.measure(*block.arguments)
            seconds = time.perf_counter() - start
            content = {"seconds": seconds, "rows": rows.to_json(orient="table", index=False, double_precision=15)}
            write_json(path, content)
        self.took[path] = content["seconds"]
        table = pd.read_json(io.StringIO(content["rows"]), orient="table", precise_float=True)
        return table.assign(**block.columns)

    def _key(self, block: Block) -> str:
        """Of all that a block's rows depend on (see at the top of the module)."""
        about = [FORMAT, settings.device(), *map(version, records.VERSIONS_OF)]
        about += [source_hash(block.measure.__module__), fingerprint(block.measure)]
        for argument in block.arguments:
            if id(argument) not in self._fingerprints:  # the block keeps the argument, so that no other has its id
                self._fingerprints[id(argument)] = fingerprint(argument)
            about.append(self._fingerprints[id(argument)])
        return _digest(*about)[:16]


def fingerprint(value: object) -> str:
    """Hex SHA-256 of what an argument of a measurement holds, the same in every process.

    Of sets inputs and labels count, of networks their structure and state, of functions and classes their names (their
    code is that of `source_hash`); collections and dataclasses are taken apart. Raises ConfigError for all else.
    """
    kind, parts = type(value).__qualname__, []
    match value:
        case None | bool() | int() | float() | str():
            return _digest(kind, repr(value))
        case list() | tuple():
            parts = list(value)
        case dict():
            parts = [part for item in value.items() for part in item]
        case LabelledSet():
            parts = [value.content_hash(), value.labels]
        case nn.Module():
            parts = [repr(value), state_hash(value)]
        case np.ndarray() | np.generic():
            parts = [str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
        case pd.DataFrame():
            parts = [value.to_json(orient="split", double_precision=15)]
        case _ if is_dataclass(value) and not isinstance(value, type):
            parts = [part for each in fields(value) for part in (each.name, getattr(value, each.name))]
        case _:
            kind = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '<nameless>')}"
            if "<" in kind:
                raise ConfigError(f"a kept block cannot be told by {value!r}; give it what has a name or a content.")
    return _digest(kind, *map(fingerprint, parts))


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


@cache
def source_hash(module: str) -> str:
    """Hex SHA-256 of the code of a module and of all modules of its package that it imports, one through another."""
    root = Path(str(sys.modules[module.partition(".")[0]].__file__)).parents[1]
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        place = root.joinpath(*name.split("."))
        path = next((each for each in (place / "__init__.py", place.with_suffix(".py")) if each.is_file()), None)
        if path is None or name in found or name in NOT_COUNTED:
            continue
        tree = _code(path)
        found[name] = ast.dump(tree)
        waiting.append(name.rpartition(".")[0])  # the package that it lies in is imported before it
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and node.names:
                parent = [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                waiting += parent + [".".join([*parent, alias.name]) for alias in node.names]
    return _digest(*(f"{name} {found[name]}" for name in sorted(found)))


def _code(path: Path) -> ast.Module:
    """A file's syntax tree without docstrings, functions that are marked `@study` and imports for these alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    marked = [
        node for node in tree.body if isinstance(node, ast.FunctionDef) and any(map(_is_study, node.decorator_list))
    ]
    if marked:
        tree.body = [node for node in tree.body if node not in marked]
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
    return tree


def _is_study(decorator: ast.expr) -> bool:
    return ast.unparse(decorator).partition("(")[0] == "study"


def study(
    function: Callable | None = None,
    *,
    command: str = "",
    photos: bool = True,
    then: Callable[[], object] | None = None,
) -> Callable:
    """Makes a command of a function that describes one record or several: called, it measures and writes them.

    command: its words on the command line, by default `record` and the module's name. photos: of people, so that
    profile full is needed. then: called when all is written.
    """
    if function is None:
        return partial(study, command=command, photos=photos, then=then)

    @wraps(function)
    def run(*args: object, **kwargs: object) -> int:
        if photos:
            needs_photos()
        described = function(*args, **kwargs)
        line = command_line(command or f"record {function.__module__.rpartition('.')[2]}", function, *args, **kwargs)
        for each in [described] if isinstance(described, Study) else described:
            kept = BlockCache(each.name)
            blocks = settings.progress(each.blocks, desc=each.name, unit="block")
            rows = pd.concat([kept.rows(block) for block in blocks], ignore_index=True)
            took = sum(kept.took.values())
            path = records.record(each.name, rows, what=each.what, data=each.data, command=line, seconds=took)
            print(f"wrote {path}: {len(rows):,} rows, {took:.0f} s")
        if then:
            then()
        return 0

    return run


def needs_photos() -> None:
    """Raises ConfigError in profile laptop."""
    if settings.profile() != "full":
        raise ConfigError(
            "this is measured on real photos: set FACEKIT_PROFILE=full, and FACEKIT_DATA to the folder with the photos "
            "and FaceNet's weights."
        )


def command_line(command: str, function: Callable, *args: object, **kwargs: object) -> str:
    """The command that calls a function with these arguments, to be typed in a shell.

    Options at their defaults are left out, but for the seeds; so are paths, which say nothing on another machine.
    """
    call = signature(function).bind(*args, **kwargs)
    call.apply_defaults()
    line = f"python -m facekit {command}"
    for name, value in call.arguments.items():
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
        usual = json.dumps(signature(function).parameters[name].default, separators=(",", ":"), default=str)
        if not isinstance(value, Path) and (name == "seeds" or text != usual):
            line += f" --{name} {text!r}" if '"' in text else f" --{name} {text}"
    return line


def fill(template: Path, **parts: object) -> str:
    """The text of a template (Markdown) with its fields filled in, as `str.format` does.

    Raises ConfigError where a field has no part, or a part no field.
    """
    text = template.read_text(encoding="utf-8")
    wanted = {name.partition("[")[0] for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    if wrong := sorted(wanted ^ set(parts)):
        raise ConfigError(
            f"{template.name}: either no part is given for {', '.join(wrong)}, or it has no field for it."
        )
    return text.format(**parts)


def write_text(path: Path, text: str) -> int:
    """Writes a card or datasheet and says so; returns 0."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
    return 0


def show(name: str) -> int:
    """Prints a recorded result: what it is, where it comes from, and means and spreads over its seeds.

    Args:
        name: Of the record, as in datasets/reference.

    Examples:
        python -m facekit record show sharing_fairface
    """
    result = records.recorded(name)
    print(result.caption())
    for key in ("command", "seeds", "versions", "git_commit", "seconds"):
        print(f"{key}: {result.about[key]}")
    rows = result.rows
    by = [column for column in rows if column in ("n", "lr") or not pd.api.types.is_numeric_dtype(rows[column])]
    found = rows.groupby(by, sort=False)["value"].agg(mean="mean", spread="std", seeds="count")
    print(found.reset_index().to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return 0
