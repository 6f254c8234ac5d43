"""Turns the results under out/ into docs/BENCHMARKS.md. Losses are printed as plainly as wins."""

import json
from math import exp, log
from statistics import median

from data import SETS
from peers import PEERS

LEVELS = [0.95, 0.99, 0.999]
OURS = "nopokedb"


def frontier(points):
    """(recall, qps) that no other point beats in both, by ascending recall."""
    best = []
    for recall, qps in sorted(points, reverse=True):
        if not best or qps > best[-1][1]:
            best.append((recall, qps))
    return best[::-1]


def qps_at(points, level):
    """Queries a second at a recall, between measured points (log-linear); None where nothing reaches it."""
    line = frontier(points)
    above = [p for p in line if p[0] >= level]
    if not above:
        return None
    below = [p for p in line if p[0] < level]
    if not below:
        return above[0][1]
    (r0, q0), (r1, q1) = below[-1], above[0]
    part = (level - r0) / (r1 - r0)
    return exp(log(q0) + part * (log(q1) - log(q0)))


def points_of(entry):
    return [(s["recall"], median(r["qps"] for r in s["rounds"])) for s in entry["sweep"] if s["rounds"]]


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def spread(values, unit=1.0):
    values = [v * unit for v in values]
    if len(values) < 2:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))}-{number(max(values))})"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


# --------------------------------------------------------------------------------------------------- NoPokeDB alone


def verdict(holds):
    return "yes" if holds else "**no**"


def own_section(own):
    add, threads, many, opens = own["add"], own["threads"], own["add_many"], own["open"]
    us = add["us"]
    ratio, strict = us["add"]["p50"] / us["append"]["p50"], us["add"]["p50"] / us["inside"]["p50"]
    low = lambda s: f"{number(s['median'])} ({number(s['low'])}-{number(s['high'])})"
    seconds = lambda s: f"{s['median'] * 1e3:.0f} ms ({s['low'] * 1e3:.0f}-{s['high'] * 1e3:.0f})"
    rows = [
        [
            f"one durable `add` ({add['dim']}-d, metadata), p50",
            f"{us['add']['p50']:.0f} us; bare write + fdatasync of the same {add['bytes']:,} bytes at the end of a file: "
            f"{us['append']['p50']:.0f} us, **{ratio:.2f}x**; inside a file written before: {us['inside']['p50']:.0f} us, {strict:.2f}x",
            "<= 1.5x",
            verdict(ratio <= 1.5),
        ],
        ["p95, p99 of the same", f"{us['add']['p95']:.0f}, {us['add']['p99']:.0f} us (bare: {us['append']['p95']:.0f}, {us['append']['p99']:.0f})", "", ""],
        [
            f"{threads['threads']} threads adding against one",
            f"{low(threads['many'])} against {low(threads['one'])} rows/s: **{threads['ratio']['median']:.1f}x**",
            ">= 4x",
            verdict(threads["ratio"]["median"] >= 4),
        ],
        [
            f"`add_many`, {many['n']:,} x {many['dim']} in batches of {many['batch']:,}, fsynced and searchable",
            f"**{low(many['bare'])}** rows/s; with metadata {low(many['metadata'])}; writing and syncing the bytes alone {low(many['write'])}",
            ">= 200,000",
            verdict(many["bare"]["median"] >= 200_000),
        ],
        [
            f"open + first query, {opens['n']:,} x {opens['dim']}, after a clean close",
            f"**{seconds(opens['clean'])}**; with a cold page cache {seconds(opens['cold'])}",
            "<= 50 ms",
            verdict(opens["clean"]["median"] <= 0.05),
        ],
        ["the same after `kill -9` in the middle of adding", f"**{seconds(opens['killed'])}**", "", ""],
        ["bytes on disk", f"{opens['disk'] / opens['f32']:.2f}x the f32 rows", "<= 1.2x", verdict(opens["disk"] <= 1.2 * opens["f32"])],
    ]
    rows += load_rows(own["load"]) if own.get("load") else []
    rows += [steady_row(own["steady"])] if own.get("steady") else []
    return "## NoPokeDB alone\n\n" + table(["what", "measured: median (lowest-highest)", "goal", "reached"], rows)


def load_rows(found):
    """Queries beside a load, against the same ones when nothing else goes on."""
    us, idle = found["us"], found["us"]["idle"]
    row = lambda what, name, goal: [
        what,
        f"p50 {number(us[name]['p50'])}, p99 {number(us[name]['p99'])} us over {found['seconds'][name]:.1f} s; idle: "
        f"{number(idle['p50'])}, {number(idle['p99'])} us: p99 **{us[name]['p99'] / idle['p99']:.1f}x**",
        goal,
        verdict(us[name]["p99"] <= 3 * idle["p99"]) if goal else "",
    ]
    return [
        row(f"queries from one thread while another loads {found['n']:,} x {found['dim']}", "load", "p99 <= 3x"),
        row("the same while the background worker puts those rows into the graph", "index", ""),
        ["their recall@10 at moments of the load", f"{min(found['recalls']):.4f} at the lowest of {len(found['recalls'])}", ">= 0.99", verdict(min(found["recalls"]) >= 0.99)],
    ]


def steady_row(found):
    first, last = found["bytes"][1], found["bytes"][-1]
    return [
        f"memory after {found['queries']:,} queries against after a tenth of them",
        f"{(last - first) / 2**20:+.2f} MiB (anonymous memory of the process: {last / 2**20:.1f} MiB)",
        "flat",
        verdict(last - first <= 2**20),
    ]


def exponent(points, key):
    """b of the best fit of `value = a * n ** b`."""
    xs, ys = [log(p["n"]) for p in points], [log(max(p[key], 1e-9)) for p in points]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys)) / sum((a - x) ** 2 for a in xs)


def growth_section(points):
    """What more rows cost, and the fitted exponent: 1 is in proportion, 0 is not at all."""
    rows = [
        [
            f"{p['n']:,}",
            number(p["query"] * 1e6),
            f"{p['recall']:.4f}",
            number(p["n"] / p["load"]),
            number(p["n"] / p["index"]),
            number(p["memory"] / p["n"]),
            f"{p['disk'] / (p['n'] * 512):.2f}x",
            number(p["open"] * 1e3),
        ]
        for p in points
    ]
    fits = [f"{exponent(points, key):.2f}" for key in ("query", "load", "index", "memory", "disk", "open")]
    rows.append(["time or bytes ~ rows^", fits[0], "", fits[1], fits[2], fits[3], fits[4], fits[5]])
    head = ["rows", "query p50 us", "recall@10", "durable and searchable, rows/s", "index done, rows/s"]
    head += ["memory, bytes a row", "disk, of the f32 rows", "open + first query, ms"]
    return "## Growth\n\n128 dimensions, 256 clusters, default settings, no metadata.\n\n" + table(head, rows)


def churn_section(orders):
    """What replacing half of the rows again and again costs, against a directory that holds the same rows and never held others."""
    rows = [
        [
            o["order"],
            f"{o['recall']:.4f} ({o['fresh']:.4f})",
            f"{o['lowest']:.4f}",
            verdict(o["recall"] >= o["fresh"] - 0.01),
            f"{o['us']:.1f}",
            f"**{o['time']['median']:.2f}x** ({o['time']['low']:.2f}-{o['time']['high']:.2f})",
            verdict(o["time"]["median"] <= 1.2),
            f"{o['seconds']:.0f}",
            "; ".join(o["problems"]) or "nothing",
        ]
        for o in orders
    ]
    about = f"{orders[0]['n']:,} x {orders[0]['dim']}, clustered, default settings; {orders[0]['rounds']} times half of the rows are deleted and as many added. Fresh: a new directory with the rows that are left. Clustered: the rows on one side of a plane are deleted."
    head = ["order", "recall@10 (fresh)", "lowest of 100 queries in a round", "within a point", "query p50 us", "of a fresh one's", "<= 1.2x", "seconds for all", "check() found"]
    return f"## Churn\n\n{about}\n\n" + table(head, rows)


# ---------------------------------------------------------------------------------------------------- against peers


def default_row(name, entry):
    built = entry["builds"]
    rate = [1 / b["seconds"] for b in built]
    default = built[0]["default"]
    at = next((s for s in entry["sweep"] if s["raw"] == default), entry["sweep"][-1])
    rounds = at["rounds"]
    peer = PEERS[name]
    return [
        f"**{name}**" if name == OURS else name,
        peer.note,
        spread(rate, built[0]["rows"]),
        at["setting"],
        spread([r["qps"] for r in rounds]),
        number(median(r["p50"] for r in rounds)),
        number(median(r["p95"] for r in rounds)),
        f"{at['recall']:.4f}",
        number(median(entry["threads2"])) if entry["threads2"] else "-",
        "yes" if peer.durable else "no",
    ]


def levels_row(name, entry):
    points = points_of(entry)
    best = max(points, default=(0, 0))
    cells = [number(qps_at(points, level)) for level in LEVELS]
    return [f"**{name}**" if name == OURS else name, *cells, f"{number(best[1])} @ {best[0]:.4f}"]


def sweep_line(name, entry):
    cells = [f"{s['setting']}: {number(median(r['qps'] for r in s['rounds']))} @ {s['recall']:.4f}" for s in entry["sweep"]]
    return f"* {name}: " + " · ".join(cells)


def best_peer(peers, level, durable=False):
    rates = {n: qps_at(points_of(e), level) for n, e in peers.items() if n != OURS and (PEERS[n].durable or not durable)}
    rates = {n: r for n, r in rates.items() if r}
    return max(rates.items(), key=lambda pair: pair[1], default=(None, None))


def standing(peers):
    """Ours against the best of the others at each recall."""
    lines = []
    for level in LEVELS:
        ours = qps_at(points_of(peers[OURS]), level) if OURS in peers else None
        for durable, what in [(False, "best of all"), (True, "best durable")]:
            name, rate = best_peer(peers, level, durable)
            if ours and rate:
                lines.append(f"* recall {level}: {number(ours)} queries/s, {ours / rate:.2f}x the {what} ({name}, {number(rate)})")
            elif rate:
                lines.append(f"* recall {level}: **not reached**; {what}: {name}, {number(rate)}")
    return "\n".join(lines)


def graph_recall(peers):
    """The graph's recall against hnswlib's at equal ef: same M, same ef_construction."""
    if not {OURS, "hnswlib"} <= set(peers):
        return ""
    at = lambda name, ef: next((s["recall"] for s in peers[name]["sweep"] if s["raw"] == ef), None)
    rows = [[ef, f"{at(OURS, ef):.4f}", f"{at('hnswlib', ef):.4f}", verdict(at(OURS, ef) >= at("hnswlib", ef))] for ef in (50, 200)]
    return "\nRecall at equal `ef`, M=16, ef_construction=200:\n\n" + table(["ef", OURS, "hnswlib", "at least equal"], rows) + "\n"


def open_rows(peers):
    for name, entry in peers.items():
        if entry["open"].get("cold"):
            ms = lambda kind: spread(entry["open"][kind], 1e3)
            add = f"{entry['add']['p50'] * 1e3:.2f}" if entry.get("add") else "-"
            yield [name, add, ms("warm"), ms("cold"), number(entry["disk"] / 2**20), number(entry["builds"][-1]["rss"] / 2**20)]


def set_section(result, figures):
    failed = {n: e["failed"] for n, e in result["peers"].items() if "failed" in e}
    peers = {n: e for n, e in result["peers"].items() if e["sweep"] and "failed" not in e}
    for entry in peers.values():
        for b in entry["builds"]:
            b["rows"] = rows_of(result["set"])
    parts = [f"## {result['about']}", f"cosine, k=10, one query at a time; {result['rounds']} rounds of queries, {result['build_rounds']} of builds."]
    if figures:
        parts.append(f"![recall against queries a second](bench/{result['set']}-recall.svg)\n\n![build](bench/{result['set']}-build.svg)")
    parts.append("At each engine's default setting:\n\n" + table(
        ["engine", "how", "built, rows/s", "setting", "queries/s", "p50 us", "p95 us", "recall@10", "queries/s, 2 threads", "durable + metadata"],
        [default_row(n, e) for n, e in peers.items()]))
    phases = peers.get(OURS, {}).get("builds", [{}])[0].get("phases")
    if phases:
        n = rows_of(result["set"])
        phases = [b["phases"] for b in peers[OURS]["builds"]]
        parts.append(
            f"NoPokeDB's rows are durable and searchable at {spread([n / p['load'] for p in phases])} rows/s; "
            f"the column counts until the background worker is done ({spread([n / p['index'] for p in phases])} rows/s)."
        )
    parts.append("Queries a second at a recall, interpolated between measured settings:\n\n" + table(
        ["engine", *[f"@ {level}" for level in LEVELS], "at its best recall"], [levels_row(n, e) for n, e in peers.items()]))
    parts.append("Where that leaves NoPokeDB:\n\n" + standing(peers))
    if result["set"] == "text-50k":
        parts.append(graph_recall(peers))
    parts.append("Durable engines day by day: one durable add; open and first query in a new process.\n\n" + table(
        ["engine", "add p50, ms", "open warm, ms", "open with a cold page cache, ms", "disk MiB", "memory MiB"], open_rows(peers)))
    parts.append("<details><summary>every setting</summary>\n\n" + "\n".join(sweep_line(n, e) for n, e in peers.items()) + "\n\n</details>")
    parts += [f"**{name}** is missing: {why}." for name, why in failed.items()]
    return "\n\n".join(p for p in parts if p)


def rows_of(name):
    return int(SETS[name][1].split(" ")[0].replace(",", ""))


# What follows this in the page comes from commands run one by one, and stays.
BY_HAND = "<!-- kept by hand -->"


def write(out, docs, figures):
    load = lambda path: json.loads(path.read_text()) if path.exists() else None
    machine, own = load(out / "machine.json"), load(out / "own.json")
    results = [r for r in (load(out / f"set-{name}.json") for name in SETS) if r]
    versions = sorted({line.strip() for p in PEERS.values() if p.package for line in requirement(p.package)} - {""})
    parts = [
        "# Benchmarks",
        f"Written by `make bench` ({machine['date']}, nopokedb {machine['version']} at {machine['commit']}). Run it again: `make bench` takes "
        "minutes, `make bench-full` goes to 1,000,000 rows and takes hours; `bench/README.md` says how it works.",
        f"Machine: {machine['cpu']}, {machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}; "
        f"load average when it began: {machine['load']}. Peers: {', '.join(versions)}.",
        "Medians over rounds, with the lowest and highest in brackets. Compare figures of one table only: they were "
        "taken turn by turn on the same machine. Durable engines store a small JSON object with each row and return it with each hit.",
    ]
    if machine.get("missing"):
        parts.append("Could not be installed here: " + "; ".join(f"{p} ({why})" for p, why in machine["missing"].items()) + ".")
    if own:
        parts.append(own_section(own))
        parts += [growth_section(own["growth"])] if own.get("growth") else []
        parts += [churn_section(own["churn"])] if own.get("churn") else []
    parts += [set_section(r, figures) for r in results]
    page = docs / "BENCHMARKS.md"
    _, mark, kept = page.read_text().partition(BY_HAND) if page.exists() else ("", "", "")
    parts += [mark + kept.rstrip()] if mark else []
    page.write_text("\n\n".join(parts) + "\n")


def requirement(package):
    from pathlib import Path

    lines = (Path(__file__).parent / f"requirements/{package}.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("numpy")]
