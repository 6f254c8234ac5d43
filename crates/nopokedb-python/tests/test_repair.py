"""Damaged directories: caches are built again in place, what can be read of a damaged log goes to a new directory."""

from pathlib import Path

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB


@pytest.fixture
def closed(path, rng):
    """A closed database of 300 rows, some under text ids, and what it holds."""
    vectors = rng.normal(size=(300, 8)).astype(np.float32)
    with NoPokeDB(8, path=path, space="l2") as db:
        db.add_many(vectors[:200], [{"i": i} for i in range(200)])
        for i in range(200, 300):
            db.add(vectors[i], {"i": i}, id=f"name-{i}", document=f"text {i}")
        db.delete(5)
        return Path(path), rows(db)


def rows(db):
    found, cursor = {}, None
    while True:
        page = db.scroll(limit=100, after=cursor, include=("metadata", "document"))
        if not page:
            return found
        found.update({row["id"]: (row["metadata"], row.get("document")) for row in page})
        cursor = page[-1]["id"]


def flip(file, at):
    data = bytearray(file.read_bytes())
    data[at] ^= 0x10
    file.write_bytes(data)


def test_a_whole_directory_is_left_where_it_is(closed):
    directory, held = closed
    report = nopokedb.repair(directory)
    assert report and report.path == str(directory.resolve()) and report.cause is None
    assert (report.rows, report.rebuilt, report.lost) == (len(held), [], [])


def test_damaged_caches_are_built_again_in_place(closed):
    directory, held = closed
    for file in [directory / "meta.sqlite", *directory.glob("index/*"), min(directory.glob("MANIFEST-*"))]:
        flip(file, file.stat().st_size // 2)
    report = nopokedb.repair(directory)
    assert report and report.rows == len(held)
    with NoPokeDB(8, path=directory, space="l2") as db:
        assert db.check() and rows(db) == held


def test_of_a_damaged_log_everything_readable_is_got_and_the_rest_is_listed(closed, tmp_path):
    directory, held = closed
    segment = min(directory.glob("log/*.seg"))
    flip(segment, segment.read_bytes().find(b"text 250"))
    before = {file: file.read_bytes() for file in directory.glob("log/*")}
    with pytest.raises(nopokedb.CorruptionError, match="into"):
        nopokedb.repair(directory)
    report = nopokedb.repair(directory, tmp_path / "new")
    assert not report and str(segment) in report.cause and report.rows == len(held) - 1
    [lost] = report.lost
    assert lost["file"].endswith(segment.name) and lost["offset"] > 0
    assert lost["first_lsn"] == lost["last_lsn"] == 251
    [(collection, id)] = lost["rows"]
    assert collection == "default" and id.startswith("text id number ")
    assert {file: file.read_bytes() for file in directory.glob("log/*")} == before
    del held["name-250"]
    with NoPokeDB(8, path=report.path, space="l2") as db:
        assert db.check() and rows(db) == held
    with pytest.raises(nopokedb.InvalidError, match="not empty"):
        nopokedb.repair(directory, tmp_path / "new")


def test_what_is_open_or_no_database_is_refused(closed, tmp_path):
    directory, _ = closed
    with NoPokeDB(8, path=directory, space="l2"), pytest.raises(nopokedb.LockedError):
        nopokedb.repair(directory)
    (tmp_path / "other").mkdir()
    with pytest.raises(nopokedb.InvalidError):
        nopokedb.repair(tmp_path / "other")
    with pytest.raises(nopokedb.StorageError):
        nopokedb.repair(tmp_path / "missing")
