"""Recorded results: round trip, provenance, clear errors."""

import pandas as pd
import pytest
from damage import accidents

from facekit.errors import DataError
from facekit.records import REFERENCE, Record, record, recorded

ROWS = pd.DataFrame({"task": ["race", "race"], "seed": [1, 0], "n": [50, 50], "accuracy": [0.25, 1 / 3]})


def write(folder):
    return record(
        "toy", ROWS, what="a toy", data="2 rows", command="python -m facekit record toy", seconds=1.24, folder=folder
    )


def test_round_trip_keeps_rows_and_says_where_they_come_from(tmp_path):
    write(tmp_path)
    result = recorded("toy", tmp_path)
    pd.testing.assert_frame_equal(result.rows, ROWS, atol=1e-6, rtol=0)
    assert result.about["seeds"] == [0, 1]
    assert {"hardware", "versions", "git_commit", "date", "command", "seconds"} <= set(result.about)
    assert result.caption().startswith("Recorded, not computed here: a toy")


def test_a_record_on_few_photos_says_how_far_they_carry():
    said = {name: recorded(name).sample() for name in ("probe_fairface", "alignment_fairface", "reference_utkface")}
    assert said["probe_fairface"].startswith("An accuracy of 0.7 over 1,000 test photos is sure to ± 3 points (95 %);")
    assert "easy sample for race and a hard one for age" in said["probe_fairface"]
    assert said["alignment_fairface"] == "An accuracy of 0.7 over 300 test photos is sure to ± 5 points (95 %)."
    assert not said["reference_utkface"]
    assert recorded("probe_fairface").caption().splitlines()[1:] == [said["probe_fairface"]]
    for data in ("FairFace, 0 test photos", "FairFace, , test photos", "ISIC, 206 test photos", ""):
        assert not Record("toy", ROWS, {"data": data}).sample()


def test_missing_record_names_the_command(tmp_path):
    with pytest.raises(DataError, match="facekit record"):
        recorded("nothing", tmp_path)


def test_damaged_record_is_a_clear_error(tmp_path):
    path = write(tmp_path)
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match="damaged"):
        recorded("toy", tmp_path)


def test_whatever_happens_to_a_record_it_can_be_shown_or_is_told(tmp_path):
    path = write(tmp_path)
    for what in accidents(path, 200):
        try:
            found = recorded("toy", tmp_path)
        except DataError as error:
            assert any(remedy in str(error) for remedy in ("restore it with git or record it again", "record --help"))
        else:
            assert found.caption() and len(found.rows.columns) == 4 and not found.rows.isna().all(axis=None), what
            assert {"seeds", "versions", "git_commit", "command", "seconds"} <= set(found.about), what


@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_record_is_complete(path):
    result = recorded(path.stem)
    assert len(result.rows) > 0
    assert result.about["command"].startswith(("python -m facekit ", "python -m benchmarks "))
    assert result.about["git_commit"], "a record must name the commit that made it"
    single = {"file", "path", "row", "sha256"} - (
        {"row"} if path.stem.startswith("speed_") else set()
    )  # measured there
    assert not single & set(result.rows.columns), "no row about a single face"
