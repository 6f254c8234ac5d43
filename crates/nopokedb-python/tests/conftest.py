"""Fixtures: a path for a database, and an open one."""

import hashlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from nopokedb import NoPokeDB


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "db")


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture
def db(path):
    """An open database of dimension 4 under cosine."""
    with NoPokeDB(dim=4, path=path) as opened:
        yield opened


@pytest.fixture
def truth():
    """A function: what a database durably is, as {file name: hash} of its log and manifests."""

    def of(path):
        from pathlib import Path

        files = sorted(f for pattern in ("log/*.seg", "MANIFEST-*") for f in Path(path).glob(pattern))
        assert files, f"no log under {path}"
        return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    return of


@pytest.fixture
def python(tmp_path):
    """A function: starts another Python process on some code; its arguments are in sys.argv[1:]."""
    children = []

    def start(code, *args, **options):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": tmp_path, **options}
        command = [sys.executable, "-c", textwrap.dedent(code), *map(str, args)]
        child = subprocess.Popen(command, **options)
        children.append(child)
        return child

    yield start
    for child in children:
        if child.poll() is None:
            child.kill()
        child.communicate()
