"""`python -m benchmarks [NAME] [options]`: one benchmark, or all of them one after another."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from facekit.commands.cli import load, run
from facekit.errors import FacekitError

BENCHMARKS = {
    "embedding": "facekit.experiments.speed:bench_embedding",
    "packing": "benchmarks.packing:bench_packing",
    "predict": "benchmarks.predict:bench_predict",
    "training": "benchmarks.training:bench_training",
    "sharing": "facekit.experiments.speed:bench_sharing",
    "evaluation": "benchmarks.evaluation:bench_evaluation",
    "portraits": "benchmarks.portraits:bench_portraits",
    "features": "benchmarks.features:bench_features",
    "gpu": "benchmarks.gpu:bench_gpu",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what was named, or everything; returns the exit status, 2 for bad input."""
    name, *options = (sys.argv[1:] if arguments is None else arguments) or [""]
    if name and name not in BENCHMARKS:
        print(f"usage: python -m benchmarks [{'|'.join(BENCHMARKS)}] [options]", file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    try:
        for each in [name] if name else BENCHMARKS:
            print(f"--- {each}", flush=True)
            function: Callable = load(BENCHMARKS[each])
            result = run(function, options, f"python -m benchmarks {each}")
            if isinstance(result, int) and result:
                return result
    except FacekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
