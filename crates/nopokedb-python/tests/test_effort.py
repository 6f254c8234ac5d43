"""How hard a query looks: `ef` of one query or of the handle, and a recall to be reached, among rows that have a graph."""

import numpy as np
import pytest

from nopokedb import NoPokeDB

K = 10
ROWS = 50_000  # from here on there is a graph


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """A database with a graph, whose narrow walks find less than wide ones, 60 queries, and what is truly nearest to each."""
    rng = np.random.default_rng(0)
    centres, turn = rng.normal(size=(64, 32)), rng.normal(size=(32, 128))
    points = centres[rng.integers(0, 64, ROWS + 60)] + rng.normal(size=(ROWS + 60, 32))
    vectors = (points @ turn).astype(np.float32)
    with NoPokeDB(128, path=tmp_path_factory.mktemp("graph") / "db") as db:
        db.add_many(vectors[:ROWS])
        assert db.wait_indexed(timeout=300)
        yield db, vectors[ROWS:], [found(db, query, exact=True) for query in vectors[ROWS:]]


def found(db, query, **how):
    return [hit["id"] for hit in db.query(query, k=K, include=[], **how)]


def share_found(graph, **how):
    db, queries, truth = graph
    return np.mean([len(set(found(db, query, **how)) & set(best)) / K for query, best in zip(queries, truth)])


def told(graph, **how):
    db, queries, _ = graph
    return db.query(queries[0], k=K, explain=True, **how).explanation


def test_a_query_is_answered_with_its_own_ef_and_the_others_with_the_handles(graph):
    db = graph[0]
    assert [told(graph, ef=ef)["ef"] for ef in (1, 12, 30)] == [1, 12, 30]
    usual = db.ef
    assert told(graph)["ef"] in (usual, None), "what a query asks for holds for that query"
    try:
        db.ef = 14
        assert (told(graph)["ef"], told(graph, ef=11)["ef"]) == (14, 11)
    finally:
        db.ef = usual
    assert told(graph, ef=30)["code_distances"] > told(graph, ef=12)["code_distances"]
    assert share_found(graph, ef=10) < share_found(graph, ef=400) and share_found(graph, ef=400) > 0.995


def test_query_many_looks_as_hard_as_query(graph):
    db, queries, _ = graph
    for how in ({"ef": 10}, {"ef": 400}, {"recall": 0.8}, {"recall": 1.0}):
        many = [[hit["id"] for hit in hits] for hits in db.query_many(queries, k=K, include=[], **how)]
        assert many == [found(db, query, **how) for query in queries], how


def test_a_recall_that_is_asked_for_takes_the_effort_it_needs_and_no_more(graph):
    assert told(graph, recall=1.0)["plan"] == "exact" and share_found(graph, recall=1.0) == 1.0
    assert share_found(graph, recall=0.99) > 0.98
    assert share_found(graph, recall=0.8) > 0.8
    little = told(graph, recall=0.8)
    assert little["plan"] == "graph" and little["ef"] < graph[0].ef, "as wide as was measured to do"


def test_exact_compares_every_row(graph):
    exact = told(graph, exact=True)
    assert (exact["plan"], exact["exact_distances"], exact["ef"]) == ("exact", ROWS, None)
    assert told(graph, exact=False)["plan"] != "exact"


def test_recall_is_measured_with_the_ef_that_is_asked_for(graph):
    db = graph[0]
    assert db.recall(k=K, sample=20, ef=1) < db.recall(k=K, sample=20, ef=400)
    assert db.recall(k=K, sample=20, ef=400) > 0.995
    assert db.recall(k=1, sample=100, ef=1) != db.recall(k=100, sample=100, ef=1), "of as many as k says"
