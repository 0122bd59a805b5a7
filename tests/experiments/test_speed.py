"""Measurements of speed: every row is there and of one form. Speed itself is asserted nowhere."""

from __future__ import annotations

import math

import pytest
import torch

from facekit.errors import ConfigError
from facekit.experiments import speed
from facekit.experiments.speed import (
    ALL,
    BARE,
    COMPILE,
    EMBEDDER,
    LIMIT,
    LOOP,
    OWN_BATCHES,
    PEER,
    PLAIN,
    SWITCHES,
    UNREAD,
    bench_embedding,
    bench_sharing,
    bench_training,
    fastest,
    figures,
)

COLUMNS = ["row", "unit", "value", "times", "share"]


def test_figures_stand_beside_the_first_row_and_the_limit():
    table = figures({"slow": 2, "fast": 6, "limit": 8}, limit="limit")
    assert list(table) == COLUMNS and list(table["times"]) == [1, 3, 4] and list(table["share"]) == [0.25, 0.75, 1]
    alone = figures({"memory": 5}, "MiB", compare=False)
    assert alone[["times", "share"]].isna().all(axis=None) and alone["unit"].item() == "MiB"


def test_rows_take_turns_and_the_fastest_call_counts():
    told, order = iter([3.0, 5.0, 2.0, 4.0]), []

    def row(name):
        return lambda: order.append(name) or next(told)

    assert fastest({"a": row("a"), "b": row("b")}, 2, torch.device("cpu")) == {"a": 2, "b": 4}
    assert order == ["a", "b", "a", "b"]
    assert 0 <= fastest({"clock": list}, 1, torch.device("cpu"))["clock"] < math.inf


def test_training_has_a_row_for_each_switch_and_all_together():
    table = bench_training("mini", batch_size=2, steps=1, rounds=1, device="cpu")
    alone = [name for name in SWITCHES if name not in (COMPILE, UNREAD)]
    assert list(table) == COLUMNS and list(table["row"]) == [PLAIN, *alone, ALL, LOOP, BARE, LIMIT]
    assert (table["value"] > 0).all() and table["times"][0] == 1 and table["share"].iloc[-1] == 1


def test_facenet_stands_beside_the_loop_of_its_package(monkeypatch, capsys):
    monkeypatch.setitem(speed.NETWORKS, "facenet", speed.NETWORKS["mini"])
    monkeypatch.setattr(speed, "_compiles", lambda device: False)
    table = bench_training("facenet", batch_size=2, steps=1, rounds=1, device="cpu", compile=True)
    assert list(table["row"][:2]) == [PEER, PLAIN] and COMPILE not in set(table["row"])
    assert not capsys.readouterr().out, "its loop prints"


def test_the_steps_that_are_timed_are_those_that_were_asked_for(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(speed, "waited", lambda device: float(next(ticks)))
    bench = speed._TrainingBench(speed.FaceNetMini, 2, 3, torch.device("cpu"))
    seen, loss = [], speed.Supervised.loss
    monkeypatch.setattr(speed.Supervised, "loss", lambda self, model, batch: seen.append(1) or loss(self, model, batch))
    assert bench.fit(frozenset()) == 1.0 and len(seen) == 5


def test_switches_change_the_way_and_not_the_step():
    """With every switch that is exact, the same batch gives the same loss."""
    torch.manual_seed(0)
    bench = speed._TrainingBench(speed.FaceNetMini, 4, 1, torch.device("cpu"))
    exact = [frozenset(), frozenset({speed.LAYOUT}), frozenset({speed.FUSED})]
    state = {name: value.clone() for name, value in bench.model(frozenset()).state_dict().items()}
    losses = []
    for on in exact:
        bench.model(on).load_state_dict(state)
        bench.model(on).train()
        losses.append(float(bench.step(on, bench.batch)))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-4)


@pytest.mark.parametrize("wrong", [{"network": "x"}, {"batch_size": 1}, {"steps": -1}, {"rounds": 0}])
def test_what_cannot_be_measured(wrong):
    with pytest.raises(ConfigError):
        bench_training(**wrong)


def test_embedding_has_every_row_and_the_same_embeddings(monkeypatch):
    monkeypatch.delenv("FACEKIT_DATA", raising=False)
    table = bench_embedding(images=2, batch_size=2, rounds=1)
    rates = table[table["unit"] == "photos/s"]
    assert f"{EMBEDDER}, batches of 1" in set(rates["row"]) and rates["row"].str.startswith(OWN_BATCHES).sum() == 1
    assert list(table) == COLUMNS and len(rates) == 10 and (rates["value"] > 0).all() and rates["times"][0] == 1
    cosines = table[table["unit"] == "least cosine, random weights"]
    assert len(cosines) == 7 and (cosines["value"] > 0.99).all()


def test_sharing_tells_time_and_parameters():
    table = bench_sharing(rounds=1, batch_size=2, device="cpu")
    assert list(table) == COLUMNS and (table.query("unit == 'ms/step'")["value"] > 0).all()
    counts = table.query("unit == 'parameters'").set_index("row")["value"]
    for on in ("features", "photos"):
        one, hard, many, soft = (counts[f"{on}: {name}"] for name in ("one task", "hard", "a network a task", "soft"))
        assert one < hard < many == soft
    assert counts["photos: hard"] < counts["photos: hard up to stage_2"] < counts["photos: soft"]
    only = bench_sharing(rounds=1, batch_size=2, device="cpu", on=("features",))
    assert set(only["row"]) == {row for row in table["row"] if row.startswith("features: ")}
    for on in ((), ("words",)):
        with pytest.raises(ConfigError, match="on features, on photos"):
            bench_sharing(rounds=1, on=on)
