"""The recorded adaptations on a few rows of noise: every method once a seed, and what is shipped is whole."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_studies import TinyFace, reference, toy_faces

from facekit.commands.cli import main
from facekit.course.profiles import TwoDomains
from facekit.data.sets import FaceSet
from facekit.records import REFERENCE, recorded
from facekit.studies import adaptation, adaptation_portraits
from facekit.tasks import GENDER, GLASSES, RACE
from facekit.transfer.probe import linear_probe

assert reference  # the fixture of toy photos
FROZEN = ("on the source", "source only", "mean", "CORAL", "AdaBN", "target labels", "target labels, AdaBN")
FROZEN += ("new statistics for the target alone",)
UTK = ("on the source", "source only", "mean", "CORAL", "300 target labels", "source and 300 target labels")
UTK += ("target labels",)
OWN = ("AdaBN", "on the source, AdaBN")  # of UTKFace's pixels


STRENGTHS = {"CORAL as a loss": (10.0,), "kernel means": (1.0,), "DANN": (0.3,)}


class TinyMini(TinyFace):
    name = "tiny mini"


def portraits(n, size, seed, styles=(), glasses=()) -> TwoDomains:
    """Noise that is dark without glasses; the target is darker."""
    made = []
    for place in range(2):
        rng = np.random.default_rng([seed, place])
        glasses = rng.random(120) < 0.5
        level = np.where(glasses, 160, 80)[:, None, None, None] - 40 * place
        images = rng.normal(level, 20, (120, 3, 32, 32)).clip(0, 255).astype(np.uint8)
        labels = {"glasses": np.where(glasses, "yes", "no"), "gender": rng.choice(GENDER.classes, 120)}
        made.append(FaceSet(images, pd.DataFrame({**labels, "split": np.repeat(["train", "test"], 60)})))
    return TwoDomains(*made, (GLASSES, GENDER))


@pytest.fixture
def small(monkeypatch, reference):
    """All that is measured, small."""
    rng = np.random.default_rng(1)
    many = toy_faces()
    faces = replace(many.select(rng.integers(0, len(many), 90)), manifest={})
    faces.labels["split"] = "train"
    utk = replace(faces, labels=faces.labels.assign(utk_race=rng.choice(["White", "Asian", "Other"], 90)))
    monkeypatch.setattr(adaptation, "fairface", lambda: faces)
    monkeypatch.setattr(adaptation, "photos", lambda name: {"utkface": utk}[name])
    monkeypatch.setattr(adaptation, "FaceNet", TinyFace)
    monkeypatch.setattr(adaptation, "FaceNetMini", TinyMini)
    monkeypatch.setattr(adaptation, "hidden_probe", lambda rows, tasks, seed: linear_probe(rows, tasks))
    for name, value in {"N": 30, "N_TEST": 25, "LABELLED": 20, "MEASURED": 8}.items():
        monkeypatch.setattr(adaptation, name, value)
    monkeypatch.setattr(adaptation_portraits, "FaceNetMini", TinyMini)
    monkeypatch.setattr(adaptation_portraits, "portrait_domains", portraits)
    for name, value in {"EPOCHS": 1, "ROWS_A_STEP": 20, "STRENGTHS": STRENGTHS}.items():
        monkeypatch.setattr(adaptation_portraits, name, value)
    return reference


def test_portraits_are_recorded_whole_without_photos(small, monkeypatch):
    monkeypatch.setenv("FACEKIT_PROFILE", "laptop")
    assert main(["record", "adaptation_portraits", "--seeds", "[0,3]"]) == 0
    rows = recorded("adaptation_portraits", small).rows
    accuracies = rows[rows["metric"] == "accuracy"]
    frozen = accuracies[accuracies["network"].str.endswith("frozen")]
    found = sorted(zip(frozen["method"], frozen["seed"], frozen["task"], strict=True))
    assert found == sorted(itertools.product(FROZEN, (0, 3), ("glasses", "gender")))
    scratch = accuracies[accuracies["network"].str.endswith("scratch")]
    ways = ["CORAL as a loss, 10", "kernel means, 1", "DANN, 0.3"]
    ways.append("DANN, 0.3, joint statistics")
    wanted = itertools.product(("sketches", "low light"), ["source only", "AdaBN", "target labels", *ways], (0, 3))
    assert sorted(zip(scratch["shift"], scratch["method"], scratch["seed"], strict=True)) == sorted(wanted)
    kinds = rows[rows["network"].str.endswith("scratch")].groupby("method")["metric"].nunique()
    assert (kinds == 5).all()


def test_both_of_real_photos_are_recorded_whole(small):
    assert main(["record", "adaptation", "--seeds", "[0,3]"]) == 0
    rows = recorded("adaptation_low_light", small).rows
    assert set(rows["method"]) == set(FROZEN) and set(rows["task"]) == {"gender", "race", "domain"}
    rows = recorded("adaptation_utkface", small).rows
    assert set(rows["method"]) == {name.replace("300", "20") for name in UTK + OWN}
    assert set(rows[rows["method"].isin(OWN)]["network"]) == {"tiny", "tiny mini"}
    assert set(rows[rows["head"] == "hidden"]["network"]) == {"tiny"}
    assert set(rows["head"]) == {"linear", "hidden"} and set(rows["task"]) == {"gender", "race", "age", "domain"}
    scored = rows[rows["task"] != "domain"]
    assert rows["value"].between(0, 1).all() and (scored["value"].between(scored["low"], scored["high"])).all()


def test_own_statistics_are_of_the_rows_that_the_other_ways_learn_from_and_score(small, monkeypatch):
    seen, asked = [], adaptation.embed
    monkeypatch.setattr(adaptation, "embed", lambda net, part, **how: seen.append(part) or asked(net, part, **how))
    faces = adaptation.in_four(adaptation.fairface(), RACE.name)
    pixels = replace(faces, labels=faces.labels.assign(row=range(len(faces))))
    rows = adaptation.measure_own_statistics(pixels, pixels, TinyFace.from_pretrained(), 3)
    a, at_home, _, scored = adaptation.of_both(asked(TinyFace.from_pretrained(), pixels), pixels, 3)
    for part, wanted in zip(seen, (a, scored, at_home), strict=True):
        assert (part.labels["row"].to_numpy() == wanted.labels["row"].to_numpy()).all()
    assert not set(a.labels["row"]) & set(at_home.labels["row"]) and set(rows["method"]) == set(OWN)


def test_races_are_those_that_both_sets_know():
    many = toy_faces()
    rows = adaptation.in_four(many, RACE.name)
    known = rows.labels.groupby("race")["race_in_four"].first()
    assert known["Southeast Asian"] == known["East Asian"] == "Asian" and known["Black"] == "Black"
    assert pd.isna(known["Middle Eastern"]) and pd.isna(known["Latino_Hispanic"])


NAMES = ("adaptation_portraits", "adaptation_low_light", "adaptation_utkface")


@pytest.mark.parametrize("name", [name for name in NAMES if (REFERENCE / f"{name}.json").exists()])
def test_the_shipped_records_are_whole(name):
    record = recorded(name)
    rows, seeds = record.rows, record.about["seeds"]
    by = [column for column in ("head", "shift", "network", "method", "task", "metric") if column in rows]
    assert len(seeds) >= 3 and all(sorted(some) == seeds for _, some in rows.groupby(by)["seed"])
    assert set(rows["method"]) >= set({"adaptation_utkface": UTK}.get(name, FROZEN))
