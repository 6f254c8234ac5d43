"""Draws recall against queries a second, and build rates: plot.py <results folder> <figures folder>."""

import json
import sys
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from peers import PEERS
from report import OURS, frontier, points_of, rows_of

plt.rcParams.update({"svg.hashsalt": "nopokedb", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})


def style(name, i):
    if name == OURS:
        return {"color": "#d62728", "linewidth": 2.6, "zorder": 5, "marker": "o", "markersize": 4}
    dash = "-" if PEERS[name].durable else "--"
    return {"color": plt.cm.tab20(i % 20), "linewidth": 1.2, "linestyle": dash, "marker": ".", "markersize": 5}


def recall_figure(result, path):
    figure, axes = plt.subplots(figsize=(8, 5))
    for i, (name, entry) in enumerate(result["peers"].items()):
        line = frontier(points_of(entry))
        if line:
            # Distance from perfect on a log axis shows 0.9, 0.99 and 0.999 at equal steps.
            xs = [max(1 - recall, 3e-4) for recall, _ in line]
            axes.plot(xs, [qps for _, qps in line], label=name, **style(name, i))
    axes.set(xscale="log", yscale="log", xlabel="recall@10", ylabel="queries a second, one thread")
    axes.invert_xaxis()
    ticks = [0.5, 0.1, 0.05, 0.01, 0.001, 3e-4]
    axes.set_xticks(ticks, ["0.5", "0.9", "0.95", "0.99", "0.999", "1"])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.set_title(f"{result['about']}\nup and right is better; dashed engines do not store durably", fontsize=9)
    axes.legend(fontsize=7, ncol=2, loc="best", frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def build_figure(result, path):
    n = rows_of(result["set"])
    rates = {name: n / median(b["seconds"] for b in e["builds"]) for name, e in result["peers"].items() if e["builds"]}
    ours = result["peers"].get(OURS, {}).get("builds")
    if ours and ours[0].get("phases"):
        rates[f"{OURS}, durable and searchable"] = n / median(b["phases"]["load"] for b in ours)
    names = sorted(rates, key=rates.get)
    figure, axes = plt.subplots(figsize=(8, 0.3 * len(names) + 1))
    colours = ["#d62728" if name.startswith(OURS) and name != "nopokedb-0.5.1" else "#9aa7b1" for name in names]
    bars = axes.barh(names, [rates[name] for name in names], color=colours)
    axes.bar_label(bars, [f"{rates[name]:,.0f}" for name in names], padding=3, fontsize=8)
    axes.set(xscale="log", xlabel="rows a second until built", title=result["about"])
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main():
    out, figures = Path(sys.argv[1]), Path(sys.argv[2])
    figures.mkdir(parents=True, exist_ok=True)
    for file in sorted(out.glob("set-*.json")):
        result = json.loads(file.read_text())
        recall_figure(result, figures / f"{result['set']}-recall.svg")
        build_figure(result, figures / f"{result['set']}-build.svg")


if __name__ == "__main__":
    main()
