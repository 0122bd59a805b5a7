"""`python -m facekit evaluate`: how well a trained model answers, and for whom: table, report, CSV and model card."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from facekit.answers import card as cards
from facekit.answers import report
from facekit.answers.evaluate import evaluate as evaluated
from facekit.answers.model import load
from facekit.data.catalogue import stored
from facekit.errors import ConfigError
from facekit.files import atomic_path, writing

REPORT, SCORES, CARD = WRITTEN = ("report.html", "scores.csv", "model_card.md")


def evaluate(
    model: Path,
    data: str,
    by: str | list[str] = "",
    out: Path = Path("evaluation"),
    split: Literal["train", "validation", "test", "all"] = "test",
    domain: str | None = None,
    owner: str = "",
    intended_use: str = "",
    limits: str = "",
    people: str = "",
    recommendations: str = "",
    portraits: int = 1000,
    seed: int = 0,
    device: str | None = None,
) -> int:
    """Scores a model that `train` has left on labelled photos or embeddings, and says for whom it works.

    Prints the scores with intervals, for all and by group, and writes into the folder `out`: report.html (one file that
    needs no network), scores.csv (a row a score and group) and model_card.md. No row about a single face, and nothing
    over fewer than 20 faces, is in any of them.

    The card has places that only the owner of the model can fill. Fill them here (`--intended_use …`) or in the file;
    a later run with the same `out` keeps what stands there.

    Args:
        model: Folder that `train --out` has made.
        data: Folder of a packed set (photos or embeddings, as the model takes them), or `portraits` to render faces.
        by: Label columns whose values are groups, separated by commas; ages in years become age bands. Tables are made
            by each of them and by every two together.
        out: Folder for the results.
        split: Which rows of the set.
        domain: Which of the sets that the model learnt from it shall answer for, if it learnt from several.
        owner: For the card: who made the model, when, who answers questions, under which licence it is given away.
        intended_use: For the card: what it is for, on whose photos, and what follows from a wrong answer.
        limits: For the card: for what else it must not be used.
        people: For the card: whether the people in the photos agreed, and who can object.
        recommendations: For the card: what has to be true before the model is used.
        portraits: Faces to render for `portraits`.
        seed: Of the bootstrap.
        device: Where to compute, by default as everywhere in facekit.

    Examples:
        python -m facekit evaluate run packed/fairface-160 --by race,gender --out evaluation
        python -m facekit evaluate run portraits --by gender,age_years --intended_use "A lesson on fairness."
    """
    names = [name.strip() for name in (by.split(",") if isinstance(by, str) else by) if name.strip()]
    written = {"owner": owner, "intended": intended_use, "limits": limits, "people": people}
    written["recommendations"] = recommendations
    loaded = load(model, device)
    if domain is not None:
        loaded = loaded.only(domain)
    elif loaded.sets:
        raise ConfigError(f"{model} answers for {', '.join(loaded.sets)}; choose one: --domain {loaded.sets[0]}.")
    faces = stored(data, portraits)
    with writing(out, *WRITTEN) as folder:
        old = (folder / CARD).read_text(encoding="utf-8", errors="replace") if (folder / CARD).exists() else None
        kept = cards.written(old)  # before the work: what stands there must be possible to keep
        found = evaluated(loaded, faces, names, None if split == "all" else split, seed=seed)
        made = cards.card(found, written, old)
        for name, text in ((CARD, made), (SCORES, report.csv(found)), (REPORT, report.html(found))):
            with atomic_path(folder / name) as path:
                path.write_bytes(text.encode("utf-8", "backslashreplace"))
    print(report.terminal(found))
    print(f"\n{out}: {', '.join(WRITTEN)}")
    if left := [name for name in kept if not written[name]]:
        print(f"{CARD} keeps the owner's words of the card that was there: {', '.join(left)}")
    if places := cards.waiting(made):
        print(f"{CARD} waits for the owner's words in {len(places)} places: {', '.join(places)}")
    return 0
