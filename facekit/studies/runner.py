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
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, partial, wraps
from importlib.metadata import version
from inspect import getdoc, signature
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
from torch import nn

from facekit import records, settings
from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError, DataError
from facekit.files import alone, read_json, told, write_json
from facekit.models.embedding import state_hash

FORMAT = 2  # raise it when blocks of before cannot be read any more
NOT_COUNTED = (__name__, "facekit.data.catalogue")  # this module, and where photos come from: their content counts


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a record, which is measured at once and kept.

    A block among the arguments, or in their lists and mappings, stands for its rows, which are measured first.
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


def blocks_of(measure: Callable[..., pd.DataFrame], given: tuple, *varied: Iterable, **columns: object) -> list[Block]:
    """A block for every combination of the values in `varied`, of which the last changes first.

    measure: called with the arguments `given` and one value of each of `varied`; their names make the block's title.
    """
    return [
        Block("-".join(str(getattr(value, "name", value)) for value in values), measure, (*given, *values), columns)
        for values in product(*varied)
    ]


class BlockCache:
    """The kept blocks of one record, in the cache's folder `recording`. took: seconds of each that was asked for."""

    def __init__(self, name: str) -> None:
        self.folder = settings.cache_dir() / "recording" / name
        self.took: dict[Path, float] = {}

    def rows(self, block: Block) -> pd.DataFrame:
        """The rows of a block: from its file, else (or where that is damaged or changed) measured now and kept."""
        about = [FORMAT, str(settings.device()), *map(version, records.VERSIONS_OF)]
        key = fingerprint([*about, source_hash(block.measure.__module__), block.measure, block.arguments])
        path = self.folder / f"{block.title}-{key[:16]}.json"
        arguments = [self._measured(value) for value in block.arguments]
        lock = path.with_suffix(".lock")
        if lock.exists() or _kept(path) is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                with alone(lock, wait=True):
                    if _kept(path) is None:
                        start = time.perf_counter()
                        rows = block.measure(*arguments)
                        seconds = time.perf_counter() - start
                        text = rows.to_json(orient="table", index=False, double_precision=15)
                        kept = {"seconds": seconds, "rows": text}
                        write_json(path, {**kept, "sha256": fingerprint(kept)})
                    with suppress(OSError):  # an open file stays on some systems
                        lock.unlink()
            except OSError as error:
                raise ConfigError(
                    f"a measured block cannot be kept: {told(error, path)}. Make room there, or set FACEKIT_CACHE to a "
                    "folder that you may write to."
                ) from None
        content = _kept(path)
        assert content is not None, "it was just written"
        self.took[path] = content["seconds"]
        table = pd.read_json(io.StringIO(content["rows"]), orient="table", precise_float=True)
        return table.assign(**block.columns)

    def _measured(self, value: object) -> object:
        """An argument with the rows of blocks in their place."""
        match value:
            case Block():
                return self.rows(value)
            case list() | tuple():
                return [self._measured(each) for each in value]
            case dict():
                return {name: self._measured(each) for name, each in value.items()}
        return value


def _kept(path: Path) -> dict | None:
    """Seconds and rows of a kept block as they were written; None where there are none."""
    try:
        kept = read_json(path, DataError, "", {"seconds": float, "rows": str, "sha256": str})
    except (FileNotFoundError, DataError):
        return None
    return kept if kept.pop("sha256") == fingerprint(kept) else None


def fingerprint(value: object) -> str:
    """Hex SHA-256 of what an argument of a measurement holds, the same in every process.

    Of sets inputs and labels count, of networks their structure and state, of functions and classes their names (their
    code is that of `source_hash`); dataclasses are taken apart, and a tuple is a list. Raises ConfigError for all else.
    """
    return hashlib.sha256(json.dumps(value, default=_content).encode()).hexdigest()


def _content(value: object) -> list:
    """What tells a value that JSON does not know from others."""
    kind = type(value).__qualname__
    match value:
        case LabelledSet():
            return [kind, value.content_hash(), value.labels]
        case nn.Module():
            return [kind, repr(value), state_hash(value)]
        case np.ndarray() | np.generic():
            return [kind, str(value.dtype), value.shape, hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()]
        case pd.DataFrame():
            return [kind, value.to_json(orient="split", double_precision=15)]
        case _ if is_dataclass(value) and not isinstance(value, type):
            return [kind, {each.name: getattr(value, each.name) for each in fields(value)}]
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '<nameless>')}"
    if "<" in name:
        raise ConfigError(f"a kept block cannot be told by {value!r}; give it what has a name or a content.")
    return [name]


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
    return fingerprint(sorted(found.items()))


class _WithoutWords(ast.NodeTransformer):
    """Takes docstrings, and functions that are marked `@study`, out of a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        marks = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
        return None if "study" in marks else self.generic_visit(node)


def _code(path: Path) -> ast.Module:
    """A file's syntax tree without words, and without imports of names that only a study's words used."""
    tree = _WithoutWords().visit(ast.parse(path.read_text(encoding="utf-8")))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and path.name != "__init__.py":  # which imports for others
            node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
    return tree


def study(
    function: Callable | None = None, *, command: str = "", photos: bool = True, then: Callable[[], int] | None = None
) -> Callable:
    """Makes a command of a function that describes one record or several: called, it measures and writes them.

    Where its docstring has no example it gets one. command: its words on the command line, by default `record` and the
    module's name. photos: of people, so that profile full is needed. then: called when all is written.
    """
    if function is None:
        return partial(study, command=command, photos=photos, then=then)
    words = command or f"record {function.__module__.rpartition('.')[2]}"

    @wraps(function)
    def run(*args: object, **kwargs: object) -> int:
        if photos:
            needs_photos()
        described = function(*args, **kwargs)
        line = command_line(words, function, *args, **kwargs)
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

    place = "FACEKIT_PROFILE=full FACEKIT_DATA=~/photos " if photos else ""
    text = getdoc(function) or ""
    run.__doc__ = text + ("" if "\nExamples:\n" in text else f"\n\nExamples:\n    {place}python -m facekit {words}")
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
    found = rows.groupby(by, sort=False, dropna=False)["value"].agg(mean="mean", spread="std", seeds="count")
    print(found.reset_index().to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return 0
