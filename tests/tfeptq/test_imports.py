"""What an import costs, and what it must not pull in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tfeptq
import tflite_export

LOADED = """
import sys, {package}
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
# All public names, used, not only imported.
EVERYTHING = "tflite_export\nfor name in tflite_export.__all__: getattr(tflite_export, name)"


def loaded_by(package: str) -> set[str]:
    command = [sys.executable, "-c", LOADED.format(package=package)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("package", ["tfeptq", "tfeptq.cli.main"])
def test_tensorflow_is_not_loaded_before_it_is_needed(package):
    assert not loaded_by(package) & {"tensorflow", "keras", "sklearn", "scipy"}


def test_tflite_export_needs_neither_tensorflow_nor_keras_nor_tfeptq():
    assert not loaded_by(EVERYTHING) & {"tensorflow", "keras", "tfeptq"}


@pytest.mark.parametrize("package", [tfeptq, tflite_export])
def test_every_public_name_is_there(package):
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize("program", ["import tfeptq; tfeptq.quantize", "CLI"])
def test_another_backend_of_keras_is_refused_by_name(program, tmp_path):
    (tmp_path / "m.keras").touch()
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 2), np.float32))
    command = ["-c", program]
    if program == "CLI":
        command = ["-m", "tfeptq", "quantize", "m.keras", "--calibration", "x.npz"]
        command += ["--output", "m.tflite"]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "KERAS_BACKEND": "jax",
            "PYTHONPATH": str(Path(tfeptq.__file__).parents[1]),
        },
    )
    assert done.returncode == (2 if program == "CLI" else 1)
    assert "Keras runs on 'jax' here, and tfeptq needs 'tensorflow'" in done.stderr


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        tfeptq.quantise  # noqa: B018


def test_names_are_found_where_they_were_before_the_rooms():
    """Scripts of users import them from there."""
    from tfeptq import graph, preparation
    from tflite_export import file, reader, writer

    assert graph.prepare is preparation.prepare
    assert (reader.parse, reader.to_graph) == (file.reader.parse, file.as_graph.to_graph)
    assert (writer.write, writer.serialize) == (file.writer.write, file.writer.serialize)
