"""Every example in a docstring runs as it stands, and every public method has one."""

import doctest
import inspect
import re
from pathlib import Path

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB

DOCUMENTED = {"nopokedb": nopokedb, "NoPokeDB": NoPokeDB}
DOCUMENTED.update({f"NoPokeDB.{name}": member for name, member in vars(NoPokeDB).items() if not name.startswith("_")})


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_run_as_they_stand(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    names = {"np": np, "NoPokeDB": NoPokeDB}
    doc = inspect.getdoc(DOCUMENTED[name])
    test = doctest.DocTestParser().get_doctest(doc, names, name, None, None)
    if callable(DOCUMENTED[name]):
        assert test.examples, f"{name} has no example"
    told = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not failed, "".join(told)


def test_everything_public_is_documented():
    for name, thing in {**DOCUMENTED, **{name: getattr(nopokedb, name) for name in nopokedb.__all__}}.items():
        assert inspect.getdoc(thing), name


README = Path(__file__).parents[3] / "README.md"


def test_the_python_examples_of_the_readme_run_as_they_stand(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})
