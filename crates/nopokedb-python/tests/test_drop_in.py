"""Code written for nopokedb 0.5.1 runs unchanged, with the same results where the old ones were right."""

import numpy as np
import pytest

from nopokedb import NoPokeDB

# The Quickstart of the README of 0.5.1, to the letter.
README_0_5_1 = '''
import numpy as np
from nopokedb import NoPokeDB

# Create (or load existing) DB with 128-d vectors
db = NoPokeDB(dim=128, max_elements=10_000, path="./vdb_data", space="cosine")

# Insert one vector
vec = np.random.rand(128).astype(np.float32)
vid = db.add(vec, metadata={"name": "foo"})

# Insert many at once (faster)
V = np.random.rand(5, 128).astype(np.float32)
metas = [{"i": i} for i in range(len(V))]
ids = db.add_many(V, metas)

# Query nearest neighbors
q = np.random.rand(128).astype(np.float32)
hits = db.query(q, k=3)
for h in hits:
    print(h["id"], h["score"], h["metadata"])

# Get / update / delete
print(db.get(vid))
db.upsert(vid, metadata={"name": "bar"})
db.delete(ids[0])

# Persist & close
db.save()
db.close()
'''


def test_the_readme_example_of_0_5_1_runs_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(README_0_5_1, "README", "exec"), names)
    assert names["vid"] == 0
    assert names["ids"] == [1, 2, 3, 4, 5]
    assert len(names["hits"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "{'name': 'foo'}"
    with NoPokeDB(dim=128, max_elements=10_000, path="./vdb_data", space="cosine") as db:
        assert len(db) == 5
        assert db.get(0) == {"name": "bar"}
        assert db.get(1) is None
        assert db.get(5) == {"i": 4}


def test_the_readme_example_runs_again_on_its_own_directory(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for run in range(2):
        names = {}
        exec(compile(README_0_5_1, "README", "exec"), names)
        assert names["vid"] == 6 * run


def test_positional_and_keyword_forms_of_0_5_1_are_taken(path):
    db = NoPokeDB(3, 100, path, "l2", 16, 200, 50)
    a = db.add(np.array([1, 0, 0]), {"n": "a"})
    b = db.add(vector=[0, 1, 0], metadata={"n": "b"})
    c, d = db.add_many(vectors=np.eye(3)[:2], metadatas=({"n": "c"}, {"n": "d"}))
    assert (a, b, c, d) == (0, 1, 2, 3)
    assert [h["id"] for h in db.query(vector=[1, 0, 0], k=2, ef=100)] == [h["id"] for h in db.query([1, 0, 0], 2, 100)]
    assert db.get(vid=b) == db.get(b) == {"n": "b"}
    db.upsert(vid=b, vector=np.array([0, 0, 1.0]), metadata={"n": "B"})
    db.upsert(b, None, {"n": "BB"})
    db.upsert(b, [0, 0, 2.0])
    assert db.get(b) == {"n": "BB"}
    assert db.query([0, 0, 2])[0]["distance"] == 0
    assert db.delete(vid=b) is True
    assert db.delete(b) is False
    assert db.get(b) is None
    assert db.save() is None
    assert db.close() is None
    assert db.close() is None


def test_attributes_of_0_5_1_are_readable(path):
    with NoPokeDB(dim=3, max_elements=123, path=path, space="ip", M=8, ef_construction=64, ef=32) as db:
        assert (db.dim, db.max_elements, db.path, db.space) == (3, 123, path, "ip")
        assert (db.M, db.ef_construction, db.ef) == (8, 64, 32)
        db.ef = 99
        assert db.ef == 99
    with NoPokeDB(3, path=path, space="ip") as db:
        assert (db.M, db.ef_construction, db.ef) == (8, 64, 50), "what was stored is kept"


def test_defaults_are_those_of_0_5_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with NoPokeDB(2, 10) as db:
        assert (db.space, db.M, db.ef_construction, db.ef, db.path) == ("cosine", 16, 200, 50, "./data")
        assert (tmp_path / "data").is_dir()


def formula(space, a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    if space == "l2":
        return float(((a - b) ** 2).sum())
    if space == "ip":
        return 1 - float(a @ b)
    return 1 - float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.mark.parametrize("space", ["cosine", "l2", "ip"])
def test_distances_and_scores_follow_the_formulae(path, rng, space):
    # Half of them near the queries, where 1 - distance needs more than 32 bits.
    vectors = (rng.normal(size=(300, 24)) + 2 * (np.arange(300) % 2)[:, None]).astype(np.float32)
    queries = (rng.normal(size=(5, 24)) + 2).astype(np.float32)
    with NoPokeDB(24, path=path, space=space) as db:
        db.add_many(vectors, [{"i": i} for i in range(300)])
        for query in queries:
            hits = db.query(query, k=300, exact=True)
            assert sorted(h["id"] for h in hits) == list(range(300))
            for hit in hits:
                assert set(hit) == {"id", "metadata", "score", "distance"}
                assert type(hit["id"]) is int and type(hit["score"]) is float and type(hit["distance"]) is float
                assert hit["metadata"] == {"i": hit["id"]}
                assert hit["distance"] == pytest.approx(formula(space, query, vectors[hit["id"]]), rel=1e-5, abs=1e-5)
                assert hit["score"] == (1 - hit["distance"] if space == "cosine" else -hit["distance"])
            distances = [h["distance"] for h in hits]
            assert distances == sorted(distances)
            assert [h["id"] for h in db.query(query, k=7)] == [h["id"] for h in hits[:7]]


def test_a_subclass_may_give_the_arguments_itself(path):
    class Colours(NoPokeDB):
        def __init__(self, where):
            super().__init__(dim=3, max_elements=10, path=where)
            self.names = []

        def add(self, vector, name):
            self.names.append(name)
            return super().add(vector, {"name": name})

    db = Colours(path)
    assert db.add([1, 0, 0], "red") == 0
    assert db.query([1, 0, 0])[0]["metadata"] == {"name": "red"}
    assert db.names == ["red"]
    db.close()


def test_a_database_without_rows_is_still_true(db):
    assert db
    assert len(db) == 0
