"""Rows of many ids, filters of their own, and what a call does not know."""

import numpy as np
import pytest

from nopokedb import FilterError, InvalidError, NoPokeDB


@pytest.fixture
def rows(path):
    """Rows 0 to 9 at [0] to [9]."""
    with NoPokeDB(dim=1, path=path, space="l2") as db:
        db.add_many([[i] for i in range(10)], [{"n": i} for i in range(10)], documents=[f"text {i}" for i in range(10)])
        yield db


def ids(hits):
    return [hit["id"] for hit in hits]


def test_get_without_include_is_the_metadata_as_ever(rows):
    assert rows.get(3) == rows.get(id=3) == rows.get(vid=3) == {"n": 3}
    assert rows.get(10) is None
    assert rows.get([3, 10, 0]) == [{"n": 3}, None, {"n": 0}]
    assert rows.get([]) == rows.get(np.array([], dtype=int)) == []
    assert rows.get(np.int64(3)) == {"n": 3}
    assert rows.get(np.array([2, 1])) == rows.get(iter((2, 1))) == [{"n": 2}, {"n": 1}]


def test_get_with_include_is_a_row(rows):
    row = rows.get(3, include=["metadata", "document", "vector"])
    assert {**row, "vector": list(row["vector"])} == {"id": 3, "metadata": {"n": 3}, "document": "text 3", "vector": [3]}
    assert row["vector"].dtype == np.float32
    assert rows.get(10, include=["document"]) is None
    assert rows.get([1, 10], include=["document"]) == [{"id": 1, "document": "text 1"}, None]
    assert rows.get_many([1, 10]) == [{"id": 1, "metadata": {"n": 1}}, None]
    assert rows.get_many(range(10), include=[]) == [{"id": i} for i in range(10)]
    for wrong in (3, "12", None):
        with pytest.raises(InvalidError):
            rows.get_many(wrong)
    with pytest.raises(InvalidError):
        rows.get([1, 1.5])


def test_delete_takes_a_filter_and_counts(rows):
    assert rows.delete(where="n >= 8") == 2
    assert rows.delete(where={"n": 100}) == 0
    assert rows.delete(0) is True and rows.delete(0) is False
    assert len(rows) == 7
    with pytest.raises(TypeError):
        rows.delete(1, where="n = 1")
    with pytest.raises(TypeError):
        rows.delete()
    with pytest.raises(FilterError):
        rows.delete(where="n =")
    assert len(rows) == 7


def test_each_query_of_a_call_may_have_a_filter_of_its_own(rows):
    wheres = [{"n": {"$gte": 5}}, None, "n > 100", "n < 3"]
    assert [ids(hits) for hits in rows.query_many([[0]] * 4, k=2, where=wheres)] == [[5, 6], [0, 1], [], [0, 1]]
    assert [ids(hits) for hits in rows.query_many([[0]] * 4, k=2, where=tuple(wheres), exact=True)][0] == [5, 6]
    with pytest.raises(FilterError, match="4 vectors but 3 filters"):
        rows.query_many([[0]] * 4, where=wheres[:3])
    with pytest.raises(FilterError):
        rows.query([0], where=[None])


@pytest.mark.parametrize("method, vectors", [("query", [0]), ("query_many", [[0]])])
def test_an_unknown_keyword_is_named(rows, method, vectors):
    with pytest.raises(TypeError, match=rf"{method}\(\) got an unexpected keyword argument 'wehre'"):
        getattr(rows, method)(vectors, wehre="n = 1")
    with pytest.raises(InvalidError, match="exact must be True or False"):
        getattr(rows, method)(vectors, exact="yes")
    assert getattr(rows, method)(vectors, where=None, min_score=None, offset=None, include=None, exact=None)
