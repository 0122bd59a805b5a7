"""Pictures beside faces in both profiles: which, how large, with which tasks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import trunk

from facekit.course import profiles as course_module
from facekit.course.profiles import DRAWN_RECIPE, REAL_SIZES, real_domains, start
from facekit.data.drawn.lesions import render_lesions
from facekit.data.drawn.objects import render_objects
from facekit.data.drawn.words import render_words
from facekit.data.readers.captcha import ALPHABET
from facekit.data.readers.cifar10 import CIFAR10_CLASSES
from facekit.data.readers.isic import ISIC_CLASSES
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.models.adapters import DomainNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import Phase, Plan
from facekit.transfer.adaptation import low_light
from facekit.transfer.domains import PerDomain

SIDES = np.repeat(["train", "validation", "test"], 12)


def toy(column: str, values: list[str], size: tuple[int, int], classes: tuple[str, ...] = ()) -> FaceSet:
    pixels = np.random.default_rng(0).integers(0, 256, (len(SIDES), 3, *size), dtype=np.uint8)
    labels = pd.DataFrame({column: np.resize(values, len(SIDES)), "split": SIDES})
    return FaceSet(pixels, labels, {"classes": {column: list(classes)}} if classes else {})


@pytest.fixture
def real_sets(monkeypatch) -> None:
    """Toy pictures of the sizes and labels of the packed real sets, in profile full."""
    sets = {
        "lesions": toy("diagnosis", list(ISIC_CLASSES[:5]), (128, 128), ISIC_CLASSES),
        "objects": toy("object", list(CIFAR10_CLASSES), (32, 32), CIFAR10_CLASSES),
        "words": toy("text", ["22b7y", "gm345", "8wxpn"], (50, 200)),
    }
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    monkeypatch.setenv("FACEKIT_DEVICE", "cpu")
    monkeypatch.setattr(course_module, "photos", sets.__getitem__)


def test_on_a_laptop_skin_things_and_words_are_drawn():
    kinds = start("08").domains()
    drawn = {
        "skin": render_lesions((400, 0, 200), size=32),
        "things": render_objects((400, 0, 200), size=32),
        "words": render_words((400, 0, 200), alphabet="2345678", lengths=(2, 3), size=(32, 64)),
    }
    assert list(kinds.pictures) == [domain.name for domain in kinds.domains] == list(drawn)
    for name, pictures in drawn.items():
        assert kinds.pictures[name].content_hash() == pictures.content_hash()
    assert kinds.recipe == DRAWN_RECIPE
    assert {name: len(part) for name, part in kinds.split("test").items()} == dict.fromkeys(drawn, 200)


def test_in_full_they_are_photos_and_captchas_and_the_skin_with_boxes_is_drawn(real_sets):
    kinds = start("08").domains()
    assert list(kinds.pictures) == [domain.name for domain in kinds.domains] == ["skin", "lesions", "things", "words"]
    assert [task.name for domain in kinds.domains for task in domain.tasks] == [
        "lesion",
        "box",
        "diagnosis",
        "object",
        "text",
    ]
    tasks = {domain.name: domain.tasks[0] for domain in kinds.domains}
    assert tasks["lesions"].classes == ISIC_CLASSES and tasks["words"].classes == tuple(ALPHABET)
    for name, size in REAL_SIZES.items():
        assert kinds.pictures[name].images.shape[2:] == size
    for domain in kinds.domains:  # every label is one that the task knows
        for task in domain.tasks:
            assert task.known(kinds.pictures[domain.name].targets([task])[task.name]).any()


def test_the_recipe_gives_each_domain_as_many_rows_alone_and_beside_the_drawn_skin(real_sets):
    real, kinds = real_domains(), start("08").domains()
    assert real.recipe.batch_size / len(real.domains) == kinds.recipe.batch_size / len(kinds.domains)
    assert real.recipe.batch_size % len(real.domains) == 0


def test_no_text_is_mirrored_and_one_step_sees_all_domains(real_sets):
    kinds = start("08").domains()
    assert kinds.recipe.augment["words"].flip == 0 and set(kinds.recipe.augment) <= set(kinds.pictures)
    network = trunk()
    network.image_size = 32
    net = DomainNet(network, kinds.domains)
    rates = dict.fromkeys(kinds.pictures, 1e-3)
    batch = kinds.recipe.batch_size
    train = kinds.split("train")
    config = TrainConfig(batch_size=batch, augment=kinds.recipe.augment, steps=1)
    history = fit(
        net, PerDomain(kinds.domains), train, None, Plan("one step", (Phase("all", 1, rates),)), config
    ).history
    losses = [f"train_{domain.name}_{task.name}" for domain in kinds.domains for task in domain.tasks]
    assert torch.isfinite(torch.tensor(history[losses].to_numpy())).all()


def test_a_set_that_is_not_there_is_named(monkeypatch, tmp_path):
    course_module.photos.cache_clear()
    monkeypatch.setenv("FACEKIT_DATA", str(tmp_path))
    with pytest.raises(DataError, match="ISIC.md"):
        real_domains()


def test_two_domains_are_photos_and_sketches_of_other_people_or_real_photos_and_others_in_low_light(monkeypatch):
    monkeypatch.setattr(course_module, "TWO_DOMAINS", dict.fromkeys(("laptop", "full"), (6, 0, 4)))
    drawn = start("10").two_domains()
    for part in (drawn.source, drawn.target):
        assert part.labels["split"].value_counts().to_dict() == {"train": 6, "test": 4}
        for task in drawn.tasks:
            assert (part.targets([task])[task.name] >= 0).all()
    assert not set(drawn.source.labels["identity"]) & set(drawn.target.labels["identity"])
    assert "(sketch)" in drawn.about and "6 to learn from and 4 to test" in drawn.about and "glasses" in drawn.about

    faces = toy("gender", ["Male", "Female"], (160, 160))
    faces = FaceSet(np.maximum(faces.images, 100), faces.labels.assign(race="White", age="3-9", row=range(len(faces))))
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    monkeypatch.setenv("FACEKIT_DEVICE", "cpu")
    monkeypatch.setattr(course_module, "photos", {"fairface": faces}.__getitem__)
    real = start("10").two_domains()
    assert len(real.source) == len(real.target) == 10 and real.source.images.min() == 100
    assert real.target.images.mean() < 0.3 * real.source.images.mean()
    assert not set(real.source.labels["row"]) & set(real.target.labels["row"])
    # Dark at the size that the network sees: noise is not made smaller with the photo.
    dark = low_light(faces.select(real.target.labels["row"]).resized(FaceNetMini.image_size), 0.25, 0.04, seed=0)
    assert (real.target.images == dark.images).all() and "quarter of the light" in real.about


def test_an_audit_has_the_same_parts_in_both_profiles_and_leaves_the_test_photos_alone(monkeypatch):
    monkeypatch.setattr(course_module, "AUDIT", (12, 6, 10))
    drawn = start("12").audit_features()
    wanted = {"train": 12, "test": 10, "validation": 6}
    assert drawn.labels["split"].value_counts().to_dict() == wanted
    assert {"race", "gender", "age"} <= set(drawn.labels)

    # 90 rows, of which the first 60 are to train; nothing but the split tells which they were.
    labels = pd.DataFrame({"gender": "Male", "row": range(90), "split": np.repeat(["train", "validation", "test"], 30)})
    labels.loc[30:59, "split"] = "train"
    photos = FaceSet(np.zeros((90, 3, 160, 160), np.uint8), labels)
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    monkeypatch.setenv("FACEKIT_DEVICE", "cpu")
    monkeypatch.setattr(course_module, "photos", {"fairface": photos}.__getitem__)
    monkeypatch.setattr(course_module, "embed", lambda _, faces, flip: FeatureSet(np.ones((90, 4), "f4"), faces.labels))
    monkeypatch.setattr(course_module.Course, "backbone", lambda self: None)
    real = start("12").audit_features()
    assert real.labels["split"].value_counts().to_dict() == wanted
    assert (
        real.labels["row"].is_unique
        and real.labels["row"].max() < 60
        and (photos.labels["split"] == "test").sum() == 30
    )
    pd.testing.assert_frame_equal(real.labels, start("12").audit_features().labels)
    assert list(real.labels["row"]) != sorted(real.labels["row"]), "no part is one end of the set"


def test_what_a_small_network_is_taught_is_never_what_it_is_asked(monkeypatch):
    monkeypatch.setattr(course_module, "SOURCES", 60)
    monkeypatch.setattr(course_module, "TARGETS", dict.fromkeys(("laptop", "full"), (20, 15)))
    course = start("13")
    sources, targets = course.sources(), course.targets()
    for pictures, task in sources.values():
        assert pictures.images.shape == (60, 3, 32, 32) and set(pictures.labels["split"]) == {"train"}
        assert (pictures.targets([task])[task.name] >= 0).all()
    for pictures, task in targets.values():
        assert pictures.labels["split"].value_counts().to_dict() == {"train": 20, "test": 15}
        assert (pictures.targets([task])[task.name] >= 0).all()
    for source, target in (("things", "things"), ("letters", "digits")):
        assert not set(sources[source][1].classes) & set(targets[target][1].classes)
    assert list(course.networks()) == ["facenet-mini"]


def test_in_full_the_targets_are_photos(real_sets, monkeypatch):
    monkeypatch.setattr(course_module, "TARGETS", dict.fromkeys(("laptop", "full"), (10, 5)))
    given = course_module.photos
    faces = toy("gender", ["Male", "Female"], (160, 160))
    faces.labels["race"] = "White"
    monkeypatch.setattr(course_module, "photos", lambda name: faces if name == "fairface" else given(name))
    targets = start("13").targets()
    assert list(targets) == ["gender", "race", "things", "lesions"]
    for pictures, task in targets.values():
        assert pictures.labels["split"].value_counts().to_dict() == {"train": 10, "test": 5}
        assert (pictures.targets([task])[task.name] >= 0).all()


def test_a_network_whose_packages_are_missing_is_left_out_with_a_line(real_sets, monkeypatch, capsys):
    def missing() -> None:
        raise ConfigError("efficientnet-lite0 needs two more packages")

    monkeypatch.setattr(course_module.FaceNet, "from_pretrained", lambda: "FaceNet")
    monkeypatch.setattr(course_module.EfficientNetLite0, "from_pretrained", missing)
    assert list(start("13").networks()) == ["FaceNet", "facenet-mini"]
    assert "is left out: efficientnet-lite0 needs two more packages" in capsys.readouterr().out
    monkeypatch.setattr(course_module.EfficientNetLite0, "from_pretrained", lambda: "ImageNet")
    assert list(start("13").networks()) == ["FaceNet", "ImageNet", "facenet-mini"]


def test_fewer_faces_are_the_first_of_the_many(monkeypatch):
    monkeypatch.setenv("FACEKIT_PROFILE", "laptop")
    course = start("02")
    few, many = course.faces(sizes=(6, 0, 0)), course.faces(sizes=(20, 5, 5)).split("train")
    assert np.array_equal(few.images, many.images[:6])
    assert few.labels.equals(many.labels[:6].reset_index(drop=True))
