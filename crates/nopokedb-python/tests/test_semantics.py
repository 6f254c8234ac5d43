"""What add, upsert, delete, get and query mean."""

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB


def test_a_row_is_found_as_soon_as_add_returns(db, rng):
    for i in range(50):
        vector = rng.normal(size=4)
        assert db.add(vector, {"i": i}) == i
        best = db.query(vector, k=1)[0]
        assert best["metadata"] == {"i": i}
        assert best["distance"] == pytest.approx(0, abs=1e-6)
        assert i in db and len(db) == i + 1


def test_ids_count_from_0_and_never_come_again(path):
    with NoPokeDB(2, path=path) as db:
        assert db.add([1, 0]) == 0
        assert db.add([1, 0]) == 1
        assert db.delete(1)
        assert db.add([1, 0]) == 2
        assert db.delete(2) and db.delete(0)
    with NoPokeDB(2, path=path) as db:
        assert db.add([1, 0]) == 3, "also after all rows were deleted and the directory was opened again"


def test_given_ids_are_kept_and_automatic_ones_go_on_after_them(db):
    assert db.add(np.ones(4), id=10) == 10
    assert db.add(np.ones(4)) == 11
    assert db.add_many(np.ones((2, 4)), ids=np.array([5, 2**40])) == [5, 2**40]
    assert db.add(np.ones(4)) == 2**40 + 1
    assert sorted(h["id"] for h in db.query(np.ones(4), k=9)) == [5, 10, 11, 2**40, 2**40 + 1]


def test_query_returns_min_k_rows_of_them(db, rng):
    db.add_many(rng.normal(size=(20, 4)))
    for k in (1, 5, 20, 21, 1000):
        assert len(db.query(np.ones(4), k=k)) == min(k, 20)
    for i in range(0, 20, 2):
        db.delete(i)
    assert {h["id"] for h in db.query(np.ones(4), k=100)} == set(range(1, 20, 2))
    assert len(db.query(np.ones(4))) == 5


def test_query_many_is_query_for_each(db, rng):
    db.add_many(rng.normal(size=(50, 4)), [{"i": i} for i in range(50)])
    queries = rng.normal(size=(7, 4)).astype(np.float32)
    assert db.query_many(queries, k=3) == [db.query(q, k=3) for q in queries]
    assert db.query_many(queries, 3, 100) == db.query_many(queries, k=3, ef=100)
    assert db.query_many(np.empty((0, 4)), k=3) == []


def test_exact_queries_agree_with_numpy(db, rng):
    vectors = rng.normal(size=(500, 4)).astype(np.float32)
    db.add_many(vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for query in rng.normal(size=(10, 4)):
        best = np.argsort(-(unit @ query), kind="stable")[:10]
        assert [h["id"] for h in db.query(query, k=10, exact=True)] == best.tolist()


def test_querying_an_empty_database_raises_empty_error_a_runtime_error(db):
    with pytest.raises(nopokedb.EmptyError):
        db.query(np.ones(4))
    with pytest.raises(RuntimeError):
        db.query(np.ones(4))
    db.delete(db.add(np.ones(4)))
    with pytest.raises(nopokedb.EmptyError):
        db.query(np.ones(4))


def test_a_zero_vector_has_cosine_distance_1_to_everything(db):
    zero = db.add(np.zeros(4))
    one = db.add(np.ones(4))
    hits = db.query(np.ones(4), k=2)
    assert [(h["id"], h["distance"]) for h in hits] == [(one, pytest.approx(0, abs=1e-6)), (zero, 1.0)]
    assert hits[1]["score"] == 0.0
    assert [h["distance"] for h in db.query(np.zeros(4), k=2)] == [1.0, 1.0]


def test_upsert_changes_what_is_given_and_keeps_the_rest(db):
    a = db.add([1, 0, 0, 0], {"v": 1})
    db.upsert(a, metadata={"w": 2})
    assert db.get(a) == {"w": 2}
    assert db.query([1, 0, 0, 0])[0]["distance"] == pytest.approx(0, abs=1e-6)
    db.upsert(a, vector=[0, 1, 0, 0])
    assert db.get(a) == {"w": 2}
    assert db.query([0, 1, 0, 0])[0]["distance"] == pytest.approx(0, abs=1e-6)
    assert db.query([1, 0, 0, 0])[0]["distance"] == pytest.approx(1)
    db.upsert(a, metadata={})
    assert db.get(a) == {}
    assert len(db) == 1


def test_upsert_inserts_an_id_that_does_not_exist(db):
    db.upsert(70, [1, 0, 0, 0], {"new": True})
    assert db.get(70) == {"new": True} and 70 in db
    assert db.add(np.ones(4)) == 71
    db.delete(70)
    db.upsert(70, [0, 1, 0, 0])
    assert db.get(70) is None and 70 in db


def test_upsert_of_a_new_id_without_a_vector_is_refused(db):
    with pytest.raises(nopokedb.InvalidError, match="vector"):
        db.upsert(3, metadata={"a": 1})
    assert 3 not in db and len(db) == 0


def test_delete_and_upsert_survive_reopening(path):
    with NoPokeDB(2, path=path) as db:
        ids = db.add_many(np.eye(2), [{"n": 0}, {"n": 1}])
        db.upsert(ids[0], metadata={"n": "changed"})
        db.delete(ids[1])
    with NoPokeDB(2, path=path) as db:
        assert len(db) == 1
        assert db.get(0) == {"n": "changed"}
        assert db.get(1) is None and 1 not in db
        assert [h["id"] for h in db.query([0, 1], k=5)] == [0]


def test_metadata_is_optional_and_none_comes_back(db):
    a = db.add(np.ones(4))
    assert db.get(a) is None and a in db
    assert db.query(np.ones(4))[0]["metadata"] is None
    b, c = db.add_many(np.ones((2, 4)), [None, {"x": None}])
    assert db.get(b) is None and db.get(c) == {"x": None}


def test_documents_are_taken(db):
    a = db.add(np.ones(4), {"a": 1}, document="the text")
    db.add_many(np.ones((2, 4)), documents=["one", None])
    db.upsert(a, document="another text")
    assert db.get(a) == {"a": 1}


def test_max_elements_is_a_hint_and_never_a_limit(path, rng):
    with NoPokeDB(4, max_elements=1, path=path) as db:
        db.add_many(rng.normal(size=(3000, 4)))
        assert len(db) == 3000
        assert db.max_elements >= 3000
        assert len(db.query(np.ones(4), k=3000)) == 3000


def test_wait_indexed_says_that_the_graph_holds_every_row(db, rng):
    db.add_many(rng.normal(size=(2000, 4)))
    assert db.wait_indexed(timeout=60) is True
    assert db.wait_indexed() is True
    assert len(db.query(np.ones(4), k=10)) == 10


def test_stats_count_what_is_there(db, rng):
    db.add_many(rng.normal(size=(10, 4)))
    db.delete(3)
    stats = db.stats()
    assert stats["rows"] == 9
    assert stats["visible_lsn"] == 11
    assert stats["graph_rows"] + stats["tail_rows"] >= 9
    assert stats["log_bytes"] > 10 * 4 * 4
    assert stats["writes_stopped"] is None and stats["background_error"] is None and stats["sqlite_error"] is None
