"""Any network of torchvision: the same numbers as torchvision's own code gives, stages, weights of files, names."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backbones import noise, stage_hashes, train_step
from test_weights import BODY, SHA256, no_proxy, serve  # noqa: F401
from tiny import COLOUR, SIDE, faces
from torch import nn
from torchvision import models

from facekit.errors import ConfigError, TrainingError, WeightsError
from facekit.models.adapters import Domain, DomainNet
from facekit.models.backbones.base import Backbone, fused_copy
from facekit.models.backbones.torchvision_nets import FAMILIES, PREFIX, names, renamed, torchvision_network
from facekit.models.build import BACKBONES, sized
from facekit.models.embedding import embed
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import stack_of
from facekit.models.tail import maps, tail_of
from facekit.training.plans import PLANS, plan

# One of each family: a residual one, an efficient one and a transformer first.
THREE = ["resnet18", "mobilenet_v3_small", "vit_b_32"]
OTHERS = ["efficientnet_b0", "mobilenet_v2", "convnext_tiny", "swin_t", "swin_v2_t"]
OTHERS += ["regnet_y_400mf", "densenet121", "shufflenet_v2_x0_5", "alexnet", "maxvit_t"]


def own_forward(name: str, state: dict[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """torchvision's network without its last linear layer, on photos as the transform of its weights scales them."""
    entry = models.get_model_weights(name).DEFAULT.transforms()
    net = models.get_model(name, weights=None).eval()
    path = [path for path, part in net.named_modules() if isinstance(part, nn.Linear)][-1]
    net.set_submodule(path, nn.Identity())
    net.load_state_dict({key: value for key, value in state.items() if not key.startswith(f"{path}.")})
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (entry.mean, entry.std))
    with torch.inference_mode():
        return F.normalize(net((images / 255 - mean) / std))


def lively(net: nn.Module, side: int = 64) -> nn.Module:
    """Statistics of BatchNorm as of a network that has seen photos, so that they differ in what comes out; class tokens
    and scales of layers that are not next to nothing."""
    torch.manual_seed(1)
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    with torch.no_grad():
        for key, value in net.named_parameters():
            if key.endswith(("class_token", "layer_scale", "relative_position_bias_table")):
                value.normal_(0, 0.5)
        if norms:
            for norm in norms:
                norm.momentum = 1.0
            net.train()(torch.randn(4, 3, side, side))
            for norm in norms:
                norm.momentum = 0.1
    return net


def size_of(kind: type[Backbone]) -> int:
    """A small size that it takes."""
    return kind.image_size if kind.one_size else kind.smallest_size + 32


@pytest.fixture(scope="module", params=THREE)
def file(request, tmp_path_factory) -> tuple[str, Path]:
    """Random weights as torchvision saves them (with the layer of 1,000 classes), in half precision to take less."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / f"{request.param}.pth"
    state = lively(models.get_model(request.param, weights=None)).state_dict()
    torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    yield request.param, path
    path.unlink()


@pytest.fixture(scope="module")
def backbone(file) -> Backbone:
    return torchvision_network(file[0]).from_pretrained(file[1])


def test_embeddings_are_those_of_torchvisions_own_code(file, backbone):
    name, path = file
    images = noise(2, size_of(type(backbone)))
    state = {key: value.float() for key, value in torch.load(path, weights_only=True).items()}
    with torch.inference_mode():
        found = backbone(images)
    assert not backbone.training and found.shape == (2, backbone.embedding_dim) and found.dtype == torch.float32
    torch.testing.assert_close(found, own_forward(name, state, images), atol=1e-5, rtol=0)
    assert (found[0] - found[1]).abs().max() > 1e-3, "the photo matters"


def test_stages_hold_everything_once_and_a_plan_of_each_name_fits(backbone):
    held = [id(p) for modules in backbone.stages.values() for m in modules for p in [*m.parameters(), *m.buffers()]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in [*backbone.parameters(), *backbone.buffers()]}
    assert list(backbone.stages) == ["stem", "stage_1", "stage_2", "stage_3", "stage_4", "embedding"]
    assert all(backbone.stage_parameters(stage) for stage in backbone.stages), "no stage is empty"
    model = Classifier(backbone, Heads(backbone.embedding_dim, [SIDE]))
    for name in PLANS:
        plan(name, list(model.stages), 4, 0.1).check(model)
    last_block = plan("last_block", list(model.stages), 1, 0.1).table(model).set_index("stage")["trainable"]
    assert set(last_block[last_block > 0].index) == {"stage_4", "embedding", "heads"}


@pytest.mark.parametrize("frozen", [["stem", "stage_1", "stage_2", "stage_3", "stage_4"], ["embedding", "stage_2"]])
def test_frozen_means_frozen_and_the_rest_learns(file, frozen):
    torch.manual_seed(0)
    model = torchvision_network(file[0])()
    lively(model.net)
    model.freeze(frozen)
    before = stage_hashes(model)
    train_step(model, noise(3, size_of(type(model))))
    after = stage_hashes(model)
    assert {name for name in before if before[name] == after[name]} == set(frozen)
    for name in model.stages:
        grads = [p.grad for p in model.stage_parameters(name)]
        assert all(g is None for g in grads) if name in frozen else all(g is not None and g.any() for g in grads), name


def test_stages_are_used_wherever_those_of_others_are(backbone):
    side = size_of(type(backbone))
    data = faces(3)
    photos = type(data)(noise(3, side).numpy(), data.labels)
    whole = embed(backbone, photos, cache=False, size=side).features
    with torch.inference_mode():
        np.testing.assert_allclose(whole, backbone(noise(3, side)).numpy(), atol=1e-5)
        kept = {name: (x, x.clone()) for name, x in backbone.walk(backbone.prepare(noise(3, side)))}
        assert all(torch.equal(x, copy) for x, copy in kept.values()), "no stage writes into what the one before gave"
        x, copy = kept["stage_2"]
        part = embed(backbone, photos, cache=False, size=side, stage="stage_2").features
        np.testing.assert_allclose(part, F.normalize(x.flatten(2).mean(2)).numpy(), atol=1e-5)
        stack = stack_of(backbone)
        x = stack.inputs(noise(3, side))
        for stage in stack.stages.values():
            x = stage(x)
        np.testing.assert_allclose(F.normalize(x).numpy(), whole, atol=1e-5)
    if type(backbone).one_size:  # maps are computed at the network's own size
        behind = tail_of(backbone, "stage_3")
        x = behind.inputs(torch.from_numpy(maps(backbone, photos, "stage_3", cache=False).maps).float())
        with torch.inference_mode():
            for stage in behind.stages.values():
                x = stage(x)
        np.testing.assert_allclose(F.normalize(x).numpy(), whole, atol=0.02)


def test_autocast_leaves_length_and_type(backbone):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = backbone(noise(2, size_of(type(backbone))))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_photos_of_another_size_are_refused(backbone):
    kind = type(backbone)
    wrong = kind.smallest_size - 1
    with pytest.raises(ConfigError, match=f"{kind.name} .*pixels.*{wrong} × {wrong}; resize them"):
        backbone(noise(1, wrong))
    with pytest.raises(ConfigError, match="pixels"):
        sized(faces(2), kind, wrong, False)
    assert sized(faces(2), kind, None, False).images.shape[2:] == (kind.image_size, kind.image_size)
    if kind.one_size:
        with pytest.raises(ConfigError, match="exactly 224 × 224 pixels.*--size 224"):
            backbone(noise(1, 256))


def test_one_photo_trains_what_has_no_batchnorm(file):
    model = torchvision_network(file[0])().train()
    if "vit" in file[0]:
        assert model(noise(1, 224)).shape == (1, 768)
    else:
        with pytest.raises(TrainingError, match="at least two"):
            model(noise(1, 64))


def test_adapters_go_where_convolutions_are(backbone):
    domains = [Domain("one", (SIDE,)), Domain("two", (COLOUR,), adapters="series")]
    images = noise(2, size_of(type(backbone)))
    bare = DomainNet(backbone, [Domain("one", (SIDE,), adapters="none", own_norm=False)]).eval()
    assert bare(images, "one")["side"].shape == (2, 2)
    if "vit" in type(backbone).name:
        with pytest.raises(ConfigError, match=r"do not go into torchvision:vit_b_32 .*torchvision:resnet18"):
            DomainNet(backbone, domains)
        return
    net = DomainNet(backbone, domains).eval()
    expected = dict(backbone.walk(backbone.prepare(images)))["stage_4"]
    for name in ("one", "two"):
        torch.testing.assert_close(net.maps(images, name)["stage_4"], expected, atol=1e-4, rtol=1e-3)
    before = net.hashes()
    net.freeze(list(net.trunk.stages))
    net.train()
    torch.stack([output.square().sum() for output in net(images, "one").values()]).sum().backward()
    torch.optim.SGD([p for p in net.parameters() if p.grad is not None], 0.1).step()
    assert {name for name, value in net.hashes().items() if value != before[name]} == {"one"}


@pytest.mark.parametrize("name", OTHERS)
def test_every_family_agrees_with_torchvision(name):
    torch.manual_seed(0)
    kind = torchvision_network(name)
    model, size = kind(), size_of(kind)
    lively(model.net, size)
    model.eval()
    images = noise(2, size)
    with torch.inference_mode():
        found = model(images)
        outputs = {stage: (x.clone(), x) for stage, x in model.walk(model.prepare(images))}
        fused = fused_copy(model)(images)
    torch.testing.assert_close(found, own_forward(name, model.net.state_dict(), images), atol=1e-4, rtol=0)
    assert (found[0] - found[1]).abs().max() > 5e-3, "the photo matters"
    torch.testing.assert_close(fused, found, atol=1e-4, rtol=0)
    assert all(torch.equal(copy, x) for copy, x in outputs.values())
    held = [id(p) for modules in model.stages.values() for m in modules for p in [*m.parameters(), *m.buffers()]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in [*model.parameters(), *model.buffers()]}
    assert list(outputs)[0] == "stem" and list(outputs)[-1] == "embedding" and len(outputs) >= 4
    assert all(model.stage_parameters(stage) for stage in model.stages)
    widths = [x.shape[3] for x, _ in outputs.values() if x.ndim == 4]
    assert widths == sorted(widths, reverse=True) and len(widths) == len(outputs) - 1, "maps (N, C, h, w)"


def test_the_families_tested_are_all():
    tested = {type(models.get_model(name, weights=None)) for name in ["resnet18", "mobilenet_v3_small"]}
    tested |= {type(torchvision_network(name)().net) for name in OTHERS}
    assert set(FAMILIES) - tested == {models.VGG, models.VisionTransformer}, "VGG is AlexNet's family, and 500 MB"


@pytest.mark.parametrize("name", ["googlenet", "inception_v3", "squeezenet1_1", "mnasnet0_5"])
def test_what_is_no_sequence_is_refused_by_name(name):
    with pytest.raises(ConfigError, match=f"{PREFIX}{name} is not known as stages.*take one of .*{PREFIX}resnet18"):
        BACKBONES[PREFIX + name]


def test_looking_up_a_network_leaves_the_random_state():
    torchvision_network.cache_clear()
    before = torch.get_rng_state()
    for name in ("resnet18", "regnet_y_400mf", "vit_h_14"):
        kind = BACKBONES[PREFIX + name]
        assert kind is BACKBONES[PREFIX + name] and kind.name == PREFIX + name
    assert torch.equal(torch.get_rng_state(), before)
    assert (kind.image_size, kind.embedding_dim) == (518, 1280) and "SWAG" in kind._licence()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torchvision:resnet19", "torchvision has no network 'resnet19'; near are torchvision:resnet1"),
        ("torchvision:zzzz", "torchvision has no network 'zzzz'; its networks are listed"),
        ("torchvision:", "torchvision has no network ''"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no network"),
        ("resnet50", "there is no network 'resnet50'; that of torchvision is torchvision:resnet50"),
        ("facenett", r"there is no network 'facenett' \(near is facenet\); this facekit has facenet, mini"),
        ("zzzz", "there is no network 'zzzz'; this facekit has facenet, mini, efficientnet-lite0, torchvision:NAME"),
    ],
)
def test_unknown_names_are_answered_with_those_near(name, message):
    with pytest.raises(ConfigError, match=message):
        BACKBONES[name]


def test_every_entry_of_torchvision_can_be_checked():
    """Its address names the first digits of the SHA-256; without them a download would be taken as it is."""
    for name in names():
        entry = models.get_model_weights(name.removeprefix(PREFIX)).DEFAULT
        found = type("entry", (torchvision_network("resnet18"),), {"weights": entry})._checksum()
        assert len(found) >= 8, name


def test_files_of_other_networks_and_classes(tmp_path):
    state = models.resnet18(weights=None, num_classes=3).state_dict()
    torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / "mine.pt")
    kind = torchvision_network("resnet18")
    mine = kind.from_pretrained(tmp_path / "mine.pt")
    assert torch.equal(mine.net.conv1.weight, state["conv1.weight"]), "the number of classes does not matter"
    torch.save(mine.state_dict(), tmp_path / "ours.pt")
    again = kind.from_pretrained(tmp_path / "ours.pt")
    assert torch.equal(again.net.conv1.weight, state["conv1.weight"]), "as a run without labels leaves it"
    for other in ("resnet34", "mobilenet_v3_small"):
        with pytest.raises(WeightsError, match=f"mine.pt holds weights of another network than torchvision:{other}"):
            torchvision_network(other).from_pretrained(tmp_path / "mine.pt")
    told = kind.weights_from(tmp_path / "mine.pt")
    assert told["file"] == "mine.pt" and told["licence"] == "not stated"


def test_names_of_older_files_are_read(tmp_path):
    """As the published files of DenseNet and of vision transformers have them; torchvision renames them itself."""
    state = models.densenet121(weights=None).state_dict()
    old = {key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value for key, value in state.items()}
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "dense.pt")
    found = torchvision_network("densenet121").from_pretrained(tmp_path / "dense.pt").net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in found.items())
    for old, new in {
        "encoder.layers.encoder_layer_0.mlp.linear_1.bias": "mlp.0.bias",
        "x.mlp.linear_2.weight": "3.weight",
    }.items():
        assert renamed(old).endswith(new)


@pytest.fixture
def served(serve, tmp_path, monkeypatch):  # noqa: F811
    """resnet18's address is that of a server on this machine, which sends BODY."""
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    server = serve(BODY, [70_000])
    kind = torchvision_network("resnet18")

    def entry(digits: str):
        url = f"{server.url}/resnet18-{digits}.pth"
        return type("Entry", (), {"url": url, "meta": {**kind.weights.meta, "_file_size": 0.3}})

    return server, type("resnet18", (kind,), {"weights": entry(SHA256[:8])}), entry


def test_weights_are_downloaded_once_checked_and_kept(served, tmp_path):
    server, kind, _ = served
    told = kind.weights_from()
    assert told["sha256"] == SHA256 and told["file"] == f"resnet18-{SHA256[:8]}.pth"
    assert "BSD 3-Clause" in told["licence"] and told["source"].startswith(server.url)
    kept = tmp_path / "cache" / "weights" / told["file"]
    assert kept.read_bytes() == BODY and len(server.asked) == 2, "the cut connection was continued"
    assert kind.weights_from() == told and len(server.asked) == 2
    assert kind.weights_from(kept) == told, "the file is known, wherever it lies"
    kept.write_bytes(BODY[:-1])
    with pytest.raises(WeightsError, match="is damaged: its SHA-256"):
        kind.weights_from()


def test_what_a_server_sends_instead_is_refused_with_what_to_do(served, tmp_path):
    server, kind, entry = served
    kind.weights = entry("0" * 8)
    with pytest.raises(WeightsError, match=r"torchvision:resnet18's weights are not .*SHA-256 differs.*\nGet http.*\n"):
        kind.from_pretrained()
    server.body = bytes(len(BODY) + 2_000_000)
    with pytest.raises(WeightsError, match="sends more than [0-9,]+ bytes[^$]*--weights FILE"):
        kind.from_pretrained()
    assert not list((tmp_path / "cache" / "weights").iterdir())


def test_the_sha_that_is_recorded_is_the_whole_one(tmp_path, monkeypatch):
    monkeypatch.setenv("FACEKIT_DATA", str(tmp_path))
    monkeypatch.setenv("FACEKIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").mkdir()
    kind = torchvision_network("resnet18")
    torch.save(models.resnet18(weights=None).state_dict(), tmp_path / "weights" / "x.pth")
    whole = hashlib.sha256((tmp_path / "weights" / "x.pth").read_bytes()).hexdigest()
    address = f"https://nowhere.invalid/resnet18-{whole[:8]}.pth"
    mine = type("mine", (kind,), {"weights": type("E", (), {"url": address, "meta": kind.weights.meta})})
    (tmp_path / "weights" / "x.pth").rename(tmp_path / "weights" / Path(address).name)
    assert mine.weights_from()["sha256"] == whole
