"""`python -m benchmarks [PART …] [options]`: measures these parts, or all but the last ones; prints, records them."""

from __future__ import annotations

import sys
import time
import traceback
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from inspect import signature

import pandas as pd
import torch

from benchmarks.page import show_page
from benchmarks.results import keep, number
from facekit import records, settings
from facekit.commands.cli import load, run, summary
from facekit.errors import ConfigError, FacekitError

PARTS = {
    "embedding": "facekit.experiments.speed:bench_embedding",
    "probe": "benchmarks.probe:bench_probe",
    "finetuning": "benchmarks.training:bench_finetuning",
    "mini": "benchmarks.training:bench_mini",
    "data": "benchmarks.training:bench_data",
    "packing": "benchmarks.packing:bench_packing",
    "portraits": "benchmarks.portraits:bench_portraits",
    "predict": "benchmarks.predict:bench_predict",
    "startup": "benchmarks.startup:bench_startup",
    "sharing": "facekit.experiments.speed:bench_sharing",
    "evaluation": "benchmarks.evaluation:bench_evaluation",
    "features": "benchmarks.features:bench_features",
    "scale": "benchmarks.scale:bench_scale",
    "lessons": "benchmarks.lessons:bench_lessons",
}
BY_NAME_ONLY = ("lessons",)  # minutes of its own
PROGRAM = "python -m benchmarks"


def usage() -> str:
    """What can be asked for."""
    lines = [f"usage: {PROGRAM} [PART ...] [--device DEVICE] [--record true] [options of one part]", "", "parts:"]
    lines += [f"  {name:<12}{summary(path)}" for name, path in PARTS.items()]
    lines += [
        f"  {'table':<12}{summary('benchmarks.page:show_page')}",
        "",
        f"Without a part all but {', '.join(BY_NAME_ONLY)} are measured, in about ten minutes on two cores. With",
        "--record true the figures take their place in datasets/reference/speed_cpu.json (speed_gpu.json of a GPU),",
        f"beside those that this machine measured before. {PROGRAM} PART --help lists the options of one.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what was named; returns the exit status: 1 where a part failed, 2 for bad input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    named = words[: next((n for n, word in enumerate(words) if word.startswith("-")), len(words))]
    options = words[len(named) :]
    try:
        if named == ["table"]:
            return int(run(show_page, options, f"{PROGRAM} table"))  # type: ignore[call-overload]
        if not named and options in (["-h"], ["--help"]):
            print(usage())
            return 0
        if unknown := [name for name in named if name not in PARTS]:
            raise ConfigError(f"there is no part {unknown[0]!r}; use {', '.join(PARTS)}, or table.")
        return _measure(named, options)
    except FacekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _measure(named: Sequence[str], options: Sequence[str]) -> int:
    parser = ArgumentParser(PROGRAM, add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--device")
    parser.add_argument("--record", default="false")
    said, options = parser.parse_known_args(options)
    if said.record not in ("true", "false"):
        raise ConfigError(f"--record is {said.record!r}; use true or false.")
    if options and len(named) != 1:
        raise ConfigError(f"{options[0]} is an option of one part; name that part alone.")
    place = settings.device(said.device)
    functions = {name: load(PARTS[name]) for name in named or [each for each in PARTS if each not in BY_NAME_ONLY]}
    if said.device and place.type != "cpu":  # what only a CPU does says nothing of another device
        functions = {name: each for name, each in functions.items() if _has_device(each)}
    print(f"{records.hardware()}; {torch.get_num_threads()} threads, torch {torch.__version__}, on {place}", flush=True)
    tables: dict[str, pd.DataFrame] = {}
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name, function in functions.items():
        print(f"--- {name}", flush=True)
        asked = [*options, *(["--device", said.device] if said.device and _has_device(function) else [])]
        start = time.perf_counter()
        try:
            tables[name] = _table(run(function, asked, f"{PROGRAM} {name}"))
        except FacekitError:
            if len(functions) == 1:
                raise
            failed[name] = traceback.format_exc(limit=0)
        except Exception:  # whatever it was, the other parts are measured
            failed[name] = traceback.format_exc()
        else:
            seconds[name] = time.perf_counter() - start
            print(f"{show(tables[name])}\n({seconds[name]:.0f} s)", flush=True)
            if said.record == "true":  # after each, so that nothing is lost when a later one is stopped
                path = keep(name, tables[name], seconds[name], place, list(PARTS))
                print(f"recorded in {path.name}", flush=True)
    for name, how in failed.items():
        print(f"error: {name} failed and was not measured:\n{how}", file=sys.stderr)
    return int(bool(failed))


def _has_device(function: Callable) -> bool:
    return "device" in signature(function).parameters


def _table(found: object) -> pd.DataFrame:
    assert isinstance(found, pd.DataFrame), "a part returns a table"
    return found


def show(table: pd.DataFrame) -> str:
    """A part's table as text, numbers to three digits, without the columns that it has nothing in."""
    return table.dropna(axis=1, how="all").to_string(index=False, float_format=number, na_rep="-")


if __name__ == "__main__":
    sys.exit(main())
