"""Filtered queries against unfiltered ones, turn by turn in one run, through the Python API.

    filters.py                  the text set of `data.py`: 60,000 x 384 synthetic, or what NOPOKEDB_BENCH_DATA names
    filters.py --large          1,000,000 x 128, clustered: minutes to load
    filters.py --rows 200000 --dim 128
    filters.py --large --path DIR   keeps the database in DIR, and measures the one that is there the next time

Prints a table: the median time of a query without a filter and with filters that pass 50 %, 10 %, 1 %, 0.1 % and 0.01 % of the
rows at random, and 10 % by place (near the query, and far from it); their ratio; recall@10 against exact search. Then what a
field costs when it is first asked about, and a value that is new.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np

import data
from nopokedb import NoPokeDB

SCRATCH = Path(__file__).resolve().parent / "out/scratch"
K = 10
PARTS = 1_000_000


def load(args):
    if args.large:
        return data.clustered(1_000_000, 128, args.queries, latent=16)
    if args.rows:
        return data.clustered(args.rows, args.dim, args.queries, latent=16)
    return data.text(60_000, args.queries)


def metadata(base, seed=5):
    """`r` goes with nothing, `place` with where the vector lies: the share of rows further along the first axis than it is."""
    r = np.random.default_rng(seed).integers(0, PARTS, len(base))
    place = np.argsort(np.argsort(-(base[:, 0] / np.linalg.norm(base, axis=1))))
    place = place * (PARTS / len(base))
    user = np.random.default_rng(seed + 1).integers(0, 1000, len(base))
    return [{"r": int(a), "place": int(p), "user": f"user {u}"} for a, p, u in zip(r, place, user)]


def clock(call):
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def recall(found, exact):
    """The share of hits as near as the farthest of the exact ones."""
    good = sum(sum(hit["distance"] <= best[-1]["distance"] for hit in hits) for hits, best in zip(found, exact) if best)
    return good / max(1, sum(map(len, exact)))


def plan(db, queries, where):
    """Which ways the queries are answered."""
    ways = Counter(db.query(query, K, where=where, explain=True).explanation["plan"] for query in queries)
    return ", ".join(f"{way} {count / len(queries):.0%}" for way, count in ways.most_common())


def filters():
    yield "no filter", None
    for share in (0.5, 0.1, 0.01, 0.001, 0.0001):
        yield f"{share:.2%} at random", {"r": {"$lt": int(PARTS * share)}}
    yield "10 % to one side", {"place": {"$lt": PARTS // 10}}
    yield "50 % to one side", {"place": {"$gte": PARTS // 2}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--path", help="where to keep the database")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sure", type=int, default=200, help="queries whose recall is measured")
    args = parser.parse_args()
    base, queries = load(args)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as tmp, NoPokeDB(base.shape[1], path=args.path or f"{tmp}/db") as db:
        rows = metadata(base) if len(db) < len(base) else []
        for i in range(len(db), len(rows), 5_000):
            db.add_many(base[i : i + 5_000], rows[i : i + 5_000])
        db.wait_indexed()
        print(f"{len(base):,} x {base.shape[1]}, k={K}, {len(queries)} queries, {args.rounds} rounds")
        first, _ = clock(lambda: db.count({"user": "user 7"}))
        known = [clock(lambda u=u: db.count({"user": f"user {u}"}))[0] for u in range(100, 200)]
        together, _ = clock(lambda: db.count({"r": 1, "place": 2}))
        both = [clock(lambda u=u: db.count({"user": f"user {u}", "r": {"$lt": u * 1000}}))[0] for u in range(200, 300)]
        cases = dict(filters())
        times, answers = {name: [] for name in cases}, {}
        for where in cases.values():
            db.query(queries[0], K, where=where)
        for _ in range(args.rounds):
            for name in cases:
                answers[name] = []
            for i, query in enumerate(queries):
                # Another is first each time: the first one finds the rows around the query in no cache.
                turn = i % len(cases)
                for name, where in list(cases.items())[turn:] + list(cases.items())[:turn]:
                    seconds, hits = clock(lambda q=query, w=where: db.query(q, K, where=w))
                    times[name].append(seconds)
                    answers[name].append(hits)
        usual = median(times["no filter"])
        plans = {name: plan(db, queries[: args.sure], where) for name, where in cases.items()}
        print(f"{'':22}{'p50 us':>9}{'p95 us':>9}{'ratio':>7}{'recall':>8}{'rows':>11}  how")
        for name, where in cases.items():
            exact = [db.query(query, K, where=where, exact=True) for query in queries[: args.sure]]
            p50, p95 = median(times[name]) * 1e6, np.percentile(times[name], 95) * 1e6
            found = recall(answers[name][: args.sure], exact)
            assert all(len(a) == len(b) for a, b in zip(answers[name], exact)), "never short"
            print(f"{name:22}{p50:9.1f}{p95:9.1f}{p50 / usual / 1e6:7.2f}{found:8.4f}{db.count(where):11,}  {plans[name]}")
        stats = db.stats()
    print(f"a field first asked about: {first * 1e3:.1f} ms, two more at once: {together * 1e3:.1f} ms")
    print(f"a new value: {median(known) * 1e6:.0f} us; with a new range of another field: {median(both) * 1e6:.0f} us")
    print(f"columns: {stats['columns_memory'] / len(base):.1f} bytes a row; filters: {stats['filters_memory']:,} bytes")


if __name__ == "__main__":
    main()
