"""Text and hybrid search from Python."""

import numpy as np
import pytest

from nopokedb import EmptyError, InvalidError, NoPokeDB

DOCUMENTS = ["a red apple", "a green apple and a pear", "Crème brûlée", None]


@pytest.fixture
def db(tmp_path):
    with NoPokeDB(dim=2, path=tmp_path / "db", space="l2") as db:
        db.add_many(np.array([[0, 0], [1, 0], [2, 0], [3, 0]]), [{"n": n} for n in range(4)], documents=DOCUMENTS)
        yield db


def ids(hits):
    return [hit["id"] for hit in hits]


def test_words_alone_are_ranked_and_have_no_distance(db):
    hits = db.query(text="apple PEAR!", k=5)
    assert ids(hits) == [1, 0]
    assert all(hit["distance"] is None and hit["score"] == hit["text_score"] for hit in hits)
    assert ids(db.query(text="creme BRULEE")) == [2]
    assert ids(db.query(text="apple pear", text_mode="all")) == [1]
    assert ids(db.query(text="pear OR brul*", text_syntax="fts5")) in ([1, 2], [2, 1])
    assert db.query(text="?!") == []


def test_a_vector_and_words_give_both_scores(db):
    hits = db.query([3, 0], text="red", k=4)
    assert sorted(ids(hits)) == [0, 1, 2, 3]
    assert hits[0]["id"] == 0 and hits[0]["distance"] == 9.0 and hits[0]["text_score"] > 0
    assert {hit["text_score"] for hit in hits[1:]} == {None}
    assert ids(db.query([3, 0], text="red", k=1, fusion={"vector": 1, "text": 0})) == [3]
    assert ids(db.query([3, 0], text="red", k=1, fusion={"vector": 0, "text": 1})) == [0]
    assert "text_score" not in db.query([3, 0])[0]
    assert [ids(hits) for hits in db.query_many([[3, 0], [2, 0]], text="red", k=1)] == [[0], [0]]


def test_filters_limits_and_reranking_apply(db):
    assert ids(db.query(text="apple", where="n > 0")) == [1]
    assert ids(db.query([0, 0], text="apple", where={"n": 2}, k=3)) == [2]
    best = db.query(text="apple")[0]
    assert ids(db.query(text="apple", min_score=best["score"])) == [best["id"]]
    assert ids(db.query(text="apple", offset=1)) == ids(db.query(text="apple"))[1:]
    assert ids(db.query(text="apple", rerank=lambda hits: [float(hit["id"]) for hit in hits])) == [1, 0]


def test_snippets_show_what_was_found(db):
    hits = db.query(text="apple", include=["snippet", "document"], highlight=("<b>", "</b>"))
    assert {hit["snippet"] for hit in hits} == {"a red <b>apple</b>", "a green <b>apple</b> and a pear"}
    assert db.query([3, 0], text="apple", k=4, include=["snippet"])[-1].keys() >= {"snippet"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": ""},
        {"text": " "},
        {"text": 3},
        {"text": "a AND", "text_syntax": "fts5"},
        {"text": "a", "text_syntax": "sql"},
        {"text": "a", "text_mode": "some"},
        {"text": "a", "fusion": "sum"},
        {"text": "a", "fusion": {"vector": 1}},
        {"text": "a", "fusion": {"vector": -1, "text": 1}},
        {"text": "a", "highlight": "b"},
        {"text": "a", "max_distance": 1},
        {"text": "a", "negative": [0]},
        {"text": "a", "recall": 0.9},
        {"text": "a", "exact": True},
        {"vector": [0, 0], "fusion": "rrf"},
        {"positive": [0, 1], "negative": [1]},
        {"text": "x" * 70_000},
    ],
)
def test_what_makes_no_sense_is_refused(db, wrong):
    with pytest.raises(InvalidError):
        db.query(**wrong)
    with pytest.raises(InvalidError):
        db.query([0, 0], text_mode="all")


def test_an_unknown_tokenizer_is_refused_and_an_empty_database_says_so(tmp_path):
    with pytest.raises(InvalidError, match="unicode61.*porter.*trigram"):
        NoPokeDB(dim=2, path=tmp_path / "a", tokenizer="snowball")
    with NoPokeDB(dim=2, path=tmp_path / "b", tokenizer="porter") as db:
        assert db.tokenizer == "porter"
        with pytest.raises(EmptyError):
            db.query(text="anything")
        db.add([0, 0], document="running")
        assert ids(db.query(text="runs")) == [0]
        cjk = db.collection("cjk", dim=2, tokenizer="trigram")
        cjk.add([0, 0], document="向量数据库")
        assert ids(cjk.query(text="数据库")) == ids(cjk.query(text="数据")) == [0]


def test_groups_diversity_examples_and_explanations_go_with_words(db):
    db.add_many([[0, 1], [0, 2]], [{"n": 0}, {"n": 1}], documents=["apple apple", "one apple"])
    hits = db.query(text="apple", group_by="n", k=9)
    assert [hit["group"] for hit in hits] == list(dict.fromkeys(hit["group"] for hit in hits)) and len(hits) == 2
    both = db.query([0, 0], text="apple", group_by="n", group_size=2, k=2)
    assert sorted(ids(both)) == [0, 1, 4, 5]
    assert ids(db.query(text="apple", mmr=1.0)) == ids(db.query(text="apple"))
    assert sorted(ids(db.query([0, 0], text="apple", mmr=0.2, k=6))) == [0, 1, 2, 3, 4, 5]
    assert ids(db.query(text="apple", positive=[0], k=9)).count(0) == 0
    hits = db.query(text="apple", k=2, explain=True)
    assert hits == db.query(text="apple", k=2) and hits.explanation["plan"] == "words"
    assert {"wait", "text", "rows", "dicts"} <= set(hits.explanation["stages_us"])
    told = db.query([0, 0], text="apple", explain=True).explanation
    assert told["text_candidates"] == 4 and told["candidates"] == 6 and told["plan"] != "words"
    assert db.query([0, 0], explain=True).explanation["text_candidates"] is None


def test_a_document_with_nul_is_quoted_whole(path):
    with NoPokeDB(dim=2, path=path) as db:
        db.add([1, 0], document="alpha\0beta gamma")
        hit = db.query(text="gamma", include=["snippet", "document"])[0]
        assert (hit["snippet"], hit["document"]) == ("alpha beta **gamma**", "alpha\0beta gamma")


def test_weights_stay_numbers_where_distances_are_infinite(path):
    with NoPokeDB(dim=2, path=path, space="l2") as db:
        db.add_many([[0, 0], [1, 0], [3e38, 0]], documents=["red", "green", "blue"])
        hits = db.query([0, 0], text="blue", k=3, fusion={"vector": 0.7, "text": 0.2})
        assert [hit["id"] for hit in hits] == [0, 1, 2]
        assert [round(hit["score"], 3) for hit in hits] == [0.7, 0.7, 0.2] and hits[2]["distance"] == float("inf")
