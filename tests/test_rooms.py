"""The plan of the house: imports go one way, from what is later on the road to what is earlier."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Rooms and single files of a package in the order of the road; each may import those before it.
ORDER = {
    "tfeptq": [
        "backend",
        "settings",
        "stage_samples",
        "host_latency",
        "goals",
        "registry",
        "config",
        "progress",
        "quantization_report",
        "checkpoint",
        "canonical",
        "data",
        "preparation",
        "foreign",
        "plan",
        "quantized",
        "freeze",
        "model",
        "calibrate",
        "hessian",
        "rounding",
        "sensitivity",
        "selection",
        "arguments",
        "before_data",
        "loading",
        "distributed",
        "report",
        "recipe",
        "attempts",
        "pipeline",
        "pareto",
        "callbacks",
        "cli",
        "graph",
        "__main__",
    ],
    "tflite_export": [
        "near_names",
        "graph",
        "operators",
        "file",
        "runtimes",
        "targets",
        "packaging",
        "read_back",
        "verify",
        "exporter",
        "reader",
        "writer",
    ],
}


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


MODULES = {name: path for package in ORDER for name, path in modules(package).items()}


def imported(path: Path) -> set[str]:
    """Our modules that a file imports when it runs; what only annotations need is left out."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names |= {name if name in MODULES else node.module for name in full}
    return {name for name in names if name in MODULES}


def room(module: str) -> tuple[str, str]:
    package, *rest = module.split(".")
    return package, rest[0] if rest else ""


ARROWS = sorted((name, other) for name, path in MODULES.items() for other in imported(path))


@pytest.mark.parametrize("package", ORDER)
def test_every_room_is_in_the_plan(package):
    rooms = {room(name)[1] for name in modules(package)} - {""}
    assert rooms == set(ORDER[package])


def test_imports_go_one_way():
    upward = []
    for name, other in ARROWS:
        (package, here), (others, there) = room(name), room(other)
        if others != package:
            if package == "tflite_export":
                upward.append((name, other))
        elif here and there and ORDER[package].index(there) > ORDER[package].index(here):
            upward.append((name, other))
    assert not upward


def test_no_module_imports_itself_in_a_circle():
    following: dict[str, set[str]] = {}
    for name, other in ARROWS:
        # A package's own face may name what is behind it.
        if MODULES[name].name != "__init__.py":
            following.setdefault(name, set()).add(other)
    finished: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in finished:
            for other in sorted(following.get(name, ())):
                visit(other, (*path, name))
            finished.add(name)

    for name in sorted(following):
        visit(name, ())


@pytest.mark.parametrize("package", ORDER)
def test_tests_mirror_the_rooms(package):
    """A folder of tests for every room, and no other."""
    rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    folders = {path.parent.name for path in (ROOT / "tests" / package).glob("*/test_*.py")}
    assert folders == rooms


def test_no_test_edits_the_path_of_imports():
    """What tests share is imported as `tests.…`, which setup.cfg puts on the path."""
    edits = "sys.path" + ".insert"
    assert [path for path in (ROOT / "tests").rglob("*.py") if edits in path.read_text()] == []
