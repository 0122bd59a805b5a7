"""Recording of the drawn domains: every method and seed on the same pictures; the shipped record is whole."""

from facekit import recording_domains, records
from facekit.cli import main
from facekit.recording_domains import DOMAINS, RECIPE, SEEDS, drawn_pictures, ways_costs, ways_figure
from facekit.records import recorded
from facekit.transfer.domains import METHODS
from tests.test_adapters import trunk

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
    monkeypatch.setattr(recording_domains, "FaceNetMini", TinyMini)
    monkeypatch.setattr(records, "REFERENCE", tmp_path)
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    options = ["--train", "60", "--test", "20", "--steps", "2", "--seeds", "[1,3]"]
    assert main(["record", "domains", *options]) == 0
    record = recorded("domains_drawn", tmp_path)
    assert whole(record.rows, (1, 3))
    costs = ways_costs(record.rows)
    assert costs.loc["a network each", "share"] == 1 and costs["share"].idxmin() in ("frozen, heads", "one network")
    assert len(ways_figure(record.rows).axes) == 3
    assert record.about["command"] == ("python -m facekit record domains --train 60 --test 20 --steps 2 --seeds [1,3]")
    monkeypatch.setattr(recording_domains, "compare_domains", None)  # what is kept is not measured again
    assert main(["record", "domains", *options]) == 0


def test_the_pictures_have_what_the_domains_ask_for():
    pictures = drawn_pictures((20, 0, 10))
    assert list(pictures) == [domain.name for domain in DOMAINS]
    for domain in DOMAINS:
        for task in domain.tasks:
            assert task.known(pictures[domain.name].targets([task])[task.name]).any()


def test_the_shipped_record_is_whole():
    record = recorded("domains_drawn")
    assert whole(record.rows, SEEDS) and str(RECIPE.steps) in record.about["what"]
