"""The loop: the loss's gradient, equal seeds, the best epoch, missing labels, and stops that say where."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from backbones import stage_hashes
from safetensors.torch import load_file
from tiny import COLOUR, LEVEL, SIDE, classifier, faces, features, probe

from facekit.errors import ConfigError, DataError, TrainingError
from facekit.models.embedding import state_hash
from facekit.training.augment import Augment
from facekit.training.batches import Batch, Batches
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, predict
from facekit.training.methods import Method, Supervised
from facekit.training.plans import plan

TASKS = (COLOUR, SIDE, LEVEL)
SMALL = TrainConfig(batch_size=8)


def recipe(model, name="probe", epochs=2, lr=0.01, **more):
    return plan(name, list(model.stages), epochs, lr, **more)


def without_time(history):
    return history.drop(columns="seconds")


def relabelled(data, **columns):
    return replace(data, labels=data.labels.assign(**columns))


def test_gradient_of_the_supervised_loss_by_finite_differences():
    model, method = probe(4, TASKS).double(), Supervised(TASKS, {"side": 0.3})
    data = relabelled(features(9, 4), side=[None, "left"] + ["right"] * 7)
    batch = next(iter(Batches(data, TASKS, 9).epoch()))
    targets = {name: y.double() if y.is_floating_point() else y for name, y in batch.targets.items()}
    batch = Batch(batch.inputs.double(), targets, batch.rows)
    loss, logs = method.loss(model, batch)
    assert loss.item() == pytest.approx(sum(method.weights[name] * value.item() for name, value in logs.items()))
    loss.backward()
    for parameter in model.parameters():
        numeric = torch.zeros_like(parameter)
        for i in range(parameter.numel()):
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    parameter.view(-1)[i] += step
                    values.append(method.loss(model, batch)[0].item())
                    parameter.view(-1)[i] -= step
            numeric.view(-1)[i] = (values[0] - values[1]) / 2e-6
        assert torch.allclose(parameter.grad, numeric, atol=1e-7)


def test_smoothed_labels_are_those_of_torch_and_validation_is_on_the_labels_themselves():
    """Of rows without a label nothing counts, and numbers have no classes to spread a label over."""
    outputs = {task.name: torch.randn(9, task.n_outputs, generator=torch.Generator().manual_seed(1)) for task in TASKS}
    data = relabelled(features(9, 4), side=[None, "left"] + ["right"] * 7)
    targets = data.targets(TASKS)
    for amount in (0.0, 0.1, 0.7):
        method = Supervised(TASKS, smoothing=amount)
        _, logs = method.loss(lambda inputs: outputs, Batch(torch.zeros(9, 4), targets, np.arange(9)))
        for task in (COLOUR, SIDE):
            expected = F.cross_entropy(outputs[task.name], targets[task.name], ignore_index=-1, label_smoothing=amount)
            assert logs[task.name].item() == pytest.approx(expected.item(), abs=1e-6)
        assert torch.equal(logs["level"], LEVEL.loss(outputs["level"], targets["level"]))
    nobody = {name: torch.full_like(values, -1) for name, values in targets.items() if name != "level"}
    method = Supervised((COLOUR, SIDE), smoothing=0.5)
    assert method.loss(lambda inputs: outputs, Batch(torch.zeros(9, 4), nobody, np.arange(9)))[0] == 0
    model = probe(4, (COLOUR,))
    seen = fit(model, Supervised((COLOUR,), smoothing=0.5), data, data, recipe(model, epochs=1), SMALL).history
    loss = COLOUR.loss(predict(model, data)["colour"], targets["colour"]).item()
    assert seen["validation_loss"].item() == pytest.approx(loss, rel=1e-5)


def test_a_run_with_other_labels_is_another_run(tmp_path):
    data = features(20)
    for smoothing in (0.1, 0.2):
        model = probe()
        if smoothing == 0.1:
            fit(model, Supervised((COLOUR,), smoothing=smoothing), data, None, recipe(model), SMALL, tmp_path)
            continue
        with pytest.raises(TrainingError, match="another run"):
            fit(model, Supervised((COLOUR,), smoothing=smoothing), data, None, recipe(model), SMALL, tmp_path, True)
    for wrong in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="smoothing"):
            Supervised((COLOUR,), smoothing=wrong)


def test_the_loop_is_the_loop_written_by_hand():
    data, model, twin = features(20), probe(), probe()
    result = fit(model, Supervised([COLOUR]), data, None, recipe(model, epochs=3, warmup=0, schedule="constant"), SMALL)
    optimiser = torch.optim.AdamW(
        [{"params": [twin.heads.layers["colour"][-1].weight]}, {"params": [twin.heads.layers["colour"][-1].bias]}],
        lr=0.01,
        weight_decay=0.01,
    )
    optimiser.param_groups[1]["weight_decay"] = 0
    x, y = torch.from_numpy(data.features), data.targets([COLOUR])["colour"]
    for epoch in range(3):
        order = np.random.default_rng([0, epoch]).permutation(20)
        for rows in (order[:8], order[8:16], order[16:]):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(twin(x[rows])["colour"], y[rows]).backward()
            optimiser.step()
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert result.steps == 9 and result.best_epoch == 3


def test_it_learns_what_can_be_learnt():
    model = probe(tasks=TASKS)
    result = fit(model, Supervised(TASKS), features(200), features(100, seed=1), recipe(model, epochs=30, lr=0.1))
    assert result.history["validation_loss"].iloc[-1] < result.history["validation_loss"].iloc[0] / 2
    assert result.history["accuracy_colour"].iloc[-1] > 0.9 and result.history["accuracy_side"].iloc[-1] > 0.9


def test_equal_seeds_equal_results_and_the_callers_random_state_stays():
    results = []
    for seed in (1, 1, 2):
        model = classifier()
        torch.manual_seed(7)
        before = torch.get_rng_state()
        config = TrainConfig(batch_size=8, seed=seed, augment=Augment(erase=0.5))
        result = fit(model, Supervised([COLOUR]), faces(), faces(8, 1), recipe(model, "everything"), config)
        assert torch.equal(torch.get_rng_state(), before)
        results.append((state_hash(model), without_time(result.history)))
        torch.rand(3)
    assert results[0][0] == results[1][0] != results[2][0]
    assert results[0][1].equals(results[1][1])


def test_frozen_stages_are_the_same_bytes_before_and_after_a_whole_run():
    model = classifier()
    before = stage_hashes(model)
    fit(model, Supervised([COLOUR]), faces(), faces(8, 1), recipe(model, "last_layer", 3), SMALL)
    after = stage_hashes(model)
    assert before["stem"] == after["stem"] and before["block"] == after["block"]
    assert not model.training and model.frozen == {"stem", "block"}


def test_the_model_ends_with_the_epoch_of_least_validation_loss():
    model = classifier()
    held_out = faces(12, 3)
    made = recipe(model, "everything", epochs=6, lr=0.3, schedule="constant")
    result = fit(model, Supervised([COLOUR]), faces(), held_out, made, SMALL)
    losses = result.history.set_index("epoch")["validation_loss"]
    assert result.best_epoch == losses.idxmin() < 6, "this rate should overshoot"
    loss = COLOUR.loss(predict(model, held_out)["colour"], held_out.targets([COLOUR])["colour"]).item()
    assert loss == pytest.approx(losses.min(), rel=1e-5)


def test_rows_without_a_label_do_not_count():
    known = features(16)
    unknown = relabelled(features(16, seed=1), colour=None)
    few = relabelled(known, colour=known.labels["colour"].where(np.arange(16) < 8))
    method, model = Supervised([COLOUR]), probe()
    whole = next(iter(Batches(few, [COLOUR], 16).epoch()))
    part = next(iter(Batches(known.select(range(8)), [COLOUR], 8).epoch()))
    assert method.loss(model, whole)[0].item() == pytest.approx(method.loss(model, part)[0].item())
    with pytest.raises(DataError, match="no label at all for 'colour'"):
        fit(model, method, unknown, None, recipe(model), SMALL)
    with pytest.raises(DataError, match="validation"):
        fit(model, method, known, unknown, recipe(model), SMALL)


def test_validation_loss_does_not_depend_on_how_it_is_cut_into_batches():
    data = relabelled(features(600), colour=features(600).labels["colour"].where(np.arange(600) % 7 < 2))
    model = probe(tasks=[COLOUR, LEVEL])
    result = fit(model, Supervised([COLOUR, LEVEL]), features(), data, recipe(model, epochs=1), SMALL)
    outputs, targets = predict(model, data, batch_size=17), data.targets([COLOUR, LEVEL])
    for task in (COLOUR, LEVEL):
        expected = task.loss(outputs[task.name], targets[task.name]).item()
        assert result.history[f"validation_{task.name}"][0] == pytest.approx(expected, rel=1e-5)


def test_predict_keeps_order_and_mode():
    model, data = classifier(TASKS).train(), faces(11)
    outputs = predict(model, data, batch_size=4)
    assert model.training
    with torch.no_grad():
        whole = model.eval()(torch.from_numpy(data.images))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "colour": (11, 2),
        "side": (11, 2),
        "level": (11, 1),
    }
    for name, values in outputs.items():
        assert torch.allclose(values, whole[name], atol=1e-6)


def test_a_last_batch_of_one_photo_does_not_stop_batchnorm():
    model = classifier()
    result = fit(model, Supervised([COLOUR]), faces(17), None, recipe(model, "everything", 1), SMALL)
    assert result.steps == 2


@pytest.mark.parametrize("more", [{"precision": "bf16"}, {"channels_last": True}])
def test_switches_change_the_speed_and_not_the_result(more):
    histories = []
    for config in (SMALL, replace(SMALL, **more)):
        model = classifier()
        result = fit(model, Supervised([COLOUR]), faces(), faces(8, 1), recipe(model, "last_block"), config)
        assert all(p.dtype == torch.float32 for p in model.parameters())
        histories.append(result.history["validation_loss"])
    np.testing.assert_allclose(*histories, rtol=0.05)


def test_a_loss_that_is_not_finite_names_step_and_rows_and_keeps_the_best_weights():
    data, model = features(20), probe()
    data.features[13, 2] = np.inf
    before = state_hash(model)
    with pytest.raises(TrainingError) as stop:
        fit(model, Supervised([COLOUR]), data, features(8, seed=1), recipe(model), SMALL)
    order = Batches(data, [COLOUR], 8).order(0).tolist()
    step = order.index(13) // 8
    text = str(stop.value)
    assert f"step {step + 1} (epoch 1, batch {step + 1})" in text and "inputs of rows 13 are not finite" in text
    assert f"rows {', '.join(map(str, order[step * 8 : step * 8 + 8]))} of the training set" in text
    assert state_hash(model) == before


class Exploding(Supervised):
    """Supervised until a step, from there not a number."""

    def __init__(self, tasks, step):
        super().__init__(tasks)
        self.left = step

    def loss(self, model, batch):
        loss, logs = super().loss(model, batch)
        self.left -= 1
        return (loss * float("nan") if self.left < 0 else loss), logs


def test_the_best_weights_so_far_survive_in_memory_and_on_disk(tmp_path):
    data, held_out, model, twin = features(16), features(8, seed=1), probe(), probe()
    with pytest.raises(TrainingError, match=r"step 5 \(epoch 3, batch 1\)"):
        fit(model, Exploding([COLOUR], 4), data, held_out, recipe(model, epochs=4), SMALL, tmp_path / "run")
    stored = load_file(tmp_path / "run" / "best.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    assert all(value.isfinite().all() for value in stored.values())
    twin.load_state_dict(stored)


def test_weights_broken_by_the_last_step_are_noticed_at_once():
    model = probe()

    class Breaking(Supervised):
        def loss(self, model, batch):
            loss, logs = super().loss(model, batch)
            next(model.parameters()).register_hook(lambda grad: grad * float("nan"))
            return loss, logs

    with pytest.raises(TrainingError, match="after step 1"):
        fit(model, Breaking([COLOUR]), features(8), None, recipe(model, epochs=1), SMALL)


def test_a_method_may_bring_parameters_of_its_own():
    class Tempered(Supervised):
        def __init__(self, tasks):
            super().__init__(tasks)
            self.temperature = torch.nn.Parameter(torch.ones(()))
            self.fixed = torch.nn.Parameter(torch.ones(()), requires_grad=False)

        def loss(self, model, batch):
            loss, logs = super().loss(lambda x: {k: v * self.temperature for k, v in model(x).items()}, batch)
            return loss, logs | {"temperature": self.temperature}

    model, method = probe(), Tempered([COLOUR])
    result = fit(model, method, features(), None, recipe(model), SMALL)
    assert method.temperature != 1 and method.fixed == 1
    assert "train_temperature" in result.history


def test_heads_that_the_method_leaves_out_do_not_move():
    model = probe(tasks=(COLOUR, SIDE))
    before = state_hash(model.heads.layers["side"])
    fit(model, Supervised([COLOUR]), features(), None, recipe(model), TrainConfig(batch_size=8, weight_decay=0))
    assert state_hash(model.heads.layers["side"]) == before


def test_bad_settings_are_refused_before_anything_is_trained():
    for wrong in ({"batch_size": 0}, {"seed": -1}, {"precision": "fp16"}, {"weight_decay": -1.0}):
        with pytest.raises(ConfigError):
            TrainConfig(**wrong)
    for weights in ({"colour": -1.0}, {"other": 1.0}):
        with pytest.raises(ConfigError):
            Supervised([COLOUR], weights)
    with pytest.raises(ConfigError):
        Supervised([])
    with pytest.raises(NotImplementedError):
        Method([COLOUR]).loss(None, None)
    model = probe()
    with pytest.raises(ConfigError, match="no stage"):
        fit(model, Supervised([COLOUR]), features(), None, plan("everything", ["stem", "heads"], 1, 0.1), SMALL)
    with pytest.raises(DataError, match="no label column"):
        fit(model, Supervised([replace(COLOUR, name="hue")]), features(), None, recipe(model), SMALL)
