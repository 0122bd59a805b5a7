"""What is read back from files of JSON and of tensors is what was written, or an error."""

from __future__ import annotations

import json

import numpy as np
import pytest
from damage import ODD, accidents, damaged
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from facekit.errors import DataError, LessonError
from facekit.files import read_json, seal, unseal, write_json

FIELDS = {"name": str, "rows": int, "seconds": int | float, "about": dict}
GOOD = {"name": "ü", "rows": 3, "seconds": 1.5, "about": {"more": [1, None]}}


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_type_is_told_with_file_field_and_remedy(tmp_path, field):
    path = tmp_path / "x.json"
    for odd in ODD:
        if isinstance(odd, FIELDS[field]) and not (isinstance(odd, bool) and field == "rows"):
            continue
        write_json(path, {**GOOD, field: odd})
        with pytest.raises(DataError, match=rf"x.json is damaged \('{field}' is a .*\); mend it"):
            read_json(path, DataError, "mend it.", FIELDS)
    write_json(path, {name: value for name, value in GOOD.items() if name != field})
    with pytest.raises(DataError, match=f"'{field}' is missing"):
        read_json(path, DataError, "mend it.", FIELDS)


def test_whatever_happens_to_a_file_of_json_it_has_its_fields_or_is_told(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, GOOD)
    assert read_json(path, DataError, "", FIELDS) == GOOD
    for what in accidents(path, 300):
        try:
            found = read_json(path, LessonError, "mend it.", FIELDS)
        except FileNotFoundError:
            assert what.startswith("no ")
        except LessonError as error:
            assert "x.json is damaged" in str(error) and "mend it." in str(error)
        else:
            assert all(isinstance(found[name], kind) for name, kind in FIELDS.items()), what


@pytest.mark.parametrize(
    "text",
    [b"[" * 200_000, b'{"a":' * 200_000, b"9" * 5000, b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"[]", b"null", b"3"],
)
def test_json_that_is_no_object(tmp_path, text):
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(DataError, match="is damaged"):
        read_json(tmp_path / "x.json", DataError, "", {})


def test_tensors_are_sealed_with_all_that_their_file_says():
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(3, np.uint8)}
    plain = safetensors.save(arrays, {"about": "Ü"})
    content = seal(plain)
    assert (
        unseal(plain) == {"about": "Ü"} and unseal(content).keys() == {"about", "sha256"} and seal(content) == content
    )
    back = safetensors.load(content)
    assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in arrays.items())
    for version in damaged(content, 400):
        try:
            about = unseal(version)
            found = safetensors.load(version)
        except (ValueError, SafetensorError):
            continue
        assert about.get("about", "Ü") == "Ü" and all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]["about"] == "Ü"
