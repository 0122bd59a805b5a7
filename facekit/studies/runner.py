"""Runs a study: checks the profile, measures block by block, writes the record and says so.

A study is a function that says what is to be measured and measures nothing itself:

    @study
    def record(seeds: tuple[int, ...] = (0, 1, 2)) -> Study:
        \"""Records `name_of_the_record`: …

        Args:
            seeds: …
        \"""
        train, test = …
        blocks = [Block(f"{seed}", measure, (train, test, seed)) for seed in seeds]
        return Study("name_of_the_record", what="…", data="…", blocks=blocks)

Its parameters are the options of its command. `datasets/reference/NAME.json` is written once all blocks are measured;
until then each is a file in the cache, so that a stopped command goes on where it was, and several processes with
different seeds can share the work (the last call, with all of them, writes the record).

A block is measured again when what it depends on has changed: an argument (of sets and networks the content counts),
the device, the versions of torch, NumPy and scikit-learn, or code of the package that the study's module imports.
Neither comments and docstrings count, nor `NOT_COUNTED`, nor functions marked `@study`, which only describe.
"""

from __future__ import annotations

import ast
import hashlib
import io
import json
import string
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from dataclasses import field as dataclass_field
from functools import cache, wraps
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import ParamSpec

import numpy as np
import pandas as pd
from torch import nn

from facekit import settings
from facekit.data.sets import LabelledSet
from facekit.errors import ConfigError
from facekit.files import atomic_path, write_json
from facekit.models.embedding import state_hash
from facekit.records import record as write_record
from facekit.records import recorded

FORMAT = 1  # raise it when blocks of before cannot be read any more
NOT_COUNTED = (__name__, "facekit.data.catalogue")  # this module, and where photos come from: their content counts
MEASURED_WITH = ("torch", "numpy", "scikit-learn")
Options = ParamSpec("Options")


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a record, which is measured at once and kept.

    title: its name among the blocks of the record, also of its file. measure: a function of a module, from `arguments`
    to rows (one measurement a row). columns: constants that its rows get besides; they do not count for what is kept.
    """

    title: str
    measure: Callable[..., pd.DataFrame]
    arguments: tuple = ()
    columns: dict[str, object] = dataclass_field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Study:
    """A record that is to be made: its name, what it says of itself (see `records.record`) and its blocks in order."""

    name: str
    what: str
    data: str
    blocks: Sequence[Block]


class BlockCache:
    """The kept blocks of one record, in the cache's folder `recording`. seconds: what all that were asked for took."""

    def __init__(self, name: str) -> None:
        self.folder = settings.cache_dir() / "recording" / name
        self._seconds: dict[Path, float] = {}
        self._fingerprints: dict[int, str] = {}

    @property
    def seconds(self) -> float:
        """Seconds that the blocks took when they were measured, each once."""
        return sum(self._seconds.values())

    def rows(self, block: Block) -> pd.DataFrame:
        """The rows of a block: from its file, else measured now and kept."""
        path = self.folder / f"{block.title}-{self._key(block)}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            start = time.perf_counter()
            rows = block.measure(*block.arguments)
            content = {
                "seconds": time.perf_counter() - start,
                "rows": rows.to_json(orient="table", index=False, double_precision=15),
            }
            write_json(path, content)
        self._seconds[path] = content["seconds"]
        table = pd.read_json(io.StringIO(content["rows"]), orient="table", precise_float=True)
        return table.assign(**block.columns)

    def _key(self, block: Block) -> str:
        """Of all that a block's rows depend on (see at the top of the module)."""
        about = [FORMAT, fingerprint(block.measure), source_hash(block.measure.__module__), str(settings.device())]
        about += [version(package) for package in MEASURED_WITH]
        for argument in block.arguments:
            if id(argument) not in self._fingerprints:  # the block keeps the argument, so that no other has its id
                self._fingerprints[id(argument)] = fingerprint(argument)
            about.append(self._fingerprints[id(argument)])
        return _digest(*about)[:16]


def fingerprint(value: object) -> str:
    """Hex SHA-256 of what an argument of a measurement holds, the same in every process.

    Of sets inputs and labels count, of networks their structure and state, of functions and classes their names (their
    code is that of `source_hash`); collections, arrays, tables and other objects are taken apart. Raises ConfigError
    for a function without a name of its own in a module.
    """
    kind = type(value)
    match value:
        case None | bool() | int() | float() | complex() | str() | bytes():
            return _digest(kind.__name__, repr(value))
        case list() | tuple():
            return _digest(kind.__name__, *map(fingerprint, value))
        case dict():
            return _digest("dict", *(fingerprint(item) for pair in value.items() for item in pair))
        case set() | frozenset():
            return _digest("set", *sorted(map(fingerprint, value)))
        case LabelledSet():
            return _digest(kind.__name__, value.content_hash(), fingerprint(value.labels))
        case nn.Module():
            return _digest(kind.__qualname__, repr(value), state_hash(value))
        case np.ndarray() | np.generic():
            array = np.ascontiguousarray(value)
            return _digest("array", array.dtype, array.shape, hashlib.sha256(array.tobytes()).hexdigest())
        case pd.DataFrame() | pd.Series():
            return _digest("table", value.to_json(orient="split", double_precision=15))
    if callable(value) and hasattr(value, "__qualname__"):
        if "<" in value.__qualname__:
            raise ConfigError(f"{value.__module__}.{value.__qualname__} has no name that a kept block could go by.")
        return _digest("name", value.__module__, value.__qualname__)
    parts = {each.name: getattr(value, each.name) for each in fields(value)} if is_dataclass(value) else vars(value)
    return _digest(kind.__qualname__, fingerprint(parts))


def _digest(*parts: object) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()


@cache
def source_hash(module: str) -> str:
    """Hex SHA-256 of the code of a module and of all modules of its package that it imports, one through another."""
    package = module.partition(".")[0]
    root = Path(str(sys.modules[package].__file__)).parents[1]
    found, waiting = {}, [module]
    while waiting:
        name = waiting.pop()
        place = root.joinpath(*name.split("."))
        path = next((each for each in (place / "__init__.py", place.with_suffix(".py")) if each.is_file()), None)
        if path is not None and name not in {*found, *NOT_COUNTED}:
            tree = _code(path)
            found[name] = ast.dump(tree)
            waiting += [name.rpartition(".")[0], *_imports(tree)]
    return _digest(*(f"{name} {found[name]}" for name in sorted(found)))


def _code(path: Path) -> ast.Module:
    """A file's syntax tree without docstrings, functions that are marked `@study` and imports for these alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            del node.body[0]
    measuring = [node for node in tree.body if not any(map(_is_study, getattr(node, "decorator_list", ())))]
    if len(measuring) < len(tree.body):
        tree.body = measuring
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                node.names = [alias for alias in node.names if (alias.asname or alias.name) in used]
    return tree


def _is_study(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(target, ast.Name) and target.id == "study"


def _imports(tree: ast.Module) -> Iterable[str]:
    """Names that may be modules which a file imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.names:
            yield from [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]


def study(
    function: Callable[Options, Study | Sequence[Study]] | None = None,
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
        return lambda function: study(function, command=command, photos=photos, then=then)

    @wraps(function)
    def run(*args: Options.args, **kwargs: Options.kwargs) -> int:
        if photos and settings.profile() != "full":
            raise ConfigError(
                "results are recorded on real photos: set FACEKIT_PROFILE=full, and FACEKIT_DATA to the folder with "
                "the photos and FaceNet's weights."
            )
        described = function(*args, **kwargs)
        line = command_line(command or f"record {function.__module__.rpartition('.')[2]}", function, *args, **kwargs)
        for each in [described] if isinstance(described, Study) else described:
            blocks = BlockCache(each.name)
            bar = settings.progress(each.blocks, desc=each.name, unit="block")
            rows = pd.concat([blocks.rows(block) for block in bar], ignore_index=True)
            seconds = blocks.seconds
            path = write_record(each.name, rows, what=each.what, data=each.data, command=line, seconds=seconds)
            print(f"wrote {path}: {len(rows):,} rows, {seconds:.0f} s")
        if then:
            then()
        return 0

    return run


def command_line(command: str, function: Callable, *args: object, **kwargs: object) -> str:
    """The command that calls a function with these arguments, to be typed in a shell.

    Options at their defaults are left out, but for the seeds; so are paths, which say nothing on another machine.
    """
    parameters = signature(function).parameters
    given = signature(function).bind(*args, **kwargs).arguments
    parts = ["python -m facekit", command]
    for name, parameter in parameters.items():
        value = given.get(name, parameter.default)
        value = list(value) if isinstance(value, tuple) else value
        usual = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        if isinstance(value, Path) or (value == usual and name != "seeds"):
            continue
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        parts.append(f"--{name} {text!r}" if '"' in text else f"--{name} {text}")
    return " ".join(parts)


def fill(template: Path, **parts: object) -> str:
    """The text of a template (Markdown) with its fields filled in, as `str.format` does.

    Raises ConfigError where a field has no part, or a part no field.
    """
    text = template.read_text(encoding="utf-8")
    named = {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}
    wanted = {name.partition("[")[0] for name in named}
    if wanted != set(parts):
        missing, unused = sorted(wanted - set(parts)), sorted(set(parts) - wanted)
        raise ConfigError(f"{template.name}: nothing is given for {missing}, and {unused} has no place in it.")
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
    """
    result = recorded(name)
    print(result.caption())
    for key in ("command", "seeds", "versions", "git_commit", "seconds"):
        print(f"{key}: {result.about[key]}")
    rows = result.rows
    by = [column for column in rows if column in ("n", "lr") or not pd.api.types.is_numeric_dtype(rows[column])]
    found = rows.groupby(by, sort=False)["value"].agg(mean="mean", spread="std", seeds="count")
    print(found.reset_index().to_string(index=False, float_format="{:.4g}".format, na_rep="-"))
    return 0
