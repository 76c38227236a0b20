"""What importing costs, and which way the arrows point."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tfeptq
import tflite_export

LOADED = "import sys, {0}; print(sorted(m for m in sys.modules if m in {1!r}))"


def loaded(statement: str, modules: list[str]) -> str:
    command = [sys.executable, "-c", LOADED.format(statement, modules)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_exporter_needs_neither_tensorflow_nor_keras_nor_tfeptq():
    everything = (
        "tflite_export.exporter, tflite_export.verify, tflite_export.runtimes, "
        "tflite_export.inspection, tflite_export.checks, tflite_export.targets"
    )
    assert loaded(everything, ["tensorflow", "keras", "tfeptq"]) == "[]"


def test_importing_tfeptq_loads_tensorflow_only_when_it_is_needed():
    assert loaded("tfeptq", ["tensorflow", "keras"]) == "[]"


@pytest.mark.parametrize("package", [tfeptq, tflite_export], ids=lambda package: package.__name__)
def test_public_names_exist(package):
    for name in package.__all__:
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = package.nonsense
