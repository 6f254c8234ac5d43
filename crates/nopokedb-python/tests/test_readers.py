"""One process writes, others read: they see everything within a second, at once when they ask, and nothing else ever."""

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB

LONG = os.environ.get("NOPOKEDB_CRASH") == "long"

STEPS = """
import numpy as np

STEPS = 2_000_000
DOCUMENT = "the same text again and again, so that segments fill and are compacted. " * 150

def vector(step, i):
    return np.array([step % 4096, i, (step * 7 + i) % 997, 1], dtype=np.float32)

def rows_of(step):
    return {step * 10 + i: (step, i) for i in range(5 if step % 4 == 0 else 1)}

class Model(dict):
    '''The rows after `step` writes: id -> (the step that wrote it, its number there).'''

    step = 0

    def advance(self):
        step, self.step = self.step, self.step + 1
        if step % 4 == 1:
            self[(step - 1) * 10 + 2] = (step, 2)
        elif step % 4 == 3:
            for id in [id for id, (wrote, _) in self.items() if wrote < step - 120]:
                del self[id]
        else:
            self.update(rows_of(step))

def write(db, step):
    if step % 4 == 1:
        db.upsert((step - 1) * 10 + 2, vector(step, 2), {"step": step, "i": 2})
    elif step % 4 == 3:
        db.delete(where={"step": {"$lt": step - 120}})
    else:
        rows = rows_of(step)
        vectors = [vector(step, i) for i in range(len(rows))]
        metadatas = [{"step": step, "i": i} for i in range(len(rows))]
        try:
            db.add_many(vectors, metadatas, ids=list(rows), documents=[DOCUMENT] * len(rows))
        except __import__("nopokedb").DuplicateIdError:
            pass  # the writer before was killed between the write and its answer
"""

WRITER = """
    import sys, time, numpy as np, nopokedb
    from steps import STEPS, write
    begun, answered = np.memmap(sys.argv[2], np.float64, "r+", shape=(2, STEPS))
    db = nopokedb.NoPokeDB(4, path=sys.argv[1], space="l2", timeout=20)
    print("open", flush=True)
    for step in range(int(np.count_nonzero(answered)), STEPS):
        begun[step] = time.monotonic()
        write(db, step)
        # The clock is the same in all processes. From a second later on nobody may miss this step.
        answered[step] = time.monotonic()
        if step % 1500 == 1499:
            db.close()
            db = nopokedb.NoPokeDB(4, path=sys.argv[1], space="l2")
"""

READER = """
    import sys, time, numpy as np, nopokedb
    from steps import STEPS, Model, vector
    begun, answered = np.memmap(sys.argv[2], np.float64, "r", shape=(2, STEPS))
    seed, seconds = int(sys.argv[3]), float(sys.argv[4])
    rng, model, looks, states = np.random.default_rng(seed), Model(), 0, set()
    end = time.monotonic() + seconds
    db = nopokedb.NoPokeDB(path=sys.argv[1], read_only=True)
    while time.monotonic() < end:
        asked = looks % 2 == 0
        # How many steps had been answered when this look began, a second before it or at all.
        now = time.monotonic()
        least = model.step
        while answered[least] != 0 and (asked or answered[least] <= now - 1):
            least += 1
        if asked:
            db.refresh()
        hits = db.query(rng.integers(0, 900, 4), k=5_000, include=("metadata", "vector")) if len(db) else []
        seen = {hit["id"]: (hit["metadata"]["step"], hit["metadata"]["i"]) for hit in hits}
        # Later states only; and some state it must be, for a write is seen whole or not at all.
        while model.step < least or dict(model) != seen:
            assert begun[model.step] != 0, f"not a state that ever was: {sorted(seen.items())[:8]} of {len(seen)}, {model.step}"
            model.advance()
        for hit in hits[:: max(1, len(hits) // 20)]:
            assert (hit["vector"] == vector(*seen[hit["id"]])).all(), hit
        looks += 1
        states.add(model.step)
    print(looks, len(states), model.step)
"""


def test_a_writer_that_is_killed_again_and_again_and_eight_readers(python, path, tmp_path):
    seconds, kill_every = (600, 7) if LONG else (10, 2)
    (tmp_path / "steps.py").write_text(STEPS)
    clock = tmp_path / "clock"
    np.memmap(clock, np.float64, "w+", shape=(2, 2_000_000)).flush()
    NoPokeDB(4, path=path, space="l2").close()
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    end = time.monotonic() + seconds
    readers = [python(READER, path, clock, seed, seconds, env=env) for seed in range(8)]
    kills = 0
    while time.monotonic() < end:
        writer = python(WRITER, path, clock, env=env)
        assert writer.stdout.readline() == "open\n", writer.stderr.read()
        try:
            writer.wait(min(kill_every, max(0.1, end - time.monotonic())))
        except subprocess.TimeoutExpired:
            pass
        assert writer.poll() is None, writer.stderr.read()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        kills += 1
    told = [reader.communicate(timeout=120) for reader in readers]
    assert [reader.returncode for reader in readers] == [0] * 8, [errors[-2000:] for _, errors in told if errors]
    looks, states, steps = zip(*(map(int, out.split()) for out, _ in told))
    print(f"looks: {sum(looks)} of 8 readers at {sum(states)} states, {max(steps)} steps, {kills} kills, {seconds} s")
    assert min(looks) > 3 and min(states) > 2, told


def files(path):
    """Every file of ours with its hash."""
    found = [f for f in sorted(Path(path).rglob("*")) if f.is_file()]
    return {str(f): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}


def test_a_reader_changes_no_byte_and_refuses_every_write(path):
    with NoPokeDB(4, path=path) as db:
        db.add_many(np.eye(4), [{"i": i} for i in range(4)])
        db.collection("other", dim=2).add([1, 0])
    before = files(path)
    with NoPokeDB(path=path, read_only=True) as db:
        assert (db.dim, db.space, db.read_only, len(db)) == (4, "cosine", True, 4)
        assert db.query([0, 0, 1, 0], k=1)[0]["metadata"] == {"i": 2}
        assert db.collections() == ["default", "other"] and len(db.collection("other")) == 1
        assert db.count({"i": {"$gte": 2}}) == 2 and len(db.scroll(limit=2)) == 2
        assert db.wait_indexed(10) and db.stats()["rows"] == 4 and db.recall() == 1
        for write in (
            lambda: db.add(np.ones(4)),
            lambda: db.add_many(np.ones((2, 4))),
            lambda: db.add_many(np.ones((0, 4))),
            lambda: db.upsert(0, np.ones(4)),
            lambda: db.delete(0),
            lambda: db.delete(77),
            lambda: db.delete(where={"i": 1}),
            lambda: db.collection("new", dim=3),
            lambda: db.collection("other").add([1, 0]),
            lambda: db.drop_collection("other"),
            lambda: db.save(),
        ):
            with pytest.raises(nopokedb.ReadOnlyError, match="read only"):
                write()
    assert files(path) == before


def test_what_is_no_database_is_not_made_into_one(tmp_path):
    with pytest.raises(nopokedb.InvalidError, match="no such directory"):
        NoPokeDB(4, path=tmp_path / "missing", read_only=True)
    assert not (tmp_path / "missing").exists()
    with pytest.raises(nopokedb.InvalidError, match="no NoPokeDB database"):
        NoPokeDB(4, path=tmp_path, read_only=True)
    NoPokeDB(4, path=tmp_path / "db", space="l2").close()
    with pytest.raises(nopokedb.DimensionError, match="dimension 4.*dim=5"):
        NoPokeDB(5, path=tmp_path / "db", space="l2", read_only=True)
    with pytest.raises(nopokedb.InvalidError, match="l2"):
        NoPokeDB(4, path=tmp_path / "db", read_only=True)
    with pytest.raises(TypeError, match="read_only"):
        NoPokeDB(path=tmp_path / "db")


def test_a_reader_takes_no_lock_and_a_writer_beside_it_in_one_process_is_seen(path, python):
    with NoPokeDB(4, path=path) as db, NoPokeDB(path=path, read_only=True) as reader:
        id = db.add([1, 2, 3, 4], {"n": 1})
        reader.refresh()
        assert reader.get(id) == {"n": 1}
        db.upsert(id, metadata={"n": 2})
        answered = looked = time.monotonic()
        while reader.get(id) != {"n": 2}:
            assert looked - answered < 1
            looked = time.monotonic()
        db.close()
        # The reader holds nothing: another process may write now.
        child = python("import sys, nopokedb\nnopokedb.NoPokeDB(4, path=sys.argv[1]).add([4, 3, 2, 1])", path)
        assert child.communicate(timeout=60) == ("", "")
        reader.refresh()
        assert len(reader) == 2


def test_after_a_fork_the_childs_reader_raises_and_the_parents_works(python, path):
    NoPokeDB(4, path=path).close()
    child = python(
        """
        import os, sys, warnings, nopokedb
        warnings.simplefilter("ignore", DeprecationWarning)
        db = nopokedb.NoPokeDB(path=sys.argv[1], read_only=True)
        pid = os.fork()
        if pid == 0:
            for call in (lambda: len(db), lambda: db.get(0), db.refresh, db.close):
                try:
                    call()
                    print("no error", flush=True)
                except nopokedb.ClosedError as error:
                    assert "fork" in str(error), error
            with nopokedb.NoPokeDB(path=sys.argv[1], read_only=True) as mine:
                assert len(mine) == 0
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        db.refresh()
        print(len(db))
        """,
        path,
    )
    assert child.communicate(timeout=60) == ("0\n", "")


def test_a_directory_that_is_moved_or_deleted_under_a_handle_is_an_error_that_says_so(path, tmp_path):
    with NoPokeDB(4, path=path) as db, NoPokeDB(path=path, read_only=True) as reader:
        db.add([1, 2, 3, 4])
        reader.refresh()
        shutil.move(path, tmp_path / "elsewhere")
        with pytest.raises(nopokedb.ClosedError, match="moved or deleted"):
            reader.refresh()
        with NoPokeDB(path=tmp_path / "elsewhere", read_only=True) as moved:
            assert len(moved) == 1
        shutil.rmtree(tmp_path / "elsewhere")
        with pytest.raises(nopokedb.ClosedError, match="deleted"):
            db.add([4, 3, 2, 1])
        assert len(db) == 1
        with NoPokeDB(4, path=path) as new:
            assert len(new) == 0
    assert os.listdir(path)


def test_closing_lets_go_of_every_descriptor_and_the_directory_can_be_made_again_in_a_loop(path):
    kept, counts = [], []
    for _ in range(25):
        db = NoPokeDB(4, path=path)
        db.add_many(np.random.default_rng(0).normal(size=(500, 4)), documents=["x" * 2000] * 500)
        reader = NoPokeDB(path=path, read_only=True)
        assert len(db.query(np.ones(4), k=3)) == len(reader.query(np.ones(4), k=3)) == 3
        db.close()
        reader.close()
        # The objects live on; what they held of the directory does not.
        kept += [db, reader]
        shutil.rmtree(path)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[0], counts
