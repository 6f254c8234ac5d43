"""One engine in one process: builds once, then answers requests to measure, one JSON line each way.

    worker.py <peer> <data folder> <scratch folder> <threads>

The engine may print what it likes: its output goes to the log, answers go to the original stdout.
"""

import json
import os
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from peers import K, PEERS

ENOUGH_SECONDS = 0.4


def resident_bytes(field):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def folder_bytes(folder):
    return sum(f.stat().st_blocks * 512 for f in Path(folder).rglob("*") if f.is_file())


class Worker:
    def __init__(self, name, data, scratch, threads):
        self.data, self.scratch = Path(data), Path(scratch)
        self.base = np.load(self.data / "base.npy", mmap_mode="r")
        self.queries = np.load(self.data / "queries.npy")
        rows, dim = self.base.shape
        self.peer = PEERS[name](dim, rows, str(self.scratch / "db"), threads)

    def build(self, _):
        base = np.array(self.base)
        before = resident_bytes("RssAnon")
        start = time.perf_counter()
        self.peer.build(base)
        seconds = time.perf_counter() - start
        del base
        return {
            "seconds": seconds,
            "phases": self.peer.phases,
            "settings": self.peer.settings,
            "default": self.peer.default,
            "rss": max(0, resident_bytes("RssAnon") - before),
            "disk": folder_bytes(self.scratch / "db") if self.peer.durable else 0,
        }

    def measure(self, request):
        setting = request["setting"]
        self.peer.use(tuple(setting) if isinstance(setting, list) else setting)
        self.peer.query(self.queries[0])
        times, answers, spent = [], None, 0.0
        while spent < ENOUGH_SECONDS:
            found, begun = [], time.perf_counter()
            for q in self.queries:
                start = time.perf_counter_ns()
                found.append(self.peer.query(q))
                times.append(time.perf_counter_ns() - start)
            spent += time.perf_counter() - begun
            answers = answers or found
        result = {"qps": len(times) / spent, "p50": np.percentile(times, 50) / 1e3, "p95": np.percentile(times, 95) / 1e3}
        if request.get("answers"):
            ids = np.full((len(answers), K), -1, dtype=np.int64)
            for row, found in zip(ids, answers):
                row[: len(found)] = [int(i) for i in found]
            np.save(request["answers"], ids)
        return result

    def threads(self, request):
        """Queries a second when several threads ask at once; none where the engine has no such thing."""
        if not self.peer.threaded:
            return {"qps": None}
        self.peer.use(tuple(request["setting"]) if isinstance(request["setting"], list) else request["setting"])
        passes = max(1, request["queries"] // len(self.queries))

        def ask(_):
            for _ in range(passes):
                for q in self.queries:
                    self.peer.query(q)

        with ThreadPoolExecutor(request["threads"]) as pool:
            start = time.perf_counter()
            list(pool.map(ask, range(request["threads"])))
            seconds = time.perf_counter() - start
        return {"qps": request["threads"] * passes * len(self.queries) / seconds}

    def add(self, request):
        """One durable add at a time: its median in seconds. For a second, or as many as asked for."""
        times, rows = [], len(self.base)
        while len(times) < request["count"] and sum(times) < 1.0:
            v = self.queries[len(times) % len(self.queries)]
            start = time.perf_counter()
            self.peer.add(rows + len(times), v)
            times.append(time.perf_counter() - start)
        return {"p50": float(np.median(times))}

    def open(self, _):
        """The time from opening what another process built to the first answer."""
        start = time.perf_counter()
        self.peer.open()
        self.peer.use(self.peer.default)
        self.peer.query(self.queries[0])
        return {"seconds": time.perf_counter() - start}

    def close(self, _):
        self.peer.close()
        return {"disk": folder_bytes(self.scratch / "db")}


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply = getattr(worker, request["do"])(request)
        except Exception as e:  # whatever an engine throws is reported as its failure
            traceback.print_exc()
            reply = {"error": f"{type(e).__name__}: {str(e)[:200]}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
