"""Bad input gets a clear, typed error, and nothing is lost or half-written."""

import datetime
import decimal
import itertools
import os
import uuid

import numpy as np
import pytest

import nopokedb
from nopokedb import DimensionError, DuplicateIdError, InvalidError, MetadataError, NoPokeDB

NAN_ROW = np.ones((3, 4), np.float32)
NAN_ROW[2, 1] = np.nan
CYCLE = {}
CYCLE["self"] = [CYCLE]
DEEP = {}
for _ in range(200):
    DEEP = {"d": DEEP}

# name: (call, error, words of the message)
REFUSED = {
    "short vector": (lambda db: db.add([1, 2, 3]), DimensionError, ["dimension 4", "got 3"]),
    "long vector": (lambda db: db.query(np.ones(5)), DimensionError, ["dimension 4", "got 5"]),
    "a row as a vector": (lambda db: db.add(np.ones((1, 4))), DimensionError, ["(4,)", "(1, 4)"]),
    "a number as a vector": (lambda db: db.add(3.0), DimensionError, ["(4,)", "()"]),
    "a text as a vector": (lambda db: db.query("how?"), InvalidError, ["got a str", "embedding"]),
    "a vector as a batch": (lambda db: db.add_many(np.ones(4)), DimensionError, ["(n, 4)", "(4,)"]),
    "three dimensions": (lambda db: db.add_many(np.ones((2, 2, 4))), DimensionError, ["(n, 4)", "(2, 2, 4)"]),
    "wide batch": (lambda db: db.add_many(np.ones((2, 6))), DimensionError, ["dimension 4", "got 6"]),
    "wide queries": (lambda db: db.query_many(np.ones((2, 6))), DimensionError, ["dimension 4", "got 6"]),
    "ragged batch": (lambda db: db.add_many([[1, 2, 3, 4], [1, 2, 3]]), DimensionError, ["row 1", "3 numbers", "dimension 4"]),
    "upsert of a short vector": (lambda db: db.upsert(0, [1.0]), DimensionError, ["dimension 4", "got 1"]),
    "nan": (lambda db: db.add([1, np.nan, 1, 1]), InvalidError, ["NaN", "position 1"]),
    "infinity": (lambda db: db.add([1, 1, 1, -np.inf]), InvalidError, ["-inf", "position 3"]),
    "nan in a batch": (lambda db: db.add_many(NAN_ROW), InvalidError, ["row 2", "NaN", "position 1"]),
    "nan in a query": (lambda db: db.query([np.nan] * 4), InvalidError, ["NaN"]),
    "nan in an upsert": (lambda db: db.upsert(0, [np.nan] * 4), InvalidError, ["NaN"]),
    "bool vector": (lambda db: db.add(np.ones(4, bool)), InvalidError, ["dtype bool"]),
    "complex vector": (lambda db: db.add(np.ones(4, complex)), InvalidError, ["dtype complex128"]),
    "str vector": (lambda db: db.add(["1", "2", "3", "4"]), InvalidError, ["dtype <U1"]),
    "object vector": (lambda db: db.add([1, None, 2, 3]), InvalidError, ["dtype object"]),
    "dates": (lambda db: db.add(np.array(["2020-01-01"] * 4, "M8[D]")), InvalidError, ["dtype datetime64"]),
    "no vector": (lambda db: db.add(None), DimensionError, ["(4,)", "()"]),
    "metadata is a list": (lambda db: db.add(np.ones(4), ["a"]), MetadataError, ["must be a dict", "list"]),
    "metadata is a str": (lambda db: db.add(np.ones(4), "a"), MetadataError, ["must be a dict", "str"]),
    "bytes": (lambda db: db.add(np.ones(4), {"a": {"b": [0, b"x"]}}), MetadataError, ['"a.b[1]"', "bytes", "decode"]),
    "set": (lambda db: db.add(np.ones(4), {"tags": {1}}), MetadataError, ['"tags"', "set"]),
    "datetime": (lambda db: db.add(np.ones(4), {"t": datetime.datetime.now()}), MetadataError, ['"t"', "datetime", "isoformat"]),
    "uuid": (lambda db: db.add(np.ones(4), {"u": uuid.uuid4()}), MetadataError, ['"u"', "UUID"]),
    "decimal": (lambda db: db.add(np.ones(4), {"d": decimal.Decimal(1)}), MetadataError, ['"d"', "Decimal"]),
    "array": (lambda db: db.add(np.ones(4), {"v": np.ones(1)}), MetadataError, ['"v"', "ndarray", "tolist"]),
    "numpy date": (lambda db: db.add(np.ones(4), {"t": np.datetime64("2020-01-01")}), MetadataError, ['"t"']),
    "object": (lambda db: db.add(np.ones(4), {"o": object()}), MetadataError, ['"o"', "object"]),
    "nan value": (lambda db: db.add(np.ones(4), {"x": [float("nan")]}), MetadataError, ['"x[0]"', "NaN"]),
    "infinite value": (lambda db: db.add(np.ones(4), {"x": np.float32("inf")}), MetadataError, ['"x"', "inf"]),
    "tuple key": (lambda db: db.add(np.ones(4), {"a": {(1, 2): 2}}), MetadataError, ['"a"', "key (1, 2)", "tuple", "keys must be str"]),
    "NumPy key": (lambda db: db.add(np.ones(4), {np.int64(3): 2}), MetadataError, ["int64", "keys must be str"]),
    "NaN key": (lambda db: db.add(np.ones(4), {float("nan"): 2}), MetadataError, ["key nan", "keys must be str"]),
    "a key twice as text": (lambda db: db.add(np.ones(4), {"a": {1: 2, "1": 3}}), MetadataError, ['"a.1"', "twice"]),
    "huge int": (lambda db: db.add(np.ones(4), {"n": 2**64}), MetadataError, ['"n"', "18446744073709551616", "64 bits"]),
    "very negative int": (lambda db: db.add(np.ones(4), {"n": -(2**63) - 1}), MetadataError, ['"n"', "64 bits"]),
    "enormous int": (lambda db: db.add(np.ones(4), {"n": 10**6000}), MetadataError, ['"n"', "64 bits"]),
    "lone surrogate": (lambda db: db.add(np.ones(4), {"s": "a\ud800"}), MetadataError, ['"s"', "surrogate"]),
    "lone surrogate in a key": (lambda db: db.add(np.ones(4), {"\udfff": 1}), MetadataError, ["key", "surrogate"]),
    "cycle": (lambda db: db.add(np.ones(4), CYCLE), MetadataError, ["128 levels", "contains itself"]),
    "nesting": (lambda db: db.add(np.ones(4), DEEP), MetadataError, ["128 levels"]),
    "metadata of one row": (lambda db: db.add_many(np.ones((3, 4)), [{}, {}, {"a": b""}]), MetadataError, ["row 2", '"a"']),
    "upsert of bad metadata": (lambda db: db.upsert(0, metadata={"a": b""}), MetadataError, ['"a"', "bytes"]),
    "too few metadatas": (lambda db: db.add_many(np.ones((3, 4)), [{}, {}]), InvalidError, ["3 vectors", "2 metadatas"]),
    "too many metadatas": (lambda db: db.add_many(np.ones((1, 4)), [{}, {}]), InvalidError, ["1 vectors", "2 metadatas"]),
    "one dict for all": (lambda db: db.add_many(np.ones((1, 4)), {"a": 1}), InvalidError, ["metadatas", "dict"]),
    "too few ids": (lambda db: db.add_many(np.ones((3, 4)), ids=[7]), InvalidError, ["3 vectors", "1 ids"]),
    "too few documents": (lambda db: db.add_many(np.ones((3, 4)), documents=["x"]), InvalidError, ["3 vectors", "1 documents"]),
    "one text for all": (lambda db: db.add_many(np.ones((3, 4)), documents="abc"), InvalidError, ["documents", "str"]),
    "document is a number": (lambda db: db.add(np.ones(4), document=3), InvalidError, ["document", "int 3"]),
    "broken document": (lambda db: db.add(np.ones(4), document="\ud800"), InvalidError, ["document", "surrogate"]),
    "an id that exists": (lambda db: db.add(np.ones(4), id=0), DuplicateIdError, ["0", "exist"]),
    "ids that exist": (lambda db: db.add_many(np.ones((2, 4)), ids=[1, 77]), DuplicateIdError, ["1", "exist"]),
    "an id twice": (lambda db: db.add_many(np.ones((3, 4)), ids=[7, 8, 7]), DuplicateIdError, ["7", "twice"]),
    "negative id": (lambda db: db.add(np.ones(4), id=-1), InvalidError, ["id", "-1"]),
    "float id": (lambda db: db.add(np.ones(4), id=1.0), InvalidError, ["id", "float 1.0"]),
    "huge id": (lambda db: db.add(np.ones(4), id=2**63), InvalidError, ["id", str(2**63)]),
    "the last id": (lambda db: db.add(np.ones(4), id=2**63 - 1), InvalidError, [str(2**63 - 1)]),
    "bytes id": (lambda db: db.get(b"a"), InvalidError, ["integer", "str", "b'a'"]),
    "empty id": (lambda db: db.add(np.ones(4), id=""), InvalidError, ["1 to 65535 bytes"]),
    "long id": (lambda db: db.add(np.ones(4), id="x" * 70_000), InvalidError, ["1 to 65535 bytes"]),
    "broken id": (lambda db: db.add(np.ones(4), id="\ud800"), InvalidError, ["id", "surrogate"]),
    "on_conflict": (lambda db: db.add(np.ones(4), on_conflict="ignore"), InvalidError, ['"skip"', "'ignore'"]),
    "bool id": (lambda db: db.delete(True), InvalidError, ["integer", "True"]),
    "a bad id among many": (lambda db: db.add_many(np.ones((2, 4)), ids=[5, 1.5]), InvalidError, ["ids[1]", "1.5"]),
    "k of 0": (lambda db: db.query(np.ones(4), k=0), InvalidError, ["k", "1", "got 0"]),
    "negative k": (lambda db: db.query(np.ones(4), k=-3), InvalidError, ["k", "at least 1", "-3"]),
    "float k": (lambda db: db.query(np.ones(4), k=2.5), InvalidError, ["k", "float 2.5"]),
    "k of many": (lambda db: db.query_many(np.ones((2, 4)), k=0), InvalidError, ["k", "got 0"]),
    "ef of 0": (lambda db: db.query(np.ones(4), ef=0), InvalidError, ["ef", "got 0"]),
    "huge ef": (lambda db: db.query(np.ones(4), ef=10**6), InvalidError, ["ef", "65536"]),
    "exact and a recall": (lambda db: db.query(np.ones(4), exact=True, recall=0.9), InvalidError, ["leave out recall"]),
    "exact and a beam": (lambda db: db.query_many(np.ones((1, 4)), exact=True, ef=9), InvalidError, ["leave out ef"]),
    "a recall and a beam": (lambda db: db.query(np.ones(4), recall=0.9, ef=9), InvalidError, ["give one of them"]),
    "setting ef to 0": (lambda db: setattr(db, "ef", 0), InvalidError, ["ef", "65536", "got 0"]),
    "setting a huge ef": (lambda db: setattr(db, "ef", 65_537), InvalidError, ["ef", "65536", "got 65537"]),
    "new id without vector": (lambda db: db.upsert(99, metadata={}), InvalidError, ["99", "vector"]),
    "negative timeout": (lambda db: db.wait_indexed(timeout=-1), InvalidError, ["timeout", "-1"]),
    "ids without end": (lambda db: db.add_many(np.ones((2, 4)), ids=itertools.count(50)), InvalidError, ["2 vectors", "ids"]),
    "metadatas without end": (lambda db: db.add_many(np.ones((2, 4)), itertools.repeat({})), InvalidError, ["2 vectors", "metadatas"]),
    "documents without end": (
        lambda db: db.add_many(np.ones((2, 4)), documents=itertools.repeat("x")),
        InvalidError,
        ["2 vectors", "documents"],
    ),
    "ttls without end": (lambda db: db.add_many(np.ones((2, 4)), ttl=itertools.repeat(5)), InvalidError, ["2 vectors", "ttl"]),
    "bytes as a vector": (lambda db: db.add(np.ones(4, "f4").tobytes()), InvalidError, ["bytes", "frombuffer"]),
    "rerank_factor of 0": (
        lambda db: db.query(np.ones(4), rerank=list, rerank_factor=0),
        InvalidError,
        ["rerank_factor", "got 0"],
    ),
    "the calendar's first day": (
        lambda db: db.add(np.ones(4), expires_at=datetime.datetime.min),
        InvalidError,
        ["expires_at", "time zone"],
    ),
    "a mode for an expression": (
        lambda db: db.query(text="a b", text_mode="all", text_syntax="fts5"),
        InvalidError,
        ["leave text_mode out"],
    ),
    "NUL as a highlight": (lambda db: db.query(text="a", highlight=("\0", "")), InvalidError, ["highlight", "NUL"]),
    "update of no row": (lambda db: db.update("nope", {"a": 1}), InvalidError, ['no row "nope"']),
    "backup to an empty path": (lambda db: db.backup(""), InvalidError, ["path is empty"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_a_typed_error_and_nothing_is_written(path, truth, case):
    call, error, words = REFUSED[case]
    with NoPokeDB(4, path=path) as db:
        db.add_many(np.eye(4)[:2], [{"row": 0}, {"row": 1}])
    # After an orderly close the log has nothing to note of its own while the call is tried.
    with NoPokeDB(4, path=path) as db:
        before, lsn = truth(path), db.stats()["visible_lsn"]
        with pytest.raises(error) as raised:
            call(db)
        assert type(raised.value) is error
        assert isinstance(raised.value, (nopokedb.NoPokeDBError, ValueError))
        for word in words:
            assert word in str(raised.value)
        assert truth(path) == before and db.stats()["visible_lsn"] == lsn
        assert len(db) == 2 and db.get(0) == {"row": 0} and db.get(1) == {"row": 1}
        assert db.add(np.ones(4)) not in (0, 1) and len(db) == 3, "and the handle goes on"


def test_nothing_of_a_refused_batch_is_there_after_reopening(path):
    with NoPokeDB(4, path=path) as db:
        db.add_many(np.ones((5, 4)))
        with pytest.raises(InvalidError):
            db.add_many(NAN_ROW)
        with pytest.raises(DuplicateIdError):
            db.add_many(np.ones((3, 4)), ids=[20, 21, 3])
    with NoPokeDB(4, path=path) as db:
        assert len(db) == 5 and 20 not in db


OPENINGS = {
    "dim of 0": (dict(dim=0), InvalidError, ["dim", "1", "65535", "got 0"]),
    "negative dim": (dict(dim=-1), InvalidError, ["dim", "-1"]),
    "huge dim": (dict(dim=65_536), InvalidError, ["dim", "65535", "65536"]),
    "float dim": (dict(dim=4.0), InvalidError, ["dim", "integer", "float 4.0"]),
    "unknown space": (dict(dim=4, space="manhattan"), InvalidError, ["manhattan", "cosine", "l2", "ip"]),
    "space of another type": (dict(dim=4, space=3), InvalidError, ["3", "cosine"]),
    "M of 1": (dict(dim=4, M=1), InvalidError, ["M", "2", "256", "got 1"]),
    "huge ef_construction": (dict(dim=4, ef_construction=10**6), InvalidError, ["ef_construction", "4096"]),
    "ef of 0": (dict(dim=4, ef=0), InvalidError, ["ef", "got 0"]),
    "negative timeout": (dict(dim=4, timeout=-1.0), InvalidError, ["timeout", "-1"]),
    "timeout of nan": (dict(dim=4, timeout=float("nan")), InvalidError, ["timeout", "NaN"]),
    "negative hint": (dict(dim=4, max_elements=-5), InvalidError, ["max_elements", "-5"]),
}


@pytest.mark.parametrize("case", OPENINGS)
def test_bad_options_are_refused_before_anything_is_made(path, case):
    options, error, words = OPENINGS[case]
    with pytest.raises(error) as raised:
        NoPokeDB(path=path, **options)
    for word in words:
        assert word in str(raised.value)
    assert not os.path.exists(path)


def test_missing_and_unknown_arguments_are_type_errors(db):
    for call in (
        lambda: NoPokeDB(),
        lambda: NoPokeDB(4, dimension=4),
        lambda: db.get(),
        lambda: db.get(1, vid=1),
        lambda: db.delete(),
        lambda: db.upsert(),
        lambda: db.add(),
        lambda: db.query(np.ones(4), kk=3),
    ):
        with pytest.raises(TypeError):
            call()


def test_opening_with_another_dimension_names_both(path, truth):
    NoPokeDB(4, path=path).close()
    before = truth(path)
    with pytest.raises(DimensionError) as raised:
        NoPokeDB(8, path=path)
    assert "4" in str(raised.value) and "8" in str(raised.value)
    assert truth(path) == before
    NoPokeDB(4, path=path).close()


def test_opening_with_another_space_names_both(path, truth):
    NoPokeDB(4, path=path, space="l2").close()
    before = truth(path)
    with pytest.raises(InvalidError) as raised:
        NoPokeDB(4, path=path)
    assert "l2" in str(raised.value) and "cosine" in str(raised.value)
    assert truth(path) == before
    NoPokeDB(4, path=path, space="l2").close()


def test_a_path_that_is_a_file_is_refused_and_left_as_it_is(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(nopokedb.NoPokeDBError, match="notes.txt"):
        NoPokeDB(4, path=file)
    assert file.read_text() == "mine"


def test_a_directory_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(InvalidError, match=str(tmp_path)):
        NoPokeDB(4, path=tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_unwritable_path_is_a_storage_error(python, tmp_path):
    child = python(
        """
        import errno, os, nopokedb
        os.chmod(".", 0o555)
        if os.geteuid() == 0:
            os.setuid(65534)  # root may write anywhere
        try:
            nopokedb.NoPokeDB(4, path="db")
        except nopokedb.StorageError as error:
            print(error.errno == errno.EACCES, error)
        """
    )
    out, errors = child.communicate(timeout=60)
    os.chmod(tmp_path, 0o755)
    assert out.startswith("True ") and "db" in out, (out, errors)


def test_a_path_that_cannot_be_made_is_a_storage_error_with_errno():
    with pytest.raises(nopokedb.StorageError) as raised:
        NoPokeDB(4, path="/proc/nopokedb/db")
    assert isinstance(raised.value, OSError) and raised.value.errno
    assert "/proc/nopokedb" in str(raised.value)


def test_a_path_that_is_no_path_is_refused():
    for path in (3, ""):
        with pytest.raises(InvalidError, match="path"):
            NoPokeDB(4, path=path)


def test_what_is_no_id_is_in_no_database(db):
    db.add(np.ones(4))
    assert 0 in db and np.int64(0) in db
    for other in (-1, 2**70, 0.5, "0", None, (0,)):
        assert other not in db
    assert db.get(-1) is None and db.get(2**70) is None
    assert db.delete(-1) is False


def test_every_exception_is_ours_and_also_the_builtin_one_expects():
    parents = {
        "DimensionError": ValueError,
        "InvalidError": ValueError,
        "MetadataError": InvalidError,
        "DuplicateIdError": InvalidError,
        "EmptyError": RuntimeError,
        "LockedError": RuntimeError,
        "ClosedError": RuntimeError,
        "StorageError": OSError,
        "StorageFullError": OSError,
        "CorruptionError": RuntimeError,
    }
    for name, parent in parents.items():
        exception = getattr(nopokedb, name)
        assert issubclass(exception, parent) and issubclass(exception, nopokedb.NoPokeDBError)
        assert exception.__module__ == "nopokedb" and exception.__doc__
