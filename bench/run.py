"""Runs the benchmarks and writes docs/BENCHMARKS.md: `make bench` (minutes), `make bench-full` (hours).

Every engine runs in its own process with its own pinned packages, on the same rows and the same queries. Builds and
queries take turns: round after round, one engine at a time, so that a noisy minute hits all of them; figures are
medians of the rounds with their spread. Needs only numpy here; python and the package under test are this process's.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import numpy as np

import data
import report
from peers import PEERS

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
OWN = ["add", "threads", "add_many", "open", "load", "steady", "churn"]
SIZES = ["3000", "10000", "30000", "100000", "300000", "1000000"]
SIZES_FULL = [*SIZES, "3000000"]
STARTED = time.monotonic()


def say(text, end="\n"):
    print(text if end == "" else f"[{time.monotonic() - STARTED:6.0f} s] {text}", end=end, flush=True)


# ------------------------------------------------------------------------------------------------------- packages


def python_of(package):
    """The interpreter that has `package`, installed on first use. The package under test is where we are."""
    if not package:
        return sys.executable
    folder = HERE / ".venvs" / package
    wanted = (HERE / f"requirements/{package}.txt").read_text()
    done = folder / "installed.txt"
    python = folder / "bin/python"
    if not done.exists() or done.read_text() != wanted:
        say(f"installing {', '.join(wanted.split())} ...")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(HERE / f"requirements/{package}.txt")], check=True, timeout=1200)
        done.write_text(wanted)
    return str(python)


# --------------------------------------------------------------------------------------------------------- engines


class Failed(Exception):
    """An engine ended or answered nothing; the message says where its log is."""


class Engine:
    """A running worker.py."""

    def __init__(self, name, folder, threads):
        self.name = name
        self.scratch = OUT / "scratch" / name
        self.folder, self.threads = folder, threads
        self.log = OUT / "logs" / f"{name}.log"
        self.start(fresh=True)

    def start(self, fresh):
        if fresh:
            shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [python_of(PEERS[self.name].package), str(HERE / "worker.py")]
        command += [self.name, str(self.folder), str(self.scratch), str(self.threads)]
        with open(self.log, "a") as log:
            pipe = subprocess.PIPE
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, cwd=self.scratch)

    def ask(self, **request):
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            reply = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError) as e:
            raise Failed(f"ended in {request['do']}; see {self.log.relative_to(HERE.parent)}") from e
        if "error" in reply:
            raise Failed(f"failed in {request['do']}: {reply['error']}")
        return reply

    def stop(self):
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


# ------------------------------------------------------------------------------------------------------ measurements


def attempt(results, name, action):
    """Runs one engine's step; an engine that fails is reported as such and left out from there on."""
    if "failed" in results[name]:
        return None
    try:
        return action()
    except (Failed, subprocess.SubprocessError, OSError) as e:
        results[name]["failed"] = str(e)
        say(f"{name}: {e}")
        return None


def build(name, folder, results, threads):
    engine = Engine(name, folder, threads)
    built = engine.ask(do="build")
    say(f"{name}: built in {built['seconds']:.2f} s")
    results[name]["builds"].append(built)
    return engine


def query_round(engine, folder, entry, first):
    for i, setting in enumerate(entry["builds"][0]["settings"]):
        answers = str(OUT / "answers.npy") if first else None
        measured = engine.ask(do="measure", setting=setting, answers=answers)
        if first:
            label = setting if isinstance(setting, (int, str)) else "/".join(map(str, setting))
            entry["sweep"].append({"setting": label, "raw": setting, "rounds": []})
            entry["sweep"][i]["recall"] = data.recall(folder, np.load(answers))
        entry["sweep"][i]["rounds"].append(measured)
    both = engine.ask(do="threads", setting=entry["builds"][0]["default"], threads=2, queries=400)["qps"]
    entry["threads2"] += [both] if both else []


def reopen(name, folder, entry, threads):
    """Open and first answer in a fresh process: from a warm page cache, then from the disk."""
    from own import drop_from_cache

    engine = Engine.__new__(Engine)
    engine.name, engine.scratch, engine.folder, engine.threads = name, OUT / "scratch" / name, folder, threads
    engine.log = OUT / "logs" / f"{name}.log"
    for kind, prepare in [("warm", lambda: None), ("cold", lambda: drop_from_cache(engine.scratch))]:
        entry["open"][kind] = []
        for _ in range(3):
            prepare()
            engine.start(fresh=False)
            entry["open"][kind].append(engine.ask(do="open")["seconds"])
            engine.ask(do="close")
            engine.stop()


def measure_set(name, peers, rounds, build_rounds, threads):
    say(f"== {data.describe(name)}")
    folder = data.prepare(name)
    results = {peer: {"builds": [], "sweep": [], "threads2": [], "open": {}} for peer in peers}
    engines = {}
    for r in range(build_rounds):
        say(f"builds, round {r + 1} of {build_rounds}")
        for peer in peers:
            if peer in engines:
                engines.pop(peer).stop()
            engine = attempt(results, peer, lambda: build(peer, folder, results, threads))
            if engine:
                engines[peer] = engine
    for r in range(rounds):
        say(f"queries, round {r + 1} of {rounds}")
        for peer, engine in engines.items():
            attempt(results, peer, lambda: query_round(engine, folder, results[peer], r == 0))
    for peer, engine in engines.items():
        if PEERS[peer].durable:
            results[peer]["add"] = attempt(results, peer, lambda: engine.ask(do="add", count=300))
        closed = attempt(results, peer, lambda: engine.ask(do="close"))
        results[peer]["disk"] = closed["disk"] if closed else 0
        engine.stop()
        if PEERS[peer].durable:
            attempt(results, peer, lambda: reopen(peer, folder, results[peer], threads))
        shutil.rmtree(OUT / "scratch" / peer, ignore_errors=True)
    return {"set": name, "about": data.describe(name), "rounds": rounds, "build_rounds": build_rounds, "peers": results}


def measure_own(sizes):
    found = {}
    for job in [*([name] for name in OWN), ["growth", *sizes]]:
        say(f"alone: {' '.join(job)}")
        done = subprocess.run([sys.executable, str(HERE / "own.py"), *job], stdout=subprocess.PIPE, check=True, text=True)
        found[job[0]] = json.loads(done.stdout)
    return found


# -------------------------------------------------------------------------------------------------------------- main


def machine():
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    flags = next((l for l in open("/proc/cpuinfo") if l.startswith("flags")), "")
    memory = int(next(l for l in open("/proc/meminfo") if l.startswith("MemTotal")).split()[1]) / 2**20
    wide = [f for f in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if f in flags.split()]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    import nopokedb

    return {
        "cpu": f"{os.cpu_count()} x {cpu} ({', '.join(wide)})",
        "memory_gib": round(memory, 1),
        "kernel": os.uname().release.split("-")[0],
        "python": sys.version.split()[0],
        "version": nopokedb.__version__,
        "commit": commit.strip(),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--full", action="store_true", help="every data set, up to 1,000,000 rows")
    options.add_argument("--sets", help=f"of {','.join(data.SETS)}")
    options.add_argument("--peers", help=f"of {','.join(PEERS)}")
    options.add_argument("--rounds", type=int, default=3, help="of queries")
    options.add_argument("--builds", type=int, help="rounds of builds (3 at 20,000 rows, 1 above)")
    options.add_argument("--no-own", action="store_true", help="leave out what NoPokeDB alone is measured on")
    options.add_argument("--report-only", action="store_true", help="write the page again from the last results")
    chosen = options.parse_args()
    if not chosen.report_only:
        sets = chosen.sets.split(",") if chosen.sets else list(data.SETS) if chosen.full else data.QUICK
        peers = chosen.peers.split(",") if chosen.peers else list(PEERS)
        run(sets, [p for p in peers if p in PEERS], chosen)
    plot = attempt_plot()
    report.write(OUT, HERE.parent / "docs", plot)
    say("wrote docs/BENCHMARKS.md")


def run(sets, peers, chosen):
    OUT.mkdir(exist_ok=True)
    missing = {}
    for package in sorted({PEERS[p].package for p in peers}):
        try:
            python_of(package)
        except (subprocess.SubprocessError, OSError) as e:
            missing[package] = str(e)
            say(f"{package} cannot be installed here and is left out: {e}")
    kept = [p for p in peers if PEERS[p].package not in missing]
    about = {**machine(), "missing": {p: missing[PEERS[p].package] for p in peers if p not in kept}}
    (OUT / "machine.json").write_text(json.dumps(about, indent=1))
    if not chosen.no_own:
        (OUT / "own.json").write_text(json.dumps(measure_own(SIZES_FULL if chosen.full else SIZES), indent=1))
    for name in sets:
        build_rounds = chosen.builds or (3 if name == "gaussian-20k" else 1)
        result = measure_set(name, kept, chosen.rounds, build_rounds, os.cpu_count() or 1)
        (OUT / f"set-{name}.json").write_text(json.dumps({**result, "machine": about}, indent=1))


def attempt_plot():
    """Draws the figures with matplotlib, in its own packages; the page is written without them if that fails."""
    try:
        done = subprocess.run([python_of("plot"), str(HERE / "plot.py"), str(OUT), str(HERE.parent / "docs/bench")])
        return done.returncode == 0
    except (subprocess.SubprocessError, OSError) as e:
        say(f"no figures: {e}")
        return False


if __name__ == "__main__":
    main()
