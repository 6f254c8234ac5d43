"""The data sets: made from seeds or read, normalised to float32, with exact neighbours, once, under out/data/."""

import os
from pathlib import Path

import numpy as np

from peers import K, unit

HERE = Path(__file__).resolve().parent
# Embeddings of real text, if they are there: `base` and `queries`, 384 dimensions.
REAL = [os.environ.get("NOPOKEDB_BENCH_DATA", ""), HERE / "../../shared/data/docs384.npz"]


def gaussian(rows, dim, queries, seed=20):
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.standard_normal((n, dim), dtype=np.float32)
    return draw(rows), draw(queries)


def clustered(rows, dim, queries, latent, clusters=256, seed=16):
    """Points around cluster centres in a space of `latent` dimensions, turned into `dim`, with a little noise."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, latent), dtype=np.float32) * 2
    turn = rng.standard_normal((latent, dim), dtype=np.float32) / np.sqrt(latent)

    def draw(n):
        out = np.empty((n, dim), dtype=np.float32)
        for start in range(0, n, 100_000):
            m = min(100_000, n - start)
            points = centres[rng.integers(0, clusters, m)] + rng.standard_normal((m, latent), dtype=np.float32)
            out[start : start + m] = points @ turn + 0.05 * rng.standard_normal((m, dim), dtype=np.float32)
        return out

    return draw(rows), draw(queries)


def real_path():
    return next((Path(p) for p in REAL if p and Path(p).is_file()), None)


def text(rows=50_000, queries=500):
    path = real_path()
    if path is None:
        return clustered(rows, 384, queries, latent=48, clusters=32)
    with np.load(path) as stored:
        return stored["base"][:rows].astype(np.float32), stored["queries"][:queries].astype(np.float32)


SETS = {
    "gaussian-20k": (lambda: gaussian(20_000, 128, 200), "20,000 x 128 Gaussian (the founding benchmark)"),
    "text-50k": (text, "50,000 x 384, embeddings of docstrings (MiniLM)"),
    "clustered-100k": (lambda: clustered(100_000, 128, 500, 16), "100,000 x 128, 256 clusters in 16 latent dimensions"),
    "clustered-1m": (lambda: clustered(1_000_000, 128, 500, 16), "1,000,000 x 128, 256 clusters in 16 latent dimensions"),
    "clustered-768": (lambda: clustered(50_000, 768, 500, 64, 32), "50,000 x 768, 32 clusters in 64 latent dimensions"),
}
QUICK = ["gaussian-20k", "text-50k"]


def describe(name):
    if name == "text-50k" and real_path() is None:
        return "50,000 x 384, synthetic: 32 clusters in 48 latent dimensions (no NOPOKEDB_BENCH_DATA was given)"
    return SETS[name][1]


def exact_neighbours(base, queries):
    """Ids and cosines of the K nearest rows of each query."""
    queries = unit(queries)
    best = np.full((len(queries), 0), 0.0, dtype=np.float32)
    ids = np.zeros((len(queries), 0), dtype=np.int64)
    for start in range(0, len(base), 100_000):
        cosines = queries @ unit(base[start : start + 100_000]).T
        top = np.argpartition(-cosines, K, axis=1)[:, :K]
        best = np.hstack([best, np.take_along_axis(cosines, top, 1)])
        ids = np.hstack([ids, top + start])
    order = np.argsort(-best, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(ids, order, 1), np.take_along_axis(best, order, 1)


def prepare(name):
    """The folder of a set, made if it is not there."""
    folder = HERE / "out/data" / (name if name != "text-50k" or real_path() else "text-50k-synthetic")
    if not (folder / "cosines.npy").exists():
        folder.mkdir(parents=True, exist_ok=True)
        base, queries = SETS[name][0]()
        ids, cosines = exact_neighbours(base, queries)
        for part, array in [("base", base), ("queries", queries), ("truth", ids), ("cosines", cosines)]:
            np.save(folder / f"{part}.npy", array)
    return folder


def recall(folder, answers):
    """Share of the K nearest that were found. A row as near as the K-th counts, whichever of equals was returned."""
    base = np.load(folder / "base.npy", mmap_mode="r")
    queries = unit(np.load(folder / "queries.npy"))
    cosines = np.load(folder / "cosines.npy")
    asked = [i for i, ids in enumerate(answers) if ids[0] >= 0]
    found = 0
    for i in asked:
        ids = np.unique(answers[i][answers[i] >= 0])
        near = unit(np.asarray(base[ids])) @ queries[i]
        found += min(K, int(np.sum(near >= cosines[i][-1] - 1e-6)))
    return found / (len(asked) * K)
