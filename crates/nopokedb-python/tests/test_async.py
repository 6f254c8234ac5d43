"""`AsyncNoPokeDB` does what `NoPokeDB` does, several calls at once, without holding up the event loop."""

import asyncio
import inspect
import threading

import numpy as np
import pytest

from nopokedb import AsyncNoPokeDB, ClosedError, InvalidError, LockedError, NoPokeDB

PUBLIC = [name for name in vars(NoPokeDB) if not name.startswith("_")]


@pytest.mark.parametrize("name", PUBLIC)
def test_everything_public_has_a_twin(name):
    if name == "batch":  # see test_batch.py
        return
    original, twin = getattr(NoPokeDB, name), inspect.getattr_static(AsyncNoPokeDB, name)
    if not callable(original):
        assert isinstance(twin, property) and twin.__doc__ == original.__doc__
        return
    assert inspect.iscoroutinefunction(twin) and twin.__doc__
    if name not in ("close", "collection"):
        assert inspect.signature(twin) == inspect.signature(original)
        assert twin.__doc__ == original.__doc__


def test_calls_answer_as_their_twins_do(path, rng):
    vectors = rng.normal(size=(100, 8)).astype(np.float32)

    async def main():
        async with AsyncNoPokeDB(8, path=path, space="l2") as db:
            ids = await db.add_many(vectors, [{"n": i} for i in range(100)])
            assert (len(db), 5 in db, 100 in db, bool(db)) == (100, True, False, True)
            assert (db.dim, db.space, db.path) == (8, "l2", path)
            db.ef = 70
            hits = await db.query(vectors[3], k=3, where="n < 50")
            assert await db.delete(ids[7]) and await db.count("n < 10") == 9
            named = await db.collection("other", dim=2)
            await named.add([1, 0])
            assert await db.collections() == ["default", "other"] and len(named) == 1
            await named.close()
            with pytest.raises(ClosedError):
                await named.count()
            with pytest.raises(InvalidError):
                await db.query(vectors[0], k=0)
            assert await db.run(lambda db, n: [db.get(i) for i in range(n)], 2) == [{"n": 0}, {"n": 1}]
            return hits, db

    hits, db = asyncio.run(main())
    with NoPokeDB(8, path=path, space="l2") as same:
        assert same.query(vectors[3], k=3, where="n < 50") == hits
    with pytest.raises(ClosedError):
        asyncio.run(db.query(vectors[0]))
    with pytest.raises(ClosedError):
        len(db)


def test_calls_run_at_once(path):
    """Four queries meet at a barrier inside of them, which none could pass alone."""
    barrier = threading.Barrier(4)

    def meet(hits):
        barrier.wait(timeout=60)
        return hits

    async def main():
        async with AsyncNoPokeDB(2, path=path, threads=4) as db:
            await db.add_many(np.eye(2))
            answers = await asyncio.gather(*(db.query([1, 0], k=1, rerank=meet) for _ in range(4)))
            assert [hits[0]["id"] for hits in answers] == [0] * 4

    asyncio.run(main())


def test_the_event_loop_goes_on_meanwhile(path):
    released = threading.Event()

    def wait(hits):
        assert released.wait(timeout=60)
        return hits

    async def main():
        async with AsyncNoPokeDB(2, path=path) as db:
            await db.add([1, 0])
            query = asyncio.create_task(db.query([1, 0], rerank=wait))
            for _ in range(5):
                await asyncio.sleep(0)
            assert not query.done()
            released.set()
            assert len(await query) == 1

    asyncio.run(main())


def test_writes_of_many_tasks_are_all_there(path):
    async def main():
        async with AsyncNoPokeDB(2, path=path) as db:
            ids = await asyncio.gather(*(db.add([i, 1], {"i": i}) for i in range(200)))
            assert sorted(ids) == list(range(200)) and len(db) == 200
            rows = await asyncio.gather(*(db.get(id) for id in ids))
            assert rows == [{"i": i} for i in range(200)]

    asyncio.run(main())


def test_an_opening_that_fails_leaves_nothing_behind(path, python):
    holder = python("import sys, nopokedb; db = nopokedb.NoPokeDB(2, path=sys.argv[1]); print(1, flush=True); input()", path)
    holder.stdout.readline()

    async def main():
        before = threading.active_count()
        db = AsyncNoPokeDB(2, path=path)
        with pytest.raises(LockedError):
            await db.open()
        with pytest.raises(ClosedError):
            await db.count()
        await db.close()
        return before

    asyncio.run(main())
    holder.kill()


def test_it_may_be_opened_again(path):
    async def main():
        db = await AsyncNoPokeDB(2, path=path).open()
        await db.add([1, 0])
        await db.close()
        await db.close()
        async with db:
            assert len(db) == 1

    asyncio.run(main())


def test_closing_closes_the_database_whoever_still_holds_it(path):
    async def main():
        async with AsyncNoPokeDB(2, path=path) as db:
            await db.add([1, 0])
            held = await db.run(lambda db: db)
            named = await db.collection("c", dim=1)
        with pytest.raises(ClosedError):
            held.count()
        with pytest.raises(ClosedError):
            await named.add([1])
        with pytest.raises(ClosedError):
            len(named)
        async with db:
            with pytest.raises(ClosedError):
                await named.count()
            assert await (await db.collection("c")).count() == 0
        await named.close()

    asyncio.run(main())
