"""`delete(..., purge=True)`: afterwards no file of the directory has a byte of what was deleted."""

from pathlib import Path

import numpy as np
import pytest

from nopokedb import NoPokeDB


def traces(path, id, vectors):
    needles = [f"zqsecret{id:04}".encode(), f"zqname{id:04}".encode(), f"zqkey{id:04}".encode(), vectors[id].tobytes()[:16]]
    files = [file for file in Path(path).rglob("*") if file.is_file()]
    return [(file.name, needle) for file in files for needle in needles if needle in file.read_bytes().lower()]


@pytest.fixture
def vectors(rng):
    return rng.normal(size=(400, 16)).astype(np.float32)


def fill(db, vectors):
    ids = [f"zqkey{i:04}" for i in range(len(vectors))]
    names = [{"name": f"zqname{i:04}", "n": i} for i in range(len(vectors))]
    db.add_many(vectors, names, ids=ids, documents=[f"the zqsecret{i:04} is told" for i in range(len(vectors))])
    db.upsert("zqkey0007", metadata={"name": "zqname0007 again", "n": 7})
    db.save()


def test_no_file_has_a_byte_of_what_was_purged(path, vectors):
    with NoPokeDB(16, path=path, space="l2") as db:
        fill(db, vectors)
        assert db.query(text="zqsecret0007")[0]["id"] == "zqkey0007"
        assert len(traces(path, 7, vectors)) >= 4
        assert db.delete("zqkey0007", purge=True) is True
        assert db.delete("zqkey0007", purge=True) is False
        assert traces(path, 7, vectors) == []
        assert db.delete(where={"n": {"$between": [100, 120]}}, purge=True) == 21
        assert [trace for id in range(100, 121) for trace in traces(path, id, vectors)] == []
        assert traces(path, 8, vectors)
        assert len(db) == 378 and db.query(text="zqsecret0007") == [] and db.check()
        assert db.query(text="zqsecret0008")[0]["id"] == "zqkey0008"
    assert [trace for id in (7, 100, 120) for trace in traces(path, id, vectors)] == []
    with NoPokeDB(16, path=path, space="l2") as db:
        assert len(db) == 378 and db.get("zqkey0007") is None and db.check()


def test_a_purge_of_nothing_is_harmless(path, vectors):
    with NoPokeDB(16, path=path) as db:
        assert db.delete("never", purge=True) is False and db.delete(5, purge=True) is False
        fill(db, vectors)
        assert db.delete(where={"n": -1}, purge=True) == 0
        assert len(db) == 400 and db.check()
