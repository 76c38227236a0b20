"""What an import costs, and what it must not pull in."""

from __future__ import annotations

import subprocess
import sys

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


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        tfeptq.quantise  # noqa: B018


def test_names_are_found_where_they_were_before_the_rooms():
    """Scripts of users import them from there."""
    from tfeptq import graph, preparation
    from tflite_export import file, reader, writer

    assert graph.prepare is preparation.prepare
    assert (reader.parse, reader.to_graph) == (file.reader.parse, file.reader.to_graph)
    assert (writer.write, writer.serialize) == (file.writer.write, file.writer.serialize)
