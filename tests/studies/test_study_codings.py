"""The recorded codings: every size and seed by the recipe of the study of sharing; what ships is whole."""

from __future__ import annotations

import itertools

import pytest
from test_studies import TinyFace, reference, toy_faces

from facekit.commands.cli import main
from facekit.experiments import sharing_methods
from facekit.experiments.codings import compare_codings
from facekit.models.embedding import embed
from facekit.records import REFERENCE, recorded
from facekit.studies import codings
from facekit.tasks import AGE_BAND
from facekit.training.config import Recipe

assert reference  # the fixture of toy photos
ANSWERS = ["most probable", "mean", "median", "levels", "number"]


def test_every_size_and_seed_is_recorded(reference, monkeypatch):
    recipe = Recipe(few_steps=2, steps=4, lr=1e-2, dropout=0.1, hidden=3, few=20)
    monkeypatch.setattr(codings, "RECIPES", {"embedding": recipe})
    assert main(["record", "codings", "--labels", "[15]", "--seeds", "[0,4]"]) == 0
    record = recorded("codings_fairface", reference)
    features = embed(TinyFace.from_pretrained(), toy_faces(), flip=True)
    train = features.select(features.labels["split"].isin(["train", "validation"]).to_numpy())
    test = features.split("test")
    wanted = set(itertools.product(ANSWERS, [15, len(train)], [0, 4], ["accuracy", "mae"]))
    assert set(record.rows[["answer", "n", "seed", "metric"]].itertuples(index=False, name=None)) == wanted
    assert record.about["command"] == "python -m facekit record codings --labels [15] --seeds [0,4]"
    learn = sharing_methods((3,), 0.1, (), steps=2, lr=1e-2)["single"]
    expected = compare_codings(train, test, AGE_BAND, [15], [4], learn)["value"].tolist()
    assert record.rows.query("n == 15 and seed == 4")["value"].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.skipif(not (REFERENCE / "codings_fairface.json").is_file(), reason="is not recorded yet")
def test_the_shipped_record_is_whole():
    rows = recorded("codings_fairface").rows
    counts = rows.groupby(["answer", "n", "metric"])["seed"].nunique()
    assert set(counts) == {len(codings.SEEDS)} and len(counts) == 5 * 4 * 2
    assert rows.query("metric == 'accuracy'")["value"].between(0.1, 0.7).all()
