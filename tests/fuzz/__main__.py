"""`python -m tests.fuzz --inputs 10000 --seed 0`: what facekit makes of damaged and odd inputs.

Every input is made from the seed, its target's name and its number, the same anywhere, and goes through one of the
entries that people use. Right ends are: accepted (with or without rejects) and refused, by an error of facekit. Faults
are: another error (foreign), a process that dies (crash), takes 10 s of CPU (hang) or 1 GB of memory, and a label, a
pixel or a weight that comes back changed without a word (silent). Exits 1 if there is any.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter, defaultdict
from importlib import import_module
from pathlib import Path

from .pool import FAULTS, Job, answers

# Module to its targets, each with its share of the inputs. The second needs torch, which the children of the first then
# never wait for; so this process imports neither.
SHARES = {
    f"{__package__}.photos": {
        **{"table": 24, "picture": 18, "tree": 8, "archive": 16, "cifar": 8, "packed": 10, "journal": 5, "bomb": 1}
    },
    f"{__package__}.stored": {
        "config": 12,
        "checkpoint": 10,
        "weights": 8,
        "model": 8,
        "evaluation": 6,
        "cached": 5,
        "record": 5,
        "quiz": 5,
    },
}
ENDS = ("accepted", "rejects", "refused", *FAULTS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n\n")[1])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", help="a target, or one of its inputs as target:number", default="")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that show a fault")
    parser.add_argument("--module", help="instead of the targets of this folder", default="")
    options = parser.parse_args()

    modules = {options.module: import_module(options.module).SHARES} if options.module else SHARES
    shares = {(module, name): share for module, targets in modules.items() for name, share in targets.items()}
    only, _, number = options.only.partition(":")
    if only and only not in {name for _, name in shares}:
        parser.error(f"there is no target {only!r}; there are {', '.join(name for _, name in shares)}")
    shares = {key: share for key, share in shares.items() if only in ("", key[1])}
    each = {key: max(1, round(options.inputs * share / sum(shares.values()))) for key, share in shares.items()}
    jobs = [
        Job(module, name, n, options.seed)
        for (module, name), count in each.items()
        for n in ([int(number)] if number else range(count))
    ]

    start, counts, found = time.monotonic(), defaultdict(Counter), defaultdict(list)
    for done, (job, answer) in enumerate(answers(jobs, options.processes, options.keep), 1):
        counts[job.target][answer["end"]] += 1
        if answer["end"] in FAULTS:
            kind = re.sub(r"\[.*\]|0x\w+|\d+|'[^']*'|\"[^\"]*\"|/\S+", "…", answer["said"])[:40]
            found[job.target, answer["end"], answer["place"], kind].append((answer["bytes"], job.number, answer))
        if number:
            print(answer.get("trace", ""), f"{answer['end']}: {answer['said']}", sep="")
        if sys.stderr.isatty():
            print(f"\r{done} of {len(jobs)}", end="", file=sys.stderr)

    print(f"{'':10}" + "".join(f"{end:>10}" for end in ENDS))
    for name, ends in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{name:10}" + "".join(f"{ends[end]:>10}" for end in ENDS))
    for (target, end, place, _), cases in sorted(found.items(), key=lambda item: item[0]):
        _, shortest, answer = min(cases, key=lambda case: case[:2])
        again = f"python -m tests.fuzz --seed {options.seed} --only {target}:{shortest}"
        print(f"\n{target}: {end}, {len(cases)} times {place}\n  {answer['said'][:400]!a}\n  {again}")
    print(f"\n{len(jobs):,} inputs, {time.monotonic() - start:.0f} s, {sum(map(len, found.values()))} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
