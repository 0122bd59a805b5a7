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
import pandas as pd

from facekit.errors import ConfigError, DataError
from facekit.tasks.task import MISSING, F, Task, heads, torch

BLANK = 0


class String(Task, kind="string"):
    """A text of unknown length over the characters `classes`, read from a row of positions with CTC.

    An empty text counts as missing.
    """

    needs_map = True
    spoiled_by = ("flip",)

    def check(self) -> None:
        if odd := [text for text in self.classes if len(text) != 1]:
            raise ConfigError(f"task {self.name!r}: the classes of a text are single characters, not {odd[0]!r}.")

    @property
    def n_outputs(self) -> int:
        return len(self.classes) + 1

    def encode(self, labels: pd.Series) -> torch.Tensor:
        """Texts to int64 (N, L), padded with -1, L the positions that the longest needs (`positions_needed`).

        Raises DataError naming the first row that the alphabet cannot spell.
        """
        index = {character: i for i, character in enumerate(self.classes)}
        rows = []
        for row, label in labels.items():
            if not isinstance(label, str) and pd.notna(label):
                raise DataError(
                    f"row {row}, column {self.name!r}: {label!r} is a {type(label).__name__}, not a text (the zeros at "
                    f"its beginning would be lost); read the table with dtype={{{self.name!r}: str}}."
                )
            text = label if isinstance(label, str) else ""
            if unknown := sorted(set(text) - set(index)):
                raise DataError(
                    f"row {row}, column {self.name!r}: {text!r} has {unknown[0]!r}, which is not in the alphabet "
                    f"{''.join(self.classes)!r}; add it to the task's classes, or correct or empty the label."
                )
            rows.append([index[character] for character in text])
        needed = max(map(positions_needed, rows), default=0)
        targets = np.full((len(rows), max(needed, 1)), MISSING, np.int64)
        for target, codes in zip(targets, rows, strict=True):
            target[: len(codes)] = codes
        return torch.from_numpy(targets)

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """-log p(text), in nats, of every row (N,); a row that is empty costs what printing nothing costs.

        outputs: (N, T, K + 1) scores (logits). Raises ConfigError for outputs of another shape and DataError where L is
        more than T: `positions_needed` says what L must hold.
        """
        _check(outputs)
        if targets.shape[1] > outputs.shape[1]:
            raise DataError(
                f"a text needs up to {targets.shape[1]} positions (its characters, and one more for each double "
                f"letter), but the head gives {outputs.shape[1]}: let it read an earlier stage or wider pictures, or "
                "leave long texts out."
            )
        log_probabilities = outputs.log_softmax(2).transpose(0, 1)
        lengths = torch.full((len(outputs),), outputs.shape[1], dtype=torch.int64, device=targets.device)
        symbols = (targets + 1).clamp_min(0)  # class 0 is the blank; the padding is beyond every length
        characters = (targets != MISSING).sum(1)
        return F.ctc_loss(log_probabilities, symbols, lengths, characters, blank=BLANK, reduction="none")

    def predict(self, outputs: torch.Tensor) -> torch.Tensor:
        """Greedy: the text of the most probable path, (N, T): merge repeats, drop blanks. Not always the best."""
        _check(outputs)
        best = outputs.argmax(2)
        before = F.pad(best[:, :-1], (1, 0), value=BLANK)
        kept = (best != BLANK) & (best != before)
        order = (~kept).long().argsort(dim=1, stable=True)  # what is kept moves to the left
        return torch.where(kept, best - 1, MISSING).gather(1, order)

    def decode(self, predictions: torch.Tensor) -> dict[str, list]:
        return {self.name: [text or None for text in self.texts(predictions)]}

    def best(self, targets: torch.Tensor) -> torch.Tensor:
        """Raises ConfigError: no constant row of scores can spell a text."""
        raise ConfigError(f"task {self.name!r}: a text has no constant outputs; compare with its commonest label.")

    def blind_loss(self, targets: torch.Tensor) -> float:
        """The nats that the characters of a text take at their frequencies."""
        counts = targets[targets >= 0].cpu().bincount().double()
        counts = counts[counts > 0]
        return -(counts * (counts / counts.sum()).log()).sum().item() / len(targets)

    def scores(self, predictions: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Edits divided by the true characters, and the share of texts without any."""
        if len(predictions) != len(targets) or predictions.ndim != 2 or targets.ndim != 2:
            raise DataError(
                f"predicted texts {predictions.shape} and true ones {targets.shape} must be (N, positions)."
            )
        edits = np.zeros((len(targets), 2))  # and true length; both 0 where the label is missing
        for row, predicted, true in zip(edits, predictions, targets, strict=True):
            if text := true[true != MISSING].tolist():
                row[:] = edit_distance(predicted[predicted != MISSING].tolist(), text), len(text)
        exact = np.where(edits[:, 1] > 0, edits[:, 0] == 0, np.nan)
        return {"character_error_rate": edits, "exact_match": exact}

    def head(self, channels: int) -> torch.nn.Module:
        return heads.SequenceHead(channels, self.n_outputs)


def positions_needed(text: Sequence) -> int:
    """Positions that a text needs at least: one a character and one between two equal neighbours."""
    return len(text) + sum(one == other for one, other in zip(text, text[1:], strict=False))


def beam_search(outputs: torch.Tensor, width: int = 8) -> torch.Tensor:
    """The most probable text found by prefix beam search, (N, T, K + 1) to (N, T).

    Keeps the `width` most probable beginnings after each position, each with the probabilities of all paths that spell
    it, apart for those that end in a blank and those that end in its last character (Hannun et al. 2014, 1408.2873).
    Exact when no beginning is dropped. Raises ConfigError for a width below 1.
    """
    _check(outputs)
    if width < 1:
        raise ConfigError(f"the width of a beam must be 1 or more, got {width}.")
    log_probabilities = outputs.detach().cpu().double().log_softmax(2).numpy()
    texts = np.full(outputs.shape[:2], MISSING, np.int64)
    for row, scores in zip(texts, log_probabilities, strict=True):
        best = _beam(scores, width)
        row[: len(best)] = best
    return torch.from_numpy(texts).to(outputs.device)


def _beam(scores: np.ndarray, width: int) -> tuple[int, ...]:
    """Log probabilities (T, K + 1) to the characters of the best text."""
    nothing = (-math.inf, -math.inf)
    # Prefix: log probability of its paths that end in a blank, in its last character.
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for row in scores.tolist():
        found: dict[tuple[int, ...], tuple[float, float]] = {}
        for prefix, (blank, last) in beams.items():
            both = np.logaddexp(blank, last)
            stay = found.get(prefix, nothing)
            again = last + row[prefix[-1] + 1] if prefix else -math.inf  # a repeat is merged
            found[prefix] = np.logaddexp(stay[0], both + row[BLANK]), np.logaddexp(stay[1], again)
            for character, score in enumerate(row[1:]):
                longer = (*prefix, character)
                before = blank if prefix and prefix[-1] == character else both  # a double letter needs a blank
                ends, goes_on = found.get(longer, nothing)
                found[longer] = ends, np.logaddexp(goes_on, before + score)
        best = sorted(found, key=lambda prefix: (-np.logaddexp(*found[prefix]), prefix))[:width]
        beams = {prefix: found[prefix] for prefix in best}
    return next(iter(beams))


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
            "gives a row of positions (`tasks.heads.SequenceHead`)."
        )
