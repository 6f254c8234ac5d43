"""Small, quiet and quick to import."""

import importlib.metadata
import re
import statistics
import subprocess
import sys
import time

import nopokedb


def wall_ms(code):
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - begun) * 1e3


def test_import_takes_less_than_50_ms():
    """Median wall time of an interpreter that imports the package, minus one that does not, in alternation. Where everything is slow
    it is less than half of what NumPy takes."""
    wall_ms("import nopokedb, numpy")
    bare = [wall_ms("pass") for _ in range(9)]
    extra = [wall_ms("import nopokedb") - wall for wall in bare]
    if statistics.median(extra) >= 50:
        numpy = [wall_ms("import numpy") - wall for wall in bare]
        assert statistics.median(extra) < statistics.median(numpy) / 2, (extra, numpy)


def test_import_loads_no_numpy_and_nothing_else_of_others():
    code = "import sys; before = set(sys.modules); import nopokedb; print(*sorted(set(sys.modules) - before))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert loaded == ["nopokedb", "nopokedb._nopokedb"]


def test_numpy_is_the_only_runtime_dependency():
    required = [r for r in importlib.metadata.requires("nopokedb") or [] if "extra ==" not in r]
    assert [re.match(r"[\w-]+", r)[0] for r in required] == ["numpy"]


def test_using_it_loads_nothing_but_numpy_and_opens_no_socket(tmp_path):
    code = """
import sys, numpy, nopokedb
before = set(sys.modules)
def audit(event, args):
    if event.startswith("socket.") or event in ("subprocess.Popen", "os.system"):
        raise SystemExit(f"{event} {args}")
sys.addaudithook(audit)
with nopokedb.NoPokeDB(4, path=sys.argv[1]) as db:
    db.add_many(numpy.eye(4), [{"i": numpy.int64(i)} for i in range(4)])
    db.query([1, 0, 0, 0])
    db.save()
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before} - {"numpy"}))
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "db")], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == ""


def test_the_version_is_that_of_the_distribution():
    assert nopokedb.__version__ == importlib.metadata.version("nopokedb")
