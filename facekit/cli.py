"""`python -m facekit COMMAND …`: every command is a typed function of the package, its options are its parameters.

Only the module of the command that was asked for is imported, so that `doctor` still speaks when torch does not.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

# Command (and subcommand) to the function behind it, as module:function.
COMMANDS: dict[str, str | dict[str, str]] = {
    "doctor": "facekit.doctor:doctor",
    "lab": "facekit.doctor:lab",
    "pack": "facekit.data.pack:pack_command",
    "train": "facekit.training.command:train",
    "distill": "facekit.transfer.distill:distill",
    "bench": {
        "embedding": "facekit.models.embedding:bench_embedding",
        "packing": "facekit.data.pack:bench_packing",
        "training": "facekit.training.bench:bench_training",
        "sharing": "facekit.transfer.sharing:bench_sharing",
        "portraits": "facekit.data.portraits:bench_portraits",
        "features": "facekit.feature_card:bench_command",
    },
    "record": {
        "probe": "facekit.recording:record_probe",
        "stages": "facekit.recording:record_stages",
        "rates": "facekit.recording:record_rates",
        "ladder": "facekit.recording:record_ladder",
        "alignment": "facekit.recording_alignment:record_alignment",
        "sharing": "facekit.recording_sharing:record_sharing",
        "joint": "facekit.recording_sharing:record_joint",
        "last_stage": "facekit.recording_sharing:record_last_stage",
        "codings": "facekit.recording_codings:record_codings",
        "dial": "facekit.recording_dial:record_dial",
        "mini": "facekit.model_card:record_mini",
        "mini_portraits": "facekit.model_card:record_portraits",
        "card": "facekit.model_card:record_card",
        "reference": "facekit.reference:record_reference",
        "utkface": "facekit.reference:record_utkface",
        "domains": "facekit.recording_domains:record_domains",
        "domains_real": "facekit.recording_domains:record_domains_real",
        "show": "facekit.recording:show",
    },
    "lessons": {
        "build": "facekit.lessons.build:build_command",
        "check": "facekit.lessons.build:check_command",
        "rules": "facekit.lessons.skeleton:rules_command",
        "run": "facekit.lessons.build:run_command",
        "table": "facekit.lessons.build:table_command",
    },
    "portraits": {
        "render": "facekit.data.portraits.commands:render_command",
        "sheet": "facekit.data.portraits.commands:sheet_command",
    },
    "drawn": {
        "render": "facekit.data.domains:render_command",
        "sheet": "facekit.data.domains:sheet_command",
    },
    "features": {
        "fit": "facekit.feature_card:fit_command",
        "fidelity": "facekit.feature_card:fidelity_command",
        "datasheet": "facekit.feature_card:datasheet_command",
    },
}


def load(path: str) -> Callable:
    """The function named `module:function`."""
    module, _, function = path.partition(":")
    return getattr(import_module(module), function)


def components(arguments: Sequence[str]) -> dict:
    """The commands to offer for these arguments: the one that was named, or all of them (for help and errors)."""
    named = [name for name in COMMANDS if arguments and arguments[0] == name] or list(COMMANDS)
    return {
        name: load(entry)
        if isinstance(entry := COMMANDS[name], str)
        else {sub: load(path) for sub, path in entry.items()}
        for name in named
    }


def with_lesson_numbers(arguments: Sequence[str]) -> list[str]:
    """`lessons build 03 04` as the parser wants it: it takes a list of any length only as an option."""
    if not arguments or arguments[0] != "lessons":
        return list(arguments)
    return [part for text in arguments for part in (("--numbers+", text) if re.fullmatch(r"\d\d?", text) else (text,))]


def every_bench() -> int:
    """All benches, one after another: what `bench` without a name does."""
    for name, path in COMMANDS["bench"].items():
        print(f"--- bench {name}", flush=True)
        load(path)()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0 done, 1 the command says so, 2 bad input."""
    from jsonargparse import auto_cli

    from facekit.errors import FacekitError

    arguments = with_lesson_numbers(sys.argv[1:] if arguments is None else arguments)
    try:
        if arguments == ["bench"]:
            return every_bench()
        result = auto_cli(components(arguments), args=arguments, prog="python -m facekit", as_positional=True)
    except FacekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; whatever can be resumed goes on when the same command is given again.", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0
