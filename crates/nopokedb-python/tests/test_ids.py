"""Ids: ints and strs side by side, and what an add does about an id that exists."""

import sqlite3

import numpy as np
import pytest

from nopokedb import DuplicateIdError, NoPokeDB


def test_ints_and_strs_are_ids_in_every_verb(path):
    with NoPokeDB(dim=2, path=path, space="l2") as db:
        assert db.add([0, 0], {"n": 0}, id="doc-1") == "doc-1"
        assert db.add([1, 0]) == 0
        assert db.add_many([[2, 0], [3, 0], [4, 0]], ids=["0", np.int64(7), np.str_("ключ")]) == ["0", 7, "ключ"]
        db.upsert("doc-1", metadata={"n": 1})
        assert "doc-1" in db and "0" in db and 0 in db and "doc" not in db and 1.0 not in db and True not in db
        assert db.get("doc-1") == {"n": 1} and db.get("doc") is None
        assert db.delete("ключ") is True and db.delete("ключ") is False and db.delete("\ud800") is False
    with NoPokeDB(dim=2, path=path, space="l2") as db:
        assert [hit["id"] for hit in db.query([0, 0], k=9)] == ["doc-1", 0, "0", 7]
        assert [row and row["id"] for row in db.get_many(["0", "none", 7])] == ["0", None, 7]
        assert [row["id"] for row in db.scroll(limit=2)] == [0, 7]
        assert sorted(row["id"] for row in db.scroll(after=7)) == ["0", "doc-1"]
        assert db.add([9, 9]) == 8
    with sqlite3.connect(f"{path}/meta.sqlite") as cache:
        assert {row[0] for row in cache.execute("SELECT id FROM readable")} == {0, 7, 8, "0", "doc-1"}


def test_an_id_that_exists_raises_is_skipped_or_replaced(db):
    db.add(np.ones(4), {"n": 0}, id="a")
    with pytest.raises(DuplicateIdError, match='ids "a" exist'):
        db.add(np.ones(4), id="a")
    with pytest.raises(DuplicateIdError, match='ids "a", 0 exist') as refused:
        db.add(np.ones(4))
        db.add_many(np.ones((3, 4)), ids=["a", "b", 0])
    assert refused.value.ids == ["a", 0]
    with pytest.raises(DuplicateIdError, match="and 15 more appear twice") as refused:
        db.add_many(np.ones((50, 4)), ids=[*range(100, 125), *range(100, 125)])
    assert refused.value.ids == list(range(100, 125)), "all of them, not only those the message has room for"
    with pytest.raises(DuplicateIdError) as refused, db.batch() as batch:
        batch.add(np.ones(4), id="a")
    assert refused.value.ids == ["a"]
    assert len(db) == 2
    rows = [{"n": 1}, {"n": 2}, {"n": 3}]
    assert db.add_many(np.ones((3, 4)), rows, ids=["a", "b", "b"], on_conflict="skip") == ["a", "b", "b"]
    assert (db.get("a"), db.get("b")) == ({"n": 0}, {"n": 2})
    assert db.add_many(np.ones((3, 4)), rows, ids=["a", "b", "b"], on_conflict="replace") == ["a", "b", "b"]
    assert (db.get("a"), db.get("b"), len(db)) == ({"n": 1}, {"n": 3}, 3)
