"""Rows that expire: hidden from every read from that instant, deleted in the background."""

import time
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest

from nopokedb import EmptyError, InvalidError, NoPokeDB

PAST = 1_000_000_000  # 2001


def until(true):
    """Waits for what happens by itself."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end


def test_a_row_is_hidden_from_every_read_once_its_time_has_passed(path):
    with NoPokeDB(dim=2, path=path) as db, NoPokeDB(path=path, read_only=True) as reader:
        db.add([1, 0], {"n": 1}, id="soon", document="word", ttl=0.3)
        if "soon" in db:  # unless the machine was very slow
            assert db.get("soon") == {"n": 1}
        until(lambda: "soon" not in db)
        assert len(db) == 0 and db.get("soon") is None and db.count("n = 1") == 0 and db.facets("n") == db.scroll() == []
        for query in (lambda: db.query([1, 0]), lambda: db.query(text="word"), lambda: db.query([1, 0], where="n = 1")):
            with pytest.raises(EmptyError):
                query()
        reader.refresh()
        assert len(reader) == 0 and "soon" not in reader
        assert db.add([1, 0], id="soon") == "soon", "the id is free"


def test_the_ways_to_say_when(path):
    utc, later = timezone.utc, datetime.now() + timedelta(days=1)
    with NoPokeDB(dim=1, path=path) as db:
        for i, stays in enumerate([
            {"ttl": 100}, {"ttl": 99.5}, {"ttl": np.float32(99)}, {"ttl": timedelta(hours=1)}, {"ttl": float("inf")}, {"ttl": None},
            {"expires_at": later}, {"expires_at": later.astimezone(utc)}, {"expires_at": time.time() + 99},
            {"expires_at": float("inf")},
        ]):  # fmt: skip
            assert db.add([1], id=i, **stays) == i and i in db, stays
        stored = len(db)
        for gone in [{"expires_at": PAST}, {"expires_at": datetime(2001, 1, 1)}, {"expires_at": -5.5}, {"ttl": 0}, {"ttl": timedelta(0)}]:
            assert db.add([1], **gone) not in db, gone
        assert db.add_many([[1]] * 3, ttl=[None, 0, 60]) and len(db) == stored + 2
        assert db.add_many([[1]] * 3, ttl=60) and db.add_many([[1]] * 3, expires_at=[PAST] * 3) and len(db) == stored + 5
        for wrong, match in [
            ({"ttl": -1}, "ttl"), ({"ttl": "1h"}, "ttl"), ({"ttl": float("nan")}, "ttl"), ({"ttl": True}, "ttl"),
            ({"ttl": 1e300}, "9999"), ({"expires_at": "2030-01-01"}, "expires_at"), ({"expires_at": float("nan")}, "expires_at"),
            ({"ttl": 1, "expires_at": PAST}, "one of them"), ({"expires_at": later.date()}, "expires_at"),
        ]:  # fmt: skip
            with pytest.raises(InvalidError, match=match):
                db.add([1], **wrong)
        with pytest.raises(InvalidError, match=r"ttl\[1\]"):
            db.add_many([[1], [2]], ttl=[1, "x"])
        with pytest.raises(InvalidError, match="expiries"):
            db.add_many([[1], [2]], ttl=[1])
        assert len(db) == stored + 5


def test_an_upsert_keeps_the_expiry_unless_it_gives_one(path):
    with NoPokeDB(dim=1, path=path) as db:
        db.add([1], {"n": 1}, id="a", ttl=3600)
        db.upsert("a", metadata={"n": 2})
        db.update("a", {"m": 1})
        db.upsert("a", expires_at=PAST)
        assert "a" not in db
        with pytest.raises(InvalidError, match="no row"):
            db.upsert("a", metadata={"n": 3})
        db.upsert("a", [1], {"n": 4})
        assert db.get("a") == {"n": 4}
        with db.batch() as b:
            b.add([1], id="b", ttl=0)
            b.upsert("c", [1], ttl=3600)
            b.upsert("a", expires_at=PAST)
        assert "b" not in db and "c" in db and "a" not in db
        db.upsert("c", ttl=float("inf"))
        assert "c" in db


def test_expired_rows_are_deleted_in_the_background_and_stay_gone(path):
    with NoPokeDB(dim=2, path=path) as db:
        db.add_many(np.ones((1000, 2)), expires_at=PAST)
        keep = db.add([1, 0])
        until(lambda: db.stats()["visible_lsn"] == 2001)
        assert len(db) == 1 and db.check().sqlite_rows == 1
    with NoPokeDB(dim=2, path=path) as db:
        assert len(db) == 1 and keep in db and db.check()


def test_rows_say_when_they_expire_if_asked(path):
    with NoPokeDB(dim=1, path=path) as db:
        when = datetime(2100, 1, 2, 3, 4, 5, 678000, tzinfo=timezone.utc)
        db.add([1], id="a", expires_at=when)
        db.add([1], {"n": 1}, id="b")
        assert db.get("a", include=["expires_at"]) == {"id": "a", "expires_at": when}
        assert db.get(["b", "x"], include=("metadata", "expires_at")) == [
            {"id": "b", "metadata": {"n": 1}, "expires_at": None}, None,
        ]
        assert [row["expires_at"] for row in db.get_many(["a", "b"], include=["expires_at"])] == [when, None]
        assert {row["id"]: row["expires_at"] for row in db.scroll(include=["expires_at"])} == {"a": when, "b": None}
        assert db.get("a", include=["document"]).keys() == {"id", "document"}
        with pytest.raises(InvalidError, match='"expires_at", got .snippet.'):
            db.get("a", include=["snippet"])
        with pytest.raises(InvalidError, match='"snippet", got .expires_at.'):
            db.query([1], include=["expires_at"])
