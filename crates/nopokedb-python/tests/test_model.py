"""Any sequence of calls answers as a dict and a scan with NumPy would."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from nopokedb import EmptyError, InvalidError, NoPokeDB

DIM = 6


class Model:
    """What a database must be."""

    def __init__(self, space):
        self.space, self.rows, self.next = space, {}, 0

    def put(self, id, vector, metadata):
        self.rows[id] = (np.asarray(vector, np.float32), metadata)
        self.next = max(self.next, id + 1)

    def distances(self, query):
        """{id: distance} in float64."""
        ids = list(self.rows)
        rows = np.array([self.rows[id][0] for id in ids], np.float64)
        query = np.asarray(query, np.float32).astype(np.float64)
        if self.space == "l2":
            found = ((rows - query) ** 2).sum(1)
        elif self.space == "ip":
            found = 1 - rows @ query
        else:
            norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(query)
            found = 1 - np.divide(rows @ query, norms, out=np.zeros(len(ids)), where=norms > 0)
        return dict(zip(ids, found))

    def check_hits(self, query, k, hits):
        expected = self.distances(query)
        assert len(hits) == min(k, len(expected))
        assert len({hit["id"] for hit in hits}) == len(hits)
        for hit, distance in zip(hits, sorted(expected.values())):
            assert hit["distance"] == pytest.approx(distance, rel=1e-4, abs=1e-4)
            assert hit["distance"] == pytest.approx(expected[hit["id"]], rel=1e-4, abs=1e-4)
            assert hit["metadata"] == self.rows[hit["id"]][1]


class Walk:
    """A random walk through the calls, on a database and on its model at once."""

    def __init__(self, path, space, seed):
        self.path, self.space, self.random = path, space, random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.model = Model(space)
        self.open()

    def open(self):
        self.db = NoPokeDB(DIM, path=self.path, space=self.space)

    def vector(self):
        if self.random.random() < 0.05:
            return np.zeros(DIM, np.float32)
        return self.numbers.normal(size=DIM).astype(np.float32)

    def metadata(self):
        return self.random.choice([None, {}, {"n": self.random.random()}, {"tags": ["a" * self.random.randrange(50)]}])

    def some_id(self):
        return self.random.randrange(self.model.next + 3)

    def add(self):
        vector, metadata = self.vector(), self.metadata()
        id = self.db.add(vector, metadata)
        assert id >= self.model.next
        self.model.put(id, vector, metadata)

    def add_many(self):
        n = self.random.choice([1, 2, 10, 300])
        vectors, metadatas = self.numbers.normal(size=(n, DIM)).astype(np.float32), [self.metadata() for _ in range(n)]
        ids = self.db.add_many(vectors, metadatas)
        assert ids == list(range(ids[0], ids[0] + n)) and ids[0] >= self.model.next
        for row in zip(ids, vectors, metadatas):
            self.model.put(*row)

    def add_given(self):
        ids = self.random.sample(range(self.model.next + 20), 3)
        vectors = self.numbers.normal(size=(3, DIM)).astype(np.float32)
        taken = [id for id in ids if id in self.model.rows]
        if taken:
            with pytest.raises(InvalidError, match=str(taken[0])):
                self.db.add_many(vectors, ids=ids)
        else:
            assert self.db.add_many(vectors, ids=ids) == ids
            for id, vector in zip(ids, vectors):
                self.model.put(id, vector, None)

    def upsert(self):
        id, vector, metadata = self.some_id(), self.random.choice([None, self.vector()]), self.metadata()
        old = self.model.rows.get(id)
        if old is None and vector is None:
            with pytest.raises(InvalidError):
                self.db.upsert(id, vector, metadata)
        else:
            self.db.upsert(id, vector, metadata)
            old_vector, old_metadata = old or (None, None)
            self.model.put(id, old_vector if vector is None else vector, old_metadata if metadata is None else metadata)

    def delete(self):
        id = self.some_id()
        assert self.db.delete(id) is (self.model.rows.pop(id, None) is not None)

    def delete_many(self):
        for id in self.random.sample(sorted(self.model.rows), len(self.model.rows) // 2):
            assert self.db.delete(id)
            del self.model.rows[id]

    def look(self):
        id = self.some_id()
        assert (id in self.db) is (id in self.model.rows)
        assert self.db.get(id) == self.model.rows.get(id, (None, None))[1]
        assert len(self.db) == len(self.model.rows)

    def query(self):
        query, k = self.vector(), self.random.choice([1, 5, 50, 10_000])
        if not self.model.rows:
            with pytest.raises(EmptyError):
                self.db.query(query, k=k)
            return
        self.model.check_hits(query, k, self.db.query(query, k=k, exact=True))
        hits = self.db.query(query, k=k)
        assert len(hits) == min(k, len(self.model.rows)) == len({hit["id"] for hit in hits})
        expected = self.model.distances(query)
        for hit in hits:
            assert hit["distance"] == pytest.approx(expected[hit["id"]], rel=1e-4, abs=1e-4)

    def save(self):
        self.db.save()

    def index(self):
        assert self.db.wait_indexed(timeout=60)

    def reopen(self):
        self.db.close()
        self.open()

    def lose_a_cache(self):
        self.db.close()
        for file in Path(self.path).glob(self.random.choice(["meta.sqlite*", "index"])):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        self.open()

    def check(self):
        assert len(self.db) == len(self.model.rows)
        for id, (_, metadata) in self.model.rows.items():
            assert id in self.db and self.db.get(id) == metadata
        if self.model.rows:
            for query in self.numbers.normal(size=(5, DIM)):
                self.model.check_hits(query, 10, self.db.query(query, k=10, exact=True))


STEPS = {
    Walk.add: 10,
    Walk.add_many: 4,
    Walk.add_given: 3,
    Walk.upsert: 8,
    Walk.delete: 6,
    Walk.delete_many: 1,
    Walk.look: 6,
    Walk.query: 6,
    Walk.save: 1,
    Walk.index: 1,
    Walk.reopen: 1,
    Walk.lose_a_cache: 1,
}


@pytest.mark.parametrize("seed", [1])
@pytest.mark.parametrize("space", ["cosine", "l2", "ip"])
def test_any_sequence_of_calls_answers_as_a_dict_and_a_scan_would(path, space, seed):
    walk = Walk(path, space, seed)
    for step in walk.random.choices(list(STEPS), list(STEPS.values()), k=150):
        step(walk)
    walk.check()
    walk.reopen()
    walk.check()
    walk.db.close()
