"""One process writes; others are told who does; and no acknowledged row is lost to a kill."""

import os
import signal
import time

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB

HOLDER = """
    import sys, nopokedb
    db = nopokedb.NoPokeDB(4, path=sys.argv[1])
    db.add([1, 2, 3, 4], {"by": "holder"})
    print("open", flush=True)
    sys.stdin.readline()
    db.close()
"""


@pytest.fixture
def holder(python, path):
    import subprocess

    child = python(HOLDER, path, stdin=subprocess.PIPE)
    assert child.stdout.readline() == "open\n", child.stderr.read()
    return child


def test_a_second_process_is_refused_within_100_ms_and_told_who_holds_it(path, holder):
    took = []
    for _ in range(5):
        begun = time.perf_counter()
        with pytest.raises(nopokedb.LockedError) as raised:
            NoPokeDB(4, path=path)
        took.append(time.perf_counter() - begun)
        assert str(holder.pid) in str(raised.value)
    assert sorted(took)[2] < 0.1, took


def test_a_second_process_waits_for_as_long_as_it_is_told(path, holder):
    begun = time.perf_counter()
    with pytest.raises(nopokedb.LockedError):
        NoPokeDB(4, path=path, timeout=0.4)
    assert 0.4 <= time.perf_counter() - begun < 2
    holder.stdin.write("\n")
    holder.stdin.flush()
    with NoPokeDB(4, path=path, timeout=20) as db:
        assert db.get(0) == {"by": "holder"}


def test_ctrl_c_ends_the_waiting_for_a_second_process(path, holder):
    class Interrupt(Exception):
        pass

    def interrupt(*_):
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        begun = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(Interrupt):
            NoPokeDB(4, path=path, timeout=40)
        assert time.perf_counter() - begun < 20
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert holder.poll() is None, "it was not the holder that let go"


def test_a_killed_holder_lets_go_and_its_rows_are_there(path, holder):
    holder.kill()
    holder.wait()
    with NoPokeDB(4, path=path, timeout=5) as db:
        assert db.get(0) == {"by": "holder"}
        assert db.query([1, 2, 3, 4])[0]["distance"] == pytest.approx(0, abs=1e-6)


WRITER = """
    import sys, numpy as np, nopokedb
    from writes import apply
    db = nopokedb.NoPokeDB(8, path=sys.argv[1], space="l2")
    for step in range(int(sys.argv[2]), 10**9):
        apply(db, step)
        # One line per acknowledged step: what the oracle may hold us to.
        print(step, flush=True)
"""

WRITES = """
import numpy as np

def vector(step):
    return np.random.default_rng(step).normal(size=8).astype(np.float32)

def apply(db, step):
    '''The step's write, into a database or into a dict that stands for one.'''
    kind, own = step % 7, step * 10
    if kind == 5:
        db.delete((step - 5) * 10)
    elif kind == 6:
        db.upsert((step - 5) * 10, vector(step), {"step": step, "changed": True})
    elif kind == 3:
        db.add_many([vector(step)] * 5, [{"step": step, "i": i} for i in range(5)], ids=range(own, own + 5))
    else:
        db.add(vector(step), {"step": step}, id=own)
"""


class Oracle(dict):
    """What the rows must be: id -> (vector, metadata)."""

    def add(self, vector, metadata, id):
        self[id] = (vector, metadata)

    def add_many(self, vectors, metadatas, ids):
        self.update(zip(ids, zip(vectors, metadatas)))

    def upsert(self, id, vector, metadata):
        self[id] = (vector, metadata)

    def delete(self, id):
        self.pop(id, None)


def served(db):
    """Every row: id -> (vector, metadata)."""
    rows, after = {}, None
    while page := db.scroll(limit=10_000, after=after, include=["vector", "metadata"]):
        rows.update((row["id"], (row["vector"], row["metadata"])) for row in page)
        after = page[-1]["id"]
    return rows


def differences(db, oracle, sought):
    """Where a database is not what the oracle says: every row of both; and searches for the vectors of those `sought`."""
    rows = served(db)
    found = [f"{len(db)} rows, of which {len(rows)} are listed"] if len(db) != len(rows) else []
    found += [f"row {id} is missing" for id in oracle if id not in rows]
    found += [f"row {id} is there" for id in rows if id not in oracle]
    for id, (vector, metadata) in oracle.items():
        if id in rows and not (np.array_equal(rows[id][0], vector) and rows[id][1] == metadata):
            found.append(f"row {id} is {rows[id]} instead of {(vector, metadata)}")
    sought = [id for id in sought if id in oracle]
    hits = db.query_many([oracle[id][0] for id in sought], k=5) if sought and len(db) else []
    for id, near in zip(sought, hits):
        if not any(hit["id"] == id and hit["distance"] == 0 and hit["metadata"] == oracle[id][1] for hit in near):
            found.append(f"row {id} is not found by its own vector")
    return found


@pytest.mark.parametrize("kills", [150 if os.environ.get("NOPOKEDB_CRASH") == "long" else 6])
def test_every_acknowledged_write_survives_sigkill(python, path, tmp_path, kills):
    (tmp_path / "writes.py").write_text(WRITES)
    writes = {}
    exec(WRITES, writes)
    oracle, step, chance = Oracle(), 0, np.random.default_rng(kills)
    for kill in range(kills):
        begun = step
        child = python(WRITER, path, step, env={**os.environ, "PYTHONPATH": str(tmp_path)})
        lines = [child.stdout.readline() for _ in range(20 + 37 * (kill % 7))]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.read().splitlines(keepends=True)
        acknowledged = [int(line) for line in lines if line.endswith("\n")]
        assert child.wait() == -signal.SIGKILL
        assert acknowledged == list(range(step, step + len(acknowledged)))
        for step in acknowledged:
            writes["apply"](oracle, step)
        step += 1
        with NoPokeDB(8, path=path, space="l2") as db:
            # All rows are read each time; those that are searched for are what this life wrote and some from before, at the end all.
            ids, new = list(oracle), step * 10
            older = chance.choice(ids, min(len(ids), 300), replace=False).tolist() if ids else []
            sought = ids if kill == kills - 1 else {*older, *(id for id in ids if id >= begun * 10), *range(new, new + 5)}
            wrong = differences(db, oracle, sought)
            if wrong:
                # The step in flight when the kill came may be there too, but only whole.
                writes["apply"](oracle, step)
                step += 1
                wrong = differences(db, oracle, sought)
            assert not wrong, f"after kill {kill} at step {step}: {wrong[:5]}"
            report = db.check() if kill % 10 == 9 else None
            assert report is None or report.ok, report.problems
    print(f"kills: {kills} of a Python process, {step} steps, {len(oracle)} rows at the end")


def test_after_a_fork_the_childs_handle_raises_and_the_parents_works(python, path):
    child = python(
        """
        import os, sys, warnings, nopokedb
        warnings.simplefilter("ignore", DeprecationWarning)
        db = nopokedb.NoPokeDB(4, path=sys.argv[1])
        db.add([1, 2, 3, 4])
        pid = os.fork()
        if pid == 0:
            calls = [lambda: db.add([1, 2, 3, 4]), lambda: db.query([1, 2, 3, 4]), lambda: len(db), lambda: db.get(0), db.close]
            for call in calls:
                try:
                    call()
                    print("no error", flush=True)
                except nopokedb.ClosedError as error:
                    assert "fork" in str(error), error
            del db
            sys.exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        db.add([4, 3, 2, 1])
        print(len(db))
        db.close()
        """,
        path,
    )
    out, errors = child.communicate(timeout=60)
    assert (out, errors) == ("2\n", "")
    with NoPokeDB(4, path=path) as db:
        assert len(db) == 2


def test_a_forked_child_may_open_its_own_handle_once_the_parent_has_closed(python, path):
    child = python(
        """
        import os, sys, warnings, nopokedb
        warnings.simplefilter("ignore", DeprecationWarning)
        db = nopokedb.NoPokeDB(4, path=sys.argv[1])
        db.add([1, 2, 3, 4])
        db.close()
        pid = os.fork()
        if pid == 0:
            with nopokedb.NoPokeDB(4, path=sys.argv[1]) as mine:
                mine.add([4, 3, 2, 1])
            sys.exit(0)
        print(os.waitpid(pid, 0)[1])
        """,
        path,
    )
    out, errors = child.communicate(timeout=60)
    assert (out, errors) == ("0\n", "")
    with NoPokeDB(4, path=path) as db:
        assert len(db) == 2


def test_multiprocessing_workers_started_by_spawn_may_use_the_package(python, path, tmp_path):
    (tmp_path / "worker.py").write_text("import nopokedb\ndef version(_):\n    return nopokedb.__version__\n")
    child = python(
        """
        import multiprocessing, sys, nopokedb
        from worker import version
        if __name__ == "__main__":
            with nopokedb.NoPokeDB(4, path=sys.argv[1]) as db, multiprocessing.get_context("spawn").Pool(2) as pool:
                print(set(pool.map(version, range(4))) == {nopokedb.__version__})
        """,
        path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    out, errors = child.communicate(timeout=60)
    assert out == "True\n", errors


def test_ctrl_c_ends_a_wait(python, path):
    child = python(
        """
        import os, signal, sys, threading, numpy as np, nopokedb
        signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
        db = nopokedb.NoPokeDB(64, path=sys.argv[1], ef_construction=4096, M=64)
        db.add_many(np.random.default_rng(0).normal(size=(100_000, 64)).astype(np.float32))
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            print(db.wait_indexed())
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        os._exit(0)
        """,
        path,
    )
    out, errors = child.communicate(timeout=300)
    assert out == "interrupted\n", errors
