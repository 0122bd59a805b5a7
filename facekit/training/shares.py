"""How many rows of a step each of several sets gets."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeVar

from facekit.errors import ConfigError

Sampling = Literal["proportional", "uniform"] | float | Mapping[str, float]
Name = TypeVar("Name")
LEAST = 2  # rows of a set in a step: BatchNorm cannot train on one


def domain_shares(sizes: Mapping[Name, int], sampling: Sampling = "uniform") -> dict[Name, float]:
    """How often each set is seen, by name, summing to 1: p_d ∝ n_d^(1 / temperature), n_d the rows it has.

    sampling: `proportional` is temperature 1, `uniform` an infinite one; numbers in between favour small sets
    (used for languages by Arivazhagan et al. 2019, 1907.05019). Or the shares themselves by name, in any unit. Raises
    ConfigError for other values.
    """
    if not sizes or min(sizes.values()) < 1:
        raise ConfigError(f"every set needs at least one row, got {dict(sizes)}.")
    if isinstance(sampling, Mapping):
        given: dict[object, float] = {name: share for name, share in sampling.items()}
        if set(given) != set(sizes) or not all(0 < share < math.inf for share in given.values()):
            raise ConfigError(f"sampling needs a positive share for each of {list(sizes)}, got {given}.")
        return {name: given[name] / sum(given.values()) for name in sizes}
    known: dict[object, object] = {"proportional": 1.0, "uniform": math.inf}
    temperature = known.get(sampling, sampling)
    if not isinstance(temperature, int | float) or not temperature > 0:
        raise ConfigError(f"sampling is 'proportional', 'uniform' or a positive temperature, not {sampling!r}.")
    logs = {name: math.log(n) / temperature for name, n in sizes.items()}
    top = max(logs.values())
    weights = {name: math.exp(value - top) for name, value in logs.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def rows_a_step(shares: Mapping[Name, float], batch_size: int) -> dict[Name, int]:
    """How many of a step's rows each set gets: its share of `batch_size`, rounded so that the sum is right.

    At least two each. Raises ConfigError where they do not fit.
    """
    if batch_size < LEAST * len(shares):
        raise ConfigError(f"a step of {batch_size} rows has no {LEAST} for each of {len(shares)} sets; take more.")
    free = batch_size - LEAST * len(shares)
    total = sum(max(share * batch_size - LEAST, 0) for share in shares.values()) or 1
    exact = {name: LEAST + free * max(share * batch_size - LEAST, 0) / total for name, share in shares.items()}
    rows = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    rest = sorted(shares, key=lambda name: rows[name] - exact[name])  # largest remainders first
    for name in rest[: batch_size - sum(rows.values())]:
        rows[name] += 1
    return rows
