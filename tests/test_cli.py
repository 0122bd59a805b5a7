"""The command line: every command exists, bad input is one line and exit status 2."""

import pytest

from facekit.cli import COMMANDS, load, main
from facekit.errors import DataError

PATHS = [path for entry in COMMANDS.values() for path in ([entry] if isinstance(entry, str) else entry.values())]


@pytest.mark.parametrize("path", PATHS)
def test_every_command_is_a_documented_function(path):
    assert load(path).__doc__


def test_unknown_command_says_which_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["trian"])
    assert stop.value.code == 2
    assert "train" in capsys.readouterr().err


def test_an_error_of_ours_is_one_line_without_traceback(monkeypatch, capsys):
    def broken() -> None:
        """Fails."""
        raise DataError("labels.csv: row 3 has no file; add one.")

    monkeypatch.setattr("facekit.cli.load", lambda path: broken)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == "error: labels.csv: row 3 has no file; add one.\n"


def test_bench_without_a_name_runs_every_bench(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr("facekit.cli.load", lambda path: lambda: ran.append(path))
    assert main(["bench"]) == 0
    assert ran == list(COMMANDS["bench"].values())
    assert "--- bench embedding" in capsys.readouterr().out
