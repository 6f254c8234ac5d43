"""The harness's own arithmetic: what it reports about others must be right."""

import numpy as np
import pytest

import data
import walks
from peers import K, PEERS
from report import exponent, frontier, qps_at


def test_a_point_beaten_in_both_is_not_on_the_frontier():
    assert frontier([(0.5, 100), (0.9, 50), (0.8, 40), (0.99, 10)]) == [(0.5, 100), (0.9, 50), (0.99, 10)]


def test_the_rate_at_a_recall_lies_between_its_neighbours():
    points = [(0.90, 1000.0), (1.00, 10.0)]
    assert qps_at(points, 0.95) == pytest.approx(100.0)
    assert qps_at(points, 0.5) == 1000.0  # nothing slower was needed
    assert qps_at([(0.9, 1000.0)], 0.95) is None  # never reached, never extrapolated


def test_a_faster_and_better_setting_replaces_a_slower_one():
    assert qps_at([(0.96, 500.0), (0.99, 600.0)], 0.95) == 600.0


def test_exponents_are_those_of_the_law():
    points = [{"n": n, "query": 3 * n**0.5} for n in (10, 100, 1_000)]
    assert exponent(points, "query") == pytest.approx(0.5)


def test_exact_neighbours_are_those_of_brute_force():
    base, queries = data.gaussian(500, 8, 5)
    ids, _ = data.exact_neighbours(base, queries)
    cosines = data.unit(queries) @ data.unit(base).T
    assert (ids == np.argsort(-cosines, axis=1)[:, :K]).all()


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_the_nearest_of_a_walk_are_those_of_brute_force(metric):
    base, queries = walks.family("lengths", 300, 6, 5, 1)
    if metric == "cosine":
        base, queries = data.unit(base), data.unit(queries)
    far = ((queries[:, None] - base[None]) ** 2).sum(2) if metric == "l2" else -(queries @ base.T)
    assert (walks.nearest(base, queries, metric) == np.argsort(far, axis=1)[:, :K]).all()


def test_either_of_two_equal_rows_counts_and_no_row_counts_twice(tmp_path):
    base, queries = data.gaussian(100, 4, 1)
    ids, cosines = data.exact_neighbours(base, queries)
    base = np.vstack([base, base[ids[0, -1]]])  # an equal of the tenth
    for name, array in [("base", base), ("queries", queries), ("cosines", cosines)]:
        np.save(tmp_path / f"{name}.npy", array)
    other = ids.copy()
    other[0, -1] = 100
    twice = ids.copy()
    twice[0, 1] = twice[0, 0]
    short = ids.copy()
    short[0, 5:] = -1
    found = [data.recall(tmp_path, answers) for answers in (ids, other, twice, short)]
    assert found == [1.0, 1.0, 0.9, 0.5]


def test_every_peer_names_packages_that_are_pinned():
    for peer in PEERS.values():
        lines = (data.HERE / f"requirements/{peer.package}.txt").read_text().split() if peer.package else []
        assert all("==" in line for line in lines)
