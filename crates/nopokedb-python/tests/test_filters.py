"""Filters, limits and pages: what `where`, `min_score`, `offset`, `include` and their like promise."""

import datetime
import re
from pathlib import Path

import numpy as np
import pytest

from nopokedb import EmptyError, FilterError, InvalidError, NoPokeDB


@pytest.fixture
def years(path):
    """Rows 0 to 9 at [0] to [9], of the years 2010 to 2019; the odd ones are German."""
    with NoPokeDB(dim=1, path=path, space="l2") as db:
        metadatas = [{"year": 2010 + i, "lang": "de" if i % 2 else "en"} for i in range(10)]
        db.add_many([[i] for i in range(10)], metadatas, documents=[f"text {i}" for i in range(10)])
        yield db


def ids(hits):
    return [hit["id"] for hit in hits]


@pytest.mark.parametrize("where", [{"year": {"$gte": 2015}, "lang": "de"}, "year >= 2015 and lang = 'de'"])
def test_every_verb_takes_a_dict_or_a_string(years, where):
    assert ids(years.query([0], k=10, where=where)) == [5, 7, 9]
    assert ids(years.query([0], k=10, where=where, exact=True)) == [5, 7, 9]
    assert [ids(hits) for hits in years.query_many([[0], [9]], k=1, where=where)] == [[5], [9]]
    assert years.count(where) == 3
    assert ids(years.scroll(where)) == [5, 7, 9]
    assert years.delete_where(where) == 3
    assert (years.count(where), years.count(), len(years)) == (0, 7, 7)


def test_a_filter_that_nothing_passes_gives_an_empty_list(years):
    assert years.query([0], where="year > 3000") == []
    assert years.query_many([[0], [1]], where="year > 3000") == [[], []]
    assert years.scroll("year > 3000") == []
    assert years.delete_where("year > 3000") == 0
    years.delete_where({})
    with pytest.raises(EmptyError):
        years.query([0], where="year > 3000")


def test_random_filters_agree_with_python(path, rng):
    with NoPokeDB(dim=20, path=path, space="l2") as db:
        vectors = rng.normal(size=(3000, 20)).astype(np.float32)
        numbers = rng.integers(0, 1000, size=3000)
        db.add_many(vectors, [{"n": int(n)} for n in numbers])
        for limit in [0, 1, 5, 50, 400, 900, numbers.max(), 1000]:
            query = rng.normal(size=20).astype(np.float32)
            distances = ((vectors - query) ** 2).sum(axis=1)
            limit = int(limit)
            compared = {"$lt": numbers < limit, "$lte": numbers <= limit, "$gt": numbers > limit, "$gte": numbers >= limit}
            for operator, holds in compared.items():
                passing = np.flatnonzero(holds)
                best = passing[np.argsort(distances[passing])][:10]
                where = {"n": {operator: limit}}
                assert ids(db.query(query, k=10, where=where)) == list(best), where
                assert db.count(where) == len(passing), where


@pytest.mark.parametrize(
    "where, named",
    [
        ({"year": {"$gtt": 1}}, "$gte"),
        ({"year": {"$in": 3}}, "year.$in"),
        ({"year": datetime.date(2020, 1, 1)}, "year"),
        ({"$or": [{"lang": "en"}, {"year": {"$gt": {}}}]}, "$or[1].year.$gt"),
        ({1: 2}, "str"),
        ("year >>= 3", "character 7"),
        ("\udcff = 3", "surrogate"),
        ({"year"}, "set"),
        (17, "int"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named_with_its_place(years, where, named):
    for call in [
        lambda: years.query([0], where=where),
        lambda: years.query_many([[0]], where=where),
        lambda: years.count(where),
        lambda: years.scroll(where),
        lambda: years.delete_where(where),
    ]:
        with pytest.raises(FilterError, match=re.escape(named)) as raised:
            call()
        assert isinstance(raised.value, InvalidError) and isinstance(raised.value, ValueError)
    assert len(years) == 10


def test_numpy_scalars_are_numbers_in_filters(years):
    assert years.count({"year": np.int64(2013)}) == 1
    assert years.count({"year": {"$in": [np.float32(2013), np.uint8(3)]}}) == 1


def test_limits_and_an_offset_cut_the_answer(years):
    assert ids(years.query([0], k=9, max_distance=9)) == [0, 1, 2, 3]
    assert ids(years.query([0], k=9, min_score=-4)) == [0, 1, 2]
    assert ids(years.query([0], k=3, offset=4)) == [4, 5, 6]
    assert ids(years.query([0], k=3, offset=np.int32(9))) == [9]
    assert years.query([0], k=3, offset=10) == []
    assert ids(years.query([0], k=2, offset=1, where="lang = 'en'")) == [2, 4]
    for bad in [{"min_score": "high"}, {"max_distance": float("nan")}, {"offset": -1}, {"offset": 1.5}]:
        with pytest.raises(InvalidError, match=next(iter(bad))):
            years.query([0], **bad)


def test_hits_have_the_four_old_keys_unless_asked_otherwise(years):
    assert list(years.query([0], k=1)[0]) == ["id", "metadata", "score", "distance"]
    full = years.query([3], k=1, include=["vector", "document", "metadata"])[0]
    assert (full["document"], full["metadata"]) == ("text 3", {"year": 2013, "lang": "de"})
    assert full["vector"].dtype == np.float32 and full["vector"].tolist() == [3.0]
    assert set(years.query([3], k=1, include=())[0]) == {"id", "score", "distance"}
    for bad in ["metadata", ["vectors"], [3], 3]:
        with pytest.raises(InvalidError, match="include"):
            years.query([0], include=bad)


def test_a_scroll_meets_every_row_that_stays_once(years):
    seen, after = [], None
    while page := years.scroll(limit=3, after=after):
        seen += ids(page)
        after = page[-1]["id"]
        years.upsert(8, metadata={"year": 1})
        years.upsert(0, metadata={"year": 1})
        years.delete(1)
    assert seen == list(range(10))
    assert years.scroll(limit=1, include=["document"]) == [{"id": 0, "document": "text 0"}]
    for bad in [{"limit": 0}, {"after": -1}, {"after": b"x"}]:
        with pytest.raises(InvalidError, match=next(iter(bad))):
            years.scroll(**bad)


GUIDE = Path(__file__).parents[3] / "docs" / "guide" / "filters.md"


def test_the_example_of_the_guide_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    exec(compile(example, "filters.md", "exec"), {})


def test_many_queries_answer_as_each_would(path, rng):
    vectors = rng.normal(size=(300, 4)).astype(np.float32)
    with NoPokeDB(dim=4, path=path) as db:
        db.add_many(vectors, [{"n": i % 7} for i in range(300)], documents=[f"word{i % 5}" for i in range(300)])
        filters = [{"n": i % 7} if i % 3 else None for i in range(200)]
        for named in ({}, {"exact": True}, {"mmr": 0.5}, {"text": "word3"}):
            singly = [db.query(vectors[i], k=2, where=filters[i], **named) for i in range(200)]
            assert db.query_many(vectors[:200], k=2, where=filters, **named) == singly
            singly = [db.query(vectors[i], k=2, **named) for i in range(200)]
            assert db.query_many(vectors[:200], k=2, **named) == singly
