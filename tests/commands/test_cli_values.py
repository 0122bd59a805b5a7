"""Values that no function could use, and files that are no configuration: our error in one line, whatever they are."""

from __future__ import annotations

import inspect
import random

import numpy as np
import pytest
import yaml
from PIL import Image
from tiny import features

from facekit.commands import cli
from facekit.commands.cli import check_config, main
from facekit.errors import ConfigError

BAD = ["-1", "0", "nan", "-inf", "1e400", "2147483647", "1e30", "-" + "9" * 30, "9" * 30, "0.5", "", "[]", "much"]
ENDLESS = {("epochs", "2147483647"), ("steps", "2147483647")}  # could be meant
COMMANDS = {
    "train": ["--data", "{source}/set", "--backbone", "none", "--tasks", "side", "--epochs", "1", "--out", "{out}"],
    "portraits render": ["{out}", "--n", "2", "--size", "32", "--workers", "1"],
    "drawn render": ["words", "{out}", "--n", "2"],
    "pack": ["{source}/photos", "{out}", "--kind", "classes", "--size", "32", "--workers", "1"],
    "lab": ["--browser", "false"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A stored set and a folder of photos."""
    folder = tmp_path_factory.mktemp("source")
    features(20).save(folder / "set")
    for name in ("a", "b"):
        (folder / "photos" / name).mkdir(parents=True)
        Image.fromarray(np.full((40, 40, 3), ord(name), np.uint8)).save(folder / "photos" / name / "photo.png")
    return folder


def numbers(command: str) -> list[str]:
    """Options of a command that take a number."""
    name, _, part = command.partition(" ")
    function = cli.load(cli.subcommands(name)[part])
    return [
        p.name
        for p in inspect.signature(function).parameters.values()
        if str(p.annotation).startswith(("int", "float"))
    ]


@pytest.mark.parametrize(("command", "option"), [(each, option) for each in COMMANDS for option in numbers(each)])
def test_whatever_number_is_typed_the_command_runs_or_says_what_is_wrong(
    command, option, source, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("facekit.course.doctor.subprocess.run", lambda *_, **__: type("Done", (), {"returncode": 0}))
    for number, value in enumerate(BAD):
        if (option, value) in ENDLESS:
            continue
        words = [word.format(source=source, out=tmp_path / str(number)) for word in COMMANDS[command]]
        try:
            status = main([*command.split(), *words, f"--{option}={value}"])
        except SystemExit as stop:  # said by the parser, which knows the type
            status = stop.code
        error = capsys.readouterr().err
        assert status in (0, 2) and (status == 0) == ("error: " not in error), (value, error)
        if value in ("nan", "-inf", "1e400", "", "much"):
            assert status == 2, value


def write(tmp_path, content: bytes) -> str:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"epochs:\n", "line 1: epochs has no value"),
        (b"epochs: 1\ndata:\n", "line 2: data has no value"),
        (b"data: ''\n", "data is empty"),
        (b"sampling: {a: .nan}\n", "sampling must be a finite number, got nan"),
        (b"lr: -.inf\n", "lr must be a finite number, got -inf"),
        (b"epochs: null\nlr: 1\n", "epochs has no value; give it one or leave it out"),
        (b"epochs: 1\ntasks: gr\xf6\xdfe\n", "line 2: byte 0xf6 is not UTF-8"),
        ("epochs: 1".encode("utf-16"), "is not UTF-8"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\n", "line 2: an alias"),
        (b"tasks: " + b"[" * 5000 + b"]" * 5000, "line 1: too many levels"),
        (b"epochs: !!python/object/apply:os.getcwd []\n", "line 1: a tag"),
        (b"- epochs\n- 1\n", "holds no options"),
        (b"", "holds no options"),
        (b"epochs\n", "holds no options"),
        (b"epochs: 1\nlr: 2\nepochs: 1\n", "says epochs twice"),
        (b"epochs: 1\n---\nepochs: 2\n", "is not YAML"),
        (b"epochs: {\n", "is not YAML"),
        (b"epochs: \x00\n", "is not YAML"),
        (b"#" * 2**21, "has more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_configuration_is_named(tmp_path, content, message, capsys):
    path = write(tmp_path, content)
    for option in (["--config", path], [f"--config={path}"]):
        assert main(["train", *option]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1 and message in error
        assert "run.yaml" in error or "line" not in message


NO_FILES = [("nowhere.yaml", "No such file"), (".", "Is a directory"), ("", "No such file"), ("a\0b", "null byte")]


@pytest.mark.parametrize(("name", "message"), NO_FILES)
def test_so_is_what_is_no_file(tmp_path, monkeypatch, name, message, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--config", name]) == 2
    assert message in capsys.readouterr().err


def test_any_bytes_are_a_configuration_or_our_error(tmp_path):
    draw = random.Random(0)
    good = yaml.safe_dump({"data": "packed", "tasks": ["gender", "age"], "lr": 1e-3, "sampling": {"a": 1}}).encode()
    taken = 0
    for _ in range(300):
        content = bytearray(good)
        for _ in range(draw.randrange(4)):
            at = draw.randrange(len(content))
            content[at : at + draw.randrange(3)] = draw.choice(
                [b"\n", b": ", b"*", b"&", b"[", b"\t", b"\xff", b"'", b"- "]
            )
        try:
            check_config(write(tmp_path, bytes(content)))
            assert isinstance(yaml.safe_load(bytes(content)), dict)
            taken += 1
        except ConfigError as error:
            assert "run.yaml" in str(error)
    assert 50 < taken < 300


def test_too_little_memory_is_our_error_and_other_faults_are_not_hidden(monkeypatch, capsys):
    def fails(error):
        def broken() -> None:
            raise error

        monkeypatch.setattr(cli, "load", lambda path: broken)

    for error in (MemoryError("Unable to allocate 75 PiB"), RuntimeError("DefaultCPUAllocator: can't allocate memory")):
        fails(error)
        assert main(["doctor"]) == 2
        assert capsys.readouterr().err.startswith("error: this needs more memory than there is (")
    fails(RuntimeError("a fault of ours"))
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["doctor"])
