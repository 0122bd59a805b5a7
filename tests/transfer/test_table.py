"""The table of methods: whole, described, and enough to train every method that acts during training."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tiny import LEVEL, SIDE, features

from facekit.commands.cli import main
from facekit.errors import ConfigError
from facekit.models.heads import Classifier, Heads
from facekit.models.multitask import mlp
from facekit.tasks import Task
from facekit.training.config import TrainConfig
from facekit.training.loop import fit
from facekit.training.plans import plan
from facekit.transfer import table as module
from facekit.transfer.table import ALONE, Parameter, Row, row, table

TRAINED = [key for key, each in table().items() if each.trains and each.names == () and ALONE not in each.unlabelled]
GROUPS = Task("town", "multiclass", ("A", "B"))
TASKS = (SIDE, LEVEL)


def test_every_row_is_described_and_keys_are_typed_easily():
    for key, each in table().items():
        assert key == each.key and key.replace("_", "").isalnum() and key.islower()
        assert len(each.about) > 20 and each.sets and each.labels
        assert all(parameter.about for parameter in each.parameters.values())
        assert not each.trains or (each.acts == "during" and None not in [p.default for p in each.parameters.values()])


@pytest.mark.parametrize("key", TRAINED)
def test_a_row_is_enough_to_train_its_method(key):
    data = features(40)
    data = replace(data, labels=data.labels.assign(town=["A", "A", "B", "A"] * 10))
    groups = GROUPS if row(key).grouped else None

    def classifier() -> Classifier:
        return Classifier(None, Heads(6, TASKS))

    net, method = row(key).trained(lambda: mlp(6, (4,)), classifier, TASKS, 3, None, {ALONE: data}, groups)
    result = fit(net, method, data, None, plan("everything", list(net.stages), 2, 1e-2), TrainConfig(batch_size=16))
    assert result.steps == 6 and all(result.moved.values())


def test_parameters_reach_the_method_and_no_other_is_taken():
    made = row("soft").trained(lambda: mlp(6, (4,)), None, TASKS, 1, strength="0.25")[1]
    assert made.strength == 0.25
    with pytest.raises(ConfigError, match="soft has no parameter strenght.*strength"):
        row("soft").checked({"strenght": 1})
    with pytest.raises(ConfigError, match="strength of the method soft must be a float, got 'much'"):
        row("soft").checked({"strength": "much"})


@pytest.mark.parametrize("names", [(), None, ("source", "target")])
@pytest.mark.parametrize("given", [(), ("one",), ("one", "other"), ("target", "source"), ("source",)])
def test_a_method_takes_the_sets_of_its_row_and_no_others(names, given):
    made = Row(name="any", about="nothing", acts="during", sets="these sets", names=names)
    if set(given) == set(names) if names is not None else given:
        return made.check_sets(given)
    with pytest.raises(
        ConfigError, match=f"any learns from these sets; give .*not {', '.join(given) or 'one without'}"
    ):
        made.check_sets(given)


def test_what_does_not_act_in_the_loop_says_so():
    with pytest.raises(ConfigError, match="coral acts before training, on source and target"):
        row("coral").trained(None, None, TASKS, 1)
    with pytest.raises(ConfigError, match="no method 'sofd'; use one of .*soft"):
        row("sofd")


def test_a_method_is_found_by_its_file_alone(tmp_path, monkeypatch):
    known = list(module._modules())
    assert "facekit.transfer.sharing" in known and "facekit.transfer.table" not in known
    monkeypatch.setattr(module, "_modules", lambda: ["facekit.transfer.sharing", "facekit.transfer.sharing"])
    with pytest.raises(ConfigError, match="two methods are called 'single'"):
        table()


def test_the_command_lists_all_or_one(capsys):
    assert main(["methods"]) == 0
    printed = capsys.readouterr().out
    assert all(f"\n{key}" in f"\n{printed}" for key in table())
    assert main(["methods", "--name", "soft"]) == 0
    printed = capsys.readouterr().out
    assert "--strength" in printed and "(train --method)" in printed and "coral" not in printed
    assert main(["methods", "--name", "one_network"]) == 0
    printed = capsys.readouterr().out
    assert "(train --method)" in printed and "--trunk_rate" in printed and "one set per domain" in printed
    assert main(["methods", "--name", "sofd"]) == 2


def test_the_page_of_the_docs_is_made_from_the_rows(tmp_path):
    assert main(["methods", "--write", str(tmp_path / "methods.md")]) == 0
    page = (tmp_path / "methods.md").read_text(encoding="utf-8")
    assert all(f"| `{key}` |" in page for key in table())


def test_a_row_needs_no_more_than_its_names():
    bare = Row(name="a, b-c", about="nothing", acts="after", parameters={"k": Parameter(2, "how many")})
    assert bare.key == "a_b_c" and bare.checked({"k": "3"}) == {"k": 3}
