"""Scores by group: equal to those of all rows at once, the same however the rows are cut, and silent on a few faces."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from audited import TOWNS, people, trained, with_splits
from tiny import faces

import facekit
from facekit.answers import evaluate as module
from facekit.answers.evaluate import BEFORE, BLANK, FEW, UNKNOWN, evaluate
from facekit.commands.train import train
from facekit.course.profiles import SMALL_RENDERERS
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet, FeatureSet
from facekit.errors import ConfigError, DataError
from facekit.evaluation import metrics
from facekit.evaluation.calibration import calibration_error
from facekit.evaluation.disclosure import withheld
from facekit.evaluation.groups import PUBLISHED, GroupCounts
from facekit.tasks import AGE_BANDS, age_band

BY = ("town", "colour", "age_years")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("evaluate")
    trained(home)
    return home


@pytest.fixture(scope="module")
def model(home):
    return facekit.load(home / "run")


@pytest.fixture(scope="module")
def data(home):
    return FeatureSet.load(home / "set")


@pytest.fixture(scope="module")
def found(model, data):
    return evaluate(model, data, BY)


def grouped(data: FeatureSet) -> pd.DataFrame:
    """The group columns as the evaluation takes them."""
    labels = data.labels
    return pd.DataFrame(
        {
            "town": labels["town"].fillna(UNKNOWN),
            "colour": labels["colour"],
            "age_years": age_band(labels["age_years"]),
        }
    )


def tables() -> list[tuple[str, ...]]:
    return [(), *((name,) for name in BY), *((one, two) for i, one in enumerate(BY) for two in BY[i + 1 :])]


def test_every_value_that_is_shown_is_that_of_the_metrics_on_all_rows_at_once(model, data, found):
    test = data.split("test")
    outputs, targets, groups = model.outputs(test), test.targets(model.tasks), grouped(test)
    compared = 0
    for by in tables():
        whole = metrics.evaluate(model.tasks, outputs, targets, groups[list(by)] if by else None, n_boot=2)
        whole = whole.set_index(["task", "metric", "group"])
        for each in found.tasks:
            for row in each.of(by).itertuples():
                cell = ", ".join(getattr(row, name) for name in by) or "all"
                if row.metric in ("calibration_error", BEFORE) or row.shown:
                    continue
                expected = whole.loc[(each.task.name, row.metric, cell)]
                assert (row.value, row.n) == (pytest.approx(expected["value"], rel=1e-12), expected["n"])
                compared += 1
    assert compared > 50


def test_intervals_worst_groups_and_calibration_are_those_of_all_rows_at_once(model, data, found):
    test = data.split("test")
    outputs, targets, groups = model.outputs(test), test.targets(model.tasks), grouped(test)
    bands = [band for band in AGE_BANDS if band in set(groups["age_years"])]
    order = {"town": [*sorted(TOWNS), UNKNOWN], "colour": [], "age_years": bands}
    for each in found.tasks:
        task = each.task
        probabilities = model.probabilities(test).get(task.name)
        counts = GroupCounts(task, order).add(
            task.predict(outputs[task.name]), targets[task.name], groups, probabilities
        )
        for by in tables():
            expected = counts.scores(by).set_index([*by, "metric"])
            shown = each.of(by)
            shown = shown[(shown["shown"] == "") & (shown["metric"] != BEFORE)].set_index([*by, "metric"])
            columns = ["value", "low", "high"]
            close = expected.loc[shown.index, columns].to_numpy()
            assert np.allclose(shown[columns], close, rtol=0, atol=1e-6)
            exact = [name for name in shown.index if "calibration" not in str(name)]
            assert (shown.loc[exact, columns] == expected.loc[exact, columns]).all(axis=None)
        if probabilities is None:
            continue
        for metric, scale in (("calibration_error", each.temperature), (BEFORE, 1.0)):
            softmax = (outputs[task.name].double() / scale).softmax(1)
            value = each.of(()).set_index("metric").loc[metric, "value"]
            assert value == pytest.approx(calibration_error(softmax, targets[task.name]), abs=1e-9)


def test_it_is_the_same_however_the_rows_are_cut_and_no_more_rows_are_held_at_once(model, data, found, monkeypatch):
    taken, select = [], FeatureSet.select
    monkeypatch.setattr(FeatureSet, "select", lambda self, rows: taken.append(len(rows)) or select(self, rows))
    for size in (1000, 64):
        monkeypatch.setattr(module, "AT_ONCE", size)
        taken.clear()
        again = evaluate(model, data, BY)
        pd.testing.assert_frame_equal(again.scores, found.scores, rtol=1e-9)
        assert max(taken) <= size
    assert len(taken) >= 420 // 64


def test_nothing_is_told_over_fewer_than_20_faces_nor_given_away_by_subtraction(data, found):
    test = data.split("test")
    seen = set()
    for each in found.tasks:
        known = test.labels[each.task.name].notna().to_numpy()
        groups = grouped(test)[known]
        for by in tables()[1:]:
            n = groups.groupby(list(by)).size()
            rows = each.of(by)
            rows = rows[rows["metric"] == each.main].set_index(list(by))
            hidden = rows["shown"] != ""
            assert rows.loc[hidden, ["n", "value", "low", "high"]].isna().all(axis=None)
            assert (rows.loc[~hidden, "n"] >= PUBLISHED).all() and rows.loc[~hidden, "value"].notna().all()
            full = n.reindex(rows.index, fill_value=0)
            assert (rows.loc[~hidden, "n"] == full[~hidden]).all()
            assert (hidden == (rows["shown"].eq(FEW) | rows["shown"].eq(BLANK))).all()
            assert rows["shown"].eq(FEW).eq(full < PUBLISHED).all()
            if len(by) == 1:
                rest = full[hidden.to_numpy()].sum()
                assert rest == 0 or rest >= PUBLISHED
            else:
                table = full.unstack(fill_value=0)
                blank = hidden.unstack()
                for axis, name in ((1, by[0]), (0, by[1])):
                    margin = each.of((name,)).query("metric == @each.main").set_index(name)["shown"] == ""
                    rest = table.where(blank, 0).sum(axis=axis)[margin]
                    assert ((rest == 0) | (rest >= PUBLISHED)).all()
            seen |= set(rows["shown"])
            cells = [cell if isinstance(cell, tuple) else (cell,) for cell in rows.index[~hidden]]
            worst = each.worst[(each.worst["what"] == "worst") & (each.worst["by"] == " × ".join(by))]
            assert set(worst["group"]) <= {"", *map(", ".join, cells)}
            assert not worst["group"].str.contains(UNKNOWN).any()
    assert seen == {"", FEW, BLANK}  # the set is made so that all three happen


def test_the_confusion_is_that_of_all_rows_as_shares_and_reliability_keeps_every_face(model, data, found):
    test = data.split("test")
    outputs, targets = model.outputs(test), test.targets(model.tasks)
    for each in found.tasks:
        if each.confusion is None:
            assert not each.reliability
            continue
        task = each.task
        whole = metrics.confusion_matrix(task, task.predict(outputs[task.name]), targets[task.name])
        shares = whole.div(whole.sum(axis=1), axis=0)
        assert np.array_equal(each.confusion.drop(columns="n"), shares)
        scores = each.of(()).set_index("metric")
        for table in each.reliability.values():
            assert (table["n"] >= PUBLISHED).all() and table["n"].sum() == scores.loc["accuracy", "n"]
            mean = (table["accuracy"] * table["n"]).sum() / table["n"].sum()
            assert mean == pytest.approx(scores.loc["accuracy", "value"])
        after, before = (each.reliability[name]["confidence"] for name in ("after", "before"))
        assert after.is_monotonic_increasing and before.is_monotonic_increasing


def test_classes_of_a_few_faces_are_blank_in_the_confusion(model, data):
    rare = data.labels.copy()
    test = np.flatnonzero((rare["split"] == "test") & (rare["side"] == "left"))
    rare.loc[test[5:], "side"] = "right"
    found = evaluate(model, replace(data, labels=rare), ("town",))
    side = next(each for each in found.tasks if each.task.name == "side")
    assert (
        side.confusion.loc["left"].isna().all() and side.confusion.loc["right"].isna().all()
    )  # 5 = all less the others


# --- what a reader is told ------------------------------------------------------------------------------------------


def test_rows_that_the_model_has_learnt_from_are_said_to_be(model, data, tmp_path):
    assert any("has learnt from these very rows" in note for note in evaluate(model, data, split="train").notes)
    assert any("chosen on these very rows" in note for note in evaluate(model, data, split="validation").notes)
    assert any("learnt from most of these rows" in note for note in evaluate(model, data, split=None).notes)
    assert not any("learnt" in note for note in evaluate(model, data).notes)
    other = FeatureSet.load(with_splits({"train": 60, "test": 60}).save(tmp_path / "other"))
    assert not any("learnt" in note for note in evaluate(model, other, split="train").notes)
    said = [evaluate(model, data, split=split).data["seen"] for split in ("train", "validation", None, "test")]
    assert [text.split()[0] for text in said] == ["yes,", "the", "most", "no;"]
    assert evaluate(model, other).data["seen"].startswith("not known")


def test_drawn_faces_and_several_pictures_of_a_person_are_named(tmp_path):
    train(tasks="gender", epochs=1, steps=1, size=32, portraits=160, out=tmp_path / "run")
    notes = evaluate(facekit.load(tmp_path / "run"), render_portraits(160), split="train").notes
    assert "has learnt" in notes[0] and "show nobody" in notes[1] and "too narrow" in notes[2]


@pytest.mark.parametrize(
    ("learnt", "here", "said"),
    [
        ({"backbone": "facenet"}, {"backbone": "mini"}, "those of mini; the model has learnt from those of facenet"),
        ({"request": {"align": True}}, {"request": {"align": False}}, r"\(whole photo\) than .* \(aligned\)"),
        ({"generator": {"name": "x"}}, {}, "learnt from drawn faces alone"),
        ({"backbone": "facenet"}, {"backbone": "facenet"}, None),
        ({"request": {"align": True}}, {"request": {"align": True}}, None),
        ({}, {"drawn_with_seed": 1}, "drawn from a statistical model"),
    ],
)
def test_faces_that_are_unlike_those_of_the_training_are_named(tmp_path, learnt, here, said):
    replace(with_splits(), manifest=learnt).save(tmp_path / "set")
    model = facekit.load(trained(tmp_path, epochs=1))
    notes = evaluate(model, replace(people(), manifest=here)).notes
    assert [note for note in notes if re.search(said, note)] if said else not notes


def test_missing_labels_are_a_group_of_their_own_and_named(model, data, found):
    missing = int(data.split("test").labels["town"].isna().sum())
    assert any(f"{missing} of 420 rows have no label in the column town" in note for note in found.notes)
    assert found.groups["town"].index.tolist() == [*sorted(TOWNS), UNKNOWN]
    few = data.labels.assign(town=data.labels["town"].fillna("Bonn"))
    few.loc[few.index[-3:], "town"] = None
    notes = evaluate(model, replace(data, labels=few), ("town",)).notes
    assert any(f"fewer than {PUBLISHED} of 420 rows" in note for note in notes)


def test_rows_of_an_unknown_group_are_never_the_worst(model, data):
    wrong = data.labels["side"].map({"left": "right", "right": "left"})
    labels = data.labels.assign(side=data.labels["side"].where(data.labels["town"].notna(), wrong))
    labels["town"] = labels["town"].replace("Ulm", "Bonn")  # so that all groups are shown
    side = evaluate(model, replace(data, labels=labels), ("town", "colour")).tasks[0]
    unknown = side.of(("town",)).query("metric == 'accuracy'").set_index("town")["value"]
    assert unknown.idxmin() == UNKNOWN and len(side.worst)
    assert not side.worst["group"].str.contains(UNKNOWN).any()


def test_tasks_and_classes_that_the_set_does_not_have_are_named(model, data):
    notes = evaluate(model, replace(data, labels=data.labels.drop(columns="level"))).notes
    assert any("level was not scored: this set has no labels of it" in note for note in notes)
    empty = replace(data, labels=data.labels.assign(side=None))
    found = evaluate(model, empty)
    assert [each.task.name for each in found.tasks] == ["level"] and any(
        "no row of this split" in n for n in found.notes
    )
    left = data.labels.assign(side=data.labels["side"].where(data.labels["side"] == "left"))
    assert any("no face here is labelled right" in note for note in evaluate(model, replace(data, labels=left)).notes)


def test_without_group_columns_there_are_the_scores_of_all(model, data):
    found = evaluate(model, data)
    assert found.tables == [()] and found.scores.columns.tolist() == list(module.COLUMNS)
    assert (found.scores["n"] >= PUBLISHED).all()


def test_a_task_without_scores_by_group_is_named(tmp_path):
    for name in ("skin", "words"):
        SMALL_RENDERERS[name]((40, 24, 24), 0).save(tmp_path / name)
    folders = {name: str(tmp_path / name) for name in ("skin", "words")}
    tasks = {"skin": "lesion,box", "words": "text"}
    train(folders, tmp_path / "run", tasks, "parallel_adapters", epochs=1, steps=1, batch_size=8)
    model = facekit.load(tmp_path / "run")
    found = evaluate(model.only("skin"), FaceSet.load(tmp_path / "skin"))
    assert [each.task.name for each in found.tasks] == ["lesion"]
    assert any("box is a box" in note for note in found.notes) and found.part["name"] == "skin"
    with pytest.raises(ConfigError, match="choose one"):
        evaluate(model, FaceSet.load(tmp_path / "skin"))


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("by", "kind", "said"),
    [
        (["nope"], DataError, "no column 'nope' to group by; it has colour, side, town, age_years"),
        (["town", "town"], ConfigError, "named twice"),
        (["level"], DataError, "different values in 420 rows, more than 50.*bands"),
        (["split"], DataError, "one value only, 'test'"),
        (["name"], DataError, "420 different values .* shared by many faces"),
        (["n"], ConfigError, "'n' is a column of the results"),
        (["blank"], DataError, "no label at all"),
    ],
)
def test_columns_that_are_no_groups_are_refused_with_what_there_is(model, data, by, kind, said):
    labels = data.labels.assign(name=np.arange(len(data)).astype(str), n="x", blank=None)
    with pytest.raises(kind, match=said):
        evaluate(model, replace(data, labels=labels), by)


def test_sets_that_cannot_be_answered_or_compared_are_refused(model, data):
    with pytest.raises(DataError, match="'validation' of this feature set has 0 rows.*420 test"):
        evaluate(model, data.split("test"), split="validation")
    with pytest.raises(DataError, match="19 rows, and no score is told over fewer than 20"):
        evaluate(model, data.split("test").select(range(19)))
    with pytest.raises(DataError, match="unknown label 'up'.*its own classes"):
        evaluate(model, replace(data, labels=data.labels.assign(side="up")))
    with pytest.raises(DataError, match="row 503, column 'level': '1e.300' is too large"):
        far = data.labels["level"].where(data.labels.index != 503, 1e300)
        evaluate(model, replace(data, labels=data.labels.assign(level=far)))
    with pytest.raises(DataError, match="nothing to compare .*The set has"):
        evaluate(model, replace(data, labels=data.labels.drop(columns=["side", "level"])))
    with pytest.raises(ConfigError, match="takes embeddings"):
        evaluate(model, faces(40, split="test"))
    with pytest.raises(ConfigError, match="6 numbers"):
        evaluate(model, replace(people(), inputs=people().inputs[:, :5]))


def test_outputs_that_are_no_numbers_are_refused(model, data):
    broken = replace(
        data, inputs=np.where(np.arange(len(data))[:, None] == 700, np.nan, data.inputs).astype(np.float32)
    )
    with pytest.raises(DataError, match="not finite"):
        evaluate(model, broken, split=None)


def test_the_random_state_of_the_caller_stays(model, data):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    evaluate(model, data, ("colour",))
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_groups_that_the_model_has_learnt_from_are_counted_where_they_are_known(model, data, found, tmp_path):
    train = data.split("train").labels
    sizes = train["town"].fillna(UNKNOWN).value_counts()
    shown = found.learnt["town"].dropna()
    assert len(shown) >= 3 and (shown == sizes[shown.index]).all() and (shown >= PUBLISHED).all()
    ages = age_band(train["age_years"]).value_counts()
    assert (ages < PUBLISHED).any() and set(ages.index) - set(found.groups["age_years"].index)
    assert ages.sum() - found.learnt["age_years"].sum() >= PUBLISHED  # what is not shown, together
    other = FeatureSet.load(with_splits({"train": 60, "test": 60}).save(tmp_path / "other"))
    assert evaluate(model, other, ("colour",)).learnt == {}


def test_margins_are_blank_where_their_groups_are(data, found):
    sizes = grouped(data.split("test"))["town"].value_counts().reindex([*sorted(TOWNS), UNKNOWN])
    assert found.groups["town"].isna().tolist() == withheld(sizes.to_numpy()).tolist()
