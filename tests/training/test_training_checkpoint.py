"""Checkpoints: a stopped run ends as an unbroken one, another run's are refused, a damaged one says so."""

import io
from dataclasses import replace
from operator import itemgetter

import pandas as pd
import pytest
import torch
from damage import accidents
from safetensors.torch import load_file
from tiny import COLOUR, classifier, faces, features, probe
from torch.utils._pytree import tree_flatten

from facekit.errors import TrainingError
from facekit.models.embedding import state_hash
from facekit.training import checkpoint
from facekit.training.augment import Augment
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.methods import Supervised
from facekit.training.plans import plan

CONFIG = TrainConfig(batch_size=8, augment=Augment(), seed=3)
STEPS = 3  # an epoch of 24 faces


class Killed(Exception):
    """What ends the run from outside."""


class Mortal(Supervised):
    """Supervised until the process is killed in some step; its name and settings are those of Supervised."""

    def __init__(self, tasks, step=None):
        super().__init__(tasks)
        self.left = step

    def loss(self, model, batch):
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1
        return super().loss(model, batch)


def run(folder, step=None, resume=False, model=None, **more):
    model = model or classifier()
    arguments = {"train": faces(), "validation": faces(10, 1), "config": CONFIG} | more
    arguments.setdefault("plan", plan("gradual", list(model.stages), 6, 0.05))
    result = fit(model, Mortal([COLOUR], step), run_dir=folder, resume=resume, **arguments)
    return state_hash(model), result


def same(ours, theirs) -> bool:
    (weights, a), (others, b) = ours, theirs
    return (
        weights == others
        and a.history.drop(columns="seconds").equals(b.history.drop(columns="seconds"))
        and (a.best_epoch, a.steps, a.moved) == (b.best_epoch, b.steps, b.moved)
    )


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 1, 3 * STEPS + 2, 6 * STEPS - 1])
def test_resumed_is_uninterrupted(tmp_path, step):
    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "broken", step)
    torch.rand(5)
    assert same(run(tmp_path / "broken", resume=True), whole)
    assert same(whole, run(None)), "writing checkpoints changes nothing"
    for name in ("best.safetensors", "last-0006.safetensors"):
        a, b = load_file(tmp_path / "whole" / name), load_file(tmp_path / "broken" / name)
        assert all(torch.equal(a[key], b[key]) for key in a.keys() | b.keys())


def test_killed_twice_and_resumed_when_done(tmp_path):
    whole = run(None)
    for step in (STEPS, STEPS + 2):
        with pytest.raises(Killed):
            run(tmp_path, step, resume=True)
    assert same(run(tmp_path, resume=True), whole)
    assert same(run(tmp_path, step=0, resume=True), whole), "a finished run trains nothing"


def test_without_validation_the_last_epoch_counts(tmp_path):
    whole = run(None, validation=None)
    with pytest.raises(Killed):
        run(tmp_path, STEPS, validation=None)
    assert same(run(tmp_path, resume=True, validation=None), whole) and whole[1].best_epoch == 6


def short(epochs: int, name: str = "gradual"):
    return plan(name, STAGES, epochs, 0.05)


@pytest.mark.parametrize("name", ["gradual", "everything", "probe_then_fine_tune"])
@pytest.mark.parametrize("step", [None, STEPS, 3 * STEPS + 1])
def test_an_extended_run_is_one_that_had_the_longer_plan_from_the_beginning(tmp_path, name, step):
    longer = short(3, name).extended(5)
    whole = run(None, plan=longer)
    assert (
        len(whole[1].history) == 5 and whole[1].history["phase"].iloc[-1] == f"{short(3, name).phases[-1].name}, again"
    )
    if step == STEPS:  # not even done when it is extended
        with pytest.raises(Killed):
            run(tmp_path, step, plan=short(3, name))
    else:
        run(tmp_path, plan=short(3, name))
    if step is not None:
        with pytest.raises(Killed):
            run(tmp_path, 1 if step == STEPS else STEPS + 1, plan=longer, resume=True)
    assert same(run(tmp_path, resume=True, plan=longer), whole)
    assert same(run(tmp_path, step=0, resume=True, plan=longer), whole), "and then it is done"
    assert checkpoint.given(tmp_path) == [3, 5]


def test_a_run_can_be_extended_again_and_its_best_epoch_stays(tmp_path):
    first = short(2)
    _, before = run(tmp_path, plan=first)
    slow = replace(first.phases[-1], rates={"heads": 30.0})  # ruins what was learnt
    worse = replace(first, phases=(*first.phases[:-1], slow)).extended(4)
    worse = replace(worse, phases=(*first.phases, worse.phases[-1]))
    _, result = run(tmp_path, plan=worse, resume=True)
    assert result.best_epoch == before.best_epoch, "nothing better was found"
    twice = worse.extended(6)
    assert same(run(tmp_path, resume=True, plan=twice), run(None, plan=twice))
    assert checkpoint.given(tmp_path) == [2, 4, 6]


def test_what_is_no_longer_plan_of_the_same_run_is_another_run(tmp_path):
    run(tmp_path, plan=short(3).extended(5))
    begin = short(3)
    others = [begin, begin.extended(4), begin.extended(6), short(6), begin.extended(4).extended(6)]
    for other in [*others, replace(begin.extended(5), name="x").extended(7)]:
        with pytest.raises(TrainingError, match="another run: the plan differ"):
            run(tmp_path, resume=True, plan=other)
    with pytest.raises(TrainingError, match="another run: the configuration, plan differ"):
        run(tmp_path, resume=True, plan=begin.extended(5).extended(7), config=replace(CONFIG, seed=4))
    assert len(run(tmp_path, resume=True, plan=begin.extended(5).extended(7))[1].history) == 7


def test_a_run_of_before_runs_could_be_extended_still_goes_on(tmp_path, monkeypatch):
    whole, saved = run(None), checkpoint.save
    older = {"plan", "given"}
    monkeypatch.setattr(
        checkpoint,
        "save",
        lambda folder, state, *more: saved(folder, {k: v for k, v in state.items() if k not in older}, *more),
    )
    with pytest.raises(Killed):
        run(tmp_path, STEPS)
    monkeypatch.undo()
    assert checkpoint.given(tmp_path) == []
    assert same(run(tmp_path, resume=True), whole)


def test_epochs_given_that_are_no_numbers_say_so(tmp_path, monkeypatch):
    saved = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda folder, state, *more: saved(folder, {**state, "given": 3}, *more))
    run(tmp_path)
    with pytest.raises(TrainingError, match="damaged .epochs given: 3.; delete the folder"):
        checkpoint.given(tmp_path)


def stored_state(folder) -> dict:
    """What last.pt holds, inside its seal."""
    sealed = torch.load(folder / "last.pt", weights_only=True)
    return torch.load(io.BytesIO(sealed["state"].numpy().tobytes()), weights_only=True)


def test_a_state_that_was_changed_and_saved_again_is_not_gone_on_with(tmp_path):
    with pytest.raises(Killed):
        run(tmp_path, STEPS)
    sealed, state, content = torch.load(tmp_path / "last.pt", weights_only=True), stored_state(tmp_path), io.BytesIO()
    state["history"][0]["train_loss"] += 1
    torch.save(state, content)
    torch.save(sealed | {"state": torch.frombuffer(content.getbuffer(), dtype=torch.uint8)}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="damaged .it was changed.*train again"):
        run(tmp_path, resume=True)


def test_the_folder_holds_one_checkpoint_a_log_and_no_remains(tmp_path):
    _, result = run(tmp_path)
    names = {path.name for path in tmp_path.iterdir() if not path.name.startswith("events.")}
    assert names == {"best.safetensors", "last-0006.safetensors", "last.pt", "log.csv"}
    logged = pd.read_csv(tmp_path / "log.csv")
    pd.testing.assert_frame_equal(logged, result.history)
    assert stored_state(tmp_path)["epoch"] == 6


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match="already holds a run"):
        run(tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


def other_labels():
    data = faces()
    return replace(data, labels=data.labels.assign(colour=data.labels["colour"].iloc[::-1].to_numpy()))


STAGES = list(classifier().stages)


@pytest.mark.parametrize(
    ("part", "more"),
    [
        ("configuration", {"config": replace(CONFIG, seed=4)}),
        ("configuration", {"config": replace(CONFIG, augment=None)}),
        ("plan", {"plan": plan("gradual", STAGES, 7, 0.05)}),
        ("data", {"train": faces(seed=9)}),
        ("data", {"train": other_labels()}),
        ("data", {"validation": None}),
        ("model", {"model": classifier(seed=1)}),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_the_difference_named(tmp_path, part, more):
    with pytest.raises(Killed):
        run(tmp_path, STEPS)
    with pytest.raises(TrainingError, match=rf"another run: the {part} differ"):
        run(tmp_path, resume=True, **more)


def test_another_method_is_another_run(tmp_path):
    model = probe()
    recipe = plan("probe", ["heads"], 1, 0.1)
    fit(model, Supervised([COLOUR]), features(), None, recipe, CONFIG_PLAIN, tmp_path)
    with pytest.raises(TrainingError, match="the method differ"):
        weighted = Supervised([COLOUR], {"colour": 2.0})
        fit(probe(), weighted, features(), None, recipe, CONFIG_PLAIN, tmp_path, resume=True)


CONFIG_PLAIN = TrainConfig(batch_size=8)


@pytest.mark.parametrize("name", ["last.pt", "last-0001.safetensors", "best.safetensors"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_checkpoint_says_so(tmp_path, name, damage):
    with pytest.raises(Killed):
        run(tmp_path, STEPS)
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"hello " * 40}[damage])
    with pytest.raises(TrainingError, match="damaged"):
        run(tmp_path, resume=True)


def test_a_pickle_that_would_run_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    run(tmp_path)
    torch.save({"fingerprint": Evil()}, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="damaged"):
        run(tmp_path, resume=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("at", ["best.safetensors", "last-0002.safetensors", "last.pt"])
def test_a_disk_that_fills_up_leaves_the_checkpoint_before(tmp_path, monkeypatch, at):
    whole = run(None)
    real = checkpoint.atomic_path

    def full(path):
        if path.name == at and (path.exists() or at.startswith("last-")):
            raise OSError(28, "No space left on device")
        return real(path)

    monkeypatch.setattr(checkpoint, "atomic_path", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        run(tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.glob(".*.part"))
    assert same(run(tmp_path, resume=True), whole)


def equal(one, other) -> bool:
    """Whether two checkpoints hold the same numbers, texts and tensors (files of weights have no order)."""
    found = (
        [state, *(sorted(weights.items(), key=itemgetter(0)) for weights in both)] for state, *both in (one, other)
    )
    (a, shape), (b, others) = map(tree_flatten, found)
    pairs = zip(a, b, strict=False)
    return shape == others and all(torch.equal(x, y) if torch.is_tensor(x) else x == y for x, y in pairs)


@pytest.mark.parametrize("name", ["last.pt", "last-0001.safetensors", "best.safetensors"])
def test_whatever_happens_to_a_checkpoint_it_is_told_or_nothing_changes(tmp_path, name):
    with pytest.raises(Killed):
        run(tmp_path, STEPS)
    expected = stored_state(tmp_path)["fingerprint"]
    cpu = torch.device("cpu")
    before = checkpoint.load(tmp_path, expected, cpu)
    for what in accidents(tmp_path / name, 120):
        try:
            found = checkpoint.load(tmp_path, expected, cpu)
        except TrainingError as error:
            assert "train again" in str(error) and "\n" not in str(error), what
        else:
            assert equal(found, before) if found else what == "no last.pt", what


@pytest.mark.parametrize("value", [3, [1], {}, {"fingerprint": "x"}, torch.ones(3), None])
def test_a_state_of_something_else_says_so(tmp_path, value):
    with pytest.raises(Killed):
        run(tmp_path, STEPS)
    torch.save(value, tmp_path / "last.pt")
    with pytest.raises(TrainingError, match="damaged.*train again"):
        run(tmp_path, resume=True)


def test_weights_of_another_run_or_under_another_name_say_so(tmp_path):
    for name, more in (("a", {}), ("b", {"config": replace(CONFIG, seed=4)})):
        with pytest.raises(Killed):
            run(tmp_path / name, STEPS, **more)
    best, last = tmp_path / "a" / "best.safetensors", tmp_path / "a" / "last-0001.safetensors"
    whole = best.read_bytes()
    for other in (tmp_path / "b" / "best.safetensors", last):
        best.write_bytes(other.read_bytes())
        checkpoint.read(best)  # whole in itself
        with pytest.raises(TrainingError, match="best.safetensors .*another run wrote it"):
            run(tmp_path / "a", resume=True)
    best.write_bytes(whole)
    assert same(run(tmp_path / "a", resume=True), run(None))
