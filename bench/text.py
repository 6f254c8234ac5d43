"""Text and hybrid queries on synthetic documents (Zipf's law), through the package; or, with --sqlite, FTS5 alone.

The vectors lie in 256 clusters (`data.clustered`), as those of texts do, and have nothing to do with the words. Each question of a
hybrid query has a vector of its own. Beside them are timed the two parts of such a query: the words alone and the vector alone, each as
deep as a hybrid query looks.

    python bench/text.py --rows 100000
    python bench/text.py --rows 1000000 --sqlite
"""

import argparse
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import data

VOCABULARY = 200_000
BATCH = 20_000
DIM = 64
LATENT = 16
# How many rows of each side a hybrid query looks at.
DEPTH = 256


def batches(rows: int) -> Iterator[list[str]]:
    """Documents of 20 to 99 words; the word w<r> has rank r + 1."""
    rng = np.random.default_rng(1)
    share = np.cumsum(1 / np.arange(1, VOCABULARY + 1))
    share /= share[-1]
    for first in range(0, rows, BATCH):
        lengths = rng.integers(20, 100, min(BATCH, rows - first))
        words = [f"w{rank}" for rank in np.searchsorted(share, rng.random(lengths.sum()))]
        ends = np.cumsum(lengths)
        yield [" ".join(words[end - length : end]) for length, end in zip(lengths, ends)]


def queries(low: int, high: int, number: int) -> list[str]:
    """Three words each, of ranks between low and high."""
    rng = np.random.default_rng(2)
    return [" ".join(f"w{rank}" for rank in rng.integers(low, high, 3)) for _ in range(number)]


def report(name: str, seconds: list[float]) -> None:
    p50, p95 = np.percentile(np.array(seconds) * 1e3, [50, 95])
    print(f"{name:60} p50 {p50:9.2f} ms   p95 {p95:9.2f} ms   first {seconds[0] * 1e3:9.2f} ms", flush=True)


def timed(ask, questions) -> list[float]:
    seconds = []
    for question in questions:
        start = time.perf_counter()
        ask(question)
        seconds.append(time.perf_counter() - start)
    return seconds


def through_the_package(rows: int, path: Path) -> None:
    from nopokedb import NoPokeDB

    base, asked_vectors = data.clustered(rows, DIM, 100, latent=LATENT)
    with NoPokeDB(dim=DIM, path=path) as db:
        start = time.perf_counter()
        for i, documents in enumerate(batches(rows) if len(db) < rows else ()):
            first = i * BATCH
            db.add_many(base[first : first + len(documents)], documents=documents)
        print(f"{rows} rows added in {time.perf_counter() - start:.1f} s", flush=True)
        start = time.perf_counter()
        db.query(text="w0")
        print(f"and taken in after {time.perf_counter() - start:.1f} s more", flush=True)
        db.wait_indexed()
        print(f"indexed after {time.perf_counter() - start:.1f} s", flush=True)
        report(f"vector alone, k={DEPTH}", timed(lambda vector: db.query(vector, k=DEPTH), asked_vectors))
        for name, low, high in [("common words (rank 1 to 50)", 0, 50), ("rank 50 to 1,000", 50, 1_000), ("rare words", 1_000, VOCABULARY)]:
            asked = queries(low, high, 100)
            for again in ("new", "asked before"):
                report(f"text, {name}, {again}", timed(lambda text: db.query(text=text, k=10), asked))
            report(f"text, {name}, k={DEPTH}", timed(lambda text: db.query(text=text, k=DEPTH), asked))
            both = list(zip(asked_vectors, asked))
            report(f"hybrid, {name}, asked before", timed(lambda ask: db.query(ask[0], text=ask[1], k=10), both))


def through_sqlite(rows: int, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path / "fts5.sqlite")
    db.executescript(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF;"
        "CREATE TABLE records(lsn INTEGER PRIMARY KEY, document TEXT);"
        "CREATE VIRTUAL TABLE t USING fts5(document, content='records', content_rowid='lsn', tokenize='unicode61 remove_diacritics 2');"
        "CREATE VIRTUAL TABLE words USING fts5vocab(t, instance);"
    )
    start, first = time.perf_counter(), 1
    for documents in batches(rows):
        numbered = list(enumerate(documents, first))
        db.executemany("INSERT INTO records VALUES (?, ?)", numbered)
        db.executemany("INSERT INTO t(rowid, document) VALUES (?, ?)", numbered)
        db.commit()
        first += len(documents)
    print(f"{rows} documents taken in by FTS5 {sqlite3.sqlite_version} in {time.perf_counter() - start:.1f} s", flush=True)
    ranked = "SELECT rowid, rank FROM t WHERE t MATCH ? ORDER BY rank LIMIT 10"
    for name, text in [("w10 OR w30 OR w50", "w10 OR w30 OR w50"), ("w100", "w100"), ("w1000", "w1000")]:
        report(f"FTS5's bm25, {name}", timed(lambda text: db.execute(ranked, [text]).fetchall(), [text] * 3))
    for word in ("w0", "w10", "w100", "w1000"):
        read = "SELECT count(*), sum(doc) FROM words WHERE term = ?"
        report(f"reading where {word} occurs", timed(lambda word: db.execute(read, [word]).fetchone(), [word] * 3))
    lengths = "SELECT count(*), sum(length(sz)) FROM t_docsize"
    report("reading all lengths", timed(lambda _: db.execute(lengths).fetchone(), [None] * 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--sqlite", action="store_true", help="FTS5 alone, without the package")
    parser.add_argument("--path", type=Path, help="a directory to keep; a temporary one otherwise")
    given = parser.parse_args()
    run = through_sqlite if given.sqlite else through_the_package
    if given.path:
        run(given.rows, given.path)
        return
    with tempfile.TemporaryDirectory() as path:
        run(given.rows, Path(path) / "text")


if __name__ == "__main__":
    main()
