"""Codes of patches: the activation by hand, the whole code by a loop over patches, and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import faces

from facekit.errors import ConfigError, DataError
from facekit.transfer.patches import FLAT, GRID, patch_codes, triangle

SMALL = {"k": 5, "size": 16, "side": 4, "step": 2, "patches": 400}


def test_the_triangle_by_hand():
    patches, centroids = torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, -3.0]])
    torch.testing.assert_close(triangle(patches, centroids), torch.tensor([[0.0, 2.0, 0.0]]))  # 5, 1, 3 away; mean 3


def test_the_code_of_a_photo_by_a_loop_over_its_patches():
    codes, photo = patch_codes(faces(40), **SMALL), faces(1, 7).images[0].astype(np.float64)
    places = range(0, 16 - 4 + 1, 2)
    maps = np.zeros((5, len(places), len(places)))
    mean, whitening, centroids = (x.double().numpy() for x in (codes.mean, codes.whitening, codes.centroids))
    for i, y in enumerate(places):
        for j, x in enumerate(places):
            patch = photo[:, y : y + 4, x : x + 4].ravel()
            patch = patch - patch.mean()
            patch = patch / np.sqrt(np.square(patch).mean() + FLAT)
            distances = np.linalg.norm((patch - mean) @ whitening - centroids, axis=1)
            maps[:, i, j] = np.maximum(0, distances.mean() - distances)
    cuts = [(math.floor(g * 7 / GRID), math.ceil((g + 1) * 7 / GRID)) for g in range(GRID)]
    pooled = np.array([[[m[a:b, c:d].mean() for c, d in cuts] for a, b in cuts] for m in maps]).ravel()
    np.testing.assert_allclose(codes.raw(faces(1, 7))[0].numpy(), pooled, rtol=1e-3, atol=1e-4)


def test_the_same_seed_gives_the_same_codes_and_labels_do_not_count():
    data = faces(40)
    other = replace(data, labels=data.labels.assign(colour="dark", level=0.0))
    one, again, another = (
        patch_codes(each, **SMALL, seed=seed)(data).features for each, seed in ((data, 0), (other, 0), (data, 1))
    )
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, another)


def test_codes_of_the_photos_that_taught_them_are_standardised():
    data = faces(60)
    codes = patch_codes(data, **SMALL)(data)
    features = codes.features * math.sqrt(codes.features.shape[1])
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-4)
    spread = features.std(0, ddof=1)
    assert np.all((np.abs(spread - 1) < 1e-3) | (spread == 0)), "1, or 0 where a centroid is never near"
    assert (spread > 0).mean() > 0.5
    assert codes.labels.equals(data.labels)


def test_brightness_and_contrast_of_a_photo_hardly_count():
    data = faces(60)
    codes = patch_codes(data, **SMALL)
    weaker = replace(data, inputs=(data.images // 2 + 40).astype(np.uint8))
    one, other = codes.raw(data), codes.raw(weaker)
    assert (one - other).abs().mean() < 0.1 * one.std()


@pytest.mark.parametrize("wrong", [{"k": 0}, {"side": 0}, {"step": 0}, {"side": 17}])
def test_impossible_numbers_are_refused(wrong):
    with pytest.raises(ConfigError, match="side"):
        patch_codes(faces(8), **{**SMALL, **wrong})


def test_too_few_patches_are_refused():
    with pytest.raises(DataError, match="as many patches"):
        patch_codes(faces(2), **{**SMALL, "k": 99})
