"""The command line: every command exists and says its examples, `--help` loads nothing, bad input is one line."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib import import_module
from inspect import getdoc

import pytest
from jsonargparse import capture_parser

from facekit.commands.cli import COMMANDS, load, main, run, subcommands
from facekit.errors import DataError

PATHS = [(command, name, path) for command in COMMANDS for name, path in subcommands(command).items()]


@pytest.mark.parametrize(("command", "name", "path"), PATHS)
def test_every_command_is_a_documented_function_with_examples_that_its_parser_takes(command, name, path):
    function, begin = load(path), shlex.split(f"-m facekit {command} {name}")
    prepare = getattr(import_module(f"facekit.commands.{command}"), "prepare", list)
    text = (getdoc(function) or "").partition("\nExamples:\n")[2]
    examples = [shlex.split(line) for line in text.splitlines() if line.strip()]
    assert examples, f"{path}: its docstring has no section Examples"
    for example in examples:
        at = example.index("-m")
        assert example[at : at + len(begin)] == begin, example
        rest = prepare(example[at + len(begin) :])
        capture_parser(lambda: run(function, [], "x")).parse_args(rest)


def test_the_doctor_loads_what_it_checks_and_no_more():
    code = "import sys; from facekit.commands.cli import main; main(['doctor']); print(sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"sklearn", "pandas", "matplotlib", "scipy"} & set(eval(found.splitlines()[-1]))


@pytest.mark.parametrize("arguments", [["--help"], ["record", "--help"], ["lessons", "--help"]])
def test_help_loads_neither_torch_nor_scikit_learn(arguments):
    code = "import sys; from facekit.commands.cli import main; status = main(sys.argv[1:]); print(sorted(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; sys.exit(status)", *arguments], capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert "commands:" in found.stdout
    assert not {"torch", "sklearn", "pandas", "matplotlib", "jsonargparse"} & set(eval(found.stdout.splitlines()[-1]))


def test_help_of_a_command_loads_nothing_that_takes_seconds_and_is_not_asked_for():
    """torchvision and torch's compiler took longer than torch itself, before a wrong option was named."""
    code = "import sys; from facekit.commands.cli import COMMANDS, load, subcommands\n"
    code += "for command in COMMANDS: [load(path) for path in subcommands(command).values() if 'studies' not in path]\n"
    code += "from facekit.commands.train import prepare; prepare([]); print(sorted(sys.modules))"
    found = set(eval(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout))
    assert "facekit.commands.train" in found and "torch" in found
    assert not {"torchvision", "facenet_pytorch", "sklearn", "torch._dynamo"} & found


def test_the_overview_names_every_command_with_a_line_about_it(capsys):
    assert main(["--help"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert set(lines) == set(COMMANDS) and all(len(text) > 20 for text in lines.values())


@pytest.mark.parametrize(
    ("arguments", "known"), [(["trian"], "train"), ([], "train"), (["record", "prob"], "probe"), (["record"], "probe")]
)
def test_unknown_command_says_which_there_are(arguments, known, capsys):
    assert main(arguments) == 2
    assert known in capsys.readouterr().err


def test_unknown_option_ends_with_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", "--fast"])
    assert stop.value.code == 2
    assert "--fast" in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_without_traceback(monkeypatch, capsys):
    def broken() -> None:
        """Fails."""
        raise DataError("labels.csv: row 3 has no file; add one.")

    monkeypatch.setattr("facekit.commands.cli.load", lambda path: broken)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "error: labels.csv: row 3 has no file; add one.\n"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_among_several_ends_with_its_status_and_all_it_said_but_is_not_shut_down(processes):
    code = "import atexit, sys; from facekit.commands.cli import end; atexit.register(print, 'shut down'); "
    code += "print('done'); print('told', file=sys.stderr); end(3)"
    env = {**os.environ, "WORLD_SIZE": str(processes)}
    ended = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (3, "told\n")
    assert ended.stdout == ("done\nshut down\n" if processes == 1 else "done\n")
