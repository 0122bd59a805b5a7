"""Reading a text of unknown length off a row of positions: CTC's loss, decoding, and how wrong a reading is.

A network gives K + 1 scores at each of T positions: class 0 is the blank ("nothing new here"), class k + 1 the k-th
character. A path names one class a position; the text of a path is what remains when repeats are merged and then
blanks dropped, and a text's probability is the sum over all paths that spell it (Graves et al., ICML 2006). A text
with a double letter needs a blank between the two, so it needs a position more.

Texts are index tensors (N, L) of characters, int64, each row padded with -1 on the right; an empty row is one of -1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from facekit.errors import ConfigError, DataError

BLANK = 0
END = -1  # what pads a row on the right


def ctc_loss(outputs: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """-log p(text), in nats, of every row (N,); a row that is empty costs what printing nothing costs.

    outputs: (N, T, K + 1) scores (logits), float32 or float64. texts: (N, L) on the same device. Raises ConfigError
    for outputs of another shape and DataError where L is more than T: `positions_needed` says what L must hold.
    """
    _check(outputs)
    if texts.shape[1] > outputs.shape[1]:
        raise DataError(
            f"a text needs up to {texts.shape[1]} positions (its characters, and one more for each double letter), but "
            f"the head gives {outputs.shape[1]}: let it read an earlier stage or wider pictures, or leave long texts "
            "out."
        )
    log_probabilities = outputs.log_softmax(2).transpose(0, 1)
    lengths = torch.full((len(outputs),), outputs.shape[1], dtype=torch.int64, device=texts.device)
    symbols = (texts + 1).clamp_min(0)  # class 0 is the blank; the padding is beyond every length
    return F.ctc_loss(log_probabilities, symbols, lengths, (texts != END).sum(1), blank=BLANK, reduction="none")


def positions_needed(text: Sequence) -> int:
    """Positions that a text needs at least: one a character and one between two equal neighbours."""
    return len(text) + sum(one == other for one, other in zip(text, text[1:], strict=False))


def greedy(outputs: torch.Tensor) -> torch.Tensor:
    """The text of the most probable path, (N, T, K + 1) to (N, T): merge repeats, drop blanks. Not always the best."""
    _check(outputs)
    best = outputs.argmax(2)
    before = F.pad(best[:, :-1], (1, 0), value=BLANK)
    kept = (best != BLANK) & (best != before)
    order = (~kept).long().argsort(dim=1, stable=True)  # what is kept moves to the left
    return torch.where(kept, best - 1, END).gather(1, order)


def beam_search(outputs: torch.Tensor, width: int = 8) -> torch.Tensor:
    """The most probable text found by prefix beam search, (N, T, K + 1) to (N, T).

    Keeps the `width` most probable beginnings after each position, each with the probabilities of all paths that spell
    it, apart for those that end in a blank and those that end in its last character (Hannun et al. 2014, 1408.2873).
    Exact when no beginning is dropped. Raises ConfigError for a width below 1.
    """
    _check(outputs)
    if width < 1:
        raise ConfigError(f"the width of a beam must be 1 or more, got {width}.")
    log_probabilities = outputs.detach().double().log_softmax(2).cpu().numpy()
    texts = np.full(outputs.shape[:2], END, np.int64)
    for row, scores in zip(texts, log_probabilities, strict=True):
        best = _beam(scores, width)
        row[: len(best)] = best
    return torch.from_numpy(texts).to(outputs.device)


def _beam(scores: np.ndarray, width: int) -> tuple[int, ...]:
    """Log probabilities (T, K + 1) to the characters of the best text."""
    nothing = (-math.inf, -math.inf)
    beams = {(): (0.0, -math.inf)}  # prefix: log probability of its paths that end in a blank, in its last character
    for row in scores.tolist():
        found: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (blank, last) in beams.items():
            both = _add(blank, last)
            stay = found.get(prefix, nothing)
            again = last + row[prefix[-1] + 1] if prefix else -math.inf  # a repeat is merged
            found[prefix] = _add(stay[0], both + row[BLANK]), _add(stay[1], again)
            for character, score in enumerate(row[1:]):
                longer = (*prefix, character)
                before = blank if prefix and prefix[-1] == character else both  # a double letter needs a blank
                ends, goes_on = found.get(longer, nothing)
                found[longer] = ends, _add(goes_on, before + score)
        best = sorted(found, key=lambda prefix: (-_add(*found[prefix]), prefix))[:width]
        beams = {prefix: found[prefix] for prefix in best}
    return next(iter(beams))


def _add(one: float, other: float) -> float:
    """log(exp(one) + exp(other))."""
    low, high = min(one, other), max(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def edit_distance(one: Sequence, other: Sequence) -> int:
    """Fewest characters to insert, delete or replace that turn one text into the other (Levenshtein 1966)."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def _check(outputs: torch.Tensor) -> None:
    if outputs.ndim != 3 or outputs.shape[2] < 2:
        raise ConfigError(
            f"texts are read from outputs (N, positions, 1 + characters), got {tuple(outputs.shape)}; use a head that "
            "gives a row of positions (`models.adapters.SequenceHead`)."
        )
