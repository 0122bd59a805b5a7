"""Paths as people paste them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from facekit.commands import cli
from facekit.files import pasted_path

posix = pytest.mark.skipif(os.sep != "/", reason="these are paths of Linux and macOS")


@posix
@pytest.mark.parametrize("name", ["photos", "my photos (1)", "얼굴 'a'", "100% [new]", "a&b;c"])
def test_a_path_is_understood_in_every_form_in_which_it_is_pasted(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    place = tmp_path / name
    escaped = "".join(char if char.isalnum() or char in "/._-%" else f"\\{char}" for char in str(place))
    forms = [f'"{place}"', f"“{place}”", f" {place}\n", escaped, place.as_uri(), place.as_uri().replace("///", "/")]
    forms += [
        f"'{place}'",
        str(place),
        f"~/{name}",
        f"file://localhost{place.as_uri()[7:]}",
        f"'{place.as_uri()}'",
    ]
    for _ in range(2):
        assert {pasted_path(form) for form in forms} | {pasted_path(Path(place.as_uri()))} == {place}
        place.mkdir(exist_ok=True)  # and the same when it exists


@posix
def test_what_exists_is_taken_as_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("'quoted'", "~", "a\\ b", " blank ", "file:"):
        Path(name).mkdir()
        assert pasted_path(name) == Path(name)
    assert pasted_path("C:\\faces\\x") == Path("C:\\faces\\x") and pasted_path("") == Path("")


def test_every_path_of_the_command_line_is_understood(tmp_path, capsys):
    def command(source: Path, dest: Path | None = None, out: Path = Path("run")) -> int:
        """Prints its paths."""
        print([str(path) for path in (source, dest, out)])
        return 0

    cli.run(command, [f"'{tmp_path}'", "--dest", tmp_path.as_uri(), "--out", "null"], "x")
    assert capsys.readouterr().out == f"{[str(tmp_path), str(tmp_path), 'null']}\n"
    assert cli.main(["pack", f"'{tmp_path / 'none'}'", "out"]) == 2
    assert f"error: {tmp_path / 'none'} does not exist" in capsys.readouterr().err
