"""Distillation: the loss, the same view for both, a run that learns and resumes, and weights as they are packaged."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from backbones import noise
from safetensors import safe_open
from tiny import COLOUR, TinyNet, faces

from facekit.commands import distill as command_module
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError, OutputError, TrainingError, WeightsError
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import PACKAGED_WEIGHTS, FaceNetMini
from facekit.models.embedding import embed, state_hash
from facekit.models.heads import Heads
from facekit.models.weights import read_weights
from facekit.tasks import GENDER, RACE, age_in_years
from facekit.training import checkpoint
from facekit.training.augment import Augment
from facekit.training.batches import Batch
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import plan
from facekit.transfer import distill as module
from facekit.transfer.distill import (
    LARGEST_WEIGHTS,
    Distillation,
    agreement,
    blends,
    cosine_loss,
    different_answers,
    export,
    more_pictures,
    same_view,
    teacher_views,
    unlabelled,
)


def tiny(seed: int) -> TinyNet:
    torch.manual_seed(seed)
    return TinyNet().eval()


def targets_of(teacher, photos) -> torch.Tensor:
    views = teacher_views(teacher, photos, "fp32", device="cpu", cache=False)
    return torch.from_numpy(np.stack([view.features for view in views]))


def train(student, photos, teacher, epochs=3, run=None, resume=False, **more):
    how = plan("scratch", list(student.stages), epochs, 0.02)
    config = TrainConfig(batch_size=8, seed=1, device="cpu", **more)
    return fit(student, Distillation(targets_of(teacher, photos)), photos, None, how, config, run, resume)


def test_loss_is_zero_for_equal_directions_and_bounded():
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    assert cosine_loss(x, x).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(x, 3 * x).item() == pytest.approx(0, abs=1e-6)
    assert cosine_loss(x, -x).item() == pytest.approx(2, abs=1e-6)
    assert cosine_loss(torch.eye(4), torch.eye(4).roll(1, 0)).item() == pytest.approx(1)


def test_gradient_of_the_loss_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    student.requires_grad_()
    assert torch.autograd.gradcheck(cosine_loss, (student, teacher))


def test_mirrored_photo_has_the_mirrored_target():
    images = noise(6, 8)
    targets = torch.arange(24, dtype=torch.float32).view(2, 6, 2)
    mirror = torch.tensor([False, True, True, False, True, False])
    views, chosen = same_view(images, targets, mirror)
    for row in range(6):
        expected = images[row].flip(2) if mirror[row] else images[row]
        assert torch.equal(views[row], expected)
        assert torch.equal(chosen[row], targets[int(mirror[row]), row])


class Lookup(torch.nn.Module):
    """A student that knows the teacher's answer to every view it may be shown, and remembers what it was shown."""

    def __init__(self, images: torch.Tensor, targets: torch.Tensor) -> None:
        super().__init__()
        self.known = {tuple(x.flatten().tolist()): t for x, t in zip(images, targets[0], strict=True)}
        self.known |= {tuple(x.flip(2).flatten().tolist()): t for x, t in zip(images, targets[1], strict=True)}
        self.seen: list[tuple] = []

    def forward(self, images):
        keys = [tuple(x.flatten().tolist()) for x in images]
        self.seen += keys
        return torch.stack([self.known[key] for key in keys])


def test_method_shows_both_views_and_asks_for_the_answer_to_the_view_shown():
    images = noise(20, 4)
    targets = F.normalize(torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0)), dim=2)
    student, method = Lookup(images, targets), Distillation(targets)
    rows = np.random.default_rng(0).permutation(20)
    torch.manual_seed(0)
    for _ in range(6):
        loss, logs = method.loss(student, Batch(images[torch.from_numpy(rows)], {}, rows))
        assert loss.item() == pytest.approx(0, abs=1e-6) and logs["cosine"].item() == pytest.approx(1, abs=1e-6)
    assert set(student.seen) == set(student.known)  # 40 views: a photo stays one-sided six times with chance 1 / 32
    torch.manual_seed(0)
    again = Lookup(images, targets)
    method.loss(again, Batch(images, {}, np.arange(20)))
    assert student.seen[:20] != again.seen  # other rows, other photos


def reused(in_features: int = 6) -> Heads:
    torch.manual_seed(5)
    return Heads(in_features, [GENDER, RACE]).requires_grad_(True)


def test_answers_differ_by_their_divergence_and_not_at_all_where_embeddings_agree():
    heads, rng = reused(), np.random.default_rng(0)
    student, teacher = (F.normalize(torch.from_numpy(rng.normal(size=(9, 6))).float(), dim=1) for _ in range(2))
    assert different_answers(heads, teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    expected = []
    for layer in heads.layers.values():
        p, q = (layer(x * 6**0.5).softmax(1).detach().double().numpy() for x in (teacher, student))
        expected.append((p * np.log(p / q)).sum(1).mean())
    assert different_answers(heads, student, teacher).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_reused_classifiers_add_their_part_to_the_loss_and_stay_as_they_are():
    images = noise(20, 4)
    targets = F.normalize(torch.randn(2, 20, 6, generator=torch.Generator().manual_seed(0)), dim=2)
    batch, student = Batch(images, {}, np.arange(20)), Lookup(images, targets.flip(1))
    losses = {}
    for weight in (None, 0.5, 2.0):
        method = Distillation(targets) if weight is None else Distillation(targets, reused(), weight)
        torch.manual_seed(0)
        losses[weight], logs = method.loss(student, batch)
        assert not any(p.requires_grad for p in method.parameters())
    assert losses[0.5] - losses[None] == pytest.approx(0.5 * logs["difference"].item(), rel=1e-5)
    assert losses[2.0] - losses[None] == pytest.approx(2.0 * logs["difference"].item(), rel=1e-5)


def test_reused_classifiers_need_classes_and_a_weight_that_is_not_negative():
    targets = torch.zeros(2, 4, 6)
    with pytest.raises(ConfigError, match="multiclass"):
        Distillation(targets, Heads(6, [age_in_years()]), 0.5)
    with pytest.raises(ConfigError, match="0 or more"):
        Distillation(targets, reused(), -0.1)


def test_embeddings_of_mirror_images_are_those_of_mirrored_photos():
    photos, teacher = faces(9), tiny(3)
    mirrored = FaceSet(photos.images[..., ::-1].copy(), photos.labels)
    one, other = teacher_views(teacher, photos, "fp32", device="cpu", cache=False)
    np.testing.assert_allclose(one.features, embed(teacher, photos, cache=False).features, atol=1e-6)
    np.testing.assert_allclose(other.features, embed(teacher, mirrored, cache=False).features, atol=1e-6)


def test_student_comes_closer_to_its_teacher_on_photos_it_has_not_seen():
    teacher, student = tiny(3), tiny(4)
    photos, unseen = faces(96), faces(48, seed=9, split="test")
    goal = embed(teacher, unseen, cache=False)
    before = agreement(embed(student, unseen, cache=False), goal)
    result = train(student, photos, teacher, epochs=12)
    cosines = result.history["train_cosine"]
    assert np.allclose(result.history["train_loss"], 1 - cosines, atol=1e-6)
    assert cosines.iloc[-1] > cosines.iloc[0] + 0.1
    assert agreement(embed(student, unseen, cache=False), goal) > before + 0.2
    assert result.best_epoch == 12  # without labels the last epoch is the one that counts


def test_stopped_run_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    photos, teacher = faces(24), tiny(3)
    whole, half = tiny(4), tiny(4)
    shifted = {"augment": Augment(flip=0, shift=0.1, brightness=0, contrast=0)}
    train(whole, photos, teacher, 4, **shifted)

    real, calls = Distillation.loss, []

    def stopping(self, model, batch):
        calls.append(1)
        if len(calls) == 8:  # in the middle of the third of four epochs, of three batches each
            raise KeyboardInterrupt
        return real(self, model, batch)

    monkeypatch.setattr(Distillation, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(half, photos, teacher, 4, tmp_path, **shifted)
    again = tiny(4)
    train(again, photos, teacher, 4, tmp_path, resume=True, **shifted)
    assert len(calls) == 8 + 6
    assert state_hash(again) == state_hash(whole)


def test_run_with_another_teacher_is_another_run(tmp_path):
    photos = faces(16)
    train(tiny(4), photos, tiny(3), 1, tmp_path)
    with pytest.raises(TrainingError, match="the method differ"):
        train(tiny(4), photos, tiny(5), 1, tmp_path, resume=True)


def test_checkpoints_do_not_hold_the_targets(tmp_path):
    photos = faces(16)
    train(tiny(4), photos, tiny(3), 1, tmp_path)
    (last,) = tmp_path.glob("last-*.safetensors")
    with safe_open(last, "pt") as file:
        assert not [key for key in list(file.keys()) if key.endswith("targets")]


def test_bad_inputs_are_refused():
    with pytest.raises(ConfigError, match="photos and mirror images"):
        Distillation(torch.zeros(4, 6))
    with pytest.raises(ConfigError, match="float32"):
        Distillation(torch.zeros(2, 4, 6, dtype=torch.float64))
    with pytest.raises(DataError, match="not finite"):
        Distillation(torch.full((2, 4, 6), torch.nan))
    labels = pd.DataFrame({"split": ["train"] * 3})
    with pytest.raises(DataError, match="not of the same photos"):
        agreement(FeatureSet(np.ones((3, 4)), labels), FeatureSet(np.ones((3, 5)), labels))
    with pytest.raises(ConfigError, match="no task to validate"):
        photos = faces(8)
        method = Distillation(targets_of(tiny(3), photos))
        fit(tiny(4), method, photos, photos, plan("scratch", list(TinyNet().stages), 1, 0.1))


# --- more pictures than photos


def plain_faces(*values: int) -> FaceSet:
    pixels = np.stack([np.full((3, 8, 8), value, np.uint8) for value in values])
    return FaceSet(pixels, pd.DataFrame({"split": ["train"] * len(values)}))


def test_blends_lie_between_any_two_pictures_of_all_sets():
    mixed = blends(400, 0, plain_faces(0, 100), plain_faces(250)).images
    assert (mixed == mixed[:, :1, :1, :1]).all()  # pictures of one colour make pictures of one colour
    values = mixed[:, 0, 0, 0].astype(int)
    assert values.min() < 10 and values.max() > 240
    # Of the three pairs only 100 and 250 never come below 100, only 0 and 100 never above: a third each, and for
    # 0 and 250 two fifths lie below 100.
    assert (values < 100).mean() == pytest.approx((1 + 0.4) / 3, abs=0.08)


def test_blends_do_not_depend_on_how_the_pictures_lie_in_sets():
    one, other = faces(5), faces(4, seed=1)
    apart, together = blends(20, 3, one, other), blends(20, 3, unlabelled(np.concatenate([one.images, other.images])))
    assert np.array_equal(apart.images, together.images) and "colour" not in apart.labels
    assert not np.array_equal(apart.images, blends(20, 4, one, other).images)


def test_one_picture_alone_cannot_be_blended():
    with pytest.raises(DataError, match="two pictures"):
        blends(3, 0, plain_faces(7))


def test_more_pictures_are_both_styles_and_blends_and_none_unless_asked_for():
    photos = FaceSet(noise(4, 32).numpy(), pd.DataFrame({"split": ["train"] * 4}))
    assert more_pictures(photos, 0, 0, 0) == []
    drawn, sketches, blended = more_pictures(photos, 3, 5, 0)
    assert [len(part) for part in (drawn, sketches, blended)] == [2, 1, 5]
    assert not np.array_equal(drawn.images[0], sketches.images[0])
    assert all(part.images.shape[1:] == (3, 32, 32) for part in (drawn, sketches, blended))


def test_portraits_to_learn_from_are_not_those_of_the_lessons():
    photos = FaceSet(noise(2, 32).numpy(), pd.DataFrame({"split": ["train"] * 2}))
    (drawn,) = more_pictures(photos, 1, 0, 0)
    shown = render_portraits((20, 20, 20), seed=0, size=32, per_person=1)
    assert not (shown.images == drawn.images).all(axis=(1, 2, 3)).any()


# --- weights as they are packaged


@pytest.fixture(scope="module")
def student() -> FaceNetMini:
    torch.manual_seed(0)
    model = FaceNetMini()
    for module_ in model.modules():
        if isinstance(module_, torch.nn.BatchNorm2d):
            module_.running_mean.normal_(0, 0.1)
            module_.running_var.uniform_(0.5, 2)
    return model.eval()


def test_export_changes_embeddings_by_less_than_a_hundredth(student, tmp_path):
    path = export(student, tmp_path / "mini.safetensors", {"seed": 3})
    loaded = FaceNetMini.from_pretrained(path)
    images = noise(4, 96)
    with torch.inference_mode():
        difference = (loaded(images) - student(images)).norm(dim=1)
    assert difference.max() < 1e-2
    assert path.stat().st_size <= LARGEST_WEIGHTS
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["about"]) == {"seed": 3}
        dtypes = {file.get_tensor(name).dtype for name, _ in student.named_parameters()}
    assert dtypes == {torch.float16}
    for name, value in student.named_buffers():
        assert torch.equal(dict(loaded.named_buffers())[name], value)


def test_export_refuses_what_cannot_be_packaged(student, tmp_path, monkeypatch):
    broken = FaceNetMini()
    with torch.no_grad():
        broken.linear.weight[0, 0] = 1e6  # infinite as float16
    with pytest.raises(WeightsError, match=re.escape("linear.weight")):
        export(broken, tmp_path / "mini.safetensors")
    monkeypatch.setattr(module, "LARGEST_WEIGHTS", 1000)
    with pytest.raises(WeightsError, match="1,000"):
        export(student, tmp_path / "mini.safetensors")
    assert not list(tmp_path.iterdir())


def test_packaged_weights_are_whole_small_and_say_how_they_were_made():
    assert PACKAGED_WEIGHTS.stat().st_size <= LARGEST_WEIGHTS
    model = FaceNetMini.from_pretrained()
    assert all(value.isfinite().all() for value in model.state_dict().values())
    with torch.inference_mode():
        embeddings = model(noise(3, 96))
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    with safe_open(PACKAGED_WEIGHTS, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert about["teacher"] == FaceNet.name and about["source"] == "FairFace" and about["options"]["seed"] >= 0


# --- the command


def weights_of_run(out) -> TinyNet:
    """The student as the run in `out` left it after its last whole epoch."""
    student = TinyNet()
    student.load_state_dict(checkpoint.read(out / checkpoint.BEST))
    return student.eval()


@pytest.fixture
def command(tmp_path, monkeypatch):
    """The command with tiny networks in place of FaceNet and facenet-mini, and a stored set; returns a function."""

    class Teacher(TinyNet):
        @classmethod
        def from_pretrained(cls, path=None):
            return tiny(3)

    class Student(TinyNet):
        @classmethod
        def from_pretrained(cls, path):
            model = cls()
            model.load_state_dict(read_weights(path))
            return model.eval()

    monkeypatch.setattr(command_module, "FaceNet", Teacher)
    monkeypatch.setattr(command_module, "FaceNetMini", Student)
    parts = [faces(40), faces(8, 1, "validation"), faces(12, 2, "test")]
    labels = pd.concat([part.labels for part in parts])
    pixels = np.concatenate([part.images for part in parts])
    data = FaceSet(pixels, labels).resized(32).save(tmp_path / "set")  # the smallest portraits are as large

    def run(out="run", **options):
        options = {"lr": 0.02, "batch_size": 8, "precision": "fp32", "device": "cpu"} | options
        return command_module.distill(data, tmp_path / out, **options)

    return run


def test_command_leaves_weights_configuration_and_scores(command, tmp_path, capsys):
    assert command(epochs=8) == 0
    out = tmp_path / "run"
    scores, config = (json.loads((out / name).read_text()) for name in ("metrics.json", "config.json"))
    assert config["options"]["epochs"] == 8 and config["trained_on"] == 40
    assert set(scores["cosine"]) == {"validation", "test"} and scores["cosine"]["test"] > 0.3
    assert "cosine to the teacher on 12 photos of test" in capsys.readouterr().out
    last = weights_of_run(out)
    with safe_open(out / command_module.WEIGHTS, "pt") as file:
        assert torch.equal(file.get_tensor("stem.0.weight"), last.stem[0].weight.half())
        assert json.loads(file.metadata()["about"])["teacher_sha256"] == state_hash(tiny(3))


def test_command_leaves_the_files_of_others_and_of_another_run(command, tmp_path):
    (tmp_path / "own").mkdir()
    for name in (command_module.WEIGHTS, "config.json", "metrics.json", "last.pt", "log.csv"):
        (tmp_path / "own" / name).write_text("mine")
        with pytest.raises(OutputError, match=f"{name} is in the way"):
            command("own", epochs=1)
        assert (tmp_path / "own" / name).read_text() == "mine"
        (tmp_path / "own" / name).unlink()
    assert not list((tmp_path / "own").iterdir())
    command("run", epochs=1)
    before = (tmp_path / "run" / "config.json").read_bytes()
    with pytest.raises(TrainingError, match="another run"):
        command("run", epochs=2, resume=True)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_command_repeated_ends_in_the_same_weights_and_never_mixes_runs(command, tmp_path):
    command("one", epochs=2)
    command("two", epochs=2)
    one = weights_of_run(tmp_path / "one")
    assert state_hash(one) == state_hash(weights_of_run(tmp_path / "two"))
    with pytest.raises(TrainingError, match="already holds a run"):
        command("one", epochs=2)
    command("one", epochs=2, resume=True)  # nothing is left to do
    assert state_hash(weights_of_run(tmp_path / "one")) == state_hash(one)
    with pytest.raises(TrainingError, match="plan differ"):
        command("one", epochs=3, resume=True)


def test_command_learns_from_more_pictures_than_photos(command, tmp_path):
    command(epochs=1, portraits=4, blended=6)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["trained_on"] == 40 and config["pictures"] == 50
    assert config["options"]["portraits"] == 4 and config["options"]["blended"] == 6


def test_command_goes_on_from_weights_and_keeps_answers(command, tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "ANSWERED", (COLOUR,))
    command("one", epochs=2)
    start = tmp_path / "one" / command_module.WEIGHTS
    command("two", epochs=1, lr=1e-6, weights=start)
    moved = (
        read_weights(tmp_path / "two" / command_module.WEIGHTS)["stem.0.weight"] - read_weights(start)["stem.0.weight"]
    ).abs()
    assert moved.max() < 1e-3
    command("three", epochs=2, answers=0.5, weights=start)
    about = json.loads((tmp_path / "three" / "config.json").read_text())
    assert about["options"]["answers"] == 0.5 and about["started_from"]["options"]["epochs"] == 2
    assert "train_difference" in (tmp_path / "three" / "log.csv").read_text().splitlines()[0]


def test_command_refuses_a_set_without_training_photos(tmp_path, command):
    with pytest.raises(DataError, match="nothing to learn from"):
        command(photos=1)
