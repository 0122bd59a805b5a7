"""`python -m facekit COMMAND …`: every command is a typed function, its options are the function's parameters.

A command is a file in this folder. It holds a function of its own name, or, for a group of commands, `subcommands()`:
name to the function behind it, as module:function. Where it has `prepare`, that rewrites the arguments before they are
parsed. Only what was asked for is imported: lists are made from the files'
text, so that `--help` answers at once and `doctor` still speaks when torch does not.
"""

from __future__ import annotations

import ast
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from inspect import cleandoc, getdoc, signature
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from facekit.errors import ConfigError, FacekitError

HERE = Path(__file__).parent
PROGRAM = "python -m facekit"
LARGEST, LARGEST_SEED = 2**31 - 1, 2**63 - 1
CONFIG_BYTES, CONFIG_DEPTH = 2**20, 20
COMMANDS = tuple(sorted(path.stem for path in HERE.glob("[a-z]*.py") if path.stem != "cli"))


def load(path: str) -> Callable:
    """The function named `module:function`."""
    module, _, function = path.partition(":")
    return getattr(import_module(module), function)


def subcommands(command: str) -> dict[str, str]:
    """Name to `module:function` of the commands of a group; a single command is the only one, without a name."""
    module = f"facekit.commands.{command}"
    if "subcommands" not in _functions(module):
        return {"": f"{module}:{command}"}
    return load(f"{module}:subcommands")()


def summary(path: str) -> str:
    """The first line of the docstring of `module:function`, read from the file's text."""
    module, _, function = path.partition(":")
    return cleandoc(ast.get_docstring(_functions(module)[function]) or "").partition("\n")[0]


def _functions(module: str) -> dict[str, ast.FunctionDef]:
    """The functions of a module, by name, without importing it."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def overview(command: str | None = None) -> str:
    """All commands, or those of one group, with a line about each."""
    if command is None:
        about = {name: _about(name) for name in COMMANDS}
        usage = f"usage: {PROGRAM} COMMAND [options]\n\nTransfer learning on faces.\n"
    else:
        about = {name: summary(path) for name, path in subcommands(command).items()}
        usage = f"usage: {PROGRAM} {command} COMMAND [options]\n\n{_about(command)}\n"
    width = max(map(len, about))
    lines = [f"  {name:<{width}}  {text}" for name, text in about.items()]
    more = f"{PROGRAM} {f'{command} ' if command else ''}COMMAND --help says more of one."
    return "\n".join([usage, "commands:", *lines, "", more])


def _about(command: str) -> str:
    """What a command's file says of it in its first line, without the command itself."""
    tree = ast.parse((HERE / f"{command}.py").read_text(encoding="utf-8"))
    return re.sub(r"^`[^`]*`: (\w)", lambda match: match[1].upper(), (ast.get_docstring(tree) or "").partition("\n")[0])


def run(function: Callable, arguments: Sequence[str], program: str) -> object:
    """Parses the arguments by the function's parameters and calls it; its docstring is the help, its examples too.

    Raises ConfigError for a configuration file that cannot be read and for values that no function could use.
    """
    words = iter(arguments)
    for word in words:
        option, _, file = word.partition("=")
        if len(option) > 4 and "--config".startswith(option):  # options may be shortened
            check_config(file or next(words, ""))

    @wraps(function)
    def called(**values: object) -> object:
        for name, value in values.items():
            usual = signature(function).parameters[name].default
            if value is None and usual is not None:
                raise ConfigError(f"{name} has no value; give it one or leave it out.")
            if value != usual:
                check_value(name, value)
        return function(**values)

    from jsonargparse import DefaultHelpFormatter, auto_cli
    from jsonargparse.typing import register_type

    from facekit.files import pasted_path

    register_type(Path, deserializer=pasted_path, fail_already_registered=False)

    class Formatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text  # lines and paragraphs as they stand in the docstring

    description, _, examples = (getdoc(function) or "").partition("\nExamples:\n")
    return auto_cli(
        called,
        args=list(map(_as_unicode, arguments)),
        prog=program,
        description=re.split(r"\n(?:Args|Returns|Raises):\n", description)[0].strip(),
        epilog=f"examples:\n{examples.rstrip()}" if examples else None,
        formatter_class=Formatter,
    )


def check_value(name: str, value: object) -> None:
    """Raises ConfigError for an empty text, a number that is not finite or absurdly large, and a negative seed."""
    if isinstance(value, Mapping | list | tuple):
        for each in value.values() if isinstance(value, Mapping) else value:
            check_value(name, each)
    elif value == "":
        raise ConfigError(f"{name} is empty; give it a value or leave it out.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} must be a finite number, got {value}.")
    elif isinstance(value, int):
        low, high = (0, LARGEST_SEED) if name in ("seed", "seeds") else (-LARGEST, LARGEST)
        if not low <= value <= high:
            raise ConfigError(f"{name} must be a number from {low} to {high}, got {value}.")


def check_config(name: str) -> None:
    """Raises ConfigError, with the line, unless the file is a YAML mapping of options to plain values, each once."""
    import yaml  # type: ignore[import-untyped]  # comes with jsonargparse

    remedy = "a configuration file is YAML in UTF-8, a line `option: value` for each option"
    try:
        with open(name, "rb") as file:
            content = file.read(CONFIG_BYTES + 1)
        text, depth = content.decode("utf-8-sig"), 0
        if len(content) > CONFIG_BYTES:
            raise ConfigError(f"{name} has more than {CONFIG_BYTES:,} bytes; {remedy}.")
        for event in yaml.parse(text):  # before anything is built of it
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            odd = {"an alias (*)": isinstance(event, yaml.AliasEvent), "a tag (!)": getattr(event, "tag", None)}
            odd["too many levels"] = depth > CONFIG_DEPTH
            if wrong := [what for what, found in odd.items() if found]:
                raise ConfigError(f"{name}, line {event.start_mark.line + 1}: {wrong[0]}; {remedy}.")
        root = yaml.compose(text)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {name!r}: {error.strerror or error}; {remedy}.") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{name}, line {line}: byte 0x{content[error.start]:02x} is not UTF-8; {remedy}.") from None
    except ValueError as error:
        raise ConfigError(f"cannot read the configuration {name!r}: {error}; {remedy}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {' '.join(str(error).split())}; {remedy}.") from None
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name} holds no options; {remedy}.")
    names = [key.value for key, _ in root.value if isinstance(key, yaml.ScalarNode)]
    for key, value in root.value:
        if isinstance(value, yaml.ScalarNode) and value.value == "" and value.style is None:
            where = key.start_mark.line + 1
            raise ConfigError(f"{name}, line {where}: {key.value} has no value; give it one or leave it out.")
    if twice := [key for key in names if names.count(key) > 1]:
        raise ConfigError(f"{name} says {twice[0]} twice; {remedy}.")


def _as_unicode(argument: str) -> str:
    """An argument; a path whose name is not UTF-8, at which the parser stops, as `file://…`, which it takes."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        option, equals, path = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
        return option + equals + Path(path).absolute().as_uri()
    return argument


def end(status: int) -> NoReturn:
    """Ends this program with an exit status.

    torch keeps a group of processes that DistributedDataParallel has used, and the group's threads, also when it was
    destroyed. A thread that lets go of a tensor while the interpreter shuts down aborts the process, and torchrun then
    calls a failure what was done. So a process that torchrun started is not shut down: what it has said is written out,
    and it ends.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 done, 1 the command says so, 2 bad input."""
    from facekit.files import told

    if isinstance(sys.stdout, TextIOWrapper):  # a name that the terminal cannot show must not end what was done
        sys.stdout.reconfigure(errors="backslashreplace")
    command, *rest = (sys.argv[1:] if arguments is None else arguments) or [""]
    try:
        if command in ("-h", "--help"):
            print(overview())
            return 0
        if command not in COMMANDS:
            return _unknown(command, COMMANDS)
        program, path = f"{PROGRAM} {command}", subcommands(command)
        if "" not in path:
            name, *rest = rest or [""]
            if name in ("-h", "--help"):
                print(overview(command))
                return 0
            if name not in path:
                return _unknown(name, path, command)
            program, path = f"{program} {name}", {"": path[name]}
        if "prepare" in _functions(f"facekit.commands.{command}"):
            rest = load(f"facekit.commands.{command}:prepare")(rest)
        result = run(load(path[""]), rest, program)
    except FacekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        print(f"error: this needs more memory than there is ({error}); take less at once.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {told(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; whatever can be resumed goes on when the same command is given again.", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _unknown(name: str, known: Sequence[str] | dict[str, str], group: str = "") -> int:
    """Says on stderr which commands there are; returns 2."""
    said = f"there is no command {f'{group} {name}'.strip()!r}" if name else "name a command"
    print(f"error: {said}; use one of {', '.join(known)}. {PROGRAM} --help says what each does.", file=sys.stderr)
    return 2
