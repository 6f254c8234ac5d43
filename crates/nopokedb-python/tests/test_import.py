"""Directories that the real nopokedb 0.5.1 wrote open as databases that answer as it did."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB

KEPT = Path(__file__).parents[2] / "nopokedb/tests/fixtures/v0.5.1"
CASES = json.loads((KEPT / "expected.json").read_text(encoding="utf-8"))
OLD_FILES = ["hnsw_index.bin", "metadata.db", "metadata.db-journal", "oplog.jsonl"]


def old(name, tmp_path):
    """A copy of a kept directory, and its files' bytes."""
    copy = tmp_path / name
    shutil.copytree(KEPT / name, copy)
    return str(copy), {f.name: f.read_bytes() for f in copy.iterdir()}


@pytest.mark.parametrize("name", CASES)
def test_an_old_directory_opens_and_answers_as_0_5_1_did(tmp_path, name):
    case = CASES[name]
    path, files = old(name, tmp_path)
    with pytest.warns(UserWarning, match="imported") as told:
        db = NoPokeDB(4, 20, path, case["space"])
    assert told[0].filename == __file__
    with db:
        assert len(db) == len(case["rows"])
        for label, row in case["rows"].items():
            stored = None if row["metadata"] is None else json.loads(row["metadata"])
            plain = name != "odd_metadata" and "Infinity" not in str(row["metadata"])
            expected = stored if plain or stored in (None, {}) else {"json": row["metadata"]}
            assert db.get(int(label)) == expected, label
        for query in case["queries"] if case["rows"] else []:
            hits = db.query(np.array(query["vector"], np.float32), k=len(case["rows"]))
            assert [hit["distance"] for hit in hits] == pytest.approx([hit["distance"] for hit in query["hits"]], abs=1e-5)
            assert [hit["score"] for hit in hits] == pytest.approx([hit["score"] for hit in query["hits"]], abs=1e-5)
            if name != "odd_metadata":  # its vectors are all equal
                assert [hit["id"] for hit in hits] == [hit["id"] for hit in query["hits"]]
        assert not any(label in db for label in case["deleted"])
        assert db.add([1, 2, 3, 4]) == case["highest"] + 1
    assert {f: (Path(path) / f).read_bytes() for f in OLD_FILES if f in files} == {f: files[f] for f in OLD_FILES if f in files}
    assert "rows imported" in (Path(path) / "IMPORT.txt").read_text(encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with NoPokeDB(4, 20, path, case["space"]) as again:
            assert len(again) == len(case["rows"]) + 1


def test_what_contradicts_the_old_directory_is_refused_and_it_can_be_opened_rightly(tmp_path):
    path, _ = old("l2", tmp_path)
    with pytest.raises(nopokedb.DimensionError, match="4.*8"):
        NoPokeDB(8, path=path, space="l2")
    with pytest.raises(nopokedb.InvalidError, match="length 1"):
        NoPokeDB(4, path=path, space="cosine")
    with pytest.warns(UserWarning, match="imported 13 rows"), NoPokeDB(4, path=path, space="l2") as db:
        assert len(db) == 13


def test_an_import_tells_its_progress_and_may_be_stopped(tmp_path, capfd):
    path, files = old("l2", tmp_path)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        NoPokeDB(4, path=path, space="l2", progress=stop)
    assert not list(Path(path).glob("MANIFEST-*")) and (Path(path) / "oplog.jsonl").read_bytes() == files["oplog.jsonl"]
    told = []
    with pytest.warns(UserWarning, match="imported 13 rows"):
        NoPokeDB(4, path=path, space="l2", progress=lambda done, total: told.append((done, total))).close()
    assert told == sorted(told) and told[0][0] == 0 and told[-1] == (13, 13)
    told.clear()
    NoPokeDB(4, path=path, space="l2", progress=lambda done, total: told.append(done)).close()
    assert not told and capfd.readouterr().err == ""


def test_a_damaged_old_file_is_named(tmp_path):
    path, files = old("ip", tmp_path)
    (Path(path) / "hnsw_index.bin").write_bytes(files["hnsw_index.bin"][:-7])
    with pytest.raises(nopokedb.CorruptionError, match=r"hnsw_index.bin is damaged at byte \d+"):
        NoPokeDB(4, path=path, space="ip")
