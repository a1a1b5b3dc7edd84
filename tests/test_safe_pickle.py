"""The safe loader against pickle itself: the same data where the data are plain, a refusal by name where not."""

import builtins
import functools
import math
import os
import pickle
import random
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agego_lib.datasets import safe_pickle
from agego_lib.datasets.safe_pickle import DamagedPickleError, UnsafePickleError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def same(a, b):
    if isinstance(a, np.ndarray | np.generic):
        # The byte order is the machine's; pickle's own changes with the array's size and the protocol.
        kinds = [value.dtype.newbyteorder("=") for value in (a, b)]
        return type(a) is type(b) and kinds[0] == kinds[1] and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc")
    if isinstance(a, dict):
        return type(b) is dict and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def load_bytes(tmp_path, data, **options):
    path = tmp_path / "labels.pkl"
    path.write_bytes(data)
    return safe_pickle.load(path, **options)


def numpy_1(data):
    """The same pickle as NumPy 1 writes it: other module names, whose lengths newer protocols spell out."""
    for module in (b"multiarray", b"numeric"):
        new, old = b"numpy._core." + module, b"numpy.core." + module
        data = data.replace(b"\x8c" + bytes([len(new)]) + new, b"\x8c" + bytes([len(old)]) + old)
        data = data.replace(b"c" + new + b"\n", b"c" + old + b"\n")
    if data[:1] == b"\x80" and data[2:3] == b"\x95":  # the frame's length no longer holds; frames are optional
        data = data[:2] + data[11:]
    return data


ANNOTATIONS = [
    {
        "image_name": "img_000001.jpg",
        "optimized_local_pose": np.arange(45, dtype=np.float32).reshape(15, 3),
        "joints_2d": np.asfortranarray(np.arange(30.0).reshape(15, 2)),
        "ext_id": np.int64(4),
        "ego_pose_gt": None,
        "score": np.float32(0.5),
        "names": np.array(["neck", "toe"]),
        "raw": np.array([b"ab", b"c"]),
        "mask": np.array([True, False]),
        "swapped": np.arange(6, dtype=">i4").reshape(1, 2, 3).transpose(2, 0, 1),
        "empty": np.zeros((0, 3)),
        "point": np.array(3.0),
        "plain": [1, 2**80, -1.5, math.nan, True, "é", b"\x00\xff", (1, (2,)), {3, 4}, frozenset("a"), 1 + 2j],
    }
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("rename", [lambda data: data, numpy_1], ids=["numpy2", "numpy1"])
def test_annotations_load_as_pickle_loads_them(tmp_path, protocol, rename):
    data = rename(pickle.dumps(ANNOTATIONS, protocol))
    if rename is numpy_1:
        assert b"numpy._core" not in data and b"numpy.core" in data
    loaded = load_bytes(tmp_path, data)
    assert same(ANNOTATIONS, loaded)
    loaded[0]["optimized_local_pose"][0] = 1  # arrays can be written to, as pickle's can


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | hnp.arrays(
        st.sampled_from(["f4", "f8", ">f8", "i2", "u1", "?", "U3", "S2", "c16"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
        elements=None,
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(PLAIN, st.sampled_from(PROTOCOLS))
def test_any_plain_data_loads_as_pickle_loads_it(tmp_path_factory, value, protocol):
    folder = tmp_path_factory.getbasetemp()
    data = pickle.dumps(value, protocol)
    assert same(pickle.loads(data), load_bytes(folder, data))


def test_shared_parts_stay_shared(tmp_path):
    pose = np.zeros((15, 3))
    first, second = load_bytes(tmp_path, pickle.dumps([{"pose": pose}, {"pose": pose}]))
    assert first["pose"] is second["pose"]


def test_arrays_come_in_the_machine_s_byte_order(tmp_path):
    for protocol in PROTOCOLS:
        array = load_bytes(tmp_path, pickle.dumps(np.arange(5, dtype=">f8"), protocol))
        assert array.dtype.isnative and array.tolist() == [0, 1, 2, 3, 4]


def test_python_2_pickles_of_arrays(tmp_path):
    # Python 2 wrote an array's bytes as text (SHORT_BINSTRING), and so NumPy wrote a dtype's name.
    raw = np.array([1.5, -2.0])
    data = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f8K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x10" + raw.tobytes() + b"tb."
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(pickle.loads(data, encoding="latin1"), raw)
    assert same(load_bytes(tmp_path, data), raw)


class Call:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


class Point:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(os.system, "touch {marker}"), f"{os.system.__module__}.system"),
        (Call(eval, "open('{marker}', 'w')"), "eval"),
        (Call(exec, "open('{marker}', 'w')"), "exec"),
        (Call(functools.partial, print), "functools.partial"),
        (Call(builtins.getattr, "a", "upper"), "getattr"),
        (Call(bytearray, 10), "bytearray"),
        (Call(Point), "Point"),
        (np.ndarray, "a function in place of data"),
        (os.system, "system"),
        (random.Random(0), "Random"),
        (Call(np.load, "{marker}", None, True), "numpy.load"),
        (np.array([{"a": 1}, None], dtype=object), "numpy.dtype('O8')"),
        (np.zeros(2, dtype=[("a", "f4")]), "numpy.dtype('V4')"),
        (np.array(["2020-01-01"], dtype="M8[D]"), "numpy.dtype('M8')"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_everything_else_is_refused_by_name(tmp_path, value, named, protocol):
    marker = tmp_path / "ran"
    if isinstance(value, Call):
        function, args = value.reduced
        value = Call(function, *(a.format(marker=marker) if isinstance(a, str) else a for a in args))
    try:
        data = pickle.dumps([{"pose": value}], protocol)
    except (TypeError, pickle.PicklingError):
        pytest.skip("not picklable by this protocol")
    with pytest.raises(UnsafePickleError) as caught:
        load_bytes(tmp_path, data)
    assert named in str(caught.value) and "labels.pkl" in str(caught.value)
    assert not marker.exists()


HAND_MADE = {
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0fndarray.__new__\x93.",
    "name within an admitted module": b"\x80\x02cnumpy\nload\n.",
    "call of the array class": b"\x80\x02cnumpy\nndarray\nK\x05\x85R.",
    "array of another size to begin with": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n"
    b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85C\x01b\x87R.",
    "array of another class": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\x00\x85C\x01b\x87R.",
    "encoder other than latin1": b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.",
    "change of an admitted function": b"\x80\x02c_codecs\nencode\n}X\x05\x00\x00\x00_callK\x01sb.",
    "change of an admitted function's slots": b"\x80\x02c_codecs\nencode\nN}X\x05\x00\x00\x00_callK\x01s\x86b.",
    "persistent object": b"\x80\x02K\x01Q.",
    "forged dtype with fields": b"\x80\x02cnumpy\ndtype\nX\x02\x00\x00\x00i8\x89\x88\x87R"
    b"(K\x03X\x01\x00\x00\x00|NX\x01\x00\x00\x00a\x85}K\x08K\x01K?tb.",
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_attacks_are_refused(tmp_path, name):
    with pytest.raises(UnsafePickleError, match=r"labels\.pkl"):
        load_bytes(tmp_path, HAND_MADE[name])
    assert same(load_bytes(tmp_path, pickle.dumps(ANNOTATIONS, 2)), ANNOTATIONS)  # and the loader is unchanged


def test_array_bytes_must_fill_the_shape(tmp_path):
    data = pickle.dumps(np.zeros((2, 3)), 2).replace(b"K\x02K\x03\x86", b"K\x02K\x7f\x86")
    with pytest.raises(DamagedPickleError, match="do not fill"):
        load_bytes(tmp_path, data)


def test_containers_within_themselves_and_bombs(tmp_path):
    loop = []
    loop.append((loop,))
    with pytest.raises(UnsafePickleError, match="holds itself"):
        load_bytes(tmp_path, pickle.dumps(loop))
    bomb = ["x"]
    for _ in range(50):
        bomb = [bomb] * 10  # 10^50 items, if each were visited
    assert load_bytes(tmp_path, pickle.dumps(bomb))[0] is not None
    with pytest.raises(UnsafePickleError, match="nested"):
        load_bytes(tmp_path, b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


def test_files_that_are_no_whole_pickle(tmp_path):
    whole = pickle.dumps(ANNOTATIONS, 4)
    for data in (b"", b"\x80", whole[: len(whole) // 2], whole[:-1], b"not a pickle", b"\xff\xd8\xff\xe0", bytes(100)):
        with pytest.raises(DamagedPickleError, match=r"labels\.pkl: not a whole pickle"):
            load_bytes(tmp_path, data)
    # A length, and a memo, that memory does not hold.
    for data in (b"\x8e" + struct.pack("<Q", 2**62) + b"x.", b"]r\xff\xff\xff\xff.", b"]p4294967295\n."):
        with pytest.raises(DamagedPickleError, match=r"labels\.pkl: not a whole pickle"):
            load_bytes(tmp_path, b"\x80\x04" + data)
    with pytest.raises(FileNotFoundError):
        safe_pickle.load(tmp_path / "absent.pkl")


def test_size_limit(tmp_path):
    data = pickle.dumps(list(range(1000)))
    assert load_bytes(tmp_path, data, max_bytes=len(data))
    with pytest.raises(UnsafePickleError, match=f"{len(data)} bytes"):
        load_bytes(tmp_path, data, max_bytes=len(data) - 1)


def test_random_damage_never_runs_code_or_escapes(tmp_path):
    rng = np.random.default_rng(0)
    whole = np.frombuffer(pickle.dumps(ANNOTATIONS, 2), np.uint8)
    for _ in range(300):
        data = whole.copy()
        data[rng.integers(len(data), size=3)] = rng.integers(256, size=3)
        try:
            load_bytes(tmp_path, data.tobytes())
        except (UnsafePickleError, DamagedPickleError) as error:
            assert "labels.pkl" in str(error)
