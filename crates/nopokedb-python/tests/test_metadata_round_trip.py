"""Any JSON object comes back exactly as it was given."""

import collections
import enum
import json
import math
import sys
import types

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nopokedb import NoPokeDB

CASES = {
    "nothing": {},
    "none": {"a": None, "b": [None], "c": {"d": None}},
    "bools are not ints": {"t": True, "f": False, "one": 1, "zero": 0},
    "64-bit ints": {"min": -(2**63), "max": 2**63 - 1, "unsigned": 2**64 - 1, "small": -1, "beyond f64": 2**53 + 1},
    "floats": {"x": [0.1, 1.0, -0.0, 1e16, 1e-7, 5e-324, sys.float_info.max, sys.float_info.min, math.pi, 123456789.123456789]},
    "floats are not ints": {"one": 1.0, "big": 1e22},
    "unicode": {"é": "日本語 😀 \u200d \ufeff", "\x00": "a\x00b", "\x7f\x1f": "\u2028\u2029", "𝄞": "\U0010ffff"},
    "escapes": {'"': '\\"', "\\": "/\\/\b\f\n\r\t", "": ""},
    "nesting": {"a": [[], {}, [[[{"b": [1, [2, [3]]]}]]]]},
    "a megabyte": {"text": 'é"\\\n𝄞x' * 100_000, "plain": "x" * 1_000_000},
    "many keys": {f"key {i}": i for i in range(5000)},
    "order": {"z": 1, "a": 2, "m": {"y": 1, "b": 2}},
}


def same(a, b):
    """Equal, with equal types, signs of zero and orders of keys."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b and math.copysign(1, a) == math.copysign(1, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("case", CASES)
def test_metadata_comes_back_exactly(path, case):
    metadata = CASES[case]
    with NoPokeDB(2, path=path) as db:
        db.add([1, 0], metadata)
        db.add_many([[0, 1]], [metadata])
        db.upsert(2, [1, 1], metadata)
        assert all(same(db.get(id), metadata) for id in range(3))
        assert all(same(hit["metadata"], metadata) for hit in db.query([1, 1], k=3))
    with NoPokeDB(2, path=path) as db:
        assert all(same(db.get(id), metadata) for id in range(3)), "after reopening"
        assert all(same(hit["metadata"], metadata) for hits in db.query_many([[1, 1]] * 2, k=3) for hit in hits)


def test_keys_that_are_no_str_become_what_json_makes_of_them(path):
    class Colour(enum.IntEnum):
        RED = 7

    given = {1: "a", -(2**70): "b", 1.5: "c", 1e16: {"d": {True: [{None: 1}]}}, False: "e", Colour.RED: "f", "g": 2}
    with NoPokeDB(2, path=path) as db:
        db.add([1, 0], given)
        db.add_many([[1, 0]], [given])
        assert db.get(0) == db.get(1) == json.loads(json.dumps(given))
        db.update(0, {1: "z"})
        assert db.get(0)["1"] == "z" and db.count({"1": "z"}) == 1


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    with NoPokeDB(2, path=tmp_path_factory.mktemp("scratch") / "db") as db:
        yield db


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(st.dictionaries(text, values, max_size=5))
def test_any_json_object_comes_back_exactly(scratch, metadata):
    assert same(scratch.get(scratch.add([1, 0], metadata)), metadata)


def test_the_deepest_nesting_that_is_taken_comes_back(db):
    metadata = {}
    for _ in range(127):
        metadata = {"d": metadata}
    assert same(db.get(db.add(np.ones(4), metadata)), metadata)


def test_tuples_and_subclasses_come_back_as_the_json_they_are(db):
    class Colour(str, enum.Enum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    class Name(str):
        pass

    given = {
        "tuple": (1, (2,)),
        "ordered": collections.OrderedDict(b=1, a=2),
        "default": collections.defaultdict(list, a=[1]),
        "enum": Colour.RED,
        "int enum": Level.HIGH,
        Name("name"): Name("value"),
    }
    expected = {
        "tuple": [1, [2]],
        "ordered": {"b": 1, "a": 2},
        "default": {"a": [1]},
        "enum": "red",
        "int enum": 3,
        "name": "value",
    }
    assert same(db.get(db.add(np.ones(4), given)), expected)


def test_numpy_scalars_come_back_as_their_exact_python_value(db):
    given = {
        "float64": np.float64(0.1),
        "float32": np.float32(0.1),
        "float16": np.float16(0.1),
        "int64": np.int64(-(2**63)),
        "uint64": np.uint64(2**64 - 1),
        "int8": np.int8(-3),
        "bool": np.bool_(True),
        "str": np.str_("s"),
        "in a list": [np.int32(1), np.float32(0.5)],
    }
    expected = {
        "float64": 0.1,
        "float32": 0.10000000149011612,
        "float16": 0.0999755859375,
        "int64": -(2**63),
        "uint64": 2**64 - 1,
        "int8": -3,
        "bool": True,
        "str": "s",
        "in a list": [1, 0.5],
    }
    assert same(db.get(db.add(np.ones(4), given)), expected)


def test_what_comes_back_is_the_callers_own(db):
    """Answers share no mutable object with the database, with the caller's dict or with one another."""
    given = {"tags": ["a"]}
    id = db.add(np.ones(4), given)
    given["tags"].append("changed")
    first = db.get(id)
    first["tags"].append("changed too")
    assert db.get(id) == db.query(np.ones(4))[0]["metadata"] == {"tags": ["a"]}


def test_keys_with_the_same_text_are_not_merged_quietly(db):
    class Odd(str):
        __hash__ = object.__hash__

        def __eq__(self, other):
            return self is other

    import nopokedb

    with pytest.raises(nopokedb.MetadataError, match="twice"):
        db.add(np.ones(4), {Odd("a"): 1, Odd("a"): 2})


def test_any_mapping_is_metadata(db):
    mappings = [types.MappingProxyType({"a": 1}), collections.UserDict(a=1), collections.ChainMap({"a": 1}, {"a": 2})]
    for mapping in mappings:
        assert db.get(db.add(np.ones(4), mapping)) == {"a": 1}
    ids = db.add_many(np.ones((3, 4)), mappings)
    assert db.get(ids) == [{"a": 1}] * 3
