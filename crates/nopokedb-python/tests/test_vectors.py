"""Vectors are taken in every form that NumPy users expect, and no big batch is copied needlessly."""

import decimal

import numpy as np
import pytest

from nopokedb import NoPokeDB

BASE = np.arange(12, dtype=np.float32).reshape(3, 4) + 1

BATCHES = {
    "float32": BASE,
    "float64": BASE.astype(np.float64),
    "float16": BASE.astype(np.float16),
    "longdouble": BASE.astype(np.longdouble),
    "int8": BASE.astype(np.int8),
    "int64": BASE.astype(np.int64),
    "uint16": BASE.astype(np.uint16),
    "big-endian": BASE.astype(">f4"),
    "Fortran order": np.asfortranarray(BASE),
    "every second row": np.repeat(BASE, 2, axis=0)[::2],
    "every second column": np.repeat(BASE, 2, axis=1)[:, ::2],
    "backwards": BASE[::-1].copy()[::-1],
    "transposed": np.ascontiguousarray(BASE.T).T,
    "unaligned": np.frombuffer(b"\0" + BASE.tobytes(), np.float32, offset=1, count=12).reshape(3, 4),
    "read-only": np.frombuffer(BASE.tobytes(), np.float32).reshape(3, 4),
    "lists": BASE.tolist(),
    "lists of ints": BASE.astype(int).tolist(),
    "tuples": tuple(map(tuple, BASE.tolist())),
    "list of arrays": list(BASE),
    "list of arrays of float64": list(BASE.astype(float)),
    "generator": None,
}


@pytest.mark.parametrize("form", BATCHES)
def test_a_batch_means_the_same_in_every_form(path, form):
    batch = (row for row in BASE.tolist()) if form == "generator" else BATCHES[form]
    with NoPokeDB(4, path=path, space="l2") as db:
        assert db.add_many(batch) == [0, 1, 2]
        for i, row in enumerate(BASE):
            assert db.query(row, k=1) == [{"id": i, "metadata": None, "score": -0.0, "distance": 0.0}]


@pytest.mark.parametrize("form", sorted(set(BATCHES) - {"generator"}))
def test_a_vector_and_a_query_mean_the_same_in_every_form(path, form):
    with NoPokeDB(4, path=path, space="l2") as db:
        for i, row in enumerate(BATCHES[form]):
            assert db.add(row) == i
        db.upsert(1, vector=BATCHES[form][0])
        assert db.query(BATCHES[form][0], k=3)[1]["distance"] == 0.0
        assert db.query(BASE[2], k=1)[0]["id"] == 2


def test_anything_with_an_array_interface_is_taken(path):
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            return BASE[1].astype(dtype or np.float64)

    with NoPokeDB(4, path=path, space="l2") as db:
        db.add(Tensor())
        assert db.query(BASE[1])[0]["distance"] == 0


def test_an_empty_batch_adds_nothing(db):
    assert db.add_many([]) == []
    assert db.add_many(np.empty((0, 4))) == []
    assert db.add_many([], []) == []
    assert db.add_many(iter([])) == []
    assert len(db) == 0


def test_float64_is_stored_as_the_nearest_float32(path):
    with NoPokeDB(1, path=path, space="ip") as db:
        db.add([0.1])
        assert db.query([1.0])[0]["distance"] == float(np.float32(1) - np.float32(0.1))


def test_what_overflows_float32_is_refused_as_infinite(db):
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="inf"):
        db.add([1e300, 0, 0, 0])
    assert len(db) == 0


def test_metadatas_ids_and_documents_may_be_any_iterable(db):
    ids = db.add_many(
        iter(BASE),
        ({"i": i} for i in range(3)),
        ids=range(5, 8),
        documents=map(str, range(3)),
    )
    assert ids == [5, 6, 7]
    assert [db.get(id) for id in ids] == [{"i": 0}, {"i": 1}, {"i": 2}]
    assert db.add_many(BASE, ids=np.array([20, 21, 22], np.uint8)) == [20, 21, 22]


def test_numpy_integers_are_taken_wherever_an_int_is(path):
    with NoPokeDB(np.int64(4), np.uint32(10), path, ef=np.int16(50)) as db:
        id = db.add(np.ones(4), {"a": 1}, id=np.int64(3))
        assert type(id) is int
        assert db.get(np.int32(3)) == db.get(np.uint8(3)) == {"a": 1}
        assert len(db.query(np.ones(4), k=np.int64(2), ef=np.int64(20))) == 1
        assert db.delete(np.int64(3))


def test_a_caller_may_change_the_array_after_the_call(db):
    batch = np.ones((100, 4), np.float32)
    db.add_many(batch)
    vector = np.ones(4, np.float32)
    db.add(vector)
    batch[:] = -1
    vector[:] = -1
    assert {round(h["distance"], 6) for h in db.query(np.ones(4), k=101)} == {0.0}


def test_a_float32_batch_is_not_copied_on_the_way_in(python, tmp_path):
    """Peak memory over a refused batch: refused late (its last row), so that only copies made by the binding count."""
    child = python(
        """
        import sys, numpy as np, nopokedb
        def peak():
            return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) // 1024
        db = nopokedb.NoPokeDB(1000, path=sys.argv[1])
        db.add_many(np.ones((2, 1000), np.float32))
        batch = np.ones((50_000, 1000), sys.argv[2])
        batch[-1, -1] = np.nan
        before = peak()
        try:
            db.add_many(batch)
        except nopokedb.InvalidError as error:
            assert "row 49999" in str(error), error
            print(peak() - before)
        """,
        tmp_path / "db",
        "f4",
    )
    grown, errors = child.communicate(timeout=120)
    assert not errors
    assert int(grown) < 40, f"{grown} MiB for a batch of 190 MiB"


def test_a_decimal_is_no_number_to_numpy_and_refused(db):
    with pytest.raises(ValueError, match="dtype object"):
        db.add([decimal.Decimal(1)] * 4)
