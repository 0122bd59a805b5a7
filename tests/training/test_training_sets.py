"""Several sets at once: one domain after the other or all together, with all that training on one set can do."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import count, islice

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from test_adapters import TEXTS, THINGS, pictures
from tiny import COLOUR, LEVEL, SIDE, classifier, faces, features, probe, trunk
from torch import nn

from facekit.errors import ConfigError, DataError, TrainingError
from facekit.models.adapters import DomainNet
from facekit.models.embedding import state_hash
from facekit.models.heads import Classifier
from facekit.models.multitask import SharedNet, mlp
from facekit.training.augment import Augment
from facekit.training.batches import Batches, seed_for
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, make_optimiser, predict
from facekit.training.methods import Method, Supervised
from facekit.training.plans import Phase, Plan, rate
from facekit.training.plans import plan as make_plan
from facekit.training.shares import domain_shares, rows_a_step
from facekit.transfer.alignment import DomainAdversarial
from facekit.transfer.domains import PerDomain

BOTH = {"colour": (COLOUR,), "side": (SIDE,)}
RATES = dict.fromkeys(["stem", "block", "embedding", "things", "texts"], 1e-2)


def net(seed: int = 0, **more) -> DomainNet:
    torch.manual_seed(seed)
    domains = [replace(domain, **more) for domain in (THINGS, TEXTS)]
    return DomainNet(trunk(), domains)


def two(n: int = 24, other: int = 24) -> dict:
    return {"things": pictures(n), "texts": pictures(other, seed=1)}


def recipe(model, epochs: int = 3, lr: float = 0.02) -> Plan:
    """The heads first, then more and more; of domains what each has for itself, then everything."""
    if isinstance(model, DomainNet):
        own = dict.fromkeys(model.own, lr)
        everything = own | dict.fromkeys(model.trunk.stages, lr)
        return Plan("domains", (Phase("own", epochs // 2, own), Phase("all", epochs - epochs // 2, everything)))
    return make_plan("gradual" if len(model.stages) > 1 else "probe", list(model.stages), epochs, lr)


def hidden(seed: int = 0) -> SharedNet:
    torch.manual_seed(seed)
    return SharedNet(mlp(6, (5,)), (COLOUR, SIDE))


# --- the loop for several domains that was there before --------------------------------------------------------------


def first_loop(net, parts, *, steps, seed, rates, batch_size, sampling, scales, augment, warmup=0.1):
    """The loop that several domains had for themselves, as it was: one epoch, without validation."""
    domains = [domain for domain in net.domains if domain.name in parts]
    rows = rows_a_step(domain_shares({d.name: len(parts[d.name]) for d in domains}, sampling), batch_size)

    def endless(batches):
        for k in count():
            yield from batches.epoch(k)

    streams = {
        d.name: endless(Batches(parts[d.name], d.tasks, rows[d.name], seed, augment=augment.get(d.name)))
        for d in domains
    }
    net.freeze([stage for stage in net.stages if stage not in rates])
    net.train()
    tasks = [task for domain in domains for task in domain.tasks]
    optimiser = make_optimiser(net, Supervised(tasks), Phase("domains", 1, rates), 0.01)
    torch.manual_seed(seed_for(seed, 0, 0, 1))
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate(step, steps, warmup)
        optimiser.zero_grad()
        for domain in domains:
            batch = next(streams[domain.name])
            outputs = net(batch.inputs, domain.name)
            losses = {task.name: task.loss(outputs[task.name], batch.targets[task.name]) for task in domain.tasks}
            total = sum(scales[domain.name].get(task, 1.0) * loss for task, loss in losses.items())
            (total * (rows[domain.name] / batch_size)).backward()
        optimiser.step()
    net.eval()


@pytest.mark.parametrize("sampling", ["uniform", "proportional", 2.0])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("names", [("things", "texts"), ("texts",)])
def test_domains_are_trained_bit_for_bit_as_by_the_loop_they_had_before(sampling, frozen, names):
    parts = {name: part for name, part in two(20, 31).items() if name in names}
    rates = {name: 1e-2 for name in names} | ({} if frozen else {"stem": 3e-3, "block": 3e-3, "embedding": 3e-3})
    scales = {"things": {"colour": 1.7, "box": 0.3}, "texts": {"text": 0.2}}
    augment = {"things": Augment(), "texts": Augment(flip=0)}
    how = {"batch_size": 11, "sampling": sampling, "seed": 5, "steps": 9}
    before, now = net(), net()
    start = state_hash(now)
    first_loop(before, parts, rates=rates, scales=scales, augment=augment, **how)
    method = PerDomain([d for d in now.domains if d.name in names], {name: scales[name] for name in names})
    config = TrainConfig(augment={name: augment[name] for name in names}, **how)
    fit(now, method, parts, None, Plan("domains", (Phase("domains", 1, rates),)), config)
    assert state_hash(now) == state_hash(before) != start


# --- which rows, how often -------------------------------------------------------------------------------------------


class Watched(Supervised):
    """Supervised that writes down the rows it was shown, by set, and what the inputs were."""

    def __init__(self, tasks):
        super().__init__(tasks)
        self.seen: list[tuple[str | None, np.ndarray, torch.Tensor]] = []

    def loss(self, model, batch):
        self.seen.append((batch.set, batch.rows, batch.inputs))
        return super().loss(model, batch)


@pytest.mark.parametrize("sampling", ["uniform", "proportional", 3.0, {"side": 1, "colour": 4}])
def test_a_step_takes_each_sets_share_and_the_set_that_takes_longest_gives_the_length_of_an_epoch(sampling):
    sets = {"colour": features(50), "side": features(17, seed=1)}
    model, method = probe(tasks=(COLOUR, SIDE)), Watched(BOTH)
    config = TrainConfig(batch_size=10, sampling=sampling, seed=3)
    result = fit(model, method, sets, None, recipe(model, 2), config)
    rows = rows_a_step(domain_shares({name: len(part) for name, part in sets.items()}, sampling), 10)
    expected = {name: Batches(part, (), rows[name], 3) for name, part in sets.items()}
    assert result.steps == 2 * max(map(len, expected.values()))
    assert [name for name, *_ in method.seen] == ["colour", "side"] * result.steps
    for name, batches in expected.items():
        found = [rows.tolist() for one, rows, _ in method.seen if one == name]
        assert found == [batch.rows.tolist() for batch in islice(batches.endless(), result.steps)]


def test_endless_batches_can_begin_anywhere():
    batches = Batches(faces(20), [COLOUR], 6, seed=2, augment=Augment())
    whole = list(islice(batches.endless(), 10))
    for start in (0, 2, len(batches), 7):
        for one, other in zip(batches.endless(start), whole[start:], strict=False):
            assert one.rows.tolist() == other.rows.tolist() and torch.equal(one.inputs, other.inputs)


def test_an_epoch_may_have_any_number_of_steps():
    for train in (features(20), {"all": features(20)}):
        model = probe()
        result = fit(model, Supervised([COLOUR]), train, None, recipe(model, 2), TrainConfig(8, steps=7))
        assert result.steps == 14 and list(result.history["step"]) == [7, 14]


def test_a_set_by_name_is_trained_as_one_without():
    weights = []
    for train, held_out in ((faces(), faces(9, 1)), ({"all": faces()}, {"all": faces(9, 1)})):
        model = classifier()
        fit(model, Supervised([COLOUR]), train, held_out, recipe(model), TrainConfig(8, augment=Augment()))
        weights.append(state_hash(model))
    assert weights[0] == weights[1]


def test_each_set_is_augmented_as_it_says():
    sets = {"colour": faces(24), "side": faces(24, 1)}
    method, model = Watched(BOTH), classifier((COLOUR, SIDE))
    fit(model, method, sets, None, recipe(model, 1), TrainConfig(8, augment={"side": Augment(erase=1)}))
    same = {name: [] for name in sets}
    for name, rows, inputs in method.seen:
        same[name].append(torch.equal(inputs, torch.from_numpy(sets[name].images[rows])))
    assert all(same["colour"]) and not any(same["side"])


def test_weights_count_in_the_set_that_they_are_given_for():
    tasks = {"one": (COLOUR,), "other": (COLOUR,)}
    sets = {"one": features(16), "other": features(16, seed=1)}
    rows = {name: next(Batches(part, [COLOUR], 4).epoch()).rows for name, part in sets.items()}
    config, results = TrainConfig(8, steps=1), {}
    for weight in (1.0, 0.0):
        model = probe()
        expected = {
            name: COLOUR.loss(
                model(torch.from_numpy(part.features[rows[name]]))["colour"],
                part.targets([COLOUR])["colour"][rows[name]],
            ).item()
            for name, part in sets.items()
        }
        method = Supervised(tasks, {"other": {"colour": weight}})
        row = fit(model, method, sets, None, recipe(model, 1), config).history.iloc[0]
        for name, loss in expected.items():
            assert row[f"train_{name}_colour"] == pytest.approx(loss, rel=1e-5)
        assert row["train_loss"] == pytest.approx((expected["one"] + weight * expected["other"]) / 2, rel=1e-5)
        results[weight] = state_hash(model)
    assert results[0.0] != results[1.0]


# --- what training on one set can do ---------------------------------------------------------------------------------


def test_the_best_epoch_is_chosen_on_every_set():
    model, sets = net(), two()
    held_out = {"things": pictures(10, 2), "texts": pictures(14, 3)}
    config = TrainConfig(12, sampling="proportional", seed=1)
    made = make_plan("everything", list(model.stages), 8, 0.1, schedule="constant")
    method = PerDomain(model.domains, {"texts": {"text": 0.1}})
    result = fit(model, method, sets, held_out, made, config)
    losses = result.history.set_index("epoch")["validation_loss"]
    assert result.best_epoch == losses.idxmin() < 8, "this rate should overshoot"
    row, found = result.history.loc[result.best_epoch - 1], {}
    for domain in model.domains:
        outputs = predict(model.only(domain.name), held_out[domain.name])
        targets = held_out[domain.name].targets(domain.tasks)
        for task in domain.tasks:
            loss = task.loss(outputs[task.name], targets[task.name]).item()
            assert row[f"validation_{domain.name}_{task.name}"] == pytest.approx(loss, rel=1e-4)
            found[domain.name] = found.get(domain.name, 0) + loss * (0.1 if task.name == "text" else 1)
    assert losses.min() == pytest.approx((found["things"] + found["texts"]) / 2, rel=1e-4)
    assert 0 <= row["accuracy_things_colour"] <= 1


def test_a_set_alone_may_be_validated():
    model, sets = net(), two()
    result = fit(model, PerDomain(model.domains), sets, {"texts": pictures(8, 3)}, recipe(model), TrainConfig(8))
    assert (result.history["validation_loss"] == result.history["validation_texts_text"]).all()


class Killed(Exception):
    """What ends the run from outside."""


class Mortal(PerDomain):
    """PerDomain until the process is killed in some call."""

    left = None

    def loss(self, model, batch):
        if self.left == 0:
            raise Killed
        self.left = None if self.left is None else self.left - 1
        return super().loss(model, batch)


@pytest.mark.parametrize("steps", [None, 5])
@pytest.mark.parametrize("call", [1, 11, 12, 27])
def test_resumed_is_uninterrupted(tmp_path, steps, call):
    sets, held_out = two(20, 33), {"texts": pictures(8, 3)}
    config = TrainConfig(10, augment={"things": Augment()}, steps=steps, sampling=2.0, seed=3)

    def run(folder, left=None, **more):
        model = net()
        method = Mortal(model.domains)
        method.left = left
        result = fit(model, method, sets, held_out, recipe(model, 4), config, folder, **more)
        return state_hash(model), result

    whole, result = run(None)
    with pytest.raises(Killed):
        run(tmp_path, call)
    again, resumed = run(tmp_path, resume=True)
    assert again == whole
    assert resumed.history.drop(columns="seconds").equals(result.history.drop(columns="seconds"))
    with pytest.raises(TrainingError, match="the data differ"):
        sets["things"] = pictures(20, seed=7)
        run(tmp_path, resume=True)


def test_whatever_stops_the_training_the_model_keeps_its_best_weights(tmp_path):
    model = net()
    method = Mortal(model.domains)
    method.left = 15
    with pytest.raises(Killed):
        fit(model, method, two(), None, recipe(model, 4), TrainConfig(8), tmp_path)
    stored = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items()) and not model.training


def test_bf16_changes_the_speed_and_not_the_result():
    histories = []
    for precision in ("fp32", "bf16"):
        model = net(adapters="parallel")
        held_out = {name: part.select(range(8)) for name, part in two().items()}
        config = TrainConfig(12, precision=precision)
        result = fit(model, PerDomain(model.domains), two(), held_out, recipe(model), config)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        histories.append(result.history["validation_loss"])
    np.testing.assert_allclose(*histories, rtol=0.05)


class Box:
    """A tensor that a backward pass will need."""

    def __init__(self, tensor):
        self.tensor = tensor


def test_no_graph_of_a_set_is_left_when_the_next_ones_is_built():
    alive, counts = weakref.WeakSet(), []

    def pack(tensor):
        box = Box(tensor)
        alive.add(box)
        return box

    class Counting(PerDomain):
        def loss(self, model, batch):
            before = len(alive)
            result = super().loss(model, batch)
            counts.append((before, len(alive)))
            return result

    model = net()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        fit(model, Counting(model.domains), two(), None, recipe(model, 2), TrainConfig(8))
    assert len(counts) == 2 * 2 * 6 and all(before == 0 < after for before, after in counts)


# --- sets that a method needs together -------------------------------------------------------------------------------


def adversarial(seed: int = 0, tasks=(COLOUR,)) -> tuple[Classifier, DomainAdversarial]:
    return classifier(tasks, seed), DomainAdversarial(tasks, 6, 0.7)


def test_a_method_gets_a_labelled_and_an_unlabelled_set_together():
    model, method = adversarial()
    target = faces(40, 1)
    target = replace(target, labels=target.labels[["split"]])
    before = state_hash(method)
    config = TrainConfig(12, augment={"target": Augment()})
    sets = {"source": faces(24), "target": target}
    result = fit(model, method, sets, {"source": faces(9, 2)}, recipe(model, 3), config)
    assert {"train_colour", "train_discriminator", "validation_source_colour"} <= set(result.history)
    assert result.steps == 3 * 7 and state_hash(method) != before and result.moved["stem"]
    again, same = adversarial()
    fit(again, same, sets, {"source": faces(9, 2)}, recipe(again, 3), config)
    assert state_hash(again) == state_hash(model)


# --- several processes: also run by two, in test_training_processes --------------------------------------------------


class Together(Supervised):
    """The same loss as Supervised, of both sets at once."""

    together = True

    def loss_together(self, model, batches):
        losses = {name: self.loss(model, batch) for name, batch in batches.items()}
        logs = {key: value for _, logs in losses.values() for key, value in logs.items()}
        return sum(loss for loss, _ in losses.values()) / 2, logs


def train_all() -> tuple[dict[str, torch.Tensor], list[nn.Module]]:
    """A network without BatchNorm, set after set and both together, then networks with it: their weights."""
    sets = {"colour": features(40), "side": features(28, seed=1)}
    held_out = {"colour": features(9, seed=2), "side": features(9, seed=3)}
    weights, nets = {}, []
    for name, kind in (("in turn", Supervised), ("together", Together)):
        model = hidden()
        fit(model, kind(BOTH), sets, held_out, recipe(model, 4), TrainConfig(16, device="cpu"))
        weights |= {f"{name}.{key}": value.detach().contiguous() for key, value in model.state_dict().items()}
        nets.append(model)
    domains = net()
    config = TrainConfig(16, augment={"things": Augment()}, device="cpu")
    held_out = {"things": pictures(9, 2)}
    made = make_plan("everything", list(domains.stages), 2, 0.02)
    fit(domains, PerDomain(domains.domains), two(), held_out, made, config)
    model, method = adversarial(tasks=(COLOUR, LEVEL))
    fit(model, method, {"source": faces(24), "target": faces(24, 1)}, None, recipe(model, 2), config_of(config))
    return weights, [*nets, domains, model, method]


def config_of(config: TrainConfig) -> TrainConfig:
    return replace(config, augment={"source": Augment()})


# --- errors ----------------------------------------------------------------------------------------------------------


def test_errors_name_the_set():
    model, sets = probe(tasks=(COLOUR, SIDE)), {"colour": features(20), "side": features(20, seed=1)}
    config = TrainConfig(8)

    def run(method=None, train=sets, validation=None, config=config):
        return fit(model, method or Supervised(BOTH), train, validation, recipe(model, 1), config)

    bare = replace(sets["side"], labels=sets["side"].labels.assign(side=None))
    with pytest.raises(DataError, match="training set 'side' has no label at all for 'side'"):
        run(train=sets | {"side": bare})
    with pytest.raises(DataError, match="validation set 'side' has no label"):
        run(validation={"side": bare})
    with pytest.raises(DataError, match="training set 'side': .*no label column 'side'"):
        run(train=sets | {"side": replace(bare, labels=bare.labels.drop(columns="side"))})
    with pytest.raises(ConfigError, match="training set 'side': augmentation changes photos"):
        run(config=TrainConfig(8, augment={"side": Augment()}))
    with pytest.raises(ConfigError, match=r"no set \['sides'\] to augment"):
        run(config=TrainConfig(8, augment={"sides": Augment()}))
    with pytest.raises(ConfigError, match=r"sets \['side'\] are missing, got \['colour', 'sides'\]"):
        run(train={"colour": sets["colour"], "sides": sets["side"]})
    with pytest.raises(ConfigError, match=r"from the sets \['colour', 'side'\], by name; got 'more'"):
        run(train=sets | {"more": features()})
    with pytest.raises(ConfigError, match=r"sets \['colour', 'side'\] are missing"):
        run(train=features())
    with pytest.raises(ConfigError, match="by name; got None"):
        run(validation=features())
    with pytest.raises(ConfigError, match=r"validation sets \['other'\] are none of"):
        run(validation={"other": features()})
    with pytest.raises(ConfigError, match="no task to validate on the validation set 'side'"):
        run(Supervised({"colour": (COLOUR,), "side": ()}), validation=sets)
    with pytest.raises(ConfigError, match="at least one row"):
        run(Supervised([COLOUR]), train={})
    with pytest.raises(ConfigError, match="for each of 2 sets"):
        run(config=TrainConfig(3))
    for shares in ({"side": 1.0}, {"side": 1.0, "colour": 0.0}):
        with pytest.raises(ConfigError, match=r"positive share for each of \['colour', 'side'\]"):
            run(config=TrainConfig(8, sampling=shares))
    with pytest.raises(ConfigError, match="for the tasks side of set 'side'"):
        Supervised(BOTH, {"side": {"colour": 1.0}})
    with pytest.raises(ConfigError, match=r"weights for the sets \['sides'\]"):
        Supervised(BOTH, {"sides": {}})
    with pytest.raises(ConfigError, match="at least one task"):
        Supervised({"colour": (), "side": ()})
    with pytest.raises(NotImplementedError):
        Method([COLOUR]).loss_together(None, {})


def test_a_phase_that_trains_nothing_of_a_set_is_refused():
    model, made = net(), Plan("one", (Phase("texts", 1, {"texts": 0.1}),))
    with pytest.raises(TrainingError, match="phase 'texts' trains nothing that the loss of set 'things' depends on"):
        fit(model, PerDomain(model.domains), two(), None, made, TrainConfig(8))


@pytest.mark.parametrize("kind", [Supervised, Together])
def test_a_loss_that_is_not_finite_names_set_step_and_rows(kind):
    sets = {"colour": features(20), "side": features(20, seed=1)}
    sets["side"].features[13, 2] = np.inf
    model = probe(tasks=(COLOUR, SIDE))
    before = state_hash(model)
    with pytest.raises(TrainingError) as stop:
        fit(model, kind(BOTH), sets, None, recipe(model, 1), TrainConfig(8, steps=12, seed=4))
    order = Batches(sets["side"], (), 4, 4).order(0).tolist()
    step = order.index(13) // 4
    rows = ", ".join(map(str, order[step * 4 : step * 4 + 4]))
    text = str(stop.value)
    assert f"step {step + 1} (epoch 1, batch {step + 1})" in text
    assert f"rows {rows} of the training set 'side'" in text
    assert "inputs of rows 13 of 'side' are not finite" in text
    assert ("training set 'colour'" in text) == (kind is Together)
    assert state_hash(model) == before
