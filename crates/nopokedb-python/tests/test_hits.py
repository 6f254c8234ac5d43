"""Hits that are more than the nearest rows: diversity, groups, examples, and an order of the caller's own."""

import numpy as np
import pytest

from nopokedb import InvalidError, NoPokeDB


@pytest.fixture
def chunks(path, rng):
    """200 chunks of 20 documents, near to each other within a document; the last 20 name none."""
    with NoPokeDB(dim=16, path=path) as db:
        centres = rng.normal(size=(20, 16))
        vectors = np.repeat(centres, 10, axis=0) + 0.05 * rng.normal(size=(200, 16))
        metadatas = [{"doc": f"d{i // 10}"} if i < 180 else None for i in range(200)]
        db.add_many(vectors, metadatas, documents=[f"chunk {i}" for i in range(200)])
        yield db


def ids(hits):
    return [hit["id"] for hit in hits]


def test_group_by_gives_the_best_hit_of_each_value(chunks, rng):
    query = rng.normal(size=16)
    everything = chunks.query(query, k=200)
    hits = chunks.query(query, k=50, group_by="doc")
    assert len(hits) == 19, "18 documents, and the rows without one"
    best = {}
    for hit in everything:
        best.setdefault((hit["metadata"] or {}).get("doc"), hit["id"])
    assert [(hit["group"], hit["id"]) for hit in hits] == list(best.items())
    assert all("group" not in hit for hit in everything)
    three = chunks.query(query, k=4, group_by="doc", group_size=3, include=[])
    assert [hit["group"] for hit in three] == [value for value in list(best)[:4] for _ in range(3)]
    assert ids(chunks.query_many([query], k=50, group_by="doc")[0]) == ids(hits)


@pytest.mark.parametrize(
    "value, expected", [(True, True), (1, 1), (1.5, 1.5), ("x", "x"), (None, None), ([], None), (["b", "a"], "b")]
)
def test_groups_are_values_as_they_were_given(db, value, expected):
    db.add([1, 0, 0, 0], {"v": value})
    (hit,) = db.query([1, 0, 0, 0], group_by="v")
    assert hit["group"] == expected and type(hit["group"]) is type(expected)


def test_mmr_leaves_near_duplicates_for_later(chunks):
    query = chunks.get(0, include=["vector"])["vector"]
    documents = lambda hits: {hit["id"] // 10 for hit in hits}
    assert documents(chunks.query(query, k=5)) == {0}
    diverse = chunks.query(query, k=5, mmr={"lambda": 0.3, "fetch": 200})
    assert len(documents(diverse)) == 5 and diverse[0]["id"] == 0
    assert ids(chunks.query(query, k=5, mmr=1.0)) == ids(chunks.query(query, k=5)) == ids(chunks.query(query, mmr=False))
    assert ids(chunks.query(query, mmr=True)) == ids(chunks.query(query, mmr=0.5)) == ids(chunks.query(query, mmr={}))
    assert ids(chunks.query(query, k=3, offset=2, mmr={"fetch": 25})) == ids(chunks.query(query, mmr={"fetch": 25}))[2:]


def test_examples_are_what_hits_are_near_to(chunks):
    like = chunks.query(positive=[0, 1], k=8)
    assert set(ids(like)) == set(range(2, 10))
    assert ids(chunks.query(positive=0, k=3)) == ids(chunks.query(positive=np.array([0]), k=3))
    away = chunks.query(positive=[0, 10], negative=[11, 12], k=180)
    assert len(away) == 180 and not {0, 10, 11, 12} & set(ids(away))
    assert ids(away)[0] // 10 == 0, "away from the document of the negative ones"
    vector = chunks.get(50, include=["vector"])["vector"]
    assert 50 in ids(chunks.query(vector, positive=[51], k=3))
    assert ids(chunks.query(positive=[0], where="doc = 'd3'", k=20)) == ids(
        hit for hit in chunks.query(positive=[0], k=200) if hit["metadata"] == {"doc": "d3"}
    )


def test_rerank_sees_more_hits_and_orders_them(chunks, rng):
    query = rng.normal(size=16)
    seen = []

    def backwards(hits):
        seen.append(hits)
        return list(range(len(hits)))

    plain = chunks.query(query, k=40)
    hits = chunks.query(query, k=10, rerank=backwards)
    assert ids(seen[0]) == ids(plain) and seen[0][0].keys() >= {"metadata", "document", "score", "distance"}
    assert ids(hits) == ids(plain)[::-1][:10]
    assert [hit["rerank_score"] for hit in hits] == [39.0 - i for i in range(10)]
    assert "metadata" in hits[0] and "document" not in hits[0], "only what include names stays"
    assert ids(chunks.query(query, k=2, offset=1, rerank=backwards, rerank_factor=2, include=[])) == ids(plain)[4:2:-1]
    assert ids(chunks.query(query, k=3, rerank=lambda hits: hits[5:])) == ids(plain)[5:8]
    assert ids(chunks.query(query, k=3, rerank=lambda hits: np.ones(len(hits)))) == ids(plain)[:3]
    assert chunks.query(query, k=3, rerank=lambda hits: []) == []
    many = chunks.query_many([query, -query], k=10, rerank=backwards)
    assert ids(many[0]) == ids(hits) and ids(many[1]) == ids(chunks.query(-query, k=40))[::-1][:10]
    assert chunks.query(query, k=3, where="doc = 'none'", rerank=lambda hits: 1 / 0) == []


def test_what_rerank_raises_comes_through(chunks, rng):
    with pytest.raises(ZeroDivisionError):
        chunks.query(rng.normal(size=16), rerank=lambda hits: 1 / 0)


@pytest.mark.parametrize(
    "asked, says",
    [
        ({"rerank": lambda hits: [1.0]}, "1 scores for 20 hits"),
        ({"rerank": lambda hits: [float("nan")] * 20}, "NaN"),
        ({"rerank": lambda hits: ["x"] * 20}, "str"),
        ({"rerank": lambda hits: None}, "NoneType"),
        ({"rerank": len, "group_by": "doc", "group_size": 2}, "group_size must be 1"),
        ({"mmr": 2}, "between 0 and 1"),
        ({"mmr": {"lamda": 0.5}}, "'lamda'"),
        ({"mmr": {"fetch": 3}}, "between 5 and"),
        ({"mmr": "0.5"}, "mmr must be a number"),
        ({"group_by": 3}, "group_by must be a str"),
        ({"group_by": "a..b"}, "empty key"),
        ({"group_by": "doc", "group_size": 0}, "group_size must be"),
        ({"positive": [999]}, "there is no row 999"),
        ({"positive": [1.5]}, "1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(chunks, asked, says):
    with pytest.raises(InvalidError, match=says):
        chunks.query(np.ones(16), **asked)


@pytest.mark.parametrize(
    "asked", [{"rerank": "best"}, {"rerank_factor": 3}, {"group_size": 3}, {"positive": [], "vector": None}]
)
def test_a_call_that_lacks_a_part_is_a_type_error(chunks, asked):
    with pytest.raises(TypeError):
        chunks.query(**{"vector": np.ones(16), **asked})


def test_only_one_query_can_have_examples(chunks):
    with pytest.raises(InvalidError, match="one by one"):
        chunks.query_many([np.ones(16)], positive=[1])
    with pytest.raises(InvalidError, match="positive ones as well"):
        chunks.query(negative=[1])
