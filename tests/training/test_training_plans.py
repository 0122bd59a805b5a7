"""Plans: which stages move and how fast, the schedule over the steps, and what is refused."""

import pytest
import torch
from backbones import stage_hashes
from hypothesis import given
from hypothesis import strategies as st
from tiny import COLOUR, classifier, faces, probe

from facekit.errors import ConfigError
from facekit.models.heads import parameter_counts
from facekit.training.config import TrainConfig
from facekit.training.loop import fit, make_optimiser
from facekit.training.methods import Supervised
from facekit.training.plans import PLANS, SCHEDULES, Phase, Plan, plan, rate

STAGES = ["stem", "block", "embedding", "heads"]


@given(steps=st.integers(1, 60), warmup=st.floats(0, 0.99), schedule=st.sampled_from(SCHEDULES), data=st.data())
def test_the_rate_rises_to_its_peak_and_never_rises_again(steps, warmup, schedule, data):
    rates = [rate(step, steps, warmup, schedule) for step in range(steps)]
    assert all(0 < value <= 1 for value in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(1)


def test_an_extended_plan_begins_with_the_old_one_and_trains_on_what_its_last_phase_does():
    stages = ["stem", "block", "embedding", "heads"]
    for name in PLANS:
        first = plan(name, stages, 6, 0.1)
        longer = first.extended(9).extended(10)
        assert longer.epochs == 10 and longer.phases[: len(first.phases)] == first.phases
        *_, last, again, more = longer.phases
        assert (again.rates, again.warmup, again.schedule, again.epochs) == (last.rates, last.warmup, last.schedule, 3)
        assert more.epochs == 1 and more.name == again.name == f"{last.name}, again"
        assert list(longer.beginnings())[len(first.phases) - 1] == first and list(longer.beginnings())[-1] == longer
        for epochs in (6, 5, 0):
            with pytest.raises(ConfigError, match="has 6 epochs already"):
                first.extended(epochs)


def test_cosine_is_torchs_cosine():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 10)
    for step in range(10):
        assert optimiser.param_groups[0]["lr"] == pytest.approx(rate(step, 10), abs=1e-9)
        optimiser.step()
        theirs.step()


@given(name=st.sampled_from(PLANS), epochs=st.integers(2, 30))
def test_every_plan_keeps_its_budget_and_ends_with_the_heads(name, epochs):
    made = plan(name, STAGES, epochs, 0.01)
    assert made.epochs == epochs
    assert all("heads" in phase.rates for phase in made.phases)
    assert made.phases[-1].rates["heads"] == pytest.approx(0.01)


TRAINED = {
    "probe": [["heads"]],
    "last_layer": [["embedding", "heads"]],
    "last_block": [["block", "embedding", "heads"]],
    "gradual": [["heads"], ["embedding", "heads"], ["block", "embedding", "heads"], STAGES],
    "discriminative": [STAGES],
    "probe_then_fine_tune": [["heads"], STAGES],
    "everything": [STAGES],
    "scratch": [STAGES],
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_trains_the_stages_it_names_and_no_other(name):
    made = plan(name, STAGES, 4, 0.01)
    assert [list(phase.rates) for phase in made.phases] == TRAINED[name]
    for phase in made.phases:  # each phase alone, so that nothing hides behind a later one
        model = classifier()
        before, sizes = stage_hashes(model), parameter_counts(model)["parameters"]
        alone = Plan(name, (Phase(phase.name, 1, phase.rates),))
        moved = fit(model, Supervised([COLOUR]), faces(), None, alone, TrainConfig(batch_size=8)).moved
        after = stage_hashes(model)
        assert {stage for stage in STAGES if before[stage] != after[stage]} == set(phase.rates)
        assert all(moved[stage] == 0 for stage in STAGES if stage not in phase.rates)
        assert all(0 < moved[stage] <= sizes[stage] for stage in phase.rates)


def test_gradual_unfreezing_reaches_the_input_also_with_few_epochs():
    for epochs in range(1, 9):
        made = plan("gradual", STAGES, epochs, 0.01)
        assert list(made.phases[0].rates) == ["heads"]
        assert epochs == 1 or list(made.phases[-1].rates) == STAGES
        assert all(len(a.rates) < len(b.rates) for a, b in zip(made.phases, made.phases[1:], strict=False))


def test_discriminative_rates_fall_by_the_factor_towards_the_input():
    rates = plan("discriminative", STAGES, 1, 0.1, factor=2).phases[0].rates
    assert rates == pytest.approx({"heads": 0.1, "embedding": 0.05, "block": 0.025, "stem": 0.0125})
    lower = plan("discriminative", STAGES, 1, 0.1).phases[0].rates
    assert lower["stem"] == pytest.approx(0.1 / 2.6**3)
    assert len(set(plan("everything", STAGES, 1, 0.1).phases[0].rates.values())) == 1


@pytest.mark.parametrize("name", PLANS)
def test_nothing_below_a_stage_is_trained_and_the_rest_as_before(name):
    made = plan(name, STAGES, 4, 0.1)
    upper = made.since("embedding", STAGES)
    for before, after in zip(made.phases, upper.phases, strict=True):
        kept = {stage: lr for stage, lr in before.rates.items() if stage in ("embedding", "heads")}
        assert after.rates == kept and (after.epochs, after.warmup) == (before.epochs, before.warmup)
    assert made.since("stem", STAGES) == made
    with pytest.raises(ConfigError, match="no stage 'other'"):
        made.since("other", STAGES)


def test_a_plan_whose_phase_would_train_nothing_is_refused():
    only = Plan("lower", (Phase("lower", 1, {"stem": 0.1}),))
    with pytest.raises(ConfigError, match="at least one epoch, one stage"):
        only.since("block", STAGES)


def test_the_optimiser_gets_the_plans_rates_and_decays_only_weights():
    model = classifier()
    phase = plan("discriminative", STAGES, 1, 0.1, factor=2).phases[0]
    model.freeze([])
    groups = make_optimiser(model, Supervised([COLOUR]), phase, 0.3).param_groups
    assert {group["stage"]: group["peak"] for group in groups} == pytest.approx(dict(phase.rates))
    assert sum(p.numel() for group in groups for p in group["params"]) == sum(p.numel() for p in model.parameters())
    for group in groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] > 0}
    assert len(make_optimiser(model, Supervised([COLOUR]), phase, 0.0).param_groups) == len(groups)


def test_the_table_tells_what_will_happen():
    model = classifier()
    table = plan("probe_then_fine_tune", STAGES, 5, 0.01).table(model).set_index(["phase", "stage"])
    assert table.loc[("probe", "stem"), ["lr", "trainable"]].tolist() == [0, 0]
    assert table.loc[("probe", "heads"), "lr"] == pytest.approx(0.1)
    assert table.loc[("probe", "heads"), "epochs"] == 3 and table.loc[("fine-tune", "heads"), "epochs"] == 2
    fine_tuned = table.loc["fine-tune", "trainable"]
    assert fine_tuned.to_dict() == parameter_counts(model)["parameters"].to_dict()


def test_plans_that_do_not_fit_are_refused():
    wrong = [("unknown", 2, 0.1), ("probe", 0, 0.1), ("probe", 2, 0.0), ("probe", 2, float("nan"))]
    wrong += [("probe_then_fine_tune", 1, 0.1)]
    for name, epochs, lr in wrong:
        with pytest.raises(ConfigError):
            plan(name, STAGES, epochs, lr)
    with pytest.raises(ConfigError, match="probe"):
        plan("last_layer", list(probe().stages), 2, 0.1)
    with pytest.raises(ConfigError, match="factor"):
        plan("discriminative", STAGES, 2, 0.1, factor=0)
    with pytest.raises(ConfigError, match="no phases"):
        Plan("empty", ())
    with pytest.raises(ConfigError, match="no stage"):
        plan("probe", ["other"], 1, 0.1).table(classifier())
    for more in ({"warmup": 1.0}, {"schedule": "steps"}):
        with pytest.raises(ConfigError):
            plan("probe", STAGES, 2, 0.1, **more)


def test_every_epoch_belongs_to_the_phase_that_covers_it():
    made = Plan("three", tuple(Phase(str(n), n, {"heads": 0.1}) for n in (2, 1, 3)))
    found = [made.at(epoch) for epoch in range(made.epochs)]
    assert [(phase.epochs, begin) for phase, begin in found] == [(2, 0)] * 2 + [(1, 2)] + [(3, 3)] * 3
    with pytest.raises(ConfigError, match="has 6 epochs"):
        made.at(6)
