"""The list that `query(..., explain=True)` answers with."""

from __future__ import annotations

from typing import Any


class Hits(list):
    """Hits, as `query` answers with them, and how they were found.

    A list like any other; what is made of it (a slice, a copy) is a plain list.

    Attributes
    ----------
    explanation : dict
        `plan`: "scan" (the codes of all rows were scanned), "graph" (the graph was walked), "gather" (the few rows that
        pass `where` were compared), "exact" (all were, as asked) or "words" (there was no vector). `rows` there are, and
        `matches` of `where` among them (None without one); `ef`, the beam width of a walk; `searches`, more than one where
        `group_by` needed more rows than expected; `candidates` that they found, and `text_candidates` that the words found
        (None without `text`); `rows_scanned`; `code_distances` estimated and `exact_distances` computed; `stages_us`, the
        microseconds of each stage by name (with `text` among them "wait", for SQLite to have what was written); `total_us`.

    Examples
    --------
    >>> db = NoPokeDB(dim=2, path="hits")
    >>> ids = db.add_many([[1, i] for i in range(1000)], [{"n": i} for i in range(1000)])
    >>> hits = db.query([1, 0], where="n = 2", explain=True)
    >>> hits == db.query([1, 0], where="n = 2")
    True
    >>> hits.explanation["plan"], hits.explanation["matches"], hits.explanation["exact_distances"]
    ('gather', 1, 1)
    """

    explanation: dict[str, Any]
