"""Augmentation: same draws same pixels, every photo on its own, and each change does what its name says."""

from dataclasses import fields, replace

import pytest
import torch
from backbones import noise

from facekit.errors import ConfigError
from facekit.tasks import GENDER, Task
from facekit.training.augment import STRONG, Augment, augment_for

OFF = {"flip": 0, "shift": 0, "brightness": 0, "contrast": 0, "erase": 0, "turn": 0, "scale": 0}
IMAGES = noise(64, 16)


def apply(images=IMAGES, seed=0, **changes):
    return Augment(**OFF | changes)(images, torch.Generator().manual_seed(seed))


def test_nothing_switched_on_changes_nothing():
    assert torch.equal(apply(), IMAGES)


@pytest.mark.parametrize(
    "change",
    [
        {"flip": 0.5},
        {"shift": 0.2},
        {"brightness": 0.3},
        {"contrast": 0.5},
        {"erase": 1},
        {"turn": 20},
        {"scale": 0.3},
    ],
)
def test_each_change_keeps_form_is_repeatable_and_leaves_the_original_alone(change):
    before = IMAGES.clone()
    out = apply(**change)
    assert out.dtype == torch.uint8 and out.shape == IMAGES.shape
    assert torch.equal(out, apply(**change)) and not torch.equal(out, apply(seed=1, **change))
    assert torch.equal(IMAGES, before) and not torch.equal(out, before)


def test_flip_mirrors_a_part_of_the_photos():
    out = apply(flip=0.5)
    mirrored = (out == IMAGES.flip(3)).flatten(1).all(1)
    same = (out == IMAGES).flatten(1).all(1)
    assert (mirrored ^ same).all() and 16 < mirrored.sum() < 48
    assert torch.equal(apply(flip=1), IMAGES.flip(3))


def test_shift_moves_whole_photos_by_at_most_what_was_allowed():
    ramp = torch.arange(16, dtype=torch.uint8).expand(32, 3, 16, 16)
    moved = apply(ramp, shift=0.2)
    offset = moved[:, 0, 0, 8].int() - 8
    assert offset.abs().max() == 3 and len(offset.unique()) > 3  # 0.2 × 16 pixels, rounded
    expected = (torch.arange(16) + offset[:, None]).clamp(0, 15).to(torch.uint8)
    assert torch.equal(moved, expected[:, None, None, :].expand_as(moved))


def test_brightness_moves_the_mean_and_contrast_the_spread():
    grey = (IMAGES // 4 + 96).float()
    bright = apply(grey.to(torch.uint8), brightness=0.2).float()
    change = (bright - grey).mean((1, 2, 3))
    assert change.abs().max() <= 51 + 1 and change.std() > 10
    assert torch.allclose(bright.std((1, 2, 3)), grey.std((1, 2, 3)), atol=0.5)
    hard = apply(grey.to(torch.uint8), contrast=0.5).float()
    assert torch.allclose(hard.mean((1, 2, 3)), grey.mean((1, 2, 3)), atol=0.5)
    ratio = hard.std((1, 2, 3)) / grey.std((1, 2, 3))
    assert 0.49 < ratio.min() < 0.7 and 1.3 < ratio.max() < 1.51


def test_erase_fills_one_square_with_the_mean_colour():
    out = apply(erase=1)
    changed = (out != IMAGES).any(1)
    assert (changed.sum((1, 2)) <= (0.4 * 16 + 1) ** 2).all()
    mean = IMAGES.float().mean((2, 3)).round().to(torch.uint8)
    where = changed.unsqueeze(1).expand_as(out)
    assert torch.equal(out[where], mean[:, :, None, None].expand_as(out)[where])


def test_a_photo_is_changed_on_its_own():
    same = IMAGES[:1].expand(32, -1, -1, -1)
    assert len(apply(same, brightness=0.5).flatten(1).unique(dim=0)) > 20


def test_the_interpolated_way_mirrors_and_shifts_as_the_other_does():
    """At a turn too small to be seen: whole pixels come back to themselves, from the same draws."""
    wide = noise(64, 24)[:, :, :16]
    for changes in ({"flip": 0.5}, {"shift": 0.2}, {"flip": 0.5, "shift": 0.3, "brightness": 0.2, "erase": 0.5}):
        assert torch.equal(apply(wide, **changes), apply(wide, turn=1e-6, **changes))


def test_a_quarter_turn_is_one():
    """The largest angle, drawn with a generator's stand-in; the centre stays where it is."""
    half, one, none = torch.full((64,), 0.5), torch.ones(64), torch.zeros(64)
    quarter = Augment(**OFF | {"turn": 90})
    for draw, times in ((one, 1), (none, -1), (half, 0)):
        found = quarter._turned(IMAGES, one, half.expand(2, -1), draw, half)
        assert torch.equal(found, torch.rot90(IMAGES, times, (2, 3)))


def test_turned_photos_keep_their_form_where_they_are_not_square():
    """A disc turned about its centre stays a disc in a wide photo."""
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(64) - 31.5, indexing="ij")
    disc = ((x**2 + y**2).sqrt() < 10).to(torch.uint8).mul(200).expand(8, 3, 32, 64)
    changed = (apply(disc, turn=90).int() - disc.int()).abs() > 100
    assert changed.float().mean() < 0.01


def test_what_is_seen_grows_by_at_most_the_factor_and_as_often_shrinks():
    y, x = torch.meshgrid(torch.arange(64) - 31.5, torch.arange(64) - 31.5, indexing="ij")
    disc = ((x**2 + y**2).sqrt() < 16).to(torch.uint8).mul(200).expand(200, 3, 64, 64)
    factor = ((apply(disc, scale=0.25)[:, 0] > 100).sum((1, 2)) / (disc[0, 0] > 100).sum()).sqrt()
    assert 0.79 < factor.min() < 0.85 and 1.2 < factor.max() < 1.26 and 0.4 < (factor > 1).float().mean() < 0.6


def test_usual_changes_are_the_same_whether_a_photo_is_turned_or_not():
    """Light and covers are drawn before, and so do not depend on what else is switched on."""
    grey = torch.full_like(IMAGES, 128)
    plain, turned = (apply(grey, brightness=0.3, erase=0.5, turn=angle) for angle in (0, 30))
    assert torch.equal(plain, turned), "a grey photo that is turned is the same grey photo"


def test_no_change_is_made_that_spoils_a_label():
    box, text = Task("face", "box"), Task("word", "string", ("a", "b"))
    for strong in (False, True):
        usual = STRONG if strong else Augment()
        assert augment_for([GENDER], strong) == usual
        assert augment_for([text], strong) == replace(usual, flip=0)
        assert augment_for([text, box], strong) == replace(usual, flip=0, shift=0, turn=0, scale=0)
    assert {field.name for field in fields(Augment) if getattr(STRONG, field.name)} == set(OFF)


@pytest.mark.parametrize(
    "wrong",
    [
        {"flip": 1.1},
        {"shift": -0.1},
        {"shift": 0.6},
        {"brightness": 2},
        {"erase": -1},
        {"turn": 181},
        {"turn": -1},
        {"scale": 1.1},
    ],
)
def test_impossible_amounts_are_refused(wrong):
    with pytest.raises(ConfigError):
        Augment(**wrong)


def test_photos_must_be_bytes():
    with pytest.raises(ConfigError, match="uint8"):
        Augment()(IMAGES.float(), torch.Generator())
