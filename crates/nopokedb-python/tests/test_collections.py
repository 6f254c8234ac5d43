"""Named collections in one directory, and the recall that can be asked for."""

import numpy as np
import pytest

from nopokedb import ClosedError, DimensionError, InvalidError, NoPokeDB


def test_collections_share_a_directory_but_no_rows(path):
    with NoPokeDB(dim=2, path=path) as db:
        images, words = db.collection("images", dim=3, space="l2"), db.collection("words", 1)
        assert isinstance(images, NoPokeDB)
        assert (images.dim, images.space, words.dim, words.space) == (3, "l2", 1, "cosine")
        assert images.add([1, 2, 3], {"a": 1}) == words.add([1]) == 0
        assert (len(images), len(words), len(db)) == (1, 1, 0)
        assert images.stats()["rows"] == 1 and db.stats()["rows"] == 0
        assert db.collections() == ["default", "images", "words"]
    with NoPokeDB(dim=2, path=path) as db:
        images = db.collection("images")
        assert (images.dim, images.space) == (3, "l2")
        assert images.query([1, 2, 3], where="a = 1")[0]["id"] == 0


def test_a_collection_is_not_what_it_was_not_made_as(db):
    db.collection("c", dim=3, model="minilm")
    with pytest.raises(DimensionError, match="minilm"):
        db.collection("c", dim=4)
    with pytest.raises(InvalidError, match="space"):
        db.collection("c", space="ip")
    with pytest.raises(InvalidError, match="nomic"):
        db.collection("c", model="nomic")
    with pytest.raises(InvalidError, match="dim"):
        db.collection("new")
    for bad in ["", 3, "x" * 300]:
        with pytest.raises(InvalidError, match="name"):
            db.collection(bad, dim=3)
    assert db.collections() == ["c", "default"]


def test_many_collections_are_made_at_once_or_none_is(path):
    with NoPokeDB(dim=2, path=path) as db:
        assert db.create_collections((f"user {i}" for i in range(1_000)), 3, "l2", model="minilm")[-1] == "user 999"
        assert db.create_collections(["user 5", "x", "x"], dim=3, space="l2") == ["x"]
        with pytest.raises(DimensionError, match='"user 5".*minilm'):
            db.create_collections(["y", "user 5"], dim=4, space="l2")
        for bad in ["abc", [3], [""]]:
            with pytest.raises(InvalidError, match="name"):
                db.create_collections(bad, dim=3)
        assert len(db.collections()) == 1_002
        assert db.collection("user 7").add([1, 2, 3]) == 0
    with NoPokeDB(dim=2, path=path) as db:
        last = db.collection("user 7")
        assert (last.dim, last.space, last.model, len(last)) == (3, "l2", "minilm", 1)


def test_the_name_of_the_model_is_kept_compared_and_named(path):
    with NoPokeDB(dim=4, path=path) as db:
        assert db.model is None
        with NoPokeDB(dim=4, path=path, model="minilm") as named_later:
            assert named_later.model == db.model == "minilm"
        plain = db.collection("c", dim=3)
        assert plain.model is None and db.collection("c", model="nomic").model == plain.model == "nomic"
        with pytest.raises(InvalidError, match='"minilm".*"bge"'):
            NoPokeDB(dim=4, path=path, model="bge")
    with pytest.raises(InvalidError, match='"minilm".*"bge"'):
        NoPokeDB(dim=4, path=path, model="bge")
    with pytest.raises(DimensionError, match='dimension 4 .made with "minilm".*dim=5'):
        NoPokeDB(dim=5, path=path)
    for bad in ["", 3, "x" * 2_000]:
        with pytest.raises(InvalidError, match="model"):
            NoPokeDB(dim=4, path=path, model=bad)
    with NoPokeDB(dim=4, path=path) as db:
        assert (db.model, db.collection("c").model) == ("minilm", "nomic")
        for call in (db.add, db.query, lambda v: db.add_many([v]), lambda v: db.query_many([v]), lambda v: db.upsert(1, v)):
            with pytest.raises(DimensionError, match='minilm'):
                call(np.ones(5))
        with NoPokeDB(path=path, read_only=True) as reader, pytest.raises(InvalidError, match="bge"):
            assert reader.model == "minilm"
            NoPokeDB(path=path, read_only=True, model="bge")


def test_a_dropped_collection_refuses_everything(db):
    old = db.collection("c", dim=1)
    old.add([1])
    assert db.drop_collection("c") and not db.drop_collection("c")
    with pytest.raises(ClosedError):
        old.add([1])
    assert len(db.collection("c", dim=2)) == 0
    with pytest.raises(InvalidError):
        db.drop_collection("default")


def test_closing_a_collection_closes_only_that_handle_and_closing_the_database_closes_all(path):
    db = NoPokeDB(dim=1, path=path)
    with db.collection("c", dim=1) as first:
        first.add([1])
    second = db.collection("c")
    for call in [lambda: first.add([1]), lambda: len(first), lambda: 0 in first, lambda: first.query([1])]:
        with pytest.raises(ClosedError):
            call()
    assert len(second) == 1 and db.add([1]) == 0
    db.close()
    with pytest.raises(ClosedError):
        second.add([1])


def test_recall_is_measured_against_exact_search(path, rng):
    with NoPokeDB(dim=32, path=path) as db:
        db.add_many(rng.normal(size=(2000, 32)), [{"n": i % 10} for i in range(2000)])
        assert 0.95 <= db.recall(k=5, sample=50) <= 1.0
        assert 0.95 <= db.recall(k=5, sample=50, where={"n": 3}) <= 1.0
        assert db.recall(where="n = 77") == 1.0
        asked = []
        for how in ({"sample": 50}, {"sample": 1_000, "where": {"n": 3}}):
            db.recall(k=5, progress=lambda done, all: asked.append(all) if done == all else None, **how)
        assert asked == [50, 200], "as many rows as the sample says, of those that pass"
        for bad in [{"k": 0}, {"sample": 0}, {"ef": 0}]:
            with pytest.raises(InvalidError, match=next(iter(bad))):
                db.recall(**bad)


def test_a_handle_says_which_collection_it_is(path):
    with NoPokeDB(dim=2, path=path) as db:
        notes = db.collection("my notes", dim=3)
        assert repr(notes) == f"NoPokeDB('{path}', collection=\"my notes\", rows=0, dim=3, space='cosine')"
        assert repr(db) == f"NoPokeDB('{path}', rows=0, dim=2, space='cosine')"
        notes.close()
        assert "closed" in repr(notes) and "closed" not in repr(db)
