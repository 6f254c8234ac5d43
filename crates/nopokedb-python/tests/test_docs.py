"""Every example in a docstring, in README.md and in the guide runs as it stands, and every public method has one."""

import ast
import contextlib
import doctest
import inspect
import io
import re
from pathlib import Path

import numpy as np
import pytest

import nopokedb
from nopokedb import NoPokeDB

DOCUMENTED = {"nopokedb": nopokedb}
DOCUMENTED.update({name: getattr(nopokedb, name) for name in nopokedb.__all__ if name != "__version__"})
for made in (NoPokeDB, nopokedb.Batch):
    members = vars(made).items()
    DOCUMENTED.update({f"{made.__name__}.{name}": member for name, member in members if not name.startswith("_")})


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_examples_run_as_they_stand(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    names = {"np": np, "nopokedb": nopokedb, "NoPokeDB": NoPokeDB}
    doc = inspect.getdoc(DOCUMENTED[name])
    test = doctest.DocTestParser().get_doctest(doc, names, name, None, None)
    assert test.examples, f"{name} has no example"
    told = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.append)
    assert not failed, "".join(told)


def test_everything_public_is_documented():
    for name, thing in {**DOCUMENTED, **{name: getattr(nopokedb, name) for name in nopokedb.__all__}}.items():
        assert inspect.getdoc(thing), name


def answers_something(name):
    """Whether the stubs say that a method has an answer other than None."""
    of, _, method = name.rpartition(".")
    body = next(node.body for node in STUB if isinstance(node, ast.ClassDef) and node.name == of)
    stub = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == method)
    return ast.unparse(stub.returns) != "None"


STUB = ast.parse((Path(nopokedb.__file__).parent / "_nopokedb.pyi").read_text()).body
METHODS = [name for name, member in DOCUMENTED.items() if "." in name and callable(member)]


@pytest.mark.parametrize("name", METHODS)
def test_a_methods_docstring_names_its_arguments_its_answer_and_its_errors(name):
    doc = inspect.getdoc(DOCUMENTED[name])
    for parameter in list(inspect.signature(DOCUMENTED[name]).parameters)[1:]:
        assert re.search(rf"\b{parameter}\b", doc), f"{name}: {parameter}"
    assert "\nRaises\n------\n" in doc, name
    assert "\nReturns\n-------\n" in doc or not answers_something(name), name


ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/guide").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
SHOWN = re.compile(r"# -> ?(.*)$")


def shown(lines, first, last):
    """What the page says comes out of the statement on these lines: its `# ->` comments, and those alone on lines below it."""
    while last < len(lines) and lines[last].lstrip().startswith("# ->"):
        last += 1
    found = (SHOWN.search(line) for line in lines[first - 1 : last])
    return "\n".join(match[1] for match in found if match)


def came_out(node, names, page):
    """Runs one statement; what it printed, else the repr of its value, else the error it raised."""
    told = io.StringIO()
    value = None
    try:
        with contextlib.redirect_stdout(told):
            if isinstance(node, ast.Expr):
                value = eval(compile(ast.Expression(node.value), page, "eval"), names)
            else:
                exec(compile(ast.Module([node], []), page, "exec"), names)
    except Exception as error:
        if not isinstance(error, nopokedb.NoPokeDBError):
            raise
        return f"raises {type(error).__name__}: {error}"
    return told.getvalue().rstrip() or ("" if value is None else repr(value))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run_in_order_and_give_what_they_show(tmp_path, monkeypatch, page):
    """In one namespace and an empty directory. `...` in what is shown stands for anything."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    same = doctest.OutputChecker().check_output
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = block.splitlines()
        for node in ast.parse(block, page.name).body:
            expected = shown(lines, node.lineno, node.end_lineno)
            got = came_out(node, names, page.name)
            where = f"{page.name}: {ast.get_source_segment(block, node)}"
            assert expected or not got.startswith("raises "), f"{where}\n{got}"
            if expected:
                assert same(expected + "\n", got + "\n", doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), f"{where}\n{got}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
