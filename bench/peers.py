"""One class per engine: how it is built, what its search is turned up with, and how one query is asked.

Each runs in its own process (worker.py) with its own packages (requirements/<package>.txt). All are given the same rows and
queries, cosine, M=16 and ef_construction=200 where they have them, and two threads or as many as there are cores to
build; queries come one at a time from one thread. Durable engines store {"i": row, "even": bool} with each row and
return it with each hit.
"""

import json
import os

import numpy as np

K = 10
M, EF_CONSTRUCTION = 16, 200
BATCH = 5_000
EFS = [10, 16, 32, 50, 100, 200, 400, 800]


def metadata(i):
    return {"i": i, "even": i % 2 == 0}


def batches(rows):
    for start in range(0, len(rows), BATCH):
        yield start, rows[start : start + BATCH]


def unit(rows):
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms == 0, 1, norms)


class Peer:
    """What worker.py expects. `settings` is the sweep: values for `use`."""

    package = ""  # requirements/<package>.txt
    note = ""
    durable = False
    threaded = True  # whether several threads may ask at once
    settings = EFS
    default = 50
    # Phases that `build` measured by itself, as {name: seconds}.
    phases = None

    def __init__(self, dim, rows, folder, threads):
        self.dim, self.rows, self.folder, self.threads = dim, rows, folder, threads

    def build(self, base):
        raise NotImplementedError

    def use(self, setting):
        self.setting = setting

    def query(self, q):
        """Ids of the K nearest, as any sequence."""
        raise NotImplementedError

    def add(self, i, v):
        """Durable engines: one more row, on the disk when this returns, as far as the engine offers that."""
        raise NotImplementedError

    def open(self):
        """Durable engines: opens what `build` left behind, in another process."""
        raise NotImplementedError

    def close(self):
        pass


class NoPokeDB(Peer):
    note = "default settings, fsynced, metadata in every hit"
    durable = True
    settings = [*EFS, "exact"]

    def build(self, base):
        import time

        from nopokedb import NoPokeDB as Database

        self.db = Database(self.dim, path=self.folder)
        start = time.perf_counter()
        for first, rows in batches(base):
            self.db.add_many(rows, [metadata(first + i) for i in range(len(rows))])
        loaded = time.perf_counter()
        self.db.wait_indexed()
        self.phases = {"load": loaded - start, "index": time.perf_counter() - start}

    def query(self, q):
        if self.setting == "exact":
            return [hit["id"] for hit in self.db.query(q, K, exact=True)]
        return [hit["id"] for hit in self.db.query(q, K, self.setting)]

    def add(self, i, v):
        self.db.add(v, metadata(i))

    def open(self):
        from nopokedb import NoPokeDB as Database

        self.db = Database(self.dim, path=self.folder)

    def close(self):
        self.db.close()


class NoPokeDBOld(Peer):
    package = "nopokedb_old"
    note = "0.5.1; its index is durable after save() only"
    durable = True
    threaded = False
    settings = EFS

    def build(self, base):
        from nopokedb import NoPokeDB as Database

        self.db = Database(self.dim, self.rows, self.folder, "cosine", M, EF_CONSTRUCTION)
        for first, rows in batches(base):
            self.db.add_many(rows, [metadata(first + i) for i in range(len(rows))])
        self.db.save()

    def query(self, q):
        return [hit["id"] for hit in self.db.query(q, K, self.setting)]

    def add(self, i, v):
        self.db.add(v, metadata(i))

    def open(self):
        from nopokedb import NoPokeDB as Database

        self.db = Database(self.dim, self.rows, self.folder, "cosine", M, EF_CONSTRUCTION)

    def close(self):
        self.db.close()


class Hnswlib(Peer):
    package = "hnswlib"

    def build(self, base):
        import hnswlib

        self.index = hnswlib.Index("cosine", self.dim)
        self.index.init_index(self.rows, M=M, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(base, num_threads=self.threads)

    def use(self, setting):
        self.index.set_ef(setting)

    def query(self, q):
        return self.index.knn_query(q, K, num_threads=1)[0][0]


class FaissHnsw(Peer):
    package = "faiss"
    note = "HNSW16 as it comes: efConstruction 40, efSearch 16"
    default = 16
    factory = "HNSW16"

    def build(self, base):
        import faiss

        faiss.omp_set_num_threads(self.threads)
        self.index = faiss.index_factory(self.dim, self.factory, faiss.METRIC_INNER_PRODUCT)
        rows = unit(base)
        self.index.train(rows)
        self.index.add(rows)
        faiss.omp_set_num_threads(1)

    def use(self, setting):
        self.index.hnsw.efSearch = setting

    def query(self, q):
        return self.index.search(unit(q)[None], K)[1][0]


class FaissHnswSq8(FaissHnsw):
    note = "HNSW16_SQ8, efConstruction 200"
    default = 50

    def build(self, base):
        import faiss

        faiss.omp_set_num_threads(self.threads)
        self.index = faiss.IndexHNSWSQ(self.dim, faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = EF_CONSTRUCTION
        rows = unit(base)
        self.index.train(rows)
        self.index.add(rows)
        faiss.omp_set_num_threads(1)


class FaissFlat(FaissHnsw):
    note = "exact"
    factory = "Flat"
    settings = ["exact"]
    default = "exact"

    def use(self, setting):
        pass


class Usearch(Peer):
    package = "usearch"
    dtype = "f32"

    def build(self, base):
        from usearch.index import Index

        self.index = Index(
            ndim=self.dim, metric="cos", dtype=self.dtype, connectivity=M, expansion_add=EF_CONSTRUCTION
        )
        self.index.add(np.arange(len(base)), base, threads=self.threads)

    def use(self, setting):
        self.index.expansion_search = setting

    def query(self, q):
        return self.index.search(q, K, threads=1).keys


class UsearchI8(Usearch):
    dtype = "i8"


class UsearchBf16(Usearch):
    dtype = "bf16"


class Scann(Peer):
    package = "scann"
    note = "tree, asymmetric hashing, reorder; sweeps (leaves searched, rows reordered)"

    def build(self, base):
        import scann

        rows = unit(base)
        leaves = max(16, int(np.sqrt(len(rows))))
        self.settings = [(max(1, int(leaves * part)), n) for part, n in self.sweep]
        self.default = self.settings[7]
        self.index = (
            scann.scann_ops_pybind.builder(rows, K, "dot_product")
            .tree(leaves, leaves // 10, training_sample_size=min(len(rows), 250_000))
            .score_ah(2, anisotropic_quantization_threshold=0.2)
            .reorder(100)
            .build()
        )

    # On data without clusters searching every leaf is best, on others a few: both ways are in the sweep.
    sweep = [(0.02, 40), (0.05, 80), (0.1, 100), (0.2, 150), (0.4, 200), (0.7, 300)]
    sweep += [(1.0, 40), (1.0, 100), (1.0, 200), (1.0, 400), (1.0, 800)]
    settings = [str(pair) for pair in sweep]

    def query(self, q):
        leaves, reorder = self.setting
        return self.index.search(unit(q), K, pre_reorder_num_neighbors=reorder, leaves_to_search=leaves)[0]


class Svs(Peer):
    package = "svs"
    note = "Vamana, f32, 32 links, window 200"

    def build(self, base):
        import svs

        parameters = svs.VamanaBuildParameters(
            graph_max_degree=2 * M, window_size=EF_CONSTRUCTION, alpha=0.95
        )
        self.index = svs.Vamana.build(parameters, self.data(svs, unit(base)), svs.DistanceType.MIP, self.threads)
        self.index.num_threads = 1

    def data(self, svs, rows):
        return rows

    def use(self, setting):
        self.index.search_window_size = setting

    def query(self, q):
        return self.index.search(unit(q)[None], K)[0][0]


class SvsLvq(Svs):
    note = "Vamana over LVQ 4x8 codes"

    def data(self, svs, rows):
        folder = os.path.join(self.folder, "vectors.svs")
        os.makedirs(self.folder, exist_ok=True)
        svs.write_vecs(rows, folder + ".fvecs")
        loader = svs.VectorDataLoader(folder + ".fvecs", svs.DataType.float32, dims=self.dim)
        return svs.LVQLoader(loader, primary=4, residual=8)


class Zvec(Peer):
    package = "zvec"
    note = "HNSW, int8 with refiner"
    durable = True
    settings = [10, 50, 100, 200, 400]
    default = 200

    def build(self, base):
        import zvec

        vector = zvec.VectorSchema(
            "v",
            zvec.DataType.VECTOR_FP32,
            self.dim,
            zvec.HnswIndexParam(
                metric_type=zvec.MetricType.COSINE,
                m=M,
                ef_construction=EF_CONSTRUCTION,
                quantize_type=zvec.QuantizeType.INT8,
            ),
        )
        fields = [zvec.FieldSchema("i", zvec.DataType.INT64), zvec.FieldSchema("even", zvec.DataType.BOOL)]
        self.db = zvec.create_and_open(self.folder, zvec.CollectionSchema("bench", fields, vector))
        for first, rows in batches(base):
            for part in range(0, len(rows), 1_000):
                docs = [
                    zvec.Doc(id=str(first + i), vectors={"v": rows[i].tolist()}, fields=metadata(first + i))
                    for i in range(part, min(part + 1_000, len(rows)))
                ]
                self.db.insert(docs)
        self.db.flush()
        self.db.optimize()

    def use(self, setting):
        import zvec

        self.parameters = zvec.HnswQueryParam(ef=setting, is_using_refiner=True)

    def query(self, q):
        import zvec

        found = self.db.query(zvec.Query("v", vector=q, param=self.parameters), topk=K, output_fields=["i", "even"])
        return [doc.field("i") for doc in found]

    def add(self, i, v):
        import zvec

        self.db.insert([zvec.Doc(id=str(i), vectors={"v": v.tolist()}, fields=metadata(i))])
        self.db.flush()

    def open(self):
        import zvec

        self.db = zvec.open(self.folder)

    def close(self):
        self.db.close()


class QdrantEdge(Peer):
    package = "qdrant_edge"
    note = "HNSW, int8 with rescoring"
    durable = True
    settings = [16, 50, 100, 200, 400]
    default = 200

    def config(self):
        import qdrant_edge as qe

        return qe.EdgeConfig(
            vectors=qe.EdgeVectorParams(
                self.dim,
                qe.Distance.Cosine,
                hnsw_config=qe.HnswIndexConfig(M, EF_CONSTRUCTION, 1_000, max_indexing_threads=self.threads),
                quantization_config=qe.ScalarQuantizationConfig(qe.ScalarType.Int8, always_ram=True),
            ),
            optimizers=qe.EdgeOptimizersConfig(indexing_threshold=1_000),
        )

    def build(self, base):
        import qdrant_edge as qe

        os.makedirs(self.folder, exist_ok=True)
        self.db = qe.EdgeShard.create(self.folder, self.config())
        for first, rows in batches(base):
            points = [qe.Point(first + i, row.tolist(), metadata(first + i)) for i, row in enumerate(rows)]
            self.db.update(qe.UpdateOperation.upsert_points(points))
        self.db.flush()
        self.db.optimize()

    def use(self, setting):
        import qdrant_edge as qe

        quantization = qe.QuantizationSearchParams(rescore=True, oversampling=2.0)
        self.parameters = qe.SearchParams(hnsw_ef=setting, quantization=quantization)

    def query(self, q):
        import qdrant_edge as qe

        request = qe.QueryRequest(
            K, query=qe.Query.Nearest(q.tolist()), with_payload=True, with_vector=False, params=self.parameters
        )
        return [point.id for point in self.db.query(request)]

    def add(self, i, v):
        import qdrant_edge as qe

        self.db.update(qe.UpdateOperation.upsert_points([qe.Point(i, v.tolist(), metadata(i))]))
        self.db.flush()

    def open(self):
        import qdrant_edge as qe

        self.db = qe.EdgeShard.load(self.folder)

    def close(self):
        self.db.close()


class Chroma(Peer):
    package = "chroma"
    durable = True
    settings = [10, 50, 100, 200]
    default = 100

    def client(self):
        import chromadb
        from chromadb.config import Settings

        return chromadb.PersistentClient(self.folder, settings=Settings(anonymized_telemetry=False))

    def build(self, base):
        hnsw = {"space": "cosine", "ef_construction": EF_CONSTRUCTION, "max_neighbors": M, "num_threads": self.threads}
        self.db = self.client().create_collection("bench", configuration={"hnsw": hnsw}, embedding_function=None)
        for first, rows in batches(base):
            ids = range(first, first + len(rows))
            self.db.add([str(i) for i in ids], embeddings=rows, metadatas=[metadata(i) for i in ids])

    def use(self, setting):
        # The beam belongs to the collection; changing it is a write.
        self.db.modify(configuration={"hnsw": {"ef_search": setting}})

    def query(self, q):
        found = self.db.query(query_embeddings=q[None], n_results=K, include=["metadatas", "distances"])
        return [int(i) for i in found["ids"][0]]

    def add(self, i, v):
        self.db.add([str(i)], embeddings=v[None], metadatas=[metadata(i)])

    def open(self):
        self.db = self.client().get_collection("bench", embedding_function=None)


class LanceDb(Peer):
    package = "lancedb"
    note = "IVF_HNSW_SQ, one partition, refine factor 2"
    durable = True
    settings = [32, 50, 100, 200, 400]
    default = 100

    def build(self, base):
        import lancedb
        import pyarrow as pa

        db = lancedb.connect(self.folder)
        values = pa.field("v", pa.list_(pa.float32(), self.dim))
        schema = pa.schema([values, pa.field("i", pa.int64()), pa.field("even", pa.bool_())])
        self.db = db.create_table("bench", schema=schema)
        for first, rows in batches(base):
            ids = np.arange(first, first + len(rows))
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), self.dim)
            self.db.add(pa.table([vectors, pa.array(ids), pa.array(ids % 2 == 0)], schema=schema))
        self.db.create_index(
            "cosine",
            num_partitions=1,
            vector_column_name="v",
            index_type="IVF_HNSW_SQ",
            m=M,
            ef_construction=EF_CONSTRUCTION,
        )

    def query(self, q):
        search = self.db.search(q, vector_column_name="v").distance_type("cosine").ef(self.setting).refine_factor(2)
        return search.select(["i", "even"]).limit(K).to_arrow()["i"].to_numpy()

    def add(self, i, v):
        self.db.add([{"v": v, "i": i, "even": i % 2 == 0}])

    def open(self):
        import lancedb

        self.db = lancedb.connect(self.folder).open_table("bench")


class SqliteVec(Peer):
    package = "sqlite_vec"
    note = "exact"
    durable = True
    threaded = False
    settings = ["exact"]
    default = "exact"

    def connect(self):
        import apsw
        import sqlite_vec

        os.makedirs(self.folder, exist_ok=True)
        self.db = apsw.Connection(os.path.join(self.folder, "bench.db"))
        self.db.enable_load_extension(True)
        self.db.load_extension(sqlite_vec.loadable_path())

    def build(self, base):
        self.connect()
        self.db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        self.db.execute("CREATE TABLE meta(i INTEGER PRIMARY KEY, json TEXT)")
        self.db.execute(f"CREATE VIRTUAL TABLE v USING vec0(e float[{self.dim}] distance_metric=cosine)")
        for first, rows in batches(base):
            with self.db:
                ids = range(first, first + len(rows))
                self.db.executemany("INSERT INTO meta VALUES (?, ?)", ((i, json.dumps(metadata(i))) for i in ids))
                pairs = ((i, row.tobytes()) for i, row in zip(ids, rows))
                self.db.executemany("INSERT INTO v(rowid, e) VALUES (?, ?)", pairs)

    def query(self, q):
        sql = (
            "WITH near AS (SELECT rowid, distance FROM v WHERE e MATCH ? AND k = ?) "
            "SELECT i, json FROM near JOIN meta ON meta.i = near.rowid ORDER BY distance"
        )
        return [i for i, text in self.db.execute(sql, (q.tobytes(), K)) if json.loads(text)]

    def add(self, i, v):
        with self.db:
            self.db.execute("INSERT INTO meta VALUES (?, ?)", (i, json.dumps(metadata(i))))
            self.db.execute("INSERT INTO v(rowid, e) VALUES (?, ?)", (i, v.tobytes()))

    def open(self):
        self.connect()

    def close(self):
        self.db.close()


PEERS = {
    "nopokedb": NoPokeDB,
    "hnswlib": Hnswlib,
    "faiss-hnsw": FaissHnsw,
    "faiss-hnsw-sq8": FaissHnswSq8,
    "faiss-flat": FaissFlat,
    "scann": Scann,
    "svs": Svs,
    "svs-lvq": SvsLvq,
    "usearch": Usearch,
    "usearch-i8": UsearchI8,
    "usearch-bf16": UsearchBf16,
    "zvec": Zvec,
    "qdrant-edge": QdrantEdge,
    "chroma": Chroma,
    "lancedb": LanceDb,
    "sqlite-vec": SqliteVec,
    "nopokedb-0.5.1": NoPokeDBOld,
}
