"""The recorded audits and mitigations: whole, over rows that nothing learnt from, and no figure over a few faces."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from test_studies import reference

from facekit.commands.cli import main
from facekit.data.sets import FeatureSet
from facekit.evaluation.groups import PUBLISHED
from facekit.records import REFERENCE, recorded
from facekit.studies import common, fairness
from facekit.tasks import AGE_BAND, GENDER, RACE

assert reference  # the fixture of toy photos
NETWORKS = (fairness.PROBE, fairness.JOINT, fairness.MINI, fairness.DRAWN)
METHODS = {"plain", "balanced sampling", "balanced loss", "group DRO"}
GENDER_METHODS = METHODS | {"reweighing", "thresholds"}
RECORDS = ("fairness_audits", "fairness_mitigation", "fairness_calibration", "fairness_embeddings")


def drawn(n: int = 2200, dim: int = 512, seed: int = 0) -> FeatureSet:
    """Noise in which gender is the first number, of all but one race with the other sign, and race the next ones."""
    rng = np.random.default_rng(seed)
    labels = {task.name: rng.choice(task.classes, n) for task in (RACE, GENDER, AGE_BAND)}
    labels["age"][rng.random(n) < 0.9] = "20-29"  # the other bands are rare
    race = np.searchsorted(sorted(RACE.classes), labels["race"])
    x = rng.normal(size=(n, dim))
    x[:, 0] += 6.0 * (labels["gender"] == "Female") * np.where(labels["race"] == "White", 1, -1)
    x[np.arange(n), 1 + race] += 6.0
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    split = np.where(np.arange(n) < n - 300, "train", "test")
    return FeatureSet(x.astype(np.float32), pd.DataFrame({**labels, "split": split}))


class Mini:
    """Stands for facenet-mini, which here embeds nothing."""

    @classmethod
    def from_pretrained(cls) -> Mini:
        return cls()


@pytest.fixture
def small(monkeypatch) -> FeatureSet:
    """Drawn rows instead of FairFace and of portraits, and short trainings."""
    made, portraits = drawn(), drawn(300, 64, 1)
    tones = np.random.default_rng(0).integers(1, 11, 300).astype(str)
    portraits = FeatureSet(portraits.features, portraits.labels.assign(skin_tone=tones))
    given = {
        "facenet_features": lambda: made,
        "fairface": lambda: made,
        "render_portraits": lambda n: portraits,
        "embed": lambda network, data: data,
        "FaceNetMini": Mini,
        "N_VALIDATION": 400,
        "N": 150,
        "STEPS": 4,
        "DECAYS": (1.0,),
        "STEP_SIZES": (0.1, 1.0),
        "STRENGTHS": (0.3,),
        "FEW": (50,),
        "FITTED_ON": (100, 400),
        "N_PROBED": 300,
        "PORTRAITS": (100, 100, 100),
    }
    for name, value in given.items():
        monkeypatch.setattr(fairness, name, value)
    monkeypatch.setattr(common, "N_ASIDE", 600)
    return made


def test_all_four_are_recorded_whole(reference, small):
    assert main(["record", "fairness", "--seeds", "[0,3]"]) == 0
    audits, mitigation, calibration, embeddings = (recorded(name, reference).rows for name in RECORDS)

    shown = audits[(audits["metric"] == "accuracy") & (audits["by"] == "all")]
    found = sorted(zip(*(shown[name] for name in ("network", "seed", "audited", "task")), strict=True))
    tasks = ("age", "gender", "race")
    assert found == sorted(itertools.product(NETWORKS, (0, 3), (fairness.AUDIT, fairness.TEST), tasks))
    assert {"calibration_error_before", "calibration_error_after", "accuracy_worst_corrected"} <= set(audits["metric"])
    assert {"race x gender", "age"} <= set(audits["by"])

    keys = ("data", "task", "network", "seed")
    shown = mitigation[(mitigation["metric"] == "accuracy") & (mitigation["by"] == "all")]
    for (data, task, network, seed), some in shown.groupby(list(keys)):
        wanted = GENDER_METHODS if task == "gender" else METHODS
        wanted = wanted | ({"adversarial removal"} if task == "gender" and network != "linear" else set())
        assert sorted(some["method"]) == sorted(wanted), (data, task, network, seed)
    assert shown[list(keys)].drop_duplicates().shape[0] == 2 * 2 * 2 * 2

    errors = calibration[calibration["metric"] == "calibration_error"]
    assert set(errors["fitted_on"]) == {0, 100, 400} and errors["value"].between(0, 1).all()
    assert set(embeddings["photos"]) == {"FairFace", "portraits"}
    assert set(embeddings.loc[embeddings["photos"] == "portraits", "task"]) == {"gender", "skin_tone"}


def test_no_figure_rests_on_fewer_than_twenty_faces(reference, small):
    """The rare age bands of the drawn rows are left out and counted."""
    pool, audit = small.select(range(1000)), small.select(range(1000, 1400))
    rows = fairness.measure_audit(pool, audit, small.split("test"), None, fairness.PROBE, 0)
    assert rows["n"].dropna().min() >= PUBLISHED
    few = audit.labels["age"].value_counts().reindex(AGE_BAND.classes, fill_value=0) < PUBLISHED
    told = rows[(rows["metric"] == "suppressed_cells") & (rows["by"] == "age") & (rows["task"] == "gender")]
    assert few.sum() > 0 and told["value"].tolist() == [few.sum()]
    ages = rows[(rows["by"] == "age") & (rows["metric"] == "accuracy") & (rows["task"] == "gender")]["group"]
    assert set(ages) == set(AGE_BAND.classes) - set(few[few].index)


def test_what_is_audited_was_neither_learnt_from_nor_chosen_on(reference, small, monkeypatch):
    """Each row carries its number; the parts of a seed share none, and none is among the audited ones."""
    numbered = FeatureSet(small.features, small.labels.assign(number=range(len(small))))
    seen = []
    monkeypatch.setattr(fairness, "facenet_features", lambda: numbered)
    monkeypatch.setattr(fairness, "fairface", lambda: numbered)
    studies = fairness.record.__wrapped__((0, 1))
    for study in studies[:3]:
        for block in study.blocks:
            pool, audit = block.arguments[:2]
            seen.append((set(pool.labels["number"]), set(audit.labels["number"])))
    assert all(not pool & audit and len(audit) == 600 for pool, audit in seen)
    assert len({frozenset(audit) for _, audit in seen}) == 1, "the same faces for every network, method and seed"
    learn, validation = fairness.parted(numbered, 3)
    assert not set(learn.labels["number"]) & set(validation.labels["number"])
    assert len(learn) + len(validation) == len(numbered)


def test_the_skewed_rows_are_four_fifths_white(small):
    pool = small.select((small.labels["race"] == "White").to_numpy() | (np.arange(len(small)) % 2 == 0))
    taken = fairness.drawn_from(pool, fairness.SKEWED)
    assert len(taken) == fairness.N and (taken.labels["race"] == "White").mean() == pytest.approx(0.8)
    natural = fairness.drawn_from(pool, fairness.NATURAL)
    np.testing.assert_array_equal(natural.inputs, pool.inputs[: fairness.N])


def test_what_is_chosen_by_is_the_loss_of_the_worst_group(small):
    """By hand, on the validation rows."""
    learn, validation = fairness.parted(small.select(range(1500)), 0)
    made = fairness.trials(GENDER, fairness.drawn_from(learn, fairness.SKEWED), validation, 0, 0)["group DRO"]
    assert [trial.setting for trial in made] == ["decay 1, step size 0.1", "decay 1, step size 1"]
    logits = fairness.predict(made[0].net, validation)["gender"].double().log_softmax(1).numpy()
    losses = -logits[np.arange(len(validation)), validation.targets([GENDER])["gender"].numpy()]
    by_race = pd.Series(losses).groupby(validation.labels["race"]).mean()
    assert made[0].worst == pytest.approx(by_race.max(), rel=1e-4)


@pytest.mark.skipif(not (REFERENCE / "fairness_mitigation.json").exists(), reason="fairness is not recorded yet")
def test_the_shipped_records_are_whole():
    for name in RECORDS:
        rows = recorded(name).rows
        assert sorted(rows["seed"].unique()) == list(fairness.SEEDS), name
        if "n" in rows and name != "fairness_calibration":  # there n are the labels that were learnt from
            assert rows["n"].dropna().min() >= PUBLISHED, name
    rows = recorded("fairness_mitigation").rows
    assert {"group DRO", "balanced sampling", "adversarial removal", "thresholds"} <= set(rows["method"])
    groups = rows[(rows["by"] == "race") & (rows["metric"] == "accuracy")].groupby(
        ["data", "task", "network", "method"]
    )
    assert groups["group"].nunique().eq(len(RACE.classes)).all()
