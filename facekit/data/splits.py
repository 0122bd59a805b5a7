"""Fixed splits: a photo's side follows from its content, so duplicates can never be on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from facekit.data.sets import SPLITS
from facekit.errors import ConfigError


def split_by_content(keys: Iterable[str], fractions: tuple[float, float, float], salt: str = "facekit") -> np.ndarray:
    """Assigns `train`, `validation` or `test` to each key (content hash, or identity), array of str (N,).

    fractions: the three shares, summing to 1. The side depends on the key and the salt alone: not on the order,
    on the other keys or on a random state; equal keys get equal sides.
    """
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(f"split fractions {fractions} must be non-negative and sum to 1.")
    digests = (hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8] for key in keys)
    uniform = np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])
    return np.array(SPLITS)[np.searchsorted(np.cumsum(fractions)[:2], uniform, side="right")]
