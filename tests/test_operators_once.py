"""The promise about operators: each is described once, and asked about by everyone else."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest
from ai_edge_litert import schema_py_generated as schema

from tflite_export import operators
from tflite_export.graph.kinds import OperatorKind, kind_of, known, register
from tflite_export.targets import TARGETS, capabilities

ROOT = Path(__file__).parent.parent
#: Folders whose modules name operators: what each is, and which layer becomes it.
HOMES = ("tflite_export/operators", "tfeptq/canonical")
#: File -> names that are something else there, or why they may stand there.
ELSEWHERE = {
    # Activation functions that join an operator have the names of operators in the schema.
    "tflite_export/graph/activations.py": {"RELU", "RELU6"},
}


def literals(path: Path) -> set[str]:
    """Strings in the code of a file, docstrings and sentences among them as a whole."""
    tree = ast.parse(path.read_text("utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def files_naming(names: set[str]) -> dict[str, set[str]]:
    """Product files that hold some of the names as strings, and which."""
    found = {}
    for package in ("tfeptq", "tflite_export"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if named := literals(path) & names:
                found[path.relative_to(ROOT).as_posix()] = named
    return found


FILES = files_naming(set(known()))


def described() -> list[OperatorKind]:
    """Every description that a module of operators holds, as often as one does."""
    found = []
    for entry in pkgutil.iter_modules(operators.__path__):
        module = importlib.import_module(f"{operators.__name__}.{entry.name}")
        own = [value for value in vars(module).values() if isinstance(value, OperatorKind)]
        found += [kind for kind in own if kind.name in literals(Path(module.__file__))]
    return found


def test_every_operator_is_described_once():
    assert sorted(kind.name for kind in described()) == sorted(known())
    for kind in described():
        assert kind_of(kind.name) is kind


def test_an_operator_is_not_described_twice():
    with pytest.raises(ValueError, match="ADD is described twice"):
        register(kind_of("ADD"))


@pytest.mark.parametrize("name", known())
def test_one_module_of_operators_names_it(name):
    modules = [file for file, named in FILES.items() if file.startswith(HOMES[0]) and name in named]
    assert len(modules) == 1


def test_nothing_else_names_an_operator():
    elsewhere = {
        file: named - ELSEWHERE.get(file, set())
        for file, named in FILES.items()
        if not file.startswith(HOMES)
    }
    assert {file: named for file, named in elsewhere.items() if named} == {}


def test_the_exceptions_are_needed():
    for file, named in ELSEWHERE.items():
        assert FILES.get(file, set()) >= named, file


@pytest.mark.parametrize("name", known())
def test_descriptions_are_of_the_schema(name):
    kind = kind_of(name)
    assert isinstance(getattr(schema.BuiltinOperator, name), int)
    if kind.options is None:
        assert kind.constants == tuple(kind.attributes)
        return
    options = getattr(schema, f"{kind.options}T")()
    stored = [entry.field for entry in kind.attributes.values() if entry.field is not None]
    for field in (*stored, *kind.written, *kind.required):
        assert hasattr(options, field)
    for entry in kind.attributes.values():
        for code in entry.names:
            assert isinstance(getattr(getattr(schema, entry.enumeration), code), int)


@pytest.mark.parametrize("name", known())
def test_some_target_executes_it(name):
    tables = [capabilities(target) for target in TARGETS]
    assert any(
        name in table.operators or any(row.kind == name for row in table.weights)
        for table in tables
    )


def test_targets_name_known_operators():
    for target in TARGETS:
        table = capabilities(target)
        named = {*table.operators, *table.same_parameters, *(row.kind for row in table.weights)}
        assert named <= set(known())
