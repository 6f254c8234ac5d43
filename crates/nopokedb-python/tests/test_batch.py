"""Several writes as one, and single keys of metadata."""

import asyncio
import threading

import numpy as np
import pytest

from nopokedb import AsyncNoPokeDB, ClosedError, DimensionError, DuplicateIdError, InvalidError, MetadataError, NoPokeDB, ReadOnlyError


def test_a_batch_is_written_whole_when_its_block_ends(path):
    with NoPokeDB(dim=2, path=path) as db:
        db.add([1, 0], {"n": 0}, id="old", document="ancient")
        before = db.stats()["visible_lsn"]
        with db.batch() as b:
            new = b.add([0, 1], {"n": 1}, document="modern")
            assert b.add([0, 2], id="old", on_conflict="skip") == "old"
            b.upsert("old", metadata={"n": 2})
            b.update(new, {"m": 3}, remove="n")
            b.delete("none")
            b.delete("old")
            b.upsert("both", [3, 3])
            assert len(b) == 7 and len(db) == 1 and b.changed is None and "7" in repr(b)
        assert b.changed == [True, False, True, True, False, True, True] and len(b) == 7
        assert new == 0 and db.get(new, include=["metadata", "document"]) == {"id": 0, "metadata": {"m": 3}, "document": "modern"}
        assert "old" not in db and "both" in db and len(db) == 2
        assert db.stats()["visible_lsn"] == before + 3, "one row of the log for each id"
        with pytest.raises(InvalidError, match="written"):
            b.add([1, 1])
        with pytest.raises(InvalidError, match="written"), b:
            pass
        with db.batch() as empty:
            assert empty
        assert empty.changed == []
    with NoPokeDB(dim=2, path=path) as db:
        assert db.get(0) == {"m": 3} and len(db) == 2


def test_nothing_is_written_if_the_block_raises_or_one_write_is_refused(db):
    db.add(np.ones(4), {"n": 1}, id="a")
    lsn = db.stats()["visible_lsn"]

    def refused(error, writes, match=None):
        with pytest.raises(error, match=match), db.batch() as b:
            b.upsert("b", np.ones(4))
            b.delete("a")
            writes(b)
        assert b.changed is None and len(db) == 1 and db.get("a") == {"n": 1} and "b" not in db

    refused(ZeroDivisionError, lambda b: 1 / 0)
    refused(KeyboardInterrupt, lambda b: (_ for _ in ()).throw(KeyboardInterrupt))
    refused(DuplicateIdError, lambda b: b.add(np.ones(4), id="b"), '"b"')
    refused(InvalidError, lambda b: b.upsert("c", metadata={"n": 1}), "no row")
    refused(InvalidError, lambda b: b.update("a", {"n": 1}), "no row")
    refused(DimensionError, lambda b: b.add([1, 2]), "dimension 4")
    refused(MetadataError, lambda b: b.add(np.ones(4), {"n": {1}}))
    refused(InvalidError, lambda b: b.update("a", {"n": 1}, remove=["n"]), "both")
    refused(InvalidError, lambda b: b.delete(1.5), "id")
    assert db.stats()["visible_lsn"] == lsn
    b = db.batch()
    with pytest.raises(DuplicateIdError):
        b.add(np.ones(4), id="a")
        b.commit()
    with pytest.raises(InvalidError, match="over"):
        b.commit()


def test_nobody_sees_half_a_batch(path):
    """A sum that every batch keeps, read again and again meanwhile."""
    with NoPokeDB(dim=1, path=path) as db:
        db.add_many([[1], [2]], [{"n": 50}, {"n": 50}])
        stop = threading.Event()
        sums = set()

        def read():
            while not stop.is_set():
                sums.add(sum(row["metadata"]["n"] for row in db.scroll()))

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(100):
            with db.batch() as b:
                b.update(0, {"n": i})
                b.update(1, {"n": 100 - i})
        stop.set()
        reader.join()
        assert sums == {100}


def test_update_changes_single_keys_and_loses_nobody_elses(db):
    db.add(np.ones(4), {"title": "Emma", "draft": True, "x": {"y": 1}}, id="a", document="text")
    db.update("a", {"year": 1815, "x": {"z": 2}}, remove=["draft", "none"])
    assert db.get("a") == {"title": "Emma", "x": {"z": 2}, "year": 1815}
    db.update("a", remove="title")
    db.update("a", {})
    assert db.get("a") == {"x": {"z": 2}, "year": 1815}
    row = db.get("a", include=["document", "vector"])
    assert row["document"] == "text" and (row["vector"] == 1).all()
    assert db.count("year = 1815") == 1
    bare = db.add(np.ones(4))
    db.update(bare, {"n": 1})
    assert db.get(bare) == {"n": 1}
    for bad, error, match in [
        (lambda: db.update("none", {"n": 1}), InvalidError, "no row"),
        (lambda: db.update("a", {"n": 1}, remove=["n"]), InvalidError, "both"),
        (lambda: db.update("a", [1]), MetadataError, "dict"),
        (lambda: db.update("a", remove=3), InvalidError, "remove must be"),
        (lambda: db.update("a", remove=[3]), InvalidError, r"remove\[0\]"),
        (lambda: db.update(-1, {"n": 1}), InvalidError, "id"),
    ]:
        with pytest.raises(error, match=match):
            bad()

    def count(name):
        for i in range(50):
            db.update(bare, {name: i})

    threads = [threading.Thread(target=count, args=(name,)) for name in "pqrs"]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert db.get(bare) == {"n": 1, "p": 49, "q": 49, "r": 49, "s": 49}


def test_a_batch_belongs_to_its_collection_and_ends_with_its_handle(path):
    with NoPokeDB(dim=2, path=path) as db:
        named = db.collection("named", dim=3)
        with named.batch() as b:
            b.add([1, 2, 3])
        assert (len(named), len(db)) == (1, 0)
        with NoPokeDB(path=path, read_only=True) as reader:
            with pytest.raises(ReadOnlyError):
                reader.batch().add([1, 0])
            with pytest.raises(ReadOnlyError), reader.batch() as b:
                b.delete(0)
            with pytest.raises(ReadOnlyError):
                reader.update(0, {"n": 1})
        late = db.batch()
        late.add([1, 0])
        another = db.batch()
    for call in (late.commit, lambda: another.add([1, 0]), another.commit):
        with pytest.raises(ClosedError):
            call()


def test_the_async_twin_writes_its_batches_on_a_thread(path):
    async def main():
        async with AsyncNoPokeDB(2, path=path) as db:
            async with db.batch() as b:
                id = b.add([1, 0], {"n": 1})
                b.upsert("a", [0, 1])
            assert b.changed == [True, True] and len(db) == 2
            await db.update(id, {"m": 2}, remove=["n"])
            with pytest.raises(ValueError, match="never mind"):
                async with db.batch() as b:
                    b.delete("a")
                    raise ValueError("never mind")
            with pytest.raises(DuplicateIdError):
                async with db.batch() as b:
                    b.add([1, 1], id="a")
            return await db.get(id), len(db)

    assert asyncio.run(main()) == ({"m": 2}, 2)
