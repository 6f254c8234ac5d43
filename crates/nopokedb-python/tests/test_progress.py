"""Long calls say how far they are, and end when the one they tell raises."""

import signal
import time

import numpy as np
import pytest

from nopokedb import InvalidError, NoPokeDB


@pytest.fixture
def rows(path, rng):
    with NoPokeDB(dim=8, path=path) as db:
        db.add_many(rng.normal(size=(500, 8)))
        yield db


@pytest.mark.parametrize("call", [lambda db, p: db.recall(sample=50, progress=p), lambda db, p: db.wait_indexed(progress=p)])
def test_progress_is_told_to_the_end(rows, capfd, call):
    told = []
    assert call(rows, lambda done, total: told.append((done, total))) == call(rows, None) == call(rows, False)
    assert told == sorted(told) and told[-1][0] == told[-1][1] > 0
    assert capfd.readouterr().err == ""
    call(rows, True)
    drawn = capfd.readouterr().err
    assert drawn.startswith("\r") and drawn.endswith(" s\n") and "100%" in drawn

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(rows, stop)
    with pytest.raises(InvalidError, match="progress must be"):
        call(rows, 3)
    assert len(rows.query(np.ones(8))) == 5, "nothing is left in disorder"


@pytest.mark.parametrize("ids", [None, "own"])
def test_add_many_tells_its_progress_and_stays_whole(path, rng, capfd, ids):
    vectors = rng.normal(size=(20_000, 8)).astype(np.float32)
    ids = ids and [f"row {i}" for i in range(20_000)]
    told = []
    with NoPokeDB(dim=8, path=path) as db:

        def tell(done, total):
            told.append((done, total, len(db)))

        assert len(db.add_many(vectors, ids=ids, progress=tell)) == 20_000
        assert told == sorted(told) and len(told) > 3 and told[-1] == (20_000, 20_000, 20_000)
        assert {rows for done, _, rows in told[:-1]} == {0}, "all rows appear at once, at the end"
        told.clear()
        assert db.add_many(np.empty((0, 8)), progress=tell) == [] and not told

        def stop(done, total):
            if done:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            db.add_many(vectors, progress=stop)
        assert len(db) == 20_000, "nothing of it was written"
        db.add_many(vectors, progress=True)
        assert "add_many [" in capfd.readouterr().err
        with pytest.raises(InvalidError, match="progress must be"):
            db.add_many(vectors, progress=3)
        assert len(db) == 40_000


@pytest.mark.parametrize("call", ["query_many", "recall"])
def test_ctrl_c_ends_a_long_search(path, rng, call):
    class Interrupt(Exception):
        pass

    def interrupt(*_):
        raise Interrupt

    vectors = rng.normal(size=(20_000, 32)).astype(np.float32)
    with NoPokeDB(dim=32, path=path) as db:
        db.add_many(vectors)
        search = {
            "query_many": lambda: db.query_many(vectors[:2_000], k=1, exact=True),
            "recall": lambda: db.recall(k=1, sample=2_000),
        }[call]
        start = time.thread_time()
        search()
        whole = time.thread_time() - start
        before = signal.signal(signal.SIGVTALRM, interrupt)
        try:
            start = time.thread_time()
            with pytest.raises(Interrupt):
                # By the processor's time, not the clock's: a busy machine changes nothing.
                signal.setitimer(signal.ITIMER_VIRTUAL, whole / 10)
                search()
            assert time.thread_time() - start < whole * 0.7
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
        assert len(db.query(vectors[0], k=3)) == 3
