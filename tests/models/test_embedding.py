"""embed against the plain network, and a cache that is right or not used."""

from __future__ import annotations

import threading

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from facekit import settings
from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, WeightsError
from facekit.models import embedding
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import Embedder, embed, state_hash, uses_bf16


def face_set(n: int = 7, size: int = 96, seed: int = 0) -> FaceSet:
    rng = np.random.default_rng(seed)
    labels = pd.DataFrame({"split": (["train", "test"] * n)[:n], "gender": (["Male", None, "Female"] * n)[:n]})
    return FaceSet(rng.integers(0, 256, (n, 3, size, size), dtype=np.uint8), labels, {"source": "noise"})


@pytest.fixture
def mini() -> FaceNetMini:
    torch.manual_seed(0)
    model = FaceNetMini().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return model


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """Grows by the number of photos whenever embeddings are really computed."""
    calls: list[int] = []
    real = embedding._compute

    def counting(backbone, faces, *rest):
        calls.append(len(faces))
        return real(backbone, faces, *rest)

    monkeypatch.setattr(embedding, "_compute", counting)
    return calls


def plain(model: torch.nn.Module, faces: FaceSet) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.from_numpy(faces.images))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_equals_the_network_called_plainly(mini, batch_size):
    faces = face_set()
    result = embed(mini, faces, batch_size, cache=False)
    assert result.features.dtype == np.float32
    np.testing.assert_allclose(result.features, plain(mini, faces), atol=1e-5)
    pd.testing.assert_frame_equal(result.labels, faces.labels)
    assert result.manifest["source"] == "noise" and result.manifest["backbone"] == "facenet-mini"


@pytest.mark.parametrize(
    "how", [{}, {"flip": True}, {"size": 64}, {"stage": "stem"}, {"flip": True, "batch_size": 2, "precision": "fp32"}]
)
def test_an_embedder_gives_part_by_part_what_embed_gives(mini, how, capsys, monkeypatch):
    monkeypatch.setenv("FACEKIT_PROGRESS", "1")
    faces, embedder = face_set(9), Embedder(mini, **how)
    parts = [embedder(faces.select(rows)) for rows in ([0, 1, 2], [3, 4, 5, 6, 7, 8])]
    assert capsys.readouterr().err == "", "no bar for each part"
    whole = embed(mini, faces, cache=False, **how)
    np.testing.assert_allclose(np.concatenate([part.features for part in parts]), whole.features, atol=1e-6)
    assert (
        parts[0].manifest == whole.manifest
        and parts[1].labels["gender"].tolist() == whole.labels["gender"].tolist()[3:]
    )
    told = {"photos": [96, 96], "size": how.get("size", mini.image_size), "stage": how.get("stage")}
    assert whole.manifest["embedded"] == {**told, "flip": how.get("flip", False)}
    with pytest.raises(ConfigError, match="has no stage 'x'"):
        Embedder(mini, stage="x")


def test_facenet_resized_equals_the_network_called_plainly():
    torch.manual_seed(0)
    facenet = FaceNet()
    faces = face_set(2, 80)
    result = embed(facenet, faces, cache=False)
    np.testing.assert_allclose(result.features, plain(facenet.eval(), faces.resized(160)), atol=1e-5)


def test_size_is_what_the_network_gets(mini, computed):
    faces = face_set(5, 96)
    result = embed(mini, faces, size=48)
    np.testing.assert_allclose(result.features, plain(mini, faces.resized(48)), atol=1e-5)
    assert not np.array_equal(result.features, embed(mini, faces).features)
    assert computed == [5, 5]  # two entries of the cache


@pytest.mark.parametrize(("stage", "width"), [("stem", 32), ("stage_3", 320), ("embedding", 512)])
def test_stage_is_its_output_averaged_over_places(mini, computed, stage, width):
    faces = face_set(5)
    result = embed(mini, faces, 2, stage=stage)
    seen = []
    with mini.stages[stage][-1].register_forward_hook(lambda module, inputs, output: seen.append(output)):
        plain(mini, faces)
    expected = seen[0].mean((2, 3)) if seen[0].ndim == 4 else seen[0]
    assert result.features.shape == (5, width)
    np.testing.assert_allclose(result.features, F.normalize(expected), atol=1e-5)
    np.testing.assert_array_equal(embed(mini, faces, 2, stage=stage).features, result.features)
    embed(mini, faces, 2)
    assert computed == [5, 5]  # the first from the cache when asked again, the embedding an entry of its own


def test_stage_that_there_is_not(mini):
    with pytest.raises(ConfigError, match="no stage 'stage_9'; its stages are stem, stage_1"):
        embed(mini, face_set(2), stage="stage_9")


def test_flip_is_the_mean_of_both_mirror_images(mini):
    faces = face_set()
    mirrored = FaceSet(faces.images[:, :, :, ::-1], faces.labels)
    expected = F.normalize(plain(mini, faces) + plain(mini, FaceSet(mirrored.images.copy(), faces.labels)))
    result = embed(mini, faces, 3, flip=True, cache=False)
    np.testing.assert_allclose(result.features, expected, atol=1e-5)
    np.testing.assert_allclose(embed(mini, mirrored, flip=True, cache=False).features, result.features, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(result.features, axis=1), 1, atol=1e-5)


def test_flip_is_made_of_two_entries_that_also_serve_alone(mini, computed):
    faces = face_set()
    both = embed(mini, faces, flip=True).features
    views = embed(mini, faces).features + embed(mini, faces, mirrored=True).features
    np.testing.assert_allclose(both, F.normalize(torch.from_numpy(views)), atol=1e-6)
    assert computed == [7, 7]


def test_bf16_stays_near_float32(mini):
    faces = face_set(16)
    exact, fast = (embed(mini, faces, cache=False, precision=p).features for p in ("fp32", "bf16"))
    cosines = (exact * fast).sum(1)
    assert cosines.min() > 0.999
    assert fast.dtype == np.float32 and (exact != fast).any()


def test_bf16_stays_near_float32_on_real_photos(real_data):
    photos = [
        Image.open(path).convert("RGB").resize((160, 160)) for path in sorted((real_data / "photos").glob("*.jpg"))
    ]
    if not photos:
        pytest.skip("no photos in FACEKIT_DATA")
    pixels = np.stack([np.asarray(photo).transpose(2, 0, 1) for photo in photos])
    faces = FaceSet(pixels, pd.DataFrame({"split": ["test"] * len(photos)}))
    facenet = FaceNet.from_pretrained()
    exact, fast = (embed(facenet, faces, cache=False, precision=p).features for p in ("fp32", "bf16"))
    assert (exact * fast).sum(1).min() > 0.999


def test_auto_is_float32_on_laptops(monkeypatch):
    monkeypatch.setattr(embedding, "has_fast_bf16", lambda device: True)
    cpu = torch.device("cpu")
    assert not uses_bf16("auto", cpu)
    monkeypatch.setenv("FACEKIT_PROFILE", "full")
    assert uses_bf16("auto", cpu) and not uses_bf16("fp32", cpu)
    monkeypatch.setattr(embedding, "has_fast_bf16", lambda device: False)
    assert not uses_bf16("auto", cpu) and uses_bf16("bf16", cpu)


def test_backbone_is_left_as_it_was(mini):
    mini.freeze(["stem"])
    mini.train()
    before = state_hash(mini)
    embed(mini, face_set(3))
    assert mini.training and mini.frozen == {"stem"} and state_hash(mini) == before
    assert next(mini.linear.parameters()).requires_grad


def test_cache_gives_the_same_with_the_callers_labels(mini, computed):
    faces = face_set()
    first = embed(mini, faces)
    relabelled = FaceSet(faces.images, faces.labels.assign(gender="Male", split="test"))
    second = embed(mini, relabelled, batch_size=2)
    assert computed == [7]
    assert np.array_equal(first.features, second.features)
    pd.testing.assert_frame_equal(second.labels, relabelled.labels)


def test_cache_keeps_no_labels(mini):
    embed(mini, face_set())
    (table,) = settings.cache_dir().rglob("labels.csv")
    assert list(pd.read_csv(table).columns) == ["split"]


def test_everything_that_matters_makes_another_entry(mini, computed):
    faces = face_set()
    embed(mini, faces)
    embed(mini, faces, flip=True)
    embed(mini, faces, precision="bf16")
    pixels = faces.images.copy()
    pixels[3, 1, 5, 5] ^= 1
    embed(mini, FaceSet(pixels, faces.labels))
    with torch.no_grad():
        mini.spatial.bn.running_mean[0] += 1e-3
    embed(mini, faces)
    assert computed == [7] * 5
    embed(mini, faces, cache=False)
    assert computed == [7] * 6


@pytest.mark.parametrize("name", ["inputs.npy", "labels.csv", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "rubbish"])
def test_damaged_entry_is_computed_again(mini, computed, name, damage):
    faces = face_set()
    expected = np.array(embed(mini, faces).features)
    (path,) = settings.cache_dir().rglob(name)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    changed = {"flip": content, "truncate": content[: len(content) // 2], "rubbish": b"[1]\n"}
    path.unlink()
    if damage != "remove":
        path.write_bytes(changed[damage])
    assert np.array_equal(embed(mini, faces).features, expected)
    assert computed == [7, 7]
    embed(mini, faces)
    assert computed == [7, 7]


def test_of_two_that_ask_for_the_same_one_computes_and_both_have_it(mini, computed):
    found = []
    threads = [threading.Thread(target=lambda: found.append(embed(mini, face_set()).features)) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert computed == [7] and np.array_equal(*found)


def test_interrupted_run_leaves_no_entry(mini, computed, monkeypatch):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(embedding, "_batches", stop)
        with pytest.raises(KeyboardInterrupt):
            embed(mini, face_set())
    assert not [path for path in settings.cache_dir().rglob("*") if path.is_file()]
    embed(mini, face_set())
    assert computed == [7, 7]


def test_cache_that_cannot_be_written(mini, computed, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="FACEKIT_CACHE"):
        embed(mini, face_set(2))
    assert computed == []  # said before the work, not after it
    assert len(embed(mini, face_set(2), cache=False)) == 2


def test_memory_mapped_sets_and_empty_ones(mini, tmp_path):
    faces = face_set(5, 48)
    stored = FaceSet.load(faces.save(tmp_path / "set"))
    assert isinstance(stored.images, np.memmap)
    assert np.array_equal(embed(mini, stored, 2, cache=False).features, embed(mini, faces, 2, cache=False).features)
    assert embed(mini, faces.select([]), cache=False).features.shape == (0, 512)


def test_numbers_that_are_not_finite_are_an_error(mini):
    with torch.no_grad():
        mini.linear.weight[0, 0] = float("nan")
    with pytest.raises(WeightsError, match="not finite"):
        embed(mini, face_set(2))
    assert not list(settings.cache_dir().rglob("manifest.json"))


@pytest.mark.parametrize("bad", [{"batch_size": 0}, {"precision": "fp8"}])
def test_arguments_it_cannot_use(mini, bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        embed(mini, face_set(2), **bad)
