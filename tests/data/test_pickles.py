"""Of a foreign pickle only plain values come out, the same ones as ever; nothing that it names is run or made."""

from __future__ import annotations

import itertools
import pickle
import pickletools
import struct
import tracemalloc

import numpy as np
import pytest
from test_domains import batch

from facekit.data.readers.pickles import MOST_STEPS, read_plain

ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
DTYPE = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"


def array(shape=b"(I4\nt", dtype=DTYPE, order=b"I00\n", content=b"C\4abcd"):
    """A pickle of an array that says of itself what it likes."""
    return ARRAY + b"(I1\n" + shape + dtype + order + content + b"tb."


@pytest.mark.parametrize(("old", "count"), [(True, 300), (False, 300), (True, 0)])
def test_a_batch_holds_what_pickle_itself_finds_in_it(old, count):
    data = batch(5, count, old)
    wanted, got = pickle.loads(data, encoding="latin1"), read_plain(data)
    assert list(got) == list(wanted)
    for key, value in wanted.items():
        same = np.array_equal(got[key], value) and got[key].dtype == value.dtype if key == "data" else got[key] == value
        assert same, key


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("turn", [False, True])
def test_an_array_comes_through_in_every_protocol(protocol, turn):
    value = np.random.default_rng(0).integers(0, 256, (5, 7), dtype=np.uint8)
    value = value.T if turn else value
    got = read_plain(pickle.dumps({"data": value, "b": b"\xff\0a"}, protocol))
    assert np.array_equal(got["data"], value) and got["data"].dtype == np.uint8 and got["b"] == b"\xff\0a"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [{"a": [1, 2**70, -3.5, None, True], "b": "ü\n", "c": []}, [1, "x"] * 600, 5, "x"])
def test_plain_values_come_through_in_every_protocol(value, protocol):
    assert read_plain(pickle.dumps(value, protocol)) == value


def test_an_array_is_made_of_its_bytes_alone():
    assert read_plain(array()).tolist() == list(b"abcd")
    assert read_plain(array(b"(I2\nI2\nt")).tolist() == [[97, 98], [99, 100]]
    assert read_plain(array(b"(I2\nI2\nt", order=b"I01\n")).tolist() == [[97, 99], [98, 100]]


@pytest.mark.parametrize(
    "data",
    [
        array(b"(I5\nt"),
        array(b"(I-4\nI-1\nt"),
        array(b"(I4611686018427387904\nI4\nt"),
        array(b"(" + b"I1\n" * 40 + b"I4\nt"),
        array(b"I4\n"),
        array(content=b"]"),
        array(content=b"N"),
        array(dtype=DTYPE.replace(b"u1", b"O")),
        array(dtype=DTYPE.replace(b"u1", b"V1000000000")),
        array(dtype=b"S'u1'\n"),
        array(dtype=ARRAY),
        ARRAY + b".",  # no state
        DTYPE + b".",
        b"cnumpy\nndarray\n.",
        b"c_codecs\nencode\n(I5\ntR.",
        b"cnumpy.core.numeric\n_frombuffer\n(C\1a" + DTYPE + b"(I2\ntS'C'\ntR.",
        b"cnumpy.core.numeric\n_frombuffer\n(I1000000000\n" + DTYPE + b"(I1\ntS'C'\ntR.",
        b"cnumpy.core.numeric\n_frombuffer\n(C\1atR.",
        b"cnumpy\nndarray\n((I1000000000\ntS'O'\ntR.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"cnumpy.core.multiarray\nscalar\n(" + DTYPE + b"C\1atR.",
        b"(inumpy\nndarray\n.",
        b"\x80\x02cnumpy\nndarray\n)\x81.",
        b"\x82\x01.",  # the registry of extensions
        b"Pname\n.",  # an object that is kept elsewhere
        b"}(I1\nI2\nu.",
        b"]]a.",
        b"}(S'a'\n}u.",
        b"}(S'a'\nu.",
        b"(I1\nt.",
        b"I1\nI2\nb.",
        b"S'abc'\n)R.",
        b"a.",
        b"tt.",
        b"h\x05.",
        b".",
        b"",
        b"\x8b\xff\xff\xff\x7f1.",  # a whole number of 2 GB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
        b"I" + b"9" * 5000 + b"\n.",
        b"K\x01" * (MOST_STEPS + 1) + b".",
    ],
)
def test_whatever_else_a_pickle_wants_is_refused(data):
    with pytest.raises(ValueError, match=r"."):
        read_plain(data)


@pytest.mark.parametrize(
    "data",
    [
        b"N" + b"\x85" * 60_000 + b".",  # tuples in tuples
        b"N" + b"r\xff\xff\xff\xff" + b".",  # the memo's place 2**32 - 1
        b"]" * 60_000 + b".",
        b")" + b"q\0h\0h\0\x86" * 20_000 + b".",  # each holds the one before twice
        b"}" + b"q\0(S'a'\nh\0u" * 10 + b".",  # a dictionary in itself
    ],
)
def test_deep_and_wide_pickles_cost_little(data):
    tracemalloc.start()
    try:
        read_plain(data)
    except ValueError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 30e6


def test_damaged_batches_are_read_or_refused_and_never_more():
    """400 batches with bytes changed, among them those of its steps: plain values, or one kind of error."""
    rng = np.random.default_rng(3)
    steps = [ord(step.code) for step in pickletools.opcodes]
    for round_, old in itertools.product(range(200), (True, False)):
        data = bytearray(batch(round_ % 3, 2, old))
        places = np.r_[0:300, len(data) - 300 : len(data)]
        for place in rng.choice(places, rng.integers(1, 4)):
            data[place] = rng.choice(steps) if rng.random() < 0.7 else rng.integers(256)
        try:
            held = read_plain(bytes(data))
        except ValueError:
            continue
        for value in held.values() if isinstance(held, dict) else [held]:
            assert isinstance(value, int | float | str | bytes | list | np.ndarray | None)
