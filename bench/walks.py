"""The index alone, in Rust: recall and microseconds of walks and scans at each `ef`, and rows absorbed a second, on rows of many kinds.

python bench/walks.py [--sets a,b,..] [--efs 10,16,32,50,100] [--rounds 3] [--against <commit>] [--large]

With `--against` the same of that commit, built beside this tree under out/, turn by turn; what is printed then are both, and this
tree's over that one's. It is how a change to the index is judged. The sets marked "held out" were not looked at while the
index was tuned: a gain that only the others show is none.
"""

import argparse
import os
import re
import statistics
import subprocess
from pathlib import Path

import numpy as np

import data
from peers import K

HERE = Path(__file__).resolve().parent
OUT = HERE / "out/walks"


def families(dim, rng):
    """Rows that follow no cluster: functions of how many there are to be."""
    mix = rng.standard_normal((32, dim), dtype=np.float32)
    scale = 1 / np.arange(1, dim + 1, dtype=np.float32)
    normal = lambda n: rng.standard_normal((n, dim), dtype=np.float32)
    return {
        "tails": lambda n: rng.standard_t(3, (n, 32)).astype(np.float32) @ mix + 0.1 * normal(n),
        "spectrum": lambda n: normal(n) * scale,
        "lognormal": lambda n: np.exp(normal(n)),
        "lengths": lambda n: normal(n) * rng.uniform(1, 100, (n, 1)).astype(np.float32),
    }


def family(kind, n, dim, queries, seed):
    draw = families(dim, np.random.default_rng(seed))[kind]
    return draw(n), draw(queries)


def elsewhere(n, dim, queries):
    """Queries from other clusters than the rows'."""
    return data.clustered(n, dim, 10, 24, 64, seed=5)[0], data.clustered(10, dim, queries, 24, 64, seed=6)[1]


# Name: metric, how rows and queries are made, what they are.
SETS = {
    "text": ("cosine", lambda: data.text(50_000, 1_000), "50,000 x 384, embeddings of text where they are there"),
    "clusters": ("cosine", lambda: data.clustered(100_000, 128, 500, 16), "100,000 x 128, 256 clusters"),
    "wide": ("cosine", lambda: data.clustered(50_000, 768, 500, 64, 32), "50,000 x 768, 32 clusters"),
    "gaussian": ("cosine", lambda: data.gaussian(60_000, 64, 500), "60,000 x 64, Gaussian"),
    "elsewhere": ("cosine", lambda: elsewhere(60_000, 256, 500), "60,000 x 256, queries from other clusters"),
    "tails": ("cosine", lambda: family("tails", 60_000, 96, 500, 3), "60,000 x 96, heavy tails in 32 dimensions"),
    "spectrum": ("cosine", lambda: family("spectrum", 60_000, 160, 500, 71), "60,000 x 160, spectrum 1/i; held out"),
    "lognormal": ("l2", lambda: family("lognormal", 60_000, 48, 500, 72), "60,000 x 48, lognormal, l2; held out"),
    "lengths": ("ip", lambda: family("lengths", 60_000, 100, 500, 73), "60,000 x 100, lengths from 1 to 100, ip; held out"),
    "clusters-l2": ("l2", lambda: data.clustered(80_000, 200, 500, 20, 100, seed=74), "80,000 x 200, 100 clusters, l2; held out"),
    "clusters-1m": ("cosine", lambda: data.clustered(1_000_000, 128, 500, 16), "1,000,000 x 128, 256 clusters"),
}
LARGE = ["clusters-1m"]


def nearest(base, queries, metric):
    """Ids of the K nearest rows of each query."""
    best, ids = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    for start in range(0, len(base), 100_000):
        rows = base[start : start + 100_000]
        near = queries @ rows.T
        if metric == "l2":
            near = 2 * near - (rows * rows).sum(1)
        top = np.argpartition(-near, K, axis=1)[:, :K]
        best, ids = np.hstack([best, np.take_along_axis(near, top, 1)]), np.hstack([ids, top + start])
    return np.take_along_axis(ids, np.argsort(-best, axis=1, kind="stable")[:, :K], 1)


def prepare(name):
    """The files of a set, in the form the example reads: made if they are not there."""
    path = OUT / name
    if not path.with_suffix(".gt").exists():
        OUT.mkdir(parents=True, exist_ok=True)
        metric, make, _ = SETS[name]
        base, queries = map(data.unit, make()) if metric == "cosine" else make()
        base.astype("<f4").tofile(path.with_suffix(".base"))
        queries.astype("<f4").tofile(path.with_suffix(".queries"))
        nearest(base, queries, metric).astype("<u4").tofile(path.with_suffix(".gt"))
        path.with_suffix(".dim").write_text(str(base.shape[1]))
    return path, path.with_suffix(".dim").read_text()


def build(tree):
    """The example of a tree; each has its own target directory."""
    command = ["cargo", "build", "--release", "--locked", "-q", "-p", "nopokedb", "--features", "testing", "--example", "index_bench"]
    subprocess.run(command, cwd=tree, check=True, env={**os.environ, "CARGO_TARGET_DIR": str(Path(tree) / "target/walks")})
    return Path(tree) / "target/walks/release/examples/index_bench"


def other_tree(commit):
    """A checkout of another commit."""
    tree = OUT / "against"
    if not tree.exists():
        subprocess.run(["git", "worktree", "add", "--detach", "-f", str(tree), commit], cwd=HERE, check=True)
    subprocess.run(["git", "checkout", "-q", "--detach", commit], cwd=tree, check=True)
    return tree


def measure(example, name, efs):
    """What one run says: figure by what it is of, and the recalls."""
    path, dim = prepare(name)
    said = subprocess.run([example, path, SETS[name][0], dim, efs], capture_output=True, text=True, check=True).stdout
    figures = {"us a row built": 1e6 / float(re.search(r"(\d+) rows/s absorbed", said)[1])}
    recalls = {}
    for how, recall, us in re.findall(r"(scan|ef +\d+) +recall ([\d.]+) +([\d.]+) us", said):
        figures[" ".join(how.split())], recalls[" ".join(how.split())] = float(us), recall
    return figures, recalls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", help=", ".join(SETS))
    parser.add_argument("--efs", default="10,16,32,50,100")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", help="a commit to compare with")
    parser.add_argument("--large", action="store_true", help="1,000,000 rows as well")
    args = parser.parse_args()
    names = args.sets.split(",") if args.sets else [n for n in SETS if args.large or n not in LARGE]
    trees = {"this": HERE.parent} | ({args.against: other_tree(args.against)} if args.against else {})
    examples = {who: build(tree) for who, tree in trees.items()}
    for name in names:
        print(f"\n{name}: {SETS[name][2]}")
        took, recalls = {who: {} for who in examples}, {}
        for round in range(args.rounds):
            for who in list(examples) if round % 2 == 0 else list(examples)[::-1]:
                figures, recalls[who] = measure(examples[who], name, args.efs)
                for what, figure in figures.items():
                    took[who].setdefault(what, []).append(figure)
        for what in took["this"]:
            cells = [f"{who}: {min(t[what]):7.1f} us {recalls[who].get(what, ''):6}" for who, t in took.items()]
            if args.against:
                ratios = [a / b for a, b in zip(took["this"][what], took[args.against][what])]
                cells.append(f"{statistics.median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})")
            print(f"  {what:15}", "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
