"""The main job on real input: search 1,797 handwritten digits, then survive kill -9.

    python demo/digits.py            everything, a few seconds
    python demo/digits.py --quick    the same with one kill instead of four

The digits come with scikit-learn (8 x 8 pixels each); nothing is downloaded. Results go to demo_out/.
"""

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from nopokedb import NoPokeDB, __version__

QUERIES = 300
NEIGHBOURS = 5
WANTED_ACCURACY = 0.97
SHADES = " .:-=+*#%@"
COLOUR = sys.stdout.isatty() and "NO_COLOR" not in os.environ


def paint(code, text):
    return f"\033[{code}m{text}\033[0m" if COLOUR else text


def heading(number, text):
    print(f"\n{paint('1;36', f'[{number}/4]')} {paint('1', text)}", flush=True)


def load():
    """The digits, shuffled once: vectors to index with their labels, and queries with theirs."""
    digits = load_digits()
    order = np.random.default_rng(2026).permutation(len(digits.target))
    vectors = digits.data.astype(np.float32)[order]
    labels = digits.target[order].tolist()
    return (vectors[QUERIES:], labels[QUERIES:]), (vectors[:QUERIES], labels[:QUERIES])


def index(directory, vectors, labels):
    db = NoPokeDB(dim=64, path=directory, space="l2")
    metadatas = [
        {"label": label, "image": i, "ink": round(float(vector.mean()) / 16, 3)}
        for i, (vector, label) in enumerate(zip(vectors, labels))
    ]
    begun = time.perf_counter()
    db.add_many(vectors, metadatas)
    took = time.perf_counter() - begun
    print(f"      {len(db):,} digits of 8 x 8 pixels with metadata, on the disk and searchable after {took * 1e3:.0f} ms")
    print(f"      {db!r}")
    return db


def search(db, queries, truths):
    """The hits of each query, and what the majority of its nearest neighbours says it is."""
    took, all_hits, guesses = [], [], []
    for query in queries:
        begun = time.perf_counter()
        hits = db.query(query, k=NEIGHBOURS)
        took.append(time.perf_counter() - begun)
        votes = Counter(hit["metadata"]["label"] for hit in hits)
        all_hits.append(hits)
        guesses.append(max(votes, key=lambda label: (votes[label], -[h["metadata"]["label"] for h in hits].index(label))))
    print(f"      {len(queries)} digits that were held out, one at a time: median {statistics.median(took) * 1e6:.0f} us each\n")
    for i in range(6):
        neighbours = "  ".join(f"{hit['metadata']['label']} ({hit['distance']:.0f})" for hit in all_hits[i])
        mark = paint("32", "right") if guesses[i] == truths[i] else paint("31", "wrong")
        print(f"      a {truths[i]}: nearest are  {neighbours}   -> {guesses[i]}  {mark}")
    return all_hits, guesses


def drawn(vector):
    """A digit as eight lines of text."""
    return ["".join(SHADES[min(int(v * len(SHADES) / 17), len(SHADES) - 1)] * 2 for v in row) for row in vector.reshape(8, 8)]


def show_one(query, hits, vectors):
    """A query beside its three nearest, drawn with characters."""
    pictures = [drawn(query)] + [drawn(vectors[hit["metadata"]["image"]]) for hit in hits[:3]]
    titles = ["query"] + [f"distance {hit['distance']:.0f}" for hit in hits[:3]]
    print("\n      " + "    ".join(f"{title:<16}" for title in titles))
    for lines in zip(*pictures):
        print("      " + paint("33", lines[0]) + "    " + "    ".join(lines[1:]))


def contact_sheet(file, queries, truths, all_hits, guesses, vectors):
    """Thirty queries beside their neighbours; those whose vote is wrong come first."""
    cell, gap, columns, rows = 56, 6, 3, 10
    chosen = sorted(range(len(queries)), key=lambda i: (guesses[i] == truths[i], i))[: columns * rows]
    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    ink, paper, faint = (38, 40, 46), (250, 249, 246), (140, 142, 150)
    query_edge, right, wrong = (52, 101, 184), (61, 153, 92), (205, 62, 58)

    block = (cell + gap) * (NEIGHBOURS + 1) + 24
    width, top, line = block * columns + 36, 84, cell + 24
    sheet = Image.new("RGB", (width, top + line * rows + 16), paper)
    draw = ImageDraw.Draw(sheet)
    accuracy = sum(g == t for g, t in zip(guesses, truths)) / len(truths)
    draw.text((24, 16), "NoPokeDB: handwritten digits and their nearest neighbours", ink, ImageFont.load_default(22))
    legend = f"{len(queries)} queries, {accuracy:.1%} right by the vote of {NEIGHBOURS}; the wrong ones come first."
    draw.text((24, 50), f"{legend}  Blue: query. Green: same label. Red: another. Below: label and squared distance.", faint, font)

    def picture(x, y, vector, edge, caption):
        pixels = (255 - vector.reshape(8, 8) * (255 / 16)).astype(np.uint8)
        sheet.paste(Image.fromarray(pixels).resize((cell - 6, cell - 6), Image.Resampling.BICUBIC), (x + 3, y + 3))
        draw.rectangle((x, y, x + cell - 1, y + cell - 1), outline=edge, width=3)
        draw.text((x + cell / 2, y + cell + 8), caption, ink, small, anchor="mm")

    for place, i in enumerate(chosen):
        x, y = 24 + (place // rows) * block, top + (place % rows) * line
        picture(x, y, queries[i], query_edge, f"{truths[i]}?")
        for n, hit in enumerate(all_hits[i]):
            label = hit["metadata"]["label"]
            edge = right if label == truths[i] else wrong
            caption = f"{label} · {hit['distance']:.0f}"
            picture(x + (n + 1) * (cell + gap) + 8, y, vectors[hit["metadata"]["image"]], edge, caption)
    sheet.save(file)


CHILD = """
import sys
from sklearn.datasets import load_digits
from nopokedb import NoPokeDB
digits = load_digits()
db = NoPokeDB(dim=64, path=sys.argv[1], space="l2")
for row in range(int(sys.argv[2]), 10**9):
    which = row % len(digits.target)
    db.add(digits.data[which], {"row": row, "label": int(digits.target[which])}, id=row)
    print(row, flush=True)   # acknowledged: from here on it must never be lost
"""


def kill_while_ingesting(directory, first, rows_before_the_kill):
    """Starts a process that adds digits one by one, kills it with SIGKILL, and returns the rows it had acknowledged."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(directory), str(first)], stdout=subprocess.PIPE, text=True)
    acknowledged = []
    for line in child.stdout:
        acknowledged.append(int(line))
        if len(acknowledged) == rows_before_the_kill:
            child.send_signal(signal.SIGKILL)
            break
    # What it had printed by the time the signal arrived was acknowledged too; a half line was not.
    acknowledged += [int(line) for line in child.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    if child.wait() != -signal.SIGKILL:
        raise SystemExit("the writing process ended before it was killed")
    return acknowledged


def check(directory, count):
    """Every row below `count` must be there, whole, and be found. Returns how many are, in all."""
    digits = load_digits()
    with NoPokeDB(dim=64, path=directory, space="l2") as db:
        for row in range(count):
            which = row % len(digits.target)
            if db.get(row) != {"row": row, "label": int(digits.target[which])}:
                raise SystemExit(f"row {row} was acknowledged and is lost")
        sample = range(0, count, max(1, count // 200))
        for row, hits in zip(sample, db.query_many(digits.data[[row % len(digits.target) for row in sample]], k=3)):
            if hits[0]["distance"] != 0:
                raise SystemExit(f"row {row} is there and is not found")
        return len(db)


def survive(directory, kills):
    count = 0
    for kill in range(kills):
        acknowledged = kill_while_ingesting(directory, count, 150 + 170 * kill)
        pid_free = time.perf_counter()
        there = check(directory, count + len(acknowledged))
        took = time.perf_counter() - pid_free
        count += len(acknowledged)
        print(f"      kill -9 after {len(acknowledged):>4} more rows: opened, all {count:,} acknowledged rows are there ({took * 1e3:.0f} ms)")
        # A row that was on the disk already but whose answer the kill swallowed may be there as well: go on after it.
        count = there
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one kill instead of four")
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="directory of the results (default: demo_out)")
    options = parser.parse_args()
    begun = time.perf_counter()
    for old in ("digits", "killed"):
        shutil.rmtree(options.out / old, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    print(paint("1", f"NoPokeDB {__version__}") + ": search real handwriting, then pull the plug")

    heading(1, "Index")
    (vectors, labels), (queries, truths) = load()
    db = index(options.out / "digits", vectors, labels)

    heading(2, "Search")
    all_hits, guesses = search(db, queries, truths)
    show_one(queries[0], all_hits[0], vectors)
    accuracy = sum(guess == truth for guess, truth in zip(guesses, truths)) / len(truths)
    print(f"\n      {accuracy:.1%} of the {len(truths)} are named right by their {NEIGHBOURS} nearest (wanted: {WANTED_ACCURACY:.0%})")
    db.close()
    if accuracy < WANTED_ACCURACY:
        raise SystemExit("that is too few: the neighbours cannot be the right ones")

    heading(3, "Contact sheet")
    contact_sheet(options.out / "digits.png", queries, truths, all_hits, guesses, vectors)
    print(f"      {options.out / 'digits.png'}")

    heading(4, "Kill the writer, open again")
    survived = survive(options.out / "killed", kills=1 if options.quick else 4)

    print(f"\n{paint('1;32', 'Done')} in {time.perf_counter() - begun:.1f} s: {accuracy:.1%} right, {survived:,} rows and none lost.")
    print(
        f"""
Where to go next
  look at the neighbours     {options.out / "digits.png"}
  look at the metadata       sqlite3 {options.out / "digits" / "meta.sqlite"} .tables
  use it                     README.md; python -c "import nopokedb; help(nopokedb.NoPokeDB)"
  how it works               ARCHITECTURE.md, docs/DURABILITY.md
  check the promises         make test; make crash"""
    )


if __name__ == "__main__":
    main()
