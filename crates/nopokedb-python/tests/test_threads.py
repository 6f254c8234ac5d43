"""Threads share a handle, and Python goes on while the engine works."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB


def test_threads_that_share_a_handle_lose_nothing_and_share_no_id(path, rng):
    vectors = rng.normal(size=(8, 60, 4)).astype(np.float32)
    with NoPokeDB(4, path=path) as db:

        def work(thread):
            ids = []
            for i, vector in enumerate(vectors[thread]):
                ids.append(db.add(vector, {"thread": thread, "i": i}))
                assert db.get(ids[-1]) == {"thread": thread, "i": i}
                assert db.query(vector, k=1)[0]["distance"] == pytest.approx(0, abs=1e-6)
                if i % 10 == 9:
                    assert db.delete(ids.pop(0))
            return ids

        with ThreadPoolExecutor(8) as pool:
            kept = [id for ids in pool.map(work, range(8)) for id in ids]
        assert len(set(kept)) == len(kept) == len(db) == 8 * 54
    with NoPokeDB(4, path=path) as db:
        assert len(db) == 8 * 54 and all(id in db for id in kept)


def test_readers_go_on_while_a_writer_writes(path, rng):
    with NoPokeDB(16, path=path) as db:
        db.add_many(rng.normal(size=(1000, 16)))
        stop, queries = threading.Event(), []

        def read():
            while not stop.is_set():
                hits = db.query(rng.normal(size=16), k=20)
                assert len(hits) == 20
                queries.append(1)

        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for _ in range(10):
            db.add_many(np.random.default_rng(1).normal(size=(500, 16)))
        stop.set()
        for reader in readers:
            reader.join()
        assert len(db) == 6000 and len(queries) > 5


def longest_pause(work):
    """The longest time this thread could not run Python while another one did `work`, and how long the work took."""
    started, done, took = threading.Event(), threading.Event(), []

    def run():
        started.set()
        begun = time.perf_counter()
        work()
        took.append(time.perf_counter() - begun)
        done.set()

    worker = threading.Thread(target=run)
    # From before the start: a worker that keeps the GIL lets us go on only when it is done.
    longest, last = 0.0, time.perf_counter()
    worker.start()
    started.wait()
    while not done.is_set():
        done.wait(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    worker.join()
    return longest, took[0]


@pytest.mark.parametrize("call", ["add_many", "query_many"])
def test_the_gil_is_released_while_the_engine_works(path, rng, call):
    vectors = rng.normal(size=(40_000, 256)).astype(np.float32)
    with NoPokeDB(256, path=path) as db:
        if call == "add_many":
            longest, took = longest_pause(lambda: db.add_many(vectors))
        else:
            db.add_many(vectors[:5000])
            longest, took = longest_pause(lambda: db.query_many(vectors[:3000], k=1, exact=True))
    assert took > 0.05, f"{call} took {took * 1e3:.0f} ms, too short to tell"
    assert longest < took / 2, f"another thread stood still for {longest * 1e3:.0f} of {took * 1e3:.0f} ms"


def test_closing_while_others_work_ends_them_with_closed_error(path):
    db = NoPokeDB(4, path=path)
    db.add(np.ones(4))
    outcomes, busy = [], threading.Barrier(5)

    def work():
        db.add(np.ones(4))
        busy.wait()
        try:
            while True:
                db.add(np.ones(4))
                db.query(np.ones(4))
        except nopokedb.NoPokeDBError as error:
            outcomes.append(type(error))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    busy.wait()
    db.close()
    for worker in workers:
        worker.join(timeout=20)
    assert outcomes == [nopokedb.ClosedError] * 4
