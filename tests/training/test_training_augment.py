"""Augmentation: same draws same pixels, every photo on its own, and each change does what its name says."""

import pytest
import torch
from backbones import noise

from facekit.errors import ConfigError
from facekit.training.augment import Augment

OFF = {"flip": 0, "shift": 0, "brightness": 0, "contrast": 0, "erase": 0}
IMAGES = noise(64, 16)


def apply(images=IMAGES, seed=0, **changes):
    return Augment(**OFF | changes)(images, torch.Generator().manual_seed(seed))


def test_nothing_switched_on_changes_nothing():
    assert torch.equal(apply(), IMAGES)


@pytest.mark.parametrize(
    "change", [{"flip": 0.5}, {"shift": 0.2}, {"brightness": 0.3}, {"contrast": 0.5}, {"erase": 1}]
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


@pytest.mark.parametrize("wrong", [{"flip": 1.1}, {"shift": -0.1}, {"shift": 0.6}, {"brightness": 2}, {"erase": -1}])
def test_impossible_amounts_are_refused(wrong):
    with pytest.raises(ConfigError):
        Augment(**wrong)


def test_photos_must_be_bytes():
    with pytest.raises(ConfigError, match="uint8"):
        Augment()(IMAGES.float(), torch.Generator())
