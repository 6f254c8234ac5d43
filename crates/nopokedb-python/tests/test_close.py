"""`close()` gives everything back: memory, threads, open files; the directory can be deleted and made again."""

import json
import os

import pytest

LIVES = """
import json, os, shutil, sys
import numpy as np
from nopokedb import NoPokeDB

path, rows, lives = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
vectors = np.random.default_rng(1).normal(size=(rows, 64)).astype(np.float32)
metadatas = [{"i": i, "name": f"row {i}"} for i in range(rows)]

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024

def handles():
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))

def live(n):
    db = NoPokeDB(64, path=path)
    db.add_many(vectors[:n], metadatas[:n])
    db.wait_indexed(timeout=300)
    db.query_many(vectors[:50], k=10, where={"i": {"$lt": n // 2}})
    stats, open_ = db.stats(), resident()
    db.close()
    shutil.rmtree(path)
    memory = sum(v for k, v in stats.items() if k.endswith("_memory"))
    return memory, memory + stats["log_bytes"], open_

live(500)
start, before = handles(), resident()
seen = []
for _ in range(lives):
    memory, named, open_ = live(rows)
    seen.append({"memory": memory, "named": named, "open": open_ - before, "closed": resident() - before, "handles": handles() == start})
print(json.dumps(seen))
"""


@pytest.fixture
def lives(python, path):
    # AddressSanitizer keeps what was freed, to notice its use; here it is to give it back. Others do not know the variable.
    asan = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1:thread_local_quarantine_size_kb=64"
    child = python(LIVES, path, 20_000, 10, env={**os.environ, "ASAN_OPTIONS": asan})
    out, err = child.communicate(timeout=300)
    assert child.returncode == 0, err
    return json.loads(out)


def test_close_returns_memory_threads_and_files(lives):
    mib = 1 << 20
    assert all(life["handles"] for life in lives), lives
    # The formula of docs/guide/operations.md: what stats() names, and 64 MiB.
    assert all(life["open"] <= life["named"] * 1.25 + 64 * mib for life in lives), lives
    # What the allocator keeps for later does not grow.
    assert all(life["closed"] <= 0.5 * life["open"] + 32 * mib for life in lives), lives
    assert lives[-1]["closed"] - lives[1]["closed"] <= 0.4 * sum(life["memory"] for life in lives[2:]), lives
