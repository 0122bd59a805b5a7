"""The record of other crops: both networks, every change, and nothing changed by no change."""

from __future__ import annotations

import test_studies
from test_studies import TinyFace, reference

from facekit.commands.cli import main
from facekit.data.portraits import render_portraits
from facekit.data.sets import FaceSet
from facekit.experiments.crops import CHANGES
from facekit.records import recorded
from facekit.studies import alignment
from facekit.tasks import RACE

assert reference and test_studies  # the fixture that records into a folder of its own


def test_both_networks_are_recorded_over_every_change(reference, monkeypatch, capsys):
    faces = render_portraits((24, 0, 20), seed=11, size=96, per_person=1, workers=1)
    races = [RACE.classes[row % 7] for row in range(len(faces))]
    photos = FaceSet(faces.images, faces.labels.assign(race=races))
    monkeypatch.setattr(alignment, "fairface", lambda: photos)
    monkeypatch.setattr(alignment, "FaceNet", TinyFace)
    assert main(["record", "alignment", "--photos", "20"]) == 0
    record = recorded("alignment_fairface", reference)
    rows = record.rows
    assert record.about["command"] == "python -m facekit record alignment --photos 20"
    assert set(rows["network"]) == {TinyFace.name, "facenet-mini"} and set(rows["change"]) == set(CHANGES)
    assert 15 <= rows["n"].iloc[0] <= 20
    straight = rows[~rows["metric"].isin(["accuracy"])].groupby(["network", "change", "task"]).head(1)
    assert (straight["value"] - 1).abs().max() < 1e-6 and len(straight) == 2 * 4 * 4
    cosines = rows[(rows["network"] == "facenet-mini") & (rows["metric"] == "cosine") & (rows["change"] == "turn")]
    assert cosines["value"].is_monotonic_decreasing and cosines["value"].iloc[-1] < 0.95
    assert main(["record", "alignment", "--photos", "19"]) != 0
    assert "fewer than 20" in capsys.readouterr().err
