"""Opening, closing, and what a handle does afterwards."""

import copy
import gc
import os
import pathlib
import pickle
import shutil
import weakref

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB

CALLS = {
    "add": lambda db: db.add(np.ones(4)),
    "add_many": lambda db: db.add_many(np.ones((2, 4))),
    "upsert": lambda db: db.upsert(0, np.ones(4)),
    "delete": lambda db: db.delete(0),
    "get": lambda db: db.get(0),
    "query": lambda db: db.query(np.ones(4)),
    "query_many": lambda db: db.query_many(np.ones((2, 4))),
    "len": len,
    "in": lambda db: 0 in db,
    "save": lambda db: db.save(),
    "stats": lambda db: db.stats(),
    "wait_indexed": lambda db: db.wait_indexed(),
}


@pytest.mark.parametrize("call", CALLS)
def test_every_call_on_a_closed_handle_raises_closed_error(path, call):
    db = NoPokeDB(4, path=path)
    db.add(np.ones(4))
    db.close()
    with pytest.raises(nopokedb.ClosedError, match="open it again"):
        CALLS[call](db)


def test_a_closed_handle_still_says_what_it_was(path):
    db = NoPokeDB(4, path=path, space="l2")
    db.close()
    db.close()
    assert repr(db) == f"NoPokeDB('{path}', closed, dim=4, space='l2')"
    assert (db.dim, db.space, db.path) == (4, "l2", path)


def test_repr_says_path_rows_dimension_and_space(db, path):
    db.add(np.ones(4))
    assert repr(db) == f"NoPokeDB('{path}', rows=1, dim=4, space='cosine')"


def test_leaving_the_with_block_closes_also_after_an_exception(path):
    with pytest.raises(KeyError):
        with NoPokeDB(4, path=path) as db:
            db.add(np.ones(4))
            raise KeyError
    with pytest.raises(nopokedb.ClosedError):
        len(db)
    with NoPokeDB(4, path=path) as db:
        assert len(db) == 1


def test_a_handle_that_was_never_closed_loses_nothing(path):
    db = NoPokeDB(4, path=path)
    db.add(np.ones(4), {"kept": True})
    del db
    gc.collect()
    with NoPokeDB(4, path=path) as db:
        assert db.get(0) == {"kept": True}


def test_a_pathlib_path_is_taken_and_missing_parents_are_made(tmp_path):
    where = tmp_path / "a" / "b" / "größe"
    with NoPokeDB(4, path=where) as db:
        db.add(np.ones(4))
        assert db.path == str(where)
    assert where.is_dir()


def test_two_handles_of_one_process_see_the_same_rows(path):
    with NoPokeDB(4, path=path) as one, NoPokeDB(4, path=pathlib.Path(path)) as two:
        one.add(np.ones(4), {"from": "one"})
        assert two.get(0) == {"from": "one"}
        assert two.add(np.ones(4)) == 1
        one.close()
        assert len(two) == 2


def test_after_close_the_directory_can_be_removed_and_made_again(path):
    for _ in range(3):
        with NoPokeDB(4, path=path) as db:
            assert db.add(np.ones(4)) == 0
        shutil.rmtree(path)


def test_a_moved_directory_opens_where_it_is_now(path, tmp_path):
    with NoPokeDB(4, path=path) as db:
        db.add(np.ones(4), {"a": 1})
    moved = shutil.move(path, tmp_path / "elsewhere")
    with NoPokeDB(4, path=moved) as db:
        assert db.get(0) == {"a": 1}
        assert not pathlib.Path(path).exists()


def test_a_handle_is_neither_pickled_nor_copied(db):
    for copier in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError):
            copier(db)


def test_handles_can_be_weakly_referenced_and_are_freed(path):
    db = NoPokeDB(4, path=path)
    reference = weakref.ref(db)
    del db
    gc.collect()
    assert reference() is None


def test_a_subclass_that_never_opened_says_so():
    class Forgetful(NoPokeDB):
        def __init__(self):
            pass

    db = Forgetful()
    assert repr(db) == "NoPokeDB(not opened)"
    with pytest.raises(nopokedb.ClosedError, match="__init__"):
        len(db)
    db.close()


def test_a_path_need_not_be_unicode(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    with NoPokeDB(dim=2, path=path) as db:
        assert db.path == path and os.path.isdir(db.path)


def test_to_wait_without_end_is_infinity(path):
    with NoPokeDB(dim=2, path=path, timeout=float("inf")) as db:
        assert db.wait_indexed(float("inf"))
