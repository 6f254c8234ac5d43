"""What a second plane of code bits would save: how far down the order that 4-bit and 8-bit codes give the ten nearest rows lie.

python bench/planes.py [<rows> [<dim>]]

Every row whose estimate is among the first so many is read as f32, so the depth is what re-ranking costs. A comparison with 8-bit codes
reads twice the bytes of one with 4-bit codes. The codes are those of crates/nopokedb/src/vectors/codes.rs, in NumPy: centred,
rotated, cells of 0.35 (or 0.35 / 16) of a coordinate's deviation, the product with the row itself made exact by a factor.
"""

import sys

import numpy as np

K, QUERIES, CELL = 10, 200, 0.35


def families(n, dim, rng):
    normal = lambda: rng.standard_normal((n, dim), dtype=np.float32)
    centres = rng.standard_normal((256, dim), dtype=np.float32)
    spikes = normal()
    spikes[:, :2] *= 50
    sparse = normal()
    sparse[rng.random((n, dim)) > 0.05] = 0
    latent = rng.standard_normal((n, 16), dtype=np.float32) @ rng.standard_normal((16, dim), dtype=np.float32)
    return {
        "Gaussian": normal(),
        "clustered": centres[rng.integers(0, 256, n)] + 0.2 * normal(),
        "16 latent dimensions": latent + 0.05 * normal(),
        "spectrum 1/i": normal() / np.arange(1, dim + 1, dtype=np.float32),
        "heavy tails (t, 2 degrees)": rng.standard_t(2, (n, dim)).astype(np.float32),
        "lognormal": np.exp(normal()),
        "spikes in two dimensions": spikes,
        "sparse, 5 %": sparse,
        "lengths from 1 to 100": normal() * np.exp(rng.random((n, 1), dtype=np.float32) * np.log(100)),
    }


def codes(rows, cells):
    """The middles of the cells of rows of variance 1, times what makes each one's product with its row exact."""
    width = CELL * 16 / cells
    q = (np.clip(np.floor(rows / width), -cells // 2, cells // 2 - 1) + 0.5) * width
    return q * (np.einsum("ij,ij->i", rows, rows) / np.einsum("ij,ij->i", q, rows))[:, None]


def depth(estimates, exact):
    """At which place of the order by estimate the last of the K nearest comes."""
    nearest = np.argpartition(exact, K)[:K]
    return int((estimates <= estimates[nearest].max()).sum())


def measure(rows, metric, rng):
    n, dim = rows.shape
    if metric == "cosine":
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows, asked = rows[QUERIES:], rows[:QUERIES]
    centre = rows.mean(0)
    turn = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    turned = (rows - centre) @ turn
    norms = np.linalg.norm(turned, axis=1, keepdims=True)
    unit = turned / norms * np.sqrt(dim)
    queries = (asked - centre) @ turn
    found = []
    for cells in (16, 256):
        at = codes(unit, cells) * (norms / np.sqrt(dim))
        products = queries @ at.T
        depths = []
        for q, raw, product in zip(queries, asked, products):
            if metric == "ip":
                estimates, exact = -product - rows @ centre, -(rows @ raw)
            else:
                estimates, exact = norms[:, 0] ** 2 - 2 * product, ((rows - raw) ** 2).sum(1)
            depths.append(depth(estimates, exact))
        found.append((np.median(depths), np.quantile(depths, 0.99)))
    return found


def main(n=20_000, dim=128):
    rng = np.random.default_rng(1)
    print(f"{n:,} x {dim}, {QUERIES} queries, k={K}: rows to compare exactly until the {K} nearest are among them\n")
    print("| rows | metric | 4 bits: median | 99 % | 8 bits: median | 99 % |\n|---|---|---|---|---|---|")
    for name, rows in families(n + QUERIES, dim, rng).items():
        for metric in ("cosine", "ip") if "lengths" in name else ("cosine",):
            (four, four_most), (eight, eight_most) = measure(rows, metric, rng)
            print(f"| {name} | {metric} | {four:.0f} | {four_most:.0f} | {eight:.0f} | {eight_most:.0f} |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
