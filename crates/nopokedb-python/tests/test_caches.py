"""SQLite and the graph are caches of the log: without them, nothing is lost."""

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB


@pytest.fixture
def filled(path, rng):
    """A closed database of 500 rows, some changed, some deleted; and what it answers."""
    vectors = rng.normal(size=(500, 8)).astype(np.float32)
    with NoPokeDB(8, path=path) as db:
        db.add_many(vectors, [{"i": i} for i in range(500)])
        for i in range(0, 500, 10):
            db.delete(i)
        db.upsert(7, vectors[0], {"i": "changed"})
        db.wait_indexed(timeout=60)
        return Path(path), answers(db)


def answers(db):
    queries = np.random.default_rng(3).normal(size=(20, 8))
    rows = [(id, db.get(id)) for id in range(500)]
    return len(db), rows, db.query_many(queries, k=10, exact=True)


REMOVALS = {
    "sqlite": ["meta.sqlite*"],
    "index": ["index"],
    "both": ["meta.sqlite*", "index"],
}


@pytest.mark.parametrize("what", REMOVALS)
def test_deleting_the_caches_loses_nothing(filled, what):
    directory, expected = filled
    removed = [f for pattern in REMOVALS[what] for f in directory.glob(pattern)]
    assert removed
    for file in removed:
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    for _ in range(2):
        with NoPokeDB(8, path=directory) as db:
            assert answers(db) == expected
            assert db.wait_indexed(timeout=60)
            assert db.add(np.ones(8)) not in range(500)
            db.delete(db.add(np.ones(8)) - 1)
            db.delete(max(h["id"] for h in db.query(np.ones(8), k=1)))
            assert len(db) == expected[0]


@pytest.mark.parametrize("cache", ["meta.sqlite", "index/*"])
def test_a_damaged_cache_is_rebuilt_and_loses_nothing(filled, cache):
    directory, expected = filled
    files = [f for f in directory.glob(cache) if f.is_file()]
    assert files
    for file in files:
        content = bytearray(file.read_bytes())
        for at in range(0, len(content), 512):
            content[at] ^= 0xFF
        file.write_bytes(content)
    with NoPokeDB(8, path=directory) as db:
        assert answers(db) == expected
        assert db.wait_indexed(timeout=60)


def test_damage_of_the_log_is_reported_with_file_and_offset_and_never_skipped(filled):
    directory, _ = filled
    segment = max((directory / "log").glob("*.seg"), key=lambda f: f.stat().st_size)
    content = bytearray(segment.read_bytes())
    at = content.index(b'{"i":250}')
    content[at + 5] ^= 1
    segment.write_bytes(content)
    with pytest.raises(nopokedb.CorruptionError) as raised:
        with NoPokeDB(8, path=directory) as db:
            for id in range(500):
                db.get(id)
    assert segment.name in str(raised.value) and "byte" in str(raised.value)
    assert segment.read_bytes() == content, "and the file is left as it is"


def test_metadata_is_readable_with_sqlite(filled):
    directory, _ = filled
    with contextlib.closing(sqlite3.connect(directory / "meta.sqlite")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
        dump = "\n".join(connection.iterdump())
    assert tables
    assert '{"i":"changed"}' in dump and '{"i":499}' in dump and '{"i":490}' not in dump
