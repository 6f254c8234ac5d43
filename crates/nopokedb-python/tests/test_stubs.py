"""The stubs say what the module has: names, signatures, defaults, base classes."""

import ast
import inspect
import sys
from pathlib import Path

import pytest

import nopokedb
from nopokedb import NoPokeDB, _nopokedb

FOLDER = Path(nopokedb.__file__).parent
STUB = ast.parse((FOLDER / "_nopokedb.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
MEMBERS = {node.name: node for node in CLASSES["NoPokeDB"].body if isinstance(node, ast.FunctionDef)}
# Made up by the stubs, for type checkers only.
STUB_ONLY = {"Hit", "FullHit", "Row", "Facet"}
# Written in Python, so that they need no stub.
IN_PYTHON = {"Hits", "AsyncNoPokeDB"}


def decorators(function):
    return {ast.unparse(d) for d in function.decorator_list}


def test_names_are_those_of_the_module():
    names = set(CLASSES) - STUB_ONLY
    names |= {node.target.id for node in STUB.body if isinstance(node, ast.AnnAssign)}
    names |= {node.name for node in STUB.body if isinstance(node, ast.FunctionDef)}
    public = {name for name in vars(_nopokedb) if not name.startswith("_")} | {"__version__"}
    assert names == public == set(nopokedb.__all__) - IN_PYTHON
    for name in public:
        assert getattr(nopokedb, name) is getattr(_nopokedb, name)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - STUB_ONLY))
def test_base_classes_are_those_of_the_module(name):
    assert [ast.unparse(base) for base in CLASSES[name].bases] == [
        base.__name__ for base in getattr(nopokedb, name).__bases__ if base is not object
    ]


def test_members_are_those_of_the_class():
    # What every class has, and what a stub need not repeat.
    implied = {"__new__", "__doc__", "__module__", "__weakref__", "__slotnames__"}
    assert set(MEMBERS) == set(vars(NoPokeDB)) - implied


def signature_of(function):
    """A stub's parameters as (name, kind, default)."""
    kinds = inspect.Parameter
    args = function.args
    defaults = [inspect.Parameter.empty] * (len(args.args) - len(args.defaults))
    defaults += [ast.literal_eval(d) for d in args.defaults]
    parameters = [(a.arg, kinds.POSITIONAL_OR_KEYWORD, d) for a, d in zip(args.args, defaults)]
    for a, d in zip(args.kwonlyargs, args.kw_defaults):
        parameters.append((a.arg, kinds.KEYWORD_ONLY, kinds.empty if d is None else ast.literal_eval(d)))
    return parameters[1:]


METHODS = sorted(name for name, node in MEMBERS.items() if not name.startswith("_") and not decorators(node))
OVERLOADED = sorted(name for name, node in MEMBERS.items() if "overload" in decorators(node))


# CPython 3.9 shows no signature of a class made through the stable ABI.
CONSTRUCTOR = ["__init__"] if sys.version_info >= (3, 10) else []


@pytest.mark.parametrize("name", METHODS + CONSTRUCTOR)
def test_signatures_are_those_of_the_class(name):
    shown = inspect.signature(NoPokeDB if name == "__init__" else getattr(NoPokeDB, name))
    real = [(p.name, p.kind, p.default) for p in shown.parameters.values() if p.name != "self"]
    assert signature_of(MEMBERS[name]) == real


@pytest.mark.parametrize("name", OVERLOADED)
def test_overloads_name_the_parameters_of_the_class_and_no_others(name):
    nodes = [n for n in CLASSES["NoPokeDB"].body if isinstance(n, ast.FunctionDef) and n.name == name]
    named = {parameter for node in nodes for parameter, _, _ in signature_of(node)}
    assert named | {"self"} == set(inspect.signature(getattr(NoPokeDB, name)).parameters)


def test_the_defaults_that_are_shown_are_the_ones_that_hold(path):
    """Some signatures are written by hand in Rust, so they are held against what the calls do."""
    with NoPokeDB(1, path=path) as db:
        db.add_many([[1.0]] * 9)
        defaults = {name: default for name, _, default in signature_of(MEMBERS["query"]) + signature_of(MEMBERS["__init__"])}
        assert len(db.query([1.0])) == len(db.query_many([[1.0]])[0]) == defaults["k"] == 5
        assert (db.max_elements, db.space, db.ef) == (defaults["max_elements"], defaults["space"], defaults["ef"])


@pytest.mark.parametrize("name", sorted(name for name, node in MEMBERS.items() if "property" in decorators(node)))
def test_properties_are_properties(name):
    member = vars(NoPokeDB)[name]
    assert inspect.isgetsetdescriptor(member)


def test_the_package_says_that_it_is_typed():
    assert (FOLDER / "py.typed").exists()
