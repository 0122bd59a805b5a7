"""Recording of the drawn domains: every method and seed on the same pictures; the shipped record is whole."""

import pandas as pd
import pytest
from test_profiles import real_sets  # noqa: F401
from tiny import trunk

from facekit import records
from facekit.commands.cli import main
from facekit.course.profiles import DRAWN_DOMAINS, drawn_pictures
from facekit.records import ROOT, recorded
from facekit.studies import domains, domains_real
from facekit.studies.common import SEEDS
from facekit.studies.domains import RECIPE
from facekit.studies.domains_real import WAYS, real_table
from facekit.transfer.domains import METHODS

METRICS = {("lesion", "accuracy"), ("box", "iou"), ("object", "accuracy"), ("text", "character_error_rate")}


class TinyMini:
    """The tiny network in facenet-mini's place."""

    @staticmethod
    def from_pretrained():
        network = trunk()
        network.image_size = 32
        return network


def whole(rows, seeds) -> bool:
    """Whether each method and seed has each score, once."""
    counts = rows.groupby(["method", "seed", "task", "metric"]).size()
    complete = {(m.name, s, *metric) for m in METHODS for s in seeds for metric in METRICS}
    return (counts == 1).all() and complete <= set(counts.index)


def test_every_method_and_seed_is_recorded_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(domains, "FaceNetMini", TinyMini)
    monkeypatch.setattr(records, "REFERENCE", tmp_path)
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    options = ["--train", "60", "--test", "20", "--steps", "2", "--seeds", "[1,3]"]
    assert main(["record", "domains", *options]) == 0
    record = recorded("domains_drawn", tmp_path)
    assert whole(record.rows, (1, 3))
    assert record.about["command"] == ("python -m facekit record domains --train 60 --test 20 --steps 2 --seeds [1,3]")
    monkeypatch.setattr("facekit.transfer.domains.serve", None)  # what is kept is not measured again
    assert main(["record", "domains", *options]) == 0


def test_the_pictures_have_what_the_domains_ask_for():
    pictures = drawn_pictures((20, 0, 10))
    assert list(pictures) == [domain.name for domain in DRAWN_DOMAINS]
    for domain in DRAWN_DOMAINS:
        for task in domain.tasks:
            assert task.known(pictures[domain.name].targets([task])[task.name]).any()


def test_the_shipped_record_is_whole():
    record = recorded("domains_drawn")
    assert whole(record.rows, SEEDS) and str(RECIPE.steps) in record.about["what"]


# --- photos and captchas ---------------------------------------------------------------------------------------------

REAL_METRICS = {("diagnosis", "accuracy"), ("object", "accuracy")}
REAL_METRICS |= {("text", "character_error_rate"), ("text", "exact_match")}
SHEETS = {"lesions": "ISIC", "things": "CIFAR10", "words": "CAPTCHA"}


@pytest.fixture
def real(real_sets, monkeypatch):  # noqa: F811
    """Toy sets in the places of the real ones."""
    monkeypatch.setattr(domains, "FaceNetMini", TinyMini)


def test_real_domains_are_recorded_on_both_sides_with_intervals_and_kept(real, tmp_path, monkeypatch):
    monkeypatch.setattr(records, "REFERENCE", tmp_path)
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    options = ["record", "domains_real", "--steps", "1", "--seeds", "[0,4]"]
    assert main(options) == 0
    record = recorded("domains_real", tmp_path)
    rows = record.rows
    assert whole_real(rows, (0, 4)) and (rows["low"] <= rows["value"]).all() and (rows["value"] <= rows["high"]).all()
    assert set(rows["n"]) == {12}
    assert record.about["command"].endswith("record domains_real --steps 1 --seeds [0,4]")
    assert "lesions 12/12/12" in record.about["data"]
    monkeypatch.setattr(domains_real, "serve", None)  # what is kept is not measured again
    assert main(options) == 0
    monkeypatch.setenv("FACEKIT_PROFILE", "laptop")
    assert main(options) == 2


def test_a_table_gives_mean_and_standard_error_over_the_seeds_of_test_pictures():
    rows = pd.DataFrame(
        [
            ("a", 0, "test", 0.5, 1000),
            ("a", 1, "test", 0.7, 1000),
            ("a", 0, "validation", 0.0, 1000),
            ("b", 0, "test", 0.25, 20),
            ("b", 1, "test", 0.25, 20),
        ],
        columns=["method", "seed", "split", "value", "parameters"],
    ).assign(domain="things", metric="balanced_accuracy")
    assert real_table(rows, "things").splitlines() == [
        "| method | balanced accuracy | parameters a domain adds |",
        "| --- | --- | --- |",
        "| a | 0.600 ± 0.100 | 1,000 |",
        "| b | 0.250 ± 0.000 | 20 |",
    ]


def whole_real(rows, seeds) -> bool:
    """Whether each method, seed and side has each score, once."""
    counts = rows.groupby(["method", "seed", "split", "task", "metric"]).size()
    sides = ("validation", "test")
    complete = {(m.name, s, side, *metric) for m in WAYS for s in seeds for side in sides for metric in REAL_METRICS}
    return (counts == 1).all() and complete <= set(counts.index)


def test_the_shipped_real_record_is_whole_and_the_datasheets_say_what_it_says():
    record = recorded("domains_real")
    assert whole_real(record.rows, SEEDS)
    for domain, sheet in SHEETS.items():
        text = (ROOT / "datasets" / f"{sheet}.md").read_text(encoding="utf-8")
        assert real_table(record.rows, domain) in text and "record domains_real" in text
    for domain, sheet in (("lesions", "ISIC"), ("things", "CIFAR10")):
        text = (ROOT / "datasets" / f"{sheet}.md").read_text(encoding="utf-8")
        rows = record.rows[record.rows["domain"] == domain].query("split == 'test' and metric == 'accuracy'")
        table = rows.pivot(index="seed", columns="method", values="value")
        lost = -100 * table.sub(table["a network each"], axis=0)
        for method in ("parallel adapters", "frozen, own norms", "one network, own norms"):
            assert f"{lost[method].mean():.1f} ± {lost[method].sem():.1f}" in text
        # The interval over the pictures, by its half.
        half = 100 * (rows["high"] - rows["low"]).mean() / 2
        assert f"± {half:.0f} points" in text
