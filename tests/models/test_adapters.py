"""Networks for several domains: adapters at zero, what belongs to whom, adding a domain, training together."""

from __future__ import annotations

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch
from backbones import noise
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, LEVEL, SIDE, SIZE, ChainNet, faces, trunk
from torch import nn

from facekit.data.sets import FaceSet
from facekit.errors import ConfigError, DataError, TrainingError
from facekit.models.adapters import Domain, DomainNet, ParallelAdapter
from facekit.models.backbones.facenet import FaceNet
from facekit.models.backbones.mini import BasicBlock, FaceNetMini
from facekit.models.embedding import state_hash
from facekit.tasks import Task
from facekit.tasks.heads import SequenceHead
from facekit.training.batches import Batches
from facekit.training.config import FitResult, Recipe, TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import Phase, Plan
from facekit.training.scoring import predict
from facekit.training.shares import domain_shares, rows_a_step
from facekit.transfer.domains import (
    METHODS,
    PerDomain,
    compare_domains,
    score_domains,
    serve,
)
from facekit.transfer.weighting import scale_weights

BOX = Task("box", "box")
TEXT = Task("text", "string", tuple("abc"))
TEXTS = Domain("texts", (TEXT,))
THINGS = Domain("things", (COLOUR, BOX))
FACES = Domain("faces", (SIDE, LEVEL), adapters="none", own_norm=False, reads={"side": "embedding"})
EVERYTHING = {"stem": 1e-2, "block": 1e-2, "embedding": 1e-2, "things": 1e-2, "texts": 1e-2}


class ValidNet(ChainNet):
    """Without padding, as FaceNet's first layers are."""

    name = "valid"

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(4, 8, (1, 3), padding=(0, 1), bias=False), nn.BatchNorm2d(8), nn.ReLU())


def pictures(n: int = 24, seed: int = 0, split: str = "train") -> FaceSet:
    """Noise with a colour, a side, a level, a box and a text."""
    data = faces(n, seed, split)
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 0.5, (n, 2))
    for column, values in zip(BOX.columns, np.concatenate([corners, corners + 0.4], 1).T, strict=True):
        data.labels[column] = values
    data.labels["text"] = ["".join(rng.choice(list("abc"), 2)) for _ in range(n)]
    return data


def train(net: DomainNet, parts, rates, weights=None, warmup: float = 0.1, **how) -> FitResult:
    """One epoch on the domains that `parts` names."""
    domains = [domain for domain in net.domains if domain.name in parts]
    recipe = Plan("domains", (Phase("domains", 1, rates, warmup),))
    return fit(net, PerDomain(domains, weights), parts, None, recipe, TrainConfig(**how))


@pytest.mark.parametrize("kind", [ChainNet, ValidNet])
@pytest.mark.parametrize("adapters", ["none", "series", "parallel"])
@pytest.mark.parametrize("own_norm", [True, False])
def test_adapters_at_zero_are_the_trunk_exactly(kind, adapters, own_norm):
    network = trunk(kind)
    net = DomainNet(network, [Domain("things", (COLOUR,), adapters, own_norm)]).eval()
    images = noise(3, SIZE)
    maps = net.maps(images, "things")
    x = network.prepare(images)
    for name, modules in network.stages.items():
        for module in modules:
            x = module(x)
        if name != "embedding":
            assert torch.equal(maps[name], x)
    assert torch.equal(maps["embedding"], network(images) * math.sqrt(6))
    for adapter in net.own["things"]["adapters"].values():
        nn.init.normal_(adapter.conv.weight)
    assert torch.equal(net.maps(images, "things")["stem"], maps["stem"]) == (adapters == "none")


@pytest.mark.parametrize("adapters", ["series", "parallel"])
def test_adapters_at_zero_are_facenet_mini_exactly(adapters):
    network = FaceNetMini.from_pretrained()
    net = DomainNet(network, [Domain("things", (COLOUR, BOX), adapters)]).eval()
    images = noise(2, 32)
    with torch.no_grad():
        assert torch.equal(net.maps(images, "things")["embedding"], network(images) * math.sqrt(512))
    assert net.reads(net.domains[0], COLOUR) == "stage_3" and net.reads(net.domains[0], BOX) == "stage_2"
    costs = net.costs()
    convolutions = [(3, 32), (32, 64), (64, 64), (64, 128), (128, 128), (128, 320), (320, 320)]
    series = sum(out * out + 2 * out for _, out in convolutions)
    shortcuts = sum(a * b for a, b in [(32, 64), (64, 128), (128, 320)])  # parallel whatever the others are
    expected = series if adapters == "series" else sum(a * b for a, b in convolutions)
    assert costs.loc["things", "adapters"] == expected + shortcuts
    net.add(Domain("texts", (COLOUR, BOX), adapters, pointwise=False))
    costs = net.costs()
    assert costs.loc["texts", "adapters"] == expected
    cheap = "things" if adapters == "parallel" else "texts"
    assert costs.loc[cheap, ["norms", "adapters"]].sum() < 0.15 * costs.loc["trunk", "all"]


class ShortcutNet(ChainNet):
    """A block with a convolution of 1 × 1 on its shortcut."""

    name = "shortcut"

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(BasicBlock(4, 8, 2), nn.ReLU())


@pytest.mark.parametrize("adapters", ["series", "parallel"])
def test_an_adapter_of_a_1x1_convolution_makes_it_any_other(adapters):
    network = trunk(ShortcutNet)
    bare = Domain("bare", (COLOUR,), adapters, pointwise=False)
    net = DomainNet(network, [Domain("things", (COLOUR,), adapters), bare])
    own = net.eval().own["things"]["adapters"]
    assert set(own) - set(net.own["bare"]["adapters"]) == {"block/0/shortcut/conv"}
    assert isinstance(own["block/0/shortcut/conv"], ParallelAdapter)
    images, other, target = noise(3, SIZE), copy.deepcopy(network), torch.randn(8, 4, 1, 1)
    shortcut = other.block[0].shortcut.conv
    with torch.no_grad():
        for name in ("things", "bare"):
            assert torch.equal(net.maps(images, name, "block")["block"], other.block(other.stem(other.prepare(images))))
        own["block/0/shortcut/conv"].conv.weight.copy_(target - shortcut.weight)
        shortcut.weight.copy_(target)
        expected = other.block(other.stem(other.prepare(images)))
    torch.testing.assert_close(net.maps(images, "things", "block")["block"], expected)


def test_facenet_can_be_shared_as_well():
    torch.manual_seed(0)
    network = FaceNet().eval()
    net = DomainNet(network, [Domain("things", (COLOUR, BOX, TEXT), pointwise=False), Domain("dear", (COLOUR,))]).eval()
    shares = net.costs()["adapters"] / net.costs().loc["trunk", "all"]
    assert shares["things"] < 0.1 and shares["dear"] > 0.5
    assert net.reads(net.domains[0], COLOUR) == "repeat_3" and net.reads(net.domains[0], BOX) == "repeat_1"
    images = noise(1, 80)
    with torch.no_grad():
        assert torch.equal(net.maps(images, "things")["embedding"], network(images) * math.sqrt(512))
        assert net(images, "things")["text"].shape[2] == 4


def test_a_parallel_adapter_looks_at_the_middle_of_the_filters_window():
    for conv in (nn.Conv2d(2, 3, 3, 2), nn.Conv2d(2, 3, (1, 7), padding=(0, 3)), nn.Conv2d(2, 3, 5, 1, 1)):
        adapter = ParallelAdapter(conv)
        nn.init.normal_(adapter.conv.weight)
        middle = [size // 2 for size in conv.kernel_size]
        with torch.no_grad():
            conv.weight.zero_()
            conv.bias.zero_()
            conv.weight[:, :, middle[0], middle[1]] = adapter.conv.weight[:, :, 0, 0]
        x = torch.randn(2, 2, 9, 11)
        torch.testing.assert_close(adapter(x, torch.zeros_like(conv(x))), conv(x))
    for odd in (nn.Conv2d(2, 3, 2), nn.Conv2d(2, 3, 3, padding=2), nn.Conv2d(2, 3, 3, dilation=2)):
        with pytest.raises(ConfigError, match="use series adapters"):
            ParallelAdapter(odd)


def test_a_text_head_asks_neither_for_the_height_nor_for_the_scale_of_a_map():
    torch.manual_seed(0)
    head, x = SequenceHead(5, TEXT.n_outputs).train(), torch.randn(6, 5, 4, 9)
    scores = head(x)
    assert scores.shape == (6, 9, 4)
    torch.testing.assert_close(head(100 * x), scores, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(head.eval()(x.repeat_interleave(3, 2)), head(x))


def test_every_parameter_is_the_trunks_or_one_domains_and_domains_share_nothing_else():
    network = trunk()
    net = DomainNet(network, [THINGS, TEXTS, FACES])
    counted = [p for modules in net.stages.values() for module in modules for p in module.parameters()]
    assert len(counted) == len({id(p) for p in counted}) == len(list(net.parameters()))
    assert sum(p.numel() for p in counted) == net.costs()["all"].sum()
    assert net.costs().loc["faces", ["norms", "adapters"]].sum() == 0
    before = state_hash(network)
    parts = {"things": pictures(), "texts": pictures(seed=1), "faces": pictures(seed=2)}
    train(net, parts, dict.fromkeys(net.stages, 1e-2), steps=2, batch_size=12)
    assert state_hash(network) == before  # the net has a copy
    hashes, outputs = net.hashes(), net.only("texts")(noise(4, SIZE))["text"]
    net.eval()
    for p in net.own["things"].parameters():
        nn.init.normal_(p)
    assert torch.equal(net.only("texts")(noise(4, SIZE))["text"], outputs)
    assert {name for name, value in net.hashes().items() if value != hashes[name]} == {"things"}
    with torch.no_grad():
        next(net.trunk.parameters()).add_(1)
    assert not torch.equal(net.only("texts")(noise(4, SIZE))["text"], outputs)  # what is shared is shared


def test_copies_and_stored_states_of_a_net_are_whole():
    torch.manual_seed(1)
    net = DomainNet(trunk(), [THINGS, TEXTS]).eval()
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    images = noise(4, SIZE)
    expected = net(images, "things")["colour"]
    twin = copy.deepcopy(net)
    assert torch.equal(twin(images, "things")["colour"], expected)
    nn.init.zeros_(next(net.trunk.parameters()))
    assert torch.equal(twin(images, "things")["colour"], expected)
    other = DomainNet(trunk(seed=5), [THINGS, TEXTS]).eval()
    other.load_state_dict(twin.state_dict())
    assert torch.equal(other(images, "things")["colour"], expected)
    moved = twin.double().float()
    assert torch.equal(moved(images, "things")["colour"], expected)


def test_adding_and_training_a_domain_leaves_the_others_bit_for_bit_as_they_were():
    net = DomainNet(trunk(), [THINGS, FACES])
    parts = {"things": pictures(), "faces": pictures(seed=2)}
    train(net, parts, {"things": 1e-2, "faces": 1e-2}, steps=3, batch_size=8)
    images = noise(5, SIZE)
    hashes = net.hashes()
    outputs = {name: net(images, name) for name in parts}
    net.add(TEXTS)
    result = train(net, {"texts": pictures(seed=3)}, {"texts": 1e-2}, steps=4, seed=1, batch_size=8)
    assert result.steps == 4 and len(result.history) == 1
    after = net.hashes()
    fresh = after.pop("texts")
    assert after == hashes
    assert fresh != state_hash(DomainNet(trunk(), [TEXTS]).own["texts"])
    for name, table in outputs.items():
        assert all(torch.equal(net(images, name)[task], values) for task, values in table.items())


def test_what_is_frozen_keeps_its_statistics_and_what_is_not_moves():
    net = DomainNet(trunk(), [THINGS, TEXTS])
    net.freeze([*net.trunk.stages, "texts"])
    net.train()
    before = net.hashes()
    net(noise(4, SIZE), "things")
    net(noise(4, SIZE), "texts")
    assert {name for name, value in net.hashes().items() if value != before[name]} == {"things"}
    assert net.frozen == {"stem", "block", "embedding", "texts"}
    assert not any(p.requires_grad for p in net.trunk.parameters())
    net.freeze([])
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_domains_learn_together_as_they_do_alone_only_where_the_trunk_is_frozen(frozen):
    parts = {"things": pictures(), "texts": pictures(seed=1)}
    shared = {} if frozen else {"stem": 1e-2, "block": 1e-2}
    torch.manual_seed(0)
    together = DomainNet(trunk(), [THINGS, TEXTS])
    alone = {name: copy.deepcopy(together) for name in parts}
    rates = {"things": 1e-2, "texts": 1e-2} | shared
    train(together, parts, rates, steps=4, batch_size=8)
    same = []
    for name, net in alone.items():
        train(net, {name: parts[name]}, {name: 1e-2} | shared, steps=4, batch_size=4)
        for one, other in zip(together.own[name].parameters(), net.own[name].parameters(), strict=True):
            same.append(torch.isclose(one, other, atol=1e-5, rtol=1e-3).flatten())
    share = torch.cat(same).float().mean().item()
    # AdamW forgets the scale of a loss, up to the smallest gradients.
    assert share > 0.99 if frozen else share < 0.5


def test_a_step_is_the_mean_over_its_rows():
    """One step of the loop against the same sum written out, with the gradients of both domains at once."""
    parts = {"things": pictures(), "texts": pictures(48, seed=1)}
    torch.manual_seed(0)
    net = DomainNet(trunk(), [THINGS, TEXTS])
    by_hand = copy.deepcopy(net).train()
    scales = {"things": {"colour": 2.0}, "texts": {"text": 0.1}}
    how = {"weights": scales, "warmup": 0.0, "batch_size": 12, "sampling": "proportional", "steps": 1}
    result = train(net, parts, EVERYTHING, **how)
    things = next(Batches(parts["things"], THINGS.tasks, 4, 0).epoch())
    texts = next(Batches(parts["texts"], TEXTS.tasks, 8, 0).epoch())
    outputs = by_hand(things.inputs, "things")
    first = 2.0 * COLOUR.loss(outputs["colour"], things.targets["colour"]) + BOX.loss(
        outputs["box"], things.targets["box"]
    )
    second = 0.1 * TEXT.loss(by_hand(texts.inputs, "texts")["text"], texts.targets["text"])
    ((4 * first + 8 * second) / 12).backward()
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in by_hand.parameters() if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in by_hand.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    optimiser.step()
    by_name = dict(by_hand.named_parameters())
    for name, value in net.named_parameters():
        torch.testing.assert_close(value, by_name[name], atol=2e-4, rtol=1e-3, msg=name)
    assert result.history["train_texts_text"][0] == pytest.approx(10 * second.item(), rel=1e-4)
    assert result.history["train_loss"][0] == pytest.approx((4 * first + 8 * second).item() / 12, rel=1e-4)


def test_training_is_repeatable_and_does_not_touch_the_callers_random_numbers():
    parts = {"things": pictures(), "texts": pictures(seed=1)}
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        net = DomainNet(trunk(), [THINGS, TEXTS])
        state = torch.get_rng_state()
        train(net, parts, EVERYTHING, steps=3, seed=4, batch_size=8)
        assert torch.equal(torch.get_rng_state(), state)
        states.append(state_hash(net))
    assert states[0] == states[1]


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 10**6), min_size=1), st.floats(0.5, 50))
def test_shares_lie_between_proportional_and_uniform(sizes, temperature):
    shares = domain_shares(sizes, temperature)
    assert sum(shares.values()) == pytest.approx(1)
    total = sum(sizes.values())
    for name, share in domain_shares(sizes, "proportional").items():
        assert share == pytest.approx(sizes[name] / total)
    assert list(domain_shares(sizes, "uniform").values()) == pytest.approx([1 / len(sizes)] * len(sizes))
    order = sorted(sizes, key=sizes.get)
    assert [shares[name] for name in order] == sorted(shares.values())
    for one in sizes:
        for other in sizes:
            assert shares[one] / shares[other] == pytest.approx((sizes[one] / sizes[other]) ** (1 / temperature))


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=6), st.integers(12, 200))
def test_the_rows_of_a_step_add_up_and_no_domain_goes_without(weights, batch_size):
    shares = {str(i): weight / sum(weights) for i, weight in enumerate(weights)}
    rows = rows_a_step(shares, batch_size)
    assert sum(rows.values()) == batch_size and min(rows.values()) >= 2
    order = sorted(shares, key=shares.get)
    assert all(rows[one] <= rows[other] + 1 for one, other in zip(order, order[1:], strict=False))


def test_scales_make_every_task_start_at_about_one():
    parts = {"things": pictures(60), "texts": pictures(60, seed=1)}
    scales = {each.name: scale_weights(each.tasks, parts[each.name]) for each in (THINGS, TEXTS)}
    counts = parts["things"].labels["colour"].value_counts(normalize=True)
    assert 1 / scales["things"]["colour"] == pytest.approx(-(counts * np.log(counts)).sum(), rel=1e-4)
    letters = pd.Series(list("".join(parts["texts"].labels["text"]))).value_counts(normalize=True)
    assert 1 / scales["texts"]["text"] == pytest.approx(-2 * (letters * np.log(letters)).sum(), rel=1e-4)
    same = FaceSet(parts["texts"].images, parts["texts"].labels.assign(text="aa"))
    with pytest.raises(ConfigError, match="nothing to learn"):
        scale_weights(TEXTS.tasks, same)


def test_every_method_trains_what_it_says_with_the_same_batches():
    train = {"things": pictures(16), "texts": pictures(16, seed=1)}
    test = {"things": pictures(8, 2, "test"), "texts": pictures(8, 3, "test")}
    recipe = Recipe(lr=1e-3, heads_lr=3e-3, steps=2, batch_size=8)
    table = compare_domains(trunk(), (THINGS, TEXTS), train, test, recipe, seeds=(0,))
    assert table["method"].unique().tolist() == [method.name for method in METHODS]
    by_task = table.groupby("method")["metric"].agg(sorted).map(tuple).unique()
    assert by_task.tolist() == [("accuracy", "balanced_accuracy", "character_error_rate", "exact_match", "iou")]
    added = table.groupby("method")["parameters"].first()
    assert (
        added["one network"] == added["frozen, heads"] < added["frozen, own norms"] == added["one network, own norms"]
    )
    assert added["frozen, own norms"] < added["parallel adapters"]
    assert added["a network each"] == added["frozen, heads"] + sum(p.numel() for p in trunk().parameters())
    again = compare_domains(trunk(), (THINGS, TEXTS), train, test, recipe, (0,), METHODS[-1:])
    pd.testing.assert_series_equal(
        again["value"], table[table["method"] == "parallel adapters"]["value"].reset_index(drop=True)
    )


def test_a_method_that_shares_has_one_network_for_all_and_scores_of_every_domain():
    train = {"things": pictures(16), "texts": pictures(16, seed=1)}
    for method in METHODS[:2]:
        made = serve(method, trunk(), (THINGS, TEXTS), train, Recipe(lr=1e-3, steps=1, batch_size=8), seed=0)
        assert (made.nets["things"] is made.nets["texts"]) == method.together
        scored = made.scores(train)[["domain", "metric"]].itertuples(index=False, name=None)
        wanted = {("things", "accuracy"), ("things", "iou"), ("texts", "character_error_rate")}
        assert wanted <= set(scored)


def test_one_domain_of_a_net_is_scored_as_any_other_network():
    net = DomainNet(trunk(), [THINGS, TEXTS])
    data = pictures(10)
    outputs = predict(net.only("things"), data)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(data.images), "things")
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {"colour": (10, 2), "box": (10, 4)}
    torch.testing.assert_close(outputs["box"], expected["box"])
    scores = score_domains(net, {"things": data, "texts": data})
    assert scores["domain"].unique().tolist() == ["things", "texts"]
    assert net.only("texts").tasks == (TEXT,)
    for mode in (True, False):
        net.train(mode)
        before = state_hash(net)
        predict(net.only("things"), data)
        score_domains(net, {"texts": data})
        assert net.training == net.own["things"].training == mode and state_hash(net) == before


def test_bad_requests_say_what_is_there():
    net = DomainNet(trunk(), [THINGS])
    with pytest.raises(ConfigError, match="'things' is a stage or domain"):
        net.add(THINGS)
    with pytest.raises(ConfigError, match="'stem' is a stage or domain"):
        net.add(Domain("stem", (COLOUR,)))
    with pytest.raises(ConfigError, match="choose another"):
        net.add(Domain("a.b", (COLOUR,)))
    with pytest.raises(ConfigError, match="no domain 'cats'; it has things"):
        net(noise(2, SIZE), "cats")
    with pytest.raises(ConfigError, match="'embedding' forgets"):
        net.add(Domain("boxes", (BOX,), reads={"box": "embedding"}))
    with pytest.raises(ConfigError, match="reads 'top'; the stages are"):
        net.add(Domain("boxes", (BOX,), reads={"box": "top"}))
    assert [domain.name for domain in net.domains] == list(net.own) == ["things"]  # nothing half-added stays
    with pytest.raises(ConfigError, match="adapters are one of"):
        Domain("x", (COLOUR,), adapters="both")
    with pytest.raises(ConfigError, match="at least one task"):
        Domain("x", ())
    with pytest.raises(ConfigError, match="no task .'side'"):
        Domain("x", (COLOUR,), reads={"side": "stem"})
    with pytest.raises(ConfigError, match="no stage .'top'"):
        net.freeze(["top"])
    data = {"things": pictures(8)}
    with pytest.raises(ConfigError, match="no stage .'top'"):
        train(net, data, {"top": 1e-2}, steps=1)
    with pytest.raises(ConfigError, match="steps must be 1"):
        train(net, data, {"things": 1e-2}, steps=0)
    with pytest.raises(ConfigError, match="for each of 2 sets"):
        rows_a_step({"a": 0.5, "b": 0.5}, 3)
    with pytest.raises(ConfigError, match="positive temperature"):
        domain_shares({"a": 1}, "often")
    with pytest.raises(ConfigError, match="at least one row"):
        domain_shares({})
    with pytest.raises(DataError, match="'box_left'"):
        train(net, {"things": faces(8)}, {"things": 1e-2}, steps=1)
    with pytest.raises(TrainingError, match="of the training set 'things'"):
        train(net, data, {"things": 1e30, "block": 1e30}, steps=30, batch_size=8)
