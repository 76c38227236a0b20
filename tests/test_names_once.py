"""The promises about targets, weight grids and sensitivities: a new one is a module and a line.

What is chosen by name is named by its own module, where it is registered, and by nothing else that
would have to be told about the next one.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_operators_once import files_naming
from tfeptq.config import SENSITIVITIES, WEIGHT_GRIDS
from tflite_export.targets import TARGETS

ROOT = Path(__file__).parent.parent
#: Kind -> names -> files that may hold them as strings, with reasons.
PROMISES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "target": (
        TARGETS,
        {
            "tflite_export/targets/capabilities.py": "the list of targets",
            "tflite_export/targets/android.py": "its own module",
            "tfeptq/config.py": "the default",
            "tflite_export/near_names.py": "what people call them, where that is something else",
            "tflite_export/packaging/c_source.py": "sources of TFLM, one target's package",
            "tfeptq/cli/package_command.py": "tools of a target, where it has any",
            "tfeptq/report/target_section.py": "tools of a target, where it has any",
        },
    ),
    "weight grid": (
        tuple(WEIGHT_GRIDS),
        {
            "tfeptq/config.py": "the list of grids, and the default",
            "tfeptq/quantized/wrappers.py": "the grid of layers that were saved before there were "
            "several",
        },
    ),
    "sensitivity": (
        tuple(SENSITIVITIES),
        {
            "tfeptq/config.py": "the list of methods, and the default",
            **{f"tfeptq/sensitivity/{name}.py": "its own module" for name in SENSITIVITIES},
        },
    ),
}


@pytest.mark.parametrize("kind", PROMISES)
def test_nothing_else_names_one(kind):
    names, allowed = PROMISES[kind]
    assert {
        file: named for file, named in files_naming(set(names)).items() if file not in allowed
    } == {}


@pytest.mark.parametrize("kind", PROMISES)
def test_the_exceptions_are_needed(kind):
    names, allowed = PROMISES[kind]
    assert set(files_naming(set(names))) == set(allowed)


@pytest.mark.parametrize("name", SENSITIVITIES)
def test_a_sensitivity_is_one_class_in_a_module_of_its_name(name):
    """And nobody imports that module but the registry, and methods that share an estimate."""
    found = SENSITIVITIES.find(name)
    assert found.__module__ == f"tfeptq.sensitivity.{name}"
    assert importers(found.__module__) <= {f"tfeptq/sensitivity/{n}.py" for n in SENSITIVITIES}


@pytest.mark.parametrize("name", WEIGHT_GRIDS)
def test_a_weight_grid_is_asked_for_by_name(name):
    found = WEIGHT_GRIDS.find(name)
    # Slopes of PReLU are no kernel: the files that hold them know uniform integers only.
    assert importers(found.__module__) <= {"tfeptq/quantized/wrappers.py"}


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_a_module_and_a_table(target):
    home = ROOT / "tflite_export/targets"
    assert (home / f"{target.replace('-', '_')}.toml").is_file()
    assert "findings" in functions(home / f"{target.replace('-', '_')}.py")


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text("utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def importers(module: str) -> set[str]:
    """Product files that import it by name."""
    found = set()
    for package in ("tfeptq", "tflite_export"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module == module:
                    found.add(path.relative_to(ROOT).as_posix())
    return found


#: A made-up target: the microcontroller's table under another name, with a rule of its own.
_NEW_TARGET = """
import importlib, importlib.resources, sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
from tflite_export import targets
capabilities = importlib.import_module("tflite_export.targets.capabilities")
targets.__path__.append(str(folder))
capabilities.TARGETS = targets.TARGETS = (*targets.TARGETS, "toaster")
read = importlib.resources.files
class Both:
    def joinpath(self, name):
        own = folder / name
        return own if own.exists() else read(targets.__name__).joinpath(name)
def files(package):
    return Both() if package == targets.__name__ else read(package)
capabilities.resources.files = files
import keras
import tfeptq, tflite_export
keras.utils.set_random_seed(0)
inputs = keras.Input((6,))
model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Dense(4, "relu")(inputs)))
samples = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
config = tfeptq.QuantizationConfig(
    weight_bits=(2, 4, 8), rounding="nearest", samples=32, target="toaster",
    budget=tfeptq.Budget(weight_bytes=90, compressed=True), first_last_bits=None,
)
quantized = tfeptq.quantize(model, samples, config)
result = tflite_export.export(quantized, folder / "m.tflite")
print(result.target, result.verification is not None, *(f.rule for f in result.findings))
from tfeptq.report.target_section import target_section
print(target_section(result.path, "toaster").remarks)
"""


def test_a_new_target_is_a_module_and_a_table(tmp_path):
    """Quantized, exported, verified and checked, with widths chosen by what its table says."""
    table = (ROOT / "tflite_export/targets/microcontroller.toml").read_text("utf-8")
    table = table.replace('"litert-reference", "tflm"', '"litert-reference"')
    (tmp_path / "toaster.toml").write_text(table, "utf-8")
    (tmp_path / "toaster.py").write_text(
        "from tflite_export.targets.findings import Finding\n\n\n"
        "def findings(model):\n"
        "    return [Finding('model', 'is not toast', 'bake it')]\n"
    )
    command = [sys.executable, "-c", _NEW_TARGET, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == ["toaster True is not toast", "[]"]
