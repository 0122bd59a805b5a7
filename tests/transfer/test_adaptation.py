"""CORAL against its closed form: moments after alignment, both ends of the ridge, and an independent square root."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.linalg

from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.transfer.adaptation import another_camera, coral, domain_accuracy, low_light


def rows(n: int, seed: int, spread: float = 1.0, place: float = 0.0, dim: int = 5) -> FeatureSet:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, dim)) @ (np.eye(dim) + spread * rng.normal(size=(dim, dim)) / 3) + place
    return FeatureSet(x.astype(np.float32), pd.DataFrame({"split": ["train"] * n}))


def moments(data: FeatureSet) -> tuple[np.ndarray, np.ndarray]:
    x = data.features.astype(np.float64)
    return x.mean(0), np.cov(x, rowvar=False)


def test_after_alignment_mean_and_covariance_are_those_of_the_target():
    source, target = rows(300, 0), rows(200, 1, spread=2, place=3)
    mean, covariance = moments(coral(source, target, ridge=0)(source))
    assert np.allclose(mean, moments(target)[0], atol=1e-4)
    assert np.allclose(covariance, moments(target)[1], atol=1e-4)


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_the_matrix_is_the_closed_form(ridge):
    source, target = rows(300, 2), rows(200, 3, spread=2)
    cs, ct = (5 * moments(data)[1] + ridge * np.eye(5) for data in (source, target))
    wanted = np.linalg.inv(scipy.linalg.sqrtm(cs)) @ scipy.linalg.sqrtm(ct)
    moved = coral(source, target, ridge)
    units, nothing = (moved(FeatureSet(x, source.labels[:5])).features for x in (np.eye(5), np.zeros((5, 5))))
    assert np.allclose(units - nothing, wanted, atol=1e-5)


def test_a_huge_ridge_moves_the_mean_alone_and_equal_domains_are_left_alone():
    source, target = rows(300, 4), rows(200, 5, place=2)
    shift = moments(target)[0] - moments(source)[0]
    assert np.allclose(coral(source, target, 1e9)(source).features, source.features + shift, atol=1e-4)
    assert np.allclose(coral(source, source)(source).features, source.features, atol=1e-4)


def test_a_direction_without_variance_does_no_harm():
    source, target = rows(100, 6), rows(100, 7)
    flat = FeatureSet(source.features * np.float32([1, 1, 1, 1, 0]), source.labels)
    assert np.isfinite(coral(flat, target, ridge=0)(flat).features).all()


def test_a_camera_is_undone_up_to_a_rotation_and_the_domains_look_alike():
    source, other = rows(1000, 8, dim=8), rows(1000, 8, dim=8)
    target = another_camera(other, mixing=0.5, offset=0.8, seed=1)
    aligned = coral(source, target, ridge=0)(source)
    assert domain_accuracy(source, target) > 0.75
    assert domain_accuracy(aligned, target) < 0.55


def test_a_camera_is_affine_the_same_for_a_seed_and_nothing_at_zero():
    a, b = rows(40, 9), rows(40, 10)
    assert (another_camera(a, 0, 0).features == a.features).all()
    assert (another_camera(a, seed=3).features == another_camera(a, seed=3).features).all()
    middle = FeatureSet((a.features + b.features) / 2, a.labels)
    seen = [another_camera(data, seed=3).features for data in (a, b, middle)]
    assert np.allclose((seen[0] + seen[1]) / 2, seen[2], atol=1e-5)
    assert not np.allclose(seen[0], another_camera(a, seed=4).features, atol=0.1)


def test_a_camera_is_a_symmetric_map_with_bounded_gains():
    dim = 200
    identity = FeatureSet(np.eye(dim, dtype=np.float32), pd.DataFrame({"split": ["train"] * dim}))
    matrix = another_camera(identity, mixing=1, offset=0).features.astype(np.float64)
    assert np.allclose(matrix, matrix.T, atol=1e-6)
    gains = np.linalg.eigvalsh(matrix)
    assert -0.15 < gains[0] < 0.15 and 1.85 < gains[-1] < 2.15


def test_low_light_is_a_share_of_the_light_and_noise_of_its_own():
    images = np.full((400, 3, 8, 8), 200, np.uint8)
    photos = FaceSet(images, pd.DataFrame({"split": ["train"] * 400}))
    dark = low_light(photos, light=0.25, noise=0.04, seed=1)
    assert dark.images.dtype == np.uint8 and abs(dark.images.mean() - 50) < 0.2
    assert abs(dark.images.std() - 0.04 * 255) < 0.2 and (photos.images == 200).all()
    assert (low_light(photos, 0.25, 0, 2).images == 50).all()
    assert (low_light(photos, seed=1).images != low_light(photos, seed=2).images).any()
    with pytest.raises(ConfigError, match="light is a share"):
        low_light(photos, light=1.1)


def test_domains_that_are_one_cannot_be_told_apart():
    both = rows(2000, 11)
    accuracy = domain_accuracy(both.select(np.arange(1000)), both.select(np.arange(1000, 2000)))
    assert abs(accuracy - 0.5) < 0.06


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="one length"):
        coral(rows(10, 0), rows(10, 1, dim=4))
    with pytest.raises(ConfigError, match="ridge"):
        coral(rows(10, 0), rows(10, 1), ridge=-1)
    with pytest.raises(ConfigError, match="mixing"):
        another_camera(rows(10, 0), mixing=-1)
    with pytest.raises(DataError, match="at least two rows"):
        domain_accuracy(rows(10, 0), rows(1, 1))
