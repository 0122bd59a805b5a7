"""FaceNet against facenet-pytorch's own network, frozen training, and what its real weights know."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from backbones import noise, stage_hashes, train_step
from facenet_pytorch import MTCNN, InceptionResnetV1
from PIL import Image

from facekit.data.sets import FaceSet
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import FaceNetMini
from facekit.models.embedding import embed
from facekit.models.weights import read_weights


@pytest.fixture(scope="module")
def facenet() -> FaceNet:
    """Random weights, but BatchNorm with statistics as after training."""
    torch.manual_seed(0)
    model = FaceNet().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
    return model


def reference(state: dict[str, torch.Tensor]) -> InceptionResnetV1:
    """facenet-pytorch's network with these weights."""
    net = InceptionResnetV1(pretrained=None, classify=False)
    net.load_state_dict(state)
    return net.eval()


@pytest.mark.parametrize("size", [75, 112])
def test_parity_with_facenet_pytorch_on_random_weights(facenet, size):
    images = noise(2, size)
    with torch.inference_mode():
        expected = reference(facenet.net.state_dict())((images.float() - 127.5) / 128)
        torch.testing.assert_close(facenet(images), expected, atol=1e-5, rtol=0)


def test_parity_also_in_training_mode():
    torch.manual_seed(1)
    facenet = FaceNet(dropout=0.0)
    net = InceptionResnetV1(pretrained=None, classify=False, dropout_prob=0.0)
    net.load_state_dict(facenet.net.state_dict())
    images = noise(2, 75)
    expected = net.train()((images.float() - 127.5) / 128)
    torch.testing.assert_close(facenet.train()(images), expected, atol=1e-4, rtol=0)
    for key, value in net.state_dict().items():  # BatchNorm statistics moved alike
        torch.testing.assert_close(facenet.net.state_dict()[key], value, msg=key)


def test_frozen_trunk_does_not_change_in_training():
    torch.manual_seed(0)
    facenet = FaceNet()
    trunk = [name for name in facenet.stages if name != "embedding"]
    facenet.freeze(trunk)
    before = stage_hashes(facenet)
    train_step(facenet, noise(3, 75))
    after = stage_hashes(facenet)
    assert [name for name in before if before[name] == after[name]] == trunk
    facenet.freeze()  # dropout is off as well: the same photo gives the same embedding twice
    assert torch.equal(facenet.train()(noise(2, 75)), facenet(noise(2, 75)))


def test_parity_with_facenet_pytorch_on_real_weights(real_data):
    file = real_data / "weights" / "facenet-vggface2-fp16.safetensors"
    if not file.is_file():
        pytest.skip(f"no {file.name} in FACEKIT_DATA")
    images = noise(2, 160)
    with torch.inference_mode():
        expected = reference(read_weights(file))((images.float() - 127.5) / 128)
        torch.testing.assert_close(FaceNet.from_pretrained()(images), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("network", "apart"), [(FaceNet, 0.5), (FaceNetMini, 0.3)])
def test_two_crops_of_a_person_are_closer_than_two_persons(real_data, network, apart):
    """The second crop is of the same photo, wider and mirrored: easier than a second photo of the person would be."""
    photos = sorted((real_data / "photos").glob("*.jpg"))
    if not photos:
        pytest.skip("no photos in FACEKIT_DATA")
    torch.manual_seed(0)
    crops = []
    for margin in (0, 32):
        detect = MTCNN(image_size=160, margin=margin, keep_all=True, post_process=False)
        found = torch.cat([detect(Image.open(photo).convert("RGB")) for photo in photos])
        crops.append(found.round().clamp(0, 255).to(torch.uint8))
    backbone, split = network.from_pretrained(), pd.DataFrame({"split": ["test"] * len(crops[0])})
    one, other = (
        torch.from_numpy(embed(backbone, FaceSet(faces.numpy(), split), cache=False).features)
        for faces in (crops[0], crops[1].flip(3))
    )
    cosines = one @ other.T
    same = cosines.diagonal()
    others = cosines - 2 * torch.eye(len(cosines))
    assert len(same) >= 10
    assert (same > others.max(1).values).all()  # the nearest of the wider crops is of the same person
    assert same.mean() > others[others > -1].mean() + apart
