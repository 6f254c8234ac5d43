"""Many small collections in one directory: how long it takes to make and to open them, and the memory they take.

    python bench/many_collections.py --collections 10000 --rows 10
    python bench/many_collections.py --at-once      all of them made by one call
"""

import argparse
import subprocess
import sys
import tempfile
import time

DIM = 64
OPEN = """
import sys, time
import numpy, nopokedb


def resident_mb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1024


before, start = resident_mb(), time.perf_counter()
db = nopokedb.NoPokeDB(int(sys.argv[2]), path=sys.argv[1])
opened = time.perf_counter() - start
names = db.collections()
last = db.collection(names[-2])
hits = last.query([1.0] * int(sys.argv[2]), k=3)
answered = time.perf_counter() - start
print(f"open {opened:.2f} s, first query of one of {len(names)} after {answered:.2f} s, "
      f"resident {resident_mb():.0f} MB, {resident_mb() - before:.0f} MB of it since the imports")
start = time.perf_counter()
for name in names:
    db.collection(name)
print(f"a handle to each by its name {time.perf_counter() - start:.2f} s")
start = time.perf_counter()
db.close()
print(f"close {time.perf_counter() - start:.2f} s")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=10)
    parser.add_argument("--at-once", action="store_true")
    parser.add_argument("--dir", help="where; a temporary directory by default")
    arguments = parser.parse_args()
    import numpy as np

    from nopokedb import NoPokeDB

    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(dir=arguments.dir) as path:
        start = time.perf_counter()
        with NoPokeDB(DIM, path=path) as db:
            if arguments.at_once:
                db.create_collections((f"collection {i:06}" for i in range(arguments.collections)), dim=DIM)
                print(f"made at once in {time.perf_counter() - start:.2f} s", flush=True)
            for i in range(arguments.collections):
                made = db.collection(f"collection {i:06}", dim=DIM)
                made.add_many(rng.normal(size=(arguments.rows, DIM)).astype(np.float32))
                if (i + 1) % 1_000 == 0:
                    print(f"{i + 1} made in {time.perf_counter() - start:.1f} s", flush=True)
        print(f"made and closed in {time.perf_counter() - start:.1f} s", flush=True)
        for _ in range(3):
            subprocess.run([sys.executable, "-c", OPEN, path, str(DIM)], check=True)


if __name__ == "__main__":
    main()
