"""What NoPokeDB alone is measured on: each in its own process, one JSON line out.

    own.py add | threads | add_many | open | load [<rows>] | steady [<queries>] | churn [<rows> <dim> <rounds>] | growth <rows> ...
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import median

import numpy as np

from nopokedb import NoPokeDB

HERE = Path(__file__).resolve().parent
SCRATCH = HERE / "out/scratch"


def rows(n, dim, seed=1):
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def folder():
    SCRATCH.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=SCRATCH)


def spread(values):
    return {"median": median(values), "low": min(values), "high": max(values)}


def percentiles(seconds):
    return {f"p{p}": float(np.percentile(seconds, p)) * 1e6 for p in (50, 95, 99)}


def add(n=1_500, dim=128):
    """One durable add against a bare write + fdatasync of the same bytes, turn by turn."""
    vectors = rows(n, dim)
    with folder() as tmp, NoPokeDB(dim, path=f"{tmp}/db") as db:
        for v in vectors[:50]:
            db.add(v, {"i": 0})
        before = db.stats()["log_bytes"]
        for v in vectors[:50]:
            db.add(v, {"i": 0})
        size = (db.stats()["log_bytes"] - before) // 50
        block = os.urandom(size)
        append = os.open(f"{tmp}/append", os.O_WRONLY | os.O_CREAT)
        inside = os.open(f"{tmp}/inside", os.O_WRONLY | os.O_CREAT)
        os.pwrite(inside, bytes(size * n), 0)
        os.fsync(inside)
        took = {"add": [], "append": [], "inside": []}
        for i, v in enumerate(vectors):
            start = time.perf_counter()
            db.add(v, {"i": i, "even": i % 2 == 0})
            took["add"].append(time.perf_counter() - start)
            for name, file in [("append", append), ("inside", inside)]:
                start = time.perf_counter()
                os.pwrite(file, block, i * size)
                os.fdatasync(file)
                took[name].append(time.perf_counter() - start)
    result = {name: percentiles(seconds) for name, seconds in took.items()}
    return {"bytes": size, "dim": dim, "n": n, "us": result}


def add_for(db, vectors, threads, seconds):
    """Adds from that many threads for a while: rows a second."""
    stop, counts = time.perf_counter() + seconds, [0] * threads

    def work(t):
        while time.perf_counter() < stop:
            db.add(vectors[counts[t] % len(vectors)], {"thread": t})
            counts[t] += 1

    workers = [threading.Thread(target=work, args=(t,)) for t in range(threads)]
    start = time.perf_counter()
    for w in workers:
        w.start()
    for w in workers:
        w.join()
    return sum(counts) / (time.perf_counter() - start)


def threads(many=8, rounds=9, seconds=1.0):
    """Durable adds from many threads against one. Each round has its own directory, which stays too small for a graph: what
    is measured is the log."""
    vectors = rows(1_000, 128)
    one, several = [], []
    for _ in range(rounds):
        with folder() as tmp, NoPokeDB(128, path=f"{tmp}/db") as db:
            add_for(db, vectors, 1, 0.3)
            one.append(add_for(db, vectors, 1, seconds))
            several.append(add_for(db, vectors, many, seconds))
    ratios = [b / a for a, b in zip(one, several)]
    return {"threads": many, "one": spread(one), "many": spread(several), "ratio": spread(ratios)}


def add_many(n=20_000, dim=128, batch=5_000, rounds=7):
    """Rows a second, fsynced and searchable, the best case (no metadata) and with it."""
    vectors = rows(n, dim)
    metadatas = [{"i": i, "even": i % 2 == 0} for i in range(n)]
    rates = {"bare": [], "metadata": [], "write": []}
    for _ in range(rounds):
        for kind in rates:
            with folder() as tmp:
                rates[kind].append(n / timed_load(kind, tmp, vectors, metadatas, batch))
    return {"n": n, "dim": dim, "batch": batch, **{kind: spread(values) for kind, values in rates.items()}}


def timed_load(kind, tmp, vectors, metadatas, batch):
    """Seconds to load; for `write`, to write and fdatasync the vectors' bytes alone, as the floor."""
    starts = range(0, len(vectors), batch)
    if kind == "write":
        file = os.open(f"{tmp}/file", os.O_WRONLY | os.O_CREAT)
        begun = time.perf_counter()
        for start in starts:
            os.write(file, vectors[start : start + batch].tobytes())
            os.fdatasync(file)
        return time.perf_counter() - begun
    with NoPokeDB(vectors.shape[1], path=f"{tmp}/db") as db:
        begun = time.perf_counter()
        for start in starts:
            db.add_many(vectors[start : start + batch], metadatas[start : start + batch] if kind == "metadata" else None)
        took = time.perf_counter() - begun
        assert db.query(vectors[-1], 1)[0]["id"] == len(vectors) - 1
        return took


OPEN = """
import json, sys, time
import numpy as np
from nopokedb import NoPokeDB
q = np.random.default_rng(3).standard_normal(int(sys.argv[2]), dtype=np.float32)
start = time.perf_counter()
db = NoPokeDB(int(sys.argv[2]), path=sys.argv[1])
opened = time.perf_counter()
db.query(q, 10)
answered = time.perf_counter()
print(json.dumps({"open": opened - start, "first": answered - start, "rows": len(db)}), flush=True)
if len(sys.argv) > 3:
    db.wait_indexed()
    print("ready", flush=True)
    while True:
        db.add(q, {"late": True})
"""


def opened(path, dim, kill=False):
    """Opens in a process of its own; with `kill`, writes on afterwards and is killed with SIGKILL."""
    command = [sys.executable, "-c", OPEN, path, str(dim), *(["kill"] if kill else [])]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    answer = json.loads(child.stdout.readline())
    if kill:
        child.stdout.readline()
        time.sleep(0.3)
        child.send_signal(signal.SIGKILL)
    child.wait()
    return answer


def drop_from_cache(path):
    for file in Path(path).rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)


def open_times(n=50_000, dim=384, rounds=5):
    vectors = rows(n, dim)
    with folder() as tmp:
        path = f"{tmp}/db"
        with NoPokeDB(dim, path=path) as db:
            for start in range(0, n, 5_000):
                ids = range(start, min(start + 5_000, n))
                db.add_many(vectors[start : start + 5_000], [{"i": i} for i in ids])
            db.wait_indexed()
        size = sum(f.stat().st_blocks * 512 for f in Path(path).rglob("*") if f.is_file())
        clean = [opened(path, dim)["first"] for _ in range(rounds)]
        cold = []
        for _ in range(rounds):
            drop_from_cache(path)
            cold.append(opened(path, dim)["first"])
        killed = []
        for _ in range(rounds):
            opened(path, dim, kill=True)
            killed.append(opened(path, dim)["first"])
    result = {"n": n, "dim": dim, "clean": spread(clean), "cold": spread(cold), "killed": spread(killed)}
    return {**result, "disk": size, "f32": n * dim * 4}


def one_size(n, dim=128, queries=200):
    """Load, graph, query, memory, disk and open at `n` rows of the clustered set."""
    from data import clustered

    base, asked = clustered(n, dim, queries, 16)
    with folder() as tmp:
        path = f"{tmp}/db"
        with NoPokeDB(dim, path=path) as db:
            begun = time.perf_counter()
            for start in range(0, n, 5_000):
                db.add_many(base[start : start + 5_000])
            loaded = time.perf_counter() - begun
            db.wait_indexed()
            indexed = time.perf_counter() - begun
            took, answers, found = [], [], 0
            for q in asked:
                start = time.perf_counter()
                answers.append(db.query(q, 10))
                took.append(time.perf_counter() - start)
            # Only then: an exact search between two queries would leave the second one cold caches.
            for q, hits in zip(asked, answers):
                wanted = db.query(q, 10, exact=True)[-1]["distance"]
                found += sum(hit["distance"] <= wanted + 1e-6 for hit in hits)
            stats = db.stats()
        disk = sum(f.stat().st_blocks * 512 for f in Path(path).rglob("*") if f.is_file())
        first = median(opened(path, dim)["first"] for _ in range(3))
    memory = sum(value for key, value in stats.items() if key.endswith("_memory") and isinstance(value, int))
    return {
        "n": n,
        "load": loaded,
        "index": indexed,
        "query": median(took),
        "recall": found / (10 * queries),
        "memory": memory,
        "disk": disk,
        "open": first,
    }


def asked_of(db, queries, k=10):
    """The median time of a query at default settings in us, and its recall against exact search."""
    took, answers, found = [], [], 0
    for q in queries:
        start = time.perf_counter()
        answers.append(db.query(q, k))
        took.append(time.perf_counter() - start)
    for q, hits in zip(queries, answers):
        wanted = db.query(q, k, exact=True)[-1]["distance"]
        found += sum(hit["distance"] <= wanted + 1e-6 for hit in hits)
    return median(took) * 1e6, found / (k * len(queries))


def chosen(order, live, base, rng):
    """Half of the rows `live`, to be replaced: any, those on one side of a plane, or the oldest."""
    half = len(live) // 2
    if order == "random":
        return rng.permutation(live)[:half]
    if order == "clustered":
        return live[np.argsort(base[live] @ rng.standard_normal(base.shape[1], dtype=np.float32))[:half]]
    return np.sort(live)[:half]


def churn_in(order, n, dim, rounds):
    from data import clustered

    base, queries = clustered(n + rounds * (n // 2), dim, 500, 16)
    rng, live = np.random.default_rng(7), np.arange(n)
    add = lambda db, ids: [db.add_many(base[part], ids=part.tolist()) for part in np.array_split(ids, len(ids) // 5_000 + 1)]
    with folder() as tmp, NoPokeDB(dim, path=f"{tmp}/db") as db:
        add(db, live)
        db.wait_indexed()
        recalls, begun = [], time.perf_counter()
        for r in range(rounds):
            gone = chosen(order, live, base, rng)
            with db.batch() as batch:
                for i in gone.tolist():
                    batch.delete(i)
            fresh = np.arange(n + r * len(gone), n + (r + 1) * len(gone))
            live = np.concatenate([np.setdiff1d(live, gone, assume_unique=True), fresh])
            add(db, fresh)
            db.wait_indexed()
            recalls.append(asked_of(db, queries[:100])[1])
        seconds = time.perf_counter() - begun
        with folder() as other, NoPokeDB(dim, path=f"{other}/db") as new:
            add(new, live)
            new.wait_indexed()
            time.sleep(1)  # both finish what writes left to do
            pairs = [(asked_of(db, queries), asked_of(new, queries)) for _ in range(5)]
        report = db.check()
    ratios = [old[0] / fresh[0] for old, fresh in pairs]
    return {
        "order": order,
        "n": n,
        "dim": dim,
        "rounds": rounds,
        "seconds": seconds,
        "recall": pairs[0][0][1],
        "lowest": min(recalls),
        "fresh": pairs[0][1][1],
        "us": median(old[0] for old, _ in pairs),
        "time": spread(ratios),
        "problems": report.problems,
    }


def churn(n=60_000, dim=64, rounds=20):
    """Half of the rows replaced, again and again, against a directory that never held anything but what lives at the end."""
    return [churn_in(order, int(n), int(dim), int(rounds)) for order in ["random", "clustered", "sliding"]]


def load(n=1_000_000, dim=128, pauses=4):
    """Queries while rows are loaded as fast as they come and then put into the graph, against the same queries afterwards."""
    from data import clustered

    n = int(n)
    base, queries = clustered(n, dim, 200, 16)
    phase, times, recalls, turn = "load", {"load": [], "index": [], "idle": []}, [], threading.Lock()

    def add(db):
        nonlocal phase
        for start in range(5_000, n, 5_000):
            if start % (n // (pauses + 1)) < 5_000:
                with turn:  # no row comes while the two ways to search are compared
                    recalls.append(asked_of(db, queries[:50])[1])
            part = base[start : start + 5_000]
            db.add_many(part, [{"i": i} for i in range(start, start + len(part))])
        phase = "index"
        db.wait_indexed()
        phase = "idle"

    with folder() as tmp, NoPokeDB(dim, path=f"{tmp}/db") as db:
        db.add_many(base[:5_000], [{"i": i} for i in range(5_000)])
        loader = threading.Thread(target=add, args=(db,))
        begun = time.perf_counter()
        loader.start()
        marks = {}
        asked = 0
        while phase != "idle" or asked % len(queries) or len(times["idle"]) < 10 * len(queries):
            with turn:
                now, start = phase, time.perf_counter()
                db.query(queries[asked % len(queries)], 10)
                times[now].append(time.perf_counter() - start)
            marks[now] = time.perf_counter() - begun
            asked += 1
        loader.join()
    # The first passes after the last row still meet pages for the first time.
    times["idle"] = times["idle"][5 * len(queries) :]
    us = {name: {**percentiles(took), "queries": len(took)} for name, took in times.items()}
    return {"n": n, "dim": dim, "us": us, "recalls": recalls, "seconds": {"load": marks["load"], "index": marks["index"]}}


def anonymous_bytes():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


def steady(queries=1_000_000, n=20_000, dim=128):
    """What a million queries leave in memory."""
    queries = int(queries)
    asked = rows(1_000, dim, seed=2)
    with folder() as tmp, NoPokeDB(dim, path=f"{tmp}/db") as db:
        db.add_many(rows(n, dim), [{"i": i} for i in range(n)])
        seen = []
        for done in range(queries + 1):
            if done % (queries // 10) == 0:
                seen.append(anonymous_bytes())
            db.query(asked[done % len(asked)], 10)
    return {"queries": queries, "bytes": seen}


def growth(*sizes):
    """Each size in a process of its own, so that none inherits the memory of the one before."""
    if len(sizes) == 1:
        return one_size(int(sizes[0]))
    run = lambda n: subprocess.run([sys.executable, __file__, "growth", n], stdout=subprocess.PIPE, check=True, text=True)
    return [json.loads(run(n).stdout) for n in sizes]


if __name__ == "__main__":
    jobs = {"add": add, "threads": threads, "add_many": add_many, "open": open_times, "load": load, "steady": steady}
    jobs |= {"churn": churn, "growth": growth}
    print(json.dumps(jobs[sys.argv[1]](*sys.argv[2:])))
