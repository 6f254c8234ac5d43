"""The bar that `progress=True` draws on stderr."""

from __future__ import annotations

import sys
import time

WIDTH = 30


class Bar:
    """Called with (done, total); draws ten times a second at most, and ends its line when all is done."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.started = time.monotonic()
        self.drawn = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done < total and now - self.drawn < 0.1:
            return
        self.drawn = now
        share = done / total if total else 1.0
        bar = "#" * round(WIDTH * share)
        line = f"\r{self.what} [{bar:<{WIDTH}}] {share:4.0%} {done:,}/{total:,} {now - self.started:.1f} s"
        print(line, end="\n" if done >= total else "", file=sys.stderr, flush=True)
